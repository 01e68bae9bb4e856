"""`AddressRing`: which of several addresses the next dial tries first, and which it leaves out. No I/O, no clock.

Invariants:
1. A dial is given each address once: the good ones first, round robin, then those left out, who have their turn
   only when all good ones failed.
2. An address is left out for at most `max_backoff` after its last failure, and comes back by itself.
3. Dials that fail together on one address count as one failure.
4. An address that comes back is tried first by one dial at a time until it has worked: a dead one costs one dial per
   back-off and not every dial that was under way.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.client.addresses import Address
from fastserve.errors import ConfigError

__all__ = ["AddressRing"]

BACKOFF = 1.0
"""Seconds that an address is left out after its first failure; doubled with each further one."""
MAX_BACKOFF = 30.0
"""Seconds that an address is left out at most: how late its recovery may be noticed."""


class AddressRing:
    """Decides for dials over `addresses`. Times are in seconds of whatever clock `now` is read from."""

    def __init__(
        self, addresses: Sequence[Address], *, backoff: float = BACKOFF, max_backoff: float = MAX_BACKOFF
    ) -> None:
        if not addresses:
            raise ConfigError("addr names no address: give at least one host")
        if not 0 < backoff <= max_backoff < float("inf"):
            raise ConfigError(f"backoff {backoff} and max_backoff {max_backoff}: takes 0 < backoff <= max_backoff")
        self.addresses = tuple(addresses)
        self._backoff = backoff
        self._max_backoff = max_backoff
        self._next = 0
        self._failures = [0] * len(addresses)
        self._left_out_until = [float("-inf")] * len(addresses)
        self._on_trial = [False] * len(addresses)

    def order(self, now: float) -> list[int]:
        """Indices into `addresses`, in the order in which one dial tries them until one works."""
        count = len(self.addresses)
        rotation = [(self._next + step) % count for step in range(count)]
        good = [index for index in rotation if self._left_out_until[index] <= now]
        left_out = [index for index in rotation if self._left_out_until[index] > now]
        first = good[0] if good else rotation[0]
        self._next = (first + 1) % count
        if good and self._failures[first]:
            # Held back from other dials meanwhile. Should this one be cancelled, the hold ends by itself.
            self._left_out_until[first] = now + self._delay(first)
            self._on_trial[first] = True
        return good + left_out

    def failed(self, index: int, now: float) -> None:
        """A dial of this address failed."""
        if self._left_out_until[index] > now and not self._on_trial[index]:
            return  # began before it was left out, or as a last resort
        self._failures[index] += 1
        self._on_trial[index] = False
        self._left_out_until[index] = now + self._delay(index)

    def succeeded(self, index: int) -> None:
        """A dial of this address worked: it is as good as new."""
        self._failures[index] = 0
        self._on_trial[index] = False
        self._left_out_until[index] = float("-inf")

    def left_out(self, now: float) -> list[Address]:
        """Those that a dial tries last at `now`."""
        return [a for a, until in zip(self.addresses, self._left_out_until, strict=True) if until > now]

    def _delay(self, index: int) -> float:
        # The exponent is bounded: a float overflows after 1024 failures.
        return min(self._max_backoff, self._backoff * 2.0 ** min(self._failures[index] - 1, 64))
