"""The handlers that are measured: a content type and a five-byte body, in each of the three kinds."""

from __future__ import annotations

from fastserve import RequestCtx


async def async_handler(ctx: RequestCtx) -> None:
    ctx.set_content_type("text/plain")
    ctx.set_body(b"hello")


def plain_handler(ctx: RequestCtx) -> None:
    """For --inline, and for threads."""
    ctx.set_content_type("text/plain")
    ctx.set_body(b"hello")
