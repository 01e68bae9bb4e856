"""`ServerConfig`: every option of the server, with its default and the reason for it.

The names are fasthttp's in snake case. Times are in seconds, sizes in bytes. The
defaults are meant for the open internet: nothing is unlimited. The command line
(`fastserve run`) makes one option of each field that is not a hook, so the
``help`` text here is the help text there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve.errors import ConfigError
from fastserve.http1.fields import is_field_value
from fastserve.options import check_options, hook, option

if TYPE_CHECKING:
    from fastserve.server.ctx import RequestCtx
    from fastserve.server.wire import ConnState

__all__ = ["RequestConfig", "ServerConfig"]


def _option(default: Any, help: str, *, least: float | None = None) -> Any:
    return option(default, help, takes=type(default).__name__, least=least)


@dataclass(frozen=True, slots=True)
class RequestConfig:
    """What `ServerConfig.header_received` may change for one request; None keeps the server's own value.

    As fasthttp's RequestConfig: `read_timeout` and `write_timeout` in seconds, `max_request_body_size` in bytes.
    """

    read_timeout: float | None = None
    write_timeout: float | None = None
    max_request_body_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Options of a `Server`. Raises `ConfigError` when a value cannot work.

    Each field's meaning, when to change it, and why its default is what it is:
    see the ``help`` beside it, or ``fastserve run --help``.
    """

    name: str = _option(
        "fastserve",
        "Value of the Server header. Change it to say less; the default names no version, which attackers collect.",
    )
    concurrency: int = _option(
        4096,
        "Most requests served at once. One more gets 503. Raise it for handlers that wait long (long polling); "
        "4096 handlers that wait, with their connections, are about 30 MB.",
        least=1,
    )
    max_worker_wait: float = _option(
        0.0,
        "How long a request may wait for a free worker before its 503. 0 refuses at once, which tells a load "
        "balancer soonest to go elsewhere.",
        least=0,
    )
    max_idle_worker_duration: float = _option(
        10.0, "An idle worker (task or thread) ends after this long. 10 s as in fasthttp.", least=0.01
    )
    threads: int = _option(
        64,
        "Most threads for blocking `def` handlers. Raise it when they wait for slow services, not when they compute.",
        least=1,
    )
    max_thread_wait: float = _option(
        30.0,
        "How long a request to a `def` handler may wait for a free thread before its 503. Longer than a burst, "
        "shorter than a client's patience.",
        least=0,
    )
    max_connections: int = _option(
        20_000,
        "Most open connections; further ones wait in the backlog. Stay below the limit of file descriptors (ulimit -n).",
        least=1,
    )
    max_conns_per_ip: int = _option(
        0,
        "Most open connections from one IP address; one more is closed. 0 leaves it to max_connections, since behind "
        "a proxy all clients share one address.",
        least=0,
    )
    max_requests_per_conn: int = _option(
        1_000_000,
        "The connection closes after this many requests. Bounds what one connection can accumulate; lower it to "
        "spread clients over new processes sooner.",
        least=1,
    )
    max_keepalive_duration: float = _option(
        3600.0, "A connection closes after the first request that ends past this age. One hour as in nginx.", least=0.01
    )
    read_timeout: float = _option(
        20.0,
        "A request's head must be there this long after its first byte, and a body must not pause for longer. "
        "Bounds slow-loris clients; raise it for very slow uplinks.",
        least=0.01,
    )
    write_timeout: float = _option(
        30.0,
        "A client that takes no byte of its response for this long is cut off. Raise it for clients that pause on purpose.",
        least=0.01,
    )
    idle_timeout: float = _option(
        75.0,
        "A connection without a request closes after this long; so does one whose client has closed its sending side, "
        "when a streamed response gives nothing. 75 s as in nginx: longer than the 60 s of the usual load balancers, "
        "which then close first.",
        least=0.01,
    )
    max_header_size: int = _option(
        16 * 1024,
        "Most bytes in a request's head, request line and blank line counted: 431 beyond, 414 when the target alone "
        "is over. 16 KiB as in Node.js; raise it for large cookies or Kerberos tickets.",
        least=64,
    )
    max_header_count: int = _option(
        100, "Most headers (or trailers) in a request: 431 beyond. 100 as in Apache.", least=1
    )
    max_request_body_size: int = _option(
        4 * 1024 * 1024,
        "Most bytes in a request body: 413 beyond. 4 MiB as in fasthttp, since a body is held in memory unless "
        "stream_request_body is set.",
        least=0,
    )
    max_pipelined: int = _option(
        64,
        "Most pipelined requests of one connection served in one turn; the rest wait, unread, while others have theirs.",
        least=1,
    )
    stream_request_body: bool = _option(
        False,
        "Run the handler when the head is there; it reads the body from ctx.request_body_stream. For uploads larger than memory.",
    )
    disable_keepalive: bool = _option(False, "Close each connection after its first response.")
    get_only: bool = _option(False, "Answer 405 to everything but GET and HEAD. For servers of static content.")
    no_default_server_header: bool = _option(False, "Send no Server header.")
    no_default_date: bool = _option(False, "Send no Date header. Only for servers without a clock (RFC 9110 6.6.1).")
    no_default_content_type: bool = _option(
        False, "Send no Content-Type unless the handler sets one. The default is text/plain; charset=utf-8."
    )
    cancel_on_disconnect: bool = _option(
        False,
        "Cancel an `async def` handler, or a stream, when its client goes away or closes its sending side, which looks the "
        "same. Off, since a half-done write is worse than a wasted one, and some clients (nc -N) read on.",
    )
    close_on_shutdown: bool = _option(True, "Say 'Connection: close' on responses sent while the server shuts down.")
    tcp_keepalive: bool = _option(
        True, "Set SO_KEEPALIVE on accepted connections, so that the kernel notices peers that vanished."
    )
    backlog: int = _option(
        2048,
        "Connections that the kernel queues before they are accepted. Linux caps it at net.core.somaxconn.",
        least=1,
    )
    log_all_errors: bool = _option(
        False, "Log clients' own faults too (malformed requests, resets, timeouts). Noisy on the open internet."
    )
    secure_error_log_message: bool = _option(
        False, "Keep what clients sent (targets, header values) out of error log lines."
    )
    error_handler: Callable[[RequestCtx, Exception], None] | None = hook(
        "Called as (ctx, error) to write the response when a request is refused or its handler raised. "
        "`error` is a RequestError with .status, or what the handler raised. The default is a short text/plain body."
    )
    header_received: Callable[[RequestCtx], RequestConfig | None] | None = hook(
        "Called as (ctx) when a request's head is there, before its body is read; may return a RequestConfig "
        "with limits for this request."
    )
    continue_handler: Callable[[RequestCtx], bool] | None = hook(
        "Called as (ctx) for 'Expect: 100-continue'; False refuses the body with 417 and closes."
    )
    conn_state: Callable[[Any, ConnState], None] | None = hook(
        "Called as (connection, state) when a connection changes its state: NEW, ACTIVE, IDLE, HIJACKED, CLOSED."
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not is_field_value(self.name):
            raise ConfigError(f"name={self.name!r}: a header value takes no line ends or control characters")
