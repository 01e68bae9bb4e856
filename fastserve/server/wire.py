"""`Wire`: a connection below HTTP: its transport, who is at the other end, flow control, and when it must close.

    IDLE -> READING -> (SERVING ->) IDLE        keep-alive
                    -> LINGERING -> closed      refused: the client can read why
                    -> CLOSING -> closed        written out, then closed
                    -> HIJACKED                 not HTTP any more

Every phase but SERVING has a deadline; in SERVING whatever waits for the client has one.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from fastserve.errors import ClientDisconnected

if TYPE_CHECKING:
    from fastserve.server.service import Service

__all__ = ["ConnState", "Phase", "Wire"]

logger = logging.getLogger("fastserve")

UNKNOWN: Final = -1
"""A limit of references that no count is within: see server/references.py."""
LINGER_TIMEOUT: Final = 5.0
"""Seconds to read and discard after a refusal, so that a reset does not destroy the response (RFC 9112 9.6)."""


class ConnState(enum.Enum):
    """What `ServerConfig.conn_state` is told, as net/http's ConnState."""

    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    HIJACKED = "hijacked"
    CLOSED = "closed"


class Phase(enum.Enum):
    """Where a connection stands; see the module."""

    IDLE = "idle"
    READING = "reading"
    SERVING = "serving"
    LINGERING = "lingering"
    CLOSING = "closing"
    HIJACKED = "hijacked"


class Wire(asyncio.Protocol):
    """One accepted connection of a server."""

    __slots__ = (
        "_calm",
        "_drained",
        "_eof",
        "_lost",
        "_phase",
        "_reading_paused",
        "_retire",
        "_transport",
        "_unsent",
        "_write_paused",
        "_write_timeout",
        "deadline",
        "ip",
        "number",
        "opened_at",
        "requests",
        "retire_at",
        "service",
    )

    _transport: asyncio.Transport

    def __init__(self, service: Service, ip: str | None) -> None:
        self.service = service
        self.ip = ip
        """The peer's address when the server counts connections by it."""
        self.number = 0
        self.requests = 0
        self.opened_at = 0.0
        self.retire_at = self.deadline = math.inf
        self._phase = Phase.IDLE
        self._retire = service.retire  # no further request is served
        self._eof = self._lost = False
        self._calm = not self._retire and service.conn_state is None  # nothing needs a look between two requests
        self._reading_paused = self._write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._unsent = 0
        self._write_timeout = service.config.write_timeout

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self.service
        self._transport = transport  # type: ignore[assignment]
        service.numbered += 1
        self.number = service.numbered
        self.opened_at = service.now
        self.retire_at = service.retire_at
        self.deadline = service.deadline(min(service.config.idle_timeout, service.config.read_timeout))
        service.connections.add(self)
        self._tell(ConnState.NEW)
        if service.draining:
            self.retire()  # it was accepted just before the shutdown began

    def connection_lost(self, error: Exception | None) -> None:
        service = self.service
        self._lost = True
        service.connections.discard(self)
        self._wake_writer()
        if error is not None and service.config.log_all_errors:
            logger.info("connection %d lost: %s", self.number, error)
        self._tell(ConnState.CLOSED)
        service.connection_closed(self)

    # What users may ask

    @property
    def remote_addr(self) -> str:
        return _address(self._transport.get_extra_info("peername"))

    @property
    def remote_ip(self) -> str:
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def local_addr(self) -> str:
        return _address(self._transport.get_extra_info("sockname"))

    @property
    def is_tls(self) -> bool:
        return self._transport.get_extra_info("sslcontext") is not None

    @property
    def age(self) -> float:
        """Seconds since it was accepted."""
        return self.service.clock() - self.opened_at

    @property
    def gone(self) -> bool:
        """True when the client has closed the connection, or its sending side: see `RequestCtx.disconnected`."""
        return self._eof or self._lost

    @property
    def idle(self) -> bool:
        return self._phase is Phase.IDLE

    @property
    def serving(self) -> bool:
        """True while a request is being read or served."""
        return self._phase is Phase.SERVING or self._phase is Phase.READING

    @property
    def lingering(self) -> bool:
        """True when nothing is left to do but to wait for the client to read its refusal."""
        return self._phase is Phase.LINGERING and not self._transport.get_write_buffer_size()

    # What a server asks of its connections; `Connection` does it

    def expire(self, now: float) -> None:
        """A deadline has passed, or the connection is old."""
        raise NotImplementedError

    def retire(self) -> None:
        """Serve no request after those that have begun; close now when there is none."""
        raise NotImplementedError

    def cut(self) -> bool:
        """Close at once. True when a request was being served."""
        raise NotImplementedError

    # Reading and writing

    def _write(self, batch: list[bytes]) -> None:
        if batch:
            self._transport.write(batch[0] if len(batch) == 1 else b"".join(batch))
            batch.clear()

    def unsettle(self) -> None:
        """Something has changed that must be looked at when the request under way is answered."""
        self._calm = False

    def _take_stock(self) -> None:
        service = self.service
        self._calm = not (
            self._retire
            or self._eof
            or self._write_paused
            or self._reading_paused
            or service.draining
            or service.conn_state is not None
        )

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._calm = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if not self._transport.is_closing():
                # Whoever calls may be in a handler's context, and the transport calls us back in the one it is called in.
                self.service.pool.base_context.copy().run(self._transport.resume_reading)

    def _tell(self, state: ConnState) -> None:
        hook = self.service.conn_state
        if hook is not None:
            try:
                hook(self, state)
            except Exception:
                logger.exception("conn_state raised")

    def send(self, data: bytes) -> None:
        """Write part of a streamed response. Raises `ClientDisconnected`."""
        if self._lost or self._transport.is_closing():
            raise ClientDisconnected("the client closed the connection")
        self._transport.write(data)
        if self._eof and not self._write_paused:
            self.deadline = self._stream_deadline()

    def _stream_deadline(self) -> float:
        """Until when the next piece of a stream must come: no limit, but for a client that has closed its sending side.

        Only a write tells whether it still reads: a stream that never writes would be held for a client long gone.
        """
        return self.service.deadline(self.service.config.idle_timeout) if self._eof else math.inf

    def drained(self) -> asyncio.Future[None] | None:
        """Done when the client has read some, then ask again; None when more may be written. Raises `ClientDisconnected`."""
        if not self._write_paused:
            return None
        if self._lost:
            raise ClientDisconnected("the client closed the connection")
        self._drained = self.service.loop.create_future()
        return self._drained

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # The end

    def _close(self, *, linger: bool) -> None:
        """Close when everything is written. `linger`: the client may still be sending, let it read the response first."""
        if linger and not self._eof and self._transport.can_write_eof():
            self._phase = Phase.LINGERING
            # What is not sent yet has the time of any response; the discarding begins behind it.
            self._expect_progress()
            if not self._unsent:
                self.deadline = self.service.deadline(LINGER_TIMEOUT)
            self._transport.write_eof()
            self._resume_reading()
            return
        self._phase = Phase.CLOSING
        self._expect_progress()
        self._transport.close()

    def _expect_progress(self) -> None:
        """The client is to take something of what is written until `write_timeout`."""
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline = self.service.deadline(self._write_timeout)


def _address(address: Any) -> str:
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return address.decode("utf-8", "replace") if isinstance(address, bytes) else address or ""
