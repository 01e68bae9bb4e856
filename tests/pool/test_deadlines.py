"""`Deadlines` against a sorted list: the same order, whatever comes in whatever order, and memory in proportion to the living."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.pool.deadlines import FEW_DEAD, Deadlines

ADD, DROP, TIME = "add", "drop", "time"
operations = st.lists(
    st.one_of(
        st.tuples(st.just(ADD), st.integers(0, 20)),
        st.tuples(st.just(DROP), st.integers(0, 1000)),
        st.tuples(st.just(TIME), st.integers(0, 5)),
    ),
    max_size=200,
)


@given(operations)
def test_as_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    alive: dict[int, float] = {}
    deadlines = Deadlines[int](lambda thing, when: alive.get(thing) == when)
    now = 0.0
    for number, (step, value) in enumerate(steps):
        if step == ADD:
            alive[number] = now + value
            deadlines.add(now + value, number)
        elif step == DROP and alive:
            del alive[sorted(alive)[value % len(alive)]]
            deadlines.dropped()
        elif step == TIME:
            now += value
            due = sorted((when, thing) for thing, when in alive.items() if when <= now)
            taken = []
            for thing in deadlines.due(now):
                del alive[thing]
                taken.append(thing)
            assert taken == [thing for _, thing in due]
        assert deadlines.first() == (min(alive.values()) if alive else None)


@pytest.mark.parametrize("order", ["first in first out", "last in first out", "at random"])
@pytest.mark.parametrize("times", ["one time-out", "any time-out"])
def test_memory_is_in_proportion_to_the_living(order: str, times: str) -> None:
    chance = random.Random(7)
    alive: dict[int, float] = {}
    deadlines = Deadlines[int](lambda thing, when: alive.get(thing) == when)
    for number in range(5000):
        alive[number] = number + (10_000 if times == "one time-out" else chance.randrange(10_000))
        deadlines.add(alive[number], number)
        if number >= 100:
            things = list(alive)
            gone = {"first in first out": things[0], "last in first out": things[-1]}.get(order, chance.choice(things))
            del alive[gone]
            deadlines.dropped()
        assert len(deadlines) <= 2 * len(alive) + FEW_DEAD + 1


def test_what_is_served_in_its_turn_leaves_nothing_behind() -> None:
    alive: dict[int, float] = {}
    deadlines = Deadlines[int](lambda thing, when: alive.get(thing) == when)
    for number in range(1000):
        alive[number] = float(number)
        deadlines.add(float(number), number)
        if number >= 10:
            del alive[number - 10]
            deadlines.dropped()
            assert len(deadlines) == 10
