"""`Lease`: one use of a connection, as an async context manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from fastserve.pool.conn import PooledConn

__all__ = ["Lease"]

C = TypeVar("C")


class _Holding(Protocol[C]):
    """A pool, or a map of pools."""

    def release(self, pooled: PooledConn[C]) -> None: ...

    def discard(self, pooled: PooledConn[C]) -> None: ...


class Lease(Generic[C]):
    """See `ConnPool.connection`."""

    __slots__ = ("_acquire", "_pool", "_pooled")

    def __init__(self, pool: _Holding[C], acquire: Callable[[], Awaitable[PooledConn[C]]]) -> None:
        self._pool = pool
        self._acquire = acquire
        self._pooled: PooledConn[C] | None = None

    async def __aenter__(self) -> C:
        self._pooled = pooled = await self._acquire()
        return pooled.conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            if error is None:
                self._pool.release(pooled)
            else:
                self._pool.discard(pooled)
