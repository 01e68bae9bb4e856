"""Look-ups: cached for a while, one at a time for each name, and nobody's cancellation is another's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fastserve.client import resolver as resolver_module
from fastserve.client.resolver import Endpoint, Resolver, interleave, numeric
from fastserve.errors import ConfigError
from tests.client.upstream import PATIENCE

Run = Callable[[Coroutine[Any, Any, Any]], Any]

FOUND = [Endpoint(socket.AF_INET, ("192.0.2.1", 0)), Endpoint(socket.AF_INET6, ("2001:db8::1", 0, 0, 0))]
WITH_PORT = [Endpoint(socket.AF_INET, ("192.0.2.1", 80)), Endpoint(socket.AF_INET6, ("2001:db8::1", 80, 0, 0))]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class NameServer:
    """Counts look-ups, and answers when it is open."""

    def __init__(self, *, is_open: bool = True, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.begun = threading.Event()
        self.open = threading.Event()
        self.error = error
        if is_open:
            self.open.set()

    def __call__(self, host: str) -> list[Endpoint]:
        self.asked.append(host)
        self.begun.set()
        assert self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return FOUND


async def settled() -> None:
    """Some turns of the loop: for tasks that wait for nothing else to get where they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_result_is_kept_for_its_life(run: Run) -> None:
    async def main() -> None:
        clock, server = Clock(), NameServer()
        resolver = Resolver(life=60.0, look_up=server, clock=clock)
        for clock.now in (0.0, 1.0, 59.9):
            assert await resolver.resolve("a", 80) == WITH_PORT
            assert resolver.resolve_blocking("a", 80, 1.0) == WITH_PORT
        assert server.asked == ["a"]
        clock.now = 60.0
        assert await resolver.resolve("a", 80) == WITH_PORT
        assert server.asked == ["a", "a"]

    run(main())


def test_no_life_keeps_nothing() -> None:
    server = NameServer()
    resolver = Resolver(life=0, look_up=server)
    for _ in range(3):
        assert resolver.resolve_blocking("a", 80, PATIENCE) == WITH_PORT
    assert server.asked == ["a"] * 3


def test_names_kept_are_bounded() -> None:
    server = NameServer()
    resolver = Resolver(max_names=2, look_up=server)
    for host in ("a", "b", "c", "b", "c", "a"):
        resolver.resolve_blocking(host, 80, PATIENCE)
    assert server.asked == ["a", "b", "c", "a"]


def test_failures_are_not_kept(run: Run) -> None:
    async def main() -> None:
        server = NameServer(error=socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        resolver = Resolver(look_up=server)
        for _ in range(2):
            with pytest.raises(OSError, match="not known"):
                await resolver.resolve("a", 80)
        server.error = None
        assert await resolver.resolve("a", 80) == WITH_PORT
        assert len(server.asked) == 3

    run(main())


@pytest.mark.parametrize("error", [UnicodeError("label too long"), RuntimeError("label too long")])
def test_any_failure_is_an_oserror(error: Exception) -> None:
    with pytest.raises(OSError, match="label too long"):
        Resolver(look_up=NameServer(error=error)).resolve_blocking("a", 80, PATIENCE)


def test_no_address_is_a_failure() -> None:
    with pytest.raises(OSError, match="has no address"):
        Resolver(look_up=lambda host: []).resolve_blocking("a", 80, PATIENCE)


def test_look_ups_at_one_time_are_one(run: Run) -> None:
    async def main() -> None:
        server = NameServer(is_open=False)
        resolver = Resolver(look_up=server)
        with ThreadPoolExecutor(4) as threads:
            blocking = [threads.submit(resolver.resolve_blocking, "a", 80, PATIENCE) for _ in range(4)]
            waiters = [asyncio.ensure_future(resolver.resolve("a", 80)) for _ in range(4)]
            other = asyncio.ensure_future(resolver.resolve("b", 80))
            await settled()
            server.open.set()
            assert await asyncio.gather(*waiters, other) == [WITH_PORT] * 5
            assert await asyncio.to_thread(lambda: [b.result() for b in blocking]) == [WITH_PORT] * 4
        assert sorted(server.asked) == ["a", "b"]

    run(main())


@pytest.mark.parametrize("first", [True, False])
def test_a_waiter_that_is_cancelled_leaves_the_look_up_to_the_others(run: Run, first: bool) -> None:
    async def main() -> None:
        server = NameServer(is_open=False)
        resolver = Resolver(look_up=server)
        one, two = (asyncio.ensure_future(resolver.resolve("a", 80)) for _ in range(2))
        await settled()
        (one if first else two).cancel()
        await settled()
        server.open.set()
        results = await asyncio.gather(one, two, return_exceptions=True)
        assert WITH_PORT in results
        assert isinstance(results[0 if first else 1], asyncio.CancelledError)
        assert server.asked == ["a"]

    run(main())


def test_a_look_up_that_nobody_waits_for_any_more_is_kept(run: Run) -> None:
    async def main() -> None:
        server = NameServer(is_open=False)
        resolver = Resolver(look_up=server)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await resolver.resolve("a", 80)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(resolver.resolve_blocking, "a", 80, 0.01)
        server.open.set()
        assert await resolver.resolve("a", 80) == WITH_PORT
        assert server.asked == ["a"]

    run(main())


def test_a_loop_may_end_before_its_look_up() -> None:
    server = NameServer(is_open=False)
    resolver = Resolver(look_up=server)

    async def main() -> None:
        waiter = asyncio.ensure_future(resolver.resolve("a", 80))
        await settled()
        assert not waiter.done()

    asyncio.run(main())  # cancels it, and does not wait for the look-up
    server.open.set()
    assert resolver.resolve_blocking("a", 80, PATIENCE) == WITH_PORT
    assert server.asked == ["a"]


def test_look_ups_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "MAX_LOOK_UPS", 2)
    server = NameServer(is_open=False)
    resolver = Resolver(look_up=server)
    for host in ("a", "b"):
        with pytest.raises(TimeoutError):
            resolver.resolve_blocking(host, 80, 0)
    with pytest.raises(OSError, match="2 look-ups of other names are under way"):
        resolver.resolve_blocking("c", 80, 0)
    server.open.set()
    for host in ("a", "b", "c"):
        assert resolver.resolve_blocking(host, 80, PATIENCE) == WITH_PORT


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*args: Any, **options: Any) -> None:
        raise RuntimeError("can't start new thread")

    server = NameServer()
    resolver = Resolver(look_up=server)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(OSError, match="no thread for the look-up"):
            resolver.resolve_blocking("a", 80, PATIENCE)
    assert resolver.resolve_blocking("a", 80, PATIENCE) == WITH_PORT


def test_a_result_that_did_not_work_is_forgotten_once_a_second() -> None:
    clock, server = Clock(), NameServer()
    resolver = Resolver(look_up=server, clock=clock)
    resolver.forget("a")
    resolver.resolve_blocking("a", 80, PATIENCE)
    resolver.forget("a")
    resolver.resolve_blocking("a", 80, PATIENCE)
    assert server.asked == ["a"]
    clock.now = 1.0
    resolver.forget("a")
    resolver.resolve_blocking("a", 80, PATIENCE)
    assert server.asked == ["a", "a"]


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("127.0.0.1", Endpoint(socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", Endpoint(socket.AF_INET6, ("::1", 80, 0, 0))),
        ("::ffff:127.0.0.1", Endpoint(socket.AF_INET6, ("::ffff:127.0.0.1", 80, 0, 0))),
    ],
)
def test_numeric_hosts_need_no_look_up(run: Run, host: str, endpoint: Endpoint) -> None:
    async def main() -> None:
        server = NameServer()
        resolver = Resolver(look_up=server)
        assert await resolver.resolve(host, 80) == [endpoint]
        assert resolver.resolve_blocking(host, 80, 0) == [endpoint]
        assert server.asked == []
        assert numeric("localhost", 80) is None

    run(main())


def test_the_systems_resolver(run: Run) -> None:
    async def main() -> None:
        found = await Resolver().resolve("localhost", 80)
        assert Endpoint(socket.AF_INET, ("127.0.0.1", 80)) in found
        assert len(found) == len(set(found))
        with pytest.raises(OSError):
            await Resolver().resolve("x" * 64, 80)

    run(main())


def test_families_take_turns() -> None:
    six = [Endpoint(socket.AF_INET6, (f"::{n}", 0, 0, 0)) for n in range(1, 4)]
    four = [Endpoint(socket.AF_INET, (f"192.0.2.{n}", 0)) for n in range(1, 3)]
    assert interleave([*six, *four, six[0]]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]
    assert interleave(four) == four


def test_bad_options() -> None:
    for life in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="life"):
            Resolver(life=life)
    with pytest.raises(ConfigError, match="max_names 0"):
        Resolver(max_names=0)
