"""Where a server listens, what it says when it cannot, and how it accepts when there is too much of everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastserve.errors import FastserveError, ListenError
from fastserve.server.config import ServerConfig
from fastserve.server.ctx import RequestCtx
from fastserve.server.listener import open_sockets
from fastserve.server.server import Server
from tests.conftest import FACTORIES
from tests.server.clients import GET, LAST, PATIENCE, Run, ask, get, server_process, settled

Logs = pytest.LogCaptureFixture


try:
    with socket.create_server(("::1", 0), family=socket.AF_INET6):
        pass
except OSError:
    HAS_IPV6 = False
else:
    HAS_IPV6 = True
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 on this machine")


async def where(ctx: RequestCtx) -> None:
    ctx.set_json([ctx.local_addr, ctx.remote_addr, ctx.remote_ip])


async def ask_body(*address: Any, data: bytes = LAST) -> bytes:
    return (await ask(*address, data=data)).partition(b"\r\n\r\n")[2]


# Ways to listen


def test_port_0_takes_a_free_one(run: Run) -> None:
    async def main() -> None:
        server = Server(where)
        with pytest.raises(FastserveError, match="does not listen"):
            server.port  # noqa: B018
        await server.start(port=0)
        async with server:
            assert server.addresses == [("127.0.0.1", server.port)]
            assert server.urls == [f"http://127.0.0.1:{server.port}"]
            assert 0 < server.port < 65536
            body = await ask_body("127.0.0.1", server.port)
            assert body.startswith(f'["127.0.0.1:{server.port}", "127.0.0.1:'.encode())
            assert body.endswith(b'"127.0.0.1"]')

    run(main())


@needs_ipv6
def test_ipv6(run: Run) -> None:
    async def main() -> None:
        server = Server(where)
        await server.start("::1", 0)
        async with server:
            assert server.addresses[0][:2] == ("::1", server.port)
            assert server.urls == [f"http://[::1]:{server.port}"]
            body = await ask_body("::1", server.port)
            assert body.startswith(f'["[::1]:{server.port}", "[::1]:'.encode())
            assert body.endswith(b'"::1"]')

    run(main())


@pytest.mark.parametrize("host", [None, ""])
def test_no_host_is_every_address_on_one_port(run: Run, host: str | None) -> None:
    async def main() -> None:
        server = Server(where)
        await server.start(host, 0)
        async with server:
            assert {address[1] for address in server.addresses} == {server.port}
            assert await ask_body("127.0.0.1", server.port)
            if HAS_IPV6:
                assert await ask_body("::1", server.port)

    run(main())


def test_a_name(run: Run) -> None:
    async def main() -> None:
        server = Server(where)
        await server.start("localhost", 0)
        async with server:
            assert await ask_body("localhost", server.port)

    run(main())


def test_unix_socket(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"

    async def main() -> None:
        server = Server(where)
        await server.start(uds=path)
        async with server:
            assert server.addresses == [str(path)]
            assert server.urls == [f"unix:{path}"]
            assert stat.S_ISSOCK(path.stat().st_mode)
            assert await ask_body(str(path)) == f'["{path}", "", ""]'.encode()
            with pytest.raises(FastserveError, match="does not listen on a port"):
                server.port  # noqa: B018
        assert not path.exists()

    run(main())


def test_a_stale_socket_file_is_removed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.exists()

    async def main() -> None:
        server = Server(where)
        await server.start(uds=path)
        async with server:
            assert await ask_body(str(path))
        assert not path.exists()

    run(main())


def test_a_live_socket_is_not_taken_over(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"

    async def main() -> None:
        first, second = Server(where), Server(where)
        await first.start(uds=path)
        async with first:
            with pytest.raises(ListenError, match="in use by another process"):
                await second.start(uds=path)
            assert await ask_body(str(path))
        await second.start(uds=path)  # now it is free; a start that failed can be made up for
        async with second:
            assert await ask_body(str(path))

    run(main())


def test_a_successors_file_is_left_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"

    async def main() -> None:
        first, second = Server(where), Server(where)
        await first.start(uds=path)
        path.unlink()
        await second.start(uds=path)
        async with second:
            await first.shutdown()
            assert await ask_body(str(path))
        assert not path.exists()

    run(main())


def test_inherited_descriptor(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            server = Server(where)
            await server.start(fd=bound.fileno())
            async with server:
                assert server.port == bound.getsockname()[1]
                assert await ask_body("127.0.0.1", server.port)
            assert bound.getsockname()  # still its owner's

    run(main())


def test_the_file_of_an_inherited_unix_socket_stays(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
            bound.listen()
            for _ in range(2):  # as a service manager does, which listens on and starts it again
                server = Server(where)
                await server.start(fd=bound.fileno())
                async with server:
                    assert await ask_body(str(path))
                assert path.exists()

    run(main())


def test_ready_made_socket(run: Run) -> None:
    async def main() -> None:
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        server = Server(where)
        await server.start(sock=bound)
        async with server:
            assert await ask_body("127.0.0.1", server.port)
        assert bound.fileno() == -1  # given to the server, closed by it

    run(main())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_reuse_port(run: Run) -> None:
    async def main() -> None:
        first, second = Server(where), Server(where)
        await first.start(port=0, reuse_port=True)
        async with first:
            await second.start(port=first.port, reuse_port=True)
            async with second:
                for _ in range(8):
                    assert await ask_body("127.0.0.1", first.port)
            for _ in range(8):
                assert await ask_body("127.0.0.1", first.port)

    run(main())


# One clear line for each way to fail


def refused(**arguments: Any) -> ListenError:
    """The error of a server that cannot listen there; that it leaves no descriptor open."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    given: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "sock": None, "uds": None, "fd": None} | arguments
    with pytest.raises(ListenError) as caught:
        open_sockets(reuse_port=False, config=ServerConfig(), **given)
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)
    text = str(caught.value)
    assert "\n" not in text
    assert "Errno" not in text
    assert isinstance(caught.value, OSError)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no second traceback
    return caught.value


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not do everything: root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_port_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert str(refused(port=port)) == (
            f"127.0.0.1:{port} is in use by another process; stop it, or choose another port (0 takes a free one)"
        )


def test_bad_host() -> None:
    assert str(refused(host="no such host.invalid")).startswith("can't listen on host 'no such host.invalid', port 0: ")
    assert "no address of this machine" in str(refused(host="192.0.2.1"))
    assert str(refused(host="a" * 300)).startswith("can't listen on host 'aaa")
    for port in (70000, -1):
        assert str(refused(port=port)) == f"can't listen on port {port}: takes 0 to 65535"


def test_privileged_port() -> None:
    with unprivileged():
        try:
            with socket.create_server(("127.0.0.1", 1)):
                pass
        except PermissionError:
            assert str(refused(port=1)) == (
                "may not listen on 127.0.0.1:1: ports below 1024 need a privilege; choose a higher one"
            )
        else:
            pytest.skip("every user may listen on port 1 here")


def test_folder_missing(tmp_path: Path) -> None:
    path = tmp_path / "none" / "app.sock"
    assert str(refused(uds=path)) == f"can't listen on unix:{path}: its folder does not exist; create it first"


def test_path_not_writable(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o555)
    path = folder / "app.sock"
    with unprivileged():
        assert str(refused(uds=path)) == (
            f"can't listen on unix:{path}: its folder can't be written to; choose another path"
        )


def test_path_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    assert str(refused(uds=path)) == (
        f"can't listen on unix:{path}: a file that is not a socket is there; choose another path"
    )
    assert path.read_text() == "precious"
    assert "a file that is not a socket" in str(refused(uds=tmp_path))


def test_path_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 200)
    assert str(refused(uds=path)) == f"can't listen on unix:{path}: AF_UNIX path too long"


def test_bad_descriptor(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        assert "is not a socket that this process inherited" in str(refused(fd=file.fileno()))
    for fd in (-1, 9999, 2**40):
        assert "descriptor" in str(refused(fd=fd))
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert "is not a stream socket" in str(refused(fd=datagrams.fileno()))


def test_one_way_at_a_time(tmp_path: Path) -> None:
    assert str(refused(uds=tmp_path / "a", fd=0)) == "give one of sock, uds and fd, or host and port"


def test_a_failed_start_leaves_the_server_new(run: Run) -> None:
    async def main() -> None:
        server = Server(where)
        with pytest.raises(ListenError):
            await server.start("192.0.2.1", 0)
        assert server.addresses == []
        await server.start(port=0)
        async with server:
            assert await ask_body("127.0.0.1", server.port)

    run(main())


# Accepting


async def answered(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def test_max_connections_wait_in_the_backlog(run: Run) -> None:
    async def main() -> None:
        server = Server(where, max_connections=2)
        await server.start(port=0)
        async with server:
            opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4)]
            for _, writer in opened:
                writer.write(GET)
            await answered(opened[0][0])
            await answered(opened[1][0])
            assert len(server.service.connections) == 2
            for place in (2, 3):
                waiting = asyncio.ensure_future(answered(opened[place][0]))
                opened[1][1].write(GET)
                await answered(opened[1][0])  # those that are open are served
                assert not waiting.done()
                assert len(server.service.connections) == 2
                opened[0 if place == 2 else 2][1].close()
                await waiting
            for _, writer in opened:
                writer.close()

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_max_conns_per_ip(run: Run, caplog: Logs) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        server = Server(where, max_conns_per_ip=2, log_all_errors=True)
        await server.start(port=0)
        async with server:

            async def connect(ip: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_connection("127.0.0.1", server.port, local_addr=(ip, 0))

            opened = [await connect("127.0.0.1") for _ in range(2)]
            for reader, writer in opened:
                writer.write(GET)
                await answered(reader)
            reader, writer = await connect("127.0.0.1")
            assert await reader.read() == b""
            writer.close()
            reader, other = await connect("127.0.0.2")
            other.write(GET)
            await answered(reader)
            opened[0][1].write(LAST)
            await opened[0][0].read()  # closed by the server: there is room for one more
            await settled(lambda: len(server.service.connections) == 2)
            reader, writer = await connect("127.0.0.1")
            writer.write(GET)
            await answered(reader)
            for each in (writer, other, opened[0][1], opened[1][1]):
                each.close()

    run(main())
    assert [r.getMessage() for r in caplog.records] == ["connection from 127.0.0.1 closed: it has 2 already"]


def test_a_connection_accepted_in_the_turn_of_the_shutdown(run: Run) -> None:
    async def main() -> None:
        server = Server(where)
        await server.start(port=0)
        listener: Any = server._listener
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            listener._accept(listener.sockets[0])
            assert listener.open == 1  # and its transport is not made yet
            report = await server.shutdown()
            assert report.clean
            assert listener.open == 0
            assert not server.service.connections
            client.settimeout(PATIENCE)
            assert client.recv(1) == b""

    run(main())


EXHAUSTED = """
import asyncio, logging, resource, sys, time
import fastserve.server.listener as listener
from fastserve import Server

listener.ACCEPT_RETRY = 0.05
logging.basicConfig(stream=sys.stderr, format="%(message)s")
failures = 0
began = used = 0.0
enough = asyncio.Event()
failed = listener.Listener._accept_failed

def counted(self, error):
    global failures, began, used
    failures += 1
    if failures == 1:
        began, used = time.monotonic(), time.process_time()
    failed(self, error)
    if failures == 10:
        began, used = time.monotonic() - began, time.process_time() - used
        enough.set()

listener.Listener._accept_failed = counted

async def handler(ctx):
    if ctx.path == "/exhausted":
        await enough.wait()
        ctx.set_body(f"{began:.3f} {used:.3f}")

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
Server(handler).run(port=0, loop=sys.argv[1], on_started=lambda s: print(s.port, flush=True))
"""


@pytest.mark.parametrize("loop", list(FACTORIES))
def test_out_of_descriptors(loop: str) -> None:
    with server_process(EXHAUSTED, loop) as (child, port, _, err):
        clients = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(60)]
        clients[0].sendall(get("/exhausted"))
        body = clients[0].recv(4096).partition(b"\r\n\r\n")[2].split()
        seconds, used = float(body[0]), float(body[1])
        assert seconds > 0.4  # nine pauses between ten failures: it does not spin on what it can't accept
        assert used < seconds / 2
        for client in clients:
            client.close()
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(LAST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        child.send_signal(signal.SIGTERM)
        lines = err.read().splitlines()
        assert child.wait(PATIENCE) == 0
    assert lines[0].startswith("can't accept connections: Too many open files; trying again every second")
    assert lines[1] == "accepting connections again"  # ten failures made one line
