"""A server's connection, or a client, without sockets: what callgrind counts, and the floor that it is compared with.

The floor is httptools fed the same bytes, with a callback for each part of a message, and constant bytes written for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

from handlers import async_handler, plain_handler
from httptools import HttpRequestParser, HttpResponseParser

from bench.cases import CASES
from fastserve import ClientRequest, HostClient, Server
from fastserve.server.connection import Connection

__all__ = ["CLIENT_CASES", "SERVER_CASES", "per_segment", "run"]

SERVER_CASES = ("get", "browser", "pages", "varied", "post", "pipeline")
CLIENT_CASES = ("client-get", "client-post", "client-varied", "client-wait")
CONNS, TASKS = 8, 16
"""Where requests wait for a connection: so many tasks share so many."""
VARIANTS = 1000
"""Requests or answers of a varied case, made before anything is counted; more than are ever sent."""

BODY = b'{"pad": "' + b"x" * 1000 + b'"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: fasthttp\r\nDate: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello"
)
ANSWERS = [ANSWER.replace(b"Content-Type", b"X-Request-Id: %032x\r\nContent-Type" % n) for n in range(VARIANTS)]
"""No head comes twice."""


def per_segment(case: str) -> int:
    """Requests in each piece of bytes that is fed at once."""
    return CASES[case].pipelined if case in SERVER_CASES else 1


class NullTransport(asyncio.Transport):
    """Takes everything and keeps nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Floor:
    """The server's parser, with a constant answer."""

    ANSWER = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"

    def __init__(self, transport: NullTransport) -> None:
        self.write = transport.write
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = self.body = b""
        self.data_received: Callable[[bytes], Any] = HttpRequestParser(self).feed_data

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self.headers = []
        self.write(self.ANSWER)


async def serve(handler: str, case: str, requests: int) -> None:
    """Feed `requests` of a case to one connection, with no task current, as a loop does."""
    kind = CASES[case]
    data = [kind.numbered(number) for number in range(VARIANTS)] if kind.varied else [kind.request]
    loop = asyncio.get_running_loop()
    transport = NullTransport()
    done = loop.create_future()
    if handler == "floor":
        receive = Floor(transport).data_received
        warm = 0
    else:
        server = Server(plain_handler if handler == "inline" else async_handler, inline=handler == "inline")
        server.start_in_memory()
        server.service.stop_clock()
        connection = Connection(server.service)
        connection.connection_made(transport)
        receive = connection.data_received
        warm = 2

    def feed() -> None:
        for segment in islice(cycle(data), requests // kind.pipelined):
            receive(segment)
        done.set_result(None)

    for _ in range(warm):  # the first request makes the worker, at a turn of its own
        loop.call_soon(receive, data[-1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    loop.call_soon(feed)
    await done


class ClientFloor:
    """The client's parser."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.answered = 0
        self.data_received: Callable[[bytes], Any] = HttpResponseParser(self).feed_data

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body = body

    def on_message_complete(self) -> None:
        self.headers = []
        self.answered += 1


class Upstream(NullTransport):
    """Answers in the moment in which the end of a request is written: no turn of the loop is counted."""

    def __init__(self, answers: list[bytes], end: bytes) -> None:
        super().__init__()
        self._answers = cycle(answers)
        self._end = end
        self.receive: Callable[[bytes], Any] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data[-len(self._end) :] == self._end:
            assert self.receive is not None
            self.receive(next(self._answers))


async def send(client: str, case: str, requests: int) -> None:
    """`requests` requests of a client, each awaited; in ``client-wait`` behind a wait for a connection."""
    answers = ANSWERS if case == "client-varied" else [ANSWER]
    request = ClientRequest("POST", "/", body=BODY) if case == "client-post" else ClientRequest("GET", "/")
    end = BODY[-2:] if case == "client-post" else b"\r\n\r\n"
    if client == "floor":
        length = b"Content-Length: %d\r\n" % len(BODY) if case == "client-post" else b""
        data = b"%b / HTTP/1.1\r\nHost: a\r\n%b\r\n%b" % (request.method.encode(), length, BODY if length else b"")
        floor = ClientFloor()
        transport = Upstream(answers, end)
        transport.receive = floor.data_received
        for _ in range(requests):
            transport.write(data)
        assert floor.answered == requests
        return

    async def dial(factory: Callable[[], Any]) -> tuple[Any, Any]:
        protocol = factory()
        transport = Upstream(answers, end)
        protocol.connection_made(transport)
        transport.receive = protocol.data_received
        return transport, protocol

    host_client = HostClient("127.0.0.1:80", dial=dial, max_conns=CONNS, max_conn_wait_timeout=60.0)

    async def one(requests: int) -> None:
        for _ in range(requests):
            response = await host_client.do(request)
            assert response.status_code == 200
            assert response.body == b"hello"

    if case != "client-wait":
        await one(2 + requests)  # the first dials
        assert host_client.conns_count == 1
        return
    pool = host_client._pool
    held = [await pool.acquire() for _ in range(CONNS)]
    tasks = [asyncio.create_task(one(2 + requests // TASKS)) for _ in range(TASKS)]
    await asyncio.sleep(0)
    for pooled in held:  # else the first would have their answers before another could wait
        pool.release(pooled)
    await asyncio.gather(*tasks)
    assert host_client.stats().waits >= requests


def run(who: str, case: str, requests: int) -> None:
    """What a child does: `who` is floor, async or inline for a server's case, floor or HostClient for a client's."""
    asyncio.run(send(who, case, requests) if case in CLIENT_CASES else serve(who, case, requests))
