"""Clients that close their sending side and read on: no disconnection for a response under way (RFC 9293 3.6).

A client that has gone altogether looks the same until something is written to it: then the stream stops.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fastserve.server.ctx import RequestCtx
from fastserve.server.server import Server
from fastserve.server.stream import _ThreadPieces
from fastserve.server.threadpool import ThreadWorkerPool
from fastserve.testing import MemoryServer
from tests.server.clients import GET, GET_1_0, PATIENCE, Run, settled, turns

PIECE = b"x" * 10_000
PIECES = 300


async def end_seen(ctx: RequestCtx) -> None:
    """Turns of the loop until the server has seen the end of what the client sends."""
    await settled(lambda: ctx.disconnected)


def dechunked(body: bytes) -> bytes:
    whole = bytearray()
    position = 0
    while True:
        line_end = body.index(b"\r\n", position)
        size = int(body[position:line_end], 16)
        if not size:
            assert body[line_end:] == b"\r\n\r\n"
            return bytes(whole)
        whole += body[line_end + 2 : line_end + 2 + size]
        position = line_end + 2 + size + 2


async def stream_seen_to_the_end(ctx: RequestCtx) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await end_seen(ctx)
        for _ in range(PIECES):
            yield PIECE

    ctx.set_body_stream(pieces(), 5 + PIECES * len(PIECE) if ctx.path == "/sized" else -1)


async def ended_before_the_stream(ctx: RequestCtx) -> None:
    await end_seen(ctx)

    def pieces() -> Iterator[bytes]:
        yield b"first"
        for _ in range(PIECES):
            yield PIECE

    ctx.set_body_stream(pieces())


def on_a_thread(ctx: RequestCtx) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        for _ in range(PIECES):
            yield PIECE

    ctx.set_body_stream(pieces())


@pytest.mark.parametrize("handler", [stream_seen_to_the_end, ended_before_the_stream, on_a_thread])
@pytest.mark.parametrize("data", [GET, GET.replace(b"/", b"/sized", 1), GET_1_0], ids=["chunked", "sized", "1.0"])
def test_a_half_closed_client_gets_its_stream_to_the_end(run: Run, handler: Any, data: bytes) -> None:
    async def main() -> None:
        server = Server(handler)
        await server.start(port=0)
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            writer.write_eof()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            if b"chunked" in head:
                body = dechunked(body)
            assert body == b"first" + PIECE * PIECES
            writer.close()
            await writer.wait_closed()
            await settled(lambda: not (server.service.connections or server.service.pool.busy))

    run(main())


def test_pipelined_streams_before_a_half_close_are_all_answered(run: Run) -> None:
    async def main() -> None:
        server = Server(on_a_thread)
        await server.start(port=0)
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET * 3)
            writer.write_eof()
            answers = (await reader.read()).split(b"HTTP/1.1 200 OK\r\n")
            assert answers[0] == b""
            assert len(answers) == 4
            for answer in answers[1:]:
                assert dechunked(answer.partition(b"\r\n\r\n")[2]) == b"first" + PIECE * PIECES
            writer.close()
            await writer.wait_closed()

    run(main())


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("blocking", [False, True])
def test_a_stream_stops_when_its_client_has_closed(run: Run, blocking: bool, unread: bool) -> None:
    """With nothing unread the client's kernel sends a FIN, as for a half-close; a reset follows the next write."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def plain() -> Iterator[bytes]:
            try:
                while True:
                    yield b"piece"
            finally:
                loop.call_soon_threadsafe(stopped.set)

        async def asynchronous() -> AsyncIterator[bytes]:
            try:
                yield b"piece"
                if not unread:
                    await closed.wait()
                while True:
                    yield b"piece"
            finally:
                stopped.set()

        def blocking_handler(ctx: RequestCtx) -> None:
            ctx.set_body_stream(plain())

        async def handler(ctx: RequestCtx) -> None:
            ctx.set_body_stream(asynchronous())

        closed = asyncio.Event()
        server = Server(blocking_handler if blocking else handler)
        await server.start(port=0)
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET)
            await reader.readuntil(b"piece")
            writer.close()
            closed.set()
            await stopped.wait()
            await settled(lambda: not (server.service.connections or server.service.pool.busy))

    run(main())


class Gated:
    """A stream of two pieces, the second of which comes when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            self.begun.set()
            await self.go.wait()
            self.go.clear()
            yield b"second"
            await self.go.wait()
        finally:
            self.ended.set()


def test_a_stream_that_gives_nothing_to_a_half_closed_client_ends_after_idle_timeout(run: Run) -> None:
    async def main() -> None:
        gated = Gated()

        async def handler(ctx: RequestCtx) -> None:
            ctx.set_body_stream(gated.pieces())

        async with MemoryServer(handler, idle_timeout=60) as server:
            client = server.connect()
            client.feed(GET)
            await gated.begun.wait()
            server.advance(1000)  # no limit for a client whose sending side is open
            client.feed_eof()
            await turns()
            server.advance(60)  # never early: to a tick of half a second
            await turns()
            assert not gated.ended.is_set()
            gated.go.set()
            await client.read_until(b"second\r\n")
            server.advance(60)
            await turns()
            assert not gated.ended.is_set()  # each piece has its own time
            server.advance(1)
            await gated.ended.wait()
            await client.closed()
            assert not client.transport.received  # cut, and not ended: the body was not whole
            assert server.service.pool.busy == 0

    run(main())


def test_the_time_of_a_stream_that_begins_after_the_half_close_is_bounded_too(run: Run) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        ended = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            async def pieces() -> AsyncIterator[bytes]:
                try:
                    begun.set()
                    await asyncio.Event().wait()
                    yield b"never"
                finally:
                    ended.set()

            await end_seen(ctx)
            ctx.set_body_stream(pieces())

        async with MemoryServer(handler, idle_timeout=60) as server:
            client = server.connect()
            client.feed(GET)
            client.feed_eof()
            await begun.wait()
            server.advance(61)
            await ended.wait()
            await client.closed()
            assert not client.transport.received

    run(main())


def test_a_half_closed_client_that_does_not_read_has_write_timeout(run: Run) -> None:
    async def main() -> None:
        stopped = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            async def pieces() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield PIECE
                finally:
                    stopped.set()

            ctx.set_body_stream(pieces())

        async with MemoryServer(handler, idle_timeout=10, write_timeout=60) as server:
            client = server.connect(high_water=1000)
            client.transport.take(0)
            client.feed(GET)
            await turns()
            client.feed_eof()
            await turns()
            server.advance(59)
            await turns()
            assert not stopped.is_set()
            client.transport.take(100_000)  # reads some: the stream goes on, until its buffer is full again
            await turns()
            server.advance(59)
            await turns()
            assert not stopped.is_set()
            server.advance(2)
            await stopped.wait()
            await client.closed()

    run(main())


def test_cancel_on_disconnect_takes_a_half_close_for_a_disconnection(run: Run) -> None:
    async def main() -> None:
        gated = Gated()

        async def handler(ctx: RequestCtx) -> None:
            ctx.set_body_stream(gated.pieces())

        async with MemoryServer(handler, cancel_on_disconnect=True) as server:
            client = server.connect()
            client.feed(GET)
            await gated.begun.wait()
            client.feed_eof()
            await gated.ended.wait()
            await client.closed()

    run(main())


def test_a_stream_on_a_thread_is_closed_though_its_closing_is_cancelled(run: Run) -> None:
    """A reset shows twice: the failed write closes the stream, and the lost connection cancels who waits for that."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadWorkerPool(loop, max_threads=1, concurrency=10, max_wait=30)
        closed = asyncio.Event()
        go = threading.Event()

        def pieces() -> Iterator[bytes]:
            try:
                yield b"piece"
            finally:
                loop.call_soon_threadsafe(closed.set)

        stream = _ThreadPieces(pieces(), pool)
        assert await anext(stream) == b"piece"
        blocked = pool.submit(go.wait, PATIENCE)
        await settled(lambda: pool.running == 1 and pool.waiting == 0)
        closing = asyncio.ensure_future(stream.aclose())
        await settled(lambda: pool.waiting == 1)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        go.set()
        assert await blocked
        await closed.wait()
        assert await pool.close(PATIENCE) == 0

    run(main())
