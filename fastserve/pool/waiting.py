"""`WaitBooks`: who waits for a connection, what each of them ends with, and the counts of it.

A waiter is settled in one step, here, but for the short cut in `PoolCore.release`; which one, and
why, is decided there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Final, TypeVar

from fastserve.errors import DialError, DialTimeout, NoFreeConns, PoolError, RequestTimeout
from fastserve.pool.actions import Action, Wake
from fastserve.pool.books import ConnBooks
from fastserve.pool.conn import PooledConn
from fastserve.pool.deadlines import Deadlines
from fastserve.pool.options import PoolOptions
from fastserve.pool.stats import PoolStats
from fastserve.pool.total import TotalLimits
from fastserve.pool.want import WantConn, WantState

__all__ = ["WaitBooks"]

C = TypeVar("C")

# As globals: an attribute of an enum class is looked up through its metaclass.
WAITING: Final = WantState.WAITING


class WaitBooks(ConnBooks[C]):
    """The connections of one pool, and the queue for them."""

    __slots__ = (
        "_dead",
        "_deadlines",
        "_last_dial_error",
        "_max_waiters",
        "_queue",
        "_soonest",
        "_testing",
        "_wait",
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
        # A quarter of the cost of an OrderedDict. What leaves from the middle, cancelled or out of time, stays behind dead, but
        # never more of them than live ones: so the queue is empty when nobody waits, and a release steps over less than one on
        # the average (fasthttp#2391, #1830).
        self._queue: deque[WantConn[C]] = deque()
        """Those that wait, in the order they came, and dead ones between them."""
        self._dead = 0
        """How many of them do not wait any more."""
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
        """Acquires that wait for a connection."""
        return len(self._queue) - self._dead

    def stats(self) -> PoolStats:
        return PoolStats(
            conns=self.conns,
            idle=len(self._idle),
            dialing=len(self._dials),
            waiting=self.waiting,
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

    def _next_waiter(self) -> WantConn[C] | None:
        """Take the first that waits out of the queue, to be settled at once. None when there is none."""
        queue = self._queue
        while queue:
            want = queue.popleft()
            if want.state is WAITING:
                self._sweep_queue()
                return want
            self._dead -= 1
        self._dead = 0
        return None

    def _leave_queue(self, want: WantConn[C], state: WantState, now: float) -> None:
        """It is settled before its turn has come."""
        self._dead += 1
        self._settle(want, state, now)
        self._sweep_queue()

    def _sweep_queue(self) -> None:
        """Forget the dead when they outnumber the living: each pays for two steps at most."""
        if 2 * self._dead > len(self._queue):
            self._queue = deque([want for want in self._queue if want.state is WAITING])
            self._dead = 0

    def _settle(self, want: WantConn[C], state: WantState, now: float) -> None:
        """It does not wait any more."""
        want.state = state
        if want.queued:
            self.wait_duration += now - want.since
        if want.timed:
            self._deadlines.dropped()
        if self._total is not None and not self.waiting:
            self._total.hungry.pop(self, None)

    def _grant(self, pooled: PooledConn[C], now: float, actions: list[Action]) -> None:
        want = self._next_waiter()
        if want is None:
            return
        self._hold(pooled)
        want.pooled = pooled
        self._settle(want, WantState.DELIVERED, now)
        actions.append(Wake(want))

    def _fail_next(self, error: Exception, now: float, actions: list[Action]) -> None:
        """The first one ends with `error`."""
        want = self._next_waiter()
        if want is None:
            return
        self._settle(want, WantState.FAILED, now)
        want.error = error
        actions.append(Wake(want))

    def _fail_head(self, error: BaseException, started: float, now: float, actions: list[Action]) -> None:
        """A dial has failed: so has the waiter that would have got it."""
        if self._queue:
            failure: Exception
            if isinstance(error, DialError):
                failure = error  # it says all that there is to say, and this waiter alone gets it
            else:
                failure = DialError(
                    f"the dial failed after {now - started:.3f} s: {type(error).__name__}: {error}; is the peer up?"
                )
                failure.__cause__ = error
            self._fail_next(failure, now, actions)

    def _refuse_head(self, now: float, actions: list[Action]) -> None:
        """`fail_fast_after`: a dial that would start fails instead, without one."""
        text = (
            f"{self._dials.failures} dials in a row have failed, the last with {self._last_dial_error!r}; "
            "not dialling again yet (fail_fast_after, dial_backoff)"
        )
        failure = DialError(text)
        failure.__cause__ = self._last_dial_error
        self._fail_next(failure, now, actions)

    def _fail(self, want: WantConn[C], error: Exception) -> None:
        want.state = WantState.FAILED
        want.error = error

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
            for want in self._queue:
                if want.state is not WAITING or want.timed or want.deadline == math.inf:
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
