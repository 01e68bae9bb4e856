"""When memory is given back after a surge of connections, and what CPython keeps until then."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys

import pytest

from fastserve.server.ctx import RequestCtx
from fastserve.server.memory import RELEASES, REST, SURGE, SurgeWatch, keep_freed_memory
from fastserve.testing import MemoryServer
from tests.server.clients import GET, Run, turns


def told(watch: SurgeWatch, *connections: int) -> list[bool]:
    return [watch.tick(count) for count in connections]


def test_the_end_of_a_surge_is_told_for_some_ticks() -> None:
    watch = SurgeWatch()
    assert told(watch, 0, 10, SURGE * 4, SURGE * 2, SURGE + 1) == [False] * 5
    assert told(watch, *[SURGE] * (RELEASES + 2)) == [True] * RELEASES + [False] * 2
    # It ebbs away further.
    assert told(watch, SURGE // REST + 1, SURGE // REST) == [False, True]


def test_few_connections_are_no_surge() -> None:
    assert not any(told(SurgeWatch(), SURGE - 1, 0, 0, SURGE - 1, 0))


def test_a_new_surge_ends_the_releases_of_the_last() -> None:
    watch = SurgeWatch()
    assert told(watch, SURGE, 0, 1, SURGE, 0) == [False, True, True, False, True]


def test_every_connection_may_go_between_two_ticks() -> None:
    watch = SurgeWatch()
    assert told(watch, SURGE, *[0] * (RELEASES + 1)) == [False] + [True] * RELEASES + [False]


def free_floats(capfd: pytest.CaptureFixture[str]) -> int:
    capfd.readouterr()
    sys._debugmallocstats()
    found = re.search(r"(\d+) free PyFloatObject", capfd.readouterr().err)
    assert found is not None
    return int(found[1])


def test_a_release_clears_the_free_lists(capfd: pytest.CaptureFixture[str]) -> None:
    floats = [i / 3 for i in range(90)]
    floats.clear()
    before = free_floats(capfd)
    assert before > 50
    enabled = gc.isenabled()
    SurgeWatch().release()
    assert free_floats(capfd) < 10
    assert gc.get_freeze_count() == 0
    assert gc.isenabled() is enabled


def test_what_a_program_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        SurgeWatch().release()
        assert gc.get_freeze_count() == frozen > 0
    finally:
        gc.unfreeze()


def test_what_has_grown_with_the_connections_shrinks(run: Run) -> None:
    """A set keeps the table of its largest size; spare contexts were made in the surge."""

    async def handler(ctx: RequestCtx) -> None: ...

    async def main() -> None:
        async with MemoryServer(handler) as server:
            clients = [server.connect() for _ in range(SURGE * 4)]
            for client in clients:
                client.feed(GET[:10])
            await turns()
            server.service.sweep()
            size = sys.getsizeof(server.service.connections)
            for client in clients:
                client.feed(GET[10:])
                assert (await client.read_response()).status == 200
            await turns()
            assert server.service.contexts
            for client in clients:
                client.reset()
            for client in clients:
                await client.closed()
            server.advance(1)
            await asyncio.sleep(0)
            assert sys.getsizeof(server.service.connections) < size / 10
            assert server.service.contexts == []

    run(main())


# What is kept for the next large body

FAULTS = """
import resource, sys
from fastserve.server.memory import keep_freed_memory
print(keep_freed_memory({} if sys.argv[1] == "kept" else {"MALLOC_ARENA_MAX": "1"}))
def bodies():
    for _ in range(50):
        bodies = [b"x" * 262_144 for _ in range(16)]
bodies()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bodies()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[str, int]:
    command = [sys.executable, "-c", FAULTS, how]
    said, count = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    return said, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_large_bodies_find_their_pages_again() -> None:
    left, many = faults("left alone")
    kept, few = faults("kept")
    assert (left, kept) == ("False", "True")
    assert few < 100 < 10_000 < many  # of 51 200 pages that are written


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_who_has_tuned_malloc_is_left_alone(name: str) -> None:
    assert not keep_freed_memory({"PATH": "/bin", name: "1"})
