"""fastserve: an HTTP/1.1 server that feeds accepted connections to a pool of reusable workers."""

from fastserve.errors import (
    AppLoadError,
    BodyStreamError,
    ClientDisconnected,
    ConfigError,
    FastserveError,
    FormError,
    HijackError,
    ListenError,
    RequestError,
    ResponseError,
)
from fastserve.http1.args import Args
from fastserve.http1.cookie import Cookie
from fastserve.http1.forms import Form, FormFile
from fastserve.http1.headers import Headers
from fastserve.http1.request import Request
from fastserve.http1.response import Response
from fastserve.http1.uri import URI
from fastserve.server.config import RequestConfig, ServerConfig
from fastserve.server.ctx import RequestCtx
from fastserve.server.hijack import HijackedConnection
from fastserve.server.server import Server, ShutdownReport
from fastserve.server.thread import ServerThread
from fastserve.server.wire import ConnState

__version__ = "0.1.0"

__all__ = [
    "URI",
    "AppLoadError",
    "Args",
    "BodyStreamError",
    "ClientDisconnected",
    "ConfigError",
    "ConnState",
    "Cookie",
    "FastserveError",
    "Form",
    "FormError",
    "FormFile",
    "Headers",
    "HijackError",
    "HijackedConnection",
    "ListenError",
    "Request",
    "RequestConfig",
    "RequestCtx",
    "RequestError",
    "Response",
    "ResponseError",
    "Server",
    "ServerConfig",
    "ServerThread",
    "ShutdownReport",
    "__version__",
]
