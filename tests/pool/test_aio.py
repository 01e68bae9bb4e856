"""`ConnPool`: the cancel sweep, and what the shell adds to the core: tasks, hooks, one timer, the end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastserve.errors import DialError, DialTimeout, NoFreeConns, PoolClosed, PoolError, RequestTimeout
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn
from fastserve.pool.events import PoolEvent
from fastserve.pool.options import PoolOptions
from tests.pool.world import TICKS, Clock, Conn, World, ticks, until

Run = Callable[[Coroutine[Any, Any, None]], None]

PATIENT: dict[str, Any] = {"max_conn_wait_timeout": 20.0}


async def slow_ok(*arguments: Any) -> bool:
    await ticks(TICKS)
    return True


def a_pool(world: World, clock: Callable[[], float] | None = None, **options: Any) -> ConnPool[Conn]:
    if clock is None:
        return ConnPool(world.dial, world.close, PoolOptions(**options))
    return ConnPool(world.dial, world.close, PoolOptions(**options), clock=clock)


def balanced(pool: ConnPool[Conn], world: World) -> None:
    stats = pool.stats()
    assert stats.streams == 0
    assert stats.waiting == 0
    assert len(world.open) == stats.conns - stats.dialing


# --- the cancel sweep

PATHS: dict[str, dict[str, Any]] = {
    "warm": {},
    "dial": {},
    "wait": {"max_conns": 1},
    "handed over": {"max_conns": 1},
    "test_on_borrow": {"test_on_borrow": slow_ok, "max_conns": 1},
    "reset": {"reset": slow_ok, "max_conns": 1},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("k", range(21))
def test_cancel_after_k_ticks(run: Run, path: str, k: int) -> None:
    """A is cancelled after k turns of the loop, wherever it is by then; B, behind it, is served, and the books balance."""

    async def main() -> None:
        world = World()
        pool = a_pool(world, **PATIENT, **PATHS[path])
        holder: PooledConn[Conn] | None = None
        if path != "dial":
            holder = await pool.acquire()
        if path in ("warm", "test_on_borrow", "reset") and holder is not None:
            pool.release(holder)  # with a reset, it goes on while A waits
            holder = None
            if path != "reset":
                assert pool.stats().idle == 1

        async def use() -> int:
            async with pool.connection() as conn:
                await ticks(2)
                return conn.number

        a, b = asyncio.create_task(use()), asyncio.create_task(use())
        if path == "wait":
            asyncio.get_running_loop().call_soon(lambda: None)
        for turn in range(k):
            if path == "wait" and turn == 10 and holder is not None:
                pool.release(holder)
                holder = None
            await asyncio.sleep(0)
        if path == "handed over" and holder is not None:
            pool.release(holder)  # in the very tick of the cancel
            holder = None
        a.cancel()
        if holder is not None:
            await asyncio.sleep(0)
            pool.release(holder)
        outcome = (await asyncio.gather(a, return_exceptions=True))[0]
        assert isinstance(outcome, int | asyncio.CancelledError)
        assert isinstance(await b, int)
        await until(lambda: pool.stats().idle == pool.stats().conns)  # a reset may still run
        balanced(pool, world)
        await pool.aclose()
        assert not world.open

    run(main())


@pytest.mark.parametrize("k", range(21))
def test_cancel_of_aclose_after_k_ticks(run: Run, k: int) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, min_idle_conns=1)
        held = await pool.acquire()
        closing = asyncio.create_task(pool.aclose())
        await ticks(k)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        pool.release(held)
        await pool.aclose()
        await until(lambda: not world.open)

    run(main())


# --- what an acquire ends with


def test_no_free_connection_at_once(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=1)
        held = await pool.acquire()
        with pytest.raises(NoFreeConns, match=r"all 1 connections are in use.*max_conn_wait_timeout"):
            await pool.acquire()
        pool.release(held)
        balanced(pool, world)
        await pool.aclose()

    run(main())


def test_a_full_queue_refuses(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=1, max_waiters=1, **PATIENT)
        held = await pool.acquire()
        first = asyncio.create_task(pool.acquire())
        await until(lambda: pool.stats().waiting == 1)
        with pytest.raises(NoFreeConns, match="max_waiters"):
            await pool.acquire()
        pool.release(held)
        pool.release(await first)
        await pool.aclose()

    run(main())


def test_the_shorter_time_tells_which_error(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=1, max_conn_wait_timeout=0.05)
        held = await pool.acquire()
        with pytest.raises(NoFreeConns, match=r"waited 0\.\d+ s"):
            await pool.acquire(timeout=20)
        with pytest.raises(RequestTimeout, match=r"waited 0\.\d+ s") as caught:
            await pool.acquire(timeout=0.02)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(RequestTimeout):
            await pool.acquire(timeout=0)
        assert pool.stats().timeouts == 3
        pool.release(held)
        balanced(pool, world)
        await pool.aclose()

    run(main())


def test_a_failed_dial_says_why(run: Run) -> None:
    async def main() -> None:
        world = World()
        world.errors = [ConnectionRefusedError("no listener")]
        pool = a_pool(world)
        with pytest.raises(DialError, match="ConnectionRefusedError: no listener") as caught:
            await pool.acquire()
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        pool.release(await pool.acquire())
        assert pool.stats().dial_errors == 1
        await pool.aclose()

    run(main())


def test_a_dial_that_hangs_is_cancelled(run: Run) -> None:
    async def main() -> None:
        world = World()
        world.gate = asyncio.Event()
        pool = a_pool(world, dial_timeout=0.03)
        with pytest.raises(DialTimeout, match="dial_timeout"):
            await pool.acquire()
        assert pool.stats().conns == 0
        await until(lambda: not pool._dials)
        await pool.aclose()

    run(main())


def test_dial_retries_and_backoff(run: Run) -> None:
    async def main() -> None:
        world = World()
        world.errors = [OSError("1"), OSError("2")]
        pool = a_pool(world, dial_retries=2, dial_backoff=0.001)
        pool.release(await pool.acquire())
        assert world.dials == 3
        await pool.aclose()

    run(main())


def test_fail_fast_and_the_probe(run: Run) -> None:
    async def main() -> None:
        world, clock = World(), Clock()
        world.errors = [OSError("down"), OSError("down")]
        pool = a_pool(world, clock, fail_fast_after=2, dial_backoff=10.0)
        for _ in range(2):
            with pytest.raises(DialError):
                await pool.acquire()
        with pytest.raises(DialError, match="2 dials in a row"):
            await pool.acquire()
        assert world.dials == 2
        clock.now += 25
        pool.release(await pool.acquire())
        assert world.dials == 3
        await pool.aclose()

    run(main())


# --- hooks


@pytest.mark.parametrize("kind", ["async", "plain", "raises"])
def test_a_refused_test_tries_the_next(run: Run, kind: str) -> None:
    asked: list[tuple[int, float]] = []

    def plain(conn: Conn, last_used: float) -> bool:
        asked.append((conn.number, last_used))
        if kind == "raises" and conn.number == 1:
            raise OSError("gone")
        return conn.number != 1

    async def slow(conn: Conn, last_used: float) -> bool:
        await asyncio.sleep(0)
        return plain(conn, last_used)

    async def main() -> None:
        world, clock = World(), Clock()
        pool = a_pool(world, clock, test_on_borrow=slow if kind == "async" else plain)
        both = [await pool.acquire(), await pool.acquire()]
        for pooled in both:
            pool.release(pooled)
        clock.now += 5
        got = await pool.acquire()
        assert got.conn.number == 0
        assert asked == [(1, 5.0), (0, 5.0)]
        assert pool.stats().closed["stale"] == 1
        assert pool.stats().hits == 1
        pool.release(got)
        await pool.aclose()

    run(main())


@pytest.mark.parametrize("kind", ["async", "plain", "raises", "hangs"])
def test_a_failed_reset_closes(run: Run, kind: str) -> None:
    def plain(conn: Conn) -> bool:
        if kind == "raises":
            raise OSError("gone")
        return False

    async def slow(conn: Conn) -> bool:
        if kind == "hangs":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return False

    async def main() -> None:
        world = World()
        pool = a_pool(world, reset=slow if kind in ("async", "hangs") else plain, dial_timeout=0.3)
        pool.release(await pool.acquire())
        await until(lambda: not world.open)
        assert pool.stats().closed["error"] == 1
        balanced(pool, world)
        await pool.aclose()

    run(main())


def test_reset_comes_before_the_next_holder(run: Run) -> None:
    log: list[str] = []

    async def reset(conn: Conn) -> None:
        log.append("reset begins")
        await ticks(TICKS)
        log.append("reset ends")

    async def main() -> None:
        world = World()
        pool = a_pool(world, reset=reset, max_conns=1, **PATIENT)
        held = await pool.acquire()
        waiter = asyncio.create_task(pool.acquire())
        await until(lambda: pool.stats().waiting == 1)
        pool.release(held)
        assert pool.stats().in_use == 1  # it counts as in use
        assert pool.stats().streams == 0
        got = await waiter
        log.append("next holder")
        assert log == ["reset begins", "reset ends", "next holder"]
        pool.release(got)
        await pool.aclose()

    run(main())


def test_dials_and_hooks_run_outside_the_callers_context(run: Run) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    async def main() -> None:
        world = World()

        async def dial() -> Conn:
            seen.append(who.get())
            return await world.dial()

        pool: ConnPool[Conn] = ConnPool(dial, world.close)
        who.set("a caller")
        pool.release(await pool.acquire())
        assert seen == ["nobody"]
        await pool.aclose()

    run(main())


def test_attach_comes_first_and_may_say_lost(run: Run) -> None:
    async def main() -> None:
        world = World()
        entries: list[PooledConn[Conn]] = []

        def attach(pooled: PooledConn[Conn]) -> None:
            entries.append(pooled)
            if len(entries) == 1:
                pool.lost(pooled)  # it died between its dial and now

        pool = ConnPool(world.dial, world.close, attach=attach)
        first = await pool.acquire()
        assert first is entries[0]
        pool.release(first)
        assert world.conns[0].closed
        pool.release(await pool.acquire())
        pool.lost(entries[1])
        pool.lost(entries[1])
        assert not world.open
        assert pool.stats().closed["stale"] == 2
        await pool.aclose()

    run(main())


def test_an_attach_that_raises_costs_no_wake_up(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def bad(pooled: PooledConn[Conn]) -> None:
        raise ValueError("attach")

    async def main() -> None:
        world = World()
        pool = ConnPool(world.dial, world.close, attach=bad)
        pool.release(await pool.acquire())
        await pool.aclose()
        assert not world.open

    run(main())
    assert "attach raised" in caplog.text


def test_events(run: Run) -> None:
    events: list[PoolEvent] = []

    async def main() -> None:
        world = World()
        world.errors = [OSError("no")]
        pool = a_pool(world, on_event=events.append)
        with pytest.raises(DialError):
            await pool.acquire()
        pool.release(await pool.acquire())
        await pool.aclose()

    run(main())
    kinds = [event.kind for event in events]
    assert kinds == ["dial", "wait", "dial_failed", "failed", "dial", "wait", "dialled", "served", "closed"]
    assert isinstance(events[3].error, DialError)
    assert events[-1].reason == "shutdown"


def test_each_end_of_a_wait_is_told_once(run: Run) -> None:
    events: list[PoolEvent] = []

    def told() -> list[str]:
        kinds: list[str] = [event.kind for event in events if event.kind in ("served", "failed")]
        events.clear()
        return kinds

    async def main() -> None:
        world, clock = World(), Clock()
        world.errors = [OSError("no")]
        pool = a_pool(world, clock, max_conns=1, fail_fast_after=1, on_event=events.append, **PATIENT)
        for _ in range(2):  # the second is refused at once
            with pytest.raises(DialError):
                await pool.acquire()
            assert told() == ["failed"]
        clock.now += 10
        pooled = await pool.acquire()
        assert told() == ["served"]
        assert events == []
        waiters = [asyncio.create_task(pool.acquire()) for _ in range(2)]
        await until(lambda: pool.stats().waiting == 2)
        events.clear()
        pool.release(pooled)
        waiters[0].cancel()  # in the tick of its wake-up
        assert await waiters[1] is pooled
        assert [event.conn for event in events if event.kind == "served"] == [pooled.conn]
        pool.release(pooled)
        await pool.aclose()

    run(main())


def test_an_event_hook_that_raises_changes_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def bad(event: PoolEvent) -> None:
        raise ValueError("hook")

    async def main() -> None:
        world = World()
        pool = a_pool(world, on_event=bad)
        pool.release(await pool.acquire())
        await pool.aclose()
        assert not world.open

    run(main())
    assert "on_event raised" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_close_that_raises_changes_nothing(run: Run, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def bad(conn: Conn) -> None:
        raise OSError("already gone")

    async def bad_async(conn: Conn) -> None:
        raise OSError("already gone")

    async def main() -> None:
        world = World()
        pool: ConnPool[Conn] = ConnPool(world.dial, bad if kind == "plain" else bad_async)
        pool.release(await pool.acquire())
        await pool.aclose()
        assert pool.stats().conns == 0

    run(main())
    assert "already gone" in caplog.text


# --- streams


def test_one_shared_connection_as_grpc_has(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=1, max_concurrent_dials=1, max_streams=lambda conn: 100)
        held = await asyncio.gather(*(pool.acquire() for _ in range(100)))
        assert world.dials == 1
        assert pool.stats().streams == 100
        assert pool.stats().idle == 0
        with pytest.raises(NoFreeConns):
            await pool.acquire()
        for pooled in held:
            pool.release(pooled)
        with pytest.raises(PoolError, match="twice"):
            pool.release(held[0])
        assert pool.stats().idle == 1
        await pool.aclose()

    run(main())


# --- the timer


def test_one_timer_however_many_wait(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = ConnPool(world.dial, world.close, PoolOptions(max_conns=1, **PATIENT))
        held = await pool.acquire()
        timers: list[asyncio.TimerHandle | None] = []
        waiters = []
        for n in range(100):
            waiters.append(asyncio.create_task(pool.acquire(timeout=15 + n)))
            await until(lambda n=n: pool.stats().waiting == n + 1)  # type: ignore[misc]
            if pool._timer not in timers:
                timers.append(pool._timer)
        assert len(timers) == 1
        assert timers[0] is not None
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert pool.stats().waiting == 0
        pool.release(held)
        await pool.aclose()
        assert pool._timer is None

    run(main())


def test_no_timer_while_there_is_nothing_to_watch(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_idle_conn_duration=None, dial_timeout=0.5)
        assert pool._timer is None
        held = await pool.acquire()
        await until(lambda: pool._timer is None)  # it was there for the dial's own time-out
        pool.release(held)
        pool.release(await pool.acquire())
        assert pool.stats().idle == 1
        assert pool._timer is None
        await pool.aclose()

    run(main())


def test_idle_connections_close_by_themselves(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_idle_conn_duration=0.03)
        pool.release(await pool.acquire())
        assert pool.stats().idle == 1
        await until(lambda: not world.open)
        assert pool.stats().closed["idle"] == 1
        assert pool._timer is None
        await pool.aclose()

    run(main())


def test_min_idle_is_kept_up(run: Run) -> None:
    async def main() -> None:
        world, clock = World(), Clock()
        async with a_pool(world, clock, min_idle_conns=2, max_conns=4) as pool:
            await until(lambda: pool.stats().idle == 2)
            held = await pool.acquire()
            await until(lambda: len(world.open) == 2)
            pool.discard(held)
            pool.sweep()
            await until(lambda: pool.stats().idle == 2)
            clock.now += 100  # both are past max_idle_conn_duration
            pool.sweep()
            await until(lambda: pool.stats().idle == 2)
            assert pool.stats().closed["idle"] >= 1
        assert not world.open

    run(main())


def test_a_failing_upkeep_backs_off(run: Run) -> None:
    async def main() -> None:
        world, clock = World(), Clock()
        world.errors = [OSError("down")] * 3
        async with a_pool(world, clock, min_idle_conns=1, dial_backoff=1.0) as pool:
            for dials in (1, 2, 3):
                await until(lambda: pool.stats().dial_errors == dials)  # noqa: B023
                pool.sweep()
                assert world.dials == dials
                clock.now += 10
                pool.sweep()
            await until(lambda: pool.stats().idle == 1)

    run(main())


# --- the end


def test_close_waits_and_then_cuts(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=2)
        one, two = await pool.acquire(), await pool.acquire()
        pool.release(one)
        assert await pool.aclose(timeout=0.02) == 1
        assert not world.open
        pool.release(two)  # its holder did nothing wrong
        with pytest.raises(PoolError, match="twice"):
            pool.release(two)
        with pytest.raises(PoolClosed):
            await pool.acquire()
        assert pool.acquire_nowait() is None
        assert await pool.aclose() == 0

    run(main())


def test_another_loop_is_refused() -> None:
    world = World()
    pool = a_pool(world)

    async def use() -> None:
        pool.release(await pool.acquire())
        pool.close_idle_connections()

    async def use_again() -> None:
        with pytest.raises(PoolError, match="one pool per loop"):
            await pool.acquire()

    asyncio.run(use())
    asyncio.run(use_again())


def test_a_connection_of_another_pool_is_refused(run: Run) -> None:
    async def main() -> None:
        world = World()
        one, two = a_pool(world), a_pool(world)
        held = await one.acquire()
        with pytest.raises(PoolError, match="another pool"):
            two.release(held)
        one.release(held)
        await one.aclose()
        await two.aclose()

    run(main())


def test_a_block_that_raises_closes_its_connection(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world)
        with pytest.raises(ValueError, match="mine"):
            async with pool.connection():
                raise ValueError("mine")
        assert not world.open
        assert pool.stats().closed["error"] == 1
        await pool.aclose()

    run(main())


def test_the_warm_path_allocates_no_task(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world)
        pool.release(await pool.acquire())
        made: list[object] = []
        loop = asyncio.get_running_loop()

        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **rest: Any) -> asyncio.Task[Any]:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **rest)

        loop.set_task_factory(factory)
        for _ in range(100):
            pooled = pool.acquire_nowait()
            assert pooled is not None
            pool.release(pooled)
            pool.release(await pool.acquire())
        loop.set_task_factory(None)
        assert not made
        assert pool.stats().hits == 200
        assert world.dials == 1
        await pool.aclose()

    run(main())
