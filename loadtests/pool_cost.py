"""What the pool itself costs: acquire and release of a warm connection, and with waiters in the queue.

    python loadtests/pool_cost.py [--count 200000] [--waiters 0,100,1000,10000]

No sockets. The first part gives nanoseconds and the ratio to an empty coroutine call (``await`` of an ``async def``
that returns None), which depends less on the machine. The second part hands one connection from waiter to waiter
with so many in the queue: each release serves the first, each acquire joins the end. The best of several
rounds is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from fastserve.pool.aio import ConnPool
from fastserve.pool.core import PoolCore
from fastserve.pool.options import PoolOptions
from fastserve.pool.threads import SyncConnPool
from fastserve.pool.want import WantConn

ROUNDS = 7


class Conn:
    """Nothing to open, nothing to close."""


async def dial() -> Conn:
    return Conn()


def close(conn: Conn) -> None:
    pass


async def nothing() -> None:
    return None


async def best_of(once: Callable[[int], Awaitable[None]], count: int) -> float:
    """Nanoseconds of one of `count`, in the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await once(count)
        best = min(best, time.perf_counter() - start)
    return best / count * 1e9


async def warm(count: int) -> None:
    pool = ConnPool(dial, close)
    pool.release(await pool.acquire())
    threads = SyncConnPool(Conn, close)
    threads.release(threads.acquire())

    async def empty(count: int) -> None:
        for _ in range(count):
            await nothing()

    async def nowait(count: int) -> None:
        for _ in range(count):
            pooled = pool.acquire_nowait()
            assert pooled is not None
            pool.release(pooled)

    async def awaited(count: int) -> None:
        for _ in range(count):
            pool.release(await pool.acquire())

    async def blocking(count: int) -> None:
        for _ in range(count):
            threads.release(threads.acquire())

    base = await best_of(empty, count)
    print(f"an empty coroutine call                    {base:7.0f} ns")
    for name, once in [
        ("ConnPool.acquire_nowait, release", nowait),
        ("await ConnPool.acquire, release", awaited),
        ("SyncConnPool.acquire, release", blocking),
    ]:
        cost = await best_of(once, count)
        print(f"{name:40}   {cost:7.0f} ns   {cost / base:5.1f} x")
    await pool.aclose()
    threads.close()


async def queued(waiters: int, count: int) -> float:
    """One hand-over: the holder releases, the first waiter takes it, and a new one joins the end."""
    core: PoolCore[Conn] = PoolCore(PoolOptions(max_conns=1, max_conn_wait_timeout=1000.0, max_waiters=waiters + 2))
    first: WantConn[Conn] = WantConn()
    for action in core.acquire(first, 0.0):
        core.dialled(action.ticket, Conn(), 0.0)  # type: ignore[union-attr]
    held = first.take()
    queue: deque[WantConn[Conn]] = deque()
    for _ in range(waiters):
        queue.append(WantConn())
        core.acquire(queue[-1], 0.0)

    async def once(count: int) -> None:
        nonlocal held
        for _ in range(count):
            want: WantConn[Conn] = WantConn()
            core.acquire(want, 0.0)
            queue.append(want)
            core.release(held, 0.0)
            held = queue.popleft().take()

    return await best_of(once, count)


async def main(count: int, waiters: list[int]) -> None:
    await warm(count)
    base = 0.0
    for number in waiters:
        cost = await queued(number, max(1, count // 10))
        base = base or cost
        print(f"a hand-over with {number:6} waiters             {cost:8.0f} ns   {cost / base:5.2f} x the first")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="acquires per round")
    parser.add_argument("--waiters", default="0,100,1000,10000", help="lengths of the queue, comma separated")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.count, [int(number) for number in arguments.waiters.split(",")]))
