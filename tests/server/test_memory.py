"""When memory is given back after a surge of connections, and what CPython keeps until then."""

from __future__ import annotations

import asyncio
import gc
import re
import sys

import pytest

from fastserve.server.ctx import RequestCtx
from fastserve.server.memory import RELEASES, REST, SURGE, SurgeWatch
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
