"""A small handler to try fastserve with: ``fastserve run fastserve.demo:handler``."""

from __future__ import annotations

import asyncio
import html
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve.server.ctx import RequestCtx

__all__ = ["handler"]

_LONGEST_SLEEP = 10.0
_EVENTS = 10
_BETWEEN_EVENTS = 0.2


async def handler(ctx: RequestCtx) -> None:
    """Answer each of the routes that ``/`` lists; 404 elsewhere, 405 for a method that a route does not take."""
    route = _ROUTES.get(ctx.path)
    if route is None:
        ctx.not_found()
        return
    methods, answer, _ = route
    if ctx.method not in methods:
        ctx.error(f"{ctx.path} takes {', '.join(methods)}\n", 405)
        ctx.set_header("Allow", ", ".join(methods))
        return
    await answer(ctx)


async def _index(ctx: RequestCtx) -> None:
    rows = "\n".join(
        f"<li><a href='{html.escape(path)}'>{html.escape(path)}</a> ({', '.join(methods)}): {html.escape(text)}</li>"
        for path, (methods, _, text) in _ROUTES.items()
    )
    ctx.set_content_type("text/html; charset=utf-8")
    ctx.set_body(f"<!doctype html>\n<title>fastserve</title>\n<h1>fastserve is running</h1>\n<ul>\n{rows}\n</ul>\n")


async def _hello(ctx: RequestCtx) -> None:
    ctx.set_content_type("text/plain; charset=utf-8")
    ctx.set_body(f"Hello, {ctx.query_args.get('name') or 'world'}!\n")


async def _echo(ctx: RequestCtx) -> None:
    # Never the sender's own type: a page that comes back as HTML would run its scripts here.
    ctx.set_content_type("application/octet-stream")
    ctx.set_body(ctx.post_body)


async def _headers(ctx: RequestCtx) -> None:
    headers: dict[str, str] = {}
    for name, value in ctx.request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    ctx.set_json(headers)


async def _stream(ctx: RequestCtx) -> None:
    async def lines() -> AsyncIterator[str]:
        for number in range(1, 6):
            yield f"line {number} of 5\n"
            await asyncio.sleep(0.1)

    ctx.set_content_type("text/plain; charset=utf-8")
    ctx.set_body_stream(lines())


async def _events(ctx: RequestCtx) -> None:
    async def events() -> AsyncIterator[str]:
        for number in range(1, _EVENTS + 1):
            yield f"id: {number}\ndata: event {number} of {_EVENTS}\n\n"
            try:
                async with asyncio.timeout(_BETWEEN_EVENTS):
                    await ctx.done.wait()
            except TimeoutError:
                continue
            return

    ctx.set_content_type("text/event-stream")
    ctx.set_header("Cache-Control", "no-store")
    ctx.set_body_stream(events())


async def _slow(ctx: RequestCtx) -> None:
    wanted = ctx.query_args.get("seconds") or "1"
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        ctx.error("seconds takes a number, at least 0\n", 400)
        return
    seconds = min(seconds, _LONGEST_SLEEP)
    await asyncio.sleep(seconds)
    ctx.set_content_type("text/plain; charset=utf-8")
    ctx.set_body(f"slept {seconds:g} s\n")


_GET = ("GET", "HEAD")
_ROUTES: dict[str, tuple[tuple[str, ...], Callable[[RequestCtx], Awaitable[None]], str]] = {
    "/": (_GET, _index, "this page"),
    "/hello": (_GET, _hello, "a greeting; ?name= says for whom"),
    "/echo": (("POST",), _echo, "the request's body, sent back"),
    "/headers": (_GET, _headers, "the request's headers as JSON"),
    "/stream": (_GET, _stream, "a body in chunks"),
    "/events": (_GET, _events, "server-sent events: ten, or fewer when the server stops"),
    "/slow": (_GET, _slow, "an answer after ?seconds=, at most 10"),
}
