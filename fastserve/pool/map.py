"""`ConnPoolMap`: one `ConnPool` per key (a host, say), with limits over all of them, as net/http's Transport has.

An idle connection of one pool makes room for a waiter of another: the one idle longest, of
whatever pool, is closed first. A pool with no connection, dial or waiter leaves the map.

Invariants (tests/pool/test_map.py):
1. The slots of all pools together are at most `max_conns_total`, the idle connections at most `max_idle_conns`.
2. No pool has a waiter that lacks only room in the total, while an idle connection could be closed for it.
3. Room goes to the pools in the order in which they lacked it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

from fastserve.errors import ConfigError, PoolClosed, PoolError
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn
from fastserve.pool.lease import Lease
from fastserve.pool.options import PoolOptions
from fastserve.pool.stats import PoolStats
from fastserve.pool.total import TotalLimits

__all__ = ["ConnPoolMap"]

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
C = TypeVar("C")


class ConnPoolMap(Generic[T, K, C]):
    """Pools connections to many peers.

    `key_fn` makes a key of what is asked for (of a URL its scheme, host and port), `dial` opens a connection for a key,
    `close` closes one. `options` hold for each pool; `max_conns_total` and `max_idle_conns` for all together: 100
    idle ones as Transport's MaxIdleConns, and 1024 in all to stay within the usual limit of file descriptors.
    """

    __slots__ = (
        "_clock",
        "_close",
        "_closed",
        "_dial",
        "_entries",
        "_gone",
        "_key_fn",
        "_options",
        "_pools",
        "_settling",
        "_total",
    )

    def __init__(
        self,
        key_fn: Callable[[T], K],
        dial: Callable[[K], Awaitable[C]],
        close: Callable[[C], Awaitable[None] | None],
        options: PoolOptions | None = None,
        *,
        max_conns_total: int = 1024,
        max_idle_conns: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options = options or PoolOptions()
        if type(max_conns_total) is not int or max_conns_total < 1:
            raise ConfigError(f"max_conns_total={max_conns_total!r}: takes an int, at least 1")
        if type(max_idle_conns) is not int or max_idle_conns < 0:
            raise ConfigError(f"max_idle_conns={max_idle_conns!r}: takes an int, at least 0")
        if options.min_idle_conns:
            raise ConfigError("min_idle_conns: takes 0 in a ConnPoolMap, whose pools come and go with their use")
        self._key_fn = key_fn
        self._dial = dial
        self._close = close
        self._options = options
        self._clock = clock
        self._total = TotalLimits(max_conns_total, max_idle_conns)
        self._pools: dict[K, ConnPool[C]] = {}
        self._entries: dict[object, tuple[K, ConnPool[C]]] = {}
        """Key and pool by the pool's core, which is what a connection knows as its owner."""
        self._gone = PoolStats()
        """The counts of pools that have left."""
        self._closed = False
        self._settling = False

    def __len__(self) -> int:
        """Pools now."""
        return len(self._pools)

    def acquire_nowait(self, target: T) -> PooledConn[C] | None:
        """A connection that is ready this instant, or None: then await `acquire`."""
        pool = self._pools.get(self._key_fn(target))
        return None if pool is None else pool.acquire_nowait()

    async def acquire(self, target: T, timeout: float | None = None) -> PooledConn[C]:
        """As `ConnPool.acquire`, from the pool of `target`."""
        pool = self._pool(target)
        try:
            return await pool.acquire(timeout)
        except BaseException:
            self._total.emptied.add(pool.core)  # it may have been the only thing in it
            self._settle()
            raise

    def connection(self, target: T, timeout: float | None = None) -> Lease[C]:
        """As `ConnPool.connection`: ``async with pools.connection(target) as conn:``."""
        return Lease(self, partial(self.acquire, target, timeout))

    def release(self, pooled: PooledConn[C]) -> None:
        """As `ConnPool.release`; in favour of a waiter of another pool, the connection may be closed."""
        self._owner(pooled).release(pooled)
        self._settle()

    def discard(self, pooled: PooledConn[C]) -> None:
        """As `ConnPool.discard`."""
        self._owner(pooled).discard(pooled)

    def lost(self, pooled: PooledConn[C]) -> None:
        """As `ConnPool.lost`."""
        entry = self._entries.get(pooled.owner)
        if entry is not None:  # else it was closed, with its pool
            entry[1].lost(pooled)

    def close_idle_connections(self) -> None:
        """Close the connections that nobody holds."""
        for pool in list(self._pools.values()):
            pool.close_idle_connections()

    def stats(self) -> PoolStats:
        """The sum of all pools' books, those of pools that have left included."""
        return PoolStats.total([self._gone, *(pool.stats() for pool in self._pools.values())])

    async def aclose(self, timeout: float | None = None) -> int:
        """As `ConnPool.aclose`, for all pools; `timeout` is for all together."""
        self._closed = True
        pools = [pool for _, pool in self._entries.values()]
        for pool in pools:
            pool.start_closing()
        ends = None if timeout is None else self._clock() + timeout
        cut = 0
        try:
            while pools:
                left = None if ends is None else max(0.0, ends - self._clock())
                cut += await pools[-1].aclose(left)
                pools.pop()
        finally:
            for pool in pools:  # cancelled: what is held is closed all the same
                pool.cut()
        return cut

    async def __aenter__(self) -> ConnPoolMap[T, K, C]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose(0 if error is not None else None)

    def _pool(self, target: T) -> ConnPool[C]:
        key = self._key_fn(target)
        pool = self._pools.get(key)
        if pool is None:
            if self._closed:
                raise PoolClosed("the pool map is closed: make a new one")
            pool = ConnPool(
                partial(self._dial, key),
                self._close,
                self._options,
                clock=self._clock,
                total=self._total,
                after=self._settle,
            )
            self._pools[key] = pool
            self._entries[pool.core] = (key, pool)
        return pool

    def _owner(self, pooled: PooledConn[C]) -> ConnPool[C]:
        entry = self._entries.get(pooled.owner)
        if entry is None:
            raise PoolError(f"{pooled!r} is not held: it belongs to another pool, or was released before")
        return entry[1]

    def _settle(self) -> None:
        """After an event in any pool: move room to where it lacks, keep the limit of idle ones, let empty pools go."""
        if self._settling:
            return  # called by what is done below
        self._settling = True
        total = self._total
        try:
            while True:
                if len(total.idle) > total.max_idle or (total.hungry and total.room <= 0 and total.idle):
                    oldest = next(iter(total.idle))
                    self._entries[oldest.owner][1].evict(oldest)
                elif total.hungry and total.room > 0:
                    self._entries[next(iter(total.hungry))][1].pump()
                else:
                    break
        finally:
            self._settling = False
        self._let_go()

    def _let_go(self) -> None:
        while self._total.emptied and not self._closed:
            entry = self._entries.get(self._total.emptied.pop())
            if entry is None:
                continue
            key, pool = entry
            if pool.core.conns or pool.core.waiting:
                continue  # in use again
            del self._entries[pool.core]
            del self._pools[key]
            self._gone = PoolStats.total([self._gone, pool.stats()])
