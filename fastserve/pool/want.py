"""`WantConn`, one acquire that waits."""

from __future__ import annotations

import enum
import math
from typing import Final, Generic, TypeVar

from fastserve.pool.conn import PooledConn

__all__ = ["WantConn", "WantState"]

C = TypeVar("C")


class WantState(enum.Enum):
    """A waiter goes from WAITING to one of the others once, and from DELIVERED to TAKEN or CANCELLED once."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    """It has its connection, but its task or thread has not run yet."""
    TAKEN = "taken"
    FAILED = "failed"
    CANCELLED = "cancelled"


WAITING: Final = WantState.WAITING  # as a global: an attribute of an enum class is looked up through its metaclass


class WantConn(Generic[C]):
    """One waiter. The core settles it, the shell calls `wake`, and `PoolCore.collect` gives what it got."""

    __slots__ = ("deadline", "error", "own_time", "pooled", "queued", "since", "state", "timed")

    def __init__(self) -> None:
        self.state = WAITING
        self.pooled: PooledConn[C] | None = None
        self.error: Exception | None = None
        self.since = 0.0
        self.deadline = math.inf
        self.own_time = False
        """The deadline is the caller's own, rather than the pool's."""
        self.timed = False
        """Its deadline is kept apart, and not by its place in the queue."""
        self.queued = False
        """It waits for another holder's connection, not for a dial of its own: counted in `waits`."""

    def wake(self) -> None:
        """It is settled: have whoever waits look. Not for the core to call, whose books must be done by then.

        Each shell has its own; this one is for those that look at `state` by themselves.
        """
