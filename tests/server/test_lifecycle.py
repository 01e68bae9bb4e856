"""A server's life: started once, embedded anywhere, stopped without losing what it has begun."""

from __future__ import annotations

import asyncio
import http.client
import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastserve.errors import ConfigError, FastserveError, ListenError
from fastserve.server.ctx import RequestCtx
from fastserve.server.hijack import HijackedConnection
from fastserve.server.server import Server, ShutdownReport, loop_factory
from fastserve.server.thread import ServerThread
from fastserve.testing import MemoryServer
from tests.conftest import FACTORIES
from tests.server.clients import GET, LAST, PATIENCE, Run, ask, fine, get, server_process, turns

Logs = pytest.LogCaptureFixture


class Gate:
    """A handler that waits until it is let through; ``/quick`` does not wait."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.saw_done = asyncio.Event()
        self.cancelled = False

    async def __call__(self, ctx: RequestCtx) -> None:
        ctx.set_body(ctx.path)
        if ctx.path == "/quick":
            return
        self.begun.set()
        try:
            if ctx.path == "/until-done":
                await ctx.done.wait()
                self.saw_done.set()
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


# Starting


def test_start_and_shutdown(run: Run) -> None:
    async def main() -> None:
        server = Server(fine)
        with pytest.raises(FastserveError, match="not started"):
            server.service  # noqa: B018
        assert server.addresses == []
        assert server.urls == []
        await server.start(port=0)
        assert (await ask("127.0.0.1", server.port)).endswith(b"fine")
        assert (await server.shutdown()).clean

    run(main())


def test_async_with_starts_and_shuts_down(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without arguments it listens on 127.0.0.1:8000, which may be taken here.
    defaults = inspect.signature(Server.start).parameters
    assert (defaults["host"].default, defaults["port"].default) == ("127.0.0.1", 8000)
    start = Server.start

    async def on_a_free_port(self: Server) -> None:
        await start(self, port=0)

    monkeypatch.setattr(Server, "start", on_a_free_port)

    async def main() -> None:
        async with Server(fine) as server:
            port = server.port
            assert (await ask("127.0.0.1", port)).endswith(b"fine")
        with pytest.raises(OSError):
            await ask("127.0.0.1", port)

    run(main())


def test_async_with_leaves_a_started_server_as_it_is(run: Run) -> None:
    async def main() -> None:
        server = Server(fine)
        await server.start(port=0)
        port = server.port
        async with server:
            assert server.port == port

    run(main())


def test_a_server_serves_once(run: Run) -> None:
    async def main() -> None:
        server = Server(fine)
        await server.start(port=0)
        with pytest.raises(FastserveError, match="started already"):
            await server.start(port=0)
        assert (await ask("127.0.0.1", server.port)).endswith(b"fine")  # and is none the worse for it
        await server.shutdown()
        with pytest.raises(FastserveError, match=r"started already .*stopped.*make a new one"):
            await server.start(port=0)

    run(main())


def test_two_servers_in_one_loop(run: Run) -> None:
    async def other(ctx: RequestCtx) -> None:
        ctx.set_body("other")

    async def main() -> None:
        first, second = Server(fine), Server(other, concurrency=1)
        await first.start(port=0)
        await second.start(port=0)
        async with first, second:
            for _ in range(3):
                found = await asyncio.gather(ask("127.0.0.1", first.port), ask("127.0.0.1", second.port))
                assert [body.rpartition(b"\n")[2] for body in found] == [b"fine", b"other"]
            await first.shutdown()
            assert (await ask("127.0.0.1", second.port)).endswith(b"other")

    run(main())


def test_many_starts_and_stops_leave_nothing(run: Run) -> None:
    async def main() -> None:
        async def descriptors() -> int:
            await turns(5)
            return len(os.listdir("/proc/self/fd"))

        counts = []
        for _ in range(4):
            server = Server(fine)
            await server.start(port=0)
            await ask("127.0.0.1", server.port)
            await server.shutdown()
            counts.append(await descriptors())
        assert len(set(counts[1:])) == 1
        left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        assert not {task for task in left if task.get_name().startswith("fastserve")}

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    run(main())


# Shutting down


def test_it_stops_accepting_at_once(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        server = Server(gate)
        await server.start(port=0)
        port = server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await gate.begun.wait()
        stopping = asyncio.ensure_future(server.shutdown())
        await turns()
        assert not stopping.done()
        with pytest.raises(OSError):
            await ask("127.0.0.1", port)
        gate.go.set()
        assert b"\r\nConnection: close\r\n" in await reader.read()
        assert (await stopping).clean
        writer.close()

    run(main())


def test_idle_connections_close_at_once(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate) as server:
            fresh, idle, busy = server.connect(), server.connect(), server.connect()
            idle.feed(get("/quick"))
            await idle.read_response()
            busy.feed(GET)
            await gate.begun.wait()
            stopping = asyncio.ensure_future(server.shutdown())
            await fresh.closed()
            await idle.closed()
            assert not fresh.transport.received
            assert not idle.transport.received
            assert not stopping.done()
            assert not busy.transport.closed
            gate.go.set()
            assert (await stopping).clean

    run(main())


def test_what_is_in_flight_is_finished_with_connection_close(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate) as server:
            clients = [server.connect() for _ in range(3)]
            for client in clients:
                client.feed(GET)
            half = server.connect()
            half.feed(get("/quick")[:-1])  # a request that has begun is in flight too
            await gate.begun.wait()
            await turns()
            stopping = asyncio.ensure_future(server.shutdown())
            await turns()
            clients[0].feed(GET)  # too late: nothing is served behind a close
            half.feed(b"\n")
            response = await half.read_response()
            assert (response.status, response.headers["Connection"]) == (200, "close")
            gate.go.set()
            for client in clients:
                response = await client.read_response()
                assert (response.status, response.body) == (200, b"/")
                assert response.headers["Connection"] == "close"
                client.feed_eof()
                assert await client.read_to_end() == b""
            assert (await stopping) == ShutdownReport(0, 0)

    run(main())


def test_pipelined_requests_behind_it_are_not_served(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate) as server:
            client = server.connect()
            client.feed(GET + get("/quick") * 2)
            await gate.begun.wait()
            stopping = asyncio.ensure_future(server.shutdown())
            await turns()
            gate.go.set()
            assert (await client.read_response()).headers["Connection"] == "close"
            assert await client.read_to_end() == b""
            client.feed_eof()
            assert (await stopping).clean

    run(main())


def test_without_close_on_shutdown_it_closes_all_the_same(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate, close_on_shutdown=False) as server:
            idle, busy = server.connect(), server.connect()
            busy.feed(GET)
            await gate.begun.wait()
            stopping = asyncio.ensure_future(server.shutdown())
            await idle.closed()
            gate.go.set()
            assert "Connection" not in (await busy.read_response()).headers
            await busy.closed()
            assert (await stopping).clean

    run(main())


def test_after_the_timeout_what_is_left_is_cut_and_reported(run: Run, caplog: Logs) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate) as server:
            clients = [server.connect() for _ in range(3)]
            clients[0].feed(GET)
            clients[1].feed(GET)
            clients[2].feed(GET[:-1])
            await gate.begun.wait()
            await turns()
            report = await server.shutdown(timeout=0.01)
            assert report == ShutdownReport(cut=3, threads_left=0)
            assert not report.clean
            assert gate.cancelled
            for client in clients:
                assert client.transport.closed
                assert not client.transport.received
            assert not server.service.connections
            assert server.service.pool.workers == 0

    run(main())
    assert [r.getMessage() for r in caplog.records] == ["stopped; 3 requests were cut off"]


def test_a_client_that_does_not_read_is_cut(run: Run, caplog: Logs) -> None:
    async def large(ctx: RequestCtx) -> None:
        ctx.set_body(b"x" * 200_000)

    async def main() -> None:
        async with MemoryServer(large) as server:
            client = server.connect()
            client.transport.take(10)
            client.feed(LAST)
            await turns()
            report = await server.shutdown(timeout=0.01)
            assert client.transport.closed
            assert not server.service.connections
            assert report.threads_left == 0

    run(main())


def test_a_refused_client_that_lingers_does_not_hold_it_up(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(fine) as server:
            client = server.connect()
            client.feed(b"BAD\r\n\r\n")
            assert (await client.read_response()).status == 400
            assert not client.transport.closed
            assert (await server.shutdown()).clean

    run(main())


def test_done_tells_long_handlers(run: Run) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate) as server:
            client = server.connect()
            client.feed(get("/until-done"))
            await gate.begun.wait()
            stopping = asyncio.ensure_future(server.shutdown())
            await gate.saw_done.wait()
            gate.go.set()
            assert (await client.read_response()).body == b"/until-done"
            assert (await stopping).clean

    run(main())


def test_done_ends_an_event_stream(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        async def events() -> AsyncIterator[str]:
            yield "data: hello\n\n"
            await ctx.done.wait()
            yield "data: bye\n\n"

        ctx.set_body_stream(events())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_until(b"hello\n\n\r\n")
            report = await server.shutdown()
            assert report.clean
            assert bytes(client.transport.received).endswith(b"data: bye\n\n\r\n0\r\n\r\n")

    run(main())


def test_a_second_shutdown_returns_at_once(run: Run) -> None:
    async def main() -> None:
        server = Server(fine)
        assert (await server.shutdown()).clean  # nothing to do
        await server.start(port=0)
        first = asyncio.ensure_future(server.shutdown())
        await turns(1)
        assert (await server.shutdown()).clean
        assert (await first).clean
        assert (await server.shutdown()).clean

    run(main())


def test_hurry_ends_the_wait(run: Run, caplog: Logs) -> None:
    async def main() -> None:
        gate = Gate()
        async with MemoryServer(gate) as server:
            client = server.connect()
            client.feed(GET)
            await gate.begun.wait()
            stopping = asyncio.ensure_future(server.shutdown(timeout=1000))
            await turns()
            assert not stopping.done()
            server.server.hurry()
            assert (await stopping).cut == 1
            assert client.transport.closed

    run(main())


def test_threads_are_waited_for(run: Run) -> None:
    go = threading.Event()
    begun = threading.Event()

    def handler(ctx: RequestCtx) -> None:
        begun.set()
        assert go.wait(PATIENCE)
        ctx.set_body("done")

    async def main() -> None:
        async with MemoryServer(handler, threads=1) as server:
            clients = [server.connect() for _ in range(3)]  # one runs, two wait for the only thread
            for client in clients:
                client.feed(GET)
            await asyncio.to_thread(begun.wait, PATIENCE)
            stopping = asyncio.ensure_future(server.shutdown())
            await turns()
            go.set()
            for client in clients:
                assert (await client.read_response()).body == b"done"
            assert (await stopping).clean
            assert server.service.threads.threads == 0

    run(main())


def test_a_handler_may_shut_its_server_down(run: Run) -> None:
    async def main() -> None:
        stopping: list[asyncio.Task[ShutdownReport]] = []

        async def handler(ctx: RequestCtx) -> None:
            stopping.append(asyncio.ensure_future(server.shutdown()))
            await ctx.done.wait()
            ctx.set_body("bye")

        server = Server(handler)
        await server.start(port=0)
        assert (await ask("127.0.0.1", server.port, data=GET)).endswith(b"bye")
        assert (await stopping[0]).clean

    run(main())


# In a thread


@pytest.mark.parametrize("loop", ["auto", *FACTORIES])
def test_server_thread(loop: str) -> None:
    with ServerThread(fine, loop=loop, name="threaded") as server:
        assert server.urls == [f"http://127.0.0.1:{server.port}"]
        assert server.addresses == [("127.0.0.1", server.port)]
        assert server.server.config.name == "threaded"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        for _ in range(3):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert response.read() == b"fine"
            assert response.headers["Server"] == "threaded"
        connection.close()
    assert not [t for t in threading.enumerate() if t.name == "fastserve-server"]
    assert server.shutdown() == ShutdownReport()


def test_two_server_threads(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with ServerThread(fine) as first, ServerThread(fine, listen={"uds": path}) as second:
        assert second.urls == [f"unix:{path}"]
        with socket.create_connection(("127.0.0.1", first.port), PATIENCE) as client:
            client.sendall(LAST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(LAST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert not path.exists()


def test_server_thread_raises_where_its_caller_sees_it() -> None:
    with pytest.raises(ConfigError, match="no such option: nme"):
        ServerThread(fine, nme="x")
    with pytest.raises(ConfigError, match="loop="):
        ServerThread(fine, loop="twisted")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ServerThread(fine, listen={"port": port})
        with pytest.raises(ListenError, match="in use"):
            server.start()
        assert server.shutdown().clean


def test_server_thread_serves_once() -> None:
    server = ServerThread(fine)
    assert server.shutdown().clean  # never started
    with pytest.raises(FastserveError, match="not started"):
        server.port  # noqa: B018
    with server, pytest.raises(FastserveError, match="started already"):
        server.start()
    with pytest.raises(FastserveError, match="started already"):
        server.start()


def test_server_thread_answers_what_is_in_flight() -> None:
    begun = threading.Event()

    async def handler(ctx: RequestCtx) -> None:
        begun.set()
        await ctx.done.wait()
        ctx.set_body("done")

    server = ServerThread(handler)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(GET)
        assert begun.wait(PATIENCE)
        stopping = threading.Thread(target=server.shutdown)
        stopping.start()
        received = b""
        while data := client.recv(4096):
            received += data
        stopping.join(PATIENCE)
        assert not stopping.is_alive()
    assert received.endswith(b"done")
    assert b"\r\nConnection: close\r\n" in received
    assert server.shutdown().clean


def test_server_thread_cuts_after_the_timeout() -> None:
    begun = threading.Event()

    async def handler(ctx: RequestCtx) -> None:
        begun.set()
        await asyncio.Event().wait()

    server = ServerThread(handler)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(GET)
        assert begun.wait(PATIENCE)
        assert server.shutdown(timeout=0).cut == 1
        assert server.shutdown().cut == 1  # the same report
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass


# Owning the process


def test_loop_factory() -> None:
    for name in ("uvlop", "", "trio"):
        with pytest.raises(ConfigError, match="takes auto, uvloop or asyncio"):
            loop_factory(name)
    assert loop_factory("asyncio") is asyncio.new_event_loop
    if "uvloop" in FACTORIES:
        assert loop_factory("auto") is loop_factory("uvloop") is FACTORIES["uvloop"]


def test_without_uvloop_auto_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("auto") is asyncio.new_event_loop
    with pytest.raises(ConfigError, match="pip install uvloop"):
        loop_factory("uvloop")


@pytest.mark.parametrize("loop", list(FACTORIES))
def test_run_raises_what_start_raises(loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(ListenError, match="in use"):
            Server(fine).run(port=other.getsockname()[1], loop=loop)
        assert signal.getsignal(signal.SIGINT) is before


RUNNING = """
import asyncio, sys
from fastserve import Server

async def handler(ctx):
    print("in flight", flush=True)
    await ctx.done.wait()
    print("draining", flush=True)
    if ctx.path == "/never":
        await asyncio.Event().wait()
    ctx.set_body("finished")

report = Server(handler).run(
    port=0, loop=sys.argv[1], shutdown_timeout=1000, on_started=lambda s: print(s.port, flush=True)
)
print(report.cut, report.threads_left, flush=True)
"""


@pytest.mark.parametrize("loop", list(FACTORIES))
@pytest.mark.parametrize(("number", "signals"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_run_until_a_signal(loop: str, number: signal.Signals, signals: int) -> None:
    with server_process(RUNNING, loop) as (child, port, out, err):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(get("/" if signals == 1 else "/never"))
            assert out.readline() == "in flight\n"
            child.send_signal(number)
            assert out.readline() == "draining\n"
            if signals == 2:
                child.send_signal(number)  # no patience: stop at once
            received = b""
            try:
                while data := client.recv(4096):
                    received += data
            except ConnectionResetError:
                pass
        assert out.readline() == f"{signals - 1} 0\n"
        assert child.wait(PATIENCE) == 0
        log = err.read()
    if signals == 1:
        assert received.endswith(b"finished")
        assert b"\r\nConnection: close\r\n" in received
        assert log == ""
    else:
        assert received == b""
        assert log == "stopped; 1 request was cut off\n"


def test_a_handler_that_was_answered_early_still_hears_of_the_shutdown(run: Run) -> None:
    heard = []

    async def handler(ctx: RequestCtx) -> None:
        ctx.timeout_error()
        await ctx.done.wait()
        heard.append(ctx.done.is_set())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.read_response()).status == 408
            await server.shutdown()
        assert heard == [True]

    run(main())


def test_a_hijack_that_is_deaf_to_its_cancellation_does_not_hold_the_shutdown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastserve.server.server.CANCEL_TIMEOUT", 0.01)

    async def main() -> None:
        release = asyncio.Event()
        ended = asyncio.Event()

        async def deaf(connection: HijackedConnection) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    pass
            ended.set()

        async def handler(ctx: RequestCtx) -> None:
            ctx.hijack(deaf)

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.read_response()
            assert (await server.shutdown(timeout=0)).cut == 1
            release.set()
            await ended.wait()

    run(main())
