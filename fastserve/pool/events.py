"""`PoolEvent`: what a pool tells its `on_event` hook, and `CloseReason`, why it closed a connection."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CloseReason", "PoolEvent"]


class CloseReason(enum.StrEnum):
    """Why a pool closed a connection."""

    IDLE = "idle"
    """Nobody used it for `max_idle_conn_duration`."""
    LIFETIME = "lifetime"
    """It reached `max_conn_duration` or `max_uses`."""
    EVICTED = "evicted"
    """One too many was idle, or `close_idle_connections` was called."""
    STALE = "stale"
    """The peer closed it or sent unasked bytes while it was idle, or `test_on_borrow` refused it."""
    ERROR = "error"
    """Its holder discarded it, or `reset` failed."""
    DRAIN = "drain"
    """`max_conns` was lowered below the connections that were there."""
    SHUTDOWN = "shutdown"
    """The pool was closed."""


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """One thing that happened in a pool. What does not apply is None."""

    kind: Literal["dial", "dialled", "dial_failed", "wait", "served", "failed", "closed"]
    """A dial began, succeeded or failed; an acquire had to wait, was served or failed; a connection was closed. An acquire
    that finds a connection ready tells nothing, nor does one that is cancelled or interrupted.
    """
    conn: Any = None
    reason: CloseReason | None = None
    error: BaseException | None = None
