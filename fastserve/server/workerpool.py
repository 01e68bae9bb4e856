"""`WorkerPool`: reusable asyncio tasks that serve one request after another. No sockets, no HTTP.

A worker is a long-lived task, parked on a future of its own. `WorkerPool.start` takes the
worker that finished last (LIFO: its memory is warm, and the oldest grow old enough to be
reaped) and steps the handler's coroutine *in place*: from the caller's own frame, entered as
the current task, in a fresh copy of the base context. A handler that never waits is done
when `start` returns, without a turn of the loop. When it does wait, the worker's task is
woken and drives the coroutine on; from there on everything is as in an ordinary task.

Invariants (tests/server/test_workerpool.py):
1. Tasks are created by `_new_worker` alone: when no worker is ready and fewer than `concurrency` exist.
2. ready + busy = workers <= concurrency.
3. A newcomer never overtakes the queue; the queue is served first come, first served.
4. Each work ends exactly once: done in place, `ended()`, or `refused()`.
5. `current_task()` is the worker's task in every step of the handler.
6. A cancellation reaches the handler that was running when it was asked for, and nobody else: a worker whose
   cancellation is pending when its work ends is retired.
7. Each work runs in its own copy of the base context.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio.tasks import _enter_task, _leave_task  # the eager half of a task's step; public from nowhere
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any, Protocol

from fastserve.errors import WorkerPoolClosed

__all__ = ["Work", "Worker", "WorkerPool", "call_and_await"]

# What `next(steps, DONE)` gives when the coroutine has returned: no StopIteration is made, which costs as much as all the rest.
DONE: Any = object()

CANCEL_TIMEOUT = 5.0
"""Seconds that a cancelled handler has to clean up."""

# From 3.13 on, uncancel() takes back a cancellation that was not delivered yet.
UNCANCEL_WITHDRAWS = sys.version_info >= (3, 13)


class Work(Protocol):
    """What a worker does: steps of a coroutine, then an end."""

    failure: BaseException | None
    """Set by the worker to what the coroutine raised, before the end; None before and otherwise."""
    worker: Worker | None
    """The worker that is busy with it, once it has waited."""
    context: contextvars.Context | None
    """Where each step runs: None takes a copy of the base context, and it stays for what follows on the same work."""

    run: Callable[[Any], Awaitable[Any]]
    """Called once with the work itself, when a worker begins; what it returns is stepped to its end."""

    def ended(self) -> bool:
        """The coroutine, which had waited, has returned or raised. True asks the same worker to run it again: `run`
        is another function now, for a second phase in the same context. Must not raise.
        """

    def refused(self) -> None:
        """No worker came free in time. Must not raise."""


def call_and_await(handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """For `Work.run`: what `handler` does before it returns its awaitable belongs to the first step as well."""

    async def run(work: Any) -> None:
        await handler(work)

    return run


class Worker:
    """One reusable task. `cancel()` cancels what it serves now."""

    __slots__ = ("_pool", "_steps", "_work", "_yielded", "idle_since", "parked", "task")

    def __init__(self, pool: WorkerPool, number: int) -> None:
        self._pool = pool
        self._work: Work | None = None
        self._steps: Generator[Any, None, Any] | None = None
        self._yielded: Any = None
        self.idle_since = 0.0
        self.parked: asyncio.Future[None] = pool.loop.create_future()
        """Done when this worker has something to do, or was cancelled while it had not."""
        self.task = pool.loop.create_task(self._run(), name=f"fastserve-worker-{number}")
        # Not a `finally` in `_run`: a task that is cancelled before its first step never runs its code.
        self.task.add_done_callback(self._task_ended)

    def cancel(self) -> None:
        """Cancel the work under way. Not to be called for a worker that is ready."""
        self.task.cancel()

    def give(self, work: Work) -> None:
        """Begin `work` in the worker's own task, at the loop's next turn. The worker is parked and not in the ready list."""
        self._work = work
        self.parked.set_result(None)

    def adopt(self, work: Work, steps: Generator[Any, None, Any], yielded: Any) -> None:
        """Go on with `work`, whose first step in place ended in a wait for `yielded`."""
        self._work = work
        self._steps = steps
        self._yielded = yielded
        if not self.parked.done():  # it is when the handler's first step cancelled its own task
            self.parked.set_result(None)

    async def _run(self) -> None:
        pool = self._pool
        while True:
            cancelled: asyncio.CancelledError | None = None
            try:
                await self.parked  # a new worker's is done already, but for an eager task factory
            except asyncio.CancelledError as error:
                if self._work is None:
                    return  # cancelled while idle: by the pool, or by somebody who cancels every task
                if not UNCANCEL_WITHDRAWS or self.task.cancelling():
                    cancelled = error  # it was meant for the handler, between its first wait and now
            work = self._work
            if work is None:
                return  # woken without work: retired
            work.worker = self
            more = True
            while more:
                try:
                    await self._drive(work, cancelled)
                except BaseException as error:
                    if isinstance(error, GeneratorExit) and not self._stepped_by_task():
                        raise
                    work.failure = error
                self._steps = self._yielded = cancelled = None
                more = work.ended()
            self._work = work.worker = None
            del work
            # `_must_cancel` is a cancellation that was asked for and not delivered: it would meet the next handler.
            if self.task.cancelling() or getattr(self.task, "_must_cancel", False) or pool.closed:
                pool.retired(self)  # not only when the task's end is noticed: its place is free now
                return
            self.parked = pool.loop.create_future()
            pool.release(self)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        work = self._work
        more = False
        if work is not None:
            self._work = work.worker = None
            work.failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            more = work.ended()
        self._pool.tasks.discard(task)
        self._pool.retired(self, work if more else None)

    def _stepped_by_task(self) -> bool:
        """False when the coroutine is being closed instead: the loop ended with work under way."""
        return asyncio.current_task(self._pool.loop) is self.task

    @coroutine
    def _drive(self, work: Work, cancelled: asyncio.CancelledError | None) -> Generator[Any, None, None]:
        """Step the handler's coroutine to its end, each step in its own context."""
        context = work.context
        if context is None:
            context = work.context = self._pool.base_context.copy()
        run = context.run
        steps = self._steps
        if steps is None:
            if cancelled is not None:
                raise cancelled  # before its first step: as a task, it never begins
            steps = work.run(work).__await__()
            yielded = run(next, steps, DONE)
        else:
            yielded = self._yielded
            self._yielded = None
        if cancelled is not None:
            # As Task.cancel does: cancel what the coroutine waits for, and throw only if that can't be cancelled.
            blocking = getattr(yielded, "_asyncio_future_blocking", None)
            if not (blocking and yielded.cancel(*cancelled.args[:1])):
                try:
                    yielded = run(steps.throw, cancelled)
                except StopIteration:
                    return
        thrown: BaseException | None = None
        while yielded is not DONE:
            try:
                yield yielded
            except GeneratorExit as error:
                if not self._stepped_by_task():
                    steps.close()
                    raise
                thrown = error
            except BaseException as error:
                thrown = error
            if thrown is None:
                yielded = run(next, steps, DONE)
            else:
                # Not in the `except` above: it would be the context of whatever the handler raises later in this step.
                try:
                    yielded = run(steps.throw, thrown)
                except StopIteration:
                    return
                finally:
                    thrown = None


class WorkerPool:
    """At most `concurrency` workers; one more work waits `max_worker_wait` seconds for its turn, or is refused at once.

    `loop` is the running loop. `tick(now)` is to be called now and then with the loop's time; it reaps workers that
    were idle for `max_idle_worker_duration` seconds and refuses work that waited too long.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        concurrency: int,
        max_worker_wait: float = 0.0,
        max_idle_worker_duration: float = 10.0,
    ) -> None:
        self.loop = loop
        self.base_context = contextvars.copy_context()
        self.closed = False
        self.now = loop.time()
        """The loop's time at the last tick: idle times need no clock per request."""
        self.created = 0
        """Workers ever created."""
        self._concurrency = concurrency
        self._max_wait = max_worker_wait
        self._max_idle = max_idle_worker_duration
        self._ready: list[Worker] = []
        self._all: set[Worker] = set()  # those that can serve, now or next
        self.tasks: set[asyncio.Task[None]] = set()
        """Tasks of all workers, those included that are on their way out."""
        self._queue: OrderedDict[Work, float] = OrderedDict()  # work and its deadline, in order of arrival

    @property
    def workers(self) -> int:
        """Workers there are, ready or busy."""
        return len(self._all)

    @property
    def ready(self) -> int:
        return len(self._ready)

    @property
    def busy(self) -> int:
        return len(self._all) - len(self._ready)

    @property
    def waiting(self) -> int:
        """Works that wait for a worker."""
        return len(self._queue)

    def start(self, work: Work) -> bool:
        """Begin `work`. True: it has ended already, see `work.failure`. False: `work.ended()` or `refused()` follows.

        Not to be called while a task is current. Raises `WorkerPoolClosed`.
        """
        ready = self._ready
        while ready:
            worker = ready.pop()
            if worker.parked.done():
                self._all.discard(worker)  # cancelled while it was ready: it is on its way out
                continue
            task = worker.task
            loop = self.loop
            context = work.context
            if context is None:
                context = work.context = self.base_context.copy()
            _enter_task(loop, task)
            try:
                steps = work.run(work).__await__()
                yielded = context.run(next, steps, DONE)
            except BaseException as error:
                work.failure = error
                yielded = DONE
            finally:
                _leave_task(loop, task)
            if yielded is DONE:
                worker.idle_since = self.now
                if self._queue or self.closed:
                    self.release(worker)
                else:
                    ready.append(worker)
                return True
            work.worker = worker
            worker.adopt(work, steps, yielded)
            return False
        self._start_without_ready(work)
        return False

    def _start_without_ready(self, work: Work) -> None:
        if self.closed:
            raise WorkerPoolClosed("the worker pool is closed")
        if len(self._all) < self._concurrency:
            self._new_worker(work)
        elif self._max_wait > 0 and len(self._queue) < self._concurrency:
            self._queue[work] = self.now + self._max_wait
        else:
            work.refused()

    def _new_worker(self, work: Work) -> None:
        # A task can't be stepped in place before its own first step: a cancellation would never reach its code.
        self.created += 1
        # A task holds the context that it is made in, which may be that of somebody's request.
        worker = self.base_context.copy().run(Worker, self, self.created)
        self._all.add(worker)
        self.tasks.add(worker.task)
        work.worker = worker
        worker.give(work)

    def withdraw(self, work: Work) -> None:
        """Take `work` out of the queue: its client has gone. No-op when it does not wait."""
        self._queue.pop(work, None)

    def release(self, worker: Worker) -> None:
        """`worker` is parked and free: it serves the first in the queue, or becomes ready."""
        if worker.parked.done():
            return  # cancelled: its task is on its way to `retired`, which gives the place to the queue
        if self._queue:
            work, _ = self._queue.popitem(last=False)
            work.worker = worker
            worker.give(work)
        elif self.closed:
            worker.parked.set_result(None)
        else:
            worker.idle_since = self.now
            self._ready.append(worker)

    def retired(self, worker: Worker, unfinished: Work | None = None) -> None:
        """`worker` serves no more: its place is free, for work that it left `unfinished`, or the first in the queue."""
        self._all.discard(worker)
        if worker in self._ready:
            self._ready.remove(worker)
        if unfinished is not None:
            if self.closed:
                unfinished.refused()
            else:
                self._new_worker(unfinished)
        elif self._queue and not self.closed and len(self._all) < self._concurrency:
            work, _ = self._queue.popitem(last=False)
            self._new_worker(work)

    def tick(self, now: float) -> None:
        """Reap and refuse by the loop's time `now`."""
        self.now = now
        ready = self._ready
        # The list is ordered by the time of the last use: the oldest stand at the front.
        expired = 0
        while expired < len(ready) and ready[expired].idle_since + self._max_idle <= now:
            expired += 1
        for worker in ready[:expired]:
            if not worker.parked.done():
                worker.parked.set_result(None)
            self._all.discard(worker)
        del ready[:expired]
        while self._queue and next(iter(self._queue.values())) <= now:
            work, _ = self._queue.popitem(last=False)
            work.refused()

    async def close(self, timeout: float = CANCEL_TIMEOUT) -> int:
        """Refuse what waits, cancel what is under way, end every worker, and wait `timeout` seconds for that.

        Returns how many are left: those whose handler caught its cancellation and went on.
        """
        self.closed = True
        while self._queue:
            work, _ = self._queue.popitem(last=False)
            work.refused()
        ready, self._ready = self._ready, []
        for worker in ready:
            if not worker.parked.done():
                worker.parked.set_result(None)
        for worker in self._all.difference(ready):
            worker.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout)
        return len(self.tasks)
