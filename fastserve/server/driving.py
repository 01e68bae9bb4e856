"""Driving a handler's coroutine from a worker's task, each step in the work's own context.

What a worker's task runs: it waits until there is work, drives that to its end, and waits again. A coroutine whose first step
ended in a wait, in `WorkerPool.start`, is driven on from there as in an ordinary task. All coroutines of the worker pool are
here, since they are never compiled: see `.ci/hatch_build.py`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.server.work import Work
    from fastserve.server.worker import Worker

__all__ = ["RETURNED", "all_ended", "call_and_await", "run_worker"]

# What `next(steps, RETURNED)` gives at the coroutine's end: no StopIteration is made, which costs as much as all the rest.
RETURNED: Any = object()

# From 3.13 on, uncancel() takes back a cancellation that was not delivered yet.
UNCANCEL_WITHDRAWS = sys.version_info >= (3, 13)


def call_and_await(handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """For `Work.run`: what `handler` does before it returns its awaitable belongs to the first step as well."""

    async def run(work: Any) -> None:
        await handler(work)

    return run


async def run_worker(worker: Worker) -> None:
    """The task of `worker`, until it is retired."""
    pool = worker.pool
    while True:
        cancelled: asyncio.CancelledError | None = None
        try:
            await worker.parked  # a new worker's is done already, but for an eager task factory
        except asyncio.CancelledError as error:
            if worker.work is None:
                return  # cancelled while idle: by the pool, or by somebody who cancels every task
            if not UNCANCEL_WITHDRAWS or worker.task.cancelling():
                cancelled = error  # it was meant for the handler, between its first wait and now
        work = worker.work
        if work is None:
            return  # woken without work: retired
        work.worker = worker
        more = True
        while more:
            try:
                await _drive(worker, work, cancelled)
            except BaseException as error:
                if isinstance(error, GeneratorExit) and not _stepped_by_task(worker):
                    raise
                work.failure = error
            worker.steps = worker.yielded = cancelled = None
            more = work.ended()
        worker.work = work.worker = None
        del work
        # `_must_cancel` is a cancellation that was asked for and not delivered: it would meet the next handler.
        if worker.task.cancelling() or getattr(worker.task, "_must_cancel", False) or pool.closed:
            pool.retired(worker)  # not only when the task's end is noticed: its place is free now
            return
        worker.parked = pool.loop.create_future()
        pool.release(worker)


def _stepped_by_task(worker: Worker) -> bool:
    """False when the coroutine is being closed instead: the loop ended with work under way."""
    return asyncio.current_task(worker.pool.loop) is worker.task


@coroutine
def _drive(worker: Worker, work: Work, cancelled: asyncio.CancelledError | None) -> Generator[Any, None, None]:
    """Step the handler's coroutine to its end, each step in its own context."""
    context = work.context
    if context is None:
        context = work.context = worker.pool.base_context.copy()
    run = context.run
    steps = worker.steps
    if steps is None:
        if cancelled is not None:
            raise cancelled  # before its first step: as a task, it never begins
        steps = work.run(work).__await__()
        yielded = run(next, steps, RETURNED)
    else:
        yielded = worker.yielded
        worker.yielded = None
    if cancelled is not None:
        # As Task.cancel does: cancel what the coroutine waits for, and throw only if that can't be cancelled.
        blocking = getattr(yielded, "_asyncio_future_blocking", None)
        if not (blocking and yielded.cancel(*cancelled.args[:1])):
            try:
                yielded = run(steps.throw, cancelled)
            except StopIteration:
                return
    thrown: BaseException | None = None
    while yielded is not RETURNED:
        try:
            yield yielded
        except GeneratorExit as error:
            if not _stepped_by_task(worker):
                steps.close()
                raise
            thrown = error
        except BaseException as error:
            thrown = error
        if thrown is None:
            yielded = run(next, steps, RETURNED)
        else:
            # Not in the `except` above: it would be the context of whatever the handler raises later in this step.
            try:
                yielded = run(steps.throw, thrown)
            except StopIteration:
                return
            finally:
                thrown = None


async def all_ended(tasks: set[asyncio.Task[None]], timeout: float) -> int:
    """Wait for `tasks`, which leave the set as they end, for `timeout` seconds: how many are left."""
    if tasks:
        await asyncio.wait(tasks, timeout=timeout)
    return len(tasks)
