"""Each wait has a deadline of its own, and the request one over all."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest

from fastserve import (
    ClientError,
    DialTimeout,
    HostClient,
    InvalidRequest,
    NoFreeConns,
    RequestTimeout,
    ResponseBodyTimeout,
    ResponseHeadTimeout,
    TLSTimeout,
    WriteTimeout,
)
from tests.client.certificates import client_context
from tests.client.scripts import (
    NEVER_READS,
    SAYS_NOTHING,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Upstream,
    drip,
    request,
    send,
    silent_listener,
    until_closed,
    wait_for,
)

SHORT = 0.05
HALF_A_BODY = [request, send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), until_closed]
HALF_A_HEAD = [request, send(b"HTTP/1.1 200 OK\r\nContent-Le"), until_closed]
HUGE = b"x" * 20_000_000


async def times_out(client: HostClient, kind: type[ClientError], phase: str, **parts: object) -> None:
    with pytest.raises(kind) as caught:
        await client.request("POST" if "body" in parts else "GET", "/", **parts)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert isinstance(caught.value, TimeoutError) or kind is NoFreeConns
    assert caught.value.phase == phase
    assert SHORT * 0.8 <= caught.value.elapsed < 10
    balanced(client, idle=0)


def test_wait_for_a_connection(run: Run) -> None:
    async def main() -> None:
        with Upstream([request, *SAYS_NOTHING]) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=SHORT) as client:
                first = asyncio.create_task(client.get("/"))
                await asyncio.to_thread(upstream.wait_requests, 1)
                with pytest.raises(NoFreeConns) as caught:
                    await client.get("/")
                assert caught.value.phase == "wait"
                assert caught.value.elapsed >= SHORT * 0.8
                with pytest.raises(RequestTimeout) as own:
                    await client.get("/", timeout=SHORT / 2)
                assert own.value.phase == "wait"
                assert client.stats().timeouts == 2
                assert client.pending_requests == 1
                first.cancel()
                await asyncio.wait([first])
                balanced(client, idle=0)

    run(main())


def test_dial(run: Run) -> None:
    async def main() -> None:
        with silent_listener() as port:
            async with client_of(port, dial_timeout=SHORT) as client:
                await times_out(client, DialTimeout, "connect")
            async with client_of(port) as client:
                with pytest.raises(RequestTimeout) as caught:
                    await client.get("/", timeout=SHORT)
                assert caught.value.phase == "wait"
                assert caught.value.elapsed >= SHORT * 0.8

    run(main())


def test_tls(run: Run) -> None:
    async def main() -> None:
        with Upstream(SAYS_NOTHING) as upstream:
            for options in ({"dial_timeout": SHORT}, {"tls_timeout": SHORT}):
                async with client_of(upstream, is_tls=True, tls_config=client_context(), **options) as client:
                    await times_out(client, TLSTimeout, "TLS")

    run(main())


@pytest.mark.parametrize("options", [{"write_timeout": SHORT}, {"timeout": SHORT}])
@pytest.mark.parametrize("streamed", [False, True])
def test_write(options: dict[str, float], streamed: bool, run: Run) -> None:
    async def main() -> None:
        with Upstream(NEVER_READS, receive_buffer=4096) as upstream:
            own = {"timeout": options["timeout"]} if "timeout" in options else {}
            async with client_of(upstream, **({} if own else options)) as client:
                body = iter([HUGE[:1_000_000]] * 20) if streamed else HUGE
                await times_out(client, WriteTimeout, "write", body=body, **own)

    run(main())


def test_a_slow_reader_that_reads_is_no_write_timeout(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES, receive_buffer=4096) as upstream:
            async with client_of(upstream, write_timeout=1.0) as client:
                assert (await client.post("/", body=HUGE[:3_000_000])).body == b"ok"

    run(main())


@pytest.mark.parametrize("script", [SAYS_NOTHING, HALF_A_HEAD], ids=["nothing", "half a head"])
@pytest.mark.parametrize("options", [{"read_timeout": SHORT}, {"timeout": SHORT}], ids=str)
@pytest.mark.parametrize("body", [None, b"x", b"x" * 100_000], ids=["GET", "small", "large"])
def test_head(script: list, options: dict[str, float], body: bytes | None, run: Run) -> None:  # type: ignore[type-arg]
    async def main() -> None:
        with Upstream(script) as upstream:
            own = {"timeout": options["timeout"]} if "timeout" in options else {}
            async with client_of(upstream, **({} if own else options)) as client:
                parts = {} if body is None else {"body": body}
                await times_out(client, ResponseHeadTimeout, "head", **parts, **own)
                await asyncio.to_thread(upstream.wait_closed, 1)
                assert upstream.accepted == 1  # a time-out is no case for a retry

    run(main())


def test_a_dripped_head_does_not_put_the_deadline_off(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        head = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000
        with Upstream([request, drip(head, gate), until_closed]) as upstream:
            async with client_of(upstream, read_timeout=0.2) as client:
                task = asyncio.create_task(client.get("/"))
                while not task.done():
                    gate.release()
                    await asyncio.sleep(0.001)
                with pytest.raises(ResponseHeadTimeout):
                    await task

    run(main())


@pytest.mark.parametrize("options", [{"body_timeout": SHORT}, {"timeout": SHORT}], ids=str)
@pytest.mark.parametrize("body", [None, b"x" * 100_000], ids=["GET", "large"])
def test_body(options: dict[str, float], body: bytes | None, run: Run) -> None:
    async def main() -> None:
        with Upstream(HALF_A_BODY) as upstream:
            own = {"timeout": options["timeout"]} if "timeout" in options else {}
            async with client_of(upstream, **({} if own else options)) as client:
                parts = {} if body is None else {"body": body}
                await times_out(client, ResponseBodyTimeout, "body", **parts, **own)
                await asyncio.to_thread(upstream.wait_closed, 1)

    run(main())


def test_a_body_that_goes_on_is_bounded_by_the_requests_own_time(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
        with Upstream([request, drip(body, gate), until_closed]) as upstream:
            async with client_of(upstream) as client:
                task = asyncio.create_task(client.get("/", timeout=0.2))
                while not task.done():
                    gate.release()
                    await asyncio.sleep(0.001)
                with pytest.raises((ResponseBodyTimeout, ResponseHeadTimeout)):
                    await task

    run(main())


def test_read_timeout_begins_when_the_request_was_written(run: Run) -> None:
    """Not when it began to wait for a connection."""

    async def main() -> None:
        gate = Gate()
        with Upstream([request, wait_for(gate), send(OK), request, wait_for(gate), send(OK), until_closed]) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=20, read_timeout=5) as client:
                now = 0.0
                client._clock = client._pool.clock = lambda: time.monotonic() + now
                first = asyncio.create_task(client.get("/1"))
                await asyncio.to_thread(upstream.wait_requests, 1)
                second = asyncio.create_task(client.get("/2"))
                await until(lambda: client.stats().waiting == 1, "a waiter")
                now = 4.9  # the second has waited for nearly five seconds when it is its turn
                gate.release()
                await first
                await asyncio.to_thread(upstream.wait_requests, 2)
                (conn,) = client._connections
                assert conn.deadline > client._clock() + 4
                gate.release()
                await second

    run(main())


def test_the_requests_own_time_runs_while_its_body_is_waited_for(run: Run) -> None:
    ended = False

    async def hangs() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            ended = True

    async def main() -> None:
        with Upstream(SAYS_NOTHING) as upstream:
            async with client_of(upstream) as client:
                await times_out(client, WriteTimeout, "write", body=hangs(), timeout=SHORT)
                assert ended

    run(main())


def test_a_body_that_pauses_is_no_write_timeout(run: Run) -> None:
    """write_timeout is for the upstream, not for whoever makes the body."""

    async def main() -> None:
        with Upstream(SERVES, receive_buffer=4096) as upstream:
            async with client_of(upstream, write_timeout=0.3) as client:
                deadlines: list[float] = []

                async def pauses() -> AsyncIterator[bytes]:
                    yield HUGE[:1_000_000]  # long enough to wait for the upstream
                    (conn,) = client._connections
                    deadlines.append(conn.deadline)
                    yield b"x"

                assert (await client.post("/", body=pauses())).body == b"ok"
                assert deadlines == [math.inf]

    run(main())


@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", float("-inf")])
def test_times_that_cannot_be(value: object, run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises((InvalidRequest, RequestTimeout)) as caught:
                    await client.get("/", timeout=value)
                assert caught.value.phase == "request"
                assert isinstance(caught.value, RequestTimeout) == (value in (0, -1, float("-inf")))
                with pytest.raises(RequestTimeout, match="before it began"):
                    await client.get("/", deadline=time.monotonic() - 1)
                assert (await client.get("/", timeout=float("inf"))).body == b"ok"
                assert (await client.get("/", timeout=5, deadline=time.monotonic() + 5)).body == b"ok"
                assert upstream.accepted == 1

    run(main())
