"""`HijackedConnection`: a connection that left HTTP, as a plain stream of bytes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastserve.errors import HijackError

__all__ = ["HijackHandler", "HijackedConnection", "run_hijacked"]

logger = logging.getLogger("fastserve")

MAX_BUFFERED = 64 * 1024
"""Bytes held for a handler that does not read; then the socket is not read any more."""


class HijackedConnection(asyncio.Protocol):
    """Read and write raw bytes. Closed when the handler returns, or raises.

    The server's limits and timeouts of HTTP do not apply any more; use `asyncio.timeout`.
    """

    def __init__(
        self, transport: asyncio.Transport, received: bytes, write_paused: bool, on_lost: Callable[[], None]
    ) -> None:
        self.transport = transport
        self._received = bytearray(received)
        self._on_lost = on_lost
        self._eof = False
        self._lost = False
        self._paused_reading = False
        self._paused_writing = write_paused
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    async def read(self, limit: int = MAX_BUFFERED) -> bytes:
        """Up to `limit` bytes, at least one; ``b""`` when the peer has closed its side."""
        while not self._received and not self._eof:
            if self._waiter is not None:
                raise HijackError("two tasks read the same connection")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = bytes(self._received[:limit])
        del self._received[:limit]
        if self._paused_reading and len(self._received) < MAX_BUFFERED and not self._lost:
            self._paused_reading = False
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send `data`; waits while the peer does not read. Raises `HijackError` when the connection is closed."""
        if self._lost or self.transport.is_closing():
            raise HijackError("the connection is closed")
        self.transport.write(data)
        while self._paused_writing and not self._lost:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
        if self._lost:
            raise HijackError("the connection was closed before the peer had read everything")

    def close(self) -> None:
        """Close when what was written has been sent."""
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= MAX_BUFFERED and not self._paused_reading:
            self._paused_reading = True
            self.transport.pause_reading()
        _wake(self._waiter)

    def eof_received(self) -> bool:
        self._eof = True
        _wake(self._waiter)
        return True

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._wake_writers()

    def connection_lost(self, error: Exception | None) -> None:
        self._eof = self._lost = True
        _wake(self._waiter)
        self._wake_writers()
        self._on_lost()

    def _wake_writers(self) -> None:
        drained, self._drained = self._drained, None
        _wake(drained)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


HijackHandler = Callable[[HijackedConnection], Awaitable[None]]


async def run_hijacked(handler: HijackHandler, hijacked: HijackedConnection) -> None:
    """The task of a hijacked connection."""
    try:
        await handler(hijacked)
    except Exception:
        logger.exception("the handler of a hijacked connection failed")
        hijacked.abort()
