"""`ThreadWorkerPool`: reusable threads for handlers that block, driven from one event loop.

The order is the task workers': the thread that finished last is the first to be woken,
idle threads are reaped oldest first, and what finds no thread waits its turn.

A switch between threads costs more than a quick handler, so there is not one for each:
a thread is woken for the *queue*, not for one work, and once for all the works of a
turn of the loop (`start_soon`). It begins them one by one, and each stays in the queue
until then. Who looks after those behind a handler that blocks is the loop: the thread
calls it when it leaves work behind, and by the GIL it comes just when it is wanted, after
the last of the quick handlers or as soon as one blocks. When work of an earlier turn
waits then, another thread is woken, and until the queue is empty each thread wakes the
next one before its own call: slow handlers get a thread each.

Invariants (tests/server/test_threadpool.py):
1. threads <= max_threads; running + waiting <= concurrency.
2. Work waits only while no thread is free, or while one is being woken, or until the loop has its next turn.
3. Each work ends exactly once, on the loop: `call_ended()` or `refused()`.
4. At most one call of the loop is under way, however many works have ended or wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Protocol

from fastserve.errors import RequestError, WorkerPoolClosed

__all__ = ["ThreadWork", "ThreadWorkerPool"]


class ThreadWork(Protocol):
    """What a thread does: a call that may block, then an end on the loop."""

    failure: BaseException | None
    context: contextvars.Context | None

    def call(self) -> None:
        """Called once, in a thread, in the work's own context."""

    def call_ended(self) -> None:
        """`call` has returned, or raised `failure`. On the loop. Must not raise."""

    def refused(self) -> None:
        """No thread came free in time. On the loop. Must not raise."""


class _Thread:
    """One reusable thread, parked on a lock of its own."""

    __slots__ = ("idle_since", "retired", "wake")

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.retired = False
        self.wake = threading.Lock()
        self.wake.acquire()


class ThreadWorkerPool:
    """At most `max_threads` threads; further work waits up to `max_wait` seconds, and at most `concurrency` is in flight.

    `start`, `start_soon`, `tick` and `close` are for the loop's own thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        max_threads: int,
        concurrency: int,
        max_wait: float = 30.0,
        max_idle_worker_duration: float = 10.0,
    ) -> None:
        self.loop = loop
        self.base_context = contextvars.copy_context()
        self.closed = False
        self.now = loop.time()
        self.created = 0
        """Threads ever created."""
        self._max_threads = max_threads
        self._concurrency = concurrency
        self._max_wait = max_wait
        self._max_idle = max_idle_worker_duration
        self._lock = threading.Lock()  # guards what follows
        self._queue: OrderedDict[ThreadWork, float] = OrderedDict()
        self._ready: list[_Thread] = []
        self._threads = 0
        self._running = 0
        self._waking = False
        self._chained = False  # each thread wakes the next one before its own call, until the queue is empty
        self._starved = False  # the system had no thread left, the last time one was to be made
        self._ended: deque[ThreadWork] = deque()
        self._posted = False
        self._fresh = 0  # works that `_wake_for_turn`, which is on its way, is to wake a thread for
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def start(self, work: ThreadWork) -> bool:
        """Queue `work` for a thread and return False: it is under way. Raises `WorkerPoolClosed`.

        A thread is woken now, and does not rely on the loop for what it leaves behind: for a caller that may block.
        """
        if self._admit(work):
            with self._lock:
                if self._queue:
                    self._chained = True
                    if not self._waking:
                        self._wake_one()
        return False

    def start_soon(self, work: ThreadWork) -> bool:
        """As `start`, but a thread is woken at the loop's next turn, once for all that came in this one."""
        if self._admit(work):
            self._fresh += 1
            if self._fresh == 1:
                self.loop.call_soon(self._wake_for_turn, context=self.base_context)
        return False

    def _admit(self, work: ThreadWork) -> bool:
        """Queue `work`, or refuse it."""
        if self.closed:
            raise WorkerPoolClosed("the thread pool is closed")
        with self._lock:
            begun = self._running + len(self._queue)
            admitted = begun < self._concurrency and (self._max_wait > 0 or begun < self._max_threads)
            if admitted:
                self._queue[work] = self.now + self._max_wait
        if not admitted:
            work.refused()
        return admitted

    def _wake_for_turn(self) -> None:
        """Wake a thread for the works of the turn before."""
        with self._lock:
            self._fresh = 0
            if self._queue and not self._waking:
                self._wake_one()

    def withdraw(self, work: ThreadWork) -> None:
        """Take `work` out of the queue: nobody wants it any more. No-op when it does not wait."""
        with self._lock:
            self._queue.pop(work, None)

    def _wake_one(self) -> None:
        """Wake the thread that was last to finish, or start one, if one more may run. The lock is held."""
        if self._ready:
            self._waking = True
            self._ready.pop().wake.release()
        elif self._threads < self._max_threads:
            self._waking = True
            self._threads += 1
            self.created += 1
            self._empty.clear()
            # A daemon: a handler that never returns must not keep the process from ending.
            thread = threading.Thread(
                target=self._run, args=(_Thread(),), name=f"fastserve-thread-{self.created}", daemon=True
            )
            try:
                thread.start()
                self._starved = False
            except RuntimeError:  # the system has no thread left: what is queued waits for those there are
                self._waking = False
                self._starved = True
                self._threads -= 1
                if not self._threads:
                    self._empty.set()

    def _run(self, thread: _Thread) -> None:
        work: ThreadWork | None = None
        woken = True
        ends = False
        while not ends:
            post = False
            with self._lock:
                if woken:
                    self._waking = woken = False
                if work is not None:
                    self._running -= 1
                    # Append first, look second; `_deliver` resets first, empties second: nothing stays behind.
                    self._ended.append(work)
                    work = None
                    post, self._posted = not self._posted, True
                if self._queue:
                    work, _ = self._queue.popitem(last=False)
                    self._running += 1
                    if not self._queue:
                        self._chained = False
                    elif not self._chained:
                        # The loop is to look after the others, in case that this call blocks.
                        post, self._posted = post or not self._posted, True
                    elif not self._waking:
                        self._wake_one()
                elif self.closed or thread.retired:
                    self._threads -= 1
                    ends = True
                else:
                    # Before the loop hears of the end: it may have the next work, and must find this thread ready.
                    thread.idle_since = self.now
                    self._ready.append(thread)
            if post:
                self._call_loop(self._deliver)
            if work is not None:
                self._call(work)
            elif not ends:
                thread.wake.acquire()
                woken = not thread.retired
        self._call_loop(self._thread_ended)

    def _call(self, work: ThreadWork) -> None:
        context = work.context
        if context is None:
            context = work.context = self.base_context.copy()
        try:
            context.run(work.call)
        except BaseException as error:
            work.failure = error
            del work  # the error refers to this frame

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to hear of it

    def _deliver(self) -> None:
        """What a thread calls the loop for: to end works, and to look after those that it has left in the queue."""
        self._posted = False
        if self._queue:
            with self._lock:
                # Works of this turn will have their own thread woken.
                if len(self._queue) > self._fresh and not self._waking:
                    self._chained = True
                    self._wake_one()
        ended = self._ended
        while ended:
            ended.popleft().call_ended()  # no variable: a RequestCtx is used again when nobody else holds it

    def _thread_ended(self) -> None:
        if not self._threads:
            self._empty.set()

    def tick(self, now: float) -> None:
        """Reap and refuse by the loop's time `now`."""
        self.now = now
        with self._lock:
            expired = 0
            while expired < len(self._ready) and self._ready[expired].idle_since + self._max_idle <= now:
                expired += 1
            for thread in self._ready[:expired]:
                thread.retired = True
                thread.wake.release()
            del self._ready[:expired]
            if self._queue and not self._waking:
                self._wake_one()  # after the system had no thread left
            # Those at the front have a thread on its way to them: they are late by a switch, not for want of a thread.
            free = (self._threads if self._starved else self._max_threads) - self._running
            late = itertools.takewhile(lambda entry: entry[1] <= now, self._queue.items())
            refused = [work for work, _ in itertools.islice(late, max(free, 0), None)]
            for work in refused:
                del self._queue[work]
        for work in refused:
            work.refused()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(*args)`` in a thread and return its result; raise what it raises, `RequestError` 503 when no
        thread came free in time (see the options threads and max_thread_wait).
        """
        call = _Call(self, function, args)
        self.start_soon(call)
        try:
            return await call.result
        finally:
            self.withdraw(call)
            del call  # an exception refers to this frame, and `call` to the exception

    def submit(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """As `run`, but begun at once, and done also when nobody waits for it any more."""
        call = _Call(self, function, args)
        self.start(call)
        return call.result

    async def close(self, timeout: float) -> int:
        """Refuse what waits, end idle threads, wait `timeout` seconds for busy ones; return how many are left in a call."""
        self.closed = True
        with self._lock:
            refused = list(self._queue)
            self._queue.clear()
            for thread in self._ready:
                thread.retired = True
                thread.wake.release()
            self._ready.clear()
        for work in refused:
            work.refused()
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            pass
        return self._running


class _Call:
    """A plain function as `ThreadWork`."""

    __slots__ = ("_args", "_function", "_value", "context", "failure", "result")

    def __init__(self, pool: ThreadWorkerPool, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.failure: BaseException | None = None
        self.context: contextvars.Context | None = contextvars.copy_context()
        self.result: asyncio.Future[Any] = pool.loop.create_future()
        self._function = function
        self._args = args
        self._value: Any = None

    def call(self) -> None:
        try:
            self._value = self._function(*self._args)
        finally:
            del self  # what the function raises refers to this frame, and `self` to what it raised

    def call_ended(self) -> None:
        if self.result.done():
            return  # the caller was cancelled
        if self.failure is None:
            self.result.set_result(self._value)
        elif isinstance(self.failure, StopIteration):
            # A future refuses it, since it would end the waiting coroutine instead of raising in it.
            error = RuntimeError("the function raised StopIteration")
            error.__cause__ = self.failure
            self.result.set_exception(error)
        else:
            self.result.set_exception(self.failure)

    def refused(self) -> None:
        if not self.result.done():
            self.result.set_exception(RequestError(503, "the server is busy"))
