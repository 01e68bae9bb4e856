"""`send_stream`: a response body that is made while it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from fastserve.errors import BodyStreamError
from fastserve.http1.render import LAST_CHUNK, Delimiter, chunk, delimiter
from fastserve.http1.response import encode_body

if TYPE_CHECKING:
    from fastserve.server.ctx import RequestCtx

__all__ = ["send_stream"]

END: Any = object()


async def send_stream(ctx: RequestCtx) -> None:
    """Send head and stream of `ctx.response`; waits whenever the client's buffer is full, so that little is held.

    Runs on the worker, in the context, of the handler. Raises what the stream raises, `ClientDisconnected`, and
    `BodyStreamError` when it gives another size than announced; then the connection is aborted, since its head is out.
    """
    connection = ctx._connected()
    response = ctx.response
    stream = response.stream
    chunked = delimiter(ctx.request.method, ctx.request.minor, response) is Delimiter.CHUNKED
    left = response.stream_size
    head = ctx._stream_head  # travels with the first piece: one write
    try:
        async for piece in _pieces(stream, ctx):
            data = piece if type(piece) is bytes else encode_body(piece)
            if not data:
                continue
            if left >= 0:
                left -= len(data)
                if left < 0:
                    raise BodyStreamError(f"the body stream is longer than its announced {response.stream_size} bytes")
            connection.send(head + (chunk(data) if chunked else data))
            head = b""
            await connection.drained()
        if left > 0:
            raise BodyStreamError(f"the body stream ended {left} bytes before its announced {response.stream_size}")
    finally:
        await _close(stream)
    connection.send(head + LAST_CHUNK if chunked else head)


async def _pieces(stream: Any, ctx: RequestCtx) -> AsyncIterator[Any]:
    if isinstance(stream, AsyncIterable):
        async for piece in stream:
            yield piece
        return
    iterator: Iterator[Any] = iter(stream)
    if ctx._connected().service.blocking:
        # A `def` handler's iterable may block as its handler may: each step runs on a thread.
        while (piece := await ctx.run_in_thread(next, iterator, END)) is not END:
            yield piece
    else:
        for piece in iterator:
            yield piece


async def _close(stream: Any) -> None:
    """Generators end now, not when they are collected: they may hold files and locks."""
    if hasattr(stream, "aclose"):
        await stream.aclose()
    elif hasattr(stream, "close"):
        stream.close()
