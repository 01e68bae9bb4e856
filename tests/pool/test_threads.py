"""`SyncConnPool`: 32 threads with random faults, what the shell adds to the core, and the same under gevent."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastserve.errors import DialError, DialTimeout, NoFreeConns, PoolClosed, PoolError, RequestTimeout
from fastserve.pool.events import PoolEvent
from fastserve.pool.options import PoolOptions
from fastserve.pool.threads import SyncConnPool
from tests.pool.world import Clock, Conn, ThreadWorld, wait_until

ROOT = Path(__file__).parent.parent.parent

THREADS = 32
OPERATIONS = 150
"""Of each thread."""


@pytest.mark.parametrize("hooks", [False, True], ids=["plain", "with test and reset"])
@pytest.mark.parametrize("seed", [1, 2])
def test_thirty_two_threads_with_random_faults(seed: int, hooks: bool) -> None:
    """Dials, tests and resets fail, connections die, waits run out, limits move: at the end the books balance."""
    faults = threading.Lock()
    rng = random.Random(seed)

    def chance(of: float) -> bool:
        with faults:
            return rng.random() < of

    def fault() -> None:
        if chance(0.1):
            raise ConnectionRefusedError("refused")

    world = ThreadWorld(fault)
    options = PoolOptions(
        max_conns=8,
        max_conn_wait_timeout=5.0,
        max_idle_conn_duration=0.02,
        max_conn_duration=0.05,
        max_uses=50,
        dial_retries=1,
        dial_backoff=0.001,
        max_concurrent_dials=4,
        test_on_borrow=(lambda conn, last_used: not chance(0.05)) if hooks else None,
        reset=(lambda conn: not chance(0.05)) if hooks else None,
    )
    pool: SyncConnPool[Conn] = SyncConnPool(world.dial, world.close, options)
    users: dict[int, int] = {}
    guard = threading.Lock()
    trouble: list[BaseException] = []
    done: list[str] = []

    def operate() -> None:
        for _ in range(OPERATIONS):
            try:
                pooled = pool.acquire(timeout=0.001 if chance(0.05) else None)
            except (DialError, NoFreeConns, RequestTimeout) as error:
                done.append(type(error).__name__)
                continue
            with guard:
                assert users.setdefault(pooled.conn.number, 0) == 0, "two holders (invariant 9)"
                users[pooled.conn.number] = 1
            assert not pooled.conn.closed, "a closed connection was handed out"
            with guard:
                users[pooled.conn.number] = 0
            if chance(0.05):
                pool.lost(pooled)
            if chance(0.1):
                pool.discard(pooled)
            else:
                pool.release(pooled)
            done.append("served")
            if chance(0.01):
                pool.set_max_conns(5 + int(chance(0.5)) * 3)
            if chance(0.01):
                pool.close_idle_connections()
            stats = pool.stats()
            assert stats.conns == stats.idle + stats.in_use + stats.dialing  # invariant 1
            assert stats.conns <= 8

    def run() -> None:
        try:
            operate()
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs (invariant 4)"
    assert not trouble, trouble
    assert len(done) == THREADS * OPERATIONS  # each acquire ended once (invariant 4)
    assert done.count("served") > THREADS * OPERATIONS / 2
    stats = pool.stats()
    assert stats.streams == 0
    assert stats.waiting == 0
    assert pool.close(timeout=20) == 0
    wait_until(lambda: not world.open)  # the sweeper may be closing one (invariant 8)
    stats = pool.stats()
    assert stats.conns == 0
    assert sum(stats.closed.values()) == len(world.conns)


def test_a_waiter_takes_what_comes_first() -> None:
    """Late binding: its dial hangs, and a released connection serves it; the dial's goes to idle."""
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=2))
    held = pool.acquire()
    world.gate = threading.Event()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(pool.acquire().conn.number))
    thread.start()
    wait_until(lambda: pool.stats().dialing == 1)
    pool.release(held)
    thread.join(20)
    assert got == [0]
    world.gate.set()
    wait_until(lambda: pool.stats().idle == 1)
    assert pool.close(timeout=0) == 1
    assert not world.open


def test_a_dial_that_hangs_is_given_up() -> None:
    world = ThreadWorld()
    world.gate = threading.Event()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(dial_timeout=0.02, max_concurrent_dials=1))
    with pytest.raises(DialTimeout):
        pool.acquire()
    assert pool.stats().conns == 0
    with pytest.raises(RequestTimeout):
        pool.acquire(timeout=0.02)  # the hung thread still counts: dials that hang do not pile up
    begun = 0
    while world.dialling.acquire(blocking=False):
        begun += 1
    assert begun == 1
    world.gate.set()
    wait_until(lambda: len(world.conns) == 1 and not world.open)  # late: closed
    pool.release(pool.acquire())
    pool.close()
    assert not world.open


def test_no_thread_that_nothing_needs() -> None:
    world = ThreadWorld()
    before = set(threading.enumerate())
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_idle_conn_duration=None, dial_timeout=0.5))
    pool.release(pool.acquire())
    wait_until(lambda: set(threading.enumerate()) <= before)  # the dial's own, and its time-out's
    for _ in range(100):
        pool.release(pool.acquire())
    assert set(threading.enumerate()) <= before
    pool.close()


def test_the_sweeper_closes_what_is_idle_and_ends() -> None:
    world = ThreadWorld()
    before = set(threading.enumerate())
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_idle_conn_duration=0.02))
    pool.release(pool.acquire())
    wait_until(lambda: not world.open)
    assert pool.stats().closed["idle"] == 1
    wait_until(lambda: set(threading.enumerate()) <= before)
    pool.close()


def test_min_idle_is_kept_up() -> None:
    world, clock = ThreadWorld(), Clock()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(min_idle_conns=2), clock=clock)
    wait_until(lambda: pool.stats().idle == 2)
    held = pool.acquire()
    pool.discard(held)
    wait_until(lambda: pool.stats().idle == 2)
    with pool:
        clock.now += 100
        pool.sweep()
        wait_until(lambda: pool.stats().idle == 2)
        assert pool.stats().closed["idle"] >= 1
    wait_until(lambda: not world.open)


def test_an_interrupt_while_waiting_leaves_the_queue() -> None:
    """KeyboardInterrupt, raised where a signal would raise it: in the wait."""

    class Interrupted(SyncConnPool[Conn]):
        def _wait(self, want: object) -> None:
            raise KeyboardInterrupt

    world = ThreadWorld()
    pool = Interrupted(world.dial, world.close, PoolOptions(max_conns=1, max_conn_wait_timeout=20.0))
    with pytest.raises(KeyboardInterrupt):
        pool.acquire()
    wait_until(lambda: pool.stats().idle == 1)  # its dial goes on
    held = pool.acquire()
    with pytest.raises(KeyboardInterrupt):
        pool.acquire()
    assert pool.stats().waiting == 0
    pool.release(held)
    assert pool.stats().idle == 1
    pool.close()


def test_an_interrupt_behind_the_wait_closes_what_was_given() -> None:
    def interrupt(event: PoolEvent) -> None:
        if event.kind == "served":
            raise KeyboardInterrupt

    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1, on_event=interrupt))
    for dialled in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            pool.acquire()
        assert len(world.conns) == dialled
        assert not world.open
        assert pool.stats().conns == 0
    pool.close()


def test_a_waiter_that_an_interrupted_thread_has_lost_ends_in_time() -> None:
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1, max_conn_wait_timeout=0.2))
    held = pool.acquire()

    def wait() -> None:
        with pytest.raises(NoFreeConns, match="another thread was interrupted"):
            pool.acquire()

    with ThreadPoolExecutor(1) as threads:
        waiter = threads.submit(wait)
        wait_until(lambda: pool.stats().waiting == 1)
        with pool._lock:
            pool._core._queue.popleft()  # as a release does before it tells the waiter
        waiter.result(timeout=20)
    assert pool.stats().waiting == 0
    pool.release(held)
    assert pool.acquire() is held
    pool.release(held)
    pool.close()


def test_a_dropped_connection_waits_for_whoever_has_the_lock() -> None:
    """`drop` is called by finalizers, in the middle of anything: it neither blocks nor touches books that are being changed."""
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1, max_conn_wait_timeout=20.0))
    pool.drop(pool.acquire())
    assert not world.open
    for then in (lambda: pool.stats().conns, lambda: pool.sweep(), lambda: pool.release(pool.acquire(timeout=20))):
        pooled = pool.acquire()
        with pool._lock:  # as the collector may find it, in this very thread
            pool.drop(pooled)
            assert world.open
        then()
        assert pooled.conn.closed
    pool.close()
    assert not world.open


def test_a_dropped_connection_goes_to_a_waiter() -> None:
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1, max_conn_wait_timeout=20.0))
    pooled = pool.acquire()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(pool.acquire().conn.number))
    thread.start()
    wait_until(lambda: pool.stats().waiting == 1)
    pool.drop(pooled)
    thread.join(20)
    assert got == [1]
    assert pool.close(timeout=0) == 1


def test_redial_by_the_callers_own_dial() -> None:
    world = ThreadWorld()
    pool = SyncConnPool(world.dial, world.close, PoolOptions(max_conns=1))
    pooled = pool.acquire()
    fresh = pool.redial(pooled, lambda: Conn(17))
    assert fresh.conn.number == 17
    assert pooled.conn.closed
    assert pool.redial(fresh).conn.number == 1
    assert pool.stats().conns == 1
    assert pool.close(timeout=0) == 1


def test_misuse_and_the_end() -> None:
    world = ThreadWorld()
    events: list[PoolEvent] = []
    attached: list[object] = []
    pool = SyncConnPool(world.dial, world.close, PoolOptions(on_event=events.append), attach=attached.append)
    assert pool.acquire_nowait() is None
    pooled = pool.acquire()
    assert attached == [pooled]
    pool.release(pooled)
    with pytest.raises(PoolError, match="twice"):
        pool.release(pooled)
    assert pool.acquire_nowait() is pooled
    pool.release(pooled)
    with pytest.raises(ValueError, match="mine"), pool.connection() as conn:
        assert not conn.closed
        raise ValueError("mine")
    assert not world.open
    with pool.connection(timeout=5) as conn:
        assert conn.number == 1
    assert pool.close() == 0
    assert pool.closed
    with pytest.raises(PoolClosed):
        pool.acquire()
    assert [event.kind for event in events].count("closed") == 2
    assert events[-1].kind == "failed"
    assert isinstance(events[-1].error, PoolClosed)
    assert not world.open


def test_under_gevent() -> None:
    """In a process of its own, since monkey-patching cannot be undone."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.pool.gevent_program"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No module named 'gevent'" not in result.stderr, "gevent is missing: pip install gevent"
    assert result.returncode == 0, result.stderr
    assert "all is well" in result.stdout


def test_the_sweeper_ends_with_its_pool() -> None:
    """It slept for as long as an idle connection might have lived."""
    before = set(threading.enumerate())
    pool: SyncConnPool[object] = SyncConnPool(object, lambda conn: None, PoolOptions(max_idle_conn_duration=300.0))
    pool.release(pool.acquire())
    (sweeper,) = [thread for thread in set(threading.enumerate()) - before if "sweeper" in thread.name]
    pool.close()
    sweeper.join(20.0)
    assert not sweeper.is_alive()
