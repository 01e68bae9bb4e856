"""`RequestBodyStream`: a request body that is read while it arrives (`stream_request_body`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from fastserve.errors import BodyStreamError, RequestError

if TYPE_CHECKING:
    from fastserve.server.connection import Connection

__all__ = ["RequestBodyStream"]

MAX_BUFFERED = 64 * 1024
"""Bytes held for a handler that does not read; then the socket is not read any more."""


class RequestBodyStream:
    """``async for chunk in ctx.request_body_stream``, or ``for`` in a `def` handler on a thread.

    Chunks are bytes, as they came. Raises `RequestError` 413 beyond `max_request_body_size`, 408 when the client pauses
    longer than `read_timeout`, 400 when it is malformed, and `BodyStreamError` when the client went away.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """True when the whole body has arrived."""
        return self._complete

    @property
    def full(self) -> bool:
        """True when no more should be read from the socket until the handler has read."""
        return self._buffered >= MAX_BUFFERED

    @property
    def waiting(self) -> bool:
        """True while the handler waits for the client."""
        return self._waiter is not None

    async def read(self) -> bytes:
        """The next chunk, or ``b""`` at the end."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            if self._waiter is not None:
                raise BodyStreamError("two tasks read the same request body")
            self._waiter = self._loop.create_future()
            self._connection.body_wanted(self)
            try:
                await self._waiter
            finally:
                self._waiter = None
        was_full = self.full
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if was_full and not self.full:
            self._connection.body_wanted(self)
        return chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read():
            yield chunk

    def __iter__(self) -> Iterator[bytes]:
        # For handlers on threads; on the loop's own thread it would wait for itself.
        while chunk := asyncio.run_coroutine_threadsafe(self.read(), self._loop).result():
            yield chunk

    # For the connection

    def feed(self, chunks: list[bytes], complete: bool) -> None:
        self._chunks.extend(chunks)
        self._buffered += sum(map(len, chunks))
        self._complete = complete
        self._wake()

    def fail(self, error: Exception) -> None:
        if not self._complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def refusal(self) -> RequestError | None:
        """What the client did wrong in the body, if it did."""
        return self._error if isinstance(self._error, RequestError) else None
