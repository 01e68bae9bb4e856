"""Cancelled after k turns of the loop, on every path: the slot comes back, and nobody gets half an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from fastserve import HostClient
from tests.client.certificates import client_context, server_context
from tests.client.scripts import (
    CLOSES_AFTER_REQUEST,
)
from tests.client.support import Run, balanced, client_of, ticks, until
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Peer,
    Script,
    Step,
    Upstream,
    repeat,
    request,
    request_head,
    send,
    stall,
    until_closed,
    wait_for,
)

LARGE = b"x" * 3_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def unless_next(*steps: Step) -> Step:
    """`steps`, for the request that is cancelled. When it was so before it was sent, the connection may be the next one's."""

    def step(peer: Peer) -> None:
        peer.read_until(lambda data: 0 if len(data) >= 20 else None)
        if b" /next " in peer.received[peer._unread :][:20]:
            repeat(request, send(OK))(peer)
        for each in steps:
            each(peer)

    return step


Cancelled = Callable[[HostClient], Awaitable[Any]]


async def sweep(
    scripts: list[Script], work: Cancelled, *, warm: bool = False, waits: bool = False, turns: int = 21, **options: Any
) -> None:
    """Cancel `work` after 0, 1, 2, ... turns; then the next request must succeed, and get its own answer."""
    cancelled = 0
    for k in range(turns):
        first: list[Script] = [[*([request, send(OK)] if warm else []), unless_next(*scripts[0])]]
        with Upstream(*first, *scripts[1:], SERVES, receive_buffer=4096) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=20, **options) as client:
                if warm:
                    await client.get("/")
                task = asyncio.ensure_future(work(client))
                await ticks(k)
                is_over = task.done()
                task.cancel()
                await asyncio.wait([task])
                if is_over:
                    break
                assert task.cancelled() or waits
                cancelled += 1
                stats = client.stats()
                assert (stats.streams, stats.waiting) == (0, 0)
                assert stats.conns <= 1
                assert (await client.get("/next", timeout=20)).body == b"ok"
                await until(lambda client=client: client.stats().dialing == 0, "no dial")  # type: ignore[misc]
                balanced(client, idle=1)
                assert [r for r in upstream.requests if r.startswith(b"GET /next")]
    assert cancelled


async def streamed(client: HostClient) -> None:
    async with client.stream("GET", "/") as response:
        async for _ in response.stream:  # type: ignore[union-attr]
            pass


async def body() -> AsyncIterator[bytes]:
    yield b"a"
    await asyncio.sleep(0)
    yield LARGE
    await asyncio.Event().wait()


PATHS: dict[str, tuple[Script, Cancelled]] = {
    "head": ([request, until_closed], lambda client: client.get("/")),
    "half a head": ([request, send(HEAD[:20]), until_closed], lambda client: client.get("/")),
    "body": ([request, send(HEAD + b"half"), until_closed], lambda client: client.get("/")),
    "streamed body": ([request, send(HEAD + b"half"), until_closed], streamed),
    "large body written": ([request_head, stall], lambda client: client.post("/", body=LARGE)),
    "stream written": ([until_closed], lambda client: client.post("/", body=body())),
    "plain stream written": ([stall], lambda client: client.post("/", body=iter([LARGE] * 5))),
}


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("warm", [False, True], ids=["dialled", "warm"])
def test_cancelled(name: str, warm: bool, run: Run) -> None:
    script, work = PATHS[name]
    run(sweep([script], work, warm=warm))


def test_cancelled_in_tls_dial(run: Run) -> None:
    async def main() -> None:
        for k in range(21):
            with Upstream([request, until_closed], SERVES, tls=server_context()) as upstream:
                async with client_of(f"localhost:{upstream.port}", is_tls=True, tls_config=client_context()) as client:
                    task = asyncio.create_task(client.post("/", body=b"x"))
                    await ticks(k)
                    task.cancel()
                    await asyncio.wait([task])
                    stats = client.stats()
                    assert (stats.streams, stats.waiting) == (0, 0)
                    await until(lambda client=client: client.stats().dialing == 0, "the dial ended")  # type: ignore[misc]

    run(main())


def test_cancelled_while_it_is_dialled_again(run: Run) -> None:
    run(sweep([[request]], lambda client: client.get("/"), warm=True, waits=True))


def test_cancelled_between_retries(run: Run) -> None:
    run(sweep([CLOSES_AFTER_REQUEST, CLOSES_AFTER_REQUEST], lambda client: client.get("/"), waits=True))


def test_cancelled_when_the_answer_comes(run: Run) -> None:
    """The answer races with the cancellation: whichever wins, the next request gets its own."""

    async def main() -> None:
        echo: Script = [repeat(request, send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nold!"))]
        for k in range(21):
            with Upstream(echo, SERVES) as upstream:
                async with client_of(upstream, max_conns=1, max_conn_wait_timeout=20) as client:
                    await client.get("/")
                    task = asyncio.create_task(client.get("/"))
                    await asyncio.to_thread(upstream.wait_requests, 2)
                    await ticks(k)
                    task.cancel()
                    await asyncio.wait([task])
                    balanced(client)
                    expected = b"ok" if task.cancelled() else b"old!"
                    assert (await client.get("/next", timeout=20)).body == expected
                    assert upstream.accepted == (2 if task.cancelled() else 1)

    run(main())


def test_cancelled_while_it_waits(run: Run) -> None:
    """Also in the very tick in which it is given its connection: that goes to the next."""

    async def main() -> None:
        for k in range(21):
            gate = Gate()
            with Upstream([request, wait_for(gate), send(OK), repeat(request, send(OK))]) as upstream:
                async with client_of(upstream, max_conns=1, max_conn_wait_timeout=20) as client:
                    holder = asyncio.create_task(client.get("/1"))
                    await asyncio.to_thread(upstream.wait_requests, 1)
                    waiter = asyncio.create_task(client.get("/2"))
                    behind = asyncio.create_task(client.get("/3"))
                    await until(lambda client=client: client.stats().waiting == 2, "two waiters")  # type: ignore[misc]
                    gate.open()
                    if k % 2:
                        await holder
                    await ticks(k // 2)
                    waiter.cancel()
                    await asyncio.wait([waiter])
                    assert (await behind).body == b"ok"
                    await holder
                    balanced(client)
                    assert client.conns_count <= 1
                    assert upstream.accepted <= 2

    run(main())


def test_timeout_blocks_around_requests(run: Run) -> None:
    """asyncio.timeout cancels too; and is TimeoutError to its caller."""

    async def main() -> None:
        with Upstream([request, until_closed], SERVES) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await client.get("/")
                balanced(client)
                assert (await client.get("/")).body == b"ok"

    run(main())


def test_a_request_that_is_closed_instead_of_awaited_to_its_end(run: Run) -> None:
    """As a coroutine is when it is collected: its connection must not be anybody else's."""

    async def main() -> None:
        with Upstream([request, send(OK), request, until_closed], SERVES) as upstream:
            async with client_of(upstream) as client:
                await client.get("/")
                coroutine = client.get("/")
                assert coroutine.send(None) is not None
                assert client.stats().streams == 1
                coroutine.close()
                balanced(client, idle=0)
                await asyncio.to_thread(upstream.wait_closed, 1)
                assert (await client.get("/")).body == b"ok"

    run(main())
