"""`WorkerPool`: reusable asyncio tasks that serve one request after another. No sockets, no HTTP.

`WorkerPool.start` takes the worker that finished last (LIFO: its memory is warm, and the oldest
grow old enough to be reaped) and steps the handler's coroutine *in place*: from the caller's own
frame, entered as the current task, in a fresh copy of the base context. A handler that never
waits is done when `start` returns, without a turn of the loop. When it does wait, the worker's
task is woken and drives the coroutine on.

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
from asyncio.tasks import _enter_task, _leave_task  # the eager half of a task's step; public from nowhere
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, Final

from fastserve.errors import WorkerPoolClosed
from fastserve.server import driving
from fastserve.server.work import Work
from fastserve.server.worker import Worker

__all__ = ["CANCEL_TIMEOUT", "WorkerPool"]

CANCEL_TIMEOUT: Final = 5.0
"""Seconds that a cancelled handler has to clean up."""

# At hand when the module is compiled: a builtin, or a name of another module, is looked up at each use.
NEXT: Final = next
ENTER_TASK: Final = _enter_task
LEAVE_TASK: Final = _leave_task
RETURNED: Final = driving.RETURNED


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
            ENTER_TASK(loop, task)
            try:
                steps = work.run(work).__await__()
                yielded = context.run(NEXT, steps, RETURNED)
            except BaseException as error:
                work.failure = error
                yielded = RETURNED
            finally:
                LEAVE_TASK(loop, task)
            if yielded is RETURNED:
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

    def close(self, timeout: float = CANCEL_TIMEOUT) -> Coroutine[Any, Any, int]:
        """Refuse what waits, cancel what is under way, and end every worker. Await what it returns to give them `timeout`
        seconds for that: it gives how many are left, those whose handler caught its cancellation and went on.
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
        return driving.all_ended(self.tasks, timeout)
