"""The suite has teeth: real bugs of real pools, put back into the core one by one, are each found by the state machine.

A mutant is the core's own source with one piece replaced. The check is the same for all, and the core as it is
passes it. `row` is the line of pool.md's bug table that the mutant brings back.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastserve
from fastserve.pool.core import PoolCore
from tests.pool.machine import crowd, run_machine, walk


def check(core_class: type[PoolCore[int]]) -> None:
    """A bounded part of the suite, the same for every core: a crowd, long lives from fixed seeds, the derandomised machine."""
    crowd(core_class)
    walk(core_class, 200)
    run_machine(core_class, 100)


BOOKS = "fastserve.pool.books"
WAITING = "fastserve.pool.waiting"
CORE = "fastserve.pool.core"
LAYERS = [BOOKS, WAITING, CORE]
"""Each builds on the one before it."""


@dataclass(frozen=True)
class Mutant:
    name: str
    row: int
    module: str
    old: str
    new: str


MUTANTS = [
    Mutant(
        "granted and cancelled in the same tick: the connection is kept for nobody (aiohttp#9670)",
        1,
        CORE,
        "if state is WantState.DELIVERED and want.pooled is not None:\n            pooled, want.pooled = want.pooled, None\n",
        "if state is WantState.DELIVERED and want.pooled is not None:\n            return NOTHING\n",
    ),
    Mutant(
        "the last to come is served first",
        2,
        CORE,
        "        self._queue.append(want)\n        self._pump(now, actions)\n",
        "        self._queue.appendleft(want)\n        self._pump(now, actions)\n",
    ),
    Mutant(
        "close leaves the waiters waiting",
        3,
        CORE,
        "        while self._queue:\n            closed = PoolClosed(",
        "        while False:\n            closed = PoolClosed(",
    ),
    Mutant(
        "a dial that comes after close stays open",
        10,
        CORE,
        "            actions.append(Close(late, reason))\n",
        "",
    ),
    Mutant(
        "housekeeping closes a connection that somebody holds (httpcore#1110)",
        5,
        CORE,
        "            if pooled.state is IDLE:\n                self._close(pooled, CloseReason.LIFETIME, actions)\n",
        "            if pooled.streams or True:\n                self._close(pooled, CloseReason.LIFETIME, actions)\n",
    ),
    Mutant(
        "an idle connection past its time is handed out",
        5,
        CORE,
        "        if now >= pooled.stale_at:\n            idle[pooled] = None  # where it was: its closing is an action, "
        "and this call returns none\n            return None\n        pooled.state = IN_USE\n",
        "        pooled.state = IDLE\n",
    ),
    Mutant(
        "a failed dial starts no dial for the next waiter (aiohttp#835, golang#10886)",
        7,
        CORE,
        "            self._attempt_failed(ticket, error, now, actions)\n        self._pump(now, actions)\n",
        "            self._attempt_failed(ticket, error, now, actions)\n",
    ),
    Mutant(
        "a failed dial fails everybody",
        7,
        WAITING,
        "        if self._queue:\n            failure: Exception\n",
        "        while self._queue:\n            failure: Exception\n",
    ),
    Mutant(
        "a wait that timed out stays in the queue as a phantom (urllib3#1758)",
        9,
        CORE,
        "            self._leave_queue(want, WantState.FAILED, now)\n",
        "            self._settle(want, WantState.FAILED, now)\n",
    ),
    Mutant(
        "a cancelled waiter stays in the queue, and a release stops at it (fasthttp#2391)",
        13,
        CORE,
        "            self._leave_queue(want, WantState.CANCELLED, now)\n",
        "            self._settle(want, WantState.CANCELLED, now)\n",
    ),
    Mutant(
        "a release hands the connection to a waiter that was cancelled (fasthttp#2391)",
        13,
        CORE,
        "self._next_waiter() if self._dead else self._queue.popleft()\n",
        "self._queue.popleft()\n",
    ),
    Mutant(
        "cancelled waiters are never swept out of the queue",
        13,
        WAITING,
        "        if 2 * self._dead > len(self._queue):\n",
        "        if False:\n",
    ),
    Mutant(
        "the short cut of release does not look at the queue: a lost wake-up (fasthttp#1830)",
        13,
        CORE,
        "        if self._queue:\n            want",
        "        if False:\n            want",
    ),
    Mutant(
        "raising the limit wakes nobody (fasthttp SetMaxConns)",
        15,
        CORE,
        "        self._consider()\n        self._pump(now, actions)\n",
        "        self._consider()\n",
    ),
    Mutant(
        "lowering the limit closes nothing on release",
        15,
        BOOKS,
        "        if self._over > 0:\n            return CloseReason.DRAIN\n",
        "",
    ),
    Mutant(
        "a discarded connection's slot is not passed on",
        4,
        CORE,
        "        self._doom(pooled, CloseReason.ERROR)\n        self._take_back(pooled, now, actions, clean=False)\n"
        "        self._pump(now, actions)\n",
        "        self._doom(pooled, CloseReason.ERROR)\n        self._take_back(pooled, now, actions, clean=False)\n",
    ),
    Mutant(
        "a double release passes",
        13,
        BOOKS,
        "        if pooled.streams < 1:\n",
        "        if pooled.streams < -9:\n",
    ),
    Mutant(
        "a draining connection gets a new stream",
        5,
        BOOKS,
        "pooled.streams < pooled.max_streams and pooled.doom is None and",
        "pooled.streams < pooled.max_streams and",
    ),
]


def load(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name + "_mutant")
    sys.modules[module.__name__] = module  # the enum and typing machinery look their module up
    try:
        exec(compile(source, f"<mutant of {name}>", "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


def mutated(mutant: Mutant) -> type[PoolCore[int]]:
    """The core class with one piece of its source replaced; everything else is as it is."""
    package = Path(fastserve.__file__).parent.parent  # not a module's __file__, which may be its compiled form
    sources = {name: (package / name.replace(".", "/")).with_suffix(".py").read_text("utf-8") for name in LAYERS}
    assert sources[mutant.module].count(mutant.old) == 1, f"the source has changed: write {mutant.name!r} anew"
    sources[mutant.module] = sources[mutant.module].replace(mutant.old, mutant.new)
    originals = {name: sys.modules[name] for name in LAYERS}
    try:
        for name in LAYERS:
            sys.modules[name] = load(name, sources[name])
        core_class: type[PoolCore[int]] = vars(sys.modules[CORE])["PoolCore"]
    finally:
        sys.modules.update(originals)
    return core_class


def test_the_core_passes() -> None:
    check(mutated(Mutant("none", 0, CORE, '"""`PoolCore`:', '"""`PoolCore`:')))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"row {mutant.row}: {mutant.name}")
def test_a_mutant_is_killed(mutant: Mutant) -> None:
    core_class = mutated(mutant)
    with pytest.raises(Exception) as caught:  # whatever the broken core makes of it
        check(core_class)
    frames = [entry.path for entry in caught.traceback]
    assert any("driver.py" in str(path) for path in frames), "killed by the suite, not by the loading of the mutant"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 8
    assert len({mutant.row for mutant in MUTANTS}) >= 8
