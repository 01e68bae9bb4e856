"""Bodies that are streamed, in and out: framing, back-pressure, and what happens when either side gives up."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fastserve.errors import BodyStreamError, RequestError
from fastserve.server.config import RequestConfig
from fastserve.server.ctx import RequestCtx
from fastserve.server.server import Server
from fastserve.testing import MemoryClient, MemoryServer
from tests.server.clients import GET, GET_1_0, PATIENCE, Run, settled, turns

HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


class Recorded:
    """An iterable, plain and async, of `pieces`, that says how far it was pulled and whether it was closed.

    `hold` stops before the piece of that number until `go` is set; `fails` raises there.
    """

    def __init__(self, pieces: list[Any], *, hold: int | None = None, fails: int | None = None) -> None:
        self.pieces = pieces
        self.pulled = 0
        self.begun = asyncio.Event()
        self.closed = asyncio.Event()
        self.go = asyncio.Event()
        self._hold = hold
        self._fails = fails

    def plain(self) -> Iterator[Any]:
        try:
            self.begun.set()
            for number, piece in enumerate(self.pieces):
                if number == self._fails:
                    raise ValueError("the stream broke")
                self.pulled += 1
                yield piece
        finally:
            self.closed.set()

    async def asynchronous(self) -> AsyncIterator[Any]:
        try:
            self.begun.set()
            for number, piece in enumerate(self.pieces):
                if number == self._hold:
                    await self.go.wait()
                if number == self._fails:
                    raise ValueError("the stream broke")
                self.pulled += 1
                yield piece
        finally:
            self.closed.set()

    def __call__(self, kind: str) -> Any:
        return self.plain() if kind == "plain" else self.asynchronous()


def streaming(stream: Any, size: int = -1) -> Callable[[RequestCtx], Any]:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream(stream() if callable(stream) else stream, size)

    return handler


# Responses: framing


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_chunked_on_1_1(run: Run, kind: str) -> None:
    recorded = Recorded([b"abc", "d\u00e9", b"", bytearray(b"x"), memoryview(b"y" * 16)])

    async def main() -> None:
        async with MemoryServer(streaming(lambda: recorded(kind))) as server:
            client = server.connect()
            client.feed(GET + GET)
            head = await client.read_until(b"\r\n\r\n")
            assert b"Transfer-Encoding: chunked\r\n" in head
            assert b"Content-Length" not in head
            assert b"Connection: close" not in head
            body = await client.read_until(b"0\r\n\r\n")
            assert body == b"3\r\nabc\r\n3\r\nd\xc3\xa9\r\n1\r\nx\r\n10\r\n" + b"y" * 16 + b"\r\n0\r\n\r\n"
            assert recorded.closed.is_set()
            assert (await client.read_response()).body == b"abcd\xc3\xa9x" + b"y" * 16

    run(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_close_delimited_on_1_0(run: Run, kind: str) -> None:
    async def main() -> None:
        async with MemoryServer(streaming(lambda: Recorded([b"abc", b"def"])(kind))) as server:
            for data in (GET_1_0, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"):
                client = server.connect()
                client.feed(data)
                head = await client.read_until(b"\r\n\r\n")
                assert b"Transfer-Encoding" not in head
                assert b"Content-Length" not in head
                assert b"Connection: close\r\n" in head
                assert await client.read_to_end() == b"abcdef"

    run(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_with_a_size_it_has_a_content_length(run: Run, kind: str) -> None:
    async def main() -> None:
        async with MemoryServer(streaming(lambda: Recorded([b"abc", b"def"])(kind), 6)) as server:
            client = server.connect()
            for data in (GET, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", GET):
                client.feed(data)
                response = await client.read_response()
                assert response.headers["Content-Length"] == "6"
                assert "Transfer-Encoding" not in response.headers
                assert response.body == b"abcdef"

    run(main())


@pytest.mark.parametrize("pieces", [[], [b""], [b"", ""]])
@pytest.mark.parametrize("size", [-1, 0])
def test_an_empty_stream(run: Run, pieces: list[Any], size: int) -> None:
    async def main() -> None:
        async with MemoryServer(streaming(lambda: iter(pieces), size)) as server:
            client = server.connect()
            client.feed(GET + GET)
            for _ in range(2):
                response = await client.read_response()
                assert (response.status, response.body, response.complete) == (200, b"", True)

    run(main())


@pytest.mark.parametrize(("size", "sent"), [(2, b""), (5, b"abc"), (7, b"abcdef"), (0, b"")])
def test_another_size_aborts(run: Run, size: int, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    recorded = Recorded([b"abc", b"def"])

    async def main() -> None:
        async with MemoryServer(streaming(lambda: recorded.plain(), size)) as server:
            client = server.connect()
            client.feed(GET + GET)
            await client.closed()
            # Never more than announced, and nothing behind it: a client must see that it is not whole.
            received = bytes(client.transport.received)
            assert received.partition(b"\r\n\r\n")[2] == sent
            assert recorded.closed.is_set()

    run(main())
    assert "BodyStreamError" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("size", [-1, 100])
def test_a_stream_that_raises_aborts(run: Run, kind: str, size: int, caplog: pytest.LogCaptureFixture) -> None:
    recorded = Recorded([b"abc"] * 3, fails=2)

    async def main() -> None:
        async with MemoryServer(streaming(lambda: recorded(kind), size)) as server:
            client = server.connect()
            client.feed(GET + GET)
            response = await client.read_response()
            assert response.body == b"abcabc"
            assert not response.complete
            await client.closed()
            assert recorded.closed.is_set()
            assert server.service.pool.busy == 0

    run(main())
    assert "the stream broke" in caplog.text
    assert len(caplog.records) == 1


def test_a_piece_that_is_no_bytes_aborts(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with MemoryServer(streaming(lambda: iter([b"a", 5]))) as server:
            client = server.connect()
            client.feed(GET)
            assert not (await client.read_response()).complete
            await client.closed()

    run(main())
    assert "a body is bytes or str, not int" in caplog.text


@pytest.mark.parametrize("kind", ["async", "threads", "inline"])
@pytest.mark.parametrize(("size", "named"), [(-1, b"Transfer-Encoding: chunked\r\n"), (6, b"Content-Length: 6\r\n")])
def test_head_on_a_stream(run: Run, kind: str, size: int, named: bytes) -> None:
    class File(list[bytes]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    file = File([b"abc", b"def"])

    def work(ctx: RequestCtx) -> None:
        ctx.set_body_stream(file, size)

    async def coroutine(ctx: RequestCtx) -> None:
        work(ctx)

    async def main() -> None:
        async with MemoryServer(coroutine if kind == "async" else work, inline=kind == "inline") as server:
            client = server.connect()
            client.feed(HEAD + GET)
            head = await client.read_until(b"\r\n\r\n")
            assert named in head
            assert b"Connection: close" not in head
            assert file.closed == 1
            assert (await client.read_response()).body == b"abcdef"
            await settled(lambda: file.closed == 2)

    run(main())


def test_no_body_no_stream(run: Run) -> None:
    recorded = Recorded([b"abc"])

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_status_code(204)
        ctx.set_body_stream(recorded.plain())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET + GET)
            for _ in range(2):
                head = await client.read_until(b"\r\n\r\n")
                assert b" 204 " in head
                assert b"Transfer-Encoding" not in head
            assert recorded.pulled == 0

    run(main())


class Lines:
    """An iterable that is no iterator: what `iter` makes of it is to be closed as well."""

    def __init__(self) -> None:
        self.iterators_closed = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from [b"a"] * 3
            raise ValueError("broke")
        finally:
            self.iterators_closed += 1

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("inline", [True, False])
def test_iterable_and_iterator_are_closed(run: Run, inline: bool, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines()

    def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream(lines)

    async def main() -> None:
        async with MemoryServer(handler, inline=inline) as server:
            client = server.connect()
            client.feed(GET)
            await client.closed()

    run(main())
    assert (lines.iterators_closed, lines.closed) == (1, 1)


def test_a_stream_that_is_not_sent_after_all_is_closed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines()

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream(lines)
        raise ValueError("too late")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).status == 500

    run(main())
    assert lines.closed == 1


# Responses: back-pressure, and clients that go


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_slow_reader_holds_a_bounded_buffer(run: Run, kind: str) -> None:
    piece = b"x" * 10_000
    high_water = 64 * 1024
    recorded = Recorded([piece] * 100)

    async def main() -> None:
        async with MemoryServer(streaming(lambda: recorded(kind))) as server:
            client = server.connect(high_water=high_water)
            transport = client.transport
            transport.take(0)
            client.feed(GET)
            await settled(lambda: len(transport.buffered) > high_water)
            await turns()
            pulled = recorded.pulled
            assert pulled == 7  # the seventh piece fills the buffer
            assert len(transport.buffered) < high_water + 2 * len(piece)
            transport.take(30_000)  # not enough to go on for
            await turns()
            assert recorded.pulled == pulled
            transport.take(30_000)
            await settled(lambda: recorded.pulled > pulled)
            await turns()
            assert len(transport.buffered) < high_water + 2 * len(piece)
            assert recorded.pulled < 100
            transport.take(None)
            response = await client.read_response()
            assert response.body == piece * 100

    run(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_the_generator_is_closed_when_the_client_vanishes(
    run: Run, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = Recorded([b"x" * 10_000] * 100)

    async def main() -> None:
        async with MemoryServer(streaming(lambda: recorded(kind))) as server:
            client = server.connect()
            client.transport.take(0)
            client.feed(GET)
            await settled(lambda: len(client.transport.buffered) > 64 * 1024)
            client.reset()
            await recorded.closed.wait()
            await client.closed()
            await settled(lambda: server.service.pool.busy == 0)
            assert recorded.pulled < 10

    run(main())
    assert not caplog.records  # a client that leaves is nobody's failure


def test_a_generator_that_waits_is_closed_when_the_client_vanishes(run: Run) -> None:
    recorded = Recorded([b"a", b"b"], hold=1)

    async def main() -> None:
        async with MemoryServer(streaming(recorded.asynchronous)) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_until(b"1\r\na\r\n")
            client.reset()
            await recorded.closed.wait()
            await settled(lambda: server.service.pool.busy == 0)
            assert not server.service.connections

    run(main())


def test_a_client_that_stops_reading_is_cut_off(run: Run) -> None:
    recorded = Recorded([b"x" * 10_000] * 100)

    async def main() -> None:
        async with MemoryServer(streaming(recorded.asynchronous), write_timeout=30) as server:
            client = server.connect()
            transport = client.transport
            transport.take(0)
            client.feed(GET)
            await settled(lambda: len(transport.buffered) > 64 * 1024)
            server.advance(25)
            await turns()
            transport.take(100)  # progress: another write_timeout
            server.advance(25)
            await turns()
            server.advance(25)
            await turns()
            assert not transport.closed
            server.advance(31)
            await recorded.closed.wait()
            await client.closed()

    run(main())


def test_others_have_their_turn_while_a_fast_client_reads(run: Run) -> None:
    pulled = 0
    others = 0

    def long() -> Iterator[bytes]:
        nonlocal pulled
        for _ in range(20_000):
            pulled += 1
            yield b"x" * 1000

    async def handler(ctx: RequestCtx) -> None:
        nonlocal others
        if ctx.path == "/other":
            others += 1
        else:
            ctx.set_body_stream(long())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_until(b"\r\n\r\n")
            assert pulled < 1000
            other = server.connect()
            for _ in range(3):
                before = pulled
                other.feed(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await other.read_response()).status == 200
                assert pulled - before < 1000
            client.reset()
            await client.closed()

    run(main())
    assert others == 3


def test_server_sent_events(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        async def events() -> AsyncIterator[str]:
            while True:
                yield f"data: {await queue.get()}\n\n"

        ctx.set_content_type("text/event-stream")
        ctx.set_header("Cache-Control", "no-store")
        ctx.set_body_stream(events())

    queue: asyncio.Queue[int]

    async def main() -> None:
        nonlocal queue
        queue = asyncio.Queue()
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            for number in range(3):  # each event travels when it happens, not when the buffer is full
                await queue.put(number)
                assert (await client.read_until(b"\n\n\r\n")).endswith(b"\r\ndata: %d\n\n\r\n" % number)
                server.advance(600)  # and silence between events is no timeout
                await turns(3)
            client.reset()
            await client.closed()
            await settled(lambda: server.service.pool.busy == 0)

    run(main())


def test_the_first_event_does_not_wait_for_the_second(run: Run) -> None:
    recorded = Recorded([b"first", b"second"], hold=1)

    async def main() -> None:
        async with MemoryServer(streaming(recorded.asynchronous)) as server:
            client = server.connect()
            client.feed(GET)
            assert b"\r\n\r\n5\r\nfirst\r\n" in await client.read_until(b"first\r\n")
            assert client.transport.writes == 1  # with the head, in one write
            recorded.go.set()
            await client.read_until(b"0\r\n\r\n")

    run(main())


def test_streams_from_def_handlers_run_on_threads(run: Run) -> None:
    threads: set[str] = set()
    closed: list[str] = []

    def handler(ctx: RequestCtx) -> None:
        def lines() -> Iterator[bytes]:
            try:
                for number in range(3):
                    threads.add(threading.current_thread().name)
                    yield b"%d" % number
            finally:
                closed.append(threading.current_thread().name)

        ctx.set_body_stream(lines())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET + GET)
            for _ in range(2):
                assert (await client.read_response()).body == b"012"

    run(main())
    assert threads
    assert all(name.startswith("fastserve-thread-") for name in threads)
    assert len(closed) == 2


def test_a_blocking_stream_does_not_delay_others(run: Run) -> None:
    go = threading.Event()

    def handler(ctx: RequestCtx) -> None:
        def lines() -> Iterator[bytes]:
            yield b"a"
            assert go.wait(PATIENCE)
            yield b"b"

        if ctx.path == "/":
            ctx.set_body_stream(lines())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client, other = server.connect(), server.connect()
            client.feed(GET)
            await client.read_until(b"1\r\na\r\n")
            other.feed(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await other.read_response()).status == 200
            go.set()
            assert await client.read_until(b"0\r\n\r\n") == b"1\r\nb\r\n0\r\n\r\n"

    run(main())


def test_a_blocking_stream_is_closed_when_its_step_has_ended(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    inside = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def handler(ctx: RequestCtx) -> None:
            def lines() -> Iterator[bytes]:
                try:
                    yield b"a"
                    inside.set()
                    assert go.wait(PATIENCE)
                    yield b"b"
                finally:
                    loop.call_soon_threadsafe(closed.set)

            ctx.set_body_stream(lines())

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_until(b"1\r\na\r\n")
            await asyncio.to_thread(inside.wait, PATIENCE)
            client.reset()  # while the generator runs: it can't be closed now
            await client.closed()
            await settled(lambda: server.service.pool.busy == 0)
            assert not closed.is_set()
            go.set()
            await closed.wait()

    run(main())
    assert not caplog.records


def test_streams_from_inline_handlers(run: Run) -> None:
    def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream(f"{n}" for n in range(3))

    async def main() -> None:
        async with MemoryServer(handler, inline=True) as server:
            client = server.connect()
            client.feed(GET + GET)
            for _ in range(2):
                assert (await client.read_response()).body == b"012"

    run(main())


def test_a_stream_sees_the_handlers_context(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_user_value("who", "ann")

        async def lines() -> AsyncIterator[str]:
            yield f"{ctx.user_value('who')} {ctx.path} {ctx.remote_ip}"

        ctx.set_body_stream(lines())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.read_response()).body == b"ann /x 127.0.0.1"

    run(main())


# Requests


def put(body: bytes, *headers: str) -> bytes:
    lines = ["PUT / HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


CHUNKED = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def collect(ctx: RequestCtx) -> None:
    ctx.set_body(b"".join([chunk async for chunk in ctx.request_body_stream]))


def collect_blocking(ctx: RequestCtx) -> None:
    ctx.set_body(b"".join(ctx.request_body_stream))


def test_whole_by_default(run: Run) -> None:
    lengths: list[int] = []

    async def handler(ctx: RequestCtx) -> None:
        lengths.append(len(ctx.post_body))

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(put(b"x" * 100_000)[:-1])
            await turns()
            assert not lengths  # not before the last byte
            client.feed(b"x")
            await client.read_response()

    run(main())
    assert lengths == [100_000]


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize("handler", [collect, collect_blocking])
def test_streamed(run: Run, handler: Any, byte_by_byte: bool) -> None:
    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            chunked = CHUNKED + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-T: 1\r\n\r\n"
            client.feed(put(b"hello") + chunked + GET + put(b"") + put(b"last"), byte_by_byte=byte_by_byte)
            for body in (b"hello", b"abcdefg", b"", b"", b"last"):
                response = await client.read_response()
                assert (response.status, response.body) == (200, body)
                assert "Connection" not in response.headers

    run(main())


def test_streamed_while_it_arrives(run: Run) -> None:
    got: asyncio.Queue[bytes]

    async def handler(ctx: RequestCtx) -> None:
        assert not ctx.request_body_stream.complete
        async for chunk in ctx.request_body_stream:
            await got.put(chunk)
        assert ctx.request_body_stream.complete
        assert ctx.trailers["X-T"] == "1"
        with pytest.raises(BodyStreamError, match="streamed"):
            ctx.post_body  # noqa: B018

    async def main() -> None:
        nonlocal got
        got = asyncio.Queue()
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(CHUNKED)
            for piece in (b"one", b"two"):
                client.feed(b"3\r\n" + piece + b"\r\n")
                assert await got.get() == piece
            client.feed(b"0\r\nX-T: 1\r\n\r\n")
            assert (await client.read_response()).status == 200

    run(main())


def test_a_busy_handler_stops_the_socket(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()
        begun = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            stream = ctx.request_body_stream
            first = await stream.read()
            begun.set()
            await go.wait()
            total = len(first)
            async for chunk in stream:
                total += len(chunk)
            ctx.set_json(total)

        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            data = put(b"x" * 1_000_000)
            client.feed(data[:1000])
            await begun.wait()
            pieces = [data[at : at + 10_000] for at in range(1000, len(data), 10_000)]
            sent = 0
            while client.transport.reading:
                client.feed(pieces.pop(0))
                sent += 1
                await turns(3)
                assert sent < 20  # it stops somewhere beyond 64 KiB
            assert sent * 10_000 >= 64 * 1024
            go.set()
            client.feed(b"".join(pieces))
            assert (await client.read_response()).body == b"1000000"

    run(main())


@pytest.mark.parametrize("blocking", [False, True])
def test_a_large_body_in_one_segment(run: Run, blocking: bool) -> None:
    async def main() -> None:
        handler: Any = collect_blocking if blocking else collect
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(put(b"x" * 1_000_000) + put(b"next"))
            assert (await client.read_response()).body == b"x" * 1_000_000
            assert (await client.read_response()).body == b"next"

    run(main())


@pytest.mark.parametrize("blocking", [False, True])
def test_a_handler_that_does_not_read(run: Run, blocking: bool) -> None:
    def work(ctx: RequestCtx) -> None:
        ctx.set_body("not read")

    async def coroutine(ctx: RequestCtx) -> None:
        work(ctx)

    async def main() -> None:
        async with MemoryServer(work if blocking else coroutine, stream_request_body=True) as server:
            client = server.connect()
            client.feed(put(b"x" * 1000)[:-1])
            response = await client.read_response()
            assert response.body == b"not read"
            assert response.headers["Connection"] == "close"
            client.feed(b"x" + GET)  # the rest is not taken for a request
            client.feed_eof()
            await client.closed()
            assert not client.transport.received
            # When the body was there anyway, nothing needs to close.
            client = server.connect()
            client.feed(put(b"x" * 1000) + put(b"y"))
            for _ in range(2):
                response = await client.read_response()
                assert response.body == b"not read"
                assert "Connection" not in response.headers

    run(main())


@pytest.mark.parametrize("blocking", [False, True])
def test_100_continue_when_first_read(run: Run, blocking: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun = asyncio.Event()
        go: Any = threading.Event() if blocking else asyncio.Event()

        def blocking_handler(ctx: RequestCtx) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go.wait(PATIENCE)
            collect_blocking(ctx)

        async def handler(ctx: RequestCtx) -> None:
            begun.set()
            await go.wait()
            await collect(ctx)

        async with MemoryServer(blocking_handler if blocking else handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(put(b"hello", "Expect: 100-continue")[:-5])
            await begun.wait()
            await turns()
            assert not client.transport.received
            go.set()
            assert (await client.read_response()).status == 100
            client.feed(b"hello")
            assert (await client.read_response()).body == b"hello"

    run(main())


def test_no_100_for_a_handler_that_refuses(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.error("no\n", 403)

    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(put(b"hello", "Expect: 100-continue")[:-5])
            response = await client.read_response()
            assert response.status == 403
            assert response.headers["Connection"] == "close"
            client.feed_eof()
            await client.closed()

    run(main())


Failing = Callable[[MemoryServer, MemoryClient], Any]


async def too_large(server: MemoryServer, client: MemoryClient) -> None:
    client.feed(CHUNKED + b"5\r\nhello\r\n")
    client.feed(b"7d0\r\n" + b"x" * 2000 + b"\r\n")


async def malformed(server: MemoryServer, client: MemoryClient) -> None:
    client.feed(CHUNKED + b"5\r\nhello\r\n")
    client.feed(b"zz\r\n")


async def hungry(client: MemoryClient) -> None:
    """The handler has taken the first piece of its body and waits for the next: that is when it has a deadline."""
    client.feed(put(b"hello" + b"x" * 100)[:-100])
    await settled(lambda: client.connection.deadline < math.inf and client.connection.requests == 1)


async def vanishes(server: MemoryServer, client: MemoryClient) -> None:
    await hungry(client)
    client.reset()


async def half_closes(server: MemoryServer, client: MemoryClient) -> None:
    await hungry(client)
    client.feed_eof()


async def stalls(server: MemoryServer, client: MemoryClient) -> None:
    await hungry(client)
    server.advance(15)
    await turns(5)
    server.advance(6)


@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("failing", "error", "status"),
    [
        (too_large, RequestError, 413),
        (malformed, RequestError, 400),
        (stalls, RequestError, 408),
        (vanishes, ConnectionError, None),
        (half_closes, ConnectionError, None),
    ],
)
def test_a_body_that_goes_wrong_raises_in_the_handler(
    run: Run,
    failing: Failing,
    error: type[Exception],
    status: int | None,
    blocking: bool,
    catches: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    raised: list[Exception] = []
    taken: list[bytes] = []
    signals: list[Callable[[], object]] = []

    def coped(ctx: RequestCtx, caught: Exception) -> None:
        raised.append(caught)
        signals[0]()
        if not catches:
            raise caught
        ctx.set_body("coped")

    def blocking_handler(ctx: RequestCtx) -> None:
        try:
            taken.extend(ctx.request_body_stream)
        except Exception as caught:
            coped(ctx, caught)

    async def handler(ctx: RequestCtx) -> None:
        try:
            async for chunk in ctx.request_body_stream:
                taken.append(chunk)  # noqa: PERF401 (one by one: it breaks off)
        except Exception as caught:
            coped(ctx, caught)

    async def main() -> None:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals.append(lambda: loop.call_soon_threadsafe(told.set))
        async with MemoryServer(
            blocking_handler if blocking else handler,
            stream_request_body=True,
            max_request_body_size=1000,
            read_timeout=20,
        ) as server:
            client = server.connect()
            await failing(server, client)
            await told.wait()
            assert type(raised[0]) is error or isinstance(raised[0], error)
            assert taken == [b"hello"]
            if status is not None:
                assert isinstance(raised[0], RequestError)
                assert raised[0].status == status
                response = await client.read_response()
                assert response.status == (200 if catches else status)
                assert response.headers["Connection"] == "close"
                client.feed(GET)
                client.feed_eof()
            await client.closed()
            assert not client.transport.received.count(b"HTTP/1.1 200") or failing is half_closes

    run(main())
    assert not caplog.records  # clients' faults


def test_the_announced_size_is_refused_before_the_handler(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        raise AssertionError("never reached")

    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True, max_request_body_size=1000) as server:
            client = server.connect()
            client.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.read_response()).status == 413

    run(main())


def test_header_received_raises_the_limit_for_one_request(run: Run) -> None:
    def header_received(ctx: RequestCtx) -> RequestConfig | None:
        return RequestConfig(max_request_body_size=2000) if ctx.path == "/large" else None

    async def main() -> None:
        async with MemoryServer(
            collect, stream_request_body=True, max_request_body_size=1000, header_received=header_received
        ) as server:
            client = server.connect()
            client.feed(put(b"x" * 1500).replace(b"PUT /", b"PUT /large", 1))
            assert (await client.read_response()).body == b"x" * 1500
            client.feed(put(b"x" * 1500))
            assert (await client.read_response()).status == 413

    run(main())


def test_two_readers_are_refused(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        first = asyncio.ensure_future(ctx.request_body_stream.read())
        await asyncio.sleep(0)
        with pytest.raises(BodyStreamError, match="two tasks"):
            await ctx.request_body_stream.read()
        ctx.set_body(await first)

    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(put(b"hello")[:-5])
            await turns()
            client.feed(b"hello")
            assert (await client.read_response()).body == b"hello"

    run(main())


def test_who_reads_on_after_the_answer_is_told(run: Run) -> None:
    late: list[asyncio.Task[bytes]] = []

    async def handler(ctx: RequestCtx) -> None:
        late.append(asyncio.ensure_future(ctx.request_body_stream.read()))
        await asyncio.sleep(0)

    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            client.feed(put(b"hello")[:-5])
            response = await client.read_response()
            assert response.headers["Connection"] == "close"
            with pytest.raises(BodyStreamError, match="answered"):
                await late[0]

    run(main())


def test_echo_both_streamed(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        first = await ctx.request_body_stream.read()

        async def echo() -> AsyncIterator[bytes]:
            yield first
            async for chunk in ctx.request_body_stream:
                yield chunk

        ctx.set_body_stream(echo(), 300_000)

    async def main() -> None:
        async with MemoryServer(handler, stream_request_body=True) as server:
            client = server.connect()
            body = bytes(range(250)) * 1200
            client.feed(put(body[:300_000]))
            assert (await client.read_response()).body == body[:300_000]

    run(main())


def test_large_streams_over_a_real_socket(run: Run) -> None:
    size = 3_000_000

    async def handler(ctx: RequestCtx) -> None:
        total = 0
        async for chunk in ctx.request_body_stream:
            total += len(chunk)

        def pieces() -> Iterator[bytes]:
            for _ in range(total // 1000):
                yield b"y" * 1000

        ctx.set_body_stream(pieces(), total)

    def client(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            sender = threading.Thread(target=sock.sendall, args=(put(b"x" * size, "Connection: close"),))
            sender.start()
            received = bytearray()
            while data := sock.recv(100_000):
                received += data
            sender.join()
        return bytes(received)

    async def main() -> None:
        server = Server(handler, stream_request_body=True)
        await server.start(port=0)
        async with server:
            received = await asyncio.to_thread(client, server.port)
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == b"y" * size

    run(main())
