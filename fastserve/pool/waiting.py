"""`WaitBooks`: who waits for a connection, what each of them ends with, and the counts of it.

A waiter leaves the queue and is settled in one step, here; which one, and why, is decided one
floor up, in `PoolCore`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Final, TypeVar

from fastserve.errors import DialError, DialTimeout, NoFreeConns, PoolClosed, PoolError, RequestTimeout
from fastserve.pool.actions import Action, Wake
from fastserve.pool.books import ConnBooks
from fastserve.pool.conn import PooledConn, PooledState
from fastserve.pool.deadlines import Deadlines
from fastserve.pool.options import PoolOptions
from fastserve.pool.stats import PoolStats
from fastserve.pool.total import TotalLimits
from fastserve.pool.want import WantConn, WantState

__all__ = ["WaitBooks"]

C = TypeVar("C")

CLOSED: Final = PooledState.CLOSED
WAITING: Final = WantState.WAITING


class WaitBooks(ConnBooks[C]):
    """The connections of one pool, and the queue for them."""

    __slots__ = (
        "_deadlines",
        "_last_dial_error",
        "_max_waiters",
        "_soonest",
        "_testing",
        "_wait",
        "_waiters",
        "dial_errors",
        "hits",
        "misses",
        "timeouts",
        "undelivered",
        "wait_duration",
        "waits",
    )

    def __init__(self, options: PoolOptions, random: Callable[[], float], total: TotalLimits | None) -> None:
        super().__init__(options, random, total)
        self._testing = 0
        """Tests under way, each for one waiter."""
        # In the order they came. A plain dict is quadratic when taken from its front; from its middle, where cancelled ones
        # leave, both are O(1): a release never has to step over dead ones (fasthttp#2391, #1830).
        self._waiters: OrderedDict[WantConn[C], None] = OrderedDict()
        self._wait = options.max_conn_wait_timeout
        self._max_waiters = options.max_waiters
        self._soonest = math.inf
        """No waiter that has `max_conn_wait_timeout` ends before that. They end in the order of the queue, so they need no
        other order; and mostly they are served, so that whose time this was is seen to only when it has come.
        """
        self._deadlines = Deadlines[WantConn[C]](lambda want, when: want.state is WAITING)
        """Of the others, whose time is their request's own, or that of a test or a dial."""
        self._last_dial_error: BaseException | None = None
        self.hits = self.misses = self.waits = self.timeouts = self.undelivered = self.dial_errors = 0
        self.wait_duration = 0.0

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def stats(self) -> PoolStats:
        return PoolStats(
            conns=self.conns,
            idle=len(self._idle),
            dialing=len(self._dials),
            waiting=len(self._waiters),
            streams=sum(pooled.streams for pooled in self._conns),
            hits=self.hits,
            misses=self.misses,
            waits=self.waits,
            wait_duration=self.wait_duration,
            timeouts=self.timeouts,
            undelivered=self.undelivered,
            dial_errors=self.dial_errors,
            closed=MappingProxyType(dict(self._counts)),
        )

    def collect(self, want: WantConn[C]) -> PooledConn[C]:
        """What a settled waiter got: its connection, or its error raised. Once."""
        if want.state is WantState.DELIVERED and want.pooled is not None:
            pooled = want.pooled
            want.state = WantState.TAKEN
            want.pooled = None
            if pooled.state is CLOSED:
                pooled.streams -= 1
                raise PoolClosed("the pool was closed before the connection could be used: make a new one")
            return pooled
        if want.state is WantState.FAILED and want.error is not None:
            error, want.error = want.error, None
            raise error
        raise PoolError(f"this acquire is {want.state.value}: there is nothing to collect")

    def _grant(self, pooled: PooledConn[C], now: float, actions: list[Action]) -> None:
        want = self._waiters.popitem(last=False)[0]
        self._hold(pooled)
        want.pooled = pooled
        self._no_longer_waits(want, WantState.DELIVERED, now)
        actions.append(Wake(want))

    def _settle_failed(self, want: WantConn[C], error: Exception, now: float, actions: list[Action]) -> None:
        self._no_longer_waits(want, WantState.FAILED, now)
        want.error = error
        actions.append(Wake(want))

    def _fail_head(self, error: BaseException, started: float, now: float, actions: list[Action]) -> None:
        """A dial has failed: so has the waiter that would have got it."""
        if self._waiters:
            failure: Exception
            if isinstance(error, DialError):
                failure = error  # it says all that there is to say, and this waiter alone gets it
            else:
                failure = DialError(
                    f"the dial failed after {now - started:.3f} s: {type(error).__name__}: {error}; is the peer up?"
                )
                failure.__cause__ = error
            self._settle_failed(self._waiters.popitem(last=False)[0], failure, now, actions)

    def _refuse_head(self, now: float, actions: list[Action]) -> None:
        """`fail_fast_after`: a dial that would start fails instead, without one."""
        text = (
            f"{self._dials.failures} dials in a row have failed, the last with {self._last_dial_error!r}; "
            "not dialling again yet (fail_fast_after, dial_backoff)"
        )
        failure = DialError(text)
        failure.__cause__ = self._last_dial_error
        self._settle_failed(self._waiters.popitem(last=False)[0], failure, now, actions)

    def _fail(self, want: WantConn[C], error: Exception) -> None:
        want.state = WantState.FAILED
        want.error = error

    def _no_longer_waits(self, want: WantConn[C], state: WantState, now: float) -> None:
        want.state = state
        if want.queued:
            self.wait_duration += now - want.since
        if want.timed:
            self._deadlines.dropped()
        if self._total is not None and not self._waiters:
            self._total.hungry.pop(self, None)

    def _limit(self, want: WantConn[C], now: float, limit: float, timeout: float | None) -> None:
        """`want` waits for `limit` seconds, or for its own `timeout` if that is shorter."""
        if timeout is not None and timeout < limit:
            want.own_time = True
            limit = timeout
        want.deadline = now + limit
        if limit == self._wait:
            self._soonest = min(self._soonest, want.deadline)
        else:
            want.timed = True
            self._deadlines.add(want.deadline, want)

    def _due(self, now: float) -> list[WantConn[C]]:
        """The waiters whose time has come, in the order in which it did."""
        due = list(self._deadlines.due(now))
        if now >= self._soonest:
            self._soonest = math.inf
            for want in self._waiters:
                if want.timed or want.deadline == math.inf:
                    continue
                if want.deadline > now:
                    self._soonest = want.deadline
                    break
                due.append(want)
            due.sort(key=lambda want: want.deadline)
        for want in due:
            want.timed = False  # it is kept apart no longer
        return due

    def _timed_out(self, want: WantConn[C], now: float) -> PoolError:
        waited = f"waited {now - want.since:.3f} s for a connection"
        if want.own_time:
            return RequestTimeout(f"{waited}, which was all the time the request had")
        if not want.queued:
            return DialTimeout(f"{waited}, and no dial or test ended; see dial_timeout and max_concurrent_dials")
        return NoFreeConns(f"{waited}: {self._all_in_use()}; raise max_conns or max_conn_wait_timeout")

    def _all_in_use(self) -> str:
        return f"all {self._max_conns} connections are in use (max_conns)"
