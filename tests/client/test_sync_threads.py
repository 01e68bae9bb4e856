"""`SyncHostClient` in many threads, and its end: nobody hangs, and nobody gets another one's response. Also under gevent."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fastserve import ClientClosed, NoFreeConns, RequestCtx, ServerThread, SyncBodyReader, SyncHostClient
from tests.client.scripts import CHUNKED_OK, SAYS_NOTHING, answers
from tests.client.upstream import OK, SERVES, Gate, Upstream, request, send, until_closed, wait_for
from tests.pool.world import wait_until

ROOT = Path(__file__).parent.parent.parent
JOIN = 20.0
"""Seconds for a thread that is about to end."""


async def echo(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.post_body)


def to(upstream: Upstream, **options: Any) -> SyncHostClient:
    return SyncHostClient(f"127.0.0.1:{upstream.port}", **options)


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    """Run `work` in a thread; the list gets its result, or its error."""
    got: list[Any] = []

    def run() -> None:
        try:
            got.append(work())
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, got


def ended(thread: threading.Thread, got: list[Any]) -> Any:
    thread.join(JOIN)
    assert not thread.is_alive(), "the thread hangs"
    return got[0]


def test_thirty_two_threads_on_four_connections() -> None:
    with (
        ServerThread(echo) as server,
        SyncHostClient(f"127.0.0.1:{server.port}", max_conns=4, max_conn_wait_timeout=JOIN) as client,
    ):

        def work(number: int) -> int:
            for turn in range(20):
                text = f"{number}-{turn}"
                response = client.post(f"/{number}", body=text, timeout=JOIN)
                assert response.text == text, "another one's response"
            return number

        threads = [in_thread(lambda number=number: work(number)) for number in range(32)]
        assert [ended(*thread) for thread in threads] == list(range(32))
        stats = client.stats()
        assert stats.conns == stats.idle <= 4
        assert (stats.streams, stats.waiting) == (0, 0)


def test_set_max_conns_lets_a_waiter_go() -> None:
    with Upstream(SAYS_NOTHING, SERVES) as upstream, to(upstream, max_conns=1, max_conn_wait_timeout=JOIN) as client:
        first = in_thread(lambda: client.get("/"))
        upstream.wait_accepted(1)
        second = in_thread(lambda: client.get("/"))
        wait_until(lambda: client.stats().waiting == 1)
        assert client.pending_requests == 2
        client.set_max_conns(2)
        assert ended(*second).body == b"ok"
        client.close()
        assert isinstance(ended(*first), ClientClosed)


def test_close_with_requests_under_way_and_waiting() -> None:
    """No thread hangs, and each is told why."""
    with Upstream(SAYS_NOTHING) as upstream:
        client = to(upstream, max_conns=2, max_conn_wait_timeout=JOIN)
        holders = [in_thread(lambda: client.get("/")), in_thread(lambda: client.post("/", body=b"x" * 10_000_000))]
        upstream.wait_accepted(2)
        wait_until(lambda: client.stats().dialing == 0)
        waiters = [in_thread(lambda: client.get("/")) for _ in range(5)]
        wait_until(lambda: client.stats().waiting == 5)
        client.close()
        for thread in holders + waiters:
            assert isinstance(ended(*thread), ClientClosed)
        upstream.wait_closed(2)
        assert client.conns_count == 0
        with pytest.raises(ClientClosed) as told:
            client.get("/")
        assert told.value.elapsed > 0
        client.close()


def test_close_gives_requests_their_time() -> None:
    gate = Gate()
    with Upstream([request, wait_for(gate), send(OK), until_closed]) as upstream:
        client = to(upstream)
        holder = in_thread(lambda: client.get("/"))
        upstream.wait_requests(1)
        closer = in_thread(lambda: client.close(JOIN))
        wait_until(lambda: client._pool.closed)
        gate.open()
        assert ended(*holder).body == b"ok"
        assert ended(*closer) is None
        upstream.wait_closed(1)


@pytest.mark.parametrize("response", [CHUNKED_OK[:-5], b"HTTP/1.1 200 OK\r\n\r\nok"], ids=["chunked", "until close"])
def test_close_while_a_response_is_streamed(response: bytes) -> None:
    """Also where the end of the connection is the end of the body: but not this end."""
    with Upstream(answers(response)) as upstream:
        client = to(upstream)
        with client.stream("GET", "/") as streamed:
            assert isinstance(streamed.stream, SyncBodyReader)
            assert next(streamed.stream) == b"ok"
            client.close()
            with pytest.raises(ClientClosed):
                next(streamed.stream)
        upstream.wait_closed(1)


def test_no_free_connection() -> None:
    with Upstream(SAYS_NOTHING) as upstream, to(upstream, max_conns=1) as client:
        holder = in_thread(lambda: client.get("/"))
        upstream.wait_accepted(1)
        wait_until(lambda: client.stats().dialing == 0)
        with pytest.raises(NoFreeConns) as told:
            client.get("/")
        assert told.value.phase == "wait"
        client.close()
        assert isinstance(ended(*holder), ClientClosed)


def test_under_gevent() -> None:
    """In a process of its own, since monkey-patching cannot be undone."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.client.gevent_program"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No module named 'gevent'" not in result.stderr, "gevent is missing: pip install gevent"
    assert result.returncode == 0, result.stderr
    assert "all is well" in result.stdout
