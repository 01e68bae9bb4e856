"""`Turn`: a waiting request is written by whoever gives the connection back, and its task is woken once, by the response."""

from __future__ import annotations

import asyncio
import gc
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from fastserve import ClientClosed, HostClient, NoFreeConns, RequestTimeout
from fastserve.client.connection import ClientConnection
from fastserve.pool.conn import PooledConn
from tests.client.support import Run, balanced, ticks, until
from tests.client.upstream import OK


class Wire(asyncio.Transport):
    """What was written, of one connection in memory."""

    def __init__(self, conn: ClientConnection) -> None:
        super().__init__()
        self.conn = conn
        self.written: list[bytes] = []
        self.closed = False

    @property
    def targets(self) -> list[bytes]:
        return [data.split(b" ")[1] for data in self.written]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.conn.connection_lost, None)


class Wires:
    """The connections that a client has dialled, one after another."""

    def __init__(self) -> None:
        self.dialled: list[Wire] = []

    async def dial(self, factory: Callable[[], Any]) -> tuple[Any, Any]:
        conn = factory()
        wire = Wire(conn)
        conn.connection_made(wire)
        self.dialled.append(wire)
        return wire, conn


Held = PooledConn[ClientConnection]
Case = Callable[[HostClient, Wires, Held, list[asyncio.Task[Any]]], Any]


def waiting(run: Run, waiters: int, case: Case, **options: Any) -> None:
    """`case` with the one connection of a client held, and so many requests waiting: /0, /1, ..."""

    async def main() -> None:
        wires = Wires()
        given: dict[str, Any] = {"max_conns": 1, "max_conn_wait_timeout": 5.0, "dial": wires.dial} | options
        client = HostClient("127.0.0.1:80", **given)
        held = await client._pool.acquire()
        tasks = [asyncio.create_task(client.get(f"/{n}")) for n in range(waiters)]
        await asyncio.sleep(0)
        assert client.stats().waiting == waiters
        try:
            await case(client, wires, held, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.aclose()
        balanced(client, idle=0)

    run(main())


def test_it_is_written_in_the_release(run: Run) -> None:
    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        (wire,) = wires.dialled
        client._pool.release(held)
        assert wire.targets == [b"/0"]
        assert client.stats().waiting == 1
        wire.conn.data_received(OK)
        assert (await tasks[0]).body == b"ok"
        assert wire.targets == [b"/0", b"/1"]  # by the first one's task, when that gave the connection back
        wire.conn.data_received(OK)
        assert (await tasks[1]).body == b"ok"
        balanced(client, idle=1)

    waiting(run, 2, case)


def test_a_wait_costs_one_wake_up(run: Run) -> None:
    steps = 0

    @types.coroutine
    def counted(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        nonlocal steps
        while True:
            steps += 1
            try:
                future = coroutine.send(None)
            except StopIteration as end:
                return end.value
            yield future

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        async def get() -> Any:
            return await counted(client.get("/counted"))

        task = asyncio.create_task(get())
        await ticks(1)
        assert steps == 1
        client._pool.release(held)
        await ticks(5)
        assert steps == 1
        (wire,) = wires.dialled
        for _ in range(2):
            wire.conn.data_received(OK)
            await ticks(2)
        assert (await task).body == b"ok"
        assert wire.targets == [b"/0", b"/counted"]
        assert steps == 2

    waiting(run, 1, case)


def test_what_cannot_be_sent_twice_is_written_a_turn_later(run: Run) -> None:
    """The upstream closes behind its last response, and there is time to see that."""

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        (wire,) = wires.dialled
        post = asyncio.create_task(client.post("/post", body=b"x"))
        await ticks(1)
        assert client.stats().waiting == 1
        client._pool.release(held)
        assert client.stats().waiting == 0  # it has been given the connection
        wire.conn.eof_received()
        await until(lambda: len(wires.dialled) == 2 and bool(wires.dialled[1].written), "another connection")
        wires.dialled[1].conn.data_received(OK)
        assert (await post).body == b"ok"
        assert wire.written == []

    waiting(run, 0, case)


def test_cancelled_before_the_release_in_one_turn(run: Run) -> None:
    """It has not run yet when it is given the connection: nothing is written, and the next one gets it."""

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        (wire,) = wires.dialled
        tasks[0].cancel()
        client._pool.release(held)
        assert wire.written == []
        await asyncio.wait([tasks[0]])
        assert tasks[0].cancelled()
        assert wire.targets == [b"/1"]
        wire.conn.data_received(OK)
        assert (await tasks[1]).body == b"ok"
        assert client.stats().undelivered == 1
        assert not wire.closed

    waiting(run, 2, case)


def test_cancelled_behind_the_release_in_one_turn(run: Run) -> None:
    """It was written already: what comes on that connection is the answer to nobody, and the next one gets another."""

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        client._pool.release(held)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert tasks[0].cancelled()
        await until(lambda: len(wires.dialled) == 2 and bool(wires.dialled[1].written), "another connection")
        first, second = wires.dialled
        assert first.closed
        assert (first.targets, second.targets) == ([b"/0"], [b"/1"])
        second.conn.data_received(OK)
        assert (await tasks[1]).body == b"ok"

    waiting(run, 2, case)


def test_its_connection_dies_before_the_response(run: Run) -> None:
    """A GET is sent once more, in the slot that it has; the one behind it does not overtake it."""

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        client._pool.release(held)
        wires.dialled[0].conn.connection_lost(None)
        await until(lambda: len(wires.dialled) == 2 and bool(wires.dialled[1].written), "another connection")
        again = wires.dialled[1]
        assert again.targets == [b"/0"]
        again.conn.data_received(OK)
        assert (await tasks[0]).body == b"ok"
        assert again.targets == [b"/0", b"/1"]

    waiting(run, 2, case)


def test_the_read_timeout_begins_when_it_is_written(run: Run) -> None:
    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        conn = wires.dialled[0].conn
        before = client._clock()
        client._pool.release(held)
        assert before + 7 <= conn.deadline <= client._clock() + 7
        assert client._watch.armed_at <= conn.deadline

    waiting(run, 1, case, read_timeout=7.0)


@pytest.mark.parametrize("dials", [False, True])
def test_the_read_timeout_of_a_post_begins_when_it_is_written(dials: bool, run: Run) -> None:
    """Not when it was asked for: the wait, or the dial, has a time of its own."""

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        now = 0.0
        client._clock = client._pool.clock = lambda: now
        if dials:
            client._pool.discard(held)
        post = asyncio.create_task(client.post("/post", body=b"x"))
        await ticks(1)
        now = 4.0
        if not dials:
            client._pool.release(held)
        await until(lambda: bool(wires.dialled[-1].written), "the request")
        assert len(wires.dialled) == 1 + dials
        assert wires.dialled[-1].conn.deadline == 4.0 + 7.0
        wires.dialled[-1].conn.data_received(OK)
        assert (await post).body == b"ok"

    waiting(run, 0, case, read_timeout=7.0)


@pytest.mark.parametrize("options", [{"retry_if": lambda request: False}, {"max_idempotent_call_attempts": 1}])
def test_a_get_that_may_not_be_sent_twice_is_written_a_turn_later(options: dict[str, Any], run: Run) -> None:
    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        client._pool.release(held)
        assert wires.dialled[0].written == []
        await ticks(1)
        assert wires.dialled[0].targets == [b"/0"]

    waiting(run, 1, case, **options)


def test_refused_at_once(run: Run) -> None:
    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        with pytest.raises(NoFreeConns, match="max_waiters"):
            await client.get("/2")
        client._pool.release(held)
        assert wires.dialled[0].targets == [b"/0"]

    waiting(run, 2, case, max_waiters=2)


def test_the_time_of_the_request_runs_out_while_it_waits(run: Run) -> None:
    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        with pytest.raises(RequestTimeout, match="all the time the request had"):
            await client.get("/late", timeout=0.02)
        assert client.stats().waiting == 1
        client._pool.release(held)
        assert wires.dialled[0].targets == [b"/0"]

    waiting(run, 1, case)


def test_requests_out_of_time_hold_nothing_of_their_callers(run: Run) -> None:
    """Their places in the queue do not outnumber those that still wait; in each is an error, with the frames it came through."""
    held_things: list[weakref.ref[Any]] = []

    async def late(client: HostClient) -> None:
        thing = Wires()
        held_things.append(weakref.ref(thing))
        with pytest.raises(RequestTimeout):
            await client.get("/late", timeout=0.02)

    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        await asyncio.gather(*(late(client) for _ in range(20)))
        gc.collect()
        assert client.stats().waiting == 1
        assert sum(thing() is not None for thing in held_things) <= 1
        client._pool.release(held)
        assert wires.dialled[0].targets == [b"/0"]
        gc.collect()
        assert not any(thing() for thing in held_things)

    waiting(run, 1, case)


def test_the_client_is_closed_while_it_waits(run: Run) -> None:
    async def case(client: HostClient, wires: Wires, held: Held, tasks: list[asyncio.Task[Any]]) -> None:
        await client.aclose()
        for task in tasks:
            with pytest.raises(ClientClosed):
                await task

    waiting(run, 2, case)
