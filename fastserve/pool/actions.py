"""What `PoolCore` wants done. A shell carries the actions out, in order, after the core's books are settled."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from fastserve.pool.conn import PooledConn
from fastserve.pool.dials import DialTicket
from fastserve.pool.events import CloseReason
from fastserve.pool.want import WantConn

__all__ = ["NOTHING", "AbandonDial", "Action", "Actions", "Attach", "Close", "Dial", "Probe", "Reset", "Wake"]


class Wake(NamedTuple):
    """Wake the waiter: it has its connection or its error; `WantConn.take` gives it."""

    want: WantConn[Any]


class Dial(NamedTuple):
    """Open a connection, then call `dialled` or `dial_failed` with this ticket, exactly once."""

    ticket: DialTicket


class AbandonDial(NamedTuple):
    """Stop a running dial if that can be done; still call `dialled` or `dial_failed` when it is over."""

    ticket: DialTicket


class Attach(NamedTuple):
    """A new connection: tell its owner which entry it has. Comes before anything else that is done with it."""

    pooled: PooledConn[Any]


class Probe(NamedTuple):
    """Run `test_on_borrow` on the connection, `last_used` seconds after its release; then call `tested`."""

    pooled: PooledConn[Any]
    last_used: float


class Reset(NamedTuple):
    """Run `reset` on the connection; then call `reset_done`."""

    pooled: PooledConn[Any]


class Close(NamedTuple):
    """Close the connection; the pool has forgotten it."""

    pooled: PooledConn[Any]
    reason: CloseReason


Action: TypeAlias = Wake | Dial | AbandonDial | Attach | Probe | Reset | Close
Actions: TypeAlias = list[Action] | tuple[Action, ...]

NOTHING: tuple[()] = ()
"""Shared, so that an event with nothing to do allocates nothing."""
