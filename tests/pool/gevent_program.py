"""Run by test_threads.py in a process of its own: `SyncConnPool` in greenlets, with everything monkey-patched."""

from __future__ import annotations

# ruff: noqa: E402 (patching comes first)
from gevent import monkey  # type: ignore[import-untyped, unused-ignore]

monkey.patch_all()

import random
import threading

import gevent

from fastserve.errors import NoFreeConns, PoolClosed, RequestTimeout
from fastserve.pool.conn import PooledConn
from fastserve.pool.options import PoolOptions
from fastserve.pool.threads import SyncConnPool
from tests.pool.world import Conn, ThreadWorld


def dialled(world: ThreadWorld) -> Conn:
    gevent.sleep(0.001)  # as a connect would: another greenlet runs
    return world.dial()


def main() -> None:
    world = ThreadWorld()
    options = PoolOptions(max_conns=3, max_conn_wait_timeout=20.0, max_idle_conn_duration=0.05, min_idle_conns=1)
    pool: SyncConnPool[Conn] = SyncConnPool(lambda: dialled(world), world.close, options)
    rng = random.Random(7)
    order: list[int] = []
    in_use: set[int] = set()

    def use(number: int) -> None:
        with pool.connection() as conn:
            assert conn.number not in in_use, "two holders of one connection"
            in_use.add(conn.number)
            order.append(number)
            gevent.sleep(rng.random() / 1000)
            in_use.remove(conn.number)

    greenlets = [gevent.spawn(use, number) for number in range(300)]
    gevent.joinall(greenlets, timeout=20, raise_error=True)
    assert order == list(range(300)), "first come, first served"

    # A wait that runs out, a greenlet that is killed while it waits, and one that was woken and killed at once.
    held = [pool.acquire() for _ in range(3)]
    try:
        pool.acquire(timeout=0.01)
    except RequestTimeout:
        pass
    else:
        raise AssertionError("must time out")
    for kill_first in (True, False):
        killed = gevent.spawn(pool.acquire)
        alive = gevent.spawn(pool.acquire)
        while pool.stats().waiting < 2:
            gevent.sleep(0)
        if kill_first:
            killed.kill(block=False)
        pool.release(held.pop())
        killed.kill(block=False)
        killed.join(timeout=20)
        if isinstance(killed.value, PooledConn):
            pool.release(killed.value)  # it was quicker than the kill
        held.append(alive.get(timeout=20))
        assert pool.stats().waiting == 0
    for pooled in held:
        pool.release(pooled)
    assert pool.stats().streams == 0

    # The sweeper closes what is idle, and keeps one up.
    with gevent.Timeout(20):
        while pool.stats().closed["idle"] < 3:
            gevent.sleep(0.01)
    waiter = gevent.spawn(pool.connection(timeout=5).__enter__)
    waiter.get(timeout=20)
    assert pool.close(timeout=0.01) == 1
    assert not world.open
    try:
        pool.acquire()
    except (PoolClosed, NoFreeConns):
        print("all is well, in", threading.current_thread().name)


if __name__ == "__main__":
    main()
