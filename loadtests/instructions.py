"""Instructions per request of a connection alone, counted by callgrind: no sockets, no noise.

    python loadtests/instructions.py [--cases get,browser,varied,post,pipeline] [--handlers async,inline]

Each case is run twice in a child under ``valgrind --tool=callgrind``, with few and with many
requests; the difference is what one request costs, start-up and warm-up left out. ``floor`` is
httptools fed the same bytes, with a callback for each part of a request, answering with
constant bytes. The counts repeat from run to run for one interpreter; compare ratios between
interpreters. Needs valgrind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

from handlers import async_handler, plain_handler
from httptools import HttpRequestParser

from fastserve import Server
from fastserve.server.connection import Connection

FEW, MANY = 160, 800

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
BROWSER = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20130501 Firefox/30.0 AppleWebKit/600.00 Chrome/30.0.0000.0\r\n"
    b"Cookie: uid=12345678901234567890; __utma=1.1234567890.1234567890.1234567890.12; wd=2560x1600\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n"
)
BODY = b'{"pad": "' + b"x" * 1000 + b'"}'
POST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
VARIED = [
    BROWSER.replace(b"GET /", b"GET /items/%d?page=%d" % (i, i % 7)).replace(
        b"Cookie:", b"X-Request-Id: %032x\r\nCookie:" % i
    )
    for i in range(5000)
]
CASES = {
    "get": ([GET], 1),
    "browser": ([BROWSER], 1),
    "varied": (VARIED, 1),
    "post": ([POST], 1),
    "pipeline": ([GET * 16], 16),
}
"""Segments that come in turn, and requests in each. In `varied` no target and no header block comes twice."""


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
    """The parser, with a constant answer."""

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


async def serve(handler: str, data: list[bytes], segments: int) -> None:
    """Feed `segments` of `data` in turn to one connection, with no task current, as a loop does."""
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
        for segment in islice(cycle(data), segments):
            receive(segment)
        done.set_result(None)

    for _ in range(warm):  # the first request makes the worker, at a turn of its own
        loop.call_soon(receive, data[-1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    loop.call_soon(feed)
    await done


def count(handler: str, case: str, requests: int) -> int:
    """Instructions of one child that serves `requests` requests."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
            sys.executable, __file__, "--child", handler, case, str(requests),
        ]  # fmt: skip
        env = dict(os.environ, PYTHONHASHSEED="0")
        result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    found = re.search(r"Collected\s*:\s*(\d+)", result.stderr)
    if result.returncode or found is None:
        raise SystemExit(f"callgrind failed:\n{result.stderr[-2000:]}")
    return int(found[1])


def per_request(handler: str, case: str) -> int:
    pipelined = CASES[case][1]
    few, many = FEW - FEW % pipelined, MANY - MANY % pipelined
    return round((count(handler, case, many) - count(handler, case, few)) / (many - few))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="get,browser,varied,post,pipeline")
    parser.add_argument("--handlers", default="async,inline")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        handler, case, requests = arguments.child
        data, pipelined = CASES[case]
        asyncio.run(serve(handler, data, int(requests) // pipelined))
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("instructions.py: error: valgrind is not installed (Debian: apt-get install valgrind)")
    handlers = arguments.handlers.split(",")
    print(f"instructions per request, CPython {sys.version.split()[0]}")
    print(f"{'case':10} {'floor':>8} " + " ".join(f"{name:>8} {'x floor':>8}" for name in handlers))
    for case in arguments.cases.split(","):
        floor = per_request("floor", case)
        row = f"{case:10} {floor:8}"
        for handler in handlers:
            instructions = per_request(handler, case)
            row += f" {instructions:9} {instructions / floor:8.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
