"""The handlers that are measured: a content type and a five-byte body (or see `bench.body`), in each of the three kinds."""

from __future__ import annotations

from bench.body import response_body

from fastserve import RequestCtx

BODY = response_body()


async def async_handler(ctx: RequestCtx) -> None:
    ctx.set_content_type("text/plain")
    ctx.set_body(BODY)


def plain_handler(ctx: RequestCtx) -> None:
    """For --inline, and for threads."""
    ctx.set_content_type("text/plain")
    ctx.set_body(BODY)
