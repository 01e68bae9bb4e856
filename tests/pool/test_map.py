"""`ConnPoolMap`: a pool per key, the total limit, the LRU over all pools, and that empty pools leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastserve.errors import ConfigError, DialError, NoFreeConns, PoolClosed, PoolError, RequestTimeout
from fastserve.pool.map import ConnPoolMap
from fastserve.pool.options import PoolOptions
from tests.pool.world import Conn, World, ticks, until

Run = Callable[[Coroutine[Any, Any, None]], None]
Pools = ConnPoolMap[str, str, Conn]


def a_map(world: World, *, max_conns_total: int = 1024, max_idle_conns: int = 100, **options: Any) -> Pools:
    async def dial(key: str) -> Conn:
        return await world.dial()

    return ConnPoolMap(
        lambda url: url.split("/")[0],
        dial,
        world.close,
        PoolOptions(**options),
        max_conns_total=max_conns_total,
        max_idle_conns=max_idle_conns,
    )


def test_one_pool_per_key(run: Run) -> None:
    async def main() -> None:
        world = World()
        async with a_map(world) as pools:
            one = await pools.acquire("a/1")
            pools.release(one)
            assert pools.acquire_nowait("b/1") is None
            again = pools.acquire_nowait("a/2")
            assert again is one
            async with pools.connection("b/1", timeout=10) as other:
                assert other is not one.conn
            assert len(pools) == 2
            pools.release(again)
            with pytest.raises(PoolError, match="twice"):
                pools.release(again)
            assert pools.stats().hits == 1
            assert pools.stats().misses == 2
            pools.lost(again)
            pools.lost(again)
            assert len(pools) == 1
        assert not world.open

    run(main())


def test_an_empty_pool_leaves_and_its_counts_stay(run: Run) -> None:
    async def main() -> None:
        world = World()
        pools = a_map(world, max_idle_conn_duration=0.02)
        pools.release(await pools.acquire("a"))
        await until(lambda: len(pools) == 0)
        assert not world.open
        assert pools.stats().closed["idle"] == 1
        assert pools.stats().misses == 1
        world.errors = [OSError("refused")]
        with pytest.raises(DialError):
            await pools.acquire("a")
        assert len(pools) == 0
        world.gate = asyncio.Event()
        with pytest.raises(RequestTimeout):
            await pools.acquire("a", timeout=0.001)
        world.gate.set()
        await until(lambda: pools.stats().idle == 1)
        pools.close_idle_connections()
        assert len(pools) == 0
        await pools.aclose()

    run(main())


def test_the_idle_limit_evicts_the_oldest_of_all(run: Run) -> None:
    async def main() -> None:
        world = World()
        pools = a_map(world, max_idle_conns=2)
        held = [await pools.acquire(key) for key in "abc"]
        for pooled in held:
            pools.release(pooled)
        assert [conn.number for conn in world.open] == [1, 2]
        assert len(pools) == 2
        assert pools.stats().closed["evicted"] == 1
        await pools.aclose()
        assert not world.open

    run(main())


def test_an_idle_connection_makes_room_for_another_key(run: Run) -> None:
    async def main() -> None:
        world = World()
        pools = a_map(world, max_conns_total=2)
        a, b = await pools.acquire("a"), await pools.acquire("b")
        with pytest.raises(NoFreeConns):
            await pools.acquire("c")
        assert len(pools) == 2
        pools.release(a)
        c = await pools.acquire("c")
        assert a.conn.closed
        pools.release(b)
        pools.release(c)
        await pools.aclose()

    run(main())


def test_room_goes_to_whoever_lacked_it_first(run: Run) -> None:
    async def main() -> None:
        world = World()
        pools = a_map(world, max_conns_total=1, max_conn_wait_timeout=20.0)
        order: list[str] = []

        async def use(key: str) -> None:
            async with pools.connection(key):
                order.append(key)
                await ticks(2)

        held = await pools.acquire("z")
        tasks = []
        for key in "abcab":
            tasks.append(asyncio.create_task(use(key)))
            await until(lambda: pools.stats().waiting == len(tasks))
        gone = asyncio.create_task(use("d"))
        await until(lambda: pools.stats().waiting == 6)
        gone.cancel()
        pools.release(held)
        await asyncio.gather(*tasks)
        assert order[:3] == ["a", "a", "b"] or order[:3] == ["a", "b", "c"]
        assert sorted(order) == ["a", "a", "b", "b", "c"]
        assert pools.stats().conns == 1
        assert len(pools) == 1
        await pools.aclose()
        assert not world.open

    run(main())


@pytest.mark.parametrize("seed", range(5))
def test_random_use_keeps_the_limits(run: Run, seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        world = World()
        pools = a_map(world, max_conns_total=4, max_idle_conns=2, max_conns=2, max_conn_wait_timeout=20.0)

        async def use() -> None:
            for _ in range(30):
                if rng.random() < 0.1:
                    world.errors.append(OSError("refused"))
                try:
                    pooled = await pools.acquire(rng.choice("abcdef"))
                except DialError:
                    continue
                assert pools._total.conns <= 4
                await ticks(rng.randrange(3))
                if rng.random() < 0.2:
                    pools.discard(pooled)
                else:
                    pools.release(pooled)
                assert len(pools._total.idle) <= 2

        users = [asyncio.create_task(use()) for _ in range(12)]
        await ticks(50)
        users[0].cancel()
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert [outcome for outcome in outcomes if outcome is not None][1:] == []
        await until(lambda: pools.stats().dialing == 0)
        stats = pools.stats()
        # The one that was cancelled may have been in the middle of its hold.
        assert stats.waiting == 0
        assert stats.streams <= 1
        assert stats.conns == pools._total.conns == len(world.open)
        assert not pools._total.hungry
        await pools.aclose(timeout=0)
        assert not world.open
        assert pools._total.conns == 0

    run(main())


def test_close(run: Run) -> None:
    async def main() -> None:
        world = World()
        pools = a_map(world)
        a, b = await pools.acquire("a"), await pools.acquire("b")
        closing = asyncio.create_task(pools.aclose())
        await ticks(5)
        assert not closing.done()
        pools.release(a)
        pools.release(b)
        assert await closing == 0
        with pytest.raises(PoolClosed):
            await pools.acquire("c")

        pools = a_map(world)
        held = [await pools.acquire("a"), await pools.acquire("b")]
        assert await pools.aclose(timeout=0.01) == 2
        assert not world.open
        for pooled in held:
            pools.release(pooled)
        with pytest.raises(PoolError, match="twice"):
            pools.release(held[0])

    run(main())


def test_a_connection_of_nobody_is_refused(run: Run) -> None:
    async def main() -> None:
        world = World()
        one, two = a_map(world), a_map(world)
        held = await one.acquire("a")
        with pytest.raises(PoolError, match="another pool"):
            two.release(held)
        one.release(held)
        await one.aclose()
        await two.aclose()

    run(main())


@pytest.mark.parametrize("bad", [{"max_conns_total": 0}, {"max_idle_conns": -1}, {"min_idle_conns": 1}])
def test_bad_options(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        a_map(World(), **bad)
