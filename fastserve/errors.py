"""The exception tree of the whole package.

Everything that fastserve raises on purpose is a `FastserveError`; where Python has
a builtin of the same meaning, the class is that too, so that ``except ValueError``
or ``except OSError`` written before fastserve was there still catches it.
"""

from __future__ import annotations

__all__ = [
    "AppLoadError",
    "BodyStreamError",
    "ClientDisconnected",
    "ConfigError",
    "DialError",
    "DialTimeout",
    "FastserveError",
    "FormError",
    "HijackError",
    "ListenError",
    "NoFreeConns",
    "PoolClosed",
    "PoolError",
    "RequestError",
    "RequestTimeout",
    "ResponseError",
    "WorkerPoolClosed",
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


# --- the connection pool


class PoolError(FastserveError):
    """A connection pool could not do what was asked, or was used wrongly. The text says what to do."""


class NoFreeConns(PoolError):
    """All connections are in use, and the queue for them is closed, full, or took too long."""


class PoolClosed(PoolError):
    """The pool was closed before, or while, a connection was waited for."""


class RequestTimeout(PoolError, TimeoutError):
    """The caller's own time ran out first. The text says in which phase and after how long."""


class DialError(PoolError, ConnectionError):
    """A connection could not be opened; ``__cause__`` is what the dial function raised."""


class DialTimeout(DialError, TimeoutError):
    """Opening a connection took longer than `dial_timeout`."""
