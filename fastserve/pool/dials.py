"""`Dials`: the dials under way, their retries, and when to stop dialling a dead upstream.

A dial belongs to the queue, not to the caller that caused it. A `DialTicket` is one dial with
all its attempts; it holds a slot of the pool until it has succeeded, failed or been abandoned.
An abandoned dial frees its slot, but counts against `max_concurrent_dials` until it is really
over: dials that hang (a thread cannot be interrupted) do not pile up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from fastserve.errors import DialTimeout, PoolError, RequestTimeout
from fastserve.pool.deadlines import Deadlines
from fastserve.pool.options import PoolOptions

__all__ = ["DialTicket", "Dials", "redial_timeout"]

MAX_BACKOFF: Final = 30.0
"""Longest pause between dials in seconds: an upstream that comes back is found within half a minute."""

OVER: Final = -1.0
"""`wake_at` of a ticket that is done with."""


class DialTicket:
    """One dial: up to 1 + `dial_retries` attempts."""

    __slots__ = ("attempts", "running", "started", "wake_at")

    def __init__(self, now: float) -> None:
        self.attempts = 1
        self.started = now
        self.running = True
        """An attempt is under way, rather than the pause before the next one."""
        self.wake_at = math.inf
        """When the attempt has taken too long, or when the next one begins."""


class Dials:
    """Books of the dials of one pool."""

    __slots__ = ("_deadlines", "_hung", "_options", "_probe_at", "_random", "_under_way", "failures", "upkeep_at")

    def __init__(self, options: PoolOptions, random: Callable[[], float]) -> None:
        self._options = options
        self._random = random
        self._under_way: set[DialTicket] = set()
        self._hung: set[DialTicket] = set()
        self._deadlines = Deadlines[DialTicket](lambda ticket, when: ticket.wake_at == when)
        self._probe_at = 0.0
        self.failures = 0
        """Failed attempts since the last success."""
        self.upkeep_at = 0.0
        """When `min_idle_conns` may be kept up again after a failure; 0 is now."""

    def __len__(self) -> int:
        """Dials that hold a slot."""
        return len(self._under_way)

    def __contains__(self, ticket: DialTicket) -> bool:
        return ticket in self._under_way

    def __iter__(self) -> Iterator[DialTicket]:
        return iter(self._under_way)

    @property
    def hung(self) -> int:
        """Abandoned dials that are not over yet."""
        return len(self._hung)

    @property
    def budget(self) -> int:
        """How many more may be started now."""
        return self._options.max_concurrent_dials - len(self._under_way) - len(self._hung)

    def patience(self) -> float:
        """The longest that one dial can take, all attempts and pauses together."""
        retries = self._options.dial_retries
        pauses = sum(min(self._options.dial_backoff * 2.0 ** min(n, 64), MAX_BACKOFF) for n in range(retries))
        return self._options.dial_timeout * (retries + 1) + 1.2 * pauses

    def refuses(self, now: float) -> bool:
        """The upstream is taken for dead (`fail_fast_after`), and it is not time for the next probe."""
        limit = self._options.fail_fast_after
        return bool(limit) and self.failures >= limit and (now < self._probe_at or bool(self._under_way))

    def start(self, now: float) -> DialTicket:
        ticket = DialTicket(now)
        self._under_way.add(ticket)
        self._wake(ticket, now + self._options.dial_timeout)
        return ticket

    def succeeded(self, ticket: DialTicket) -> None:
        self.failures = 0
        self.upkeep_at = self._probe_at = 0.0
        self._end(ticket)

    def failed(self, ticket: DialTicket, now: float, *, again: bool) -> bool:
        """An attempt failed. True when the dial goes on, after a pause; False when it has failed with it."""
        self.failures += 1
        if again and ticket.attempts <= self._options.dial_retries:
            ticket.running = False
            self._wake(ticket, now + self._backoff(ticket.attempts))
            return True
        self.upkeep_at = self._probe_at = now + self._backoff(self.failures)
        self._end(ticket)
        return False

    def timed_out(self, ticket: DialTicket, now: float, *, again: bool) -> bool:
        """As `failed`, for an attempt that has not ended: if the dial goes on it is as a new ticket, since the old one
        may still come back, with a connection even.
        """
        successor = DialTicket(ticket.started)
        successor.attempts = ticket.attempts
        self._end(ticket)
        self._hung.add(ticket)
        self._under_way.add(successor)
        return self.failed(successor, now, again=again)

    def retry(self, ticket: DialTicket, now: float) -> None:
        """The pause is over: the next attempt begins."""
        ticket.attempts += 1
        ticket.running = True
        self._wake(ticket, now + self._options.dial_timeout)

    def abandon(self, ticket: DialTicket) -> None:
        """Its slot is free; its attempt, if one is running, is not over yet."""
        self._end(ticket)
        if ticket.running:
            self._hung.add(ticket)

    def over(self, ticket: DialTicket) -> None:
        """An abandoned dial is over after all."""
        self._hung.discard(ticket)

    def due(self, now: float) -> Iterator[DialTicket]:
        return self._deadlines.due(now)

    def next_wake(self) -> float | None:
        return self._deadlines.first()

    def _wake(self, ticket: DialTicket, when: float) -> None:
        if ticket.wake_at != math.inf:
            self._deadlines.dropped()
        ticket.wake_at = when
        self._deadlines.add(when, ticket)

    def _end(self, ticket: DialTicket) -> None:
        self._under_way.discard(ticket)
        if ticket.wake_at != math.inf:
            self._deadlines.dropped()
        ticket.wake_at = OVER

    def _backoff(self, failures: int) -> float:
        pause: float = min(self._options.dial_backoff * 2.0 ** min(failures - 1, 64), MAX_BACKOFF)
        return pause * (1.0 + 0.2 * (2.0 * self._random() - 1.0))


def redial_timeout(elapsed: float, dial_timeout: float, timeout: float | None) -> PoolError:
    """What a holder's own dial raises that took `elapsed` seconds: whose time was the shorter."""
    if timeout is not None and timeout < dial_timeout:
        return RequestTimeout(
            f"dialled again for {elapsed:.3f} s, which was all the time the request had", phase="dial"
        )
    return DialTimeout(f"dialled again for {elapsed:.3f} s: dial_timeout is {dial_timeout:g} s")
