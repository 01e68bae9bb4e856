"""`PoolCore`: decides which waiter gets which connection. No I/O, no clock, no lock, no await.

Events are methods; each takes the time as `now` and returns the actions that a shell carries
out. The books are settled before it returns, so a shell may hand in the next event, from
within an action too. Nothing here knows what a connection is.

Invariants (tests/pool/test_core.py, checked after every event, and between an event and its wake-ups):
 1. idle + in use + dialing = conns <= max_conns, but while draining after the limit was lowered.
 2. Never a live waiter and an available connection at once (with `test_on_borrow`: one test per waiter is under way).
 3. Never a live waiter without a dial while a slot and a dial budget are free.
 4. Each waiter is settled exactly once; delivered and then cancelled is released again, to the next waiter.
 5. A failed dial frees its slot, fails only the head waiter, and the next waiter's dial starts.
 6. Grants are first come, first served.
 7. A closed pool fails every waiter with PoolClosed; a late dial is closed.
 8. Each connection is closed once; a double release raises.
 9. Streams in use = holders; a draining connection gets no new stream.
10. Memory of waiters is O(live waiters).

One event path serves all: the waiter joins the queue, then `_pump` grants from its head and
starts tests and dials for the rest. A newcomer cannot overtake, since it is not treated
otherwise. `take_idle` and the first half of `release` are the short cut for a warm
connection and an empty queue, where `_pump` would do the same.
"""

from __future__ import annotations

import math
import random as random_module
from collections.abc import Callable
from typing import Final, TypeVar

from fastserve.errors import DialTimeout, NoFreeConns, PoolClosed, PoolError, RequestTimeout
from fastserve.pool.actions import NOTHING, AbandonDial, Action, Actions, Attach, Close, Dial, Probe, Reset, Wake
from fastserve.pool.conn import PooledConn, PooledState
from fastserve.pool.dials import DialTicket
from fastserve.pool.events import CloseReason
from fastserve.pool.options import PoolOptions
from fastserve.pool.total import TotalLimits
from fastserve.pool.waiting import WaitBooks
from fastserve.pool.want import WantConn, WantState

__all__ = ["PoolCore"]

C = TypeVar("C")

# As globals: an attribute of an enum class is looked up through its metaclass, which the warm path would feel.
IDLE: Final = PooledState.IDLE
IN_USE: Final = PooledState.IN_USE
TESTING: Final = PooledState.TESTING
RESETTING: Final = PooledState.RESETTING
CLOSED: Final = PooledState.CLOSED
DELIVERED: Final = WantState.DELIVERED


class PoolCore(WaitBooks[C]):
    """The books of one pool, and every decision on them.

    `random` gives floats in [0, 1), for jitter; `attach` asks for an `Attach` for each new connection.
    """

    __slots__ = ("_attach", "_min_idle", "_patience")

    def __init__(
        self,
        options: PoolOptions | None = None,
        *,
        random: Callable[[], float] = random_module.random,
        total: TotalLimits | None = None,
        attach: bool = False,
    ) -> None:
        super().__init__(options or PoolOptions(), random, total)
        self._attach = attach
        self._min_idle = self.options.min_idle_conns
        self._patience = 2.0 * self._dials.patience()
        """A backstop for waits that end with a test or a dial, which have time-outs of their own and end sooner."""

    # --- the warm path

    def take_idle(self, now: float) -> PooledConn[C] | None:
        """A connection that is ready this instant, or None: then `acquire` it is, which also closes what is stale."""
        if self._careful:
            return self._take_carefully(now)
        idle = self._idle
        if not idle:
            return None
        pooled = idle.popitem()[0]
        if now >= pooled.stale_at:
            idle[pooled] = None  # where it was: its closing is an action, and this call returns none
            return None
        pooled.state = IN_USE
        pooled.streams = 1
        pooled.uses += 1
        self.hits += 1
        return pooled

    def release(self, pooled: PooledConn[C], now: float) -> Actions | WantConn[C]:
        """Its holder gives a connection back. Raises `PoolError` when it does not hold it.

        A `WantConn` means that it was handed to that one, which is to be woken, and that nothing else has changed.
        """
        if self._bounded or pooled.state is not IN_USE or pooled.owner is not self:
            return self._release_carefully(pooled, now)
        if self._queue:
            want = self._next_waiter() if self._dead else self._queue.popleft()
            if want is not None:  # handed over: it stays held, by another
                pooled.uses += 1
                want.pooled = pooled
                self._settle(want, DELIVERED, now)
                return want
        pooled.state = IDLE
        pooled.streams = 0
        pooled.idle_since = now
        pooled.stale_at = now + self._max_idle_duration
        self._idle[pooled] = None
        return NOTHING

    def _take_carefully(self, now: float) -> PooledConn[C] | None:
        if self._queue or (self.options.test_on_borrow is not None and not self._shared):
            return None
        pooled = self._next_available()
        if pooled is None or self._is_stale(pooled, now):
            return None
        if len(self._idle) <= self._min_idle and pooled.state is IDLE and self.conns < self._max_conns:
            return None  # one fewer would be too few: acquire dials another
        self._hold(pooled)
        self.hits += 1
        return pooled

    def _release_carefully(self, pooled: PooledConn[C], now: float) -> Actions:
        actions: list[Action] = []
        if self._let_go(pooled):
            self._take_back(pooled, now, actions, clean=False)
            self._pump(now, actions)
        return actions or NOTHING

    # --- waiters

    def acquire(self, want: WantConn[C], now: float, timeout: float | None = None) -> Actions:
        """`want` asks for a connection, for at most `timeout` seconds of its own.

        When this returns it may be settled already: WAITING is the only state to wait in.
        """
        want.since = now
        wait = self._wait
        if (
            len(self._conns) >= self._max_conns
            and not self._idle
            and not self._careful
            and (timeout is None or timeout >= wait)
            and len(self._queue) < self._max_waiters
            and wait
        ):
            # The short cut of a wait: every slot is a connection that somebody holds, so there is nothing but to queue.
            self.misses += 1
            self.waits += 1
            want.queued = True
            want.deadline = deadline = now + wait
            if deadline < self._soonest:
                self._soonest = deadline
            self._queue.append(want)  # last: a thread may be interrupted anywhere here
            return NOTHING
        want.deadline = math.inf
        if self._closed:
            self._fail(want, PoolClosed("the pool is closed: make a new one"))
            return NOTHING
        actions: list[Action] = []
        self._close_stale(now, actions)
        if actions:
            self._pump(now, actions)  # for min_idle_conns
        ready = bool(self._shared or self._idle) and not self._queue
        if ready:
            self.hits += 1
            limit = self._patience
        else:
            self.misses += 1
            if timeout is not None and timeout <= 0:
                self.timeouts += 1
                self._fail(want, RequestTimeout("no connection was ready, and the request's time is up"))
                return actions or NOTHING
            if self._comes_without_a_release():
                limit = wait + self._patience
            elif wait <= 0:
                self._fail(want, NoFreeConns(self._all_in_use() + "; raise max_conns or set max_conn_wait_timeout"))
                return actions or NOTHING
            elif self.waiting >= self._max_waiters:
                text = f"{self._all_in_use()} and {self.waiting} acquires wait already; raise max_waiters or slow down"
                self._fail(want, NoFreeConns(text))
                return actions or NOTHING
            else:
                limit = wait
                want.queued = True
                self.waits += 1
        self._queue.append(want)
        self._pump(now, actions)
        if want.state is WantState.WAITING:
            self._limit(want, now, limit, timeout)
        return actions or NOTHING

    def cancel(self, want: WantConn[C], now: float) -> Actions:
        """Whoever waited has gone away. What it was given goes to the next; when it took that already, nothing happens."""
        state = want.state
        if state is WantState.WAITING:
            self._leave_queue(want, WantState.CANCELLED, now)
            return NOTHING
        if state is WantState.DELIVERED and want.pooled is not None:
            pooled, want.pooled = want.pooled, None
            want.state = WantState.CANCELLED
            self.undelivered += 1
            actions: list[Action] = []
            if self._let_go(pooled):
                pooled.uses -= 1
                self._take_back(pooled, now, actions, clean=True)
                self._pump(now, actions)
            return actions or NOTHING
        if state is WantState.FAILED:
            want.state = WantState.CANCELLED
            want.error = None
        return NOTHING

    # --- connections

    def discard(self, pooled: PooledConn[C], now: float) -> Actions:
        """As `release`, by a holder that found the connection unusable: it is closed when its other holders are gone."""
        if not self._let_go(pooled):
            return NOTHING
        actions: list[Action] = []
        self._doom(pooled, CloseReason.ERROR)
        self._take_back(pooled, now, actions, clean=False)
        self._pump(now, actions)
        return actions or NOTHING

    def replace(self, pooled: PooledConn[C], conn: C, now: float) -> tuple[PooledConn[C], Actions]:
        """The one holder of a connection that died has dialled another, `conn`, and holds that from now on: in the same
        slot, so that it need not queue again, and gets no other one that may be as dead.

        Returns the new entry. Raises `PoolClosed`, and `PoolError` when `pooled` is not held or shared: then `conn` is not
        the pool's, and `pooled` is as it was.
        """
        if self._closed:
            raise PoolClosed("the pool was closed while a connection was dialled again: make a new one")
        if pooled.owner is not self or pooled.streams != 1 or self.options.max_streams is not None:
            raise PoolError(f"{pooled!r} has no holder, or several: it can't be replaced")
        actions: list[Action] = []
        pooled.streams = 0
        self._close(pooled, CloseReason.STALE, actions)
        if self._total is not None:
            self._total.conns += 1
        fresh = self._enter(conn, now, 1)
        fresh.streams = fresh.uses = 1
        if self._attach:
            actions.append(Attach(fresh))
        return fresh, actions

    def lost(self, pooled: PooledConn[C], now: float) -> Actions:
        """The peer closed the connection, or sent unasked bytes: idle it leaves at once, held it is closed on release."""
        if pooled.state is CLOSED or pooled.owner is not self:
            return NOTHING
        actions: list[Action] = []
        if pooled.state is IDLE:
            self._close(pooled, CloseReason.STALE, actions)
            self._pump(now, actions)
        else:
            self._doom(pooled, CloseReason.STALE)
        return actions or NOTHING

    def tested(self, pooled: PooledConn[C], ok: bool, now: float) -> Actions:
        """`test_on_borrow` has ended."""
        if pooled.state is not TESTING:
            return NOTHING  # cut off by close_held
        self._testing -= 1
        actions: list[Action] = []
        if not ok:
            self._doom(pooled, CloseReason.STALE)
        self._take_back(pooled, now, actions, clean=True)
        self._pump(now, actions)
        return actions or NOTHING

    def reset_done(self, pooled: PooledConn[C], ok: bool, now: float) -> Actions:
        """`reset` has ended."""
        if pooled.state is not RESETTING:
            return NOTHING
        actions: list[Action] = []
        if not ok:
            self._doom(pooled, CloseReason.ERROR)
        self._take_back(pooled, now, actions, clean=True)
        self._pump(now, actions)
        return actions or NOTHING

    def _take_back(self, pooled: PooledConn[C], now: float, actions: list[Action], *, clean: bool) -> None:
        """One holder fewer, or a test or reset less: close it, reset it, hand it over, or let it idle."""
        if pooled.doom is None and (reason := self._why_close(pooled, now)):
            self._doom(pooled, reason)
        if pooled.doom is not None:
            if not pooled.streams:
                self._close(pooled, pooled.doom, actions)
        elif not clean and not pooled.streams and self.options.reset is not None:
            self._shared.pop(pooled, None)
            pooled.state = RESETTING
            actions.append(Reset(pooled))
        else:
            self._offer(pooled, now, actions)

    def _offer(self, pooled: PooledConn[C], now: float, actions: list[Action]) -> None:
        """A connection that can be held: to the waiters first, and only if none waits to the list (bug 2, bug 13)."""
        while self._queue and self._has_room(pooled):
            self._grant(pooled, now, actions)
        if not pooled.streams:
            self._to_idle(pooled, now, actions)
        elif self._has_room(pooled):
            pooled.state = IN_USE
            self._shared[pooled] = None

    # --- dials

    def dialled(self, ticket: DialTicket, conn: C, now: float) -> Actions:
        """A dial has succeeded. Late, after it was abandoned or the pool was closed, its connection is closed."""
        actions: list[Action] = []
        if ticket not in self._dials:
            self._dials.over(ticket)
            late = PooledConn(conn, self, now, now, 1)
            late.state = CLOSED
            reason = CloseReason.SHUTDOWN if self._closed else CloseReason.ERROR
            self._counts[reason] += 1
            actions.append(Close(late, reason))
            self._pump(now, actions)
            return actions
        hook = self.options.max_streams
        streams, refused = 1, None
        if hook is not None:
            try:
                streams = max(1, hook(conn))
            except Exception as error:  # the user's: the slot must come back all the same
                refused = error
        self._dials.succeeded(ticket)
        pooled = self._enter(conn, now, streams)
        if self._attach:
            actions.append(Attach(pooled))
        if refused is not None:
            self._close(pooled, CloseReason.ERROR, actions)
            self._fail_head(refused, now, now, actions)
        else:
            self._take_back(pooled, now, actions, clean=True)
        self._pump(now, actions)
        return actions or NOTHING

    def dial_failed(self, ticket: DialTicket, error: BaseException, now: float) -> Actions:
        """One attempt of a dial has failed."""
        actions: list[Action] = []
        if ticket not in self._dials:
            self._dials.over(ticket)
        else:
            self._attempt_failed(ticket, error, now, actions)
        self._pump(now, actions)
        return actions or NOTHING

    def _attempt_failed(self, ticket: DialTicket, error: BaseException, now: float, actions: list[Action]) -> None:
        self.dial_errors += 1
        self._last_dial_error = error
        if not self._dials.failed(ticket, now, again=self._worth_another_attempt()):
            if self._total is not None:
                self._total.give_back(self)
            self._fail_head(error, ticket.started, now, actions)

    def _worth_another_attempt(self) -> bool:
        """Somebody still needs the dial, and there is a slot for it."""
        return self._over <= 0 and (bool(self._queue) or self._min_idle > len(self._idle))

    def _start_dials(self, now: float, actions: list[Action]) -> None:
        """Invariant 3: a dial for each waiter that no test or dial is for yet; then `min_idle_conns`."""
        dials, total = self._dials, self._total
        while not self._closed:
            short = self.waiting - self._testing - len(dials)
            if short <= 0:
                upkeep = dials.upkeep_at <= now and len(self._idle) - short < self._min_idle
                if not upkeep:
                    break
            if len(self._conns) + len(dials) >= self._max_conns:
                break
            if short > 0 and dials.refuses(now):
                self._refuse_head(now, actions)
                continue
            if dials.budget <= 0:
                break
            if total is not None:
                if total.room <= 0 or next(iter(total.hungry), self) is not self:  # no room, or others lacked it before
                    total.hungry[self] = None
                    return
                total.conns += 1
                if total.hungry:
                    total.hungry.move_to_end(self)
            actions.append(Dial(dials.start(now)))
        if total is not None:
            total.hungry.pop(self, None)

    # --- time

    def tick(self, now: float) -> Actions:
        """Time has passed: waits, lifetimes, idle times and dials that have run out by `now`. See `next_wake`."""
        actions: list[Action] = []
        for ticket in self._dials.due(now):
            if ticket.running:
                self._dial_timed_out(ticket, now, actions)
            else:
                self._dials.retry(ticket, now)
                actions.append(Dial(ticket))
        for want in self._due(now):
            self.timeouts += 1
            want.error = self._timed_out(want, now)
            self._leave_queue(want, WantState.FAILED, now)
            actions.append(Wake(want))
        for pooled in self._lifetimes.due(now):
            if pooled.state is IDLE:
                self._close(pooled, CloseReason.LIFETIME, actions)
            else:
                self._doom(pooled, CloseReason.LIFETIME)
        if self._max_idle_duration != math.inf:
            while self._idle and now >= (oldest := next(iter(self._idle))).idle_since + self._max_idle_duration:
                self._close(oldest, CloseReason.IDLE, actions)
        if self._dials.upkeep_at <= now:
            self._dials.upkeep_at = 0.0
        self._pump(now, actions)
        return actions or NOTHING

    def next_wake(self, *, waiters: bool = True) -> float | None:
        """When `tick` has something to do, or None; without the waiters' deadlines if each waiter minds its own."""
        wake = math.inf
        if waiters and self._queue:
            wake = self._soonest
            if (first := self._deadlines.first()) is not None and first < wake:
                wake = first
        if (first := self._lifetimes.first()) is not None and first < wake:
            wake = first
        if self._idle:
            wake = min(wake, next(iter(self._idle)).idle_since + self._max_idle_duration)
        if (first := self._dials.next_wake()) is not None and first < wake:
            wake = first
        if self._min_idle and 0.0 < self._dials.upkeep_at < wake and not self._closed:
            wake = self._dials.upkeep_at
        return None if wake == math.inf else wake

    def _dial_timed_out(self, ticket: DialTicket, now: float, actions: list[Action]) -> None:
        """The attempt is given up. It may never end (a thread cannot be interrupted), so the slot does not wait for it."""
        actions.append(AbandonDial(ticket))
        text = f"the dial took longer than dial_timeout, {self.options.dial_timeout:g} s; is the peer up?"
        self.dial_errors += 1
        error = self._last_dial_error = DialTimeout(text)
        if not self._dials.timed_out(ticket, now, again=self._worth_another_attempt()):
            if self._total is not None:
                self._total.give_back(self)
            self._fail_head(error, ticket.started, now, actions)

    # --- limits and the end

    def set_limits(self, now: float, *, max_conns: int) -> Actions:
        """Raised: waiters' dials start (bug 15). Lowered: idle connections close, and held ones on release."""
        PoolOptions(max_conns=max_conns)  # raises ConfigError
        self._max_conns = max_conns
        actions: list[Action] = []
        while self._over > 0 and self._idle:
            self._close(next(iter(self._idle)), CloseReason.DRAIN, actions)
        self._consider()
        self._pump(now, actions)
        return actions or NOTHING

    def close_idle(self, now: float) -> Actions:
        """Close every idle connection."""
        actions: list[Action] = []
        while self._idle:
            self._close(next(iter(self._idle)), CloseReason.EVICTED, actions)
        self._pump(now, actions)
        return actions or NOTHING

    def evict(self, pooled: PooledConn[C], now: float) -> Actions:
        """Close one idle connection, to make room elsewhere."""
        actions: list[Action] = []
        if pooled.state is IDLE and pooled.owner is self:
            self._close(pooled, CloseReason.EVICTED, actions)
            self._pump(now, actions)
        return actions or NOTHING

    def pump(self, now: float) -> Actions:
        """Room was made elsewhere: see what can start."""
        actions: list[Action] = []
        self._pump(now, actions)
        return actions or NOTHING

    def close(self, now: float) -> Actions:
        """No more acquires; waiters fail, idle connections close, held ones on release, dials are abandoned."""
        actions: list[Action] = []
        self._closed = self._careful = self._bounded = True
        while self._queue:
            closed = PoolClosed("the pool was closed while a connection was waited for: make a new one")
            self._fail_next(closed, now, actions)
        for ticket in list(self._dials):
            if ticket.running:
                actions.append(AbandonDial(ticket))
            self._dials.abandon(ticket)
            if self._total is not None:
                self._total.give_back(self)
        for pooled in list(self._conns):
            if pooled.state is IDLE:
                self._close(pooled, CloseReason.SHUTDOWN, actions)
            else:
                self._doom(pooled, CloseReason.SHUTDOWN)
        if self._total is not None:
            self._total.hungry.pop(self, None)
        return actions or NOTHING

    def close_held(self, now: float) -> Actions:
        """After `close`: holders have had their time. What they still hold is closed under them; they may release it."""
        actions: list[Action] = []
        for pooled in list(self._conns):
            if pooled.state is TESTING:
                self._testing -= 1
            self._close(pooled, CloseReason.SHUTDOWN, actions)
        return actions or NOTHING

    def _comes_without_a_release(self) -> bool:
        """A newcomer can be served by a test, a dial under way, or a free slot: nobody need give anything back."""
        coming = self._testing + len(self._dials)
        free = max(0, self._max_conns - len(self._conns) - len(self._dials))
        if self._total is not None:
            free = min(free, max(0, self._total.room + len(self._total.idle)))
        if self.options.max_streams is not None and coming + free > 0:
            return self.waiting < self.options.max_waiters  # one connection may serve them all
        return self.waiting < coming + free

    # --- the queue

    def _pump(self, now: float, actions: list[Action]) -> None:
        """Serve the queue from its head with what is available, then start tests and dials for the rest."""
        if self.waiting > self._testing:
            testing = self.options.test_on_borrow is not None
            self._close_stale(now, actions)
            while self.waiting > self._testing and (pooled := self._next_available()) is not None:
                if testing and pooled.state is IDLE:
                    self._leave_idle(pooled)
                    pooled.state = TESTING
                    self._testing += 1
                    actions.append(Probe(pooled, now - pooled.idle_since))
                else:
                    self._grant(pooled, now, actions)
                self._close_stale(now, actions)
        self._start_dials(now, actions)
