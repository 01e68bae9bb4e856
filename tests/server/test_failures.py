"""Hooks, handlers that fail, clients that go wrong or away: one answer, one log line, nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fastserve.errors import FormError, RequestError
from fastserve.server.config import RequestConfig
from fastserve.server.ctx import RequestCtx
from fastserve.server.server import Server
from fastserve.server.wire import ConnState
from fastserve.testing import MemoryServer
from tests.server.clients import GET, PATIENCE, Run, fine, settled, turns

Logs = pytest.LogCaptureFixture

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


async def broken(ctx: RequestCtx) -> None:
    raise ValueError("secret cause")


def lines(caplog: Logs) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fastserve"]


# Handlers that fail


@pytest.mark.parametrize("kind", ["async", "late", "threads", "inline"])
@pytest.mark.parametrize("error", [ValueError("secret cause"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_a_handler_that_raises(run: Run, kind: str, error: BaseException, caplog: Logs) -> None:
    def work(ctx: RequestCtx) -> None:
        if ctx.path == "/":
            ctx.set_status_code(201)
            ctx.set_header("X-A", "1")
            ctx.set_body("half")
            raise error

    async def coroutine(ctx: RequestCtx) -> None:
        if kind == "late":
            await asyncio.sleep(0)
        work(ctx)

    async def main() -> None:
        given: Any = coroutine if kind in ("async", "late") else work
        async with MemoryServer(given, inline=kind == "inline") as server:
            client = server.connect()
            client.feed(GET + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            response = await client.read_response()
            assert (response.status, response.body) == (500, b"Internal Server Error\n")
            assert "X-A" not in response.headers
            assert "Connection" not in response.headers  # nothing was sent yet: the connection is sound
            assert (await client.read_response()).status == 200

    run(main())
    assert lines(caplog) == ["handler failed: GET /"]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error


def test_a_handler_that_raises_in_mid_stream(run: Run, caplog: Logs) -> None:
    async def handler(ctx: RequestCtx) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            raise ValueError("secret cause")

        ctx.set_body_stream(pieces())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET + GET)
            response = await client.read_response()
            assert (response.status, response.body, response.complete) == (200, b"half", False)
            await client.closed()
            assert not client.transport.received

    run(main())
    assert lines(caplog) == ["handler failed: GET /"]


@pytest.mark.parametrize("blocking", [False, True])
def test_a_handler_that_never_returns_is_cut_by_the_shutdown(run: Run, blocking: bool, caplog: Logs) -> None:
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()

        def blocks(ctx: RequestCtx) -> None:
            loop.call_soon_threadsafe(begun.set)
            release.wait(PATIENCE)

        async def waits(ctx: RequestCtx) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with MemoryServer(blocks if blocking else waits) as server:
            client = server.connect()
            client.feed(GET)
            await begun.wait()
            report = await server.shutdown(timeout=0)
            assert (report.cut, report.threads_left) == (1, int(blocking))
            assert not report.clean
            assert client.transport.closed
            assert not client.transport.received
            release.set()

    run(main())
    assert lines(caplog) == ["stopped; 1 request was cut off" + ", 1 thread was still in a handler" * blocking]


def test_a_cancelled_handler_is_a_500_without_a_traceback(run: Run, caplog: Logs) -> None:
    async def handler(ctx: RequestCtx) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            for _ in range(3):
                client.feed(GET)
                assert (await client.read_response()).status == 500

    run(main())
    assert not lines(caplog)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (RequestError(404, "no such page"), 404, b"Not Found: no such page\n"),
        (RequestError(403, "a\r\nb\x1b[31m"), 403, b"Forbidden: a\\r\\nb\\x1b[31m\n"),
        (FormError("no boundary"), 400, b"Bad Request: no boundary\n"),
        (RequestError(503, "later"), 503, b"Service Unavailable: later\n"),
        (RequestError(200, "no failure"), 500, b"Internal Server Error: no failure\n"),
        (RequestError(7, "no status"), 500, b"Internal Server Error: no status\n"),
    ],
)
def test_a_handler_may_raise_what_the_client_did_wrong(
    run: Run, error: Exception, status: int, body: bytes, caplog: Logs
) -> None:
    async def handler(ctx: RequestCtx) -> None:
        raise error

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            for _ in range(2):
                client.feed(GET)
                response = await client.read_response()
                assert (response.status, response.body) == (status, body)
                assert ("Retry-After" in response.headers) == (status == 503)

    run(main())
    assert len(lines(caplog)) == (2 if status == 500 else 0)


# error_handler


def test_error_handler_writes_the_answer(run: Run, caplog: Logs) -> None:
    def error_handler(ctx: RequestCtx, error: Exception) -> None:
        status = error.status if isinstance(error, RequestError) else 500
        seen.append(error)
        assert ctx.response.status_code == status
        ctx.set_header("X-Error", type(error).__name__)
        ctx.set_json({"status": status})

    seen: list[Exception] = []

    async def main() -> None:
        async with MemoryServer(broken, error_handler=error_handler) as server:
            client = server.connect()
            client.feed(GET + b"BAD\r\n\r\n")
            response = await client.read_response()
            assert (response.status, response.body) == (500, b'{"status": 500}')
            assert response.headers["X-Error"] == "ValueError"
            response = await client.read_response()
            assert (response.status, response.body) == (400, b'{"status": 400}')
            assert response.headers["X-Error"] == "RequestError"
            assert response.headers["Connection"] == "close"

    run(main())
    assert str(seen[0]) == "secret cause"
    assert lines(caplog) == ["handler failed: GET /"]


@pytest.mark.parametrize("way", ["raises", "sets what can't be sent"])
def test_an_error_handler_that_fails_itself(run: Run, way: str, caplog: Logs) -> None:
    def error_handler(ctx: RequestCtx, error: Exception) -> None:
        ctx.set_header("X-A", "1")
        if way == "raises":
            raise KeyError("hook")
        ctx.set_header("Content-Length", "99")

    async def main() -> None:
        async with MemoryServer(broken, error_handler=error_handler) as server:
            client = server.connect()
            client.feed(GET)
            response = await client.read_response()
            assert (response.status, response.complete) == (500, True)
            assert "X-A" not in response.headers
            client.feed(b"BAD\r\n\r\n")
            response = await client.read_response()
            assert (response.status, response.complete) == (400, True)

    run(main())
    told = "error_handler raised" if way == "raises" else "error_handler set what can't be sent"
    assert lines(caplog).count(told) == 2


def test_error_handler_hears_of_a_handler_that_exits(run: Run, caplog: Logs) -> None:
    seen: list[Exception] = []

    async def handler(ctx: RequestCtx) -> None:
        raise SystemExit(1)

    async def main() -> None:
        async with MemoryServer(handler, error_handler=lambda ctx, error: seen.append(error)) as server:
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).status == 500

    run(main())
    assert str(seen[0]) == "the handler ended with SystemExit"


# header_received, continue_handler, get_only


def test_header_received_sets_limits_for_one_request(run: Run) -> None:
    seen: list[tuple[str, bytes]] = []

    def header_received(ctx: RequestCtx) -> RequestConfig | None:
        seen.append((ctx.path, ctx.request.body))
        if ctx.path == "/upload":
            return RequestConfig(read_timeout=100, max_request_body_size=2000)
        return None

    def put(path: str, size: int) -> bytes:
        return f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size

    async def main() -> None:
        async with MemoryServer(
            fine, header_received=header_received, max_request_body_size=1000, read_timeout=20
        ) as server:
            client = server.connect()
            client.feed(GET + put("/upload", 1500))
            assert (await client.read_response()).status == 200
            assert (await client.read_response()).status == 200
            assert seen == [("/", b""), ("/upload", b"")]
            client.feed(put("/upload", 2000)[:-1])
            await turns()
            server.advance(50)  # longer than the server's own, shorter than this request's
            await turns()
            client.feed(b"x")
            assert (await client.read_response()).status == 200
            client.feed(put("/other", 1001))
            assert (await client.read_response()).status == 413

    run(main())


def test_header_received_may_refuse(run: Run) -> None:
    def header_received(ctx: RequestCtx) -> None:
        if "Authorization" not in ctx.request.headers:
            raise RequestError(401, "who are you?")

    async def main() -> None:
        async with MemoryServer(fine, header_received=header_received) as server:
            for data in (GET, POST):
                client = server.connect()
                client.feed(data)
                response = await client.read_response()
                assert (response.status, response.body) == (401, b"Unauthorized: who are you?\n")
                assert response.headers["Connection"] == "close"
            client = server.connect()
            client.feed(GET.replace(b"Host", b"Authorization: x\r\nHost"))
            assert (await client.read_response()).status == 200

    run(main())


def test_continue_handler(run: Run) -> None:
    expecting = POST.replace(b"Host", b"Expect: 100-continue\r\nHost")

    async def main() -> None:
        async with MemoryServer(fine, continue_handler=lambda ctx: ctx.path == "/yes") as server:
            client = server.connect()
            client.feed(expecting.replace(b"/", b"/yes", 1))
            assert (await client.read_response()).status == 100
            client.feed(b"hello" + expecting)
            assert (await client.read_response()).status == 200
            response = await client.read_response()
            assert response.status == 417
            assert response.headers["Connection"] == "close"
            client.feed(b"hello" + GET)
            client.feed_eof()
            await client.closed()
            assert not client.transport.received

    run(main())


def test_get_only(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(fine, get_only=True) as server:
            client = server.connect()
            client.feed(GET + b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.read_response()).status == 200
            assert (await client.read_response(head=True)).status == 200
            for data in (POST, b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n"):
                client = server.connect()
                client.feed(data)
                response = await client.read_response()
                assert response.status == 405
                assert response.headers["Connection"] == "close"

    run(main())


def _raise(*args: Any) -> Any:
    raise KeyError("hook")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("hook", "data"),
    [
        ("header_received", GET),
        ("header_received", POST + b"hello"),
        ("header_received", POST),
        ("continue_handler", POST.replace(b"Host", b"Expect: 100-continue\r\nHost")),
    ],
)
def test_a_hook_that_raises_is_a_500_and_a_log_line(
    run: Run, hook: str, data: bytes, stream: bool, caplog: Logs
) -> None:
    async def main() -> None:
        options: dict[str, Any] = {hook: _raise}
        async with MemoryServer(fine, stream_request_body=stream, **options) as server:
            client = server.connect()
            client.feed(data)
            response = await client.read_response()
            assert response.status == 500
            assert response.headers["Connection"] == "close"
            assert b"KeyError" not in response.body
            client.feed_eof()
            await client.closed()

    run(main())
    assert f"{hook} raised" in lines(caplog)


def test_a_conn_state_that_raises_is_a_log_line(run: Run, caplog: Logs) -> None:
    async def main() -> None:
        async with MemoryServer(fine, conn_state=_raise) as server:
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).status == 200
            client.feed_eof()
            await client.closed()

    run(main())
    assert lines(caplog) == ["conn_state raised"] * 4  # new, active, idle, closed


# conn_state


class States:
    """A `conn_state` hook that keeps what it was told, by number of the connection."""

    def __init__(self) -> None:
        self.by_number: dict[int, list[str]] = {}

    def __call__(self, connection: Any, state: ConnState) -> None:
        self.by_number.setdefault(connection.number, []).append(state.value)


async def _later(ctx: RequestCtx) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("handler", [fine, _later, broken])
def test_conn_state_over_a_life(run: Run, handler: Any, caplog: Logs) -> None:
    states = States()

    async def main() -> None:
        async with MemoryServer(handler, conn_state=states) as server:
            client = server.connect()
            for _ in range(2):
                client.feed(GET, byte_by_byte=True)
                await client.read_response()
            client.feed(GET + GET)  # pipelined: not idle in between
            await client.read_response()
            await client.read_response()
            client.feed_eof()
            await client.closed()

    run(main())
    assert states.by_number == {1: ["new", *(["active", "idle"] * 3), "closed"]}


def test_conn_state_of_other_ends(run: Run) -> None:
    states = States()

    async def handler(ctx: RequestCtx) -> None:
        async def takes(connection: Any) -> None: ...

        if ctx.path == "/hijack":
            ctx.hijack(takes)

    async def main() -> None:
        async with MemoryServer(handler, conn_state=states) as server:
            for data in (b"", b"BAD\r\n\r\n", GET.replace(b"Host", b"Connection: close\r\nHost")):
                client = server.connect()
                client.feed(data) if data else client.feed_eof()
                client.feed_eof()
                await client.closed()
            client = server.connect()
            client.feed(GET.replace(b"/", b"/hijack", 1))
            await settled(lambda: len(states.by_number.get(4, [])) == 4)

    run(main())
    assert states.by_number == {
        1: ["new", "closed"],
        2: ["new", "active", "closed"],
        3: ["new", "active", "closed"],
        4: ["new", "active", "hijacked", "closed"],
    }


# Clients that go away in the middle of anything


def _streaming_handler(begun: asyncio.Event) -> Callable[[RequestCtx], Any]:
    async def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/wait":
            begun.set()
            await asyncio.Event().wait()
        elif ctx.path == "/large":
            ctx.set_body(b"x" * 200_000)
        elif ctx.path == "/stream":

            async def pieces() -> AsyncIterator[bytes]:
                begun.set()
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0)

            ctx.set_body_stream(pieces())
        elif ctx.path == "/upload":
            begun.set()
            async for _ in ctx.request_body_stream:
                pass
        ctx.set_body("ok") if ctx.response.stream is None and ctx.path == "/" else None

    return handler


MIDDLES: dict[str, tuple[bytes, bool]] = {
    "nothing": (b"", False),
    "blank line": (b"\r\n", False),
    "mid-head": (b"GET / HT", False),
    "mid-body": (POST + b"he", False),
    "mid-chunk": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", False),
    "before 100-continue's body": (POST.replace(b"Host", b"Expect: 100-continue\r\nHost"), False),
    "while the handler runs": (b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", True),
    "while the handler runs, more pipelined": (b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 3, True),
    "mid-response": (b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", False),
    "mid-response, more pipelined": (b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 5, False),
    "mid-stream": (b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", True),
    "mid-upload": (b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhello", True),
    "while lingering": (b"BAD\r\n\r\n", False),
    "between requests": (GET, False),
    "behind a pipelined head": (GET + b"GET / HT", False),
}


@pytest.mark.parametrize("way", ["reset", "feed_eof"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("middle", MIDDLES)
def test_a_client_that_goes_in_the_middle(run: Run, middle: str, streamed: bool, way: str, caplog: Logs) -> None:
    data, waits = MIDDLES[middle]
    if b"/upload" in data and not streamed:
        waits = False

    async def main() -> None:
        begun = asyncio.Event()
        async with MemoryServer(
            _streaming_handler(begun), stream_request_body=streamed, cancel_on_disconnect=True
        ) as server:
            client = server.connect()
            client.transport.take(30_000)  # does not read all of a large response
            if data:
                client.feed(data)
            if waits:
                await begun.wait()
            await turns(5)
            getattr(client, way)()
            await turns(5)
            client.transport.take(None)
            await settled(lambda: not server.service.connections)
            await settled(lambda: server.service.pool.busy == 0)
            other = server.connect()
            other.feed(GET)
            assert (await other.read_response()).body == b"ok"

    run(main())
    # Nobody's failure; but that a body broke off is worth a line where the handler did not cope with it.
    assert lines(caplog) == []


def test_resets_are_logged_when_asked_for(run: Run, caplog: Logs) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with MemoryServer(fine, log_all_errors=True) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_response()
            client.reset()
            await client.closed()

    run(main())
    assert lines(caplog) == ["connection 1 lost: [Errno 104] Connection reset by peer"]


def test_real_resets(run: Run, caplog: Logs) -> None:
    """RST, not FIN, at each of the places, over real sockets."""

    async def main() -> None:
        begun = asyncio.Event()
        server = Server(_streaming_handler(begun), cancel_on_disconnect=True)
        await server.start(port=0)
        async with server:
            loop = asyncio.get_running_loop()
            for middle, (data, waits) in MIDDLES.items():
                begun.clear()
                sock = socket.socket()
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", server.port))
                await loop.sock_sendall(sock, data)
                if waits and "upload" not in middle:
                    await begun.wait()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
                if middle == "while the handler runs, more pipelined":
                    # Its reading is paused, so nobody can tell: the shutdown cuts it.
                    continue
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
            assert (await reader.read()).endswith(b"ok")
            writer.close()
            await server.shutdown(timeout=0)
            assert not server.service.connections

    run(main())
    assert not [line for line in lines(caplog) if not line.startswith("stopped;")]


@pytest.mark.parametrize("sends", [b"", b"GET / HT"])
def test_a_thousand_connections_opened_and_dropped(run: Run, sends: bytes, caplog: Logs) -> None:
    async def main() -> None:
        server = Server(fine)
        await server.start(port=0)
        async with server:
            service = server.service
            closed = asyncio.Event()
            told = service.on_connection_closed
            count = 0

            def count_closed(connection: Any) -> None:
                nonlocal count
                assert told is not None
                told(connection)
                count += 1
                closed.set()

            service.on_connection_closed = count_closed

            def drop() -> None:
                for number in range(1000):
                    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
                        if sends:
                            sock.sendall(sends)
                        if number % 2:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

            await asyncio.to_thread(drop)
            while count < 1000:
                closed.clear()
                await closed.wait()
            assert not service.connections
            assert service.pool.workers == 0
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET.replace(b"Host", b"Connection: close\r\nHost"))
            assert (await reader.read()).endswith(b"fine")
            writer.close()

    run(main())
    assert lines(caplog) == []


# Limits


@pytest.mark.parametrize("stream", [False, True])
def test_a_gigabyte_announced_is_refused_at_once(run: Run, stream: bool) -> None:
    calls: list[Any] = []

    async def main() -> None:
        async with MemoryServer(calls.append, inline=True, stream_request_body=stream) as server:
            client = server.connect()
            client.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n")
            response = await client.read_response()
            assert response.status == 413
            assert response.headers["Connection"] == "close"
            assert client.transport.eof_written
            client.feed(b"x" * 1_000_000)  # thrown away, so that the client can read its answer
            await turns()
            assert not client.transport.closed
            server.advance(6)
            await client.closed()

    run(main())
    assert not calls


def test_max_requests_per_conn(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(fine, max_requests_per_conn=3) as server:
            client = server.connect()
            client.feed(GET * 5)
            found = [(await client.read_response()).headers.get("Connection") for _ in range(3)]
            assert found == [None, None, "close"]
            assert await client.read_to_end() == b""

    run(main())


def test_max_keepalive_duration(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(fine, max_keepalive_duration=100, idle_timeout=1000) as server:
            idle, active = server.connect(), server.connect()
            for client in (idle, active):
                client.feed(GET)
                assert "Connection" not in (await client.read_response()).headers
            server.advance(90)
            await turns()
            active.feed(GET[:10])
            await turns()
            server.advance(11)
            await idle.closed()
            assert not active.transport.closed
            active.feed(GET[10:])
            assert (await active.read_response()).headers["Connection"] == "close"
            await active.closed()

    run(main())


def test_disable_keepalive(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(fine, disable_keepalive=True) as server:
            for data in (GET + GET, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):
                client = server.connect()
                client.feed(data)
                assert (await client.read_response()).headers["Connection"] == "close"
                assert await client.read_to_end() == b""

    run(main())


# What the log says


EVIL = b"GET /\xc3\x1b[31m%0aERROR HTTP/1.1\r\nHost: a\r\n\r\n"


def _evil_target() -> bytes:
    return b"GET /%0d%0aERROR\xc2\x85\xe2\x80\xa8 HTTP/1.1\r\nHost: a\r\n\r\n"


def test_log_lines_escape_what_clients_send(run: Run, caplog: Logs) -> None:
    caplog.set_level(logging.INFO)

    async def refuses(ctx: RequestCtx) -> None:
        if ctx.path == "/x":
            raise RequestError(403, "a\r\nERROR \x1b[31m\u2028")
        raise ValueError

    async def main() -> None:
        async with MemoryServer(refuses, log_all_errors=True) as server:
            for data in (
                _evil_target(),
                EVIL,
                b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: \x1b[31m\r\n\r\n",
                b"G\x1bT / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"SOURCE /\x85 HTTP/1.1\r\nHost: a\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\0\r\n\r\n",
                b"GET /" + b"\x85" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            ):
                client = server.connect()
                client.feed(data)
                await client.read_response()
                client.feed_eof()
                await client.closed()

    run(main())
    assert len(lines(caplog)) >= 7
    for line in lines(caplog):
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 1000


def test_secure_log_lines_keep_out_what_clients_send(run: Run, caplog: Logs) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with MemoryServer(broken, log_all_errors=True, secure_error_log_message=True) as server:
            client = server.connect()
            client.feed(b"GET /secret-token HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: secret token\r\n\r\n")
            assert (await client.read_response()).status == 500
            assert (await client.read_response()).status == 400

    run(main())
    assert lines(caplog) == ["handler failed: GET (target withheld)", "connection 1 refused: 400 (reason withheld)"]


def test_refusals_are_not_logged_unless_asked_for(run: Run, caplog: Logs) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with MemoryServer(fine) as server:
            client = server.connect()
            client.feed(b"BAD\r\n\r\n")
            assert (await client.read_response()).status == 400

    run(main())
    assert lines(caplog) == []
