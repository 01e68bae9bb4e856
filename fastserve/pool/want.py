"""`WantConn`, one acquire that waits."""

from __future__ import annotations

import enum
from typing import Final, Generic, TypeVar

from fastserve.errors import PoolClosed, PoolError
from fastserve.pool.conn import PooledConn, PooledState

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


# As globals: an attribute of an enum class is looked up through its metaclass.
WAITING: Final = WantState.WAITING
DELIVERED: Final = WantState.DELIVERED
TAKEN: Final = WantState.TAKEN
FAILED: Final = WantState.FAILED
CLOSED: Final = PooledState.CLOSED


class WantConn(Generic[C]):
    """One waiter. The core settles it, the shell calls `wake`, and `take` gives what it got."""

    __slots__ = ("deadline", "error", "own_time", "pooled", "queued", "since", "state", "timed")

    since: float
    """When it asked; set by the core, as `deadline` is."""
    deadline: float

    def __init__(self) -> None:
        self.state = WAITING
        self.pooled: PooledConn[C] | None = None
        self.error: Exception | None = None
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

    def take(self) -> PooledConn[C]:
        """What it got when it was settled: its connection, or its error raised. Once."""
        pooled = self.pooled
        if self.state is DELIVERED and pooled is not None:
            self.state = TAKEN
            self.pooled = None
            if pooled.state is CLOSED:
                pooled.streams -= 1
                raise PoolClosed("the pool was closed before the connection could be used: make a new one")
            return pooled
        if self.state is FAILED and self.error is not None:
            error, self.error = self.error, None
            raise error
        raise PoolError(f"this acquire is {self.state.value}: there is nothing to take")
