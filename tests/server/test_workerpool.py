"""`WorkerPool` without sockets: its invariants, and a handler's life in a worker compared with that in a task."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve.errors import WorkerPoolClosed
from fastserve.server.worker import Worker
from fastserve.server.workerpool import WorkerPool
from tests.server.clients import Run, count_tasks, turns
from tests.server.handler_snippets import SNIPPETS, VAR, Snippet, me, never

Body = Callable[["FakeWork"], Awaitable[Any]]

MAX_IDLE = 10.0
MAX_WAIT = 5.0


class FakeWork:
    """Work that notes what happens to it, and is awaited through `over`."""

    def __init__(self, run: Body, *, second: Body | None = None) -> None:
        self.failure: BaseException | None = None
        self.worker: Worker | None = None
        self.context: contextvars.Context | None = None
        self.run: Body = run
        self.second = second
        self.ends: list[str] = []
        self.over = asyncio.Event()

    def ended(self) -> bool:
        if self.second is not None:
            self.run, self.second = self.second, None
            return True
        self._end("ended")
        return False

    def refused(self) -> None:
        self._end("refused")

    def done_in_place(self) -> None:
        self._end("in place")

    def _end(self, how: str) -> None:
        self.ends.append(how)
        self.over.set()


async def on_loop(function: Callable[..., Any], *args: Any) -> Any:
    """Call it as the loop does, while no task is current."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def call() -> None:
        try:
            result.set_result(function(*args))
        except Exception as error:
            result.set_exception(error)

    asyncio.get_running_loop().call_soon(call)
    return await result


def start_now(pool: WorkerPool, work: FakeWork) -> bool:
    done = pool.start(work)
    if done:
        work.done_in_place()
    return done


async def start(pool: WorkerPool, work: FakeWork) -> bool:
    done: bool = await on_loop(start_now, pool, work)
    return done


def new_pool(concurrency: int = 4, max_worker_wait: float = 0.0) -> WorkerPool:
    return WorkerPool(
        asyncio.get_running_loop(),
        concurrency=concurrency,
        max_worker_wait=max_worker_wait,
        max_idle_worker_duration=MAX_IDLE,
    )


async def quick(work: FakeWork) -> None:
    pass


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.get_running_loop().create_future()
        self.entered = asyncio.Event()

    async def __call__(self, work: FakeWork) -> None:
        self.entered.set()
        await self.open


async def block(pool: WorkerPool) -> Gate:
    """Keep one worker busy until the gate is opened."""
    gate = Gate()
    await start(pool, FakeWork(gate))
    return gate


async def warm(pool: WorkerPool, count: int) -> list[Worker]:
    """Make `count` ready workers; the last one to finish is the last of the list."""
    gates = [Gate() for _ in range(count)]
    works = [FakeWork(gate) for gate in gates]
    workers = []
    for gate, work in zip(gates, works, strict=True):
        assert not await start(pool, work)
        await gate.entered.wait()
        assert work.worker is not None
        workers.append(work.worker)
    for gate, work in zip(gates, works, strict=True):
        gate.open.set_result(None)
        await work.over.wait()
    await turns()
    assert pool.ready == count
    return workers


async def assert_clean(pool: WorkerPool) -> None:
    """Nothing is left of what was served: no worker is lost, and the next handler meets nobody else's state."""
    await turns()
    assert pool.workers == pool.ready
    assert pool.busy == pool.waiting == 0
    assert len(pool.tasks) == pool.workers
    for _ in range(2):
        found: list[Any] = []

        async def probe(work: FakeWork, found: list[Any] = found) -> None:
            task = asyncio.current_task()
            assert task is not None
            found.extend((task.cancelling(), VAR.get(None), sys.exc_info()[1]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            found.append("served")

        work = FakeWork(probe)
        await start(pool, work)
        await work.over.wait()
        assert work.ends == ["ended"]
        assert work.failure is None
        assert found == [0, None, None, "served"]
        await turns()
    assert pool.workers == pool.ready > 0


# Which worker


def test_first_work_makes_a_worker_and_the_next_is_done_in_place(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        first, second = FakeWork(quick), FakeWork(quick)
        assert not await start(pool, first)
        await first.over.wait()
        await turns()
        assert (first.ends, pool.workers, pool.ready, pool.created) == (["ended"], 1, 1, 1)
        assert await start(pool, second)
        assert (second.ends, pool.workers, pool.ready, pool.created) == (["in place"], 1, 1, 1)
        assert second.worker is None
        await pool.close()

    run(main())


def test_the_worker_that_finished_last_is_taken_first(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        workers = await warm(pool, 3)
        gates = [Gate() for _ in range(3)]
        works = [FakeWork(gate) for gate in gates]
        for work in works:
            await start(pool, work)
        assert [work.worker for work in works] == workers[::-1]
        gates[1].open.set_result(None)  # now the middle one was the last
        await works[1].over.wait()
        await turns()
        again = FakeWork(Gate())
        await start(pool, again)
        assert again.worker is workers[1]
        await pool.close()

    run(main())


def test_concurrency_bounds_the_workers_and_one_more_is_refused_at_once(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=2)
        gates = [Gate(), Gate()]
        busy = [FakeWork(gate) for gate in gates]
        for work in busy:
            await start(pool, work)
        refused = FakeWork(quick)
        assert not await start(pool, refused)
        assert refused.ends == ["refused"]
        assert (pool.workers, pool.busy, pool.ready, pool.waiting) == (2, 2, 0, 0)
        await turns()
        gates[0].open.set_result(None)
        await busy[0].over.wait()
        await turns()
        assert await start(pool, FakeWork(quick))
        await pool.close()

    run(main())


def test_waiting_work_is_served_first_come_first_served(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1, max_worker_wait=MAX_WAIT)
        gate = await block(pool)
        order: list[int] = []

        def numbered(number: int) -> Body:
            async def body(work: FakeWork) -> None:
                order.append(number)
                if number % 2:
                    await asyncio.sleep(0)

            return body

        await start(pool, first := FakeWork(numbered(0)))
        assert pool.waiting == 1
        gate.open.set_result(None)
        await first.over.wait()

        # The queue is bounded by `concurrency`, so it takes one more for each that it gave away.
        await turns()
        blocked = await block(pool)
        await start(pool, waiting := FakeWork(numbered(1)))
        await start(pool, surplus := FakeWork(numbered(2)))
        assert surplus.ends == ["refused"]
        blocked.open.set_result(None)
        await waiting.over.wait()
        assert order == [0, 1]
        await pool.close()

    run(main())


def test_newcomer_does_not_overtake_the_queue_when_a_step_in_place_ends(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=2, max_worker_wait=MAX_WAIT)
        await warm(pool, 2)
        gates = [await block(pool), await block(pool)]
        order: list[str] = []

        def named(name: str) -> Body:
            async def body(work: FakeWork) -> None:
                order.append(name)

            return body

        works = [FakeWork(named(name)) for name in "ab"]
        for work in works:
            await start(pool, work)
        late = FakeWork(named("c"))
        gates[0].open.set_result(None)
        gates[1].open.set_result(None)
        # In the same turn in which both workers come free.
        asyncio.get_running_loop().call_soon(start_now, pool, late)
        await late.over.wait()
        for work in works:
            await work.over.wait()
        assert order[:2] == ["a", "b"] or late.ends == ["refused"]
        await pool.close()

    run(main())


def test_waiting_work_is_refused_when_its_time_is_up(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=2, max_worker_wait=MAX_WAIT)
        base = pool.now
        gates = [await block(pool), await block(pool)]
        early, late = FakeWork(quick), FakeWork(quick)
        await start(pool, early)
        pool.tick(base + 2)
        await start(pool, late)
        pool.tick(base + MAX_WAIT - 0.01)
        assert (early.ends, late.ends, pool.waiting) == ([], [], 2)
        pool.tick(base + MAX_WAIT)
        assert (early.ends, late.ends, pool.waiting) == (["refused"], [], 1)
        gates[0].open.set_result(None)
        await late.over.wait()
        pool.tick(base + 2 + MAX_WAIT)
        assert late.ends == ["ended"]
        await pool.close()

    run(main())


def test_withdrawn_work_is_neither_run_nor_refused(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1, max_worker_wait=MAX_WAIT)
        gate = await block(pool)
        gone = FakeWork(quick)
        await start(pool, gone)
        pool.withdraw(gone)
        pool.withdraw(gone)
        assert pool.waiting == 0
        gate.open.set_result(None)
        pool.tick(pool.now + MAX_WAIT)
        await assert_clean(pool)
        assert gone.ends == []
        await pool.close()

    run(main())


def test_idle_workers_are_reaped_oldest_first(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        base = pool.now
        workers = await warm(pool, 3)
        pool.tick(base + 4)
        assert await start(pool, FakeWork(quick))  # the last of them is 4 s younger now
        pool.tick(base + MAX_IDLE - 0.01)
        assert pool.workers == 3
        pool.tick(base + MAX_IDLE)
        assert (pool.workers, pool.ready) == (1, 1)
        await turns()
        assert [worker.task.done() for worker in workers] == [True, True, False]
        assert len(pool.tasks) == 1
        pool.tick(base + 4 + MAX_IDLE)
        await turns()
        assert (pool.workers, len(pool.tasks)) == (0, 0)
        assert not workers[2].task.cancelled()
        await pool.close()

    run(main())


def test_busy_workers_are_not_reaped(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        gate = Gate()
        work = FakeWork(gate)
        await start(pool, work)
        pool.tick(pool.now + 1000)
        await turns()
        assert pool.busy == 1
        gate.open.set_result(None)
        await work.over.wait()
        await turns()
        assert pool.ready == 1
        await pool.close()

    run(main())


def test_the_place_of_a_reaped_worker_is_free_in_the_same_turn(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1)
        await warm(pool, 1)
        work = FakeWork(quick)

        def reap_and_start() -> None:
            pool.tick(pool.now + MAX_IDLE)
            start_now(pool, work)

        await on_loop(reap_and_start)
        await work.over.wait()
        assert work.ends == ["ended"]
        await assert_clean(pool)
        await pool.close()

    run(main())


def test_one_task_serves_any_number_of_works(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        await warm(pool, 1)
        made = count_tasks()
        tasks = set()

        async def waits(work: FakeWork) -> None:
            tasks.add(asyncio.current_task())
            await asyncio.sleep(0)

        async def returns(work: FakeWork) -> None:
            tasks.add(asyncio.current_task())

        for _ in range(50):
            assert await start(pool, FakeWork(returns))
            work = FakeWork(waits)
            assert not await start(pool, work)
            await work.over.wait()
            await turns(2)
        assert made == []
        assert len(tasks) == pool.created == 1
        await pool.close()

    run(main())


# The end of a work


def test_exceptions_end_the_work_and_not_the_worker(run: Run) -> None:
    class OurError(BaseException):
        pass

    async def main() -> None:
        pool = new_pool()
        for kind in (ValueError, StopAsyncIteration, OurError, KeyboardInterrupt, SystemExit, GeneratorExit):
            for suspensions in (0, 1):
                for ready in (False, True):
                    error = kind("on purpose")

                    async def fails(
                        work: FakeWork, error: BaseException = error, suspensions: int = suspensions
                    ) -> None:
                        for _ in range(suspensions):
                            await asyncio.sleep(0)
                        raise error

                    if not ready:
                        pool.tick(pool.now + MAX_IDLE)
                        await turns()
                        assert pool.workers == 0
                    work = FakeWork(fails)
                    await start(pool, work)
                    await work.over.wait()
                    assert work.failure is error
                    assert work.ends == ["in place" if ready and not suspensions else "ended"]
                    work.failure = None
                    await assert_clean(pool)
        await pool.close()

    run(main())


def test_a_future_that_carries_a_base_exception_ends_the_work_only(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        await warm(pool, 1)
        for kind in (GeneratorExit, KeyboardInterrupt, SystemExit):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            async def waits(work: FakeWork, future: asyncio.Future[None] = future) -> None:
                await future

            work = FakeWork(waits)
            await start(pool, work)
            await turns()
            future.set_exception(kind())
            await work.over.wait()
            assert type(work.failure) is kind
            assert work.ends == ["ended"]
        await assert_clean(pool)
        assert pool.created == 1
        await pool.close()

    run(main())


def test_run_that_raises_or_returns_nothing_to_await_ends_the_work(run: Run) -> None:
    def raises(work: FakeWork) -> Awaitable[None]:
        raise ValueError("no coroutine was made")

    def returns_none(work: FakeWork) -> Any:
        return None

    async def main() -> None:
        pool = new_pool()
        for body in (raises, returns_none):
            for _ in range(2):  # in the worker's task, then in place
                work = FakeWork(body)
                await start(pool, work)
                await work.over.wait()
                assert isinstance(work.failure, ValueError | AttributeError)
                await turns()
        await assert_clean(pool)
        await pool.close()

    run(main())


def test_work_that_asks_for_a_second_run_has_the_same_worker_and_context(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        await warm(pool, 1)
        seen: list[Any] = []

        async def first(work: FakeWork) -> None:
            VAR.set("first")
            seen.append(work.worker)
            await asyncio.sleep(0)

        async def second(work: FakeWork) -> None:
            seen.extend((VAR.get(), work.worker, asyncio.current_task()))
            await asyncio.sleep(0)

        work = FakeWork(first, second=second)
        await start(pool, work)
        await work.over.wait()
        assert work.ends == ["ended"]
        assert seen[1] == "first"
        assert seen[2].task is seen[3]
        await assert_clean(pool)
        assert pool.created == 1
        await pool.close()

    run(main())


def test_second_run_of_a_work_whose_worker_was_cancelled_before_its_first_step(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1)
        ran: list[str] = []

        async def never(work: FakeWork) -> None:
            ran.append("never")

        async def second(work: FakeWork) -> None:
            ran.append("second")

        work = FakeWork(never, second=second)

        def start_and_cancel() -> None:
            pool.start(work)
            assert work.worker is not None
            work.worker.cancel()

        await on_loop(start_and_cancel)
        await work.over.wait()
        assert ran == ["second"]
        assert work.ends == ["ended"]
        await assert_clean(pool)
        await pool.close()

    run(main())


@pytest.mark.parametrize("queued", [False, True])
def test_work_cancelled_before_its_first_step_never_begins(run: Run, queued: bool) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1, max_worker_wait=MAX_WAIT)
        ran: list[str] = []

        async def never(work: FakeWork) -> None:
            ran.append("began")

        work = FakeWork(never)
        if queued:
            gate = Gate()
            await start(pool, blocker := FakeWork(gate))
            await start(pool, work)
            await gate.entered.wait()
            assert blocker.worker is not None
            blocker.worker.cancel()  # its worker retires, and another is made for `work`
            await blocker.over.wait()
            assert work.worker is not None
            work.worker.cancel()
        else:

            def start_and_cancel() -> None:
                pool.start(work)
                assert work.worker is not None
                work.worker.cancel()

            await on_loop(start_and_cancel)
        await work.over.wait()
        assert isinstance(work.failure, asyncio.CancelledError)
        assert work.ends == ["ended"]
        assert ran == []
        work.failure = None
        await assert_clean(pool)
        await pool.close()

    run(main())


def test_queue_moves_on_when_the_only_worker_is_cancelled(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1, max_worker_wait=MAX_WAIT)
        gate = Gate()
        busy, waiting = FakeWork(gate), FakeWork(quick)
        await start(pool, busy)
        await start(pool, waiting)
        await gate.entered.wait()
        assert busy.worker is not None
        busy.worker.cancel()
        await busy.over.wait()
        await waiting.over.wait()
        assert isinstance(busy.failure, asyncio.CancelledError)
        assert waiting.failure is None
        assert waiting.ends == ["ended"]
        assert pool.workers == 1
        await assert_clean(pool)
        await pool.close()

    run(main())


def test_work_that_cancels_itself_and_returns_does_not_cost_the_next_one_its_place(run: Run) -> None:
    async def cancels_itself(work: FakeWork) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def main() -> None:
        pool = new_pool(concurrency=1)
        await warm(pool, 1)
        after = FakeWork(quick)

        def both() -> None:
            start_now(pool, FakeWork(cancels_itself))
            start_now(pool, after)

        await on_loop(both)
        await after.over.wait()
        assert after.ends == ["ended"]
        assert after.failure is None
        await assert_clean(pool)
        await pool.close()

    run(main())


def test_pool_recovers_when_somebody_cancels_every_task(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=3, max_worker_wait=MAX_WAIT)
        await warm(pool, 3)
        gate = Gate()
        busy = FakeWork(gate)
        await start(pool, busy)
        await gate.entered.wait()
        fresh = FakeWork(quick)

        def cancel_everything() -> None:
            for task in asyncio.all_tasks():
                if task is not this:
                    task.cancel()
            start_now(pool, fresh)  # in the same turn

        this = asyncio.current_task()
        await on_loop(cancel_everything)
        await busy.over.wait()
        await fresh.over.wait()
        assert isinstance(busy.failure, asyncio.CancelledError)
        assert fresh.failure is None
        assert fresh.ends == ["ended"]
        await assert_clean(pool)
        await pool.close()

    run(main())


# What must not pass from one work to the next


def test_each_work_has_its_own_copy_of_the_base_context(run: Run) -> None:
    other: contextvars.ContextVar[str] = contextvars.ContextVar("other")

    async def main() -> None:
        other.set("of the server")
        pool = new_pool()
        await warm(pool, 1)
        other.set("set later")
        seen: list[Any] = []

        async def sets(work: FakeWork) -> None:
            seen.append((VAR.get(None), other.get()))
            VAR.set(work)
            other.set("of a request")

        async def sets_and_waits(work: FakeWork) -> None:
            await sets(work)
            await asyncio.sleep(0)
            assert VAR.get() is work
            assert other.get() == "of a request"
            await asyncio.create_task(asyncio.sleep(0))
            assert VAR.get() is work

        for body in (sets, sets_and_waits, sets, sets_and_waits):
            work = FakeWork(body)
            await start(pool, work)
            await work.over.wait()
            assert work.failure is None
            await turns()
        assert seen == [(None, "of the server")] * 4
        assert VAR.get(None) is None
        await pool.close()

    run(main())


def test_new_worker_does_not_hold_the_context_it_was_made_in(run: Run) -> None:
    class Thing:
        pass

    async def main() -> None:
        pool = new_pool()
        thing = Thing()
        died = weakref.ref(thing)
        context = contextvars.copy_context()
        context.run(VAR.set, thing)
        work = FakeWork(quick)
        context.run(asyncio.get_running_loop().call_soon, start_now, pool, work)
        await work.over.wait()
        await turns()
        assert pool.workers == 1
        del thing, context, work
        gc.collect()
        assert died() is None
        await pool.close()

    run(main())


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("how", ["returns", "waits", "raises", "waits and raises", "cancelled"])
def test_nothing_of_a_finished_work_is_held(run: Run, how: str, fresh: bool) -> None:
    class Thing:
        pass

    async def main() -> None:
        pool = new_pool()
        if not fresh:
            await warm(pool, 1)
        died: list[weakref.ref[Any]] = []

        async def body(work: FakeWork) -> None:
            thing = Thing()
            died.append(weakref.ref(thing))
            VAR.set(thing)
            if "waits" in how:
                await asyncio.sleep(0)
            if how == "cancelled":
                await asyncio.get_running_loop().create_future()
            if "raises" in how:
                raise ValueError(thing)

        work = FakeWork(body)
        died.append(weakref.ref(work))
        await start(pool, work)
        if how == "cancelled":
            await turns()
            assert work.worker is not None
            work.worker.cancel()
        await work.over.wait()
        assert (work.failure is not None) == (how in ("raises", "waits and raises", "cancelled"))
        work.failure = None
        del work
        await turns()
        assert [ref() for ref in died] == [None, None]  # by counting references: no collection of cycles was needed
        await assert_clean(pool)
        await pool.close()

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


# A handler in a worker is what it is in a task


async def observe(body: Snippet, seen: list[Any]) -> None:
    """What a snippet can tell, including the exception that was being handled around it."""
    try:
        seen.append(("returned", await body()))
    except BaseException as error:
        shown = () if isinstance(error, RuntimeError) else error.args
        seen.append(("raised", type(error), shown, type(error.__context__), me().cancelling()))


async def observe_in_task(body: Snippet) -> Any:
    seen: list[Any] = []
    task = asyncio.create_task(observe(body, seen))
    await asyncio.wait([task])
    if not task.cancelled():
        assert task.exception() is None
    return seen


async def observe_in_worker(pool: WorkerPool, body: Snippet, where: str) -> Any:
    seen: list[Any] = []

    async def handler(work: FakeWork) -> None:
        await observe(body, seen)

    work = FakeWork(handler)
    if where == "queued":
        gate = await block(pool)
        await start(pool, work)
        assert pool.waiting == 1
        gate.open.set_result(None)
    else:
        await start(pool, work)
    await work.over.wait()
    assert len(work.ends) == 1
    if work.failure is not None:
        assert isinstance(work.failure, asyncio.CancelledError)
    return seen


@pytest.mark.parametrize("where", ["fresh", "warm", "queued"])
@pytest.mark.parametrize("name", list(SNIPPETS))
def test_handler_behaves_as_in_an_ordinary_task(run: Run, name: str, where: str) -> None:
    body = SNIPPETS[name]

    async def main() -> None:
        expected = await observe_in_task(body)
        pool = new_pool(concurrency=1 if where == "queued" else 4, max_worker_wait=MAX_WAIT)
        if where != "fresh":
            await warm(pool, 1)
        assert await observe_in_worker(pool, body, where) == expected
        await assert_clean(pool)
        await pool.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before 3.12")
def test_pool_works_with_an_eager_task_factory(run: Run) -> None:
    async def main() -> None:
        # asyncio.eager_task_factory of 3.13.0 does not take what uvloop passes it.
        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            options["eager_start"] = True
            return asyncio.Task(coroutine, loop=loop, **options)

        asyncio.get_running_loop().set_task_factory(factory)
        pool = new_pool()
        for _ in range(2):
            for name in ("returns_at_once", "bare_sleeps", "timeout_zero", "own_cancel_in_the_first_step"):
                assert (await observe_in_worker(pool, SNIPPETS[name], "as it comes"))[0][0] == "returned"
        await turns()
        await assert_clean(pool)
        await pool.close()

    run(main())


# The end of the pool


def test_close_ends_every_task_and_refuses_what_waits(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=3, max_worker_wait=MAX_WAIT)
        await warm(pool, 1)
        cleaned: list[str] = []

        async def cleans_up(work: FakeWork) -> None:
            try:
                await never()
            finally:
                await turns(3)
                cleaned.append("up")

        busy = [FakeWork(cleans_up), FakeWork(cleans_up)]
        for work in busy:
            await start(pool, work)
        await turns()
        unborn, waiting = FakeWork(cleans_up), FakeWork(quick)

        def start_both() -> asyncio.Task[int]:
            start_now(pool, unborn)
            start_now(pool, waiting)
            return asyncio.get_running_loop().create_task(pool.close())

        closing = await on_loop(start_both)
        await closing
        assert waiting.ends == ["refused"]
        assert unborn.ends == ["ended"]
        assert [work.ends for work in busy] == [["ended"]] * 2
        assert all(isinstance(work.failure, asyncio.CancelledError) for work in busy)
        assert cleaned[:2] == ["up", "up"]
        assert pool.workers == pool.ready == pool.busy == len(pool.tasks) == 0
        with pytest.raises(WorkerPoolClosed):
            await start(pool, FakeWork(quick))
        await pool.close()

    run(main())


def test_close_is_done_at_the_call_and_its_wait_when_it_is_awaited(run: Run) -> None:
    async def main() -> None:
        pool = new_pool(concurrency=1, max_worker_wait=5.0)
        busy, waiting = FakeWork(Gate()), FakeWork(quick)
        await start(pool, busy)
        await start(pool, waiting)
        ending = pool.close()
        assert pool.closed
        assert waiting.ends == ["refused"]
        with pytest.raises(WorkerPoolClosed):
            start_now(pool, FakeWork(quick))
        assert len(pool.tasks) == 1
        assert await ending == 0
        assert busy.ends == ["ended"]
        assert isinstance(busy.failure, asyncio.CancelledError)

    run(main())


def test_close_waits_for_workers_that_were_just_reaped(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        workers = await warm(pool, 2)
        pool.tick(pool.now + MAX_IDLE)
        assert pool.workers == 0
        await pool.close()
        assert all(worker.task.done() for worker in workers)

    run(main())


def test_close_of_an_unused_pool(run: Run) -> None:
    async def main() -> None:
        pool = new_pool()
        await pool.close()
        pool.tick(pool.now + 1)

    run(main())


def test_work_under_way_when_the_loop_ends_is_closed_and_not_answered() -> None:
    """Closing the worker's coroutine must not go on with the pool: its loop is gone."""
    closed: list[str] = []

    async def waits(work: FakeWork) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except GeneratorExit:
            closed.append("closed")
            raise

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending", rightly

    async def main() -> FakeWork:
        work = FakeWork(waits)
        await start(new_pool(), work)
        await turns()
        return work

    work = loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    work.worker = None
    gc.collect()
    assert closed == ["closed"]
    assert work.ends == []


# Invariants over any sequence of events


class Model:
    """Runs a sequence of operations against a pool, and knows what may happen to each work."""

    def __init__(self, concurrency: int, max_wait: float) -> None:
        self.concurrency = concurrency
        self.max_wait = max_wait
        self.made = count_tasks()
        self.pool = new_pool(concurrency, max_wait)
        self.works: list[ModelWork] = []
        self.queued: list[ModelWork] = []
        self.assigned: list[ModelWork] = []
        self.now = self.pool.now

    def apply(self, operation: tuple[Any, ...]) -> None:
        name, *args = operation
        getattr(self, name)(*args)
        self.check()

    def start(self, kind: str) -> None:
        pool = self.pool
        work = ModelWork(self, kind)
        self.works.append(work)
        created, waiting, full = pool.created, pool.waiting, pool.busy == self.concurrency
        usable = sum(not worker.parked.done() for worker in pool._ready)
        done = start_now(pool, work)
        if usable:
            assert pool.created == created  # invariant 1
        if work.ends == ["refused"]:
            assert full
            assert not self.max_wait or waiting == self.concurrency
        elif pool.waiting > waiting:
            assert full
            work.deadline = pool.now + self.max_wait
            self.queued.append(work)
        else:
            assert done or work.worker is not None
            assert not waiting or usable == 0

    def finish(self, index: int) -> None:
        waits = [work for work in self.works if work.gate is not None and not work.gate.done()]
        if waits:
            gate = waits[index % len(waits)].gate
            assert gate is not None
            gate.set_result(None)

    def cancel(self, index: int) -> None:
        served = [work for work in self.works if work.worker is not None]
        if served:
            work = served[index % len(served)]
            work.may_be_cancelled = True
            assert work.worker is not None
            work.worker.cancel()

    def withdraw(self, index: int) -> None:
        waiting = [work for work in self.queued if work in self.pool._queue]
        if waiting:
            work = waiting[index % len(waiting)]
            self.pool.withdraw(work)
            work.withdrawn = True

    def tick(self, seconds: float) -> None:
        self.now += seconds
        before = [work for work in self.queued if work in self.pool._queue]
        self.pool.tick(self.now)
        for work in before:
            assert (work.ends == ["refused"]) == (work.deadline <= self.now)
        for worker in self.pool._ready:
            assert self.now - worker.idle_since < MAX_IDLE

    def check(self) -> None:
        pool = self.pool
        assert pool.ready + pool.busy == pool.workers <= self.concurrency  # invariant 2
        assert len(self.made) == pool.created
        assert pool.waiting <= self.concurrency
        ages = [worker.idle_since for worker in pool._ready]
        assert ages == sorted(ages)
        served = [work.worker for work in self.works if work.worker is not None]
        assert len(set(served)) == len(served)
        for work in self.works:
            assert len(work.ends) <= 1  # invariant 4
            assert not work.faults, work.faults
        # Who gets a worker of his own first may begin a turn later than who gets one that is awake.
        order = [work for work in self.assigned if work in self.queued]
        assert order == sorted(order, key=self.queued.index)  # invariant 3

    async def end(self) -> None:
        await turns()
        while self.pool.busy or self.pool.waiting:
            self.finish(0)
            await turns()
            self.check()
        await assert_clean(self.pool)
        await self.pool.close()
        for work in self.works:
            assert len(work.ends) == (0 if work.withdrawn else 1), work.kind
            if work.failure is not None and not isinstance(work.failure, ValueError):
                assert isinstance(work.failure, asyncio.CancelledError)
                assert work.may_be_cancelled
        assert self.pool.workers == len(self.pool.tasks) == 0


class ModelWork(FakeWork):
    def __init__(self, model: Model, kind: str) -> None:
        self.model = model
        super().__init__(self._first, second=self._again if "again" in kind else None)
        self.kind = kind
        self.gate: asyncio.Future[None] | None = None
        self.deadline = 0.0
        self.withdrawn = False
        self.may_be_cancelled = "cancels itself" in kind
        self.faults: list[str] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "worker" and value is not None and self not in self.model.assigned:
            self.model.assigned.append(self)
        super().__setattr__(name, value)

    def _expect(self, what: bool, fault: str) -> None:
        if not what:
            self.faults.append(f"{self.kind}: {fault}")

    async def _first(self, work: FakeWork) -> None:
        self._expect(VAR.get(None) is None, "met a foreign context variable")
        self._expect(me().cancelling() == 0, "met a foreign cancellation")
        VAR.set(self)
        await self._body()

    async def _again(self, work: FakeWork) -> None:
        self._expect(self.may_be_cancelled or VAR.get(None) is self, "lost its context")
        await asyncio.sleep(0)

    async def _body(self) -> None:
        task = me()
        if "cancels itself" in self.kind:
            task.cancel()
        if "waits" in self.kind:
            self.gate = asyncio.get_running_loop().create_future()
            try:
                await self.gate
            except asyncio.CancelledError:
                self._expect(self.may_be_cancelled, "met a foreign cancellation while it waited")
                if "swallows" not in self.kind:
                    raise
            self._expect(self.worker is not None and self.worker.task is task, "is in another's worker")
        self._expect(me() is task, "changed its task")  # invariant 5
        self._expect(VAR.get(None) is self, "lost its context variable")  # invariant 7
        if "raises" in self.kind:
            raise ValueError(self.kind)


KINDS = (
    "returns",
    "raises",
    "waits",
    "waits, raises",
    "waits, swallows",
    "cancels itself",
    "cancels itself, waits",
    "cancels itself, waits, swallows",
    "returns, again",
    "waits, again",
    "waits, swallows, again",
)
OPERATIONS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(KINDS)),
    st.tuples(st.just("start"), st.sampled_from(KINDS)),
    st.tuples(st.just("finish"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("withdraw"), st.integers(0, 5)),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 1.0, MAX_WAIT, MAX_IDLE])),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    concurrency=st.integers(1, 3),
    max_wait=st.sampled_from([0.0, MAX_WAIT]),
    # Operations of an inner list happen in one turn of the loop; then so many turns pass.
    schedule=st.lists(st.tuples(st.lists(OPERATIONS, max_size=4), st.integers(1, 4)), max_size=12),
)
def test_invariants_hold_over_any_sequence(
    run: Run, concurrency: int, max_wait: float, schedule: list[tuple[list[tuple[Any, ...]], int]]
) -> None:
    async def main() -> None:
        model = Model(concurrency, max_wait)
        for operations, count in schedule:

            def apply_all(operations: list[tuple[Any, ...]] = operations) -> None:
                for operation in operations:
                    model.apply(operation)

            await on_loop(apply_all)
            await turns(count)
            model.check()
        await model.end()

    run(main())
