"""`BodyReader`: the body of a response as it comes, and what becomes of the connection behind it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from fastserve.client.connection import ClientConnection
from fastserve.errors import ClientError, ClosedInResponse, ResponseTooLarge
from fastserve.http1.content_coding import content_decoder
from fastserve.http1.response_parser import ResponseState
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn

__all__ = ["BodyReader"]


class BodyReader:
    """An async iterator of bytes, and an async context manager. To be read to its end by one task, or closed with `aclose`.

    Read to its end, the connection serves other requests; else it is closed. One that is dropped unread is closed with a
    `ResourceWarning` when it is collected. What ended the body early is raised again by every later read: a part of a body
    is never taken for the whole.
    """

    __slots__ = (
        "__weakref__",
        "_decoder",
        "_elapsed",
        "_error",
        "_is_reading",
        "_max_size",
        "_pieces",
        "_pool",
        "_pooled",
    )

    def __init__(
        self,
        pool: ConnPool[ClientConnection],
        pooled: PooledConn[ClientConnection],
        encodings: Sequence[str],
        max_size: int,
        elapsed: Callable[[], float],
    ) -> None:
        """`elapsed` is asked for the seconds since the request began when something fails."""
        self._pooled: PooledConn[ClientConnection] | None = None  # until nothing here can fail any more
        self._decoder = content_decoder(encodings) if encodings else None
        self._pool = pool
        self._max_size = max_size
        self._elapsed = elapsed
        self._error: BaseException | None = None
        self._is_reading = False
        self._pieces: Iterator[bytes] = iter(())  # decoded, each when it is asked for
        self._pooled = pooled
        conn = pooled.conn
        if conn.parser.state is ResponseState.COMPLETE:  # it is all here: the connection is for others
            whole = conn.parser.take_body()
            self._release()
            if whole:
                self._pieces = self._decoded_whole(whole) if self._decoder is not None else iter((whole,))
        else:
            conn.stream_begins()

    def __aiter__(self) -> BodyReader:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, of any size over 0. Raises `ClientError` when the body does not come to its end."""
        if self._error is not None:
            raise self._error
        if self._is_reading:
            raise ClientError("the body is being read by another task", phase="body")
        self._is_reading = True
        try:
            while True:
                for piece in self._pieces:
                    if piece:
                        return piece
                if self._pooled is None:
                    break
                piece = await self._pooled.conn.next_piece()
                if not piece:
                    self._release()
                    if self._decoder is not None:
                        self._decoder.finish()
                elif self._decoder is None:
                    return piece
                else:
                    self._pieces = self._decoder.decode(piece)
        except BaseException as error:
            if isinstance(error, ClientError) and not error.elapsed:
                error.elapsed = self._elapsed()
            self._end(error if isinstance(error, ClientError) else _left_early())
            raise
        finally:
            self._is_reading = False
        raise StopAsyncIteration

    def _decoded_whole(self, whole: bytes) -> Iterator[bytes]:
        assert self._decoder is not None
        yield from self._decoder.decode(whole)
        self._decoder.finish()

    async def read(self) -> bytes:
        """All that is left of the body. Raises `ResponseTooLarge` beyond `max_response_body_size`."""
        pieces = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > self._max_size:
                error = ResponseTooLarge(
                    f"the response's body is larger than {self._max_size} bytes: read it piece by piece",
                    elapsed=self._elapsed(),
                )
                self._end(error)
                raise error
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Read no more: the connection is closed, unless the body was there to its end."""
        if self._pooled is not None or next(self._pieces, None) is not None:
            self._end(_left_early())

    async def __aenter__(self) -> BodyReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _end(self, error: BaseException) -> None:
        """No more of the body, and why."""
        if self._error is None:
            self._error = error
        self._pieces = iter(())
        pooled = self._pooled
        if pooled is not None:
            if pooled.conn.reusable:  # its end has come, and was not looked at
                self._release()
            else:
                self._discard()

    def _release(self) -> None:
        pooled = self._pooled
        assert pooled is not None
        self._pooled = None
        conn = pooled.conn
        conn.deadline = math.inf
        if conn.reusable:
            conn.resume_reading()
            self._pool.release(pooled)
        else:
            self._pool.discard(pooled)

    def _discard(self) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            pooled.conn.deadline = math.inf
            self._pool.discard(pooled)

    def __del__(self) -> None:
        if self._pooled is None:
            return
        # Objects are collected in whatever thread: the pool is its loop's. First, as the warning may be an error.
        self._pooled.conn.call_soon(self._pool.discard, self._pooled)
        warnings.warn(
            "a streamed response was dropped before its end: read it, or close it (async with client.stream(...))",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


def _left_early() -> ClosedInResponse:
    return ClosedInResponse("the body was closed before its end was read")
