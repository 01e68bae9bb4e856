"""`BodyReader`: the body of a response as it comes, and what becomes of the connection behind it."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from fastserve.client.connection import ClientConnection
from fastserve.errors import ResponseTooLarge
from fastserve.http1.content_coding import content_decoder
from fastserve.pool.conn import PooledConn

__all__ = ["BaseBodyReader", "BodyReader"]


class _Connection(Protocol):
    deadline: float

    @property
    def reusable(self) -> bool: ...


C = TypeVar("C", bound=_Connection)


class _Pool(Protocol[C]):
    def release(self, pooled: PooledConn[C]) -> None: ...
    def discard(self, pooled: PooledConn[C]) -> None: ...


class BaseBodyReader(Generic[C]):
    """What `BodyReader` and `SyncBodyReader` have in common: all but the waiting."""

    __slots__ = ("__weakref__", "_decoder", "_max_size", "_pieces", "_pool", "_pooled")

    def __init__(self, pool: _Pool[C], pooled: PooledConn[C], encodings: Sequence[str], max_size: int) -> None:
        self._pool = pool
        self._pooled: PooledConn[C] | None = None  # until nothing can fail: a coding may be one that is not known
        self._decoder = content_decoder(encodings) if encodings else None
        self._pooled = pooled
        self._max_size = max_size
        self._pieces: deque[bytes] = deque()  # decoded, and not taken yet

    def _put(self, piece: bytes) -> None:
        """`piece` comes next on the connection; empty at the end, where that goes back to the pool."""
        decoder = self._decoder
        if not piece:
            if decoder is not None:
                decoder.finish()
            self._release()
        elif decoder is None:
            self._pieces.append(piece)
        else:
            self._pieces.extend(filter(None, decoder.decode(piece)))

    def _too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(f"the response's body is larger than {self._max_size} bytes: read it piece by piece")

    def _close(self) -> None:
        self._pieces.clear()
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
        pooled.conn.deadline = math.inf
        if pooled.conn.reusable:
            self._pool.release(pooled)
        else:
            self._pool.discard(pooled)

    def _discard(self) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            pooled.conn.deadline = math.inf
            self._pool.discard(pooled)

    def _drop(self) -> None:
        """The reader is collected."""
        self._discard()

    def __del__(self) -> None:
        if self._pooled is None:
            return
        warnings.warn(
            "a streamed response was dropped before its end: read it, or close it (with client.stream(...))",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        self._drop()


class BodyReader(BaseBodyReader[ClientConnection]):
    """An async iterator of bytes, and an async context manager. To be read to its end, or closed with `aclose`.

    Read to its end, the connection serves other requests; else it is closed. One that is dropped unread is closed with a
    `ResourceWarning` when it is collected.
    """

    __slots__ = ()

    def __aiter__(self) -> BodyReader:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, of any size over 0. Raises `ClientError` when the body does not come to its end."""
        pieces = self._pieces
        while not pieces:
            pooled = self._pooled
            if pooled is None:
                raise StopAsyncIteration
            try:
                self._put(await pooled.conn.next_piece())
            except BaseException:
                self._discard()
                raise
        return pieces.popleft()

    async def read(self) -> bytes:
        """All that is left of the body. Raises `ResponseTooLarge` beyond `max_response_body_size`."""
        pieces = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > self._max_size:
                self._close()
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
