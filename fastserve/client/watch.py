"""`Watch`: the deadlines of one client's connections, with one timer for all of them.

A request sets the deadline of its connection, and compares it with the time at which the timer
will run: mostly that is sooner. So a request costs no timer, and ten thousand of them one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve.client.connection import ClientConnection

__all__ = ["Watch"]


class Watch:
    """Ends the waits of `connections`, each of which is there from the moment that it is of use until its socket is gone.

    `clock` gives seconds.
    """

    __slots__ = ("_clock", "_timer", "armed_at", "connections", "loop")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.armed_at = inf
        """When the timer looks. To be asked for with `arm` by whoever sets a deadline before that."""
        self.connections: set[ClientConnection] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        """That of the connections, known from the first one on."""

    def set(self, conn: ClientConnection, seconds: float) -> None:
        """Give up the wait under way so long from now, but not behind the request's own limit."""
        conn.deadline = deadline = min(conn.limit, self._clock() + seconds)
        if deadline < self.armed_at:
            self.arm(deadline)

    def arm(self, when: float) -> None:
        """Look at the deadlines at `when`."""
        assert self.loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self.armed_at = when
        self._timer = self.loop.call_later(max(0.0, when - self._clock()), self.sweep)

    def sweep(self) -> None:
        """Look now, and again when the next deadline passes."""
        self._timer = None
        self.armed_at = inf
        now = self._clock()
        for conn in [conn for conn in self.connections if conn.deadline <= now]:
            conn.expire(now)
        soonest = min([conn.deadline for conn in self.connections], default=inf)
        if soonest < inf:
            self.arm(soonest)

    def stop(self) -> None:
        """No more timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.armed_at = inf
