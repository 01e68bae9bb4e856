"""`ThreadWorkerPool` without sockets: its invariants, and `run`, which is `ctx.run_in_thread`."""

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

from fastserve.errors import FastserveError, RequestError, WorkerPoolClosed
from fastserve.server.threadpool import ThreadWorkerPool
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
