"""`PoolCore`: the ten invariants of pool.md by a state machine, and what each option does, by example."""

from __future__ import annotations

from fastserve.pool.core import PoolCore
from tests.pool.machine import run_machine, walk


def test_the_invariants_hold() -> None:
    run_machine(PoolCore, 300)


def test_the_invariants_hold_through_long_lives() -> None:
    walk(PoolCore, 300)
