"""What is sent again, and on what: idempotent requests, on a fresh connection, within their time (bug row 14)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from fastserve import ClientRequest, ClosedBeforeResponse, DialError, RequestTimeout, WriteError
from tests.client.scripts import (
    CLOSES_AFTER_REQUEST,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Script,
    Upstream,
    request,
    send,
    wait_for,
)

STALE: Script = [request, send(OK), request]
"""Serves one request, and closes on the second: what a connection is that went stale under way."""
SAFE = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]
UNSAFE = ["POST", "PATCH", "MKCOL"]

HEAD_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("method", SAFE)
def test_stale_keep_alive_is_retried_once_on_a_fresh_connection(method: str, run: Run) -> None:
    answer = HEAD_OK if method == "HEAD" else OK

    async def main() -> None:
        with Upstream(STALE, [request, send(answer), request]) as upstream:
            async with client_of(upstream) as client:
                await client.get("/first")
                response = await client.request(method, "/second")
                assert response.status_code == 200
                assert upstream.accepted == 2
                assert [r.split(b" HTTP")[0] for r in upstream.requests] == [
                    b"GET /first",
                    f"{method} /second".encode(),
                    f"{method} /second".encode(),
                ]
                balanced(client, idle=1)
                assert client.stats().closed["stale"] == 1

    run(main())


@pytest.mark.parametrize("method", UNSAFE)
def test_what_is_not_idempotent_is_sent_once(method: str, run: Run) -> None:
    async def main() -> None:
        with Upstream(STALE, SERVES) as upstream:
            async with client_of(upstream) as client:
                await client.get("/first")
                with pytest.raises(ClosedBeforeResponse) as caught:
                    await client.request(method, "/second", body=b"x")
                assert caught.value.phase == "head"
                assert caught.value.elapsed > 0
                assert len(upstream.requests) == 2
                assert upstream.accepted == 1
                balanced(client, idle=0)

    run(main())


def test_post_is_sent_again_when_nothing_of_it_was_written(run: Run) -> None:
    """The connection dies between its hand-over and the first step of its new holder."""

    async def main() -> None:
        with Upstream([request, send(OK), request], SERVES) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=5) as client:
                await client.get("/")  # so that something was written on it once
                held = await client._pool.acquire()
                for parts in ({"body": b"x" * 200_000}, {"body": b"x"}):
                    waiting = asyncio.create_task(client.post("/", **parts))
                    await until(lambda: client.stats().waiting == 1, "a waiter")
                    client._pool.release(held)
                    held.conn.eof_received()
                    assert (await waiting).body == b"ok"
                    held = await client._pool.acquire()
                client._pool.release(held)
                assert upstream.accepted == 3
                assert len(upstream.requests) == 3

    run(main())


def test_a_streamed_body_is_not_sent_again(run: Run) -> None:
    async def main() -> None:
        with Upstream(STALE, SERVES) as upstream:
            async with client_of(upstream) as client:
                await client.get("/first")
                with pytest.raises((ClosedBeforeResponse, WriteError)):
                    await client.put("/second", body=iter([b"a", b"b"]))
                assert upstream.accepted == 1
                balanced(client, idle=0)

    run(main())


def test_a_streamed_body_of_which_nothing_was_taken_is_sent_on_a_fresh_connection(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=5) as client:
                held = await client._pool.acquire()
                waiting = asyncio.create_task(client.post("/", body=iter([b"a", b"b"])))
                await until(lambda: client.stats().waiting == 1, "a waiter")
                client._pool.release(held)
                held.conn.eof_received()
                assert (await waiting).body == b"ok"
                assert upstream.requests[0].endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")

    run(main())


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_max_idempotent_call_attempts(attempts: int, run: Run) -> None:
    async def main() -> None:
        with Upstream(CLOSES_AFTER_REQUEST) as upstream:
            async with client_of(upstream, max_idempotent_call_attempts=attempts) as client:
                with pytest.raises(ClosedBeforeResponse):
                    await client.get("/")
                assert len(upstream.requests) == attempts
                assert upstream.accepted == attempts
                balanced(client, idle=0)

    run(main())


def test_retry_if_takes_the_place_of_the_rule_about_methods(run: Run) -> None:
    asked: list[ClientRequest] = []

    def retry_if(request: ClientRequest) -> bool:
        asked.append(request)
        return request.method == "POST"

    async def main() -> None:
        with Upstream(CLOSES_AFTER_REQUEST, SERVES) as upstream:
            async with client_of(upstream, retry_if=retry_if) as client:
                assert (await client.post("/", body=b"x")).body == b"ok"
                assert upstream.accepted == 2
                assert [r.method for r in asked] == ["POST"]
        with Upstream(CLOSES_AFTER_REQUEST, SERVES) as upstream:
            async with client_of(upstream, retry_if=retry_if) as client:
                with pytest.raises(ClosedBeforeResponse):
                    await client.get("/")
                assert upstream.accepted == 1

    run(main())


def test_retry_if_that_raises_ends_the_request(run: Run) -> None:
    def retry_if(request: ClientRequest) -> bool:
        raise LookupError("no opinion")

    async def main() -> None:
        with Upstream(CLOSES_AFTER_REQUEST, SERVES) as upstream:
            async with client_of(upstream, retry_if=retry_if) as client:
                with pytest.raises(LookupError, match="no opinion"):
                    await client.get("/")
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"

    run(main())


def test_one_retry_suffices_after_a_restart_with_many_idle_connections(run: Run) -> None:
    """All that idle are as stale as the first one (aiohttp#10790, fasthttp#1315): the next attempt takes none of them."""

    async def main() -> None:
        gate = Gate()
        script: Script = [request, wait_for(gate), send(OK), request, send(OK), request]
        with Upstream(*[script] * 8, SERVES) as upstream:
            async with client_of(upstream, max_idempotent_call_attempts=2) as client:
                tasks = [asyncio.create_task(client.get("/")) for _ in range(8)]
                await asyncio.to_thread(upstream.wait_requests, 8)
                gate.open()
                await asyncio.gather(*tasks)
                balanced(client, idle=8)
                # The restart, and the request in the same turn of the loop: nothing has left the pool yet.
                upstream.restart()
                assert client.idle_conns_count == 8
                assert (await client.get("/again")).body == b"ok"
                assert upstream.accepted == 9
                await until(lambda: client.conns_count == 1, "the other stale ones left")
                balanced(client, idle=1)

    run(main())


def test_no_retry_behind_the_requests_own_time(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream([request, wait_for(gate)]) as upstream:
            async with client_of(upstream) as client:
                start = time.monotonic()
                # Once the upstream has hung up: sooner, the timer might see that the request's time is over.
                client._clock = lambda: time.monotonic() + 100 * (bool(upstream.requests) and not client._connections)
                gate.open()
                with pytest.raises(ClosedBeforeResponse):
                    await client.get("/", timeout=50)
                assert time.monotonic() - start < 20
                assert upstream.accepted == 1

    run(main())


def test_a_retry_that_cannot_dial_says_so(run: Run) -> None:
    async def main() -> None:
        with Upstream(STALE) as upstream:
            async with client_of(upstream) as client:
                await client.get("/")
                upstream.stop_listening()
                with pytest.raises(DialError) as caught:
                    await client.get("/")
                assert caught.value.phase == "connect"
                assert caught.value.elapsed > 0
                balanced(client, idle=0)

    run(main())


def test_a_redial_is_within_the_requests_time(run: Run) -> None:
    hang: asyncio.Event

    async def main() -> None:
        nonlocal hang
        hang = asyncio.Event()
        dials = 0

        async def dial(factory: Callable[[], asyncio.Protocol]) -> object:
            nonlocal dials
            dials += 1
            if dials > 1:
                await hang.wait()
            return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", upstream.port)

        with Upstream(STALE) as upstream:
            async with client_of(upstream, dial=dial) as client:
                await client.get("/")
                with pytest.raises(RequestTimeout) as caught:
                    await client.get("/", timeout=0.05)
                assert caught.value.elapsed >= 0.04
                balanced(client, idle=0)

    run(main())


def test_a_stream_that_raises_is_not_retried_and_its_error_comes_through(run: Run) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        raise ClosedBeforeResponse("another client's")

    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(ClosedBeforeResponse, match="another client's"):
                    await client.put("/", body=body())
                await asyncio.to_thread(upstream.wait_ended, 1)
                assert upstream.accepted == 1
                balanced(client, idle=0)

    run(main())
