"""What only a real socket shows: a refusal that is read while its body is being sent, and clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from fastserve import RequestCtx, Server
from fastserve.server.wire import LINGER_TIMEOUT, ConnState
from fastserve.testing import MemoryServer
from tests.server.clients import Run

GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
MEBIBYTE = 1024 * 1024
HIGH_WATER = 64 * 1024
"""Where transports of asyncio and uvloop ask for a pause."""


async def ok(ctx: RequestCtx) -> None:
    ctx.set_body(b"ok")


class Watched:
    """A server on a free port of 127.0.0.1, and the event that all its connections are closed."""

    def __init__(self, handler: Callable[[RequestCtx], Coroutine[Any, Any, None]], **options: Any) -> None:
        self.server = Server(handler, conn_state=self._on_state, **options)
        self.open = 0
        self.all_closed = asyncio.Event()

    def _on_state(self, connection: object, state: ConnState) -> None:
        if state is ConnState.NEW:
            self.open += 1
        elif state is ConnState.CLOSED:
            self.open -= 1
            if not self.open:
                self.all_closed.set()

    async def __aenter__(self) -> Watched:
        await self.server.start("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.shutdown(timeout=0)


@contextlib.contextmanager
def client_socket(receive_buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        yield client


async def connect(client: socket.socket, watched: Watched) -> None:
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", watched.server.port))


async def send(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


async def receive_all(client: socket.socket) -> bytes:
    received = b""
    while data := await asyncio.get_running_loop().sock_recv(client, 65536):
        received += data
    return received


# 3: a refusal can be read (RFC 9112 9.6)

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
TWO_MEBIBYTES = b"x" * (2 * MEBIBYTE)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (POST + b"Content-Length: %d\r\n\r\n" % len(TWO_MEBIBYTES) + TWO_MEBIBYTES, b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n200000\r\n" + TWO_MEBIBYTES + b"\r\n0\r\n\r\n", b"413"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + TWO_MEBIBYTES, b"413"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + TWO_MEBIBYTES, b"431"),
        (b"GET /" + TWO_MEBIBYTES, b"414"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n" + TWO_MEBIBYTES, b"400"),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.1\x00") + TWO_MEBIBYTES, b"400"),
        (POST + b"Connection: close\r\nContent-Length: 2\r\n\r\nxx" + TWO_MEBIBYTES, b"200"),
    ],
    ids=["length", "chunked", "extension", "header", "target", "coding", "syntax", "behind the last request"],
)
def test_3_who_is_still_sending_can_read_why_not(run: Run, data: bytes, status: bytes) -> None:
    async def main() -> None:
        async with Watched(ok, max_request_body_size=1000) as watched:
            with client_socket() as client:
                await connect(client, watched)
                await send(client, data)  # all of it, before a byte is read
                response = await receive_all(client)
                assert response.startswith(b"HTTP/1.1 " + status + b" ")
                assert b"\r\nConnection: close\r\n" in response
                assert response.count(b"HTTP/1.1 ") == 1
            await watched.all_closed.wait()

    run(main())


def test_3_the_refusal_comes_before_the_body(run: Run) -> None:
    async def main() -> None:
        async with Watched(ok, max_request_body_size=1000) as watched:
            with client_socket() as client:
                await connect(client, watched)
                await send(client, POST + b"Content-Length: 1001\r\n\r\n")
                assert (await receive_all(client)).startswith(b"HTTP/1.1 413 ")
            await watched.all_closed.wait()

    run(main())


def test_3_lingering_ends_when_the_client_does_not_close(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(ok, max_request_body_size=10) as server:
            client = server.connect()
            client.feed(POST + b"Content-Length: 11\r\n\r\n")
            assert (await client.read_response()).status == 413
            for _ in range(int(LINGER_TIMEOUT)):  # sending on wins no time
                client.feed(b"x" * 1000)
                await client.read_to_end()
                assert not client.transport.closed
                server.advance(1)
            server.advance(1)
            await client.closed()

    run(main())


# 4: a client that does not read


@pytest.mark.parametrize("body", [1_000, 300_000])
@pytest.mark.parametrize("at_once", [False, True])
def test_4_responses_that_nobody_reads_are_bounded_and_then_cut(run: Run, body: int, at_once: bool) -> None:
    async def main() -> None:
        most = 0

        async def handler(ctx: RequestCtx) -> None:
            nonlocal most
            most = max(most, ctx._connected()._transport.get_write_buffer_size())
            ctx.set_body(b"x" * body)

        async with Watched(handler, write_timeout=0.3, read_timeout=20.0) as watched:
            with client_socket(4096) as client:
                await connect(client, watched)
                with contextlib.suppress(ConnectionError):
                    while not watched.all_closed.is_set():  # until the server has had enough
                        await asyncio.wait_for(send(client, GOOD * 500 if at_once else GOOD), 5)
                        await asyncio.sleep(0)
                await watched.all_closed.wait()
            # What was there, a batch, and one response.
            assert most <= 2 * HIGH_WATER + body + 1000

    run(main())


def test_4_a_stream_that_nobody_reads_is_not_made(run: Run) -> None:
    async def main() -> None:
        made = 0
        ended = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            nonlocal made
            try:
                while True:
                    made += 1
                    yield b"x" * 10_000
            finally:
                ended.set()

        async def handler(ctx: RequestCtx) -> None:
            ctx.set_body_stream(endless())

        async with Watched(handler, write_timeout=0.3) as watched:
            with client_socket(4096) as client:
                await connect(client, watched)
                await send(client, GOOD)
                await watched.all_closed.wait()
                await ended.wait()
            # The kernel's buffers take a few MB; an unbounded one would take as much as a third of a second can make.
            assert made < 2000

    run(main())


def test_4_a_client_that_reads_slowly_gets_everything(run: Run) -> None:
    body = b"0123456789" * 50_000

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(body)

    async def main() -> None:
        async with Watched(handler) as watched:
            with client_socket(64 * 1024) as client:
                await connect(client, watched)
                await send(client, GOOD * 8 + GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                response = await receive_all(client)
            assert response.count(b"HTTP/1.1 200 OK\r\n") == 9
            assert response.count(body) == 9

    run(main())


# 16: the end of the stream


def test_16_a_client_may_close_its_sending_side_and_read_on(run: Run) -> None:
    release = asyncio.Event()

    async def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/slow":
            await release.wait()
        ctx.set_body(ctx.request.target)

    async def main() -> None:
        async with Watched(handler) as watched:
            with client_socket() as client:
                await connect(client, watched)
                await send(client, GOOD + GOOD.replace(b"/good", b"/slow") + GOOD)
                client.shutdown(socket.SHUT_WR)
                release.set()
                response = await receive_all(client)
            assert response.count(b"HTTP/1.1 200 OK\r\n") == 3
            assert response.endswith(b"/good")
            await watched.all_closed.wait()

    run(main())


@pytest.mark.parametrize("begin", [b"", b"GET /", POST + b"Content-Length: 5\r\n\r\nhell", GOOD + b"GET /"])
def test_16_a_request_that_ends_too_soon_closes_at_once(run: Run, begin: bytes) -> None:
    async def main() -> None:
        async with Watched(ok) as watched:
            with client_socket() as client:
                await connect(client, watched)
                await send(client, begin)
                client.shutdown(socket.SHUT_WR)
                response = await receive_all(client)
                assert response.count(b"HTTP/1.1 ") == begin.count(GOOD)
            await watched.all_closed.wait()

    run(main())


def test_16_a_reset_in_the_middle_of_a_request_is_nobodys_failure(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Watched(ok) as watched:
            with client_socket() as client:
                await connect(client, watched)
                await send(client, GOOD)
                await asyncio.get_running_loop().sock_recv(client, 65536)
                await send(client, POST + b"Content-Length: 5\r\n\r\nhell")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await watched.all_closed.wait()

    run(main())
    assert not caplog.records


def test_a_response_is_not_cut_by_lingering_while_its_client_reads(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(b"x" * MEBIBYTE)

    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.transport.take(1000)
            client.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nnot all")
            while not client.transport.received:
                client.transport.changed.clear()
                await client.transport.changed.wait()
            for _ in range(4):
                client.transport.take(10_000)
                server.advance(LINGER_TIMEOUT + 1)
                await asyncio.sleep(0)
            client.transport.take(None)
            response = await client.read_response()
            assert response.complete
            assert len(response.body) == MEBIBYTE
            for _ in range(3):
                server.advance(31)
                await asyncio.sleep(0)
            await client.closed()

    run(main())
