"""A context is used again only where references are counted as its reuse expects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest

from fastserve import RequestCtx
from fastserve.server import answering, connection, references, service
from fastserve.server.wire import UNKNOWN
from tests.server.clients import Run, clients, serving


def limits() -> dict[tuple[ModuleType, str], int]:
    return {(module, name): getattr(module, name) for module, names in references.LIMITS.items() for name in names}


@pytest.fixture
def limits_restored() -> Iterator[None]:
    before = limits()
    yield
    for (module, name), limit in before.items():
        setattr(module, name, limit)


def test_the_limits_of_this_interpreter_are_known() -> None:
    assert UNKNOWN not in limits().values()


@pytest.mark.skipif(not connection.__file__.endswith(".py"), reason="a compiler counts as it likes")
def test_the_limits_are_what_can_be_counted_by_hand() -> None:
    # To the context in `data_received`: `_ctx`, a local variable, and getrefcount's argument. In `_renew` its parameter too.
    # To the request there: the ctx's, the parser's, the caller's, the argument. To the response: all but the parser's.
    assert [getattr(connection, name) for name in references.LIMITS[connection]] == [3, 4, 4, 3]
    # `_ctx`, the `self` of its own `call_ended`, a local variable, and the argument; the pool has none.
    assert [getattr(answering, name) for name in references.LIMITS[answering]] == [4, 4, 3]
    assert [getattr(service, name) for name in references.LIMITS[service]] == [3, 2]


@pytest.mark.usefixtures("limits_restored")
def test_they_are_found_again() -> None:
    before = limits()
    references.find_limits()
    assert limits() == before


@pytest.mark.usefixtures("limits_restored")
def test_a_debugger_that_looks_on_changes_nothing() -> None:
    """Until 3.13, whoever asks a frame for its variables makes a dict of them, which stays with the frame."""

    def look(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        assert frame.f_locals is not None
        return look

    before, tracer = limits(), sys.gettrace()
    sys.settrace(look)
    try:
        references.find_limits()
    finally:
        sys.settrace(tracer)
    assert limits() == before


@pytest.mark.parametrize(("module", "name"), list(limits()))
@pytest.mark.usefixtures("limits_restored")
def test_a_place_that_always_finds_somebody_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """As if references were not counted, or not at once."""
    monkeypatch.setattr(module, "getrefcount", lambda thing: 1 << 30)
    references.find_limits()
    assert getattr(module, name) == UNKNOWN


@pytest.mark.parametrize(("module", "name"), list(limits()))
@pytest.mark.usefixtures("limits_restored")
def test_a_place_that_never_finds_anybody_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    monkeypatch.setattr(module, "getrefcount", lambda thing: 0)
    references.find_limits()
    assert getattr(module, name) == UNKNOWN


@pytest.mark.usefixtures("limits_restored")
def test_elsewhere_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    references.find_limits()
    assert set(limits().values()) == {UNKNOWN}


async def in_place(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.path)


def on_a_thread(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.path)


@pytest.mark.parametrize("handler", [in_place, on_a_thread])
def test_without_known_counts_no_context_is_used_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, handler: Callable[[RequestCtx], Any]
) -> None:
    for module, name in limits():
        monkeypatch.setattr(module, name, UNKNOWN)
    seen: list[RequestCtx] = []

    def keep(ctx: RequestCtx) -> None:
        seen.append(ctx)
        handler(ctx)

    async def keep_async(ctx: RequestCtx) -> None:
        seen.append(ctx)
        await handler(ctx)

    async def main() -> None:
        async with serving(keep if handler is on_a_thread else keep_async) as server, clients(server, 1) as (client,):
            for n in range(5):
                assert await client.get(f"/{n}") == b"/%d" % n
            assert len(set(map(id, seen))) == 5
            assert [ctx.path for ctx in seen] == [f"/{n}" for n in range(5)]

    run(main())
