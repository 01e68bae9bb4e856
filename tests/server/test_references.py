"""A context is used again only where references are counted as its reuse expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastserve import RequestCtx
from fastserve.server import answering, connection, references, service
from tests.server.clients import Run, clients, serving


def test_the_counts_of_this_interpreter_are_known() -> None:
    assert references.COUNTS_ARE_KNOWN
    assert (references.expected(3), connection.CTX_REFS) == (3, 3)


def test_where_counts_are_not_known_none_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "getrefcount", lambda thing: 2)  # as if locals did not count
    assert not references._are_known()
    monkeypatch.setattr(references, "COUNTS_ARE_KNOWN", False)
    assert references.expected(3) == -1


async def in_place(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.path)


def on_a_thread(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.path)


@pytest.mark.parametrize("handler", [in_place, on_a_thread])
def test_without_known_counts_no_context_is_used_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, handler: Callable[[RequestCtx], Any]
) -> None:
    for module in (answering, connection, service):
        for name in ("CTX_REFS", "REQUEST_REFS", "RESPONSE_REFS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, -1)
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
