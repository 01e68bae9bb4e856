"""Bodies that HostClient sends: whole, in parts, too long, too short, broken, huge, and answered before their end."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest

from fastserve import (
    ClientError,
    ClientRequest,
    ClientResponse,
    ClosedBeforeResponse,
    ClosedInResponse,
    InvalidRequest,
    MalformedResponse,
    RequestCtx,
    ServerThread,
    WriteError,
)
from tests.client.scripts import (
    ANSWERS_BEFORE_BODY,
    ANSWERS_BEFORE_BODY_AND_RESETS,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Peer,
    Upstream,
    request,
    request_head,
    send,
    stall,
    until_closed,
    wait_for,
)

MB = b"x" * 1_000_000


def echo(ctx: RequestCtx) -> None:
    ctx.set_content_type(ctx.request.headers.get("content-type") or "none/none")
    ctx.set_body(ctx.post_body)


async def pieces(*parts: bytes | str) -> AsyncIterator[bytes | str]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


class Pieces:
    """Async iterable, and not an iterator."""

    def __aiter__(self) -> AsyncIterator[bytes | str]:
        return pieces("ä", b"b")


def test_bodies_of_every_kind(run: Run) -> None:
    async def main() -> None:
        with ServerThread(echo, inline=True) as server:
            async with client_of(server.port) as client:
                for body in (b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), iter([b"by", "tes"])):
                    assert (await client.post("/", body=body)).body == b"bytes"
                assert (await client.post("/", body="täxt")).text == "täxt"
                assert (await client.post("/", body=pieces(b"a", "", b"", "ä"))).text == "aä"
                assert (await client.post("/", body=Pieces())).text == "äb"
                assert (await client.post("/", body=[])).body == b""
                assert (await client.post("/", body=[memoryview(b"abcd").cast("I")])).body == b"abcd"
                assert (await client.post("/")).body == b""
                assert (await client.put("/", body=MB)).body == MB
                response = await client.patch("/", json={"ä": [1, None]})
                assert response.json() == {"ä": [1, None]}
                assert response.content_type == "application/json"
                response = await client.post("/", form={"a": "1", "b": "ä"})
                assert response.body == b"a=1&b=%C3%A4"
                assert response.content_type == "application/x-www-form-urlencoded"
                balanced(client, idle=1)

    run(main())


def test_multipart(run: Run) -> None:
    async def main() -> None:
        with ServerThread(echo, inline=True) as server:
            async with client_of(server.port) as client:
                response = await client.post("/", form={"a": "1"}, files={"file": ("f.txt", b"content", "text/plain")})
                assert response.content_type is not None
                assert response.content_type.startswith("multipart/form-data; boundary=")
                assert b'name="a"\r\n\r\n1\r\n' in response.body
                assert b'filename="f.txt"' in response.body
                assert b"content" in response.body

    run(main())


def test_how_streams_are_framed(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream) as client:
                await client.post("/", body=pieces(b"ab", b"", b"c"))
                await client.post("/", body=pieces(b"ab", b"c"), headers={"Content-Length": "3"})
                await client.post("/", body=iter([]), headers={"Content-Length": "0"})
                chunked, counted, empty = upstream.requests
                assert b"Transfer-Encoding: chunked\r\n" in chunked
                assert chunked.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                assert b"Content-Length: 3\r\n" in counted
                assert b"Transfer-Encoding" not in counted
                assert counted.endswith(b"\r\n\r\nabc")
                assert empty.endswith(b"Content-Length: 0\r\n\r\n")
                assert upstream.accepted == 1
                balanced(client, idle=1)

    run(main())


@pytest.mark.parametrize(
    ("parts", "length", "text"),
    [
        ((b"ab", b"cd"), 3, "longer than its Content-Length"),
        ((b"ab",), 3, "1 bytes before its Content-Length"),
        ((b"ab", 5), 3, "gave int"),
        ((b"ab", "\udc80"), None, "no UTF-8 form"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_streams_that_cannot_be_sent(
    parts: tuple[bytes, ...], length: int | None, text: str, is_async: bool, run: Run
) -> None:
    async def main() -> None:
        headers = {} if length is None else {"Content-Length": length}
        with Upstream([until_closed], SERVES) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(InvalidRequest, match=text) as caught:
                    await client.post("/", body=pieces(*parts) if is_async else iter(parts), headers=headers)
                assert caught.value.phase == "write"
                assert caught.value.elapsed > 0
                balanced(client, idle=0)
                await asyncio.to_thread(upstream.wait_closed, 1)  # the upstream must not take it for whole
                assert b"0\r\n\r\n" not in bytes(upstream.connections[0].received)
                assert (await client.get("/")).body == b"ok"

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_raises_in_the_middle(is_async: bool, run: Run) -> None:
    closed: list[bool] = []

    def plain() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError("in the middle")

    async def asynchronous() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            raise TimeoutError("in the middle")
        finally:
            closed.append(True)

    async def main() -> None:
        with Upstream([until_closed], SERVES) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(TimeoutError if is_async else ZeroDivisionError, match="in the middle"):
                    await client.post("/", body=asynchronous() if is_async else plain())
                assert closed == [True] * is_async
                balanced(client, idle=0)
                await asyncio.to_thread(upstream.wait_closed, 1)
                assert b"0\r\n\r\n" not in bytes(upstream.connections[0].received)
                assert (await client.get("/")).body == b"ok"

    run(main())


@pytest.mark.parametrize("is_async", [False, True])
def test_100_mb_up_in_bounded_memory(is_async: bool, run: Run) -> None:
    async def count(ctx: RequestCtx) -> None:
        size = 0
        async for piece in ctx.request_body_stream:
            size += len(piece)
        ctx.set_body(str(size).encode())

    def plain() -> Iterator[bytes]:
        for _ in range(100):
            yield MB

    async def asynchronous() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield MB

    async def main() -> None:
        with ServerThread(count, stream_request_body=True, max_request_body_size=200_000_000) as server:
            async with client_of(server.port) as client:
                tracemalloc.start()
                try:
                    response = await client.post("/", body=asynchronous() if is_async else plain())
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert response.body == b"100000000"
                assert peak < 20_000_000
                balanced(client, idle=1)

    run(main())


def test_other_tasks_have_their_turn_while_a_plain_iterable_is_sent(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES, receive_buffer=8_000_000) as upstream:
            async with client_of(upstream) as client:
                turns = 0

                async def other() -> None:
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                task = asyncio.create_task(other())
                await client.post("/", body=iter([b"x" * 1000] * 2000))
                task.cancel()
                assert turns > 5

    run(main())


def a_body(kind: str) -> object:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield MB
            await asyncio.sleep(0)

    async def hangs() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    return {"large": MB * 50, "plain": iter([MB] * 50), "endless": endless(), "hangs": hangs()}[kind]


KINDS = ["large", "plain", "endless", "hangs"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streams", [False, True])
def test_answered_with_413_before_the_body_was_sent(kind: str, streams: bool, run: Run) -> None:
    async def main() -> None:
        with Upstream(ANSWERS_BEFORE_BODY, SERVES) as upstream:
            async with client_of(upstream) as client:
                if streams:
                    async with client.stream("POST", "/", body=a_body(kind)) as response:
                        assert response.stream is not None
                        assert await response.stream.read() == b"big"  # type: ignore[union-attr]
                else:
                    response = await client.post("/", body=a_body(kind))
                    assert response.body == b"big"
                assert response.status_code == 413
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_answered_with_200_and_keep_alive_before_the_body_was_sent(kind: str, run: Run) -> None:
    """What the upstream makes of the rest of the body nobody knows: the connection is not used again."""

    async def main() -> None:
        with Upstream([request_head, send(OK), stall], SERVES, receive_buffer=4096) as upstream:
            async with client_of(upstream) as client:
                assert (await client.post("/", body=a_body(kind))).body == b"ok"
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [b"HTTP/1.1 500 Oops\r\nConnection: close", b"HTTP/1.1 413 Content Too Large"])
def test_the_head_of_an_error_ends_the_sending(kind: str, start: bytes, run: Run) -> None:
    """Its own body may take long: that is not the writing's time."""

    async def main() -> None:
        gate = Gate()
        answer = start + b"\r\nContent-Length: 4\r\n\r\nha"
        with Upstream(
            [request_head, send(answer), wait_for(gate), send(b"lf"), stall], receive_buffer=4096
        ) as upstream:
            async with client_of(upstream, write_timeout=10, read_timeout=10) as client:
                task = asyncio.create_task(client.post("/", body=a_body(kind)))
                await until(lambda: any(c.phase.value == "body" for c in client._connections), "the body is waited for")
                gate.open()
                assert (await task).body == b"half"
                balanced(client, idle=0)

    run(main())


@pytest.mark.parametrize("streams", [False, True])
def test_an_upstream_that_answers_bit_by_bit_gets_the_whole_body(streams: bool, run: Run) -> None:
    """Its answer begins before the request has ended, and ends behind it."""

    async def main() -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            (conn,) = client._connections
            await until(lambda: bool(conn.parser.parts), "the answer began")
            yield b"b"

        begins = send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        with Upstream([request_start, begins, request, send(b"lf"), until_closed]) as upstream:
            async with client_of(upstream) as client:
                if streams:
                    async with client.stream("POST", "/", body=body()) as response:
                        assert await response.stream.read() == b"half"  # type: ignore[union-attr]
                else:
                    assert (await client.post("/", body=body())).body == b"half"
                assert upstream.requests[0].endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
                balanced(client, idle=1)

    run(main())


def request_start(peer: Peer) -> None:
    """Wait for a request's head, and leave it to be read with the rest."""
    peer.read_until(lambda data: 0 if b"\r\n\r\n" in data else None)


def test_a_malformed_answer_before_the_body_was_sent(run: Run) -> None:
    async def main() -> None:
        for kind in KINDS:
            with Upstream([request_head, send(b"nonsense\r\n\r\n"), stall], receive_buffer=4096) as upstream:
                async with client_of(upstream) as client:
                    with pytest.raises(MalformedResponse):
                        await client.post("/", body=a_body(kind))
                    balanced(client, idle=0)

    run(main())


def test_answered_and_reset_before_the_body_was_sent(run: Run) -> None:
    """RST may take the answer with it: then it is an error, and never a hang."""

    async def main() -> None:
        for kind in KINDS:
            with Upstream(ANSWERS_BEFORE_BODY_AND_RESETS, SERVES) as upstream:
                async with client_of(upstream) as client:
                    asked = ClientRequest("POST", "/", body=a_body(kind))  # type: ignore[arg-type]
                    results: list[object] = await asyncio.gather(client.do(asked, timeout=10), return_exceptions=True)
                    (result,) = results
                    if isinstance(result, ClientError):
                        assert isinstance(result, WriteError | ClosedBeforeResponse | ClosedInResponse), repr(result)
                        assert result.elapsed > 0
                    else:
                        assert isinstance(result, ClientResponse)
                        assert result.status_code == 413
                    balanced(client, idle=0)
                    assert (await client.get("/")).body == b"ok"

    run(main())


def test_a_head_that_is_answered_while_it_is_written(run: Run) -> None:
    """Its body is dropped then, and the connection must not be used again: the upstream waits for that body."""

    async def main() -> None:
        early = b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n"
        gate = Gate()
        with Upstream([wait_for(gate), send(early), until_closed], SERVES, receive_buffer=4096) as upstream:
            async with client_of(upstream) as client:
                headers = {"X": "x" * 8_000_000}
                task = asyncio.create_task(client.post("/", headers=headers, body=b"x" * 100_000))
                await until(lambda: any(c._write_paused for c in client._connections), "the head waits")
                gate.open()
                assert (await task).status_code == 431
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"

    run(main())
