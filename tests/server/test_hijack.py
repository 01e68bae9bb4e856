"""Leaving the usual way: connections taken over, requests answered before their handler ends, and clients that go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastserve.errors import HijackError, ResponseError
from fastserve.server.ctx import RequestCtx
from fastserve.server.hijack import HijackedConnection
from fastserve.server.server import Server, ShutdownReport
from fastserve.server.wire import ConnState
from fastserve.testing import MemoryServer
from tests.server.clients import GET, PATIENCE, Run, settled, turns

UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


class Floods:
    """A handler of a hijacked connection that writes 200 kB, and says how many pieces of 10 kB it has come to."""

    def __init__(self) -> None:
        self.written = 0

    async def __call__(self, connection: HijackedConnection) -> None:
        for _ in range(20):
            await connection.write(b"x" * 10_000)
            self.written += 1


async def echo(connection: HijackedConnection) -> None:
    while data := await connection.read():
        await connection.write(data.upper())


def upgrade(ctx: RequestCtx, handler: Any = echo) -> None:
    ctx.set_status_code(101)
    ctx.set_header("Upgrade", "echo")
    ctx.set_header("Connection", "Upgrade")
    ctx.hijack(handler)


async def upgrading(ctx: RequestCtx) -> None:
    upgrade(ctx)


def hijacking(handler: Any) -> Callable[[RequestCtx], Any]:
    async def hijacks(ctx: RequestCtx) -> None:
        ctx.hijack(handler)

    return hijacks


# Hijack


@pytest.mark.parametrize("kind", ["async", "threads", "inline"])
def test_101_then_echo_both_ways(run: Run, kind: str) -> None:
    async def main() -> None:
        async with MemoryServer(upgrading if kind == "async" else upgrade, inline=kind == "inline") as server:
            client = server.connect()
            client.feed(UPGRADE)
            response = await client.read_until(b"\r\n\r\n")
            assert response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            for named in (b"Content-Length", b"Transfer-Encoding", b"Connection: close", b"Content-Type"):
                assert named not in response
            assert response.count(b"Connection: Upgrade\r\n") == 1
            for word in (b"one", b"two"):
                client.feed(word)
                assert await client.read_until(word.upper()) == word.upper()
            client.feed_eof()
            await settled(lambda: client.transport.closed)
            assert not server.service.hijacked

    run(main())


def test_leftover_bytes_arrive_first(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(upgrading) as server:
            client = server.connect()
            client.feed(UPGRADE + b"early\r\n" + GET)
            client.feed(b"later")
            await client.read_until(b"\r\n\r\n")
            assert await client.read_until(b"LATER") == b"EARLY\r\n" + GET.upper() + b"LATER"

    run(main())


def test_hijack_behind_pipelined_requests(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(ctx.path)
        if ctx.path == "/2":
            ctx.hijack(echo)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nraw")
            assert (await client.read_response()).body == b"/1"
            assert (await client.read_response()).body == b"/2"
            assert await client.read_until(b"RAW") == b"RAW"

    run(main())


def test_closed_when_the_handler_returns_or_raises(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def returns(connection: HijackedConnection) -> None:
        await connection.write(b"bye")

    async def raises(connection: HijackedConnection) -> None:
        raise ValueError("hijacked and lost")

    async def main() -> None:
        async with MemoryServer(hijacking(returns)) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_response()
            assert await client.read_to_end() == b"bye"
        assert not caplog.records
        async with MemoryServer(hijacking(raises)) as server:
            client = server.connect()
            client.feed(GET)
            await client.closed()

    run(main())
    assert "hijacked and lost" in caplog.text


def test_a_failed_handler_does_not_hijack(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        upgrade(ctx)
        raise ValueError("no")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).status == 500
            client.feed(GET)
            assert (await client.read_response()).status == 500
            assert not server.service.hijacked

    run(main())


def test_reading_is_bounded(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def slow(connection: HijackedConnection) -> None:
            await go.wait()
            total = 0
            while total < 200_000:
                data = await connection.read(1000)
                assert len(data) <= 1000
                total += len(data)
            await connection.write(b"%d" % total)

        async with MemoryServer(hijacking(slow)) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_response()
            sent = 0
            while client.transport.reading:
                client.feed(b"x" * 10_000)
                sent += 10_000
                await turns(3)
                assert sent <= 100_000
            go.set()
            client.feed(b"x" * (200_000 - sent))
            assert await client.read_to_end() == b"200000"

    run(main())


def test_writing_waits_for_the_peer(run: Run) -> None:
    floods = Floods()

    async def main() -> None:
        async with MemoryServer(hijacking(floods)) as server:
            client = server.connect()
            client.transport.take(0)
            client.feed(GET)
            await settled(lambda: floods.written >= 5)
            await turns()
            assert floods.written < 8
            client.transport.take(None)
            await client.read_response()
            assert len(await client.read_to_end()) == 200_000

    run(main())


def test_writing_waits_for_a_response_that_was_not_read_yet(run: Run) -> None:
    """The transport asked for a pause before the connection was handed over: it does not ask again."""
    floods = Floods()

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(b"y" * 100_000)
        ctx.hijack(floods)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.transport.take(0)
            client.feed(GET)
            await settled(lambda: len(client.transport.buffered) > 100_000)
            await turns()
            assert floods.written <= 1
            client.transport.take(None)
            assert len((await client.read_response()).body) == 100_000
            assert len(await client.read_to_end()) == 200_000

    run(main())


def test_a_peer_that_vanishes(run: Run) -> None:
    ends: list[Any] = []

    async def reads(connection: HijackedConnection) -> None:
        ends.append(await connection.read())
        with pytest.raises(HijackError, match="closed"):
            await connection.write(b"x")

    async def writes(connection: HijackedConnection) -> None:
        with pytest.raises(HijackError, match="before the peer had read"):
            await connection.write(b"x" * 200_000)
        ends.append("told")

    async def main() -> None:
        for handler in (reads, writes):
            async with MemoryServer(hijacking(handler)) as server:
                client = server.connect()
                client.feed(GET)
                await client.read_until(b"\r\n\r\n")
                client.transport.take(0)
                await turns()
                client.reset()
                await settled(lambda: not server.service.hijacked)

    run(main())
    assert ends == [b"", "told"]


def test_two_readers_are_refused(run: Run) -> None:
    async def reads(connection: HijackedConnection) -> None:
        first = asyncio.ensure_future(connection.read())
        await asyncio.sleep(0)
        with pytest.raises(HijackError, match="two tasks"):
            await connection.read()
        await connection.write(await first)

    async def main() -> None:
        async with MemoryServer(hijacking(reads)) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_response()
            await turns()
            client.feed(b"word")
            assert await client.read_to_end() == b"word"

    run(main())


def test_no_timeout_of_http_applies(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(upgrading, max_keepalive_duration=60) as server:
            client = server.connect()
            client.feed(UPGRADE)
            await client.read_until(b"\r\n\r\n")
            for _ in range(3):
                server.advance(100)
                await turns(5)
            client.feed(b"still")
            assert await client.read_until(b"STILL") == b"STILL"

    run(main())


def test_a_peer_that_does_not_read_the_end_is_cut_off(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(upgrading, write_timeout=30) as server:
            client = server.connect()
            client.feed(UPGRADE)
            await client.read_until(b"\r\n\r\n")
            client.transport.take(0)
            client.feed(b"x" * 1000)
            client.feed_eof()
            await settled(lambda: not server.service.hijacked)
            assert not client.transport.closed
            server.advance(25)
            await turns()
            assert not client.transport.closed
            server.advance(6)
            await settled(lambda: client.transport.closed)

    run(main())


def test_a_hijacked_worker_is_free(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(upgrading, concurrency=1) as server:
            clients = [server.connect() for _ in range(3)]
            for client in clients:
                client.feed(UPGRADE)
                assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert len(server.service.hijacked) == 3
            assert server.service.pool.busy == 0

    run(main())


def test_shutdown_waits_for_hijacked_connections(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(upgrading) as server:
            client = server.connect()
            client.feed(UPGRADE)
            await client.read_until(b"\r\n\r\n")
            stopping = asyncio.ensure_future(server.shutdown())
            await turns()
            client.feed(b"more")
            assert await client.read_until(b"MORE") == b"MORE"
            client.feed_eof()
            assert (await stopping).clean

    run(main())


def test_shutdown_sees_a_handler_end_behind_its_connection(run: Run) -> None:
    """The peer has long gone when the handler ends: nothing but that end wakes the shutdown."""

    async def main() -> None:
        go = asyncio.Event()

        async def lingers(connection: HijackedConnection) -> None:
            await connection.read()
            await go.wait()

        async with MemoryServer(hijacking(lingers)) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_response()
            client.reset()
            await settled(lambda: client.transport.closed)
            stopping = asyncio.ensure_future(server.shutdown())
            await turns()
            assert not stopping.done()
            go.set()
            assert (await stopping).clean

    run(main())


def test_shutdown_cuts_hijacked_connections(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = Server(upgrading)
        await server.start(port=0)
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            report = await server.shutdown(timeout=0)
            assert report.cut == 1
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(main())


def test_shutdown_does_not_wait_for_a_peer_that_does_not_read(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def floods(connection: HijackedConnection) -> None:
        await connection.write(b"x" * 200_000)

    async def main() -> None:
        async with MemoryServer(hijacking(floods)) as server:
            client = server.connect()
            client.transport.take(0)
            client.feed(GET)
            await settled(lambda: len(client.transport.buffered) > 200_000)
            await turns()
            async with asyncio.timeout(PATIENCE):  # less than the write_timeout, which would end it too
                assert (await server.shutdown(timeout=0)).cut == 1
            assert client.transport.closed

    run(main())


def test_shutdown_in_the_very_turn_of_the_hijack(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    stopping: list[asyncio.Task[ShutdownReport]] = []

    def stop(connection: Any, state: ConnState) -> None:
        if state is ConnState.HIJACKED:
            stopping.append(asyncio.get_running_loop().create_task(server.shutdown(timeout=0)))

    server = MemoryServer(upgrading, conn_state=stop)

    async def main() -> None:
        async with server:
            client = server.connect()
            client.feed(UPGRADE)
            await settled(lambda: bool(stopping))
            report = await stopping[0]  # the task of the hijacked connection was cancelled before its first step
            assert report.cut == 1
            await settled(lambda: client.transport.closed)

    run(main())


# timeout_error


def slow_handler(step: str, done: list[str], go: asyncio.Event, **answer: Any) -> Callable[[RequestCtx], Any]:
    async def handler(ctx: RequestCtx) -> None:
        if ctx.path != "/slow":
            ctx.set_body(ctx.path)
            return
        if step == "later":
            await asyncio.sleep(0)
        ctx.timeout_error(**answer)
        if step != "at once":
            await go.wait()
            assert ctx.disconnected
        ctx.set_status_code(201)
        ctx.set_header("X-Late", "1")
        ctx.set_body("late")
        done.append(ctx.path)

    return handler


SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("step", ["at once", "first", "later"])
def test_timeout_error_answers_while_the_handler_goes_on(run: Run, step: str, warm: bool) -> None:
    async def main() -> None:
        done: list[str] = []
        go = asyncio.Event()
        async with MemoryServer(slow_handler(step, done, go)) as server:
            client = server.connect()
            if warm:  # now a worker stands ready, and the handler's first step runs in place
                client.feed(NEXT)
                await client.read_response()
            client.feed(SLOW + NEXT)
            response = await client.read_response()
            assert (response.status, response.body) == (408, b"the request took too long\n")
            assert "X-Late" not in response.headers
            # The same connection serves on, while the old handler is busy.
            assert (await client.read_response()).body == b"/next"
            client.feed(NEXT)
            assert (await client.read_response()).body == b"/next"
            if step != "at once":
                assert not done
                assert server.service.pool.busy == 1
            go.set()
            await settled(lambda: server.service.pool.busy == 0)
            assert done == ["/slow"]
            client.feed(NEXT)  # and what it still set was for nobody
            response = await client.read_response()
            assert (response.status, response.body) == (200, b"/next")
            assert not client.transport.received

    run(main())


def test_timeout_error_with_a_message_of_its_own(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()
        async with MemoryServer(slow_handler("later", [], go, message="gone\n", status=503)) as server:
            client = server.connect()
            client.feed(SLOW)
            response = await client.read_response()
            assert (response.status, response.body) == (503, b"gone\n")
            go.set()

    run(main())


def test_timeout_error_from_a_thread(run: Run) -> None:
    go = threading.Event()
    done = threading.Event()

    def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/slow":
            ctx.timeout_error()
            assert go.wait(PATIENCE)
            ctx.set_body("late")
            done.set()

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(SLOW + NEXT)
            assert (await client.read_response()).status == 408
            assert (await client.read_response()).status == 200
            go.set()
            await asyncio.to_thread(done.wait, PATIENCE)
            client.feed(NEXT)
            assert (await client.read_response()).status == 200

    run(main())


def test_a_late_failure_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            ctx.timeout_error()
            await go.wait()
            raise ValueError("late and lost")

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(SLOW)
            assert (await client.read_response()).status == 408
            go.set()
            await settled(lambda: server.service.pool.busy == 0)

    run(main())
    assert "late and lost" in caplog.text


def test_a_second_timeout_error_is_too_late(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()
        late: list[Exception] = []

        async def handler(ctx: RequestCtx) -> None:
            await asyncio.sleep(0)
            ctx.timeout_error()
            try:
                ctx.timeout_error()
            except ResponseError as error:
                late.append(error)
            await go.wait()

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(SLOW)
            assert (await client.read_response()).status == 408
            go.set()
            await settled(lambda: server.service.pool.busy == 0)
            assert not client.transport.received
            assert len(late) == 1

    run(main())


def test_timeout_error_inside_a_stream_is_too_late(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        def lines() -> Any:
            yield "a"
            ctx.timeout_error()

        ctx.set_body_stream(lines())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            assert not (await client.read_response()).complete
            await client.closed()

    run(main())
    assert "the response has begun already" in caplog.text


def test_timeout_error_from_a_thread_inside_a_stream_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody could catch it: it used to end in the loop's exception handler, which `run` looks at."""

    def handler(ctx: RequestCtx) -> None:
        def lines() -> Any:
            yield "a"
            ctx.timeout_error()
            yield "b"

        if ctx.path == "/":
            ctx.set_body_stream(lines())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            response = await client.read_response()
            assert (response.status, response.body, response.complete) == (200, b"ab", True)
            client.feed(NEXT)
            assert (await client.read_response()).status == 200

    run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "fastserve"] == [
        "connection 1, request 1: timeout_error: the response has begun already"
    ]


def test_timeout_error_with_a_body_that_is_still_coming(run: Run) -> None:
    async def main() -> None:
        ends: list[Any] = []

        async def handler(ctx: RequestCtx) -> None:
            ctx.timeout_error()
            try:
                await ctx.request_body_stream.read()
            except Exception as error:
                ends.append(error)

        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
            response = await client.read_response()
            assert response.status == 408
            assert response.headers["Connection"] == "close"
            client.feed(b"hello")
            client.feed_eof()
            await client.closed()
            await settled(lambda: server.service.pool.busy == 0)
            assert len(ends) == 1

    run(main())


# Clients that go


@pytest.mark.parametrize("way", ["reset", "feed_eof"])
@pytest.mark.parametrize("cancel", [False, True])
def test_disconnected(run: Run, way: str, cancel: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        go = asyncio.Event()
        begun = asyncio.Event()
        ends: list[str] = []

        async def handler(ctx: RequestCtx) -> None:
            assert not ctx.disconnected
            if begun.is_set():
                return
            begun.set()
            try:
                await go.wait()
                ends.append("ran on")
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
            finally:
                assert ctx.disconnected

        async with MemoryServer(handler, cancel_on_disconnect=cancel) as server:
            client = server.connect()
            client.feed(GET)
            await begun.wait()
            getattr(client, way)()
            if cancel:
                await settled(lambda: bool(ends))
                assert ends == ["cancelled"]
            else:
                await turns()
                assert not ends
                go.set()
                await settled(lambda: bool(ends))
                assert ends == ["ran on"]
            await client.closed()
            await settled(lambda: server.service.pool.busy == 0)
            other = server.connect()  # the worker serves on
            other.feed(GET)
            assert (await other.read_response()).status == 200

    run(main())
    assert not caplog.records


def test_a_client_that_only_closes_its_side_gets_its_answer(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()
        begun = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            begun.set()
            await go.wait()
            ctx.set_body(f"{ctx.disconnected}")

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            client.feed_eof()
            await begun.wait()
            await turns()
            go.set()
            response = await client.read_response()
            assert response.body == b"True"
            assert response.headers["Connection"] == "close"
            await client.closed()

    run(main())


def test_a_thread_sees_that_its_client_went(run: Run) -> None:
    begun, go = threading.Event(), threading.Event()
    seen: list[bool] = []

    def handler(ctx: RequestCtx) -> None:
        seen.append(ctx.disconnected)
        begun.set()
        assert go.wait(PATIENCE)
        seen.append(ctx.disconnected)

    async def main() -> None:
        async with MemoryServer(handler, cancel_on_disconnect=True) as server:
            client = server.connect()
            client.feed(GET)
            await asyncio.to_thread(begun.wait, PATIENCE)
            client.reset()
            await client.closed()
            go.set()
            await settled(lambda: server.service.threads.running == 0)

    run(main())
    assert seen == [False, True]
