"""`fastserve.testing`: connections in memory behave as sockets do, and time moves when told to and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fastserve.errors import ConfigError
from fastserve.server.config import ServerConfig
from fastserve.server.ctx import RequestCtx
from fastserve.testing import MemoryServer, MemoryTransport
from tests.server.clients import GET, Run, turns

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


async def echo(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.post_body or "nothing")


# What the docstring promises


def test_the_example_of_the_docstring(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body("hello")

    async def main() -> None:
        async with MemoryServer(handler, max_header_size=1024) as server:
            client = server.connect()
            client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            response = await client.read_response()
            assert response.status == 200
            assert response.body == b"hello"

    run(main())


def test_it_takes_what_a_server_takes(run: Run) -> None:
    with pytest.raises(ConfigError, match="no such option"):
        MemoryServer(echo, max_headersize=1)

    def inline(ctx: RequestCtx) -> None:
        ctx.set_body("inline")

    async def main() -> None:
        async with MemoryServer(inline, ServerConfig(name="mine"), inline=True) as server:
            assert server.server.kind == "inline"
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).headers["server"] == "mine"

    run(main())


# Reading responses


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_responses_one_by_one(run: Run, byte_by_byte: bool) -> None:
    async def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/chunked":
            ctx.set_body_stream([b"a" * 20, b"0\r\n\r\n", b"b"])
        elif ctx.path == "/none":
            ctx.set_status_code(204)
        else:
            ctx.set_body(ctx.path)

    def get(path: str) -> bytes:
        return GET.replace(b"/", path.encode(), 1)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(
                get("/1") + get("/chunked") * 2 + get("/none") + GET.replace(b"GET", b"HEAD") + get("/2"),
                byte_by_byte=byte_by_byte,
            )
            bodies = []
            for head in (False, False, False, False, True, False):
                response = await client.read_response(head=head)
                assert response.complete
                bodies.append(response.body)
            assert bodies == [b"/1", *[b"a" * 20 + b"0\r\n\r\nb"] * 2, b"", b"", b"/2"]
            assert not client.transport.received

    run(main())


def test_an_interim_response_is_one_of_its_own(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(echo) as server:
            client = server.connect()
            client.feed(POST[:-5].replace(b"Host", b"Expect: 100-continue\r\nHost"))
            interim = await client.read_response()
            assert (interim.status, interim.complete, interim.fields) == (100, True, [])
            client.feed(b"hello")
            assert (await client.read_response()).body == b"hello"

    run(main())


def test_a_response_that_breaks_off_is_not_complete(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("broke")

    async def chunked(ctx: RequestCtx) -> None:
        ctx.set_body_stream(pieces())

    async def sized(ctx: RequestCtx) -> None:
        ctx.set_body_stream(pieces(), 100)

    async def main() -> None:
        for handler in (chunked, sized):
            async with MemoryServer(handler) as server:
                client = server.connect()
                client.feed(GET)
                response = await client.read_response()
                assert (response.body, response.complete) == (b"half", False)

    run(main())


def test_a_response_that_ends_with_the_connection_is_complete(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream([b"a", b"b"])

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET / HTTP/1.0\r\n\r\n")
            response = await client.read_response()
            assert (response.body, response.complete) == (b"ab", True)

    run(main())


def test_no_response_at_all(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(echo) as server:
            client = server.connect()
            client.feed_eof()
            assert await client.read_until(b"\r\n\r\n") == b""
            assert await client.read_to_end() == b""
            response = await client.read_response()
            assert (response.status, response.complete) == (0, False)

    run(main())


def test_read_until_and_to_end(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(echo) as server:
            client = server.connect()
            client.feed(GET.replace(b"Host", b"Connection: close\r\nHost"))
            assert await client.read_until(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            assert (await client.read_to_end()).endswith(b"\r\n\r\nnothing")
            await client.closed()

    run(main())


# Sending


def test_what_is_fed_waits_while_the_server_does_not_read(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/wait":
                await go.wait()
            ctx.set_body(ctx.path)

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET.replace(b"/", b"/wait", 1))
            for number in range(3):
                client.feed(GET.replace(b"/", b"/%d" % number, 1), byte_by_byte=True)
            await turns()
            assert not client.transport.reading
            go.set()
            for path in (b"/wait", b"/0", b"/1", b"/2"):
                assert (await client.read_response()).body == path

    run(main())


def test_nothing_is_delivered_behind_a_close(run: Run) -> None:
    calls: list[str] = []

    async def handler(ctx: RequestCtx) -> None:
        calls.append(ctx.path)
        ctx.set_header("Connection", "close")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            client.feed(GET)
            client.feed_eof()
            await client.closed()
            client.feed(GET)
            client.feed_eof()
            client.reset()
            await turns()

    run(main())
    assert calls == ["/"]


def test_a_reset_is_no_end(run: Run) -> None:
    lost: list[Exception | None] = []

    class Protocol(asyncio.Protocol):
        def connection_lost(self, error: Exception | None) -> None:
            lost.append(error)

    async def main() -> None:
        async with MemoryServer(echo) as server:
            client = server.connect()
            client.transport.set_protocol(Protocol())
            assert isinstance(client.transport.get_protocol(), Protocol)
            client.reset()
            await turns()
            server.service.connections.discard(client.connection)

    run(main())
    assert len(lost) == 1
    assert isinstance(lost[0], ConnectionResetError)


# The transport


def test_transport(run: Run) -> None:
    told: list[Any] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            told.append("made")

        def pause_writing(self) -> None:
            told.append("pause")

        def resume_writing(self) -> None:
            told.append("resume")

        def connection_lost(self, error: Exception | None) -> None:
            told.append(error)

    async def main() -> None:
        transport = MemoryTransport({"peername": ("192.0.2.1", 1)}, high_water=100)
        transport.open(Protocol())
        assert transport.get_extra_info("peername") == ("192.0.2.1", 1)
        assert transport.get_extra_info("sslcontext") is None
        transport.take(10)
        transport.writelines([b"a" * 60, b"b" * 40])
        assert (len(transport.received), transport.get_write_buffer_size()) == (10, 90)
        transport.write(b"c" * 20)
        transport.write(b"d")  # told once
        assert told == ["made", "pause"]
        transport.take(50)
        await turns(2)
        assert told == ["made", "pause"]
        transport.take(40)
        await turns(2)
        assert told == ["made", "pause", "resume"]
        transport.close()
        assert transport.is_closing()
        assert not transport.closed  # the client has not read everything
        transport.take(None)
        assert transport.closed
        await turns(2)
        assert told == ["made", "pause", "resume", None]
        assert bytes(transport.received) == b"a" * 60 + b"b" * 40 + b"c" * 20 + b"d"
        transport.write(b"late")
        assert len(transport.received) == 121
        assert transport.writes == 4

    run(main())


def test_abort_throws_away_what_was_not_read(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(echo) as server:
            client = server.connect()
            client.transport.take(10)
            client.feed(GET)
            await turns()
            client.transport.abort()
            await client.closed()
            assert len(client.transport.received) == 10

    run(main())


def test_a_client_goes_on_reading_from_the_tests_own_task(run: Run) -> None:
    """What `take` sets off serves requests: that must not happen inside the task which calls it."""

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(b"x" * 100_000)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.transport.take(0)
            client.feed(GET * 5)
            await turns()
            assert len(client.transport.buffered) < 300_000
            client.transport.take(None)
            for _ in range(5):
                assert len((await client.read_response()).body) == 100_000

    run(main())


# Time


def test_time_stands_still(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(echo, idle_timeout=0.01, read_timeout=0.01) as server:
            client = server.connect()
            before = server.service.now
            await asyncio.sleep(0.1)  # ten times the timeout of a real server
            assert server.service.now == before
            assert not client.transport.closed

    run(main())


@pytest.mark.parametrize(
    ("data", "timeouts", "status"),
    [
        (b"", {"read_timeout": 20}, None),
        (GET, {"idle_timeout": 20}, None),
        (GET[:-1], {"read_timeout": 20}, 408),
        (POST[:-1], {"read_timeout": 20}, 408),
    ],
)
def test_advance_keeps_deadlines_to_a_tick(run: Run, data: bytes, timeouts: Any, status: int | None) -> None:
    async def main() -> None:
        async with MemoryServer(echo, **timeouts) as server:
            client = server.connect()
            if data:
                client.feed(data)
            await turns(5)
            client.transport.received.clear()
            server.advance(20)
            await turns(5)
            assert not client.transport.eof_written  # never early
            assert not client.transport.closed
            server.advance(0.5)
            if status is None:
                await client.closed()
            else:
                assert (await client.read_response()).status == status
                assert client.transport.eof_written

    run(main())


def test_leaving_the_block_ends_everything(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            begun.set()
            await asyncio.Event().wait()

        server = MemoryServer(handler)
        async with server:
            client = server.connect()
            client.feed(GET)
            await begun.wait()
        assert server.report.cut == 1
        assert client.transport.closed
        assert not server.service.connections
        assert [t.get_name() for t in asyncio.all_tasks() if "worker" in t.get_name()] == []

    run(main())


def test_what_waits_for_the_server_to_read_costs_no_turns_of_the_loop(run: Run) -> None:
    """It was one turn after the other for as long as the handler waited, and threads starved."""

    async def main() -> None:
        gate = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            await gate.wait()
            ctx.set_body(ctx.path)

        async with MemoryServer(handler) as server:
            client = server.connect()
            for n in range(3):
                client.feed(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not client.transport.reading
            calls = 0
            deliver = client._deliver

            def counted() -> None:
                nonlocal calls
                calls += 1
                deliver()

            client._deliver = counted  # type: ignore[method-assign]
            for _ in range(20):
                await asyncio.sleep(0)
            assert calls == 0
            gate.set()
            assert [(await client.read_response()).body for _ in range(3)] == [b"/0", b"/1", b"/2"]

    run(main())
