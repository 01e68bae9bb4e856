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
    "RequestError",
    "ResolveError",
    "ResponseError",
    "TLSError",
    "TLSTimeout",
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


# Dialing


class DialError(FastserveError, OSError):
    """A connection to an upstream could not be made. The text says which address, which phase, after how long, and why.

    `phase` is ``look-up``, ``connect`` or ``TLS``, `elapsed` the seconds since the dial began, `address` what was
    dialled. Nothing of a request has been sent, so any request may be sent again.
    """

    def __init__(self, text: str, *, phase: str = "connect", elapsed: float = 0.0, address: str = "") -> None:
        super().__init__(text)
        self.phase = phase
        self.elapsed = elapsed
        self.address = address


class DialTimeout(DialError, TimeoutError):
    """A dial took longer than its time; `phase` says where it was then."""


class ResolveError(DialError):
    """The name of an upstream has no address, or could not be looked up."""


class TLSError(DialError):
    """The connection is there, but not the TLS on it: a certificate that is refused, or a peer that can't agree."""


class TLSTimeout(TLSError, DialTimeout):
    """The TLS handshake took longer than its time."""
