"""An upstream that misbehaves: each time the right error, balanced books, and no connection used that should not be."""

from __future__ import annotations

import asyncio

import pytest

from fastserve import (
    ClientError,
    ClosedBeforeResponse,
    ClosedInResponse,
    DialError,
    HostClient,
    MalformedResponse,
    ResponseTooLarge,
    WriteError,
)
from tests.client.scripts import (
    ANSWERS_BEFORE_REQUEST,
    ANSWERS_TWICE,
    BODY_UNTIL_CLOSE,
    BODY_UNTIL_RESET,
    BREAKS_BEFORE_RESPONSE,
    BREAKS_IN_RESPONSE,
    CLOSES_IDLE,
    HUNDRED_TIMES_1XX,
    MALFORMED,
    RESETS,
    answers,
    answers_twice,
    drips,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Upstream,
    request,
    send,
    until_closed,
)

TOO_LARGE = {"huge head", "huge status line", "very many fields", "huge trailers", "huge chunk extension"}


async def fails(client: HostClient, *kinds: type[ClientError], method: str = "GET") -> ClientError:
    """The error of one request, which says in which phase it was and after how long."""
    with pytest.raises(ClientError) as caught:
        await client.request(method, "/")
    error = caught.value
    assert type(error) in kinds, repr(error)
    assert error.elapsed > 0
    assert error.phase in str(error)
    balanced(client)
    return error


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_response(name: str, run: Run) -> None:
    async def main() -> None:
        with Upstream(answers(MALFORMED[name]), SERVES) as upstream:
            async with client_of(upstream) as client:
                error = await fails(client, MalformedResponse, ResponseTooLarge)
                assert isinstance(error, ResponseTooLarge) == (name in TOO_LARGE)
                assert error.phase in ("head", "body")
                balanced(client, idle=0)
                await asyncio.to_thread(upstream.wait_closed, 1)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2
                assert len(upstream.requests) == 2  # never sent again: something has come

    run(main())


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_response_to_a_streamed_request(name: str, run: Run) -> None:
    async def main() -> None:
        with Upstream(answers(MALFORMED[name]), SERVES) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises((MalformedResponse, ResponseTooLarge)) as caught:
                    async with client.stream("GET", "/") as response:
                        await response.stream.read()  # type: ignore[union-attr]
                assert caught.value.elapsed > 0
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


ACCEPTED = sorted(set(BREAKS_BEFORE_RESPONSE) - {"resets after accept"})
"""An RST right after the accept may be seen by the dial already."""


@pytest.mark.parametrize("name", ACCEPTED)
def test_get_goes_on_when_the_connection_breaks_before_the_response(name: str, run: Run) -> None:
    async def main() -> None:
        with Upstream(BREAKS_BEFORE_RESPONSE[name], SERVES) as upstream:
            async with client_of(upstream) as client:
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2
                balanced(client, idle=1)

    run(main())


@pytest.mark.parametrize("name", ACCEPTED)
def test_get_fails_when_every_connection_breaks_before_the_response(name: str, run: Run) -> None:
    async def main() -> None:
        with Upstream(BREAKS_BEFORE_RESPONSE[name]) as upstream:
            async with client_of(upstream, max_idempotent_call_attempts=3) as client:
                error = await fails(client, ClosedBeforeResponse, WriteError)
                assert error.phase in ("head", "write")
                await asyncio.to_thread(upstream.wait_ended, 3)
                assert upstream.accepted == 3
                balanced(client, idle=0)

    run(main())


def test_reset_after_accept(run: Run) -> None:
    async def main() -> None:
        with Upstream(RESETS["after accept"]) as upstream:
            async with client_of(upstream, max_idempotent_call_attempts=3) as client:
                await fails(client, ClosedBeforeResponse, WriteError, DialError)
                assert 1 <= upstream.accepted <= 3
                balanced(client, idle=0)

    run(main())


@pytest.mark.parametrize("name", list(BREAKS_IN_RESPONSE))
@pytest.mark.parametrize("streams", [False, True])
def test_closed_in_response(name: str, streams: bool, run: Run) -> None:
    async def main() -> None:
        with Upstream(BREAKS_IN_RESPONSE[name], SERVES) as upstream:
            async with client_of(upstream) as client:
                if streams:
                    with pytest.raises(ClosedInResponse) as caught:
                        async with client.stream("GET", "/") as response:
                            await response.stream.read()  # type: ignore[union-attr]
                    error: ClientError = caught.value
                    assert error.elapsed > 0
                else:
                    error = await fails(client, ClosedInResponse)
                assert error.phase == ("head" if name in ("closes in head", "closes after 103") else "body")
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


@pytest.mark.parametrize("name", ["in head", "in body", "in chunk"])
def test_reset_in_response(name: str, run: Run) -> None:
    """RST may take what had come with it: then it is as if nothing had."""

    async def main() -> None:
        with Upstream(RESETS[name], SERVES) as upstream:
            async with client_of(upstream, max_idempotent_call_attempts=1) as client:
                await fails(client, ClosedInResponse, ClosedBeforeResponse)
                balanced(client, idle=0)
                assert (await client.get("/")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


def test_body_until_close(run: Run) -> None:
    async def main() -> None:
        with Upstream(BODY_UNTIL_CLOSE) as upstream:
            async with client_of(upstream) as client:
                for _ in range(2):
                    assert (await client.get("/")).body == b"until the end"
                    balanced(client, idle=0)
                assert upstream.accepted == 2

    run(main())


def test_body_until_reset_is_no_whole_body(run: Run) -> None:
    async def main() -> None:
        with Upstream(BODY_UNTIL_RESET) as upstream:
            async with client_of(upstream, max_idempotent_call_attempts=1) as client:
                await fails(client, ClosedInResponse, ClosedBeforeResponse)

    run(main())


def test_a_second_response_is_never_the_next_requests(run: Run) -> None:
    async def main() -> None:
        with Upstream(ANSWERS_TWICE, SERVES) as upstream:
            async with client_of(upstream) as client:
                assert (await client.get("/a")).body == b"ok"
                balanced(client, idle=0)
                assert (await client.get("/b")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


def test_bytes_on_an_idle_connection_take_it_out_of_the_pool(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream(answers_twice(gate), SERVES) as upstream:
            async with client_of(upstream) as client:
                await client.get("/a")
                balanced(client, idle=1)
                gate.open()
                await until(lambda: client.conns_count == 0, "the connection left")
                balanced(client, idle=0)
                assert client.stats().closed["stale"] == 1
                await client.post("/b", body=b"x")  # would not be sent twice
                assert upstream.accepted == 2

    run(main())


def test_a_connection_that_the_peer_closes_leaves_the_pool_before_the_next_request(run: Run) -> None:
    async def main() -> None:
        with Upstream(CLOSES_IDLE, SERVES) as upstream:
            async with client_of(upstream) as client:
                await client.get("/a")
                await until(lambda: client.conns_count == 0, "the connection left")
                assert (await client.post("/b", body=b"x")).body == b"ok"
                assert upstream.accepted == 2

    run(main())


def test_an_answer_before_any_request(run: Run) -> None:
    """On a connection that nobody uses yet it cannot be an answer. (Once a request is out, nobody can tell.)"""

    async def main() -> None:
        with Upstream([request, until_closed], ANSWERS_BEFORE_REQUEST, SERVES) as upstream:
            async with client_of(upstream, max_conns=2, max_conn_wait_timeout=5) as client:
                first = asyncio.create_task(client.get("/1"))
                await asyncio.to_thread(upstream.wait_requests, 1)
                second = asyncio.create_task(client.get("/2"))
                await asyncio.sleep(0)
                assert client.stats().dialing == 1
                second.cancel()
                await asyncio.to_thread(upstream.wait_accepted, 2)
                await asyncio.to_thread(upstream.wait_closed, 1)
                await until(lambda: client.conns_count == 1, "only the first is left")
                first.cancel()
                await asyncio.wait([first, second])
                assert (await client.get("/3")).body == b"ok"
                assert upstream.connections[1].received == b""

    run(main())


def test_a_hundred_informational_responses_are_skipped(run: Run) -> None:
    async def main() -> None:
        with Upstream(answers(HUNDRED_TIMES_1XX)) as upstream:
            async with client_of(upstream) as client:
                assert (await client.get("/")).body == b"ok"
                balanced(client, idle=1)

    run(main())


def test_a_dripped_response_is_a_response(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream(drips(gate)) as upstream:
            async with client_of(upstream) as client:
                task = asyncio.create_task(client.get("/"))
                await asyncio.to_thread(upstream.wait_requests, 1)
                gate.open()
                assert (await task).body == b"ok"
                balanced(client, idle=1)

    run(main())


def test_connection_close_is_obeyed(run: Run) -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

    async def main() -> None:
        with Upstream([request, send(closing), until_closed]) as upstream:
            async with client_of(upstream) as client:
                for _ in range(2):
                    assert (await client.get("/")).body == b"ok"
                    balanced(client, idle=0)
                assert upstream.accepted == 2

    run(main())


def test_our_own_connection_close_is_obeyed_when_the_upstream_does_not(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream) as client:
                for _ in range(2):
                    assert (await client.get("/", headers={"Connection": "close"})).body == b"ok"
                    balanced(client, idle=0)
                async with client.stream("GET", "/", headers={"Connection": "close"}) as response:
                    assert await response.stream.read() == b"ok"  # type: ignore[union-attr]
                balanced(client, idle=0)
                assert upstream.accepted == 3

    run(main())


def test_switching_protocols_only_where_asked(run: Run) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"

    async def main() -> None:
        with Upstream(answers(switch)) as upstream:
            async with client_of(upstream) as client:
                response = await client.get("/", headers={"Connection": "upgrade", "Upgrade": "x"})
                assert response.status_code == 101
                balanced(client, idle=0)
                with pytest.raises(MalformedResponse, match="101"):
                    await client.get("/")

    run(main())


def test_unasked_bytes_while_it_is_handed_over(run: Run) -> None:
    """Between a release and the next holder's first step: what is written then would get the unasked bytes as its answer."""

    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=5) as client:
                pool = client._pool
                held = await pool.acquire()
                waiting = asyncio.create_task(client.post("/", body=b"x"))
                await until(lambda: client.stats().waiting == 1, "a waiter")
                pool.release(held)
                held.conn.data_received(OK)
                assert (await waiting).body == b"ok"
                assert upstream.accepted == 2
                assert upstream.connections[0].received == b""

    run(main())
