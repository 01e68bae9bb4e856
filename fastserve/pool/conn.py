"""`PooledConn`: the pool's entry for one connection, and what its holder gives back."""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

from fastserve.pool.events import CloseReason

__all__ = ["PooledConn", "PooledState"]

C = TypeVar("C")


class PooledState(enum.Enum):
    """Where a connection stands. TESTING, RESETTING and DRAINING count as in use."""

    IDLE = "idle"
    IN_USE = "in use"
    TESTING = "testing"
    """`test_on_borrow` runs; it has no holder yet."""
    RESETTING = "resetting"
    """`reset` runs; it has no holder any more."""
    DRAINING = "draining"
    """Held, but gets no new holder: closed when the last one releases it."""
    CLOSED = "closed"


class PooledConn(Generic[C]):
    """A pooled connection: `conn` is the connection itself, the rest are the pool's books.

    One holder calls `release` or `discard` once. `uses` is 1 for the first holder: the connection is fresh.
    """

    __slots__ = (
        "conn",
        "created_at",
        "doom",
        "expires_at",
        "idle_since",
        "max_streams",
        "owner",
        "stale_at",
        "state",
        "streams",
        "uses",
    )

    def __init__(self, conn: C, owner: object, now: float, expires_at: float, max_streams: int) -> None:
        self.conn = conn
        self.owner = owner
        """The `PoolCore` whose books it is in."""
        self.state = PooledState.IN_USE
        self.streams = 0
        """Holders now."""
        self.max_streams = max_streams
        self.uses = 0
        """Times it was handed out."""
        self.created_at = now
        self.expires_at = expires_at
        """When its `max_conn_duration` ends."""
        self.idle_since = now
        self.stale_at = expires_at
        """While idle: when it may not be handed out any more."""
        self.doom: CloseReason | None = None
        """Why it will be closed as soon as nobody holds it."""

    def __repr__(self) -> str:
        return f"<PooledConn {self.state.value} streams={self.streams} uses={self.uses} {self.conn!r}>"
