"""The state machine over `PoolCore`: any event, in any order, settled or in mid-tick. See driver.py for the checks."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from fastserve.pool.core import PoolCore
from fastserve.pool.options import PoolOptions
from tests.pool.driver import Driver, keep

CHOICES: dict[str, list[Any]] = {
    "max_conns": [1, 2, 3],
    "max_idle_conns": [None, None, 1, 2],
    "idle_evict": ["oldest", "newest"],
    "min_idle_conns": [0, 0, 1],
    "conn_pool_strategy": ["lifo", "fifo"],
    "max_conn_wait_timeout": [0.0, 5.0, 5.0],
    "max_waiters": [2, 100],
    "max_idle_conn_duration": [None, 10.0],
    "max_conn_duration": [None, None, 15.0],
    "max_uses": [None, None, 2],
    "test_on_borrow": [None, None, keep],
    "reset": [None, None, keep],
    "max_concurrent_dials": [1, 3],
    "dial_retries": [0, 0, 1],
    "fail_fast_after": [0, 0, 2],
    "max_streams": [None, None, lambda conn: 2],
}
OPTIONS = st.builds(PoolOptions, **{name: st.sampled_from(values) for name, values in CHOICES.items()})

PICK = st.integers(0, 9)


class PoolMachine(RuleBasedStateMachine):
    """Rules pick what they act on by an index, modulo what there is."""

    core_class: type[PoolCore[int]] = PoolCore

    @initialize(options=OPTIONS, warm=st.integers(0, 3), idle=st.integers(0, 3), more=st.integers(0, 2))
    def start(self, options: PoolOptions, warm: int, idle: int, more: int) -> None:
        """In the middle of a life: some connections are held, some idle, and some acquires wait."""
        driver = self.driver = Driver(options, self.core_class)
        for _ in range(min(warm, options.max_conns)):
            driver.acquire()
        while driver.dials:
            driver.dialled()
        for want in list(driver.woken):
            driver.collect(want)
        for pooled in driver.held[:idle]:
            driver.release(pooled)
        for _ in range(more):
            driver.acquire()

    @rule(timeout=st.sampled_from([None, None, 3.0, 0.0]))
    def acquire(self, timeout: float | None) -> None:
        self.driver.acquire(timeout)

    @rule()
    def acquire_warm(self) -> None:
        self.driver.take_idle()

    @rule()
    def acquire_as_the_shells_do(self) -> None:
        if self.driver.take_idle() is None:
            self.driver.acquire()

    @rule()
    def everybody_collects(self) -> None:
        """Settled: no event is half done but dials, tests and resets."""
        for want in list(self.driver.woken):
            self.driver.collect(want)

    @precondition(lambda self: self.driver.woken)
    @rule(pick=PICK)
    def collect(self, pick: int) -> None:
        self.driver.collect(self.driver.woken[pick % len(self.driver.woken)])

    @precondition(lambda self: self.driver.queue)
    @rule(pick=PICK)
    def cancel_waiting(self, pick: int) -> None:
        self.driver.cancel(self.driver.queue[pick % len(self.driver.queue)])

    @precondition(lambda self: self.driver.woken)
    @rule(pick=PICK)
    def cancel_settled(self, pick: int) -> None:
        self.driver.cancel(self.driver.woken[pick % len(self.driver.woken)])

    @precondition(lambda self: self.driver.held)
    @rule(pick=PICK, how=st.sampled_from(["release", "release", "release twice", "discard"]))
    def give_back(self, pick: int, how: str) -> None:
        pooled = self.driver.held[pick % len(self.driver.held)]
        if how == "discard":
            self.driver.discard(pooled)
            return
        self.driver.release(pooled)
        if how == "release twice" and not pooled.streams:
            self.driver.release_not_held(pooled)

    @precondition(lambda self: self.driver.dials)
    @rule(pick=PICK, ok=st.sampled_from([True, True, False]))
    def dial_ends(self, pick: int, ok: bool) -> None:
        ticket = self.driver.dials[pick % len(self.driver.dials)]
        if ok:
            self.driver.dialled(ticket)
        else:
            self.driver.dial_failed(ticket)

    @precondition(lambda self: self.driver.probes or self.driver.resets)
    @rule(pick=PICK, ok=st.sampled_from([True, True, False]))
    def hook_ends(self, pick: int, ok: bool) -> None:
        hooks = self.driver.probes + self.driver.resets
        pooled = hooks[pick % len(hooks)]
        if pooled in self.driver.probes:
            self.driver.tested(pooled, ok)
        else:
            self.driver.reset_done(pooled, ok)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0, 5.0, 10.0]), timer=st.booleans())
    def time_passes(self, seconds: float, timer: bool) -> None:
        """With the timer on time, or late: what has run out must not be handed out all the same."""
        if timer:
            self.driver.pass_time(seconds)
        else:
            self.driver.now += seconds

    @rule()
    def timer(self) -> None:
        wake = self.driver.core.next_wake()
        if wake is not None:
            self.driver.now = max(self.driver.now, wake)
        self.driver.tick()

    @rule(max_conns=st.integers(1, 4))
    def set_limits(self, max_conns: int) -> None:
        self.driver.set_limits(max_conns)

    @precondition(lambda self: self.driver.core._conns)
    @rule(pick=PICK, what=st.sampled_from(["lost", "lost", "close idle"]))
    def connections_go(self, pick: int, what: str) -> None:
        live = list(self.driver.core._conns)
        if what == "lost":
            self.driver.lost(live[pick % len(live)])
        else:
            self.driver.close_idle()

    @rule(how=st.sampled_from(["not", "not", "not", "close", "close and cut"]))
    def close(self, how: str) -> None:
        if how != "not":
            self.driver.close()
        if how == "close and cut":
            self.driver.close_held()

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.finish()


def run_machine(core_class: type[PoolCore[int]], examples: int) -> None:
    """Run the machine over one kind of core, the same way each time. Raises what it finds."""

    class Machine(PoolMachine):
        pass

    Machine.core_class = core_class
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


WEIGHTS = {
    "acquire": 6,
    "shell": 4,
    "collect": 9,
    "cancel": 2,
    "give back": 9,
    "dial ends": 8,
    "hook ends": 6,
    "connections go": 1,
    "time": 4,
    "limits": 1,
    "close": 0.02,
}
"""How often the events of a long life come."""


def walk(core_class: type[PoolCore[int]], lives: int, steps: int = 200) -> None:
    """The same rules for long lives: `steps` events each, from the seeds 0, 1, 2, ... Deeper than the machine, less clever."""
    for seed in range(lives):
        rng = random.Random(seed)
        pick = partial(rng.randrange, 10)
        options = PoolOptions(**{name: rng.choice(values) for name, values in CHOICES.items()})
        life = PoolMachine()
        life.core_class = core_class
        life.start(options, 3, rng.randrange(4), 2)
        driver = life.driver
        for event in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps):
            if event == "acquire":
                driver.acquire(rng.choice([None, None, 3.0, 0.0]))
            elif event == "shell":
                life.acquire_as_the_shells_do()
            elif event == "collect" and driver.woken:
                life.collect(pick())
            elif event == "cancel":
                anyone = driver.queue + driver.woken
                if anyone:
                    driver.cancel(rng.choice(anyone))
            elif event == "give back" and driver.held:
                life.give_back(pick(), rng.choice(["release", "release", "release", "release twice", "discard"]))
            elif event == "dial ends" and driver.dials:
                life.dial_ends(pick(), rng.random() < 0.7)
            elif event == "hook ends" and (driver.probes or driver.resets):
                life.hook_ends(pick(), rng.random() < 0.7)
            elif event == "connections go" and driver.core._conns:
                life.connections_go(pick(), rng.choice(["lost", "lost", "close idle"]))
            elif event == "time":
                life.time_passes(rng.choice([0.0, 0.1, 1.0, 3.0, 5.0, 10.0]), rng.random() < 0.7)
            elif event == "limits":
                life.set_limits(rng.randrange(1, 5))
            elif event == "close":
                life.close(rng.choice(["close", "close and cut"]))
        life.teardown()


def crowd(core_class: type[PoolCore[int]], size: int = 100) -> None:
    """So many of each that what leaves out of its turn would pile up, before those that stay and behind them."""
    options = PoolOptions(
        max_conns=size, max_concurrent_dials=size, max_conn_wait_timeout=60.0, max_idle_conns=size // 10
    )
    driver = Driver(options, core_class)
    for patient_ones in (range(1), range(size // 2), range(size // 2, size), range(0, size, 3)):
        for _ in range(2 * size):
            if driver.take_idle() is None:
                driver.acquire()
            if driver.dials:
                driver.dialled()
        for want in list(driver.woken):
            driver.collect(want)
        patient = {id(driver.queue[n]) for n in patient_ones}
        for want in list(driver.queue):
            if id(want) not in patient:
                driver.cancel(want)
        for pooled in list(driver.held):
            driver.release(pooled)  # to those that wait; then one after the other is one too many
        for want in list(driver.woken):
            if driver.collect(want) is not None:
                driver.release(driver.held[-1])
        for pooled in list(driver.core._idle)[::2]:
            driver.lost(pooled)
    driver.finish()
