"""One client as a load generator, for a few seconds: python -m bench.clients NAME PORT CONNS TASKS SECONDS BODY EXPECTED

`TASKS` tasks (or threads, or transfers) send one request after the other on at most `CONNS` connections: GETs, or POSTs of
BODY bytes when that is not 0. Each answer must be 200 with EXPECTED bytes. Prints a line of JSON: requests, seconds, CPU
seconds, p50, p99 and p99.9 in milliseconds, largest resident memory, and when the first answer came.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
import time
from array import array
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

clock = time.perf_counter


class Load:
    """The task, and how far it is. Every client calls `answered` once for each answer."""

    def __init__(self, port: int, conns: int, tasks: int, seconds: float, body: int, expected: int) -> None:
        self.port = port
        self.conns = conns
        self.tasks = tasks
        self.body = b"x" * body
        self.method = "POST" if body else "GET"
        self.expected = expected
        self.latencies = array("d")
        self.first = 0.0
        self.seconds = seconds
        self.end = self.took = self.cpu = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """The load itself: imports, set-up and closing are outside."""
        used, begun = cpu(), clock()
        self.end = begun + self.seconds
        yield
        self.took, self.cpu = clock() - begun, cpu() - used

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def answered(self, began: float, status: int, size: int) -> float:
        """Record an answer to what was sent at `began`. Returns the time."""
        if status != 200 or size != self.expected:
            raise RuntimeError(f"wrong answer: status {status} with {size} bytes")
        now = clock()
        if not self.first:
            self.first = time.time()
        self.latencies.append(now - began)
        return now

    def report(self) -> dict[str, float]:
        ordered = sorted(self.latencies)
        if not ordered:
            raise RuntimeError("no answer came")

        def at(share: float) -> float:
            return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3

        # Not ru_maxrss: that begins with what the process had resident that started this one.
        status = Path("/proc/self/status").read_text()
        memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024
        return {
            "requests": len(ordered), "seconds": self.took, "cpu": self.cpu, "first": self.first, "memory": memory,
            "p50": at(0.5), "p99": at(0.99), "p999": at(0.999),
        }  # fmt: skip


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run_tasks(load: Load, one: Callable[[], Coroutine[Any, Any, None]]) -> Coroutine[Any, Any, Any]:
    async def run() -> None:
        with load.measured():
            async with asyncio.TaskGroup() as group:
                for _ in range(load.tasks):
                    group.create_task(one())

    return run()


def run_threads(load: Load, one: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(load.tasks)]
    with load.measured():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


async def with_host_client(load: Load) -> None:
    from fastserve import ClientRequest, HostClient

    async with HostClient(
        f"127.0.0.1:{load.port}", max_conns=load.conns, max_conn_wait_timeout=60.0, max_waiters=load.tasks
    ) as client:
        request = ClientRequest(load.method, "/", body=load.body or None)

        async def one() -> None:
            now = clock()
            while now < load.end:
                response = await client.do(request)
                now = load.answered(now, response.status_code, len(response.body))

        await run_tasks(load, one)


def with_sync_host_client(load: Load) -> None:
    import fastserve

    made = getattr(fastserve, "SyncHostClient")  # noqa: B009 - an older fastserve has none
    with made(
        f"127.0.0.1:{load.port}", max_conns=load.conns, max_conn_wait_timeout=60.0, max_waiters=load.tasks
    ) as client:
        request = fastserve.ClientRequest(load.method, "/", body=load.body or None)

        def one() -> None:
            now = clock()
            while now < load.end:
                response = client.do(request)
                now = load.answered(now, response.status_code, len(response.body))

        run_threads(load, one)


async def with_raw(load: Load) -> None:
    """The limit: uvloop and httptools, the same request bytes each time, and no pool."""
    from httptools import HttpResponseParser

    length = b"Content-Length: %d\r\n" % len(load.body) if load.body else b""
    request = b"%b / HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n%b" % (load.method.encode(), length, load.body)
    loop = asyncio.get_running_loop()

    class Raw(asyncio.Protocol):
        answer: asyncio.Future[int]

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.parser = HttpResponseParser(self)
            self.size = 0

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_header(self, name: bytes, value: bytes) -> None:
            pass

        def on_body(self, body: bytes) -> None:
            self.size += len(body)

        def on_message_complete(self) -> None:
            self.answer.set_result(self.parser.get_status_code())

    async def one() -> None:
        _, raw = await loop.create_connection(Raw, "127.0.0.1", load.port)
        now = clock()
        while now < load.end:
            raw.answer = loop.create_future()
            raw.size = 0
            raw.transport.write(request)
            now = load.answered(now, await raw.answer, raw.size)
        raw.transport.close()

    await run_tasks(load, one)


async def with_aiohttp(load: Load) -> None:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=load.conns)) as session:

        async def one() -> None:
            now = clock()
            while now < load.end:
                async with session.request(load.method, load.url, data=load.body or None) as response:
                    now = load.answered(now, response.status, len(await response.read()))

        await run_tasks(load, one)


async def with_httpx(load: Load) -> None:
    import httpx

    limits = httpx.Limits(max_connections=load.conns, max_keepalive_connections=load.conns)
    async with httpx.AsyncClient(limits=limits, timeout=60.0) as client:

        async def one() -> None:
            now = clock()
            while now < load.end:
                response = await client.request(load.method, load.url, content=load.body or None)
                now = load.answered(now, response.status_code, len(response.content))

        await run_tasks(load, one)


def with_pycurl(load: Load) -> None:
    """The multi interface: all transfers in one thread."""
    import pycurl

    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, load.conns)
    bodies: dict[Any, list[bytes]] = {}
    for _ in range(load.tasks):
        curl = pycurl.Curl()
        bodies[curl] = []
        curl.setopt(pycurl.URL, load.url)
        curl.setopt(pycurl.WRITEFUNCTION, bodies[curl].append)
        if load.body:
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.POSTFIELDSIZE, len(load.body))
            curl.setopt(pycurl.COPYPOSTFIELDS, load.body)
            curl.setopt(pycurl.HTTPHEADER, ["Expect:"])  # as the others, which do not wait for 100 Continue
    with load.measured():
        began = dict.fromkeys(bodies, clock())
        for curl in bodies:
            multi.add_handle(curl)
        active = len(bodies)
        while active:
            multi.perform()
            left = 1
            while left:
                left, done, failed = multi.info_read()
                if failed:
                    raise RuntimeError(f"pycurl: {failed[0][1:]}")
                for curl in done:
                    multi.remove_handle(curl)
                    now = load.answered(began[curl], curl.getinfo(pycurl.RESPONSE_CODE), sum(map(len, bodies[curl])))
                    bodies[curl].clear()
                    if now < load.end:
                        began[curl] = now
                        multi.add_handle(curl)
                    else:
                        active -= 1
            if active:
                multi.select(0.1)
    for curl in bodies:
        curl.close()
    multi.close()


def with_urllib3(load: Load) -> None:
    import urllib3

    with urllib3.HTTPConnectionPool("127.0.0.1", load.port, maxsize=load.conns, block=True) as pool:

        def one() -> None:
            now = clock()
            while now < load.end:
                response = pool.request(load.method, "/", body=load.body or None)
                now = load.answered(now, response.status, len(response.data))

        run_threads(load, one)


def with_http_client(load: Load) -> None:
    """A connection for each thread: it has no pool."""
    import http.client

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", load.port)
        now = clock()
        while now < load.end:
            connection.request(load.method, "/", load.body or None)
            response = connection.getresponse()
            size = len(response.read())
            now = load.answered(now, response.status, size)
        connection.close()

    run_threads(load, one)


ASYNC: dict[str, Callable[[Load], Coroutine[Any, Any, None]]] = {
    "HostClient": with_host_client,
    "raw": with_raw,
    "aiohttp": with_aiohttp,
    "httpx": with_httpx,
}
BLOCKING: dict[str, Callable[[Load], None]] = {
    "SyncHostClient": with_sync_host_client,
    "pycurl": with_pycurl,
    "urllib3": with_urllib3,
    "http.client": with_http_client,
}


def main() -> None:
    name, port, conns, tasks, seconds, body, expected = sys.argv[1:]
    load = Load(int(port), int(conns), int(tasks), float(seconds), int(body), int(expected))
    if name in BLOCKING:
        BLOCKING[name](load)
    else:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ASYNC[name](load))
    print(json.dumps(load.report()))


if __name__ == "__main__":
    main()
