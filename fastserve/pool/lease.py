"""`Lease` and `SyncLease`: one use of a connection, as a context manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from fastserve.pool.conn import PooledConn

__all__ = ["Lease", "SyncLease"]

C = TypeVar("C")


class _Holding(Protocol[C]):
    """A pool, or a map of pools."""

    def release(self, pooled: PooledConn[C]) -> None: ...

    def discard(self, pooled: PooledConn[C]) -> None: ...


class _BaseLease(Generic[C]):
    """What the two have in common: all but who waits."""

    __slots__ = ("_pool", "_pooled")

    def __init__(self, pool: _Holding[C]) -> None:
        self._pool = pool
        self._pooled: PooledConn[C] | None = None

    def _give_back(self, error: BaseException | None) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            if error is None:
                self._pool.release(pooled)
            else:
                self._pool.discard(pooled)


class Lease(_BaseLease[C]):
    """See `ConnPool.connection`."""

    __slots__ = ("_acquire",)

    def __init__(self, pool: _Holding[C], acquire: Callable[[], Awaitable[PooledConn[C]]]) -> None:
        super().__init__(pool)
        self._acquire = acquire

    async def __aenter__(self) -> C:
        self._pooled = pooled = await self._acquire()
        return pooled.conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back(error)


class SyncLease(_BaseLease[C]):
    """See `SyncConnPool.connection`."""

    __slots__ = ("_acquire",)

    def __init__(self, pool: _Holding[C], acquire: Callable[[], PooledConn[C]]) -> None:
        super().__init__(pool)
        self._acquire = acquire

    def __enter__(self) -> C:
        self._pooled = pooled = self._acquire()
        return pooled.conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back(error)
