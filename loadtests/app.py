"""The handlers that `locustfile.py` loads, with the same routes in each kind.

fastserve run app:handler --app-dir loadtests
fastserve run app:threads_handler --app-dir loadtests
"""

from __future__ import annotations

import time
from collections.abc import Callable

from scenarios import BLOCKING_SECONDS, HELLO, STREAM_PIECES

from fastserve import RequestCtx

__all__ = ["handler", "threads_handler"]


async def handler(ctx: RequestCtx) -> None:
    """On the loop; what blocks goes to one of the server's threads."""
    if ctx.path == "/blocking":
        await ctx.run_in_thread(block)
    answer(ctx)


def threads_handler(ctx: RequestCtx) -> None:
    """On the server's threads from the start."""
    if ctx.path == "/blocking":
        block()
    answer(ctx)


def block() -> None:
    time.sleep(BLOCKING_SECONDS)


def answer(ctx: RequestCtx) -> None:
    route = ROUTES.get(ctx.path)
    if route is None:
        ctx.not_found()
    else:
        route(ctx)


def hello(ctx: RequestCtx) -> None:
    ctx.set_content_type("text/plain")
    ctx.set_body(HELLO)


def order(ctx: RequestCtx) -> None:
    ctx.set_json({"pieces": sum(item["count"] for item in ctx.json()["items"])})


def echo(ctx: RequestCtx) -> None:
    ctx.set_content_type("application/octet-stream")
    ctx.set_body(ctx.post_body)


def stream(ctx: RequestCtx) -> None:
    ctx.set_content_type("text/plain")
    ctx.set_body_stream(iter(STREAM_PIECES))


ROUTES: dict[str, Callable[[RequestCtx], None]] = {
    "/": hello,
    "/page": hello,
    "/blocking": hello,
    "/orders": order,
    "/echo": echo,
    "/stream": stream,
}
