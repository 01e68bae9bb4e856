"""The exception tree of the whole package.

Everything that fastserve raises on purpose is a `FastserveError`; where Python has
a builtin of the same meaning, the class is that too, so that ``except ValueError``
or ``except OSError`` written before fastserve was there still catches it.
"""

from __future__ import annotations

__all__ = [
    "AppLoadError",
    "BodyStreamError",
    "ClientClosed",
    "ClientDisconnected",
    "ClientError",
    "ClosedBeforeResponse",
    "ClosedInResponse",
    "ConfigError",
    "ContentCodingError",
    "DialError",
    "DialTimeout",
    "FastserveError",
    "FormError",
    "HijackError",
    "InvalidRequest",
    "ListenError",
    "MalformedResponse",
    "NoFreeConns",
    "PoolClosed",
    "PoolError",
    "RedirectError",
    "RequestError",
    "RequestTimeout",
    "ResolveError",
    "ResponseBodyTimeout",
    "ResponseError",
    "ResponseHeadTimeout",
    "ResponseTooLarge",
    "StatusError",
    "TLSError",
    "TLSTimeout",
    "TooManyRedirects",
    "WorkerPoolClosed",
    "WriteError",
    "WriteTimeout",
]


class FastserveError(Exception):
    """Base of every error that fastserve raises on purpose."""


class ConfigError(FastserveError, ValueError):
    """An option has a value that cannot work. The text names the option and what it takes."""


class AppLoadError(FastserveError):
    """``module:attribute`` did not lead to a handler. The text says what was looked for and where."""


class ListenError(FastserveError, OSError):
    """A listening socket could not be opened. The text says which address, why, and what to do."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()  # without the number, which says nothing to people


class RequestError(FastserveError):
    """The peer sent something that is refused: answered with `status`, then the connection closes.

    `status` is the HTTP status code (400..505), `reason` one line for the log and the body.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class FormError(FastserveError, ValueError):
    """A form body could not be parsed, or is over its limits (RFC 7578)."""


class ResponseError(FastserveError, ValueError):
    """A handler set something that cannot be sent (RFC 9110 5.5): it is refused where it is set."""


class BodyStreamError(FastserveError):
    """A streamed body cannot be read or written any further; the text says why."""


class ClientDisconnected(FastserveError, ConnectionError):
    """The client went away while its request was being served."""


class HijackError(FastserveError):
    """A connection could not be taken over, or was used after it was closed."""


class WorkerPoolClosed(FastserveError):
    """Work was given to a worker pool after it was closed."""


# Clients


class ClientError(FastserveError):
    """Base of what the client half raises: each says in which phase it was and after how long.

    `phase` is where it was: ``"request"`` (nothing was done yet), ``"wait"`` (for a connection), those of `DialError`,
    ``"write"``, ``"head"`` (until the response's head was there), ``"body"``, ``"redirect"`` or ``"done"``. `elapsed` is
    the time in seconds since the request began; 0.0 where nobody has measured it: what reads bytes has no clock, and
    whoever has one sets it.
    """

    phase = "request"
    elapsed = 0.0

    def __init__(self, message: str, *, phase: str | None = None, elapsed: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        if phase is not None:
            self.phase = phase
        if elapsed:
            self.elapsed = elapsed

    def __str__(self) -> str:
        after = f", after {self.elapsed:.3f} s" if self.elapsed else ""
        return f"{self.message} (phase: {self.phase}{after})"


# What a connection pool raises. A pool is a client's, whatever its connections speak.


class PoolError(ClientError):
    """A connection pool could not do what was asked, or was used wrongly. The text says what to do."""

    phase = "wait"


class NoFreeConns(PoolError):
    """All connections are in use, and the queue for them is closed, full, or took too long."""


class PoolClosed(PoolError):
    """The pool was closed before, or while, a connection was waited for."""


class RequestTimeout(PoolError, TimeoutError):
    """The caller's own time ran out first. The text says in which phase and after how long."""


class DialError(PoolError, ConnectionError):
    """A connection could not be opened. Nothing of a request was sent, so any request may be sent again.

    `phase` is ``"look-up"``, ``"connect"`` or ``"TLS"``, or ``"dial"`` where that is not known; `address` is what was
    dialled, if that is; ``__cause__`` what went wrong below.
    """

    phase = "dial"

    def __init__(self, message: str, *, phase: str | None = None, elapsed: float = 0.0, address: str = "") -> None:
        super().__init__(message, phase=phase, elapsed=elapsed)
        self.address = address

    def __str__(self) -> str:
        return self.message if self.address else super().__str__()  # who knows the address has told phase and time too


class DialTimeout(DialError, TimeoutError):
    """Opening a connection took longer than its time; `phase` says where it was then."""


class ResolveError(DialError):
    """The name of an upstream has no address, or could not be looked up."""

    phase = "look-up"


class TLSError(DialError):
    """The connection is there, but not the TLS on it: a certificate that is refused, or a peer that can't agree."""

    phase = "TLS"


class TLSTimeout(TLSError, DialTimeout):
    """The TLS handshake took longer than its time."""


# What ends a request of an HTTP client beside those: one class per ending.


class ClientClosed(PoolClosed):
    """The client was closed before or while the request was made."""


class InvalidRequest(ClientError, ValueError):
    """The request cannot be sent as it was built: nothing was written. The text says what to change."""


class WriteError(ClientError, ConnectionError):
    """The connection broke while the request was written. Some of it may have arrived."""

    phase = "write"


class WriteTimeout(WriteError, TimeoutError):
    """The host did not take the request's bytes in time."""


class ClosedBeforeResponse(ClientError, ConnectionError):
    """The connection ended before the first byte of the response. Whether the request was served is not known."""

    phase = "head"


class ClosedInResponse(ClientError, ConnectionError):
    """The connection ended in the middle of the response (RFC 9112 8)."""

    phase = "body"


class ResponseHeadTimeout(ClientError, TimeoutError):
    """The response's head did not come, or not whole, in time."""

    phase = "head"


class ResponseBodyTimeout(ClientError, TimeoutError):
    """The response's body did not come to its end in time."""

    phase = "body"


class ResponseTooLarge(ClientError, ValueError):
    """The response's head or body is over the client's limit. The text names the limit."""

    phase = "body"


class MalformedResponse(ClientError, ValueError):
    """The response breaks a rule of HTTP/1.1, and where it ends is not certain. Its connection is not used again."""

    phase = "head"


class ContentCodingError(ClientError, ValueError):
    """The body's content coding is unknown, broken, or ends too early (RFC 9110 8.4)."""

    phase = "body"


class RedirectError(ClientError, ValueError):
    """A redirect that cannot be followed. The text says why."""

    phase = "redirect"


class TooManyRedirects(RedirectError):
    """The response was one redirect more than was allowed."""


class StatusError(ClientError):
    """`raise_for_status` met a status of 400 or more. `status_code` is it, `response` the whole response."""

    phase = "done"

    def __init__(self, message: str, *, status_code: int = 0, response: object = None, elapsed: float = 0.0) -> None:
        super().__init__(message, elapsed=elapsed)
        self.status_code = status_code
        self.response = response
