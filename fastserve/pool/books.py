"""`ConnBooks`: which connections a pool has and where each stands: idle, held, shared, doomed, closed.

Every change of a connection's state is made here, and each costs O(1) whatever the number of
connections. What to do with a connection is decided one floor up, in `PoolCore`.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from fastserve.errors import PoolError
from fastserve.pool.actions import Action, Close
from fastserve.pool.conn import PooledConn, PooledState
from fastserve.pool.deadlines import Deadlines
from fastserve.pool.dials import Dials
from fastserve.pool.events import CloseReason
from fastserve.pool.options import PoolOptions
from fastserve.pool.total import TotalLimits

__all__ = ["ConnBooks"]

C = TypeVar("C")

# As globals: an attribute of an enum class is looked up through its metaclass.
IDLE: Final = PooledState.IDLE
IN_USE: Final = PooledState.IN_USE
DRAINING: Final = PooledState.DRAINING
CLOSED: Final = PooledState.CLOSED


class ConnBooks(Generic[C]):
    """The connections of one pool."""

    __slots__ = (
        "_bounded",
        "_careful",
        "_closed",
        "_conns",
        "_counts",
        "_dials",
        "_doomed",
        "_idle",
        "_lifetimes",
        "_max_conns",
        "_max_idle",
        "_max_idle_duration",
        "_max_uses",
        "_random",
        "_shared",
        "_total",
        "options",
    )

    def __init__(self, options: PoolOptions, random: Callable[[], float], total: TotalLimits | None) -> None:
        self.options = options
        self._max_conns = options.max_conns
        self._max_idle = sys.maxsize if options.max_idle_conns is None else options.max_idle_conns
        self._max_uses = sys.maxsize if options.max_uses is None else options.max_uses
        self._max_idle_duration = math.inf if options.max_idle_conn_duration is None else options.max_idle_conn_duration
        self._random = random
        self._total = total
        self._conns: dict[PooledConn[C], None] = {}
        """Every live connection."""
        self._idle: OrderedDict[PooledConn[C], None] = OrderedDict()
        """Those that nobody holds, the one idle longest first."""
        self._shared: OrderedDict[PooledConn[C], None] = OrderedDict()
        """Those that are held and take another stream."""
        self._doomed = 0
        """Live connections that will be closed when nobody holds them any more."""
        self._lifetimes = Deadlines[PooledConn[C]](lambda pooled, when: pooled.state is not CLOSED)
        self._dials = Dials(options, random)
        self._counts: dict[str, int] = dict.fromkeys(CloseReason, 0)
        self._closed = False
        self._careful = False
        """The short cuts of the warm path do not do all that there is to do."""
        self._bounded = False
        """The short cut of a release does not: a connection may have had its time, its uses, or too many beside it."""
        self._consider()

    def _consider(self) -> None:
        """Whether the short cuts above do all that there is to do."""
        options = self.options
        self._careful = (
            self._closed
            or self._over > 0
            or self._total is not None
            or options.max_streams is not None
            or options.test_on_borrow is not None
            or options.reset is not None
            or options.min_idle_conns > 0
            or options.conn_pool_strategy == "fifo"
        )
        self._bounded = (
            self._careful
            or options.max_idle_conns is not None
            or options.max_conn_duration is not None
            or options.max_uses is not None
        )

    def _enter(self, conn: C, now: float, streams: int) -> PooledConn[C]:
        """A new connection, which has a slot already; IN_USE, though nobody holds it yet."""
        duration = self.options.max_conn_duration
        expires_at = math.inf
        if duration is not None:
            expires_at = now + duration * (1.0 - self.options.lifetime_jitter * self._random())
        pooled = PooledConn(conn, self, now, expires_at, streams)
        self._conns[pooled] = None
        if expires_at != math.inf:
            self._lifetimes.add(expires_at, pooled)
        return pooled

    def _hold(self, pooled: PooledConn[C]) -> None:
        """One holder more."""
        if pooled.state is IDLE:
            self._leave_idle(pooled)
        pooled.state = IN_USE
        pooled.streams += 1
        pooled.uses += 1
        if self._has_room(pooled):
            self._shared[pooled] = None
        else:
            self._shared.pop(pooled, None)

    def _let_go(self, pooled: PooledConn[C]) -> bool:
        """One holder fewer. False: the pool has closed the connection already, under its holder."""
        if pooled.owner is not self:
            raise PoolError(f"{pooled!r} belongs to another pool: release it there")
        if pooled.streams < 1:
            raise PoolError(f"{pooled!r} is not held: it was released twice, or never acquired")
        pooled.streams -= 1
        return pooled.state is not CLOSED

    def _has_room(self, pooled: PooledConn[C]) -> bool:
        return pooled.streams < pooled.max_streams and pooled.doom is None and pooled.uses < self._max_uses

    def _to_idle(self, pooled: PooledConn[C], now: float, actions: list[Action]) -> None:
        idle = self._idle
        self._shared.pop(pooled, None)
        if len(idle) >= self._max_idle:
            if not idle or self.options.idle_evict == "newest":
                self._close(pooled, CloseReason.EVICTED, actions)
                return
            self._close(next(iter(idle)), CloseReason.EVICTED, actions)
        pooled.state = IDLE
        pooled.idle_since = now
        pooled.stale_at = min(now + self._max_idle_duration, pooled.expires_at)
        idle[pooled] = None
        if self._total is not None:
            self._total.idle[pooled] = None

    def _leave_idle(self, pooled: PooledConn[C]) -> None:
        del self._idle[pooled]
        if self._total is not None:
            del self._total.idle[pooled]

    def _next_available(self) -> PooledConn[C] | None:
        """The connection to hand out next: one that is shared already, else the last (or first) of the list."""
        if self._shared:
            return next(reversed(self._shared))
        if not self._idle:
            return None
        return next(iter(self._idle) if self.options.conn_pool_strategy == "fifo" else reversed(self._idle))

    def _is_stale(self, pooled: PooledConn[C], now: float) -> bool:
        return now >= (pooled.stale_at if pooled.state is IDLE else pooled.expires_at)

    def _close_stale(self, now: float, actions: list[Action]) -> None:
        """What comes next and is past its time, when the sweep was not there yet (bug 5: never one that is held)."""
        while (pooled := self._next_available()) is not None and self._is_stale(pooled, now):
            if pooled.state is IDLE:
                expired = now >= pooled.expires_at
                self._close(pooled, CloseReason.LIFETIME if expired else CloseReason.IDLE, actions)
            else:
                self._doom(pooled, CloseReason.LIFETIME)

    def _doom(self, pooled: PooledConn[C], reason: CloseReason) -> None:
        """No new holder; closed when the last one has gone."""
        if pooled.doom is None:
            pooled.doom = reason
            self._doomed += 1
        self._shared.pop(pooled, None)
        if pooled.state is IN_USE:
            pooled.state = DRAINING

    def _close(self, pooled: PooledConn[C], reason: CloseReason, actions: list[Action]) -> None:
        """Forget a connection, whatever its state, and have it closed."""
        if pooled.state is IDLE:
            self._leave_idle(pooled)
        self._shared.pop(pooled, None)
        del self._conns[pooled]
        if pooled.doom is not None:
            self._doomed -= 1
        pooled.state = CLOSED
        if pooled.expires_at != math.inf:
            self._lifetimes.dropped()
        self._counts[reason] += 1
        if self._total is not None:
            self._total.give_back(self)
        actions.append(Close(pooled, reason))
        if self._careful:
            self._consider()

    def _why_close(self, pooled: PooledConn[C], now: float) -> CloseReason | None:
        if self._closed:
            return CloseReason.SHUTDOWN
        if now >= pooled.expires_at or pooled.uses >= self._max_uses:
            return CloseReason.LIFETIME
        if self._over > 0:
            return CloseReason.DRAIN
        return None

    @property
    def _over(self) -> int:
        """Connections too many, after the limit was lowered; those that will close anyway are not counted again."""
        return len(self._conns) + len(self._dials) - self._doomed - self._max_conns

    @property
    def conns(self) -> int:
        """Slots taken: idle, in use and being dialled."""
        return len(self._conns) + len(self._dials)
