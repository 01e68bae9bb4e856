"""`BodyReader`: the body of a response as it comes, and what becomes of the connection behind it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from fastserve.client.connection import ClientConnection
from fastserve.client.waits import next_piece
from fastserve.errors import ClientError, ClosedInResponse, ResponseTooLarge
from fastserve.http1.content_coding import content_decoder
from fastserve.http1.response_parser import ResponseParser, ResponseState
from fastserve.pool.conn import PooledConn

__all__ = ["BaseBodyReader", "BodyReader"]


class _Connection(Protocol):
    parser: ResponseParser

    @property
    def reusable(self) -> bool: ...
    def stream_begins(self) -> None: ...


C = TypeVar("C", bound=_Connection)


class _Pool(Protocol[C]):
    def release(self, pooled: PooledConn[C]) -> None: ...
    def discard(self, pooled: PooledConn[C]) -> None: ...


class BaseBodyReader(Generic[C]):
    """What `BodyReader` and `SyncBodyReader` have in common: all but the waiting.

    Invariant: what ended the body early is raised again by every later read. A part of a body is never taken for the whole.
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
        pool: _Pool[C],
        pooled: PooledConn[C],
        encodings: Sequence[str],
        max_size: int,
        elapsed: Callable[[], float],
    ) -> None:
        """`elapsed` is asked for the seconds since the request began when something fails."""
        self._pooled: PooledConn[C] | None = None  # until nothing here can fail any more
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
            self._give_back()
            if whole:
                self._pieces = self._decoded_whole(whole) if self._decoder is not None else iter((whole,))
        else:
            conn.stream_begins()

    def _decoded_whole(self, whole: bytes) -> Iterator[bytes]:
        assert self._decoder is not None
        yield from self._decoder.decode(whole)
        self._decoder.finish()

    def _begin_read(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_reading:
            raise ClientError("the body is being read by another task or thread", phase="body")
        self._is_reading = True

    def _put(self, piece: bytes) -> None:
        """`piece` comes next on the connection; empty at the end, where that goes back to the pool."""
        decoder = self._decoder
        if not piece:
            self._give_back()
            if decoder is not None:
                decoder.finish()
        elif decoder is None:
            self._pieces = iter((piece,))
        else:
            self._pieces = decoder.decode(piece)

    def _failed(self, error: BaseException) -> None:
        """A read ends with `error`, which is about to be raised."""
        if isinstance(error, ClientError) and not error.elapsed:
            error.elapsed = self._elapsed()
        self._end(error if isinstance(error, ClientError) else _left_early())

    def _too_large(self) -> ResponseTooLarge:
        error = ResponseTooLarge(
            f"the response's body is larger than max_response_body_size, {self._max_size} bytes: read it piece by piece"
        )
        self._failed(error)
        return error

    def _close(self) -> None:
        if self._pooled is not None or next(self._pieces, None) is not None:
            self._end(_left_early())

    def _end(self, error: BaseException) -> None:
        """No more of the body, and why."""
        if self._error is None:
            self._error = error
        self._pieces = iter(())
        self._give_back()

    def _give_back(self) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            if pooled.conn.reusable:
                self._pool.release(pooled)
            else:
                self._pool.discard(pooled)

    def _drop(self, pooled: PooledConn[C]) -> None:
        """The reader is collected, in whatever thread and in the middle of whatever: have `pooled` discarded."""
        raise NotImplementedError

    def __del__(self) -> None:
        pooled = self._pooled
        if pooled is None:
            return
        self._pooled = None
        self._drop(pooled)  # first, as the warning may be an error
        warnings.warn(
            "a streamed response was dropped before its end: read it, or close it (with client.stream(...))",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


class BodyReader(BaseBodyReader[ClientConnection]):
    """An async iterator of bytes, and an async context manager. To be read to its end by one task, or closed with `aclose`.

    Read to its end, the connection serves other requests; else it is closed. One that is dropped unread is closed with a
    `ResourceWarning` when it is collected. What ended the body early is raised again by every later read.
    """

    __slots__ = ()

    def __aiter__(self) -> BodyReader:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, of any size over 0. Raises `ClientError` when the body does not come to its end."""
        self._begin_read()
        try:
            while True:
                for piece in self._pieces:
                    if piece:
                        return piece
                if self._pooled is None:
                    break
                self._put(await next_piece(self._pooled.conn))
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._is_reading = False
        raise StopAsyncIteration

    async def read(self) -> bytes:
        """All that is left of the body. Raises `ResponseTooLarge` beyond `max_response_body_size`."""
        pieces = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > self._max_size:
                raise self._too_large()
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Read no more: the connection is closed, unless the body was there to its end."""
        self._close()

    async def __aenter__(self) -> BodyReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _give_back(self) -> None:
        if self._pooled is not None:
            conn = self._pooled.conn
            conn.deadline = math.inf
            if conn.reusable:
                conn.resume_reading()
        super()._give_back()

    def _drop(self, pooled: PooledConn[ClientConnection]) -> None:
        pooled.conn.deadline = math.inf
        pooled.conn.call_soon(self._pool.discard, pooled)  # the pool is its loop's


def _left_early() -> ClosedInResponse:
    return ClosedInResponse("the body was closed before its end was read")
