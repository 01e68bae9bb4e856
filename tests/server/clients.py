"""What tests of the server share: requests as bytes, clients on real sockets, servers around a test, and waits.

For connections in memory see `fastserve.testing`, which users have too.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import fastserve
from fastserve import RequestCtx, Server

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""The fixture of tests/conftest.py, which bounds the time of everything in it."""

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_1_0 = b"GET / HTTP/1.0\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
"""The server closes behind its answer."""

PATIENCE = 20.0
"""Seconds after which a thread or a process that waits for an event gives up, so that a failed test ends."""


def get(path: str = "/") -> bytes:
    return GET.replace(b"/", path.encode(), 1)


async def fine(ctx: RequestCtx) -> None:
    ctx.set_body("fine")


# Waiting


async def settled(check: Callable[[], bool]) -> None:
    """Turns of the loop until `check` is true: for what happens at once, by itself, and has no event of its own.

    Such as that a thread has become idle. The bound of `run` fails the test that waits in vain.
    """
    while not check():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """So many turns of the loop: after them, what did not happen does not happen by itself."""
    for _ in range(count):
        await asyncio.sleep(0)


def count_tasks() -> list[str]:
    """Names of the tasks made from now on."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(getattr(coroutine, "__qualname__", repr(coroutine)))
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    return made


# Servers


@asynccontextmanager
async def serving(handler: Callable[[RequestCtx], Any], **options: Any) -> AsyncIterator[Server]:
    """A server on a free port, which is cut off at the end and must leave no worker behind."""
    server = Server(handler, **options)
    await server.start(port=0)
    try:
        yield server
    finally:
        await server.shutdown(timeout=0)
        assert server.service.pool.workers == len(server.service.pool.tasks) == 0


@contextmanager
def server_process(program: str, loop: str) -> Iterator[tuple[subprocess.Popen[str], int, IO[str], IO[str]]]:
    """A process that runs `program`, which prints its port first: process, port, standard output and error."""
    with subprocess.Popen(
        [sys.executable, "-c", program, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(fastserve.__file__).parent.parent)},
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stderr is not None
            yield child, int(child.stdout.readline()), child.stdout, child.stderr
        finally:
            child.kill()


# Clients


async def ask(*address: Any, data: bytes = LAST) -> bytes:
    """All that is answered to `data` at a host and port, or at the path of a unix socket, until the server closes."""
    opening = asyncio.open_unix_connection(*address) if len(address) == 1 else asyncio.open_connection(*address)
    reader, writer = await opening
    writer.write(data)
    received = await reader.read()
    writer.close()
    return received


class Client:
    """A connection on a real socket. Creates no task, so that those of the server can be counted."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._received = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def _more(self) -> bool:
        data = await self._loop.sock_recv(self._socket, 65536)
        self._received += data
        return bool(data)

    async def read(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response, which has a Content-Length."""
        while b"\r\n\r\n" not in self._received:
            assert await self._more(), "the server closed the connection"
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        while len(self._received) < length:
            assert await self._more(), "the server closed the connection"
        body, self._received = self._received[:length], self._received[length:]
        return int(first.split()[1]), headers, body

    async def get(self, path: str = "/") -> bytes:
        await self.send(get(path))
        status, _, body = await self.read()
        assert status == 200, body
        return body

    async def closed(self) -> None:
        while await self._more():
            pass

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def clients(server: Server, count: int) -> AsyncIterator[list[Client]]:
    found: list[Client] = []
    try:
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            found.append(Client(sock))
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        yield found
    finally:
        for client in found:
            client.close()
