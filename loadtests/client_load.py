"""Load one server with HostClient, for a few seconds, and say how many requests were answered.

    python loadtests/client_load.py PORT CONNS SECONDS [--tasks N] [--sync]

`CONNS` connections serve `--tasks` tasks (by default as many), each sending one GET after the other and checking status and
body (`hello`). All timeouts are on. With fewer connections than tasks it prints how long they waited, too: by the clock, and
by how many others were answered meanwhile, in which neither the machine nor the server has a part. `--sync` is SyncHostClient
in one thread. What was imported is hidden from the garbage collector (gc.freeze), as long-running services do.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time

from fastserve import ClientRequest, HostClient, SyncHostClient
from fastserve.server.server import loop_factory

EXPECTED = b"hello"
WARM_UP = 0.3
"""Seconds in which connections are opened: what a request waits for then is a dial, not its turn."""


async def load(port: int, conns: int, seconds: float, tasks: int) -> tuple[int, list[float], list[int]]:
    """Requests answered; how long each took; and how many others were answered meanwhile."""
    waits = conns < tasks
    latencies: list[float] = []
    turns: list[int] = []
    answered = 0
    request = ClientRequest("GET", "/")
    async with HostClient(f"127.0.0.1:{port}", max_conns=conns, max_conn_wait_timeout=10.0) as client:
        began_at = time.perf_counter()
        warm, end = began_at + WARM_UP, began_at + seconds

        async def one() -> None:
            nonlocal answered
            while (began := time.perf_counter()) < end:
                before = answered
                response = await client.do(request)
                if response.status_code != 200 or response.body != EXPECTED:
                    raise SystemExit(f"client_load.py: error: got {response!r} with {response.body!r}")
                answered += 1
                if waits and began > warm:
                    turns.append(answered - before)
                    latencies.append(time.perf_counter() - began)

        await asyncio.gather(*(one() for _ in range(tasks)))
    return answered, latencies, turns


def load_sync(port: int, seconds: float) -> int:
    answered = 0
    request = ClientRequest("GET", "/")
    with SyncHostClient(f"127.0.0.1:{port}") as client:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            response = client.do(request)
            if response.status_code != 200 or response.body != EXPECTED:
                raise SystemExit(f"client_load.py: error: got {response!r} with {response.body!r}")
            answered += 1
    return answered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("conns", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--tasks", type=int, help="by default as many as connections")
    parser.add_argument("--sync", action="store_true")
    arguments = parser.parse_args()
    if arguments.sync:
        print("requests", load_sync(arguments.port, arguments.seconds))
        return
    # Else the longest wait is a full collection over all that was imported, 5 to 10 ms, and says nothing of the pool.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        answered, latencies, turns = runner.run(
            load(arguments.port, arguments.conns, arguments.seconds, arguments.tasks or arguments.conns)
        )
    print("requests", answered)
    if latencies:
        latencies.sort()
        turns.sort()
        median, most, longest = statistics.median(latencies), latencies[int(len(latencies) * 0.999)], latencies[-1]
        times = f"99.9 % within {most / median:.1f} x of that, the longest {longest / median:.1f} x"
        print(f"order: others answered meanwhile: median {statistics.median(turns):.0f}, at most {turns[-1]}")
        print(f"waits and exchanges: median {median * 1e3:.2f} ms, {times}")


if __name__ == "__main__":
    main()
