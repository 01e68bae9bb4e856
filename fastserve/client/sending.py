"""`send_pieces`: a request's body as it comes from the program, onto a connection that may be answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from fastserve.client.connection import ClientConnection
from fastserve.client.encoder import BodyFramer
from fastserve.client.waits import write

__all__ = ["send_pieces"]

YIELD_EVERY = 256 * 1024
"""Bytes of a plain iterable that are sent before other tasks have a turn."""


async def send_pieces(
    conn: ClientConnection, stream: Iterable[bytes | str] | AsyncIterable[bytes | str], framer: BodyFramer
) -> None:
    """Until its end, or until the upstream has answered: then a stream that is waited for is cancelled."""
    loop = asyncio.get_running_loop()
    pieces = aiter(stream) if isinstance(stream, AsyncIterable) else _as_async(stream)
    scope = asyncio.timeout(None)

    def interrupt() -> None:
        conn.interrupt = None
        scope.reschedule(loop.time())

    try:
        async with scope:
            conn.interrupt = interrupt
            async for piece in pieces:
                if conn.answered:
                    break
                await write(conn, framer.frame(piece))
    except TimeoutError:
        if not scope.expired():
            raise  # the stream's own
    finally:
        conn.interrupt = None
        if hasattr(pieces, "aclose"):
            await pieces.aclose()


async def _as_async(pieces: Iterable[bytes | str]) -> AsyncIterator[bytes | str]:
    size = 0
    for piece in pieces:
        yield piece
        size += len(piece)
        if size >= YIELD_EVERY:  # an upstream that takes all at once would keep the loop for itself
            size = 0
            await asyncio.sleep(0)
