"""What the tests of HostClient share: the books of its pool, and clients that are closed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastserve import HostClient
from tests.client.upstream import PATIENCE, Upstream

__all__ = ["Run", "balanced", "client_of", "ticks", "until"]

Run = Callable[[Coroutine[Any, Any, None]], None]


@asynccontextmanager
async def client_of(upstream: Upstream | int | str, **options: Any) -> AsyncIterator[HostClient]:
    """A client of `upstream` (or of a port, or an address), closed at the end, with its books looked at."""
    if isinstance(upstream, Upstream):
        upstream = upstream.port
    addr = f"127.0.0.1:{upstream}" if isinstance(upstream, int) else upstream
    client = HostClient(addr, **options)
    try:
        yield client
    finally:
        await client.aclose()
    balanced(client, idle=0)
    assert not client._connections, "sockets that are not closed"


def balanced(client: HostClient, *, idle: int | None = None) -> None:
    """Nobody holds or awaits a connection, and there are `idle` of them."""
    stats = client.stats()
    assert (stats.streams, stats.waiting, stats.dialing) == (0, 0, 0), stats
    assert client.pending_requests == 0
    assert stats.conns == stats.idle == client.conns_count == client.idle_conns_count, stats
    if idle is not None:
        assert stats.idle == idle, stats


async def until(check: Callable[[], bool], what: str) -> None:
    """Let the loop turn until `check` holds."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 - there is no event for whatever may be looked at
            await asyncio.sleep(0.001)
    assert check(), what


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
