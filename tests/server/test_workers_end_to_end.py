"""Workers and threads behind a server: what they cost, what they bound, and what they keep apart."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from httptools import HttpRequestParser

from fastserve import RequestConfig, RequestCtx
from fastserve.server.service import Service
from fastserve.testing import MemoryClient, MemoryServer
from tests.server.clients import GET, PATIENCE, Run, clients, count_tasks, get, serving, settled, turns

VAR: contextvars.ContextVar[Any] = contextvars.ContextVar("VAR")


def assert_at_rest(service: Service) -> None:
    pool = service.pool
    assert pool.busy == pool.waiting == 0
    assert pool.workers == pool.ready == len(pool.tasks)


def gated() -> tuple[Callable[[RequestCtx], Awaitable[None]], asyncio.Event, list[str]]:
    """A handler that waits for the event, and the paths that it was entered with."""
    gate = asyncio.Event()
    entered: list[str] = []

    async def handler(ctx: RequestCtx) -> None:
        entered.append(ctx.path)
        await gate.wait()
        ctx.set_body(ctx.path)

    return handler, gate, entered


# What a request costs: no task


async def one_served_one_waiting(server: MemoryServer) -> tuple[MemoryClient, MemoryClient]:
    """Clients of a server whose concurrency is 1, which have asked for ``/first`` and ``/second``."""
    first, second = server.connect(), server.connect()
    first.feed(get("/first"))
    second.feed(get("/second"))
    await turns()
    return first, second


async def returns(ctx: RequestCtx) -> None:
    ctx.set_body(b"hello")


async def yields(ctx: RequestCtx) -> None:
    await asyncio.sleep(0)
    ctx.set_body(b"hello")


async def waits(ctx: RequestCtx) -> None:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.0001, future.set_result, b"hello")
    ctx.set_body(await future)


async def streams(ctx: RequestCtx) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"hel"
        await asyncio.sleep(0)
        yield b"lo"

    ctx.set_body_stream(pieces(), 5)


async def uses_a_thread(ctx: RequestCtx) -> None:
    ctx.set_body(await ctx.run_in_thread(bytes, b"hello"))


def blocking(ctx: RequestCtx) -> None:
    ctx.set_body(b"hello")


@pytest.mark.parametrize("handler", [returns, yields, waits, streams, uses_a_thread, blocking])
def test_steady_state_creates_no_task_per_request_or_connection(run: Run, handler: Callable[[RequestCtx], Any]) -> None:
    async def main() -> None:
        async with serving(handler) as server:
            async with clients(server, 1) as (first,):
                assert await first.get() == b"hello"
                await turns()
                made = count_tasks()
                created = server.service.pool.created
                for _ in range(20):
                    assert await first.get() == b"hello"
            for _ in range(20):
                async with clients(server, 1) as (client,):
                    assert await client.get() == b"hello"
            await settled(lambda: not server.service.connections)
            assert made == []
            assert server.service.pool.created == created
            assert created == (0 if handler is blocking else 1)
            assert server.service.threads.created == (1 if handler in (uses_a_thread, blocking) else 0)
            await turns()
            assert_at_rest(server.service)
        asyncio.get_running_loop().set_task_factory(None)

    run(main())


def test_inline_handlers_need_neither_worker_nor_thread(run: Run) -> None:
    async def main() -> None:
        async with serving(blocking, inline=True) as server, clients(server, 2) as both:
            made = count_tasks()
            for client in both:
                assert await client.get() == b"hello"
            assert made == []
            assert server.service.pool.created == server.service.threads.created == 0
        asyncio.get_running_loop().set_task_factory(None)

    run(main())


def test_concurrent_requests_use_the_same_workers_again(run: Run) -> None:
    async def main() -> None:
        handler, gate, entered = gated()

        async with serving(handler) as server, clients(server, 20) as many:
            pool = server.service.pool
            made: list[str] = []
            for _ in range(3):
                entered.clear()
                gate.clear()
                for client in many:
                    await client.send(GET)
                await settled(lambda: len(entered) == 20)
                assert pool.busy == 20
                gate.set()
                for client in many:
                    assert (await client.read())[0] == 200
                await turns()
                assert_at_rest(server.service)
                assert made == []
                made = count_tasks()
            assert pool.created == 20
        asyncio.get_running_loop().set_task_factory(None)

    run(main())


def test_pipelined_requests_are_answered_in_order_by_one_worker(run: Run) -> None:
    async def main() -> None:
        async def handler(ctx: RequestCtx) -> None:
            if ctx.path.endswith("3"):
                await asyncio.sleep(0)
            ctx.set_body(ctx.path)

        async with serving(handler) as server, clients(server, 1) as (client,):
            await client.send(b"".join(get(f"/{n}") for n in range(25)))
            assert [(await client.read())[2] for _ in range(25)] == [b"/%d" % n for n in range(25)]
            assert server.service.pool.created == 1

    run(main())


def test_idle_connections_hold_no_worker(run: Run) -> None:
    async def main() -> None:
        async with serving(yields) as server, clients(server, 50) as many:
            for client in many:
                assert await client.get() == b"hello"
            await turns()
            assert len(server.service.connections) == 50
            assert_at_rest(server.service)
            assert server.service.pool.workers <= 2

    run(main())


def test_idle_workers_are_reaped_under_open_connections_which_are_served_on(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(yields, max_idle_worker_duration=10) as server:
            service = server.service
            many = [server.connect() for _ in range(5)]
            for client in many:
                client.feed(GET)
            for client in many:
                assert (await client.read_response()).status == 200
            await turns()
            assert service.pool.ready == 5
            server.advance(9.9)
            await turns()
            assert service.pool.ready == 5
            server.advance(0.1)
            await turns()
            assert service.pool.workers == len(service.pool.tasks) == 0
            assert len(service.connections) == 5
            for client in many:
                client.feed(GET)
                assert (await client.read_response()).body == b"hello"
            await turns()
            assert_at_rest(service)

    run(main())


# When all workers are busy


def test_full_pool_answers_503_with_retry_after_and_closes(run: Run) -> None:
    async def main() -> None:
        handler, gate, entered = gated()
        async with serving(handler, concurrency=2) as server, clients(server, 3) as (a, b, c):
            await a.send(get("/a"))
            await b.send(get("/b"))
            await settled(lambda: len(entered) == 2)
            await c.send(get("/c"))
            status, headers, _ = await c.read()
            assert status == 503
            assert int(headers["retry-after"]) > 0
            assert headers["connection"] == "close"
            await c.closed()
            gate.set()
            assert (await a.read())[2] == b"/a"
            assert (await b.read())[2] == b"/b"
            assert entered == ["/a", "/b"]
            assert await a.get("/again") == b"/again"

    run(main())


def test_refusal_of_a_pipelined_request_follows_the_responses_before_it(run: Run) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/wait":
                await gate.wait()
            ctx.set_body(ctx.path)

        async with MemoryServer(handler, concurrency=1) as server:
            warm = server.connect()
            warm.feed(get("/warm"))
            assert (await warm.read_response()).status == 200
            blocker, client = server.connect(), server.connect()
            blocker.feed(get("/wait"))
            await turns()
            assert server.service.pool.busy == 1
            client.feed(get("/1") + get("/2"))
            response = await client.read_response()
            assert response.status == 503
            await client.read_to_end()
            gate.set()
            assert (await blocker.read_response()).body == b"/wait"

    run(main())


def test_requests_wait_their_turn_first_come_first_served(run: Run) -> None:
    async def main() -> None:
        entered: list[str] = []
        gates: dict[str, asyncio.Event] = {}

        async def handler(ctx: RequestCtx) -> None:
            entered.append(ctx.path)
            gates[ctx.path] = asyncio.Event()
            await gates[ctx.path].wait()

        async with MemoryServer(handler, concurrency=3, max_worker_wait=5) as server:
            paths = [f"/{n}" for n in range(6)]
            all_clients = [server.connect() for _ in paths]
            for client, path in zip(all_clients, paths, strict=True):
                client.feed(get(path))
                await turns()
            assert (server.service.pool.busy, server.service.pool.waiting) == (3, 3)
            surplus = server.connect()
            surplus.feed(GET)
            assert (await surplus.read_response()).status == 503
            for place, path in enumerate(paths):
                gates[path].set()
                assert (await all_clients[place].read_response()).status == 200
                await turns()
                assert entered == paths[: place + 4]
            assert_at_rest(server.service)

    run(main())


def test_request_that_waited_too_long_gets_503(run: Run) -> None:
    async def main() -> None:
        handler, gate, entered = gated()
        async with MemoryServer(handler, concurrency=1, max_worker_wait=5) as server:
            first, second = await one_served_one_waiting(server)
            server.advance(4.9)
            await turns()
            assert server.service.pool.waiting == 1
            server.advance(1)
            response = await second.read_response()
            assert response.status == 503
            assert response.headers.get("Retry-After") is not None
            assert response.headers.get("Connection") == "close"
            gate.set()
            assert (await first.read_response()).body == b"/first"
            assert entered == ["/first"]

    run(main())


def test_waiting_request_is_not_refused_early_for_having_come_between_two_ticks(run: Run) -> None:
    async def main() -> None:
        handler, gate, _ = gated()
        async with MemoryServer(handler, concurrency=1, max_worker_wait=5) as server:
            first, second = await one_served_one_waiting(server)
            server.advance(5.4)  # 0.45 s of it had gone by since the last tick when the request came
            await turns()
            assert server.service.pool.waiting == 1
            server.advance(0.1)
            assert (await second.read_response()).status == 503
            gate.set()
            assert (await first.read_response()).status == 200

    run(main())


def test_waiting_request_whose_client_has_gone_is_not_run(run: Run) -> None:
    async def main() -> None:
        handler, gate, entered = gated()
        async with MemoryServer(handler, concurrency=1, max_worker_wait=5) as server:
            first, second = await one_served_one_waiting(server)
            second.reset()
            await turns()
            assert server.service.pool.waiting == 0
            gate.set()
            assert (await first.read_response()).status == 200
            await turns()
            assert entered == ["/first"]
            assert_at_rest(server.service)

    run(main())


# What must not pass from one request to the next


class Thing:
    """Something to be referred to weakly."""


def ends() -> Iterator[tuple[str, int]]:
    for step in ("", "waits, "):
        yield f"{step}returns", 200
        yield f"{step}raises", 500
    yield "waits, is cancelled", 500


@pytest.mark.parametrize(("how", "status"), list(ends()))
def test_nothing_of_a_finished_request_is_held(run: Run, how: str, status: int) -> None:
    async def main() -> None:
        died: list[weakref.ref[Any]] = []

        async def handler(ctx: RequestCtx) -> None:
            thing = Thing()
            died.append(weakref.ref(thing))
            assert VAR.get(None) is None
            assert not ctx.user_values
            VAR.set(thing)
            ctx.set_user_value("thing", thing)
            if "waits" in how:
                await asyncio.sleep(0)
            if "cancelled" in how:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            if "raises" in how:
                raise ValueError(thing)

        async with serving(handler) as server, clients(server, 1) as (client,):
            for _ in range(4):
                await client.send(GET)
                assert (await client.read())[0] == status
                await turns()
            gc.collect()
            assert [ref() for ref in died] == [None] * 4
            assert_at_rest(server.service)

    logging.getLogger("fastserve").disabled = True  # pytest keeps what is logged, with its traceback
    try:
        run(main())
    finally:
        logging.getLogger("fastserve").disabled = False


def test_context_variables_do_not_pass_to_later_requests_in_threads_either(run: Run) -> None:
    async def main() -> None:
        def handler(ctx: RequestCtx) -> None:
            ctx.set_body(str(VAR.get("unset")))
            VAR.set("by the handler")

        for inline in (False, True):
            async with serving(handler, inline=inline) as server, clients(server, 1) as (client,):
                for _ in range(3):
                    assert await client.get() == b"unset"

    run(main())


def test_server_context_is_seen_by_every_handler(run: Run) -> None:
    async def main() -> None:
        VAR.set("of the program")

        async def handler(ctx: RequestCtx) -> None:
            ctx.set_body(VAR.get() + " " + await ctx.run_in_thread(VAR.get))

        async with serving(handler) as server, clients(server, 1) as (client,):
            for _ in range(2):
                assert await client.get() == b"of the program of the program"

    run(main())


def test_context_variables_set_by_a_plain_decorator_reach_the_handler_and_nobody_else(run: Run) -> None:
    async def main() -> None:
        seen: list[Any] = []

        async def handler(ctx: RequestCtx) -> None:
            seen.append(VAR.get(None))

        @functools.wraps(handler)
        def decorated(ctx: RequestCtx) -> Awaitable[None]:
            seen.append(VAR.get(None))
            VAR.set(ctx.path)
            return handler(ctx)

        async with serving(decorated) as server, clients(server, 1) as (client,):
            for path in ("/1", "/2", "/3"):
                await client.get(path)
            assert seen == [None, "/1", None, "/2", None, "/3"]

    run(main())


def test_context_of_a_request_does_not_stay_with_its_connection(run: Run) -> None:
    """A handler that reads its body makes the transport read on; what the transport calls later runs elsewhere."""

    async def main() -> None:
        seen: list[Any] = []
        died: list[weakref.ref[Any]] = []

        def header_received(ctx: RequestCtx) -> RequestConfig | None:
            seen.append(VAR.get(None))
            return None

        async def handler(ctx: RequestCtx) -> None:
            thing = Thing()
            died.append(weakref.ref(thing))
            VAR.set(thing)
            size = 0
            await asyncio.sleep(0.01)  # the body is held up meanwhile: that is the subject
            async for piece in ctx.request_body_stream:
                size += len(piece)
                if size == first:
                    all_but_the_end.set()
            ctx.set_body(str(size))

        first = 3_000_000
        all_but_the_end = asyncio.Event()
        async with (
            serving(handler, stream_request_body=True, header_received=header_received) as server,
            clients(server, 1) as (client,),
        ):
            for _ in range(2):
                all_but_the_end.clear()
                await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (first + 3))
                await client.send(bytes(first))
                await all_but_the_end.wait()
                await client.send(b"end")
                assert (await client.read())[2] == b"%d" % (first + 3)
            await turns()
            assert seen == [None, None]
            gc.collect()
            assert [ref() for ref in died] == [None, None]

    run(main())


def test_ctx_that_nobody_keeps_is_used_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def handler(ctx: RequestCtx) -> None:
            seen.append(id(ctx))
            ctx.set_body(ctx.path)

        async with serving(handler) as server, clients(server, 2) as both:
            service = server.service
            await both[0].get("/warm-up")  # its worker is new: it is not done in place
            made = 0

            def counted(callbacks: object) -> HttpRequestParser:  # each context has a parser
                nonlocal made
                made += 1
                return HttpRequestParser(callbacks)

            monkeypatch.setattr("fastserve.http1.parser.HttpRequestParser", counted)
            await both[0].get()
            await both[1].get()
            one, other = seen[-2:]  # no reference: it would not be used again
            assert one != other  # each stays with its connection
            seen.clear()
            for n in range(4):
                assert await both[n % 2].get(f"/{n}") == b"/%d" % n
            await both[0].send(get("/5") + get("/6") + get("/7"))
            assert [(await both[0].read())[2] for _ in range(3)] == [b"/5", b"/6", b"/7"]
            assert seen == [one, other] * 2 + [one] * 3
            assert service.contexts == []
            assert made <= 2

            # Those of connections that have become idle are for everybody.
            for later in (1.0, 2.0):
                service.clock = lambda later=later: asyncio.get_running_loop().time() + later  # type: ignore[misc]
                service.set_time()
            service.sweep()
            assert set(map(id, service.contexts)) == {one, other}
            seen.clear()
            await both[1].get()
            assert {*seen, *map(id, service.contexts)} == {one, other}
            assert made <= 2

    run(main())


def test_few_connections_keep_a_ctx_between_requests(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.server.service.MAX_KEPT_CONTEXTS", 2)

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(ctx.path)

    async def main() -> None:
        async with serving(handler) as server, clients(server, 4) as four:
            service = server.service
            for n in range(8):
                assert await four[n % 4].get(f"/{n}") == b"/%d" % n
            assert sum(connection._ctx is not None for connection in service.connections) == 2  # type: ignore[attr-defined]
            assert len(service.contexts) == 1

    run(main())


@pytest.mark.parametrize("part", ["ctx", "request", "response", "task"])
@pytest.mark.parametrize("how", ["in place", "waits", "thread"])
@pytest.mark.parametrize("pipelined", [False, True])
def test_what_a_handler_keeps_keeps_what_it_saw(run: Run, part: str, how: str, pipelined: bool) -> None:
    async def main() -> None:
        kept: list[Any] = []
        tasks: list[asyncio.Task[None]] = []
        release = asyncio.Event()

        async def later(ctx: RequestCtx) -> None:
            await release.wait()
            kept.append(ctx)

        loop = asyncio.get_running_loop()

        def handle(ctx: RequestCtx) -> None:
            ctx.set_status_code(230 + int(ctx.path[1:]))
            ctx.set_user_value("path", ctx.path)
            ctx.set_body(ctx.path)
            if part == "task":
                loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(later(ctx))))
            else:
                kept.append(ctx if part == "ctx" else getattr(ctx, part))

        async def handle_on_loop(ctx: RequestCtx) -> None:
            if how == "waits":
                await asyncio.sleep(0)
            handle(ctx)

        async with (
            serving(handle if how == "thread" else handle_on_loop) as server,
            clients(server, 1) as (client,),
        ):
            if pipelined:
                await client.send(b"".join(get(f"/{n}?q={n}") for n in range(5)))
            for n in range(5):
                if not pipelined:
                    await client.send(get(f"/{n}?q={n}"))
                status, _, body = await client.read()
                assert (status, body) == (230 + n, b"/%d" % n)
            await settled(lambda: len(tasks) + len(kept) == 5)
            release.set()
            await asyncio.gather(*tasks)
            assert len({id(thing) for thing in kept}) == 5
            if part != "response":  # that was sent; that it is nobody else's is what counts
                assert sorted(thing.path for thing in kept) == [f"/{n}" for n in range(5)]
                assert all(thing.path == "/" + thing.query_args.get("q") for thing in kept)

    run(main())


@pytest.mark.parametrize("handler", [yields, waits, blocking])
def test_ctx_of_a_handler_that_waited_is_used_again_too(run: Run, handler: Callable[[RequestCtx], Any]) -> None:
    async def main() -> None:
        async with serving(handler) as server, clients(server, 1) as (client,):
            await client.get()
            await turns()
            (spare,) = map(id, server.service.contexts)
            for _ in range(5):
                await client.get()
                await turns()
                assert list(map(id, server.service.contexts)) == [spare]

    run(main())


def test_kept_ctx_can_not_reach_the_next_request_of_its_connection(run: Run) -> None:
    async def main() -> None:
        kept: list[RequestCtx] = []

        async def handler(ctx: RequestCtx) -> None:
            if kept:
                kept[0].set_body(b"from the grave")
                assert kept[0] is not ctx
                assert not ctx.user_values
            else:
                ctx.set_user_value("of", "the first")
                kept.append(ctx)
            ctx.set_body(b"own")

        async with serving(handler) as server, clients(server, 1) as (client,):
            await client.get("/warm-up")
            for _ in range(3):
                assert await client.get() == b"own"

    run(main())


def test_cancelled_request_does_not_cancel_the_next_one(run: Run) -> None:
    async def main() -> None:
        entered = asyncio.Event()
        ended: list[str] = []

        async def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/wait":
                entered.set()
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise
            task = asyncio.current_task()
            assert task is not None
            await asyncio.sleep(0)
            ctx.set_body(str(task.cancelling()))

        async with serving(handler, cancel_on_disconnect=True, concurrency=1, max_worker_wait=5) as server:
            for _ in range(3):
                entered.clear()
                async with clients(server, 1) as (client,):
                    await client.send(get("/wait"))
                    await entered.wait()
                async with clients(server, 1) as (client,):
                    assert await client.get() == b"0"
            assert ended == ["cancelled"] * 3
            await turns()
            assert_at_rest(server.service)

    run(main())


def test_server_recovers_when_a_user_cancels_every_task(run: Run) -> None:
    async def main() -> None:
        handler, gate, entered = gated()
        async with serving(handler) as server, clients(server, 3) as (a, b, c):
            await a.send(get("/a"))
            await b.send(get("/b"))
            await settled(lambda: len(entered) == 2)
            gate.set()
            assert (await a.read())[0] == (await b.read())[0] == 200
            gate.clear()
            await a.send(get("/again"))
            await settled(lambda: len(entered) == 3)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                if task.get_name().startswith("fastserve-worker"):
                    task.cancel()
            assert (await a.read())[0] == 500
            gate.set()
            for client in (a, b, c):
                assert await client.get("/after") == b"/after"
            await turns()
            assert_at_rest(server.service)

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, ValueError])
@pytest.mark.parametrize("threads", [False, True])
def test_handler_that_raises_ends_its_request_only(
    run: Run, kind: type[BaseException], threads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def asynchronous(ctx: RequestCtx) -> None:
            if ctx.path == "/waits":
                await asyncio.sleep(0)
            if ctx.path != "/":
                raise kind

        def plain(ctx: RequestCtx) -> None:
            if ctx.path != "/":
                raise kind

        async with serving(plain if threads else asynchronous) as server, clients(server, 1) as (client,):
            for _ in range(2):
                for path in ("/raises", "/waits"):
                    await client.send(get(path))
                    assert (await client.read())[0] == 500
                    await client.get()
            await turns()
            assert_at_rest(server.service)
            assert server.service.pool.created == (0 if threads else 1)

    run(main())
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert logged == ([] if kind is asyncio.CancelledError else [kind] * 4)


# Handlers that block


def test_blocking_handlers_share_the_threads_and_hold_up_nobody_else(run: Run) -> None:
    async def main() -> None:
        async def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/slow":
                await ctx.run_in_thread(time.sleep, 0.1)
            ctx.set_body(ctx.path)

        async with (
            serving(handler, threads=64) as server,
            clients(server, 200) as many,
            clients(server, 1) as (health,),
        ):
            assert await health.get("/health") == b"/health"
            began = time.monotonic()
            for client in many:
                await client.send(get("/slow"))
            await settled(lambda: server.service.threads.running == 64)
            slowest = 0.0
            answered = 0
            while server.service.threads.waiting:
                asked = time.monotonic()
                assert await health.get("/health") == b"/health"
                slowest = max(slowest, time.monotonic() - asked)
                answered += 1
                await asyncio.sleep(0.005)
            for client in many:
                assert (await client.read())[0] == 200
            took = time.monotonic() - began
            assert 0.39 <= took < 1.0
            assert answered >= 3
            assert slowest < 0.05
            assert server.service.threads.created <= 64

    run(main())


def test_200_requests_to_a_def_handler_that_blocks_take_four_rounds_of_64_threads(run: Run) -> None:
    async def main() -> None:
        lock = threading.Lock()
        now = most = 0

        def handler(ctx: RequestCtx) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.1)
            with lock:
                now -= 1

        async with serving(handler, threads=64) as server, clients(server, 200) as many:
            began = time.monotonic()
            for client in many:
                await client.send(GET)
            for client in many:
                assert (await client.read())[0] == 200
            took = time.monotonic() - began
            assert 0.39 <= took < 1.0
            assert most == server.service.threads.created == 64
            assert server.service.pool.created == 0

    run(main())


def test_one_blocked_def_handler_does_not_delay_other_connections(run: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        entered = asyncio.Event()
        release = threading.Event()

        def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/blocked":
                loop.call_soon_threadsafe(entered.set)
                assert release.wait(PATIENCE)
            ctx.set_body(ctx.path)

        async with serving(handler) as server, clients(server, 2) as (blocked, other):
            await blocked.send(get("/blocked"))
            await entered.wait()
            for n in range(20):
                assert await other.get(f"/{n}") == b"/%d" % n
            release.set()
            assert (await blocked.read())[2] == b"/blocked"

    run(main())


def test_quick_def_handlers_of_one_connection_use_one_thread(run: Run) -> None:
    async def main() -> None:
        threads = set()

        def handler(ctx: RequestCtx) -> None:
            threads.add(threading.get_ident())

        async with serving(handler) as server, clients(server, 1) as (client,):
            for _ in range(100):
                await client.get()
            assert len(threads) == server.service.threads.created == 1

    run(main())


def test_request_that_finds_no_thread_in_time_gets_503(run: Run) -> None:
    async def main() -> None:
        release = threading.Event()
        ran: list[str] = []

        def block(path: str) -> None:
            ran.append(path)
            assert release.wait(PATIENCE)

        def plain(ctx: RequestCtx) -> None:
            block(ctx.path)

        async def asynchronous(ctx: RequestCtx) -> None:
            await ctx.run_in_thread(block, ctx.path)

        for handler in (plain, asynchronous):
            ran.clear()
            release.clear()
            async with MemoryServer(handler, threads=1, max_thread_wait=5) as server:
                first, second = server.connect(), server.connect()
                first.feed(get("/first"))
                await settled(lambda: len(ran) == 1)
                second.feed(get("/second"))
                await settled(lambda: server.service.threads.waiting == 1)
                server.advance(4.9)
                await turns()
                assert server.service.threads.waiting == 1
                server.advance(1)
                response = await second.read_response()
                assert response.status == 503
                assert response.headers.get("Retry-After") is not None
                release.set()
                assert (await first.read_response()).status == 200
                assert ran == ["/first"]

    run(main())


def test_concurrency_bounds_def_handlers_too(run: Run) -> None:
    async def main() -> None:
        release = threading.Event()

        def handler(ctx: RequestCtx) -> None:
            assert release.wait(PATIENCE)

        async with serving(handler, threads=1, concurrency=2) as server, clients(server, 3) as (a, b, c):
            await a.send(GET)
            await b.send(GET)
            await settled(lambda: server.service.threads.running + server.service.threads.waiting == 2)
            await c.send(GET)
            status, headers, _ = await c.read()
            assert status == 503
            assert "retry-after" in headers
            await c.closed()
            release.set()
            assert (await a.read())[0] == (await b.read())[0] == 200

    run(main())


def test_waiting_request_of_a_client_that_has_gone_takes_no_thread(run: Run) -> None:
    async def main() -> None:
        release = threading.Event()
        ran: list[str] = []

        def handler(ctx: RequestCtx) -> None:
            ran.append(ctx.path)
            assert release.wait(PATIENCE)

        async with MemoryServer(handler, threads=1) as server:
            first, second = server.connect(), server.connect()
            first.feed(get("/first"))
            await settled(lambda: len(ran) == 1)
            second.feed(get("/second"))
            await settled(lambda: server.service.threads.waiting == 1)
            second.reset()
            await settled(lambda: server.service.threads.waiting == 0)
            release.set()
            assert (await first.read_response()).status == 200
            assert ran == ["/first"]

    run(main())


@pytest.mark.parametrize("inline", [False, True])
def test_def_handler_that_returns_a_coroutine_is_told_so(
    run: Run, inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def forgotten(ctx: RequestCtx) -> None:
            pass

        def handler(ctx: RequestCtx) -> Any:
            return forgotten(ctx)

        async with serving(handler, inline=inline) as server, clients(server, 1) as (client,):
            await client.send(GET)
            assert (await client.read())[0] == 500

    run(main())
    (record,) = caplog.records
    assert record.exc_info is not None
    text = str(record.exc_info[1])
    assert "handler is a plain function but returned a coroutine" in text
    assert "async def" in text


def test_run_in_thread_gives_results_and_exceptions(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def handler(ctx: RequestCtx) -> None:
            if ctx.path == "/divmod":
                ctx.set_json(await ctx.run_in_thread(divmod, 17, 5))
            elif ctx.path == "/caught":
                with pytest.raises(ZeroDivisionError):
                    await ctx.run_in_thread(divmod, 1, 0)
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await ctx.run_in_thread(next, iter([]))
            elif ctx.path == "/timeout":
                release = threading.Event()
                try:
                    async with asyncio.timeout(0.01):
                        await ctx.run_in_thread(release.wait, PATIENCE)
                except TimeoutError:
                    ctx.set_body(b"timed out")
                finally:
                    release.set()
            else:
                await ctx.run_in_thread(divmod, 1, 0)

        async with serving(handler) as server, clients(server, 1) as (client,):
            for _ in range(2):
                assert await client.get("/divmod") == b"[3, 2]"
                await client.get("/caught")
                assert await client.get("/timeout") == b"timed out"
                await client.send(get("/not-caught"))
                assert (await client.read())[0] == 500

    run(main())
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 2


def test_idle_threads_are_reaped_under_open_connections(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(blocking, max_idle_worker_duration=10) as server:
            threads = server.service.threads
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).status == 200
            await settled(lambda: threads.ready == threads.threads > 0)
            server.advance(10)
            await settled(lambda: threads.threads == 0)
            client.feed(GET)
            assert (await client.read_response()).body == b"hello"

    run(main())


@pytest.mark.parametrize("kind", ["in place", "waits"])
@pytest.mark.parametrize("name", ["set_body", "set_content_type", "set_status_code"])
def test_a_method_that_a_handler_kept_writes_into_no_other_response(run: Run, kind: str, name: str) -> None:
    """A bound method holds its RequestCtx, and so is seen as somebody who kept it."""
    value: Any = {"set_body": b"late", "set_content_type": "text/late", "set_status_code": 418}[name]

    async def main() -> None:
        kept: list[Any] = []

        async def handler(ctx: RequestCtx) -> None:
            if kind == "waits":
                await asyncio.sleep(0)
            ctx.set_body(b"own")
            if ctx.path == "/first":
                kept.append(getattr(ctx, name))
            for write in kept:
                write(value)
            if ctx.path != "/first":
                kept.clear()

        async with MemoryServer(handler) as server:
            for _ in range(2):
                client = server.connect()
                client.feed(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
                await client.read_response()
            client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            response = await client.read_response()
            assert (response.status, response.body) == (200, b"own")
            assert response.headers["content-type"] == "text/plain; charset=utf-8"

    run(main())


@pytest.mark.parametrize("how", ["in place", "waits", "thread"])
def test_a_form_is_not_held_until_the_next_request(run: Run, how: str) -> None:
    """Contexts wait for the next request by the hundred, and a form may be as large as a body."""

    def look(ctx: RequestCtx) -> None:
        ctx.set_body(ctx.form_value("a") or "")

    async def look_later(ctx: RequestCtx) -> None:
        if how == "waits":
            await asyncio.sleep(0)
        look(ctx)

    async def main() -> None:
        async with serving(look if how == "thread" else look_later) as server, clients(server, 1) as (client,):
            for _ in range(3):
                await client.send(
                    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                    b"Content-Length: 3\r\n\r\na=1"
                )
                assert (await client.read())[2] == b"1"
            await turns()
            kept = [connection._ctx for connection in server.service.connections]  # type: ignore[attr-defined]
            contexts = [ctx for ctx in [*server.service.contexts, *kept] if ctx is not None]
            assert [(ctx._request.surface, ctx._request.body) for ctx in contexts] == [(None, b"")]

    run(main())
