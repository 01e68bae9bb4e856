"""What both clients do alike: a response that begins while the body is still sent, and how often a request was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fastserve import ClosedBeforeResponse, HostClient, RequestCtx, ServerThread, SyncHostClient
from tests.client.scripts import CLOSES_AFTER_REQUEST
from tests.client.upstream import Upstream
from tests.server.clients import Run

PIECES = 200
PIECE = b"x" * 100


def body() -> Iterator[bytes]:
    for _ in range(PIECES):
        yield PIECE


async def counts(ctx: RequestCtx) -> None:
    """Answers at once that it will close, and then counts what it is sent."""

    async def answer() -> Any:
        yield b"begun;"
        size = 0
        async for piece in ctx.request_body_stream:
            size += len(piece)
        yield b"got %d" % size

    ctx.response.close = True
    ctx.set_body_stream(answer())


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
def test_what_is_read_while_it_is_answered_is_sent_to_its_end(run: Run, kind: str) -> None:
    """`Connection: close` says nothing of the body: only an error does, or the end of the connection."""
    with ServerThread(counts, stream_request_body=True) as server:

        async def main() -> bytes:
            async with HostClient(server.urls[0]) as client:
                return (await client.post("/", body=body())).body

        def blocking() -> bytes:
            with SyncHostClient(server.urls[0]) as client:
                return client.post("/", body=body()).body

        async def both() -> None:
            got = await (main() if kind == "asyncio" else asyncio.to_thread(blocking))
            assert got == b"begun;got %d" % (PIECES * len(PIECE))

        run(both())


def test_how_often_a_request_was_sent_is_told() -> None:
    """A PUT that failed five times may have been served five times."""
    with Upstream(CLOSES_AFTER_REQUEST) as upstream, SyncHostClient(f"127.0.0.1:{upstream.port}") as client:
        with pytest.raises(ClosedBeforeResponse, match="this was attempt 5"):
            client.put("/", body=b"x")
        with pytest.raises(ClosedBeforeResponse) as once:
            client.post("/", body=b"x")
        assert "attempt" not in str(once.value)
        upstream.wait_requests(6)
