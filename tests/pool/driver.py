"""`Driver`: a shell for tests. It carries out what a core wants in a model, and checks the invariants of pool.md.

Nothing happens by itself: a dial, a test or a reset ends when the test says so, and a waiter that was woken
collects when the test says so. So every event can come while any other is half done (mid-tick).
"""

from __future__ import annotations

import math
from typing import Any

from fastserve.errors import NoFreeConns, PoolClosed, PoolError, RequestTimeout
from fastserve.pool.actions import AbandonDial, Actions, Attach, Close, Dial, Probe, Reset, Wake
from fastserve.pool.conn import PooledConn, PooledState
from fastserve.pool.core import PoolCore
from fastserve.pool.dials import DialTicket
from fastserve.pool.options import PoolOptions
from fastserve.pool.want import WantConn, WantState

Pooled = PooledConn[int]
Want = WantConn[int]


def keep(*arguments: Any) -> bool:
    """A hook for options; the driver answers for it."""
    raise AssertionError("the core calls no hook itself")


class Driver:
    """One core, its outside world as a model, and the invariants after every event."""

    def __init__(self, options: PoolOptions, core_class: type[PoolCore[int]] = PoolCore) -> None:
        self.options = options
        self.core: PoolCore[int] = core_class(options, random=lambda: 0.5)
        self.now = 1000.0
        self.opened = 0
        self.open: set[int] = set()
        self.queue: list[Want] = []
        """Live waiters, in the order in which they came."""
        self.woken: list[Want] = []
        """Settled, not collected yet."""
        self.held: list[Pooled] = []
        """One entry per holder."""
        self.dials: list[DialTicket] = []
        """Attempts under way, abandoned ones included."""
        self.abandoned: set[DialTicket] = set()
        self.probes: list[Pooled] = []
        self.resets: list[Pooled] = []
        self.settled: list[Want] = []
        """All waiters that were ever settled, in order."""
        self.served: list[Want] = []
        self.failed: list[Want] = []
        self.max_conns = options.max_conns
        self._cutting = False
        self._conns_before = 0
        self._idle_before: dict[Pooled, float] = {}
        self.tick()  # as the shells do: min_idle_conns is kept up from the start

    # --- events

    def acquire(self, timeout: float | None = None) -> Want:
        want: Want = WantConn()
        self.queue.append(want)
        self._apply(self.core.acquire(want, self.now, timeout), at_once=want)
        return want

    def take_idle(self) -> Pooled | None:
        pooled = self.core.take_idle(self.now)
        if pooled is not None:
            assert not self.queue, "a newcomer overtook the queue (invariant 6)"
            self._check_fresh(pooled)
            self.held.append(pooled)
        self._apply(())
        return pooled

    def collect(self, want: Want) -> Pooled | None:
        self.woken.remove(want)
        try:
            pooled = want.take()
        except PoolError:
            self._apply(())
            return None
        self.held.append(pooled)
        self._apply(())
        return pooled

    def cancel(self, want: Want) -> None:
        if want in self.queue:
            self.queue.remove(want)
        if want in self.woken:
            self.woken.remove(want)
        self._apply(self.core.cancel(want, self.now))

    def release(self, pooled: Pooled) -> None:
        self.held.remove(pooled)
        doomed = sum(pooled.doom is not None for pooled in self.core._conns)
        over = self.core.conns - doomed > self.max_conns
        result = self.core.release(pooled, self.now)
        self._apply((Wake(result),) if isinstance(result, WantConn) else result)
        if over and not pooled.streams:
            assert pooled.state is PooledState.CLOSED, "over the limit, and not closed (bug 15)"

    def discard(self, pooled: Pooled) -> None:
        self.held.remove(pooled)
        self._apply(self.core.discard(pooled, self.now))

    def release_not_held(self, pooled: Pooled) -> None:
        before = pooled.state
        try:
            self.core.release(pooled, self.now)
        except PoolError:
            pass
        else:
            raise AssertionError("a release without a hold must raise (invariant 8)")
        assert pooled.state is before
        self._apply(())

    def lost(self, pooled: Pooled) -> None:
        self._apply(self.core.lost(pooled, self.now))

    def dialled(self, ticket: DialTicket | None = None) -> int:
        ticket = ticket or self.dials[0]
        self.dials.remove(ticket)
        self.opened += 1
        self.open.add(self.opened)
        self._apply(self.core.dialled(ticket, self.opened, self.now))
        if self.core.closed:
            assert self.opened not in self.open, "a late dial of a closed pool is closed (invariant 7)"
        return self.opened

    def dial_failed(self, ticket: DialTicket | None = None) -> None:
        ticket = ticket or self.dials[0]
        self.dials.remove(ticket)
        head = self.queue[:1]
        failed_before = len(self.failed)
        lives = ticket not in self.abandoned
        self._apply(self.core.dial_failed(ticket, OSError("refused"), self.now))
        failed = self.failed[failed_before:]
        if not lives:
            head = []
        if not self.options.fail_fast_after:
            assert failed in ([], head), "a failed dial fails only the head waiter (invariant 5)"
            if not self.options.dial_retries:
                assert failed == head, "a failed dial fails the head waiter (invariant 5)"

    def tested(self, pooled: Pooled, ok: bool) -> None:
        self.probes.remove(pooled)
        self._apply(self.core.tested(pooled, ok, self.now))

    def reset_done(self, pooled: Pooled, ok: bool) -> None:
        self.resets.remove(pooled)
        self._apply(self.core.reset_done(pooled, ok, self.now))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    def tick(self) -> None:
        self._apply(self.core.tick(self.now))
        wake = self.core.next_wake()
        assert wake is None or wake > self.now, "the timer would run for nothing"

    def set_limits(self, max_conns: int) -> None:
        self.max_conns = max_conns
        self._apply(self.core.set_limits(self.now, max_conns=max_conns))

    def close_idle(self) -> None:
        self._apply(self.core.close_idle(self.now))

    def close(self) -> None:
        waiting = list(self.queue)
        self._apply(self.core.close(self.now))
        for want in waiting:
            assert isinstance(want.error, PoolClosed), "each waiter gets PoolClosed (invariant 7)"

    def close_held(self) -> None:
        self._cutting = True
        self._apply(self.core.close_held(self.now))

    # --- what follows from one

    def _apply(self, actions: Actions, at_once: Want | None = None) -> None:
        for action in actions:
            match action:
                case Wake(want):
                    self._woken(want)
                case Dial(ticket):
                    assert ticket not in self.dials
                    self.dials.append(ticket)
                case AbandonDial(ticket):
                    assert ticket in self.dials
                    self.abandoned.add(ticket)
                case Probe(pooled, last_used):
                    assert last_used >= 0
                    assert pooled.conn in self.open
                    assert pooled.state in (PooledState.TESTING, PooledState.CLOSED)
                    self.probes.append(pooled)
                case Reset(pooled):
                    assert pooled.conn in self.open
                    self.resets.append(pooled)
                case Close(pooled):
                    assert not pooled.streams or self._cutting, "closed under its holder (bug 5)"
                    assert pooled.conn in self.open, "closed twice (invariant 8)"
                    assert pooled.state is PooledState.CLOSED
                    self.open.remove(pooled.conn)
                case Attach():
                    raise AssertionError("was not asked for")
        if at_once is not None and at_once in self.queue and at_once.state is WantState.FAILED:
            self._woken(at_once)
        self.check()

    def _woken(self, want: Want) -> None:
        assert want not in self.settled, "settled twice (invariant 4)"
        self.settled.append(want)
        if want.state is WantState.DELIVERED:
            assert self.queue, "served, but it did not wait any more (invariant 4)"
            assert self.queue[0] is want, "served out of turn (invariant 6)"
            assert want.pooled is not None
            assert want.pooled.conn in self.open, "a closed connection was handed out"
            assert want.pooled.state is PooledState.IN_USE, "a draining connection got a new stream (invariant 9)"
            assert want.pooled.doom is None
            self._check_fresh(want.pooled)
            self.served.append(want)
        else:
            assert want.state is WantState.FAILED
            assert want in self.queue, "failed, but it did not wait any more (invariant 4)"
            assert isinstance(want.error, PoolError)
            if isinstance(want.error, NoFreeConns | RequestTimeout):
                assert str(want.error)
            self.failed.append(want)
        self.queue.remove(want)
        self.woken.append(want)

    def _check_fresh(self, pooled: Pooled) -> None:
        """What was idle before this event is not handed out past its time."""
        since = self._idle_before.get(pooled)
        if since is not None:
            assert self.now < since + (self.options.max_idle_conn_duration or math.inf), "idle for too long (bug 5)"
            assert self.now < pooled.expires_at, "too old (bug 5)"

    # --- the invariants

    def check(self) -> None:
        core = self.core
        stats = core.stats()
        waiting = [want for want in core._queue if want.state is WantState.WAITING]
        assert core.waiting == len(waiting)
        assert len(core._queue) <= 2 * core.waiting, "memory of the dead (invariant 10)"
        # 1. the books add up, and stay within the limit; while over it after it was lowered, they only shrink
        live = list(core._conns)
        assert stats.conns == stats.idle + stats.in_use + stats.dialing == len(live) + len(core._dials)
        assert stats.conns <= max(self.max_conns, self._conns_before), "over max_conns (invariant 1)"
        self._conns_before = stats.conns
        idle = [pooled for pooled in live if pooled.state is PooledState.IDLE]
        assert set(core._idle) == set(idle)
        self._idle_before = {pooled: pooled.idle_since for pooled in idle}
        assert set(core._shared) == {p for p in live if p.streams > 0 and core._has_room(p)}
        assert core._testing == sum(pooled.state is PooledState.TESTING for pooled in live)
        assert core._doomed == sum(pooled.doom is not None for pooled in live)
        # 2. no live waiter and an available connection
        if len(waiting) > core._testing:
            assert not core._idle, "a waiter and an idle connection (invariant 2)"
            assert not core._shared, "a waiter and a connection with room (invariant 2)"
        # 3. no live waiter without a dial
        lacking = len(waiting) - core._testing - len(core._dials)
        free = self.max_conns - stats.conns
        if not core.closed:
            assert lacking <= 0 or free <= 0 or core._dials.budget <= 0, "a waiter without a dial (invariant 3)"
        assert len(core._dials) + core._dials.hung <= self.options.max_concurrent_dials * (
            1 + self.options.dial_retries
        )
        # 4. the core's queue is the model's
        assert waiting == self.queue, "lost or phantom waiter (invariants 4, 10)"
        # 7. nothing waits in a closed pool
        if core.closed:
            assert not waiting
            assert not idle
            assert not len(core._dials)
        # 8. open sockets = live connections
        assert {pooled.conn for pooled in live} == self.open, "open sockets and live connections differ (invariant 8)"
        # 9. streams = holders, those that have not collected yet included
        holders = self.held + [want.pooled for want in self.woken if want.pooled is not None]
        alive = [pooled for pooled in holders if pooled.state is not PooledState.CLOSED]
        assert stats.streams == len(alive), "streams and holders differ (invariant 9)"
        for pooled in live:
            assert pooled.streams == sum(holder is pooled for holder in alive)
            assert pooled.streams <= pooled.max_streams
        # 10. memory is O(live waiters)
        assert len(core._deadlines) <= 2 * len(waiting) + 66, "dead waiters stay (invariant 10)"
        assert len(core._lifetimes) <= 2 * len(live) + 66
        # options
        surplus = -lacking
        if not core.closed and surplus >= 0 and free > 0 and core._dials.budget > 0 and not core._dials.upkeep_at:
            assert len(idle) + surplus >= self.options.min_idle_conns, "min_idle_conns is not kept up"
        if self.options.max_idle_conns is not None:
            assert len(idle) <= self.options.max_idle_conns
        assert len(waiting) <= self.options.max_waiters + self.max_conns + 3
        assert waiting == [] or core.next_wake() is not None, "a wait without an end"

    # --- to the end

    def go_on(self) -> None:
        """One round in which everything under way succeeds and every holder gives back."""
        for want in list(self.woken):
            self.collect(want)
        for pooled in list(self.held):
            self.release(pooled)
        for pooled in list(self.probes):
            self.tested(pooled, True)
        for pooled in list(self.resets):
            self.reset_done(pooled, True)
        for ticket in list(self.dials):
            self.dialled(ticket)
        wake = self.core.next_wake()
        if wake is not None and self.queue and not self.dials:
            self.now = max(self.now, wake)
            self.tick()

    def finish(self) -> None:
        """Nothing hangs: everybody is settled in the end; and a closed pool leaves nothing open."""
        for _ in range(200):
            if not self.queue:
                break
            self.go_on()
        assert not self.queue, "a waiter hangs"
        self.close()
        for want in list(self.woken):
            self.collect(want)
        for pooled in list(self.held):
            self.release(pooled)
        for pooled in list(self.probes):
            self.tested(pooled, True)
        for pooled in list(self.resets):
            self.reset_done(pooled, True)
        for ticket in list(self.dials):
            self.dialled(ticket)
        assert not self.open, "left open (invariant 8)"
        assert self.core.conns == 0
        assert self.core.next_wake() is None, "nothing runs after close (bug 3)"
        assert sum(self.core.stats().closed.values()) == self.opened
