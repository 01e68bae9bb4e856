"""What uvloop and httptools alone cost, every request answered with the same bytes: python -m bench.apps.serve_floor PORT"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from httptools import HttpRequestParser

from bench.body import response_body

BODY = response_body()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Mon, 23 Nov 2026 19:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class Floor(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.write = transport.write
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.feed_data = HttpRequestParser(self).feed_data

    def data_received(self, data: bytes) -> None:
        self.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.headers = []
        self.write(ANSWER)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
