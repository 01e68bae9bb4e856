"""`Deadlines`: things that end at a time, the next one first.

Mostly each ends later than the one before, since all have the same time-out, and mostly they
end in that order, otherwise than by the clock. So they stand in a queue: added at its end, and
taken from its front as soon as they are dead, without a search. What ends later than one that
comes behind it leaves the queue for a heap, once. A dead entry in the middle of either stays
behind until it comes up, or until the dead outnumber the living, when all of them are swept out:
amortised, O(log n) at most to add and O(1) to remove, and memory is O(living) (invariant 10 of
the pool).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

T = TypeVar("T")

FEW_DEAD = 64
"""So many dead entries are not worth a sweep."""


class Deadlines(Generic[T]):
    """Pairs of time and thing; `is_live(thing, time)` tells whether one still counts."""

    __slots__ = ("_dead", "_heap", "_is_live", "_numbers", "_queue")

    def __init__(self, is_live: Callable[[T, float], bool]) -> None:
        self._is_live = is_live
        self._queue: deque[tuple[float, int, T]] = deque()
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()  # equal times come out in the order they went in; things are never compared
        self._dead = 0

    def __len__(self) -> int:
        """Entries, dead ones included."""
        return len(self._queue) + len(self._heap)

    def add(self, when: float, thing: T) -> None:
        queue = self._queue
        while queue and queue[-1][0] > when:
            heapq.heappush(self._heap, queue.pop())
        queue.append((when, next(self._numbers), thing))

    def dropped(self) -> None:
        """One entry has died: its thing ended otherwise."""
        queue = self._queue
        self._dead += 1
        if queue and not self._is_live(queue[0][2], queue[0][0]):
            queue.popleft()
            self._dead -= 1
        elif self._dead > FEW_DEAD and self._dead * 2 > len(queue) + len(self._heap):
            self._queue = deque(entry for entry in queue if self._is_live(entry[2], entry[0]))
            self._heap = [entry for entry in self._heap if self._is_live(entry[2], entry[0])]
            heapq.heapify(self._heap)
            self._dead = 0

    def first(self) -> float | None:
        """The earliest time at which a thing ends, or None."""
        entry = self._first()
        return None if entry is None else entry[0]

    def due(self, now: float) -> Iterator[T]:
        """Take out, one after another, what has ended by `now`."""
        while (entry := self._first()) is not None and entry[0] <= now:
            if self._heap and entry is self._heap[0]:
                heapq.heappop(self._heap)
            else:
                self._queue.popleft()
            yield entry[2]

    def _first(self) -> tuple[float, int, T] | None:
        """The first living entry; the dead ones before it are gone."""
        queue, heap = self._queue, self._heap
        while queue and not self._is_live(queue[0][2], queue[0][0]):
            queue.popleft()
            self._dead = max(0, self._dead - 1)
        while heap and not self._is_live(heap[0][2], heap[0][0]):
            heapq.heappop(heap)
            self._dead = max(0, self._dead - 1)
        if queue and heap:
            return min(queue[0], heap[0])
        return queue[0] if queue else heap[0] if heap else None
