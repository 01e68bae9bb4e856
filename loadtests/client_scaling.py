"""How HostClient's cost per request grows: with the connections that are open, and with the requests that wait for one.

    python loadtests/client_scaling.py [--conns 1,10,100,1000] [--waiters 0,100,1000,10000] [--requests N]

CPU time of this process per request, against a fastserve server in another. First 64 requests in flight (fewer where there
are fewer connections to use) while the pool holds so many connections; then 64 connections that many more requests wait for.
Each row is the least of three runs, and its ratio to the first. Needs a limit of open files of twice the connections (ulimit -n).
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastserve import ClientRequest, HostClient
from fastserve.server.server import loop_factory

IN_FLIGHT = 64
RUNS = 3


@contextmanager
def server() -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [
        sys.executable, "-m", "fastserve", "run", "handlers:async_handler",
        "--app-dir", str(Path(__file__).parent), "--port", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "http://" in line:
                    yield line.rpartition("http://")[2].split()[0].rstrip("/")
                    break
            else:
                raise SystemExit("client_scaling.py: error: the server did not start")
        finally:
            process.terminate()
            process.stderr.close()


async def cost(client: HostClient, tasks: int, requests: int) -> float:
    """CPU microseconds per request, `tasks` of them sending one after the other."""
    request = ClientRequest("GET", "/")
    left = requests

    async def one() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            response = await client.do(request)
            assert response.body == b"hello"

    begun = time.process_time()
    await asyncio.gather(*(one() for _ in range(tasks)))
    return (time.process_time() - begun) / requests * 1e6


async def open_connections(client: HostClient, count: int) -> None:
    """Have `count` connections open: as many requests at once."""
    request = ClientRequest("GET", "/")
    while client.conns_count < count:
        await asyncio.gather(*(client.do(request) for _ in range(count)))


async def with_connections(address: str, conns: int, requests: int) -> float:
    async with HostClient(address, max_conns=conns, max_idle_conn_duration=300.0, max_conn_wait_timeout=30.0) as client:
        await open_connections(client, conns)
        tasks = min(conns, IN_FLIGHT)
        return min([await cost(client, tasks, requests) for _ in range(RUNS)])


async def with_waiters(address: str, waiters: int, requests: int) -> float:
    async with HostClient(
        address, max_conns=IN_FLIGHT, max_conn_wait_timeout=60.0, max_waiters=max(waiters, 1) + IN_FLIGHT
    ) as client:
        await open_connections(client, IN_FLIGHT)
        return min([await cost(client, IN_FLIGHT + waiters, max(requests, 2 * waiters)) for _ in range(RUNS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conns", default="1,10,100,1000")
    parser.add_argument("--waiters", default="0,100,1000,10000")
    parser.add_argument("--requests", type=int, default=30_000)
    arguments = parser.parse_args()
    with server() as address, asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        for what, counts, measure in (
            ("connections", arguments.conns, with_connections),
            ("waiters", arguments.waiters, with_waiters),
        ):
            first = 0.0
            for count in map(int, counts.split(",")):
                spent = runner.run(measure(address, count, arguments.requests))
                first = first or spent
                print(
                    f"{count:6} {what:12} {spent:6.1f} us CPU per request {spent / first:5.2f} x the first", flush=True
                )


if __name__ == "__main__":
    main()
