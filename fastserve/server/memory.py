"""Giving memory back to the system after a surge of connections, and keeping what the next request needs.

CPython and uvloop free what a closed connection held, but the memory stays resident until
the process ends: glibc keeps its pages, and CPython's allocator gives an arena (1 MiB) back
only when nothing at all lives in it. What lives in the arenas of a surge is next to nothing:
objects that CPython keeps for reuse, and the few that are replaced at every tick (the
time, the timer, its context), each in the arena that was at hand when it was made.

The other way round glibc gives back too soon: a large body is freed to the system with its
request, and the next one takes the same pages anew, each by a page fault. That costs several
times what the request does.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Mapping

__all__ = ["SurgeWatch", "keep_freed_memory"]

SURGE = 256
"""Connections from which on it is worth while."""
REST = 4
"""The surge is over when less than one in this many connections is left."""
RELEASES = 4
"""Ticks at which memory is given back: what a tick replaces leaves its arena only when its free list is cleared after it."""


INTERPRETERS_OWN = 1000
"""Objects that the interpreter may have frozen itself: CPython 3.12 begins with 375. A program freezes all it has, thousands."""


KEPT_PIECE = 4 * 1024 * 1024
"""Pieces of memory up to so many bytes are kept in the process when they are freed (glibc's M_MMAP_THRESHOLD, -3)."""
KEPT_TOP = 16 * 1024 * 1024
"""And as much free memory at the end of the heap (glibc's M_TRIM_THRESHOLD, -1)."""


def _of_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None  # another libc
    return function


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Have glibc keep what is freed, within the bounds above, for the next large bodies. For programs that own the process.

    False when there is another libc, or `environ` says already what is to be done (MALLOC_TRIM_THRESHOLD_ and the like).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ):
        return False
    return mallopt(-3, KEPT_PIECE) == mallopt(-1, KEPT_TOP) == 1


def _clear_free_lists() -> None:
    """Free the floats, tuples, lists and contexts that CPython keeps for reuse.

    A full collection does that, at its end. The collection itself, which takes a second in a large program, is left
    out: it does not look at frozen objects. A program that has frozen some itself is left alone, since only all or
    none can be unfrozen.
    """
    if gc.get_freeze_count() > INTERPRETERS_OWN:
        return
    gc.freeze()
    try:
        gc.collect()
    finally:
        gc.unfreeze()


class SurgeWatch:
    """Told the number of open connections at each tick, says when to give memory back: after each surge, and as it ebbs away."""

    __slots__ = ("_peak", "_releases", "_trim")

    def __init__(self) -> None:
        self._peak = 0
        self._releases = 0  # that are still to come
        self._trim = _of_glibc("malloc_trim")

    def tick(self, connections: int) -> bool:
        """True when a surge is over, and at some ticks from then on: shrink what has grown with it, then call `release`."""
        if connections > self._peak:
            self._peak = connections
            if connections >= SURGE:
                self._releases = 0  # the next one has begun
        elif self._peak >= SURGE and connections * REST <= self._peak:
            self._peak = connections
            self._releases = RELEASES
        if not self._releases:
            return False
        self._releases -= 1
        return True

    def release(self) -> None:
        """Give free memory back to the system. Takes a few milliseconds."""
        _clear_free_lists()
        if self._trim is not None:
            self._trim(0)
