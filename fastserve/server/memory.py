"""Giving memory back to the system after a surge of connections.

CPython and uvloop free what a closed connection held, but glibc keeps the pages: after
9 000 connections half of what they cost would stay resident until the process ends.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

__all__ = ["SurgeWatch"]

SURGE = 256
"""Connections from which on it is worth while."""
REST = 4
"""The surge is over when less than one in this many connections is left."""


def _find_malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # another libc
    return trim


class SurgeWatch:
    """Told the number of open connections at each tick, says when to give memory back: after each surge, and as it ebbs away."""

    __slots__ = ("_peak", "_trim")

    def __init__(self) -> None:
        self._peak = 0
        self._trim = _find_malloc_trim()

    def tick(self, connections: int) -> bool:
        """True when a surge is over: shrink what has grown with it, then call `release`."""
        if connections > self._peak:
            self._peak = connections
            return False
        if self._peak < SURGE or connections * REST > self._peak:
            return False
        self._peak = connections
        return True

    def release(self) -> None:
        """Give free memory back to the system. Takes a few milliseconds."""
        if self._trim is not None:
            self._trim(0)
