"""fastserve: an HTTP/1.1 server that feeds connections to a pool of reusable workers, and a client whose pool hands over."""

from fastserve.client.host_client import HostClient
from fastserve.client.options import ClientOptions
from fastserve.client.reader import BodyReader
from fastserve.client.request import ClientRequest
from fastserve.client.response import ClientResponse
from fastserve.client.sync_host_client import SyncHostClient
from fastserve.client.sync_reader import SyncBodyReader
from fastserve.errors import (
    AppLoadError,
    BodyStreamError,
    ClientClosed,
    ClientDisconnected,
    ClientError,
    ClosedBeforeResponse,
    ClosedInResponse,
    ConfigError,
    ContentCodingError,
    DialError,
    DialTimeout,
    FastserveError,
    FormError,
    HijackError,
    InvalidRequest,
    ListenError,
    MalformedResponse,
    NoFreeConns,
    PoolClosed,
    PoolError,
    RedirectError,
    RequestError,
    RequestTimeout,
    ResolveError,
    ResponseBodyTimeout,
    ResponseError,
    ResponseHeadTimeout,
    ResponseTooLarge,
    StatusError,
    TLSError,
    TLSTimeout,
    TooManyRedirects,
    WriteError,
    WriteTimeout,
)
from fastserve.http1.args import Args
from fastserve.http1.cookie import Cookie
from fastserve.http1.forms import Form, FormFile
from fastserve.http1.headers import Headers
from fastserve.http1.request import Request
from fastserve.http1.response import Response
from fastserve.http1.uri import URI
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn
from fastserve.pool.map import ConnPoolMap
from fastserve.pool.options import PoolOptions
from fastserve.pool.stats import PoolStats
from fastserve.pool.threads import SyncConnPool
from fastserve.server.config import RequestConfig, ServerConfig
from fastserve.server.ctx import RequestCtx
from fastserve.server.hijack import HijackedConnection
from fastserve.server.server import Server, ShutdownReport
from fastserve.server.thread import ServerThread
from fastserve.server.wire import ConnState

__version__ = "0.1.0"

__all__ = [
    "AppLoadError",
    "Args",
    "BodyReader",
    "BodyStreamError",
    "ClientClosed",
    "ClientDisconnected",
    "ClientError",
    "ClientOptions",
    "ClientRequest",
    "ClientResponse",
    "ClosedBeforeResponse",
    "ClosedInResponse",
    "ConfigError",
    "ConnPool",
    "ConnPoolMap",
    "ConnState",
    "ContentCodingError",
    "Cookie",
    "DialError",
    "DialTimeout",
    "FastserveError",
    "Form",
    "FormError",
    "FormFile",
    "Headers",
    "HijackError",
    "HijackedConnection",
    "HostClient",
    "InvalidRequest",
    "ListenError",
    "MalformedResponse",
    "NoFreeConns",
    "PoolClosed",
    "PoolError",
    "PoolOptions",
    "PoolStats",
    "PooledConn",
    "RedirectError",
    "Request",
    "RequestConfig",
    "RequestCtx",
    "RequestError",
    "RequestTimeout",
    "ResolveError",
    "Response",
    "ResponseBodyTimeout",
    "ResponseError",
    "ResponseHeadTimeout",
    "ResponseTooLarge",
    "Server",
    "ServerConfig",
    "ServerThread",
    "ShutdownReport",
    "StatusError",
    "SyncBodyReader",
    "SyncHostClient",
    "SyncConnPool",
    "TLSError",
    "TLSTimeout",
    "TooManyRedirects",
    "URI",
    "WriteError",
    "WriteTimeout",
    "__version__",
]
