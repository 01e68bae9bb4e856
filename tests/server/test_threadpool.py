"""`ThreadWorkerPool` without sockets: its invariants, `run`, which is `ctx.run_in_thread`, and answers made on threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve import RequestCtx
from fastserve.errors import FastserveError, RequestError, WorkerPoolClosed
from fastserve.server.threadpool import ThreadWorkerPool
from fastserve.testing import MemoryServer
from tests.server.clients import PATIENCE, Run, settled, turns

VAR: contextvars.ContextVar[Any] = contextvars.ContextVar("VAR")
MAX_IDLE = 10.0
MAX_WAIT = 5.0


class FakeCall:
    """Thread work that notes what happens to it."""

    def __init__(self, function: Callable[[], Any] = lambda: None) -> None:
        self.failure: BaseException | None = None
        self.context: contextvars.Context | None = None
        self.function = function
        self.thread: int | None = None
        self.ends: list[str] = []
        self.ended_in: int | None = None
        self.over = asyncio.Event()

    def call(self) -> None:
        self.thread = threading.get_ident()
        self.function()

    def call_ended(self) -> None:
        self._end("ended")

    def refused(self) -> None:
        self._end("refused")

    def _end(self, how: str) -> None:
        self.ends.append(how)
        self.ended_in = threading.get_ident()
        self.over.set()


class Gate:
    """A call that blocks until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.entered = asyncio.Event()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._open.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def new_pool(
    max_threads: int = 4, concurrency: int = 100, max_wait: float = MAX_WAIT
) -> AsyncIterator[ThreadWorkerPool]:
    pool = ThreadWorkerPool(
        asyncio.get_running_loop(),
        max_threads=max_threads,
        concurrency=concurrency,
        max_wait=max_wait,
        max_idle_worker_duration=MAX_IDLE,
    )
    try:
        yield pool
    finally:
        assert await pool.close(PATIENCE) == 0
        assert pool.threads == 0


async def at_rest(pool: ThreadWorkerPool) -> None:
    await settled(lambda: pool.ready == pool.threads and not pool.running)


async def block(pool: ThreadWorkerPool, count: int) -> tuple[list[Gate], list[FakeCall]]:
    """Keep `count` threads busy."""
    gates = [Gate() for _ in range(count)]
    works = [FakeCall(gate) for gate in gates]
    for gate, work in zip(gates, works, strict=True):
        pool.start(work)
        await gate.entered.wait()
    return gates, works


def test_work_runs_in_a_thread_and_ends_on_the_loop(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            work = FakeCall()
            assert pool.start(work) is False
            await work.over.wait()
            assert work.ends == ["ended"]
            assert work.thread != threading.get_ident()
            assert work.ended_in == threading.get_ident()
            assert work.failure is None

    run(main())


def test_threads_are_daemons_with_a_name(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            thread = await pool.run(threading.current_thread)
            assert thread.daemon
            assert thread.name == "fastserve-thread-1"

    run(main())


def test_the_thread_that_finished_last_is_woken_first(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=3) as pool:
            gates, works = await block(pool, 3)
            for place, gate in enumerate(gates, 1):
                gate.open()
                await settled(lambda place=place: pool.ready == place)  # type: ignore[misc]
            last_first = [work.thread for work in reversed(works)]
            gates, again = await block(pool, 3)
            assert [work.thread for work in again] == last_first
            for gate in gates:
                gate.open()
            await at_rest(pool)
            assert pool.created == 3

    run(main())


def test_threads_never_exceed_the_limit(run: Run) -> None:
    async def main() -> None:
        lock = threading.Lock()
        now = most = 0

        def call() -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.001)
            with lock:
                now -= 1

        async with new_pool(max_threads=3) as pool:
            works = [FakeCall(call) for _ in range(60)]
            for work in works:
                pool.start(work)
                assert pool.threads <= 3
                assert pool.running + pool.waiting <= 100
            for work in works:
                await work.over.wait()
            assert {tuple(work.ends) for work in works} == {("ended",)}
            assert most <= 3
            assert pool.created <= 3

    run(main())


def test_waiting_work_is_served_first_come_first_served(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1) as pool:
            (gate,), _ = await block(pool, 1)
            order: list[int] = []
            works = [FakeCall(lambda number=number: order.append(number)) for number in range(10)]  # type: ignore[misc]
            for work in works:
                pool.start(work)
            pool.withdraw(works[3])
            assert pool.waiting == 9
            gate.open()
            await works[-1].over.wait()
            assert order == [0, 1, 2, 4, 5, 6, 7, 8, 9]
            assert works[3].ends == []

    run(main())


def test_concurrency_bounds_what_runs_and_waits(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1, concurrency=2) as pool:
            (gate,), _ = await block(pool, 1)
            waiting, surplus = FakeCall(), FakeCall()
            pool.start(waiting)
            assert pool.start(surplus) is False
            assert surplus.ends == ["refused"]
            gate.open()
            await waiting.over.wait()
            assert waiting.ends == ["ended"]

    run(main())


def test_waiting_work_is_refused_when_its_time_is_up(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1) as pool:
            base = pool.now
            (gate,), _ = await block(pool, 1)
            early, late = FakeCall(), FakeCall()
            pool.start(early)
            pool.tick(base + 1)
            pool.start(late)
            pool.tick(base + MAX_WAIT - 0.01)
            assert early.ends == []
            pool.tick(base + MAX_WAIT)
            assert (early.ends, late.ends) == (["refused"], [])
            gate.open()
            await late.over.wait()
            assert late.ends == ["ended"]

    run(main())


def test_without_max_wait_work_is_refused_at_once_when_no_thread_is_free(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=2, max_wait=0) as pool:
            gates, _ = await block(pool, 1)
            gate = Gate()
            second, third = FakeCall(gate), FakeCall()
            pool.start(second)
            pool.start(third)
            assert third.ends == ["refused"]
            # However late the thread is that was made or woken for it, and however much time has gone by.
            pool.tick(pool.now + 1)
            gate.open()
            await second.over.wait()
            assert second.ends == ["ended"]
            gates[0].open()
            await at_rest(pool)
            again = FakeCall()
            pool.start(again)
            pool.tick(pool.now + 1)
            await again.over.wait()
            assert again.ends == ["ended"]

    run(main())


def test_work_is_not_refused_while_a_thread_is_on_its_way_to_it(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=2) as pool:
            for _ in range(20):
                works = [FakeCall(), FakeCall()]
                for work in works:
                    pool.start(work)
                pool.tick(pool.now + MAX_WAIT)
                for work in works:
                    await work.over.wait()
                    assert work.ends == ["ended"]

    run(main())


def test_idle_threads_are_reaped_oldest_first(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            base = pool.now
            gates, works = await block(pool, 2)
            gates[0].open()
            await settled(lambda: pool.ready == 1)
            pool.tick(base + 4)
            gates[1].open()
            await at_rest(pool)
            pool.tick(base + MAX_IDLE - 0.01)
            assert pool.threads == 2
            pool.tick(base + MAX_IDLE)
            await settled(lambda: pool.threads == 1)
            survivor = FakeCall()
            pool.start(survivor)
            await survivor.over.wait()
            assert survivor.thread == works[1].thread
            await at_rest(pool)
            pool.tick(base + MAX_IDLE + MAX_IDLE)
            await settled(lambda: pool.threads == 0)
            after = FakeCall()
            pool.start(after)
            await after.over.wait()
            assert pool.created == 3

    run(main())


def test_work_that_comes_while_the_only_thread_is_being_reaped_is_served(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1) as pool:
            for _ in range(20):
                work = FakeCall()
                pool.start(work)
                await work.over.wait()
                await at_rest(pool)
                pool.tick(pool.now + MAX_IDLE)
                work = FakeCall()
                pool.start(work)
                await work.over.wait()
                assert work.ends == ["ended"]
                await at_rest(pool)

    run(main())


def test_works_one_after_another_use_one_thread(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=64) as pool:
            for _ in range(100):
                work = FakeCall()
                pool.start(work)
                await work.over.wait()
            assert pool.created == 1  # it is ready again before the loop hears of the end

    run(main())


def test_slow_works_get_a_thread_each(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=8) as pool:
            barrier = threading.Barrier(8)
            works = [FakeCall(lambda: barrier.wait(PATIENCE)) for _ in range(8)]
            for work in works:
                pool.start(work)
            for work in works:
                await work.over.wait()
                assert work.failure is None
            assert len({work.thread for work in works}) == pool.created == 8

    run(main())


def test_many_ends_wake_the_loop_once(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=3) as pool:
            woken: list[str] = []
            inner = pool._call_loop

            def counted(callback: Callable[[], None]) -> None:
                woken.append(callback.__name__)
                inner(callback)

            pool._call_loop = counted  # type: ignore[method-assign]
            works = [FakeCall() for _ in range(50)]
            for work in works:
                pool.start(work)
            # The loop does not turn meanwhile: all that have ended wait for its one wake-up.
            pause = threading.Event()
            for _ in range(10_000):
                if len(pool._ended) == 50:
                    break
                pause.wait(0.001)
            assert woken == ["_deliver"]
            assert all(work.ends == [] for work in works)
            for work in works:
                await work.over.wait()
            assert woken == ["_deliver"]
            work = FakeCall()
            pool.start(work)
            await work.over.wait()
            assert woken == ["_deliver", "_deliver"]
            assert all(len(work.ends) == 1 for work in works)

    run(main())


# start_soon()


def test_start_soon_wakes_a_thread_at_the_next_turn_once_for_all_that_came_in_this_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            woken: list[int] = []
            wake_one, wake_for_turn = pool._wake_one, pool._wake_for_turn
            turns: list[int] = []

            def counted() -> None:
                woken.append(pool.waiting)
                wake_one()

            def counted_for_turn() -> None:
                turns.append(pool._fresh)
                wake_for_turn()

            monkeypatch.setattr(pool, "_wake_one", counted)
            monkeypatch.setattr(pool, "_wake_for_turn", counted_for_turn)
            works = [FakeCall() for _ in range(20)]
            for work in works:
                assert pool.start_soon(work) is False
            assert (pool.threads, pool.waiting, woken) == (0, 20, [])
            for work in works:
                await work.over.wait()
            # Not once for each: only the first time were they all there.
            assert woken[0] == 20
            assert woken.count(20) == 1
            assert turns == [20]
            assert {tuple(work.ends) for work in works} == {("ended",)}
            assert all(work.ended_in == threading.get_ident() != work.thread for work in works)

    run(main())


@pytest.mark.parametrize("place", [0, 3, 7])
def test_works_of_one_turn_do_not_wait_for_one_of_them_that_blocks(run: Run, place: int) -> None:
    async def main() -> None:
        async with new_pool(max_threads=2) as pool:
            for _ in range(10):
                gate = Gate()
                works = [FakeCall() for _ in range(8)]
                works[place] = FakeCall(gate)
                for work in works:
                    pool.start_soon(work)
                for work in works[:place] + works[place + 1 :]:
                    await work.over.wait()
                    assert work.ends == ["ended"]
                await gate.entered.wait()
                assert works[place].ends == []
                gate.open()
                await works[place].over.wait()

    run(main())


def test_works_of_later_turns_do_not_wait_for_one_that_blocks(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=2) as pool:
            gate = Gate()
            pool.start_soon(FakeCall(gate))
            for count in (1, 5, 2):
                works = [FakeCall() for _ in range(count)]
                for work in works:
                    pool.start_soon(work)
                for work in works:
                    await work.over.wait()
            assert pool.running == 1
            gate.open()

    run(main())


def test_works_of_one_turn_that_all_block_get_a_thread_each(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=8) as pool:
            for _ in range(5):
                barrier = threading.Barrier(8)
                works = [FakeCall(lambda barrier=barrier: barrier.wait(PATIENCE)) for _ in range(8)]  # type: ignore[misc]
                for work in works:
                    pool.start_soon(work)
                for work in works:
                    await work.over.wait()
                    assert work.failure is None
            assert pool.created == 8

    run(main())


def test_started_works_do_not_wait_for_one_that_blocks_while_the_loop_does_not_turn(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=2) as pool:
            gate = Gate()
            works = [FakeCall(gate), *(FakeCall() for _ in range(10))]
            for work in works:
                pool.start(work)
            pause = threading.Event()
            for _ in range(10_000):
                if len(pool._ended) == 10:
                    break
                pause.wait(0.001)
            assert len(pool._ended) == 10
            gate.open()
            for work in works:
                await work.over.wait()

    run(main())


def test_work_of_a_turn_that_is_withdrawn_never_runs(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            works = [FakeCall() for _ in range(3)]
            for work in works:
                pool.start_soon(work)
            for work in works:
                pool.withdraw(work)
            assert pool.waiting == 0
            last = FakeCall()
            pool.start_soon(last)
            await last.over.wait()
            await at_rest(pool)
            assert all(work.thread is None and work.ends == [] for work in works)

    run(main())


def test_start_soon_keeps_to_the_bounds(run: Run) -> None:
    async def main() -> None:
        for options in ({"concurrency": 2}, {"max_threads": 2, "max_wait": 0.0}):
            async with new_pool(**options) as pool:
                gates = [Gate(), Gate()]
                works = [FakeCall(gate) for gate in gates]
                surplus = FakeCall()
                for work in works:
                    pool.start_soon(work)
                assert pool.start_soon(surplus) is False
                assert surplus.ends == ["refused"]
                for gate in gates:
                    await gate.entered.wait()
                    gate.open()
                for work in works:
                    await work.over.wait()
                    assert work.ends == ["ended"]

    run(main())


def test_close_refuses_works_whose_thread_is_not_woken_yet(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            works = [FakeCall() for _ in range(3)]
            for work in works:
                pool.start_soon(work)
            assert await pool.close(0) == 0
            await asyncio.sleep(0)
            assert all(work.ends == ["refused"] and work.thread is None for work in works)
            assert pool.created == 0
            with pytest.raises(WorkerPoolClosed):
                pool.start_soon(FakeCall())

    run(main())


def test_thread_is_woken_in_no_context_of_a_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            seen: list[Any] = []
            wake_one = pool._wake_one

            def noted() -> None:
                seen.append(VAR.get(None))
                wake_one()

            monkeypatch.setattr(pool, "_wake_one", noted)
            VAR.set("of a request")
            work = FakeCall()
            pool.start_soon(work)
            await work.over.wait()
            assert seen == [None]

    run(main())


# What a work leaves behind


def test_exceptions_end_the_work_and_not_the_thread(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1) as pool:
            for kind in (ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit):
                error = kind("on purpose")

                def fails(error: BaseException = error) -> None:
                    raise error

                work = FakeCall(fails)
                pool.start(work)
                await work.over.wait()
                assert work.failure is error
                assert work.ends == ["ended"]
            await at_rest(pool)
            assert pool.created == pool.threads == 1

    run(main())


def test_each_work_has_its_own_copy_of_the_base_context(run: Run) -> None:
    other: contextvars.ContextVar[str] = contextvars.ContextVar("other")

    async def main() -> None:
        other.set("of the server")
        async with new_pool(max_threads=1) as pool:
            seen: list[Any] = []

            def sets() -> None:
                seen.append((VAR.get(None), other.get()))
                VAR.set("of a request")
                other.set("of a request")

            for _ in range(3):
                work = FakeCall(sets)
                pool.start(work)
                await work.over.wait()
            assert seen == [(None, "of the server")] * 3
            assert work.context is not None
            assert work.context[VAR] == "of a request"

    run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_finished_work_is_held(run: Run, fails: bool) -> None:
    class Thing:
        pass

    async def main() -> None:
        async with new_pool() as pool:
            died: list[weakref.ref[Any]] = []

            def call() -> None:
                thing = Thing()
                died.append(weakref.ref(thing))
                VAR.set(thing)
                if fails:
                    raise ValueError(thing)

            work = FakeCall(call)
            died.append(weakref.ref(work))
            pool.start(work)
            await work.over.wait()
            await at_rest(pool)
            assert (work.failure is not None) == fails
            work.failure = None
            del work
            await asyncio.sleep(0)
            assert [ref() for ref in died] == [None, None]

            async def called() -> None:
                thing = Thing()
                died.append(weakref.ref(thing))

                def function(thing: Thing) -> Thing:
                    if fails:
                        raise ValueError(thing)
                    return thing

                try:
                    assert await pool.run(function, thing) is thing
                except ValueError:
                    assert fails

            await called()
            await at_rest(pool)
            await asyncio.sleep(0)
            assert died[-1]() is None

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


# run()


def test_run_gives_the_result_with_arguments(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            assert await pool.run(divmod, 17, 5) == (3, 2)
            assert await asyncio.gather(*(pool.run(pow, 2, n) for n in range(20))) == [2**n for n in range(20)]

    run(main())


def test_run_raises_what_the_function_raises(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            for kind in (LookupError, asyncio.CancelledError, TimeoutError):
                error = kind("on purpose")

                def fails(error: BaseException = error) -> None:
                    raise error

                with pytest.raises(kind, match="on purpose") as caught:
                    await pool.run(fails)
                assert caught.value is error

    run(main())


def test_run_turns_stop_iteration_into_runtime_error(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            with pytest.raises(RuntimeError, match="StopIteration") as caught:
                await pool.run(next, iter([]))
            assert isinstance(caught.value.__cause__, StopIteration)

    run(main())


def test_run_sees_the_callers_context_variables(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            VAR.set("the caller's")

            def swap() -> Any:
                seen = VAR.get()
                VAR.set("the thread's")
                return seen

            assert await pool.run(swap) == "the caller's"
            assert VAR.get() == "the caller's"

    run(main())


def test_cancelled_caller_of_run_waits_no_more_and_its_thread_is_used_again(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1) as pool:
            gate = Gate()
            caller = asyncio.create_task(pool.run(gate))
            await gate.entered.wait()
            ran: list[str] = []
            queued = asyncio.create_task(pool.run(ran.append, "queued"))
            await settled(lambda: pool.waiting == 1)
            for task in (caller, queued):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert pool.waiting == 0
            assert pool.running == 1  # nobody can stop a thread
            gate.open()
            await at_rest(pool)
            assert ran == []
            assert await pool.run(abs, -1) == 1
            assert pool.created == 1

    run(main())


def test_failure_of_a_call_whose_caller_was_cancelled_is_nobodys(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            gate = Gate()

            def fails() -> None:
                gate()
                raise ValueError

            caller = asyncio.create_task(pool.run(fails))
            await gate.entered.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            gate.open()
            await at_rest(pool)
            assert await pool.run(abs, -1) == 1

    run(main())


def test_run_raises_503_when_no_thread_comes_free_in_time(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=1) as pool:
            (gate,), _ = await block(pool, 1)
            caller = asyncio.create_task(pool.run(abs, -1))
            await settled(lambda: pool.waiting == 1)
            pool.tick(pool.now + MAX_WAIT)
            with pytest.raises(FastserveError) as caught:
                await caller
            assert isinstance(caught.value, RequestError)
            assert caught.value.status == 503
            gate.open()

    run(main())


# When the system has no threads


def test_without_threads_left_work_waits_for_those_there_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with new_pool(max_threads=4) as pool:
            (gate,), _ = await block(pool, 1)

            def no_thread(self: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_thread)
                waiting, expires = FakeCall(), FakeCall()
                pool.start(waiting)
                gate.open()
                await waiting.over.wait()
                assert waiting.ends == ["ended"]
                assert pool.created <= 2
                await at_rest(pool)
                gate = Gate()
                pool.start(FakeCall(gate))
                await gate.entered.wait()
                pool.start(expires)
                pool.tick(pool.now + MAX_WAIT)
                assert expires.ends == ["refused"]  # no thread is on its way to it
            gate.open()
            await at_rest(pool)
            assert await pool.run(abs, -1) == 1

    run(main())


def test_without_any_thread_work_waits_until_there_is_one_or_its_time_is_up(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with new_pool() as pool:

            def no_thread(self: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            early, late = FakeCall(), FakeCall()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_thread)
                pool.start(early)
                pool.tick(pool.now + 1)
                pool.start(late)
                assert (pool.threads, pool.waiting) == (0, 2)
                pool.tick(pool.now + MAX_WAIT - 1)
                assert (early.ends, late.ends) == (["refused"], [])
                assert await pool.close(0) == 0  # it does not wait for threads that were never made
                assert late.ends == ["refused"]

    run(main())


def test_a_tick_makes_the_thread_that_could_not_be_made_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            work = FakeCall()
            with monkeypatch.context() as patch:

                def no_thread(self: threading.Thread) -> None:
                    raise RuntimeError("can't start new thread")

                patch.setattr(threading.Thread, "start", no_thread)
                pool.start(work)
            pool.tick(pool.now + 1)
            await work.over.wait()
            assert work.ends == ["ended"]

    run(main())


# The end of the pool


def test_close_ends_idle_threads_refuses_what_waits_and_counts_the_busy(run: Run) -> None:
    async def main() -> None:
        async with new_pool(max_threads=2) as pool:
            gates, works = await block(pool, 2)
            gates[0].open()
            await works[0].over.wait()
            await settled(lambda: pool.ready == 1)
            third_gate = Gate()
            third = FakeCall(third_gate)
            pool.start(third)
            await third_gate.entered.wait()
            waiting = FakeCall()
            pool.start(waiting)
            assert await pool.close(0) == 2
            assert waiting.ends == ["refused"]
            with pytest.raises(WorkerPoolClosed):
                pool.start(FakeCall())
            with pytest.raises(WorkerPoolClosed):
                await pool.run(abs, -1)
            gates[1].open()
            third_gate.open()
            await works[1].over.wait()
            await third.over.wait()
            assert await pool.close(PATIENCE) == 0
            assert pool.threads == 0

    run(main())


def test_close_does_not_count_idle_threads_as_left_behind(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            gates, works = await block(pool, 4)
            for gate, work in zip(gates, works, strict=True):
                gate.open()
                await work.over.wait()
            await at_rest(pool)
            assert await pool.close(0) == 0

    run(main())


def test_close_of_an_unused_pool(run: Run) -> None:
    async def main() -> None:
        async with new_pool() as pool:
            assert await pool.close(0) == 0

    run(main())


def test_thread_that_ends_after_its_loop_is_left_alone() -> None:
    """A handler that outlives the server has nobody to tell."""
    opened = threading.Event()
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        opened.wait(PATIENCE)

    async def main() -> None:
        pool = ThreadWorkerPool(asyncio.get_running_loop(), max_threads=1, concurrency=1)
        work = FakeCall(call)
        pool.start(work)
        await settled(lambda: bool(threads))
        assert await pool.close(0) == 1

    asyncio.run(main())
    opened.set()
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()


# Invariants over any sequence of events

OPERATIONS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["quick", "raises", "blocks"])),
    st.tuples(st.just("start"), st.sampled_from(["quick", "raises", "blocks"])),
    st.tuples(st.just("open"), st.integers(0, 5)),
    st.tuples(st.just("withdraw"), st.integers(0, 5)),
    st.tuples(st.just("rest"), st.just(0)),
    st.tuples(st.just("tick"), st.sampled_from([0, 1, MAX_WAIT, MAX_IDLE])),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    max_threads=st.integers(1, 3),
    concurrency=st.integers(1, 5),
    max_wait=st.sampled_from([0.0, MAX_WAIT]),
    operations=st.lists(OPERATIONS, max_size=25),
)
def test_invariants_hold_over_any_sequence(
    run: Run, max_threads: int, concurrency: int, max_wait: float, operations: list[tuple[str, Any]]
) -> None:
    def raises() -> None:
        raise ValueError

    async def main() -> None:
        works: list[FakeCall] = []
        withdrawn: list[FakeCall] = []
        gates: list[Gate] = []
        async with new_pool(max_threads, concurrency, max_wait) as pool:
            try:
                for name, argument in operations:
                    if name == "start":
                        gate = Gate()
                        kinds: dict[str, Callable[[], Any]] = {"quick": int, "raises": raises, "blocks": gate}
                        works.append(FakeCall(kinds[argument]))
                        pool.start(works[-1])
                        if argument == "blocks" and not works[-1].ends:
                            gates.append(gate)
                    elif name == "open" and gates:
                        gates.pop(argument % len(gates)).open()
                    elif name == "withdraw" and pool.waiting:
                        with pool._lock:
                            work: Any = list(pool._queue)[argument % len(pool._queue)] if pool._queue else None
                            if work is not None:
                                del pool._queue[work]  # what `withdraw` does, and for certain before a thread takes it
                        if work is not None:
                            withdrawn.append(work)
                    elif name == "tick":
                        pool.tick(pool.now + argument)
                    elif name == "rest":
                        await turns()
                    with pool._lock:
                        assert pool._threads <= max_threads
                        assert pool._running + len(pool._queue) <= concurrency
                        # Invariant 2: what waits has no thread to wait for, or one is being woken.
                        if pool._queue and not pool._waking:
                            assert not pool._ready
                            assert pool._threads == max_threads
                    assert all(len(work.ends) <= 1 for work in works)
            finally:
                for gate in gates:
                    gate.open()
            await settled(lambda: all(work.ends or work in withdrawn for work in works))
            await at_rest(pool)
            for work in works:
                assert len(work.ends) == (0 if work in withdrawn else 1)
                assert (work.thread is not None) == (work.ends == ["ended"])
                assert work.failure is None or isinstance(work.failure, ValueError)

    run(main())


SOON_OPERATIONS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["quick", "raises", "blocks"])),
    st.tuples(st.just("start_soon"), st.sampled_from(["quick", "raises", "blocks"])),
    st.tuples(st.just("start_soon"), st.just("quick")),
    st.tuples(st.just("open"), st.integers(0, 5)),
    st.tuples(st.just("withdraw"), st.integers(0, 9)),
    st.tuples(st.just("turn"), st.just(0)),
    st.tuples(st.just("rest"), st.just(0)),
    st.tuples(st.just("tick"), st.sampled_from([0, 1, MAX_IDLE])),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    max_threads=st.integers(1, 4),
    concurrency=st.integers(1, 12),
    operations=st.lists(SOON_OPERATIONS, max_size=30),
)
def test_nothing_waits_for_a_call_that_blocks_while_a_thread_is_free(
    run: Run, max_threads: int, concurrency: int, operations: list[tuple[str, Any]]
) -> None:
    def raises() -> None:
        raise ValueError

    async def main() -> None:
        works: list[FakeCall] = []
        gates: dict[FakeCall, Gate] = {}
        withdrawn: set[FakeCall] = set()

        async with new_pool(max_threads, concurrency, max_wait=1000.0) as pool:
            try:
                for name, argument in operations:
                    if name in ("start", "start_soon"):
                        gate = Gate()
                        kinds: dict[str, Callable[[], Any]] = {"quick": int, "raises": raises, "blocks": gate}
                        work = FakeCall(kinds[argument])
                        works.append(work)
                        getattr(pool, name)(work)
                        if argument == "blocks" and not work.ends:
                            gates[work] = gate
                    elif name == "open" and gates:
                        gates.pop(list(gates)[argument % len(gates)]).open()
                    elif name == "withdraw" and works:
                        work = works[argument % len(works)]
                        with pool._lock:
                            waits = pool._queue.pop(work, None)  # as `withdraw`, and we know what it did
                        if waits is not None:
                            withdrawn.add(work)
                            gates.pop(work, None)
                    elif name == "tick":
                        pool.tick(pool.now + argument)
                    elif name == "turn":
                        await asyncio.sleep(0)
                    elif name == "rest":
                        await asyncio.sleep(0.001)
                    with pool._lock:
                        assert pool._threads <= max_threads
                        assert pool._running + len(pool._queue) <= concurrency
                # All gates are shut still: whatever has a free thread ends.
                if len(gates) < max_threads:
                    others = [work for work in works if work not in gates and work not in withdrawn]
                    await settled(lambda: all(work.ends for work in others))
                    await settled(lambda: pool.running == len(gates) and not pool.waiting)
            finally:
                for gate in gates.values():
                    gate.open()
            await settled(lambda: all(work.ends for work in works if work not in withdrawn))
            await at_rest(pool)
            for work in works:
                assert len(work.ends) == (0 if work in withdrawn else 1)
                assert (work.thread is not None) == (work.ends == ["ended"])

    run(main())


# Answers of `def` handlers

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"


def test_requests_of_one_turn_are_answered_each_on_its_connection(run: Run) -> None:
    def handler(ctx: RequestCtx) -> None:
        ctx.set_body(ctx.path)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            clients = [server.connect() for _ in range(20)]
            for turn in range(3):
                for number, client in enumerate(clients):
                    client.feed(GET % b"%d-%d" % (turn, number))
                for number, client in enumerate(clients):
                    response = await client.read_response()
                    assert (response.status, response.body) == (200, b"/%d-%d" % (turn, number))
            assert all(client.transport.writes == 3 for client in clients)
            assert len(server.service.contexts) == 20  # used again, and again

    run(main())


def test_nothing_of_a_request_on_a_thread_is_left_for_the_next(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def handler(ctx: RequestCtx) -> None:
        ctx.write(f"{ctx.method} {ctx.time} {ctx.post_body!r} {ctx.user_value('of')} {VAR.get(None)}")
        if ctx.is_post:
            ctx.set_user_value("of", "the first")
            VAR.set("the first")
            ctx.set_status_code(201)
            ctx.set_content_type("text/html")

    async def main() -> None:
        nonlocal now
        monkeypatch.setattr("time.time", lambda: now)
        async with MemoryServer(handler) as server:
            client = server.connect()
            for _ in range(3):
                client.feed(POST)
                response = await client.read_response()
                assert (response.status, response.headers["content-type"]) == (201, "text/html")
                assert response.body == b"POST %.1f b'body' None None" % now
                assert [spare._request.body for spare in server.service.contexts] == [b""]  # a large one is not held
                now += 1
                client.feed(GET % b"")
                response = await client.read_response()
                assert (response.status, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
                assert response.body == b"GET %.1f b'' None None" % now
                now += 1
            assert len(server.service.contexts) == 1

    run(main())


def test_client_that_does_not_read_a_threads_answer_is_not_read_from(run: Run) -> None:
    seen: list[str] = []

    def handler(ctx: RequestCtx) -> None:
        seen.append(ctx.path)
        ctx.set_body(b"x" * 5000)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect(high_water=1000)
            client.transport.take(0)
            client.feed(GET % b"first")
            await settled(lambda: client.transport.writes == 1)
            client.feed(GET % b"second")
            await settled(lambda: not client.transport.reading)
            for _ in range(5):
                await asyncio.sleep(0)
            assert seen == ["/first"]
            client.transport.take(None)
            for _ in range(2):
                assert (await client.read_response()).body == b"x" * 5000
            assert seen == ["/first", "/second"]

    run(main())


def test_answers_on_threads_that_are_not_plain(run: Run) -> None:
    def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/raises":
            raise RequestError(418, "on purpose")
        if ctx.path == "/header":
            ctx.set_header("X-Own", "1")
        if ctx.path == "/nothing":
            ctx.set_status_code(204)
        ctx.set_body(b"" if ctx.path == "/nothing" else b"hello")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            for _ in range(2):
                client.feed(GET % b"raises")
                assert (await client.read_response()).status == 418
                client.feed(GET % b"header")
                assert (await client.read_response()).headers["x-own"] == "1"
                client.feed(GET % b"nothing")
                assert (await client.read_response()).status == 204
                client.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
                head = await client.read_response(head=True)
                assert (head.status, head.headers["content-length"]) == (200, "5")
                client.feed(GET % b"")
                response = await client.read_response()
                assert (response.status, response.body, "x-own" in response.headers) == (200, b"hello", False)
            client.feed(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            response = await client.read_response()
            assert (response.body, response.headers["connection"]) == (b"hello", "close")
            await client.closed()

    run(main())


def test_deadlines_hold_behind_an_answer_of_a_thread(run: Run) -> None:
    def handler(ctx: RequestCtx) -> None:
        ctx.set_body(b"hello")

    async def main() -> None:
        async with MemoryServer(handler, read_timeout=2, idle_timeout=10) as server:
            slow, idle = server.connect(), server.connect()
            for client in (slow, idle):
                client.feed(b"GET / HTTP/1.1\r\n")
                client.feed(b"Host: a\r\n\r\n")
                assert (await client.read_response()).body == b"hello"
            slow.feed(b"GET / HTTP/1.1\r\n")
            await asyncio.sleep(0)
            server.advance(3)
            assert (await slow.read_response()).status == 408
            assert not idle.transport.closed
            server.advance(8)
            await idle.closed()

    run(main())


def test_answer_of_a_thread_whose_client_has_gone_is_nobodys(run: Run) -> None:
    async def main() -> None:
        gate = Gate()

        def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/waits":
                gate()
            ctx.set_body(ctx.path)

        async with MemoryServer(handler) as server:
            gone, other = server.connect(), server.connect()
            gone.feed(GET % b"waits")
            await gate.entered.wait()
            gone.reset()
            await gone.closed()
            gate.open()
            await settled(lambda: server.service.threads.running == 0)
            other.feed(GET % b"other")
            assert (await other.read_response()).body == b"/other"
            assert gone.transport.writes == 0

    run(main())
