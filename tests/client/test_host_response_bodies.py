"""Bodies that HostClient reads: every framing, streamed and whole, coded, too large, dropped."""

from __future__ import annotations

import asyncio
import gc
import gzip
import time
import tracemalloc
import warnings
import zlib

import pytest

from fastserve import (
    BodyReader,
    ClientError,
    ClosedInResponse,
    ContentCodingError,
    HostClient,
    ResponseBodyTimeout,
    ResponseTooLarge,
)
from tests.client.scripts import (
    CHUNKED_OK,
    answers,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Script,
    Upstream,
    flood,
    repeat,
    request,
    send,
    until_closed,
    wait_for,
)

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"


def reader(response: object) -> BodyReader:
    stream = response.stream  # type: ignore[attr-defined]
    assert isinstance(stream, BodyReader)
    return stream


def coded(coding: str, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n%s" % (
        coding.encode(),
        len(body),
        body,
    )


async def whole(client: HostClient, method: str, streams: bool) -> tuple[int, bytes, list[tuple[str, str]]]:
    if not streams:
        response = await client.request(method, "/")
        return response.status_code, response.body, list(response.trailers.items())
    async with client.stream(method, "/") as response:
        body = await reader(response).read()
        return response.status_code, body, list(response.trailers.items())


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("method", "answer", "expected", "stays"),
    [
        ("GET", OK, (200, b"ok", []), True),
        ("GET", CHUNKED_OK, (200, b"ok", []), True),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
            (200, b"ok", [("X-Sum", "1")]),
            True,
        ),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, b"", []), True),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, b"", []), True),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", (200, b"", []), True),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", []), True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"", []), True),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + OK, (200, b"ok", []), True),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", []), False),
        (
            "GET",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            (200, b"ok", []),
            True,
        ),
    ],
)
def test_framings(
    method: str, answer: bytes, expected: tuple[int, bytes, list[tuple[str, str]]], stays: bool, streams: bool, run: Run
) -> None:
    async def main() -> None:
        gate = Gate()
        # Whole in one segment, and cut behind the head or in it.
        cuts: list[list[bytes]] = [[answer], [answer[:-1], answer[-1:]], [answer[:9], answer[9:]]]
        steps = [s for cut in cuts for s in (request, send(cut[0]), wait_for(gate), *map(send, cut[1:]))]
        gate.open()
        with Upstream([*steps, until_closed] if stays else [request, send(answer), until_closed]) as upstream:
            async with client_of(upstream) as client:
                for _ in cuts:
                    assert await whole(client, method, streams) == expected
                    balanced(client, idle=int(stays))
                assert upstream.accepted == (1 if stays else len(cuts))

    run(main())


@pytest.mark.parametrize("streams", [False, True])
def test_http_1_0_until_close(streams: bool, run: Run) -> None:
    async def main() -> None:
        with Upstream([request, send(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")]) as upstream:
            async with client_of(upstream) as client:
                assert await whole(client, "GET", streams) == (200, b"until the end", [])
                balanced(client, idle=0)

    run(main())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("streams", [False, True])
def test_decoded_when_asked_for(coding: str, streams: bool, run: Run) -> None:
    data = b"hello " * 100
    encoded = {"gzip": gzip.compress(data), "deflate": zlib.compress(data), "raw deflate": zlib.compress(data)[2:-4]}
    answer = coded(coding.removeprefix("raw "), encoded[coding])

    async def main() -> None:
        with Upstream([repeat(request, send(answer[:70]), send(answer[70:]))]) as upstream:
            async with client_of(upstream, decode_content=True) as client:
                assert (await whole(client, "GET", streams))[1] == data
                assert b"Accept-Encoding: gzip, deflate" in upstream.requests[0]
                async with client.stream("GET", "/") as response:
                    assert "content-encoding" not in response.headers
                    assert await reader(response).read() == data
                balanced(client, idle=1)
            async with client_of(upstream) as client:
                assert (await whole(client, "GET", streams))[1] == encoded[coding]
                assert b"Accept-Encoding" not in upstream.requests[-1]

    run(main())


@pytest.mark.parametrize("streams", [False, True])
def test_codings_that_are_broken(streams: bool, run: Run) -> None:
    async def main() -> None:
        for answer in (coded("gzip", gzip.compress(b"hello")[:-3]), coded("gzip", b"none"), coded("no-such", b"x")):
            with Upstream(answers(answer)) as upstream:
                async with client_of(upstream, decode_content=True) as client:
                    with pytest.raises(ContentCodingError) as caught:
                        await whole(client, "GET", streams)
                    assert caught.value.phase == "body"
                    assert caught.value.elapsed > 0
                    balanced(client)

    run(main())


def test_there_is_nothing_to_decode_without_a_body(run: Run) -> None:
    async def main() -> None:
        with Upstream(
            answers(b"HTTP/1.1 200 OK\r\nContent-Encoding: no-such\r\nContent-Length: 9\r\n\r\n")
        ) as upstream:
            async with client_of(upstream, decode_content=True) as client:
                response = await client.head("/")
                assert response.headers["content-length"] == "9"
            async with client_of(upstream, decode_content=True) as client, client.stream("HEAD", "/") as response:
                assert response.headers["content-encoding"] == "no-such"

    run(main())


def test_a_bomb_costs_its_limit(run: Run) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)

    async def main() -> None:
        with Upstream([repeat(request, send(coded("gzip", bomb)))]) as upstream:
            async with client_of(upstream, decode_content=True, max_response_body_size=1_000_000) as client:
                tracemalloc.start()
                try:
                    with pytest.raises(ResponseTooLarge):
                        await client.get("/")
                    with pytest.raises(ResponseTooLarge):
                        await whole(client, "GET", True)
                    async with client.stream("GET", "/") as response:
                        size = 0
                        async for piece in reader(response):  # of any size, but never held
                            assert len(piece) <= 64 * 1024
                            size += len(piece)
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert size == 200_000_000
                assert peak < 10_000_000
                balanced(client)

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello world",
    ],
)
def test_max_response_body_size(answer: bytes, run: Run) -> None:
    async def main() -> None:
        with Upstream([request, send(answer)]) as upstream:
            async with client_of(upstream, max_response_body_size=10) as client:
                with pytest.raises(ResponseTooLarge) as caught:
                    await client.get("/")
                assert caught.value.phase == "body"
                balanced(client, idle=0)
                async with client.stream("GET", "/") as response:  # no bound piece by piece
                    assert b"".join([piece async for piece in reader(response)]) == b"hello world"
                async with client.stream("GET", "/") as response:
                    with pytest.raises(ResponseTooLarge):
                        await reader(response).read()
                    with pytest.raises(ResponseTooLarge):  # and again: a part is not the whole
                        await reader(response).read()
                balanced(client)
            async with client_of(upstream, max_response_body_size=11) as client:
                assert (await client.get("/")).body == b"hello world"

    run(main())


def test_100_mb_down_in_bounded_memory(run: Run) -> None:
    size = 100_000_000
    mb = b"x" * 1_000_000

    async def main() -> None:
        script = [request, send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size), *[send(mb)] * 100]
        with Upstream([*script, request, send(OK), until_closed]) as upstream:
            async with client_of(upstream) as client:
                tracemalloc.start()
                try:
                    received = 0
                    async with client.stream("GET", "/") as response:
                        async for piece in reader(response):
                            received += len(piece)
                            if received % 7 == 0:
                                await asyncio.sleep(0)
                    peak = tracemalloc.get_traced_memory()[1]
                finally:
                    tracemalloc.stop()
                assert received == size
                assert peak < 10_000_000
                balanced(client, idle=1)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 1

    run(main())


def test_an_unread_flood_is_held_back(run: Run) -> None:
    async def main() -> None:
        with Upstream([request, send(b"HTTP/1.1 200 OK\r\n\r\n"), flood(b"x" * 65536)]) as upstream:
            async with client_of(upstream) as client:
                async with client.stream("GET", "/") as response:
                    (conn,) = client._connections
                    await until(lambda: conn._reading_paused, "reading is paused")
                    assert sum(map(len, conn.parser.parts)) < 1_000_000
                    assert len(await anext(aiter(reader(response)))) > 0
                balanced(client, idle=0)
                await asyncio.to_thread(upstream.wait_closed, 1)

    run(main())


def test_read_to_the_end_it_is_reused_and_left_early_it_is_closed(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        script: Script = [request, send(HALF), wait_for(gate), send(b"half"), request, send(HALF), until_closed]
        with Upstream(script, SERVES) as upstream:
            async with client_of(upstream) as client:
                async with client.stream("GET", "/") as response:
                    assert await anext(aiter(reader(response))) == b"half"
                    balanced_while_held = client.stats()
                    assert balanced_while_held.streams == 1
                    gate.open()
                    assert await reader(response).read() == b"half"
                    balanced(client, idle=1)
                    assert await reader(response).read() == b""
                async with client.stream("GET", "/") as response:
                    pass
                balanced(client, idle=0)
                with pytest.raises(ClosedInResponse, match="before its end was read"):
                    await reader(response).read()
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


def test_row_8_unread_response_dropped(run: Run) -> None:
    """The slot comes back, with a warning."""

    async def main() -> None:
        with Upstream([request, send(HALF), until_closed], SERVES) as upstream:
            async with client_of(upstream, max_conns=1, stream_response_body=True) as client:
                response = await client.get("/")
                assert client.stats().streams == 1
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    del response
                    gc.collect()
                assert [w.category for w in told] == [ResourceWarning]
                assert "dropped before its end" in str(told[0].message)
                await until(lambda: client.conns_count == 0, "the slot came back")
                await asyncio.to_thread(upstream.wait_closed, 1)
                response = await client.get("/")
                assert await reader(response).read() == b"ok"
                balanced(client, idle=1)

    run(main())


def test_a_body_that_came_with_its_head_holds_no_connection(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream, max_conns=1, stream_response_body=True) as client:
                responses = [await client.get("/") for _ in range(3)]
                assert [await reader(r).read() for r in responses] == [b"ok"] * 3
                balanced(client, idle=1)

    run(main())


def test_body_timeout_runs_only_while_it_is_read(run: Run) -> None:
    """A reader that is busy with something else is not the upstream's fault, however long it takes."""

    async def main() -> None:
        gate = Gate()
        with Upstream([request, send(HALF), wait_for(gate), send(b"more"), until_closed]) as upstream:
            async with client_of(upstream, body_timeout=5, read_timeout=5) as client:
                now = 0.0
                client._clock = lambda: time.monotonic() + now
                async with client.stream("GET", "/") as response:
                    (conn,) = client._connections
                    now = 100.0
                    client._watch.sweep()
                    assert conn.error is None
                    assert await anext(aiter(reader(response))) == b"half"
                    rest = asyncio.ensure_future(reader(response).read())
                    await asyncio.sleep(0)
                    assert 100 < conn.deadline - time.monotonic() <= 105
                    now = 104.0
                    client._watch.sweep()
                    gate.open()
                    assert await rest == b"more"
                balanced(client, idle=1)

    run(main())


@pytest.mark.parametrize("own", [{}, {"timeout": 0.05}])
def test_body_timeout_while_it_is_read(own: dict[str, float], run: Run) -> None:
    async def main() -> None:
        with Upstream([request, send(HALF), until_closed]) as upstream:
            async with client_of(upstream, body_timeout=20 if own else 0.05) as client:
                with pytest.raises(ResponseBodyTimeout) as caught:
                    async with client.stream("GET", "/", **own) as response:
                        await reader(response).read()
                assert caught.value.phase == "body"
                assert caught.value.elapsed > 0.03
                balanced(client, idle=0)

    run(main())


def test_the_requests_own_time_ends_a_stream_that_nobody_reads(run: Run) -> None:
    async def main() -> None:
        with Upstream([request, send(HALF), until_closed]) as upstream:
            async with client_of(upstream) as client, client.stream("GET", "/", timeout=0.05) as response:
                await asyncio.to_thread(upstream.wait_closed, 1)
                with pytest.raises(ResponseBodyTimeout):
                    async for piece in reader(response):
                        assert piece == b"half"  # what had come is there

    run(main())


def test_one_reader_at_a_time(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream([request, send(HALF), wait_for(gate), send(b"more"), until_closed]) as upstream:
            async with client_of(upstream) as client:
                async with client.stream("GET", "/") as response:
                    assert await anext(aiter(reader(response))) == b"half"
                    first = asyncio.ensure_future(reader(response).read())
                    await asyncio.sleep(0)
                    with pytest.raises(ClientError, match="another task"):
                        await reader(response).read()
                    gate.open()
                    assert await first == b"more"
                balanced(client, idle=1)

    run(main())
