"""Real bugs of real pools that must not happen here: the table of pool.md, a test or more per row, named after it.

Rows 8 and 14 are about HTTP: they are in tests/client.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastserve.errors import DialError, PoolClosed, RequestTimeout
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn
from fastserve.pool.core import PoolCore
from fastserve.pool.options import PoolOptions
from fastserve.pool.threads import SyncConnPool
from fastserve.pool.want import WantConn
from tests.pool.driver import Driver
from tests.pool.world import Clock, Conn, ThreadWorld, World, ticks, until, wait_until

Run = Callable[[Coroutine[Any, Any, None]], None]


def a_pool(world: World, max_conns: int = 1, **options: Any) -> ConnPool[Conn]:
    options.setdefault("max_conn_wait_timeout", 20.0)
    return ConnPool(world.dial, world.close, PoolOptions(max_conns=max_conns, **options))


def test_row_01_granted_and_cancelled_in_the_same_tick(run: Run) -> None:
    """aiohttp#9670: A is granted the connection and cancelled in one tick; B must go on."""

    async def main() -> None:
        world = World()
        pool = a_pool(world)
        held = await pool.acquire()
        a = asyncio.create_task(pool.acquire())
        b = asyncio.create_task(pool.acquire())
        await until(lambda: pool.stats().waiting == 2)
        pool.release(held)
        a.cancel()
        got = await b
        assert a.cancelled()
        assert got is held
        assert pool.stats().undelivered == 1
        pool.release(got)
        await pool.aclose()

    run(main())


def test_row_02_a_newcomer_does_not_overtake_the_queue(run: Run) -> None:
    """aiohttp#4936: the connection is released, and a newcomer asks before the waiter has run."""

    async def main() -> None:
        world = World()
        pool = a_pool(world)
        order: list[str] = []

        async def use(name: str) -> None:
            async with pool.connection():
                order.append(name)
                await ticks(2)

        held = await pool.acquire()
        waiter = asyncio.create_task(use("waiter"))
        await until(lambda: pool.stats().waiting == 1)
        pool.release(held)
        assert pool.acquire_nowait() is None
        newcomer = asyncio.create_task(use("newcomer"))
        await asyncio.gather(waiter, newcomer)
        assert order == ["waiter", "newcomer"]
        await pool.aclose()

    run(main())


def test_row_03_close_with_waiters(run: Run) -> None:
    """aiohttp, urllib3, httpcore: each waiter gets PoolClosed, not CancelledError, and nothing runs after close."""

    async def main() -> None:
        world = World()
        world.gate = asyncio.Event()
        pool = a_pool(world, max_conns=2)
        waiters = [asyncio.create_task(pool.acquire()) for _ in range(5)]
        await until(lambda: world.dials == 2)
        await pool.aclose()
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [PoolClosed] * 5
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert pool._timer is None
        assert not world.open

    run(main())


def test_row_03_close_with_waiting_threads() -> None:
    """No thread hangs."""
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1, max_conn_wait_timeout=30.0))
    held = pool.acquire()
    outcomes: list[object] = []

    def wait() -> None:
        try:
            outcomes.append(pool.acquire())
        except PoolClosed as error:
            outcomes.append(error)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: pool.stats().waiting == 8)
    closer = threading.Thread(target=pool.close)
    closer.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert [type(outcome) for outcome in outcomes] == [PoolClosed] * 8
    pool.release(held)
    closer.join(20)
    assert not closer.is_alive()
    assert not world.open


def test_row_04_cancelled_while_assigned_to_a_connection_not_yet_dialled(run: Run) -> None:
    """httpcore#1093, #658, #830: the slot comes back, whether the dial then succeeds or fails."""

    async def main(error: Exception | None) -> None:
        world = World()
        pool = a_pool(world)
        world.gate = asyncio.Event()
        a = asyncio.create_task(pool.acquire())
        await until(lambda: world.dials == 1)
        a.cancel()
        await asyncio.gather(a, return_exceptions=True)
        if error is not None:
            world.errors = [error]
        world.gate.set()
        await until(lambda: pool.stats().dialing == 0)
        assert pool.stats().conns == (0 if error else 1)
        pool.release(await pool.acquire())
        assert pool.stats().conns == 1
        await pool.aclose()
        assert not world.open

    run(main(None))
    run(main(OSError("refused")))


def test_row_05_an_assigned_connection_is_not_closed_by_housekeeping(run: Run) -> None:
    """httpcore#1110: between the grant and the holder's first step, time runs out and the sweep comes."""

    async def main() -> None:
        world, clock = World(), Clock()
        options = PoolOptions(
            max_conns=1, max_conn_wait_timeout=9000.0, max_idle_conn_duration=10, max_conn_duration=60
        )
        pool = ConnPool(world.dial, world.close, options, clock=clock)
        held = await pool.acquire()
        waiter = asyncio.create_task(pool.acquire())
        await until(lambda: pool.stats().waiting == 1)
        pool.release(held)
        clock.now += 1000
        pool.sweep()
        pool.close_idle_connections()
        got = await waiter
        assert not got.conn.closed
        pool.release(got)  # its lifetime is over: it closes now
        assert got.conn.closed
        assert pool.stats().closed["lifetime"] == 1
        await pool.aclose()

    run(main())


def test_row_06_four_hundred_requests_on_one_connection(run: Run) -> None:
    """httpx#3215, httpcore#1035: served in the order they came, and the work per request does not grow with the queue."""

    async def main() -> None:
        world = World()
        pool = a_pool(world)
        order: list[int] = []

        async def use(number: int) -> None:
            async with pool.connection():
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(use(number) for number in range(400)))
        assert order == list(range(400))
        assert world.dials == 1
        await pool.aclose()

    run(main())


def test_row_06_work_is_linear_in_the_queue() -> None:
    """Counted in function calls, which do not depend on the machine: 4 times the queue, about 4 times the calls."""

    def calls(waiters: int) -> int:
        count = 0

        def counting(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        core: PoolCore[int] = PoolCore(PoolOptions(max_conns=1, max_conn_wait_timeout=60.0))
        wants: list[WantConn[int]] = [WantConn() for _ in range(waiters)]
        dials = [action for want in wants for action in core.acquire(want, 0.0)]
        assert len(dials) == 1
        sys.setprofile(counting)
        try:
            core.dialled(dials[0].ticket, 7, 0.0)  # type: ignore[union-attr]
            for want in wants:
                core.release(want.take(), 0.0)
        finally:
            sys.setprofile(None)
        return count

    assert calls(400) < 4.4 * calls(100)


@pytest.mark.parametrize("failures", [1, 5])
def test_row_07_dial_failures_at_the_limit(run: Run, failures: int) -> None:
    """aiohttp#835, golang#10886, urllib3#644: each failure fails one waiter and frees its slot for the next."""

    async def main() -> None:
        world = World()
        world.errors = [ConnectionRefusedError(str(n)) for n in range(failures)]
        pool = a_pool(world, max_conns=2)

        async def use() -> str:
            async with pool.connection():
                await ticks(1)
            return "served"

        outcomes = await asyncio.gather(*(use() for _ in range(10)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DialError] * failures + [str] * (10 - failures)
        assert pool.stats().dial_errors == failures
        assert pool.stats().conns == len(world.open)
        await pool.aclose()

    run(main())


def test_row_09_a_wait_that_times_out_leaves_no_phantom_slot(run: Run) -> None:
    """urllib3#1758, #1866, #2197."""

    async def main() -> None:
        world = World()
        pool = a_pool(world)
        held = await pool.acquire()
        for _ in range(5):
            with pytest.raises(RequestTimeout):
                await pool.acquire(timeout=0.001)
        assert pool.stats().waiting == 0
        pool.release(held)
        assert pool.stats().idle == 1
        again = pool.acquire_nowait()
        assert again is held
        pool.release(again)
        assert pool.stats().conns == 1
        await pool.aclose()

    run(main())


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
def test_row_10_timed_out_or_cancelled_during_connect(run: Run, how: str) -> None:
    """asyncpg#467, #547: the dial belongs to the queue; its connection is kept for the next, and closed with the pool."""

    async def main() -> None:
        world = World()
        world.gate = asyncio.Event()
        pool = a_pool(world)
        acquire = asyncio.create_task(pool.acquire(timeout=0.02 if how == "timed out" else None))
        await until(lambda: world.dials == 1)
        if how == "cancelled":
            acquire.cancel()
        outcome = (await asyncio.gather(acquire, return_exceptions=True))[0]
        assert isinstance(outcome, RequestTimeout if how == "timed out" else asyncio.CancelledError)
        world.gate.set()
        await until(lambda: pool.stats().idle == 1)
        got = await pool.acquire()
        assert got.uses == 1
        assert world.dials == 1
        pool.release(got)
        await pool.aclose()
        assert not world.open

    run(main())


def test_row_11_a_hundred_workers_on_ten_connections(run: Run) -> None:
    """asyncpg#1247: the longest wait stays bounded. Counted in grants, not in seconds: nobody is passed by more than
    the ninety that were ahead.
    """

    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=10)
        grants = 0
        longest = 0
        rounds = 0

        async def work() -> None:
            nonlocal grants, longest, rounds
            for _ in range(60):
                before = grants
                async with pool.connection():
                    longest = max(longest, grants - before)
                    grants += 1
                    await asyncio.sleep(0)
                rounds += 1

        await asyncio.gather(*(work() for _ in range(100)))
        assert rounds == 6000
        assert longest <= 100
        assert world.dials == 10
        await pool.aclose()

    run(main())


def test_row_12_close_waits_for_holders_up_to_a_timeout(run: Run) -> None:
    """asyncpg#290."""

    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=2)
        one, two = await pool.acquire(), await pool.acquire()
        closing = asyncio.create_task(pool.aclose(timeout=20))
        await ticks(5)
        assert not closing.done()
        pool.release(one)
        await ticks(5)
        assert not closing.done()
        assert one.conn.closed
        pool.release(two)
        assert await closing == 0
        assert not world.open

        stubborn = a_pool(World())
        await stubborn.acquire()
        assert await stubborn.aclose(timeout=0.01) == 1

    run(main())


def test_row_12_threads() -> None:
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close)
    held = pool.acquire()
    assert pool.close(timeout=0.01) == 1
    assert not world.open
    pool.release(held)


def test_row_13_release_does_not_stop_at_a_dead_waiter(run: Run) -> None:
    """fasthttp#2391: the first waiters in the queue have gone; the connection reaches the one that lives."""

    async def main() -> None:
        world = World()
        pool = a_pool(world)
        held = await pool.acquire()
        dead = [asyncio.create_task(pool.acquire()) for _ in range(10)]
        await until(lambda: pool.stats().waiting == 10)
        alive = asyncio.create_task(pool.acquire())
        await until(lambda: pool.stats().waiting == 11)
        for waiter in dead:
            waiter.cancel()
        pool.release(held)
        pool.release(await alive)
        assert pool.stats().idle == 1
        await pool.aclose()

    run(main())


def test_row_13_check_and_enqueue_are_one() -> None:
    """fasthttp#1830: a release between a thread's check and its place in the queue would be a lost wake-up."""
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1, max_conn_wait_timeout=30.0))
    served = []

    def use() -> None:
        for _ in range(300):
            pooled = pool.acquire()
            served.append(pooled.conn.number)
            pool.release(pooled)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(25)
        assert not thread.is_alive(), "a lost wake-up"
    assert len(served) == 1200
    assert pool.stats().timeouts == 0
    assert pool.close() == 0
    assert not world.open


@pytest.mark.parametrize("kind", ["core", "asyncio"])
def test_row_15_raising_the_limit_with_waiters_queued(run: Run, kind: str) -> None:
    """fasthttp's SetMaxConns wakes nobody."""
    if kind == "core":
        driver = Driver(PoolOptions(max_conns=1, max_conn_wait_timeout=60))
        for _ in range(4):
            driver.acquire()
        assert len(driver.dials) == 1
        driver.set_limits(3)
        assert len(driver.dials) == 3
        driver.finish()
        return

    async def main() -> None:
        world = World()
        pool = a_pool(world)
        held = await pool.acquire()
        waiters = [asyncio.create_task(pool.acquire()) for _ in range(2)]
        await until(lambda: pool.stats().waiting == 2)
        pool.set_max_conns(3)
        for pooled in [held, *await asyncio.gather(*waiters)]:
            pool.release(pooled)
        assert pool.stats().idle == 3
        await pool.aclose()

    run(main())


def test_row_15_lowering_the_limit_with_waiters_queued(run: Run) -> None:
    async def main() -> None:
        world = World()
        pool = a_pool(world, max_conns=3)
        held: list[PooledConn[Conn]] = [await pool.acquire() for _ in range(3)]
        waiter = asyncio.create_task(pool.acquire())
        await until(lambda: pool.stats().waiting == 1)
        pool.set_max_conns(1)
        pool.release(held[0])
        pool.release(held[1])
        await ticks(3)
        assert not waiter.done()
        assert pool.stats().conns == 1
        assert pool.stats().closed["drain"] == 2
        pool.release(held[2])
        got = await waiter
        assert got is held[2]
        with pytest.raises(RequestTimeout):
            await pool.acquire(timeout=0.001)
        pool.release(got)
        await pool.aclose()

    run(main())
