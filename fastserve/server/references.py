"""What the reuse of a `RequestCtx` counts on: how many references there are to it when nobody but the server holds it.

A context serves another request when no handler kept it, nor its request or response, which their reference counts tell.
How many are the server's own at the places that look depends on the interpreter (a local variable may count, or not) and on
how a module was compiled (so may an argument). So nothing is believed: at the start each place is shown contexts that a
handler has kept, by the way that requests take, and its limit is the largest count with which it leaves them alone.

Invariants (tests/server/test_references.py):
1. With the limit that was found, what is kept is not used again, and with one more it would be: the limit is exact.
2. A place that was not seen to do both, or where counts mean something else, has the limit `UNKNOWN`, which no count is
   within: no context is used again there, which costs time and is always right.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

from fastserve.server import answering, connection, service
from fastserve.server.config import ServerConfig
from fastserve.server.connection import Connection
from fastserve.server.ctx import RequestCtx
from fastserve.server.service import Handler, Service
from fastserve.server.wire import UNKNOWN

__all__ = ["LIMITS", "find_limits"]

MOST = 9
"""More references than any place has by itself."""
NO_LIMIT = 1 << 20
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

LIMITS: dict[ModuleType, tuple[str, ...]] = {
    connection: ("CTX_REFS", "RENEWED_REFS", "REQUEST_REFS", "RESPONSE_REFS"),
    answering: ("CTX_REFS", "REQUEST_REFS", "RESPONSE_REFS"),
    service: ("REQUEST_REFS", "RESPONSE_REFS"),
}
"""By module, the names of its limits. The context's own in `Service.recycle` is found there: the loop has a part in it."""


class _Loop:
    """Its time stands still, and nothing that is put off is ever done."""

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> None:
        pass


class _Transport:
    def write(self, data: bytes) -> None:
        pass


class _Trial:
    """A connection whose handler keeps what `part` finds in its context."""

    def __init__(self, part: Callable[[RequestCtx], object], *, inline: bool) -> None:
        self._part = part
        self._kept: object = None
        self._seen = 0
        handler: Handler = self._handle
        self.service = Service(handler, ServerConfig(), inline, cast(asyncio.AbstractEventLoop, _Loop()))
        self.connection = Connection(self.service)
        self.connection.connection_made(cast(asyncio.Transport, _Transport()))

    def _handle(self, ctx: RequestCtx) -> None:
        self._kept = self._part(ctx)
        self._seen = id(ctx)

    def used_again_in_place(self) -> bool:
        """As after a handler that has not waited: with a context from the service, or with what a request has left."""
        connection = self.connection
        connection._ctx = None
        connection.data_received(REQUEST)
        # Another one is made while that is still there, so no id comes twice.
        used_again = id(connection._ctx) == self._seen
        connection.data_received(REQUEST + REQUEST)
        return used_again or id(connection._ctx) == self._seen

    def used_again_after_a_thread(self) -> bool:
        self.connection.data_received(REQUEST)
        threads = self.service.threads
        threads._ended.append(threads._queue.popitem()[0])
        threads._ended[0].call()
        threads._deliver()
        return self._spare()

    def used_again_later(self) -> bool:
        """As after a handler that has waited."""
        self.service._callback_refs = NO_LIMIT
        self.service.contexts.append(self.service.new_ctx())
        self._handle(self.service.contexts[0])
        self.service.recycle(self.service.contexts.pop())
        return self._spare()

    def _spare(self) -> bool:
        there = bool(self.service.contexts)
        self.service.contexts.clear()
        return there


def _largest(module: ModuleType, name: str, used_again: Callable[[], bool]) -> int:
    """The largest limit with which what is kept is not used again."""
    setattr(module, name, MOST)
    if not used_again():
        return UNKNOWN  # for another reason: nothing is learnt here
    for limit in range(MOST - 1, 0, -1):
        setattr(module, name, limit)
        if not used_again():
            return limit
    return UNKNOWN


def _ctx(ctx: RequestCtx) -> object:
    return ctx


def _request(ctx: RequestCtx) -> object:
    return ctx.request


def _response(ctx: RequestCtx) -> object:
    return ctx.response


PARTS: dict[str, Callable[[RequestCtx], object]] = {
    "CTX_REFS": _ctx,
    "RENEWED_REFS": _ctx,
    "REQUEST_REFS": _request,
    "RESPONSE_REFS": _response,
}


def find_limits() -> None:
    """Set the limits of all places."""
    for module, names in LIMITS.items():
        for name in names:
            setattr(module, name, UNKNOWN)
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    # A debugger that looks at the variables of a frame holds what they refer to, and only while it is there.
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        found = {(module, name): _find_limit(module, name) for module, names in LIMITS.items() for name in names}
    finally:
        sys.settrace(tracer)
    for (module, name), limit in found.items():
        setattr(module, name, limit)


def _find_limit(module: ModuleType, name: str) -> int:
    trial = _Trial(PARTS[name], inline=module is connection)
    used_again = {
        connection: trial.used_again_in_place,
        answering: trial.used_again_after_a_thread,
        service: trial.used_again_later,
    }[module]
    # The others are out of the way: of several limits the strictest decides. CTX_REFS of `data_received` alone decides
    # whether the others of its module are looked at, and leaves alone what they would not.
    others = [other for other in LIMITS[module] if other != name]
    for other in others:
        setattr(module, other, NO_LIMIT)
    if module is connection:
        if name == "CTX_REFS":
            connection.RENEWED_REFS = UNKNOWN
        else:
            connection.CTX_REFS = UNKNOWN
    try:
        return _largest(module, name, used_again)
    finally:
        for other in LIMITS[module]:
            setattr(module, other, UNKNOWN)
