"""`ConnPool`: the asyncio shell of the pool.

It carries out what `PoolCore` decides, and decides nothing itself. The check and the enqueue
of an acquire are one synchronous block, so there is no lock; a connection passes from the
pool to its holder without an await between, so a cancellation finds it on one side or the
other. Dials, and `test_on_borrow`, `reset` and `close` that are async, run in tasks of the
pool's own, with the context in which the pool was made: they belong to no caller.

One timer per pool watches waits, idle times, lifetimes and dials; never one per waiter, and
none while there is nothing to watch. It is armed no earlier than `TICK` after it last ran, so
that ten thousand deadlines cost at most a hundred wake-ups a second.

Not thread-safe; `SyncConnPool` is.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from fastserve.errors import DialError, PoolError
from fastserve.pool import waits
from fastserve.pool.actions import AbandonDial, Actions, Attach, Close, Dial, Probe, Reset, Wake
from fastserve.pool.conn import PooledConn
from fastserve.pool.core import PoolCore
from fastserve.pool.dials import DialTicket
from fastserve.pool.events import PoolEvent
from fastserve.pool.lease import Lease
from fastserve.pool.options import PoolOptions
from fastserve.pool.stats import PoolStats
from fastserve.pool.total import TotalLimits
from fastserve.pool.want import WantConn, WantState

__all__ = ["ConnPool"]

logger = logging.getLogger("fastserve")

C = TypeVar("C")

# As globals: an attribute of an enum class is looked up through its metaclass.
WAITING: Final = WantState.WAITING
FAILED: Final = WantState.FAILED
TICK: Final = 0.01
"""Seconds between two sweeps at least: how late a deadline may be noticed."""


class ConnPool(Generic[C]):
    """Pools connections of any kind for asyncio.

    `dial` opens one (an async function), `close` closes one (a plain or an async function). `attach`, if there is one, is
    told the `PooledConn` of each connection that was dialled, before anyone holds it: what the connection's owner
    needs for `lost`. `clock` gives seconds; the default is the monotonic clock. May be made outside of a loop; it
    belongs to the loop that first uses it. `total` and `after` are for `ConnPoolMap`.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_armed_at",
        "_attach",
        "_close",
        "_context",
        "_dials",
        "_drained",
        "_idle_duration",
        "_loop",
        "_on_event",
        "_swept_at",
        "_tasks",
        "_timer",
        "clock",
        "core",
        "dial",
        "take_idle",
    )

    def __init__(
        self,
        dial: Callable[[], Awaitable[C]],
        close: Callable[[C], Awaitable[None] | None],
        options: PoolOptions | None = None,
        *,
        attach: Callable[[PooledConn[C]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        total: TotalLimits | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.core: PoolCore[C] = PoolCore(options, total=total, attach=attach is not None)
        """The books, for those that look: conns, waiting, options. To be changed through the pool alone."""
        self.take_idle = self.core.take_idle
        """`acquire_nowait` for callers that have just read the clock: ``take_idle(now)``."""
        self.dial = dial
        self._close = close
        self._attach = attach
        self.clock = clock
        self._on_event = self.core.options.on_event
        self._idle_duration = self.core.options.max_idle_conn_duration or math.inf
        self._after = after
        """Called when the books may have changed in a way that other pools of a map feel."""
        self._context = contextvars.copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = math.inf
        self._swept_at = -math.inf
        self._dials: dict[DialTicket, asyncio.Task[C]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained: asyncio.Future[None] | None = None
        if self.core.options.min_idle_conns:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass  # made outside of a loop: kept up from the first acquire on
            else:
                self.sweep()

    # --- the warm path

    def acquire_nowait(self) -> PooledConn[C] | None:
        """A connection that is ready this instant, or None: then await `acquire`, which tests, dials and waits."""
        return self.core.take_idle(self.clock())

    def release(self, pooled: PooledConn[C]) -> None:
        """Give a connection back: to the first waiter, or to the idle list. Raises `PoolError` when it is not held."""
        clock = self.clock  # not called as self.clock(): an attribute that is no method is looked up at length
        now = clock()
        result = self.core.release(pooled, now)
        if result:
            if isinstance(result, WantConn):
                result.wake()
            else:
                self._carry_out(result)
        elif self._armed_at > now + self._idle_duration:
            self._arm()

    # --- everything else

    def acquire(self, timeout: float | None = None) -> Coroutine[Any, Any, PooledConn[C]]:
        """A connection, within `timeout` seconds of the caller's own. Give it back with `release` or `discard`, once.

        Raises `NoFreeConns`, `RequestTimeout` (the caller's time was the shorter), `DialError`, `PoolClosed`.
        """
        return waits.acquire(self, timeout)

    def enqueue(self, want: WantConn[C], now: float, timeout: float | None = None) -> None:
        """`acquire` for callers that do not sleep: `want.wake` is called when it is settled, maybe before this returns,
        maybe twice; then it is to be collected, or cancelled.
        """
        actions = self.core.acquire(want, now, timeout)
        if actions or self._after is not None:
            self._carry_out(actions)  # may settle it: a test that ends at once
        elif want.deadline < self._armed_at:
            self._arm()
        if want.state is WAITING:
            if self._on_event is not None:
                self._tell(PoolEvent("wait"))
        elif want.state is FAILED:
            want.wake()  # refused at once is no action

    def collect(self, want: WantConn[C]) -> PooledConn[C]:
        """What an enqueued `want` got, once it is settled: raises what `acquire` does."""
        if self._on_event is None:
            return want.take()
        try:
            pooled = want.take()
        except Exception as error:
            self._tell(PoolEvent("failed", error=error))
            raise
        self._tell(PoolEvent("served", pooled.conn))
        return pooled

    def cancel(self, want: WantConn[C]) -> None:
        """Whoever enqueued `want` has gone away. Also when it was woken in the same tick: what it was given goes to the
        next (aiohttp#9670).
        """
        actions = self.core.cancel(want, self.clock())
        if actions:
            self._carry_out(actions)

    def connection(self, timeout: float | None = None) -> Lease[C]:
        """``async with pool.connection() as conn:`` releases at the end, and discards when the block raised, since
        nobody knows what the connection was in the middle of.
        """
        return Lease(self, partial(self.acquire, timeout))

    def discard(self, pooled: PooledConn[C]) -> None:
        """Close a connection instead of giving it back. Raises `PoolError` when it is not held."""
        self._carry_out(self.core.discard(pooled, self.clock()))

    def redial(self, pooled: PooledConn[C], timeout: float | None = None) -> Coroutine[Any, Any, PooledConn[C]]:
        """A fresh connection for the one holder of a connection that died, in the same slot: hold what is returned.

        It is dialled once, in the caller's task, within `dial_timeout` and the caller's own `timeout` seconds. Raises
        `DialError`, `RequestTimeout` and `PoolClosed`; then `pooled` is still held, and to be discarded.
        """
        return waits.redial(self, pooled, timeout)

    def replace(self, pooled: PooledConn[C], conn: C) -> PooledConn[C]:
        """The second half of `redial`: `conn` takes the place of `pooled`, or is closed."""
        try:
            fresh, actions = self.core.replace(pooled, conn, self.clock())
        except PoolError:
            self._close_conn(conn)
            raise
        self._carry_out(actions)
        return fresh

    def lost(self, pooled: PooledConn[C]) -> None:
        """For the connection's owner: the peer closed it, or sent bytes that nobody asked for. Idle, it leaves the pool
        at once; held, it is closed on release. May be called more than once.
        """
        self._carry_out(self.core.lost(pooled, self.clock()))

    def set_max_conns(self, max_conns: int) -> None:
        """Change the limit. Raised, waiters are served; lowered, idle connections close now and held ones on release."""
        self._carry_out(self.core.set_limits(self.clock(), max_conns=max_conns))

    def close_idle_connections(self) -> None:
        """Close the connections that nobody holds."""
        self._carry_out(self.core.close_idle(self.clock()))

    def stats(self) -> PoolStats:
        return self.core.stats()

    @property
    def closed(self) -> bool:
        return self.core.closed

    def aclose(self, timeout: float | None = None) -> Coroutine[Any, Any, int]:
        """Close the pool: waiters get `PoolClosed`, idle connections close, and held ones as they are released.

        After `timeout` seconds (None: no limit) those still held are closed under their holders, who may still release
        them. Returns how many that were. When it returns, nothing of the pool runs any more.
        """
        return waits.close(self, timeout)

    def start_closing(self) -> None:
        """The first half of `aclose`: nothing new, and nothing idle."""
        self._carry_out(self.core.close(self.clock()))

    def cut(self) -> int:
        """The second half: close what is still held under its holders, and say how many that were."""
        held = self.core.conns
        self._carry_out(self.core.close_held(self.clock()))
        self._disarm()
        return held

    def drained(self) -> asyncio.Future[None] | None:
        """Done when the last connection is closed; None when there is none. To be shielded: there is one for all."""
        if not self.core.conns:
            return None
        if self._drained is None:
            self._drained = self.running_loop().create_future()
        return self._drained

    def tasks(self) -> list[asyncio.Task[Any]]:
        """What the pool runs now: dials, tests, resets and closings."""
        return [*self._dials.values(), *self._tasks]

    def __aenter__(self) -> Coroutine[Any, Any, ConnPool[C]]:
        return waits.opened(self)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        return waits.left(self, 0 if error is not None else None)

    def sweep(self) -> None:
        """Do now what the timer would: end waits, idle times, lifetimes and dials that have run out; keep up idle ones."""
        self._swept_at = self.clock()
        self._carry_out(self.core.tick(self._swept_at))

    def pump(self) -> None:
        """Room was made in another pool of the map."""
        self._carry_out(self.core.pump(self.clock()))

    def evict(self, pooled: PooledConn[C]) -> None:
        """Close one idle connection, to make room in another pool of the map."""
        self._carry_out(self.core.evict(pooled, self.clock()))

    # --- carrying out

    def _carry_out(self, actions: Actions) -> None:
        for action in actions:
            if isinstance(action, Wake):
                action.want.wake()
            else:
                self._do(action)
        wake = self.core.next_wake()
        if wake is None:
            if not self.core.conns:
                self._disarm()
        elif wake < self._armed_at:
            self._arm()
        if self._drained is not None and not self.core.conns and not self._drained.done():
            self._drained.set_result(None)
        if self._after is not None:
            self._after()

    def _do(self, action: Any) -> None:
        match action:
            case Dial(ticket):
                self._tell(PoolEvent("dial"))
                try:
                    loop = self.running_loop()
                except (RuntimeError, PoolError) as error:
                    self._carry_out(self.core.dial_failed(ticket, error, self.clock()))
                    return
                task = loop.create_task(waits.dialled(self.dial), context=self._context.copy())
                self._dials[ticket] = task
                task.add_done_callback(lambda task: self._dial_ended(ticket, task))
            case AbandonDial(ticket):
                self._dials[ticket].cancel()
            case Close(pooled, reason):
                self._tell(PoolEvent("closed", pooled.conn, reason))
                self._close_conn(pooled.conn)
            case Probe(pooled, last_used):
                test = self.core.options.test_on_borrow
                assert test is not None
                self._call(test, (pooled.conn, last_used), pooled, self.core.tested, none_is=False)
            case Reset(pooled):
                reset = self.core.options.reset
                assert reset is not None
                self._call(reset, (pooled.conn,), pooled, self.core.reset_done, none_is=True)
            case Attach(pooled):
                assert self._attach is not None
                try:
                    self._attach(pooled)
                except Exception:
                    logger.warning("pool: attach raised", exc_info=True)

    def _call(
        self,
        hook: Callable[..., Any],
        arguments: tuple[Any, ...],
        pooled: PooledConn[C],
        done: Callable[[PooledConn[C], bool, float], Actions],
        *,
        none_is: bool,
    ) -> None:
        """Run a hook of the user's on a connection, in place or, when it is async, in a task bounded by dial_timeout."""

        def ended(result: Any) -> None:
            self._carry_out(done(pooled, none_is if result is None else bool(result), self.clock()))

        try:
            result = hook(*arguments)
        except Exception as error:
            logger.info("pool: %r refused a connection: %r", hook, error)
            ended(False)
            return
        if not inspect.isawaitable(result):
            ended(result)
            return
        self._background(waits.tried(hook, result, self.core.options.dial_timeout, ended))

    def _close_conn(self, conn: C) -> None:
        try:
            result = self._close(conn)
        except Exception:
            logger.warning("pool: closing %r failed", conn, exc_info=True)
            return
        if inspect.isawaitable(result):
            self._background(waits.closing_ended(conn, result, self.core.options.dial_timeout))

    def _dial_ended(self, ticket: DialTicket, task: asyncio.Task[C]) -> None:
        """As a callback and not in the task: a task that is cancelled before its first step runs nothing of itself."""
        del self._dials[ticket]
        now = self.clock()
        error: BaseException | None = DialError("the dial was cancelled") if task.cancelled() else task.exception()
        if error is None:
            conn = task.result()
            self._tell(PoolEvent("dialled", conn))
            self._carry_out(self.core.dialled(ticket, conn, now))
        else:
            self._tell(PoolEvent("dial_failed", error=error))
            self._carry_out(self.core.dial_failed(ticket, error, now))

    def _background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.running_loop().create_task(coroutine, context=self._context.copy())
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    def _tell(self, event: PoolEvent) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.warning("pool: on_event raised", exc_info=True)

    def running_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of this pool. Raises `PoolError` in another one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise PoolError("this pool belongs to another event loop: make one pool per loop")
            self._loop = loop
        return loop

    # --- the timer

    def _arm(self) -> None:
        """Have the timer run when the core next has something to do."""
        wake = self.core.next_wake()
        if wake is None:
            return
        wake = max(wake, self._swept_at + TICK)
        if wake >= self._armed_at:
            return
        self._disarm()
        self._armed_at = wake
        self._timer = self.running_loop().call_later(max(0.0, wake - self.clock()), self._timer_fired)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_at = math.inf

    def _timer_fired(self) -> None:
        self._timer = None
        self._armed_at = math.inf
        self.sweep()
