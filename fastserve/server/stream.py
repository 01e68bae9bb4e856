"""`send_stream`: a response body that is made while it is sent.

Invariants:
1. The next piece is asked for only when the client's buffer has room.
2. A stream is closed when it has ended, failed, or lost its reader: never while one of its steps runs.
3. Other connections have their turn, also when the client reads as fast as the stream writes.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from fastserve.errors import BodyStreamError
from fastserve.http1.render import LAST_CHUNK, Delimiter, chunk, delimiter
from fastserve.http1.response import encode_body

if TYPE_CHECKING:
    from fastserve.server.ctx import RequestCtx
    from fastserve.server.threadpool import ThreadWorkerPool

__all__ = ["discard_stream", "send_stream"]

logger = logging.getLogger("fastserve")

END: Any = object()

TURN = 256 * 1024
"""Bytes sent before other connections have their turn."""
PIECE_COST = 4096
"""What a piece counts for beside its bytes: making and writing it costs about as much as copying these."""


async def send_stream(ctx: RequestCtx) -> None:
    """Send head and stream of `ctx._response`; waits whenever the client's buffer is full, so that little is held.

    Runs on the worker, in the context, of the handler. Raises what the stream raises, `ClientDisconnected`, and
    `BodyStreamError` when it gives another size than announced; then the connection is aborted, since its head is out.
    """
    connection = ctx._connected()
    response = ctx._response
    stream: Any = response.stream
    how = delimiter(ctx._request.method, ctx._request.minor, response)
    chunked = how is Delimiter.CHUNKED
    left = response.stream_size
    head = ctx._stream_head  # travels with the first piece: one write
    turn = TURN
    async with AsyncExitStack() as ending:
        if how is Delimiter.NONE:
            ending.push_async_callback(_close, stream)
        else:
            async for piece in _pieces(stream, ctx, ending):
                data = piece if type(piece) is bytes else encode_body(piece)
                turn -= len(data) + PIECE_COST
                if data:
                    if left >= 0:
                        left -= len(data)
                        if left < 0:
                            raise BodyStreamError(
                                f"the body stream is longer than its announced {response.stream_size} bytes"
                            )
                    connection.send(head + (chunk(data) if chunked else data))
                    head = b""
                    while (room := connection.drained()) is not None:
                        await room
                if turn <= 0:
                    turn = TURN
                    await asyncio.sleep(0)
            if left > 0:
                raise BodyStreamError(f"the body stream ended {left} bytes before its announced {response.stream_size}")
    connection.send(head + LAST_CHUNK if chunked else head)


def discard_stream(stream: Any) -> None:
    """Close a stream that is not sent after all, such as a file. An async generator that has not begun has nothing."""
    close = getattr(stream, "close", None)
    if close is not None and not hasattr(stream, "aclose") and not inspect.iscoroutinefunction(close):
        try:
            close()
        except Exception:
            logger.exception("a body stream that was not sent could not be closed")


def _pieces(stream: Any, ctx: RequestCtx, ending: AsyncExitStack) -> AsyncIterator[Any]:
    """An iterator over `stream`; `ending` closes both."""
    service = ctx._connected().service
    is_async = isinstance(stream, AsyncIterable)
    if service.blocking and not is_async:
        on_thread = _ThreadPieces(stream, service.threads)
        ending.push_async_callback(on_thread.aclose)
        return on_thread
    ending.push_async_callback(_close, stream)
    iterator: Any = aiter(stream) if is_async else iter(stream)
    if iterator is not stream:
        ending.push_async_callback(_close, iterator)
    return iterator if is_async else _InlinePieces(iterator)


async def _close(stream: Any) -> None:
    """Generators end now, not when they are collected: they may hold files and locks."""
    if hasattr(stream, "aclose"):
        await stream.aclose()
    elif hasattr(stream, "close"):
        closing = stream.close()
        if hasattr(closing, "__await__"):
            await closing


class _InlinePieces:
    """A plain iterator, stepped on the loop."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _InlinePieces:
        return self

    async def __anext__(self) -> Any:
        piece = next(self._iterator, END)
        if piece is END:
            raise StopAsyncIteration
        return piece


class _ThreadPieces:
    """A plain iterable of a `def` handler, which may block as its handler may: each step runs on a thread.

    A step can't be interrupted, and a generator can't be closed inside one: then the step closes it when it has ended.
    """

    def __init__(self, stream: Iterable[Any], threads: ThreadWorkerPool) -> None:
        self._iterator: Iterator[Any] = iter(stream)
        both: Any = (stream,) if self._iterator is stream else (self._iterator, stream)
        self._closers = [part.close for part in both if hasattr(part, "close")]
        self._threads = threads
        self._lock = threading.Lock()  # guards the two flags
        self._stepping = False
        self._closed = False

    def __aiter__(self) -> _ThreadPieces:
        return self

    async def __anext__(self) -> Any:
        piece = await self._threads.run(self._step)
        if piece is END:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._stepping:
                return
        if self._closers:
            # Not `run`, which takes back what has not begun when its caller is cancelled. A client's reset shows twice: a
            # write fails, so that the stream is closed, and the connection is lost, which cancels the worker that waits here.
            await self._threads.submit(self._close_iterator)

    def _step(self) -> Any:
        with self._lock:
            if self._closed:
                return END
            self._stepping = True
        try:
            return next(self._iterator, END)
        finally:
            with self._lock:
                self._stepping = False
                abandoned = self._closed
            if abandoned:
                self._close_iterator()

    def _close_iterator(self) -> None:
        for close in self._closers:
            close()
