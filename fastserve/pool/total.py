"""`TotalLimits`: what the pools of one `ConnPoolMap` share: a limit on all connections, and one LRU order of the idle ones.

Each `PoolCore` keeps its part of these books itself; the map only looks at them after an
event and moves room from one pool to another.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from fastserve.pool.conn import PooledConn

if TYPE_CHECKING:
    from fastserve.pool.books import ConnBooks

__all__ = ["TotalLimits"]


class TotalLimits:
    """`conns` slots of `max_conns` are taken by all pools together; at most `max_idle` connections stay idle."""

    __slots__ = ("conns", "emptied", "hungry", "idle", "max_conns", "max_idle")

    def __init__(self, max_conns: int, max_idle: int) -> None:
        self.max_conns = max_conns
        self.max_idle = max_idle
        self.conns = 0
        self.idle: OrderedDict[PooledConn[Any], None] = OrderedDict()
        """Idle connections of all pools, the one idle longest first."""
        self.hungry: OrderedDict[ConnBooks[Any], None] = OrderedDict()
        """Pools that have a waiter and a slot of their own, but no room here; in the order they asked."""
        self.emptied: set[ConnBooks[Any]] = set()
        """Pools that have become empty, or may have."""

    def give_back(self, core: ConnBooks[Any]) -> None:
        """A slot of `core` is free again."""
        self.conns -= 1
        if not core.conns:
            self.emptied.add(core)

    @property
    def room(self) -> int:
        """Slots that are free."""
        return self.max_conns - self.conns
