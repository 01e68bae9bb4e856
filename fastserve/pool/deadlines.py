"""`Deadlines`: things that end at a time, the next one first.

A thing that ended otherwise stays behind as a dead entry until it comes up or until the dead
outnumber the living, when all of them are swept out: adding and removing cost O(log n) and
O(1) amortised, and memory is O(living) (invariant 10 of the pool).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")

FEW_DEAD = 64
"""So many dead entries are not worth a sweep."""


class Deadlines(Generic[T]):
    """A heap of (time, thing); `is_live(thing, time)` tells whether an entry still counts."""

    __slots__ = ("_dead", "_heap", "_is_live", "_numbers")

    def __init__(self, is_live: Callable[[T, float], bool]) -> None:
        self._is_live = is_live
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()  # equal times come out in the order they went in; things are never compared
        self._dead = 0

    def __len__(self) -> int:
        """Entries, dead ones included."""
        return len(self._heap)

    def add(self, when: float, thing: T) -> None:
        heapq.heappush(self._heap, (when, next(self._numbers), thing))

    def dropped(self) -> None:
        """One entry has died: its thing ended otherwise."""
        self._dead += 1
        if self._dead > FEW_DEAD and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if self._is_live(entry[2], entry[0])]
            heapq.heapify(self._heap)
            self._dead = 0

    def first(self) -> float | None:
        """The earliest time at which a thing ends, or None."""
        heap = self._heap
        while heap and not self._is_live(heap[0][2], heap[0][0]):
            heapq.heappop(heap)
            self._dead = max(0, self._dead - 1)
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[T]:
        """Take out, one after another, what has ended by `now`."""
        while (when := self.first()) is not None and when <= now:
            yield heapq.heappop(self._heap)[2]
