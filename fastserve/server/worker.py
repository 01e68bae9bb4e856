"""`Worker`: one reusable task of a `WorkerPool`, parked on a future of its own while it has nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from fastserve.server.driving import run_worker

if TYPE_CHECKING:
    from fastserve.server.work import Work
    from fastserve.server.workerpool import WorkerPool

__all__ = ["Worker"]


class Worker:
    """One reusable task. `cancel()` cancels what it serves now."""

    __slots__ = ("idle_since", "parked", "pool", "steps", "task", "work", "yielded")

    def __init__(self, pool: WorkerPool, number: int) -> None:
        self.pool = pool
        self.work: Work | None = None
        """What it serves, or is about to."""
        self.steps: Generator[Any, None, Any] | None = None
        self.yielded: Any = None
        """The coroutine that was adopted, and what it waits for: until the task goes on with it."""
        self.idle_since = 0.0
        self.parked: asyncio.Future[None] = pool.loop.create_future()
        """Done when this worker has something to do, or was cancelled while it had not."""
        self.task = pool.loop.create_task(run_worker(self), name=f"fastserve-worker-{number}")
        # Not a `finally` in its coroutine: a task that is cancelled before its first step never runs its code.
        self.task.add_done_callback(self._task_ended)

    def cancel(self) -> None:
        """Cancel the work under way. Not to be called for a worker that is ready."""
        self.task.cancel()

    def give(self, work: Work) -> None:
        """Begin `work` in the worker's own task, at the loop's next turn. The worker is parked and not in the ready list."""
        self.work = work
        self.parked.set_result(None)

    def adopt(self, work: Work, steps: Generator[Any, None, Any], yielded: Any) -> None:
        """Go on with `work`, whose first step in place ended in a wait for `yielded`."""
        self.work = work
        self.steps = steps
        self.yielded = yielded
        if not self.parked.done():  # it is when the handler's first step cancelled its own task
            self.parked.set_result(None)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        work = self.work
        more = False
        if work is not None:
            self.work = work.worker = None
            work.failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            more = work.ended()
        self.pool.tasks.discard(task)
        self.pool.retired(self, work if more else None)
