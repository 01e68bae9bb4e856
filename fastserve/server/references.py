"""Whether references are counted as expected: what the reuse of a `RequestCtx` counts on.

A context serves another request when nobody but the server holds it after its handler has returned. Who holds it is
read from its reference count, and how many are the server's own depends on the interpreter: from some version on, a local
variable need not count. So it is looked at once, at the start; where the counts are others, no context is used again,
which costs time and is always right.
"""

from __future__ import annotations

import sys
from sys import getrefcount

__all__ = ["COUNTS_ARE_KNOWN", "expected"]


class _Holder:
    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = object()

    def counted_in(self, held: object) -> int:
        return getrefcount(held)


def _are_known() -> bool:
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    holder = _Holder()
    alone = getrefcount(holder.held)  # the slot, and the argument
    local = holder.held
    with_local = getrefcount(local)
    passed = holder.counted_in(local)  # and the parameter
    return (alone, with_local, passed) == (2, 3, 4)


COUNTS_ARE_KNOWN = _are_known()


def expected(count: int) -> int:
    """`count` references mean that nobody else holds a thing; -1, which no count is, where that is not known."""
    return count if COUNTS_ARE_KNOWN else -1
