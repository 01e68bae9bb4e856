"""In-memory connections: feed bytes to a handler, read what it answers. No sockets, no ports, no waiting.

    async with MemoryServer(handler, max_header_size=1024) as server:
        client = server.connect()
        client.feed(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        response = await client.read_response()
        assert response.status == 200 and response.body == b"hello"

Everything between the socket and the handler is the real thing: parser, limits, worker
pool, timeouts. Time stands still but for `MemoryServer.advance`, which moves it on and
sweeps the deadlines.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from httptools import HttpResponseParser

from fastserve.http1.headers import Headers
from fastserve.server.config import ServerConfig
from fastserve.server.connection import Connection
from fastserve.server.server import Server, ShutdownReport
from fastserve.server.service import Handler, Service

__all__ = ["MemoryClient", "MemoryResponse", "MemoryServer", "MemoryTransport"]


class MemoryTransport(asyncio.Transport):
    """What a connection writes to, and reads from, instead of a socket.

    `received` is all that was written and can be read by the client. A client that does not read is made by
    `take(n)`: then `received` takes no more than `n` bytes until the next call, and the rest waits in the buffer.
    """

    def __init__(self, extra: dict[str, Any] | None = None, high_water: int = 64 * 1024) -> None:
        super().__init__(extra)
        self.received = bytearray()
        self.writes = 0
        """Calls of `write` and `writelines`."""
        self.buffered = bytearray()
        self.reading = True
        self.on_resume: Callable[[], None] | None = None
        """Called once, at a turn of the loop, when reading goes on."""
        self.eof_written = False
        self.closed = False
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._protocol: Any = None
        self._closing = False
        self._high_water = high_water
        self._room: int | None = None
        self._paused = False

    def open(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def take(self, count: int | None) -> None:
        """The client reads `count` bytes more, or all there will ever be (None)."""
        self._room = count
        self._flush()

    def _flush(self) -> None:
        count = len(self.buffered) if self._room is None else min(self._room, len(self.buffered))
        if count:
            self.received += self.buffered[:count]
            del self.buffered[:count]
            if self._room is not None:
                self._room -= count
        self.changed.set()
        if self._paused and len(self.buffered) <= self._high_water // 4:
            self._paused = False
            # Not from here: what goes on may enter a worker as the current task, and the test's own task is that now.
            self._loop.call_soon(self._resume_writing)
        if self._closing and not self.buffered:
            self._lose(None)

    def _resume_writing(self) -> None:
        if not self.closed:
            self._protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = self._closing = True
            self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)
        self.changed.set()

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.closed:
            return
        self.buffered += data
        self._flush()
        if len(self.buffered) > self._high_water and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof_written = True
        self.changed.set()

    def close(self) -> None:
        self._closing = True
        self._flush()

    def abort(self) -> None:
        self.buffered.clear()
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self.buffered)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.changed.set()
        if self.on_resume is not None:
            self._loop.call_soon(self.on_resume)
            self.on_resume = None

    def is_reading(self) -> bool:
        return self.reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol


@dataclass
class MemoryResponse:
    """One response as a client would see it."""

    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False

    @property
    def headers(self) -> Headers:
        return Headers(self.fields)


class MemoryClient:
    """The client's end of a connection in memory."""

    def __init__(self, service: Service, transport: MemoryTransport) -> None:
        self.connection = Connection(service)
        self.transport = transport
        self._service = service
        self._loop = service.loop
        self._sent: deque[bytes | None] = deque()  # what the server has not read yet; None is the end
        transport.open(self.connection)

    def feed(self, data: bytes, *, byte_by_byte: bool = False) -> None:
        """Send `data`, at the loop's next turn, in one segment or in one for each byte.

        While the server does not read, what is sent waits as it would in the kernel.
        """
        self._sent += [data[i : i + 1] for i in range(len(data))] if byte_by_byte else [data]
        # Not called from here: a worker is entered as the current task, and the test's own task is that now.
        self._loop.call_soon(self._deliver)

    def feed_eof(self) -> None:
        """Close the sending side, after what was fed."""
        self._sent.append(None)
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        transport = self.transport
        while self._sent and not transport.closed:
            if not transport.reading and self._sent[0] is not None:
                transport.on_resume = self._deliver
                return
            data = self._sent.popleft()
            protocol: Any = transport.get_protocol()
            if data is not None:
                protocol.data_received(data)
            elif not protocol.eof_received():
                transport.close()

    def reset(self) -> None:
        """Vanish, as a client whose process was killed."""
        self._loop.call_soon(self.transport._lose, ConnectionResetError(104, "Connection reset by peer"))

    async def read_until(self, end: bytes) -> bytes:
        """What was received up to and including `end`; all of it when the connection closes before."""
        transport = self.transport
        while end not in transport.received and not transport.closed:
            transport.changed.clear()
            await transport.changed.wait()
        at = transport.received.find(end)
        return self._take(len(transport.received) if at < 0 else at + len(end))

    async def read_to_end(self) -> bytes:
        """All that comes until the server closes its side."""
        transport = self.transport
        while not transport.closed and not (transport.eof_written and not transport.buffered):
            transport.changed.clear()
            await transport.changed.wait()
        return self._take(len(transport.received))

    async def read_response(self, *, head: bool = False) -> MemoryResponse:
        """The next response; with `head`, that to a HEAD request. Not `complete` when the connection closed in its middle,
        `status` 0 when it closed before.
        """
        response = MemoryResponse()
        block = await self.read_until(b"\r\n\r\n")
        if not block.endswith(b"\r\n\r\n"):
            return response  # the connection closed before there was a head
        parser = HttpResponseParser(_ResponseCallbacks(response))
        parser.feed_data(block)
        response.status = parser.get_status_code()
        if head or response.status < 200 or response.status in (204, 304):
            response.complete = True
        transport = self.transport
        while not response.complete:
            if transport.received:
                length = response.headers.get("content-length")
                data = self._take(len(transport.received) if length is None else int(length) - len(response.body))
                if length is None and response.headers.get("transfer-encoding") == "chunked":
                    # What follows the last chunk is the next response's.
                    end = _end_of_chunked(data)
                    transport.received[:0] = data[end:]
                    data = data[:end]
                parser.feed_data(data)
            elif transport.closed:
                response.complete = response.headers.get("content-length") is None and (
                    response.headers.get("transfer-encoding") is None
                )
                break
            else:
                transport.changed.clear()
                await transport.changed.wait()
        return response

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        while not self.transport.closed or self.connection in self._service.connections:
            self.transport.changed.clear()
            await self.transport.changed.wait()

    def _take(self, count: int) -> bytes:
        data = bytes(self.transport.received[:count])
        del self.transport.received[:count]
        return data


def _end_of_chunked(data: bytes) -> int:
    """Where a chunked body that begins at 0 ends in `data`, or the length of `data` when it goes on."""
    position = 0
    while (line_end := data.find(b"\r\n", position)) >= 0:
        size = int(data[position:line_end].split(b";")[0], 16)
        position = line_end + 2 + size + 2
        if size == 0:
            return min(position, len(data))
    return len(data)


class _ResponseCallbacks:
    def __init__(self, response: MemoryResponse) -> None:
        self._response = response

    def on_header(self, name: bytes, value: bytes) -> None:
        self._response.fields.append((name, value))

    def on_body(self, data: bytes) -> None:
        self._response.body += data

    def on_message_complete(self) -> None:
        self._response.complete = True


class MemoryServer:
    """A server without a listener, whose time is moved by hand. Takes what `Server` takes."""

    def __init__(
        self, handler: Handler, config: ServerConfig | None = None, *, inline: bool = False, **options: Any
    ) -> None:
        self.server = Server(handler, config, inline=inline, **options)
        self.report = ShutdownReport()
        self._time = 0.0

    async def __aenter__(self) -> MemoryServer:
        self.server.start_in_memory()
        service = self.service
        self._time = service.now
        service.stop_clock()
        service.clock = lambda: self._time
        service.set_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shutdown(timeout=0)

    @property
    def service(self) -> Service:
        return self.server.service

    async def shutdown(self, timeout: float = 30.0) -> ShutdownReport:
        """As `Server.shutdown`."""
        self.report = await self.server.shutdown(timeout)
        return self.report

    def connect(self, *, peer: Any = ("127.0.0.1", 50000), high_water: int = 64 * 1024) -> MemoryClient:
        """A new connection from `peer`, whose transport pauses the writer above `high_water` bytes."""
        transport = MemoryTransport({"peername": peer, "sockname": ("127.0.0.1", 8000)}, high_water)
        return MemoryClient(self.service, transport)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, and look at every deadline. Those that are due act at the loop's next turn.

        Like a real server's, deadlines are kept to a tick: a quarter of the shortest timeout, half a second at most.
        """
        self._time += seconds
        self.service.set_time()
        self.service.loop.call_soon(self.service.sweep)
