"""What the holder of a `ClientConnection` awaits, but for the response to a whole request: that is one future."""

from __future__ import annotations

from fastserve.client.connection import ClientConnection

__all__ = ["next_piece", "response", "write"]


async def write(conn: ClientConnection, data: bytes) -> None:
    """Write a part of a request, and wait until the upstream has taken most of it, or has answered already."""
    conn.write(data)
    while (room := conn.room()) is not None:
        try:
            await room
        finally:
            conn.waited()
            conn.rest()


async def response(conn: ClientConnection) -> None:
    """The request is written: wait for its response, or its head if it is streamed. Raises what ended the connection."""
    conn.sent()
    while (there := conn.there()) is not None:
        try:
            await there
        finally:
            conn.waited()


async def next_piece(conn: ClientConnection) -> bytes:
    """More of a streamed body; empty at its end. Raises what ended it before."""
    while (more := conn.more()) is not None:
        try:
            await more
        finally:
            conn.waited()
            conn.rest()
    return conn.parser.take_body()
