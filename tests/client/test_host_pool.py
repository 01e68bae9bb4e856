"""HostClient and its pool: who waits for whom, what is counted, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from fastserve import ClientClosed, HostClient, NoFreeConns, PoolError, ResponseHeadTimeout, ServerThread
from fastserve.server.ctx import RequestCtx
from tests.client.scripts import (
    SAYS_NOTHING,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    OK,
    PATIENCE,
    SERVES,
    Gate,
    Upstream,
    repeat,
    request,
    send,
    stall,
    wait_for,
)
from tests.conftest import FACTORIES


def test_64_tasks_on_4_connections_are_served_first_come_first_served(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream([repeat(request, wait_for(gate), send(OK))]) as upstream:
            async with client_of(upstream, max_conns=4, max_conn_wait_timeout=20) as client:
                done: list[int] = []

                async def one(number: int) -> None:
                    assert (await client.get(f"/{number}")).body == b"ok"
                    done.append(number)

                tasks = [asyncio.create_task(one(n)) for n in range(64)]
                await asyncio.to_thread(upstream.wait_requests, 4)
                assert client.stats().waiting == 60
                assert client.pending_requests == 64
                assert client.conns_count == 4
                for served in range(64):
                    gate.release()
                    await until(lambda served=served: len(done) > served, "one more")  # type: ignore[misc]
                    await asyncio.to_thread(upstream.wait_requests, min(64, served + 5))
                await asyncio.gather(*tasks)
                order = [int(r.split()[1][1:]) for r in upstream.requests]
                assert sorted(order[:4]) == [0, 1, 2, 3]
                assert order[4:] == list(range(4, 64))
                assert upstream.accepted == 4
                stats = client.stats()
                assert (stats.waits, stats.timeouts) == (60, 0)
                balanced(client, idle=4)

    run(main())


def test_waiters_share_the_waiting(run: Run) -> None:
    """64 tasks, each many times, on 4 connections: all get their turn, and the longest wait is near the median."""

    async def main() -> None:
        def handler(ctx: RequestCtx) -> None:
            ctx.set_body(b"hello")

        with ServerThread(handler, inline=True) as server:
            async with client_of(server.port, max_conns=4, max_conn_wait_timeout=20) as client:
                counts = [0] * 64
                stop = False

                async def one(number: int) -> None:
                    while not stop:
                        assert (await client.get("/")).body == b"hello"
                        counts[number] += 1

                tasks = [asyncio.create_task(one(n)) for n in range(64)]
                await until(lambda: min(counts) >= 20, "twenty turns each")
                spread = max(counts) - min(counts)
                stop = True
                await asyncio.gather(*tasks)
                assert spread <= 2
                balanced(client, idle=4)

    run(main())


def test_no_wait_by_default(run: Run) -> None:
    async def main() -> None:
        with Upstream([request, *SAYS_NOTHING]) as upstream:
            async with client_of(upstream, max_conns=1) as client:
                first = asyncio.create_task(client.get("/"))
                await asyncio.to_thread(upstream.wait_requests, 1)
                with pytest.raises(NoFreeConns, match="max_conn_wait_timeout") as caught:
                    await client.get("/")
                assert caught.value.phase == "wait"
                first.cancel()
                await asyncio.wait([first])
                balanced(client, idle=0)

    run(main())


def test_close_with_requests_under_way_and_waiting(run: Run) -> None:
    async def main() -> None:
        with Upstream(SAYS_NOTHING) as upstream:
            async with client_of(upstream, max_conns=3, max_conn_wait_timeout=20) as client:

                async def streamed() -> None:
                    async with client.stream("POST", "/", body=iter([b"x" * 10_000_000])):
                        pass

                work = [client.get("/"), client.post("/", body=b"x"), streamed(), client.get("/")]
                tasks = [asyncio.ensure_future(each) for each in work]
                await asyncio.to_thread(upstream.wait_accepted, 3)
                await until(lambda: client.stats().streams == 3, "three under way")
                assert client.stats().waiting == 1
                await client.aclose()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    assert type(result) is ClientClosed, repr(result)
                    assert result.elapsed > 0
                await asyncio.to_thread(upstream.wait_closed, 3)
                with pytest.raises(ClientClosed):
                    await client.get("/")
                await client.aclose()  # again: nothing to do

    run(main())


def test_close_while_a_streamed_body_is_read(run: Run) -> None:
    async def main() -> None:
        script = [request, send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), *SAYS_NOTHING]
        with Upstream(script) as upstream:
            async with client_of(upstream) as client, client.stream("GET", "/") as response:
                assert response.stream is not None
                assert await anext(response.stream) == b"half"  # type: ignore[arg-type]
                reading = asyncio.ensure_future(anext(response.stream))  # type: ignore[arg-type]
                await asyncio.sleep(0)
                await client.aclose()
                with pytest.raises(ClientClosed) as caught:
                    await reading
                assert caught.value.phase == "body"
                with pytest.raises(ClientClosed):
                    await response.stream.read()  # type: ignore[union-attr]

    run(main())


def test_close_waits_for_requests_under_way(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream([request, wait_for(gate), send(OK)]) as upstream:
            async with client_of(upstream) as client:
                task = asyncio.create_task(client.get("/"))
                await asyncio.to_thread(upstream.wait_requests, 1)
                closing = asyncio.create_task(client.aclose(20))
                await asyncio.sleep(0)
                with pytest.raises(ClientClosed):
                    await client.get("/")
                assert not closing.done()
                gate.open()
                assert (await task).body == b"ok"
                await closing

    run(main())


def test_close_while_it_dials(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            dialling = asyncio.Event()

            async def dial(factory: object) -> object:
                dialling.set()
                return await asyncio.Event().wait()

            async with client_of(upstream, dial=dial) as client:
                task = asyncio.create_task(client.get("/"))
                await dialling.wait()
                await client.aclose()
                with pytest.raises(ClientClosed):
                    await task

    run(main())


def test_counts(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream([repeat(request, wait_for(gate), send(OK))]) as upstream:
            async with client_of(upstream) as client:
                assert (client.conns_count, client.idle_conns_count, client.pending_requests) == (0, 0, 0)
                assert client.last_use_time == 0.0
                before = time.monotonic()
                tasks = [asyncio.create_task(client.get("/")) for _ in range(3)]
                await asyncio.to_thread(upstream.wait_requests, 3)
                assert (client.conns_count, client.idle_conns_count, client.pending_requests) == (3, 0, 3)
                gate.open()
                await asyncio.gather(*tasks)
                assert (client.conns_count, client.idle_conns_count, client.pending_requests) == (3, 3, 0)
                assert before <= client.last_use_time <= time.monotonic()
                assert repr(client) == f"<HostClient 127.0.0.1:{upstream.port}: 3 connections, 3 idle, 0 waiting>"
                client.close_idle_connections()
                assert (client.conns_count, client.idle_conns_count) == (0, 0)
                await asyncio.to_thread(upstream.wait_closed, 3)
                assert (await client.get("/")).body == b"ok"

    run(main())


def test_set_max_conns(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        with Upstream([repeat(request, wait_for(gate), send(OK))]) as upstream:
            async with client_of(upstream, max_conns=1, max_conn_wait_timeout=20) as client:
                tasks = [asyncio.create_task(client.get("/")) for _ in range(3)]
                await asyncio.to_thread(upstream.wait_requests, 1)
                assert client.stats().waiting == 2
                client.set_max_conns(3)
                await asyncio.to_thread(upstream.wait_requests, 3)
                client.set_max_conns(1)
                gate.open()
                await asyncio.gather(*tasks)
                balanced(client, idle=1)
                with pytest.raises(ValueError, match="max_conns"):
                    client.set_max_conns(0)

    run(main())


def test_idle_connections_are_closed_in_time(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream, max_idle_conn_duration=0.05) as client:
                await client.get("/")
                balanced(client, idle=1)
                await asyncio.to_thread(upstream.wait_closed, 1)
                balanced(client, idle=0)
                assert client.stats().closed["idle"] == 1

    run(main())


def test_max_conn_duration(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES) as upstream:
            async with client_of(upstream, max_conn_duration=0.05) as client:
                await client.get("/")
                await asyncio.to_thread(upstream.wait_closed, 1)
                balanced(client, idle=0)
                assert client.stats().closed["lifetime"] == 1

    run(main())


@pytest.mark.parametrize("strategy", ["lifo", "fifo"])
def test_conn_pool_strategy(strategy: str, run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        scripts = [[request, wait_for(gate), send(OK), repeat(request, send(OK))] for _ in range(2)]
        with Upstream(*scripts) as upstream:
            async with client_of(upstream, conn_pool_strategy=strategy) as client:
                tasks = [asyncio.create_task(client.get("/")) for _ in range(2)]
                await asyncio.to_thread(upstream.wait_requests, 2)
                gate.open()
                await asyncio.gather(*tasks)
                for _ in range(4):
                    await client.get("/again")
                again = [peer.received.count(b"GET /again") for peer in upstream.connections]
                assert sorted(again) == ([0, 4] if strategy == "lifo" else [2, 2])

    run(main())


def test_a_client_from_outside_of_a_loop_and_never_used(run: Run) -> None:
    client = HostClient("127.0.0.1:1")

    async def main() -> None:
        assert client.conns_count == 0
        async with client:
            pass

    run(main())


@pytest.mark.parametrize("kind", list(FACTORIES))
@pytest.mark.parametrize("idle", [0, 1])
def test_a_second_loop_gets_a_clear_error(kind: str, idle: int) -> None:
    with Upstream(SERVES) as upstream:
        client = HostClient(f"127.0.0.1:{upstream.port}")

        async def first() -> None:
            await client.get("/")
            if not idle:
                client.close_idle_connections()
                await until(lambda: not client._connections, "closed")

        async def second() -> None:
            for _ in range(2):
                with pytest.raises(PoolError, match="another event loop"):
                    await client.post("/", body=b"x")

        one, two = FACTORIES[kind](), FACTORIES[kind]()
        try:
            one.run_until_complete(first())
            two.run_until_complete(second())
            one.run_until_complete(client.aclose())
            balanced(client, idle=0)
        finally:
            one.close()
            two.close()


# Of a connection whose loop was closed before it: nobody can close its transport any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("timeout", [None, 1.0])
def test_a_client_of_a_loop_that_is_closed(timeout: float | None, caplog: pytest.LogCaptureFixture) -> None:
    """With a timeout its timer is asked for something, which raises before anything can be awaited. uvloop's can't be closed
    with a connection open.
    """

    def case(client: HostClient) -> None:
        async def first() -> None:
            await client.get("/")

        async def second() -> None:
            with pytest.raises(PoolError, match="another event loop") as told:
                await client.get("/", timeout=timeout)
            assert told.value.phase == "write"
            assert told.value.elapsed > 0
            assert isinstance(told.value.__cause__, RuntimeError)

        asyncio.run(first())
        asyncio.run(second())

    with Upstream([request, send(OK), stall]) as upstream:
        case(HostClient(f"127.0.0.1:{upstream.port}"))
        gc.collect()
    assert not caplog.records


@pytest.mark.parametrize("kind", list(FACTORIES))
def test_a_second_loop_leaves_the_deadlines_of_the_first_alone(kind: str) -> None:
    told: list[dict[str, Any]] = []
    with Upstream([request, send(OK), stall], [request, send(OK), stall], [request, stall]) as upstream:
        client = HostClient(f"127.0.0.1:{upstream.port}", read_timeout=0.2)

        async def warm() -> None:
            await asyncio.gather(client.get("/"), client.get("/"))

        async def second() -> None:
            with pytest.raises(PoolError, match="another event loop"):
                await client.get("/", timeout=0.05)

        async def slow() -> None:
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(ResponseHeadTimeout):
                    await client.get("/")

        one, two = FACTORIES[kind](), FACTORIES[kind]()
        one.set_exception_handler(lambda loop, context: told.append(context))
        try:
            one.run_until_complete(warm())
            two.run_until_complete(second())
            two.close()
            one.run_until_complete(slow())
            one.run_until_complete(client.aclose())
            balanced(client, idle=0)
        finally:
            one.close()
            two.close()
    gc.collect()
    assert told == []
