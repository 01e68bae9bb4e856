"""`PoolOptions`: every option of pool.md's table, documented and checked; what each does is shown on the core."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from fastserve.errors import ConfigError
from fastserve.pool.conn import PooledState
from fastserve.pool.events import CloseReason
from fastserve.pool.options import PoolOptions
from tests.pool.driver import Driver, Pooled

TABLE = [
    "max_conns",
    "max_idle_conns",
    "idle_evict",
    "min_idle_conns",
    "conn_pool_strategy",
    "max_conn_wait_timeout",
    "max_waiters",
    "max_idle_conn_duration",
    "max_conn_duration",
    "lifetime_jitter",
    "max_uses",
    "test_on_borrow",
    "reset",
    "max_concurrent_dials",
    "dial_timeout",
    "dial_retries",
    "dial_backoff",
    "fail_fast_after",
    "max_streams",
    "on_event",
]


def test_the_options_are_those_of_the_table() -> None:
    assert [f.name for f in fields(PoolOptions)] == TABLE
    for f in fields(PoolOptions):
        assert len(f.metadata["help"]) > 80, f.name


def test_frozen_and_by_keyword() -> None:
    with pytest.raises(TypeError):
        PoolOptions(5)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        PoolOptions().max_conns = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"max_conns": 0}, "max_conns=0: takes a finite number, at least 1"),
        ({"max_conns": "5"}, "takes int, not str"),
        ({"max_conns": True}, "takes int, not bool"),
        ({"max_conns": None}, "takes int, not NoneType"),
        ({"max_idle_conns": -1}, "at least 0"),
        ({"max_idle_conns": 1.5}, "takes int or None, not float"),
        ({"idle_evict": "any"}, "takes one of oldest, newest"),
        ({"conn_pool_strategy": "random"}, "takes one of lifo, fifo"),
        ({"conn_pool_strategy": 3}, "takes str, not int"),
        ({"max_conn_wait_timeout": float("inf")}, "finite"),
        ({"max_conn_wait_timeout": float("nan")}, "finite"),
        ({"max_idle_conn_duration": 0}, "at least 0.001"),
        ({"lifetime_jitter": 1.5}, "at most 1"),
        ({"dial_backoff": 31}, "at most 30"),
        ({"test_on_borrow": True}, "takes a function, or None"),
        ({"on_event": "print"}, "takes a function, or None"),
        ({"min_idle_conns": 3, "max_conns": 2}, "at most max_conns, which is 2"),
        ({"min_idle_conns": 3, "max_idle_conns": 2}, "at most max_idle_conns, which is 2"),
    ],
)
def test_a_bad_value_says_what_it_takes(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        PoolOptions(**bad)
    assert next(iter(bad)) in str(caught.value)


# --- what they do


def idle_driver(number: int, **options: Any) -> tuple[Driver, list[Pooled]]:
    """A driver with `number` idle connections, released a second apart, oldest first."""
    driver = Driver(PoolOptions(**options))
    for _ in range(number):
        driver.acquire()
    while driver.dials:
        driver.dialled()
    held = [pooled for want in list(driver.woken) if (pooled := driver.collect(want))]
    for pooled in held:
        driver.now += 1
        driver.release(pooled)
    return driver, held


@pytest.mark.parametrize(("strategy", "expected"), [("lifo", 2), ("fifo", 0)])
def test_conn_pool_strategy(strategy: str, expected: int) -> None:
    driver, conns = idle_driver(3, conn_pool_strategy=strategy)
    assert driver.take_idle() is conns[expected]


@pytest.mark.parametrize(("evict", "closed"), [("oldest", 0), ("newest", 2)])
def test_max_idle_conns_and_idle_evict(evict: str, closed: int) -> None:
    driver, conns = idle_driver(3, max_idle_conns=2, idle_evict=evict)
    assert [pooled.state is PooledState.CLOSED for pooled in conns] == [n == closed for n in range(3)]
    assert driver.core.stats().closed[CloseReason.EVICTED] == 1


def test_no_idle_at_all() -> None:
    driver, _ = idle_driver(2, max_idle_conns=0)
    assert not driver.open


def test_max_idle_conn_duration() -> None:
    driver, conns = idle_driver(2, max_idle_conn_duration=10)
    assert driver.core.next_wake() == conns[0].idle_since + 10
    driver.pass_time(9)  # the first was released a second earlier
    assert [pooled.state for pooled in conns] == [PooledState.CLOSED, PooledState.IDLE]
    assert driver.core.stats().closed["idle"] == 1


def test_an_expired_connection_is_not_handed_out_before_the_sweep() -> None:
    driver, conns = idle_driver(1, max_idle_conn_duration=10)
    driver.now += 10
    assert driver.take_idle() is None
    driver.acquire()
    assert conns[0].state is PooledState.CLOSED
    assert len(driver.dials) == 1


def test_max_conn_duration_with_jitter() -> None:
    driver, conns = idle_driver(1, max_conn_duration=100, lifetime_jitter=0.2, max_idle_conn_duration=None)
    assert conns[0].expires_at == conns[0].created_at + 90  # the driver's random is 0.5
    held = driver.take_idle()
    assert held is conns[0]
    driver.pass_time(90)
    assert held.state is PooledState.DRAINING
    driver.release(held)
    assert driver.core.stats().closed["lifetime"] == 1


def test_max_uses() -> None:
    driver, conns = idle_driver(1, max_uses=2)
    held = driver.take_idle()
    assert held is conns[0]
    driver.release(held)
    assert held.state is PooledState.CLOSED
    assert driver.core.stats().closed["lifetime"] == 1


def test_single_flight_serves_a_burst_with_one_connection() -> None:
    driver = Driver(PoolOptions(max_concurrent_dials=1, max_streams=lambda conn: 10))
    for _ in range(10):
        driver.acquire()
    assert len(driver.dials) == 1
    driver.dialled()
    assert len(driver.served) == 10
    assert not driver.dials
    driver.finish()


def test_a_max_streams_that_raises_costs_no_slot() -> None:
    def bad(conn: int) -> int:
        raise ValueError("no settings")

    driver = Driver(PoolOptions(max_streams=bad))
    driver.acquire()
    driver.dialled()
    assert len(driver.failed) == 1
    assert "no settings" in str(driver.failed[0].error)
    assert driver.core.conns == 0
    assert not driver.open


def test_late_binding_the_losers_connection_goes_to_idle() -> None:
    driver, conns = idle_driver(1, max_conns=2)
    held = driver.take_idle()
    assert held is not None
    want = driver.acquire()
    driver.release(held)
    assert driver.collect(want) is conns[0]
    driver.dialled()
    assert driver.core.stats().idle == 1


def test_memory_of_cancelled_waiters() -> None:
    """Invariant 10, on a scale where it would be felt."""
    driver = Driver(PoolOptions(max_conns=1, max_conn_wait_timeout=60))
    driver.acquire()
    for _ in range(2000):
        driver.cancel(driver.acquire())
    assert driver.core.waiting == 1
    assert len(driver.core._queue) <= 2
    assert len(driver.core._deadlines) < 70


def test_a_freed_slot_probes_a_dead_upstream_once() -> None:
    driver = Driver(PoolOptions(max_conns=2, fail_fast_after=1, dial_backoff=1.0, max_conn_wait_timeout=60))
    driver.acquire()
    driver.dial_failed()
    driver.acquire()
    assert len(driver.failed) == 2
    driver.now += 2
    driver.acquire()
    driver.acquire()  # while the probe is out
    assert len(driver.dials) == 1
    assert len(driver.failed) == 3
    driver.dialled()
    driver.acquire()
    assert len(driver.dials) == 1
    driver.finish()


def test_a_timed_out_dial_is_tried_again() -> None:
    driver = Driver(PoolOptions(dial_timeout=3.0, dial_retries=1, dial_backoff=1.0))
    want = driver.acquire()
    first = driver.dials[0]
    driver.pass_time(3.0)
    assert driver.abandoned == {first}
    assert want in driver.queue
    driver.pass_time(1.5)
    second = driver.dials[1]
    late = driver.dialled(first)  # comes all the same, too late
    assert late not in driver.open
    driver.dialled(second)
    assert driver.served == [want]
    driver.finish()
