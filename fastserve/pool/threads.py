"""`SyncConnPool`: the thread shell of the pool, for blocking programs. Also under gevent's monkey-patching.

One lock guards the books; it is held for one event of the core and never while something
blocks. A waiter has a lock of its own to sleep on, so a connection wakes the thread it is
meant for, and no other. `test_on_borrow`, `reset` and `close` run in the thread that caused
them, outside the lock.

A dial runs in a short-lived thread: its waiter must stay free to take a connection that is
released sooner, and to give up in time, and a connect call does neither. One more thread, the
sweeper, exists only while something has to end by the clock (an idle time, a lifetime, a
dial): both are daemons. Primitives are looked up in `threading` when they are made, so that
what gevent has patched by then is what is used.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from fastserve.errors import NoFreeConns, PoolError
from fastserve.pool.actions import NOTHING, Actions, Attach, Close, Dial, Probe, Reset, Wake
from fastserve.pool.conn import PooledConn
from fastserve.pool.core import PoolCore
from fastserve.pool.dials import DialTicket
from fastserve.pool.events import PoolEvent
from fastserve.pool.lease import SyncLease
from fastserve.pool.options import PoolOptions
from fastserve.pool.sleeping import ThreadWant
from fastserve.pool.stats import PoolStats
from fastserve.pool.want import WantConn, WantState

__all__ = ["SyncConnPool", "SyncLease"]

logger = logging.getLogger("fastserve")

C = TypeVar("C")

TICK = 0.01
"""Seconds between two sweeps at least."""


class SyncConnPool(Generic[C]):
    """Pools connections of any kind for threads: `ConnPool` without async.

    `dial` opens one, `close` closes one; both may block. `dial` should know `dial_timeout` itself: a dial that takes
    longer is given up, but its thread lives until it returns, and counts against `max_concurrent_dials` until then.
    """

    __slots__ = (
        "__weakref__",
        "_attach",
        "_clock",
        "_close",
        "_core",
        "_dial",
        "_drained",
        "_dropped",
        "_idle_duration",
        "_lock",
        "_on_event",
        "_sweep_at",
        "_sweeper_wake",
    )

    def __init__(
        self,
        dial: Callable[[], C],
        close: Callable[[C], object],
        options: PoolOptions | None = None,
        *,
        attach: Callable[[PooledConn[C]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core: PoolCore[C] = PoolCore(options, attach=attach is not None)
        self._dial = dial
        self._close = close
        self._attach = attach
        self._clock = clock
        self._on_event = self._core.options.on_event
        self._idle_duration = self._core.options.max_idle_conn_duration or math.inf
        self._lock = threading.Lock()
        self._sweeper_wake: threading.Event | None = None
        """Set to make the sweeper look again; None while there is no sweeper."""
        self._sweep_at = math.inf
        """When the sweeper looks next."""
        self._drained: threading.Event | None = None
        """Set when a closed pool has no connection left; made by the first `close`."""
        self._dropped: deque[PooledConn[C]] = deque()
        """To be discarded by whoever has the lock next."""
        if self._core.options.min_idle_conns:
            self.sweep()

    # --- the warm path

    def acquire_nowait(self) -> PooledConn[C] | None:
        """A connection that is ready this instant, or None: then `acquire`, which tests, dials and waits."""
        with self._lock:
            return self._core.take_idle(self._clock())

    def release(self, pooled: PooledConn[C]) -> None:
        """Give a connection back: to the first waiter, or to the idle list. Raises `PoolError` when it is not held."""
        with self._lock:
            now = self._clock()
            result = self._core.release(pooled, now)
            quiet = self._sweep_at <= now + self._idle_duration
        if isinstance(result, WantConn):
            result.wake()
        elif result or not quiet or self._dropped:
            self._carry_out(result)

    # --- everything else

    def acquire(self, timeout: float | None = None) -> PooledConn[C]:
        """A connection, within `timeout` seconds of the caller's own. Give it back with `release` or `discard`, once.

        Raises `NoFreeConns`, `RequestTimeout` (the caller's time was the shorter), `DialError`, `PoolClosed`.
        """
        core, clock = self._core, self._clock
        if self._dropped:
            self._take_dropped()
        want: ThreadWant[C] | None = None
        pooled: PooledConn[C] | None = None
        try:
            with self._lock:
                now = clock()
                pooled = core.take_idle(now)
                if pooled is not None:
                    return pooled
                want = ThreadWant()
                actions = core.acquire(want, now, timeout)
                waits = want.state is WantState.WAITING
            self._carry_out(actions)
            if waits:
                self._tell(PoolEvent("wait"))
                self._wait(want)
            with self._lock:
                pooled = want.take()
            self._tell(PoolEvent("served", pooled.conn))
            return pooled
        except BaseException as error:
            # An interrupt, or a greenlet that is killed, may come anywhere here: what was given goes to the next. But for a
            # few steps of Python within the core's own.
            actions = NOTHING
            with self._lock:
                if pooled is not None:
                    actions = core.discard(pooled, clock())
                elif want is not None:
                    actions = core.cancel(want, clock())
            self._carry_out(actions)
            if isinstance(error, Exception):
                self._tell(PoolEvent("failed", error=error))
            raise

    def _wait(self, want: ThreadWant[C]) -> None:
        """Sleep until the waiter is settled; its own deadline it minds itself."""
        while not want.signal.acquire(timeout=min(max(0.0, want.deadline - self._clock()), threading.TIMEOUT_MAX)):
            now = self._clock()
            if now >= want.deadline:
                with self._lock:
                    actions = self._core.tick(now)
                self._carry_out(actions)
                if want.state is WantState.WAITING:
                    waited = f"waited {now - want.since:.3f} s for a connection"
                    raise NoFreeConns(f"{waited}; another thread was interrupted when it should have been given one")
                return

    def connection(self, timeout: float | None = None) -> SyncLease[C]:
        """``with pool.connection() as conn:`` releases at the end, and discards when the block raised, since nobody
        knows what the connection was in the middle of.
        """
        return SyncLease(self, partial(self.acquire, timeout))

    def discard(self, pooled: PooledConn[C]) -> None:
        """Close a connection instead of giving it back. Raises `PoolError` when it is not held."""
        with self._lock:
            actions = self._core.discard(pooled, self._clock())
        self._carry_out(actions)

    def drop(self, pooled: PooledConn[C]) -> None:
        """As `discard`, for finalizers: the collector may run one in the middle of anything, also of this pool's own work
        with its lock held. Then the connection is discarded when that is done.
        """
        self._dropped.append(pooled)
        if self._lock.acquire(blocking=False):
            self._lock.release()
            self._take_dropped()

    def _take_dropped(self) -> None:
        while self._dropped:
            try:
                pooled = self._dropped.popleft()
            except IndexError:
                return  # another thread took it
            self.discard(pooled)

    def redial(self, pooled: PooledConn[C], dial: Callable[[], C] | None = None) -> PooledConn[C]:
        """A fresh connection for the one holder of a connection that died, in the same slot: hold what is returned.

        It is dialled once, in the caller's thread, for as long as the pool's `dial` takes, or the one given here, which may
        know how much time there is. Raises what that raises, and `PoolClosed`; then `pooled` is still held, and to be
        discarded.
        """
        conn = (dial or self._dial)()
        try:
            with self._lock:
                fresh, actions = self._core.replace(pooled, conn, self._clock())
        except PoolError:
            self._close(conn)
            raise
        self._carry_out(actions)
        return fresh

    def lost(self, pooled: PooledConn[C]) -> None:
        """For the connection's owner: the peer closed it, or sent bytes that nobody asked for. Idle, it leaves the pool
        at once; held, it is closed on release. May be called more than once.
        """
        with self._lock:
            actions = self._core.lost(pooled, self._clock())
        self._carry_out(actions)

    def set_max_conns(self, max_conns: int) -> None:
        """Change the limit. Raised, waiters are served; lowered, idle connections close now and held ones on release."""
        with self._lock:
            actions = self._core.set_limits(self._clock(), max_conns=max_conns)
        self._carry_out(actions)

    def close_idle_connections(self) -> None:
        """Close the connections that nobody holds."""
        with self._lock:
            actions = self._core.close_idle(self._clock())
        self._carry_out(actions)

    def stats(self) -> PoolStats:
        if self._dropped:
            self._take_dropped()
        with self._lock:
            return self._core.stats()

    @property
    def closed(self) -> bool:
        return self._core.closed

    @property
    def core(self) -> PoolCore[C]:
        """The books, for those that look: conns, waiting, options. To be changed through the pool alone."""
        return self._core

    def close(self, timeout: float | None = None) -> int:
        """Close the pool: waiters get `PoolClosed`, idle connections close, and held ones as they are released.

        After `timeout` seconds (None: no limit) those still held are closed under their holders, who may still release
        them. Returns how many that were. A dial that hangs keeps its daemon thread until it returns.
        """
        with self._lock:
            actions = self._core.close(self._clock())
            if self._drained is None:
                self._drained = threading.Event()
            drained = self._drained
        try:
            self._carry_out(actions)
            drained.wait(timeout)
        finally:
            with self._lock:
                cut = self._core.conns
                actions = self._core.close_held(self._clock())
            self._carry_out(actions)
        return cut

    def __enter__(self) -> SyncConnPool[C]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(0 if error is not None else None)

    def sweep(self) -> None:
        """Do now what the sweeper would: end waits, idle times, lifetimes and dials that have run out; keep up idle ones."""
        with self._lock:
            actions = self._core.tick(self._clock())
        self._carry_out(actions)

    # --- carrying out, never with the lock held

    def _carry_out(self, actions: Actions) -> None:
        """All of them, whatever one of them raises (an interrupt): a waiter that is not woken would sleep for good."""
        left = iter(actions)
        try:
            for action in left:
                if type(action) is Wake:
                    action.want.wake()
                else:
                    self._do(action)
        except BaseException:
            self._carry_out(list(left))
            raise
        self._watch()

    def _do(self, action: Any) -> None:
        match action:
            case Dial(ticket):
                self._tell(PoolEvent("dial"))
                try:
                    threading.Thread(target=self._run_dial, args=(ticket,), name="fastserve-dial", daemon=True).start()
                except RuntimeError as error:  # no more threads
                    self._dial_failed(ticket, error)
            case Attach(pooled):
                assert self._attach is not None
                try:
                    self._attach(pooled)
                except Exception:
                    logger.warning("pool: attach raised", exc_info=True)
            case Close(pooled, reason):
                self._tell(PoolEvent("closed", pooled.conn, reason))
                try:
                    self._close(pooled.conn)
                except Exception:
                    logger.warning("pool: closing %r failed", pooled.conn, exc_info=True)
            case Probe(pooled, last_used):
                test = self._core.options.test_on_borrow
                assert test is not None
                self._call(test, (pooled.conn, last_used), pooled, self._core.tested, none_is=False)
            case Reset(pooled):
                reset = self._core.options.reset
                assert reset is not None
                self._call(reset, (pooled.conn,), pooled, self._core.reset_done, none_is=True)
            # AbandonDial: a thread cannot be interrupted; the dial's connection is closed when it comes.

    def _call(
        self,
        hook: Callable[..., Any],
        arguments: tuple[Any, ...],
        pooled: PooledConn[C],
        done: Callable[[PooledConn[C], bool, float], Actions],
        *,
        none_is: bool,
    ) -> None:
        """Run a hook of the user's on a connection."""
        ok = False
        try:
            result = hook(*arguments)
            ok = none_is if result is None else bool(result)
        except Exception as error:
            logger.info("pool: %r refused a connection: %r", hook, error)
        finally:
            with self._lock:
                actions = done(pooled, ok, self._clock())
            self._carry_out(actions)

    def _run_dial(self, ticket: DialTicket) -> None:
        try:
            conn = self._dial()
        except BaseException as error:  # also SystemExit, or a greenlet that is killed: the slot must come back
            self._dial_failed(ticket, error)
            if not isinstance(error, Exception):
                raise
            return
        self._tell(PoolEvent("dialled", conn))
        with self._lock:
            actions = self._core.dialled(ticket, conn, self._clock())
        self._carry_out(actions)

    def _dial_failed(self, ticket: DialTicket, error: BaseException) -> None:
        self._tell(PoolEvent("dial_failed", error=error))
        with self._lock:
            actions = self._core.dial_failed(ticket, error, self._clock())
        self._carry_out(actions)

    def _tell(self, event: PoolEvent) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.warning("pool: on_event raised", exc_info=True)

    # --- the sweeper

    def _watch(self) -> None:
        """After an event: see to it that the sweeper looks in time, and tell `close` when nothing is left."""
        start = None
        with self._lock:
            if self._drained is not None and not self._core.conns:
                self._drained.set()
            wake = self._core.next_wake(waiters=False)
            if wake is not None and wake < self._sweep_at:
                self._sweep_at = wake
                if self._sweeper_wake is not None:
                    self._sweeper_wake.set()
                else:
                    start = self._sweeper_wake = threading.Event()
            elif wake is None and self._core.closed and self._sweeper_wake is not None:
                self._sweeper_wake.set()  # it has nothing to wait for any more
        if self._dropped:
            self._take_dropped()
        if start is not None:
            try:
                threading.Thread(target=self._sweep, args=(start,), name="fastserve-pool-sweeper", daemon=True).start()
            except RuntimeError:  # no more threads: the next event tries again
                with self._lock:
                    self._sweeper_wake = None
                    self._sweep_at = math.inf

    def _sweep(self, woken: threading.Event) -> None:
        """The sweeper's life: from the first thing to watch to the last."""
        while True:
            with self._lock:
                wake = self._core.next_wake(waiters=False)
                if wake is None:
                    self._sweeper_wake = None
                    self._sweep_at = math.inf
                else:
                    self._sweep_at = wake
                    woken.clear()
                    pause = wake - self._clock()
            if self._dropped:
                self._take_dropped()
            if wake is None:
                return
            woken.wait(min(max(pause, TICK), threading.TIMEOUT_MAX))
            self.sweep()
