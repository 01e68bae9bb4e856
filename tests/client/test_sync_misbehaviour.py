"""`SyncHostClient` and upstreams that misbehave: for each, the right error with its phase and time, or a correct retry.

In every case the pool's books balance, and no connection is used again that should not be.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fastserve import (
    ClientError,
    ClosedBeforeResponse,
    ClosedInResponse,
    DialError,
    DialTimeout,
    MalformedResponse,
    NoFreeConns,
    RequestTimeout,
    ResponseBodyTimeout,
    ResponseHeadTimeout,
    ResponseTooLarge,
    SyncBodyReader,
    SyncHostClient,
    WriteError,
    WriteTimeout,
)
from fastserve.client.sync_connection import SyncConnection
from fastserve.http1.response_parser import ResponseHeadMemory
from tests.client.certificates import client_context, server_context
from tests.client.scripts import (
    ANSWERS_BEFORE_BODY,
    ANSWERS_BEFORE_BODY_AND_RESETS,
    ANSWERS_BEFORE_REQUEST,
    ANSWERS_TWICE,
    BODY_UNTIL_CLOSE,
    BODY_UNTIL_RESET,
    BREAKS_BEFORE_RESPONSE,
    BREAKS_IN_RESPONSE,
    CLOSES_AFTER_REQUEST,
    CLOSES_IDLE,
    HUNDRED_TIMES_1XX,
    MALFORMED,
    NEVER_READS,
    RESETS,
    SAYS_NOTHING,
    answers,
    answers_twice,
    drips,
)
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Script,
    Upstream,
    close,
    request,
    request_head,
    send,
    silent_listener,
    until_closed,
    wait_for,
)

SHORT = 0.05
"""Seconds of a time-out that is meant to run out."""
LARGE = b"x" * 8_000_000
"""More than the buffers of both sides take."""


def to(upstream: Upstream, **options: Any) -> SyncHostClient:
    return SyncHostClient(f"127.0.0.1:{upstream.port}", **options)


def assert_balanced(client: SyncHostClient, conns: int = 0) -> None:
    stats = client.stats()
    assert (stats.conns, stats.idle, stats.streams, stats.waiting, stats.dialing) == (conns, conns, 0, 0, 0), stats


# Each phase's time


@pytest.mark.parametrize(
    ("script", "options", "kind", "phase"),
    [
        (NEVER_READS, {"write_timeout": SHORT}, WriteTimeout, "write"),
        (SAYS_NOTHING, {"read_timeout": SHORT}, ResponseHeadTimeout, "head"),
        (answers(OK[:20]), {"read_timeout": SHORT}, ResponseHeadTimeout, "head"),
        (answers(b"HTTP/1.1 103 Early Hints\r\n\r\n"), {"read_timeout": SHORT}, ResponseHeadTimeout, "head"),
        (answers(OK[:-1]), {"body_timeout": SHORT}, ResponseBodyTimeout, "body"),
    ],
    ids=["write", "head", "half a head", "only 103", "body"],
)
@pytest.mark.parametrize("own", [False, True], ids=["the phase's", "the request's"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_each_phase_has_an_end(
    script: Script, options: dict[str, Any], kind: type[ClientError], phase: str, own: bool, tls: bool
) -> None:
    body = LARGE if kind is WriteTimeout else b"small"
    with (
        Upstream(script, receive_buffer=4096, tls=server_context() if tls else None) as upstream,
        SyncHostClient(
            upstream.url, tls_config=client_context() if tls else None, **({} if own else options)
        ) as client,
    ):
        client._pool.release(client._pool.acquire())  # what follows is not the dial's time
        with pytest.raises(kind) as told:
            client.post("/", body=body, timeout=SHORT if own else None)
        assert isinstance(told.value, TimeoutError)
        assert told.value.phase == phase
        assert SHORT <= told.value.elapsed < 10
        assert ("own time" in str(told.value)) == own
        upstream.wait_closed(1)
        assert upstream.accepted == 1  # a time-out is never retried
        assert_balanced(client)


def test_an_upstream_that_takes_some_has_its_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """`write_timeout` is for no progress: each write here takes 4 of its 5 seconds."""
    now = 1000.0
    monkeypatch.setattr("fastserve.client.sync_connection.monotonic", lambda: now)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = SyncConnection(ours, ResponseHeadMemory(), write_timeout=5, body_timeout=5, max_body_size=1000)
        plain_send = conn._send

        def slow_send(data: Any) -> int:
            nonlocal now
            now += 4
            return plain_send(data[:1_000_000])

        conn._send = slow_send  # type: ignore[assignment]

        def serve() -> int:
            taken = 0
            while taken < len(LARGE):
                taken += len(theirs.recv(65536))
            theirs.sendall(OK)
            return taken

        with ThreadPoolExecutor(1) as pool:
            serving = pool.submit(serve)
            conn.send("PUT", LARGE, False, now, 5)
            assert serving.result(10) == len(LARGE)
        assert now > 1000 + 2 * 5
        assert conn.reusable


def test_drips_do_not_stretch_the_heads_time() -> None:
    gate = Gate()
    gate.open()
    with (
        Upstream(drips(gate, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000_000)) as upstream,
        to(upstream, read_timeout=SHORT, max_header_size=1_000_000_000) as client,
    ):
        with pytest.raises(ResponseHeadTimeout) as told:
            client.get("/")
        assert told.value.elapsed < 10
        assert_balanced(client)


def test_a_body_that_never_pauses_has_the_requests_time() -> None:
    def flood(peer: Any) -> None:
        while True:
            peer.send(b"x" * 65536)

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    with Upstream([request, send(head), flood]) as upstream, to(upstream) as client:
        with pytest.raises(ResponseBodyTimeout, match="own time"), client.stream("GET", "/", timeout=SHORT) as response:
            assert isinstance(response.stream, SyncBodyReader)
            for _ in response.stream:
                pass
        assert_balanced(client)


def test_a_dial_has_an_end() -> None:
    with silent_listener() as port, SyncHostClient(f"127.0.0.1:{port}", dial_timeout=SHORT) as client:
        with pytest.raises(DialTimeout) as told:
            client.get("/")
        assert told.value.phase == "connect"
        with pytest.raises(RequestTimeout):
            client.get("/", timeout=SHORT / 10)
    with socket.create_server(("127.0.0.1", 0)) as refused:
        port = refused.getsockname()[1]
    with SyncHostClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(DialError) as failed:
            client.get("/")
        assert failed.value.phase == "connect"
        assert_balanced(client)


@pytest.mark.parametrize("own", [False, True], ids=["the pool's", "the request's"])
def test_a_wait_for_a_connection_has_an_end(own: bool) -> None:
    with (
        Upstream(SAYS_NOTHING) as upstream,
        to(upstream, max_conns=1, max_conn_wait_timeout=10 if own else SHORT) as client,
    ):
        held = client._pool.acquire()
        with pytest.raises(RequestTimeout if own else NoFreeConns) as told:
            client.get("/", timeout=SHORT if own else None)
        assert told.value.phase == "wait"
        assert told.value.elapsed >= SHORT
        client._pool.discard(held)
        assert_balanced(client)


def test_time_that_is_up_before_it_began() -> None:
    with SyncHostClient("127.0.0.1:1") as client:
        with pytest.raises(RequestTimeout) as told:
            client.get("/", deadline=time.monotonic() - 1)
        assert told.value.phase == "request"
        assert_balanced(client)


def test_the_time_for_a_retrys_dial_is_the_requests() -> None:
    """The upstream dies with the first connection, and its port answers no more."""
    with (
        silent_listener() as silent,
        Upstream(CLOSES_AFTER_REQUEST) as upstream,
        SyncHostClient(f"127.0.0.1:{upstream.port}") as client,
    ):
        client._pool.release(client._pool.acquire())
        client._dialer = SyncHostClient(f"127.0.0.1:{silent}")._dialer
        with pytest.raises(RequestTimeout) as told:
            client.get("/", timeout=SHORT * 2)
        assert told.value.phase == "dial"
        assert told.value.elapsed < 2.5  # of the dial_timeout of 3
        assert_balanced(client)


# Breaking before the response


@pytest.mark.parametrize("name", BREAKS_BEFORE_RESPONSE)
def test_a_connection_that_breaks_before_the_response(name: str) -> None:
    with Upstream(BREAKS_BEFORE_RESPONSE[name]) as upstream, to(upstream) as client:
        with pytest.raises((ClosedBeforeResponse, DialError)) as told:
            client.get("/")
        if isinstance(told.value, ClosedBeforeResponse):
            assert told.value.phase == "head"
            assert upstream.accepted == client.options.max_idempotent_call_attempts
        assert told.value.elapsed > 0
        assert_balanced(client)


@pytest.mark.parametrize("name", ["closes after request", "resets after request"])
@pytest.mark.parametrize("body", [b"small", LARGE, [b"streamed"]], ids=["small", "large", "streamed"])
def test_post_is_sent_once(name: str, body: Any) -> None:
    with Upstream(BREAKS_BEFORE_RESPONSE[name], SERVES) as upstream, to(upstream) as client:
        with pytest.raises(ClosedBeforeResponse) as told:
            client.post("/", body=body)
        assert told.value.phase == "head"
        assert upstream.accepted == 1
        assert_balanced(client)


@pytest.mark.parametrize("body", [None, b"small", LARGE], ids=["no body", "small", "large"])
def test_an_idempotent_request_is_sent_again_on_a_fresh_connection(body: bytes | None) -> None:
    with Upstream(CLOSES_AFTER_REQUEST, CLOSES_AFTER_REQUEST, SERVES) as upstream, to(upstream, max_conns=1) as client:
        assert client.put("/", body=body).body == b"ok"
        assert upstream.accepted == 3
        assert len(set(upstream.requests)) == 1
        assert_balanced(client, 1)


def test_retries_can_be_turned_off_and_asked_for() -> None:
    with Upstream(CLOSES_AFTER_REQUEST) as upstream:
        with to(upstream, max_idempotent_call_attempts=1) as client, pytest.raises(ClosedBeforeResponse):
            client.get("/")
        assert upstream.accepted == 1
    with Upstream(CLOSES_AFTER_REQUEST, SERVES) as upstream, to(upstream, retry_if=lambda request: True) as client:
        assert client.post("/", body=b"again").body == b"ok"
        with pytest.raises(ClosedBeforeResponse), Upstream(CLOSES_AFTER_REQUEST) as other, to(other) as strict:
            strict.post("/", body=[b"never a stream"])


def test_a_write_that_breaks() -> None:
    with Upstream([request_head, RESETS["after accept"][0]]) as upstream, to(upstream) as client:
        with pytest.raises((WriteError, ClosedBeforeResponse)) as told:
            client.post("/", body=LARGE)
        assert told.value.phase in ("write", "head")  # a reset shows in whichever comes first, a write or a read
        assert not isinstance(told.value, TimeoutError)
        assert_balanced(client)


# Idle connections


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("script", [CLOSES_IDLE, RESETS["after response"]], ids=["closed", "reset"])
def test_a_stale_connection_is_noticed_before_anything_is_written(script: Script, method: str) -> None:
    """aiohttp#10790, fasthttp#1315: and it is no attempt of the request, so a POST goes through too."""
    with Upstream(script, SERVES) as upstream, to(upstream, max_idempotent_call_attempts=1) as client:
        client.get("/")
        upstream.wait_ended(1)
        body = iter([b"streamed"]) if method == "POST" else None
        assert client.request(method, "/", body=body).body == b"ok"
        assert len(upstream.requests) == 2
        assert client.stats().closed["stale"] == 1
        assert_balanced(client, 1)


def idle_connections(client: SyncHostClient, count: int) -> None:
    """So many idle connections, used before; the one dialled last is taken next."""
    for _ in range(2):
        held = [client._pool.acquire() for _ in range(count)]
        held.sort(key=lambda pooled: pooled.created_at)
        for pooled in held:
            client._pool.release(pooled)


def test_all_stale_connections_make_way_at_once() -> None:
    gate = Gate()
    with Upstream(*[[wait_for(gate), close]] * 3, SERVES) as upstream, to(upstream) as client:
        idle_connections(client, 3)
        gate.open()
        upstream.wait_ended(3)
        assert client.idle_conns_count == 3
        assert client.get("/").body == b"ok"
        assert client.stats().closed["stale"] == 3
        assert upstream.accepted == 4
        assert_balanced(client, 1)


def test_a_stale_connection_makes_way_for_an_idle_one() -> None:
    gate = Gate()
    with Upstream(SERVES, [wait_for(gate), close]) as upstream, to(upstream) as client:
        idle_connections(client, 2)
        gate.open()
        upstream.wait_ended(1)
        assert client.get("/").body == b"ok"
        assert client.stats().closed["stale"] == 1
        assert upstream.accepted == 2
        assert_balanced(client, 1)


def test_bytes_that_come_on_an_idle_connection_are_nobodys_response() -> None:
    gate = Gate()
    with Upstream(answers_twice(gate), SERVES) as upstream, to(upstream) as client:
        client.get("/first")
        gate.open()
        pooled = next(iter(client._pool.core._idle))
        assert select.select([pooled.conn._sock], [], [], 10)[0]
        assert client.get("/second").body == b"ok"
        assert [head.split(b" ")[1] for head in upstream.requests] == [b"/first", b"/second"]
        upstream.wait_closed(1)
        assert upstream.accepted == 2


def test_a_second_response_right_behind_the_first() -> None:
    with Upstream(ANSWERS_TWICE, SERVES) as upstream, to(upstream) as client:
        assert client.get("/").body == b"ok"
        upstream.wait_closed(1)
        assert_balanced(client)
        assert client.get("/").body == b"ok"
        assert upstream.accepted == 2


def test_an_upstream_that_speaks_first() -> None:
    """What came before the request can't be its response; all attempts are made, and none of them is written."""
    with Upstream(ANSWERS_BEFORE_REQUEST) as upstream:

        def dial() -> socket.socket:
            sock = socket.create_connection(("127.0.0.1", upstream.port), 10)
            assert select.select([sock], [], [], 10)[0]
            return sock

        with to(upstream, dial=dial) as client:
            with pytest.raises(ClosedBeforeResponse, match="spoke first"):
                client.post("/", body=[b"not touched"])
            upstream.wait_closed(client.options.max_idempotent_call_attempts)
            assert {bytes(peer.received) for peer in upstream.connections} == {b""}
            assert_balanced(client)


def test_a_restart_between_requests() -> None:
    with Upstream() as upstream, to(upstream) as client:
        for _ in range(3):
            assert client.post("/", body=b"x").body == b"ok"
            upstream.restart()
        assert len(upstream.requests) == 3
        assert_balanced(client, 1)


# Breaking in the response


@pytest.mark.parametrize("name", BREAKS_IN_RESPONSE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_response_that_does_not_come_to_its_end(name: str, method: str) -> None:
    with Upstream(BREAKS_IN_RESPONSE[name], SERVES) as upstream, to(upstream) as client:
        with pytest.raises(ClosedInResponse) as told:
            client.request(method, "/")
        assert told.value.phase == ("head" if name in ("closes in head", "closes after 103") else "body")
        assert told.value.elapsed > 0
        assert upstream.accepted == 1  # the upstream had begun to answer: not sent again
        assert_balanced(client)


@pytest.mark.parametrize(
    "name", ["closes in body", "closes in chunk", "closes before last chunk", "closes in trailers"]
)
def test_a_streamed_response_that_does_not_come_to_its_end(name: str) -> None:
    with Upstream(BREAKS_IN_RESPONSE[name]) as upstream, to(upstream) as client:
        with pytest.raises(ClosedInResponse), client.stream("GET", "/") as response:
            assert isinstance(response.stream, SyncBodyReader)
            response.stream.read()
        assert_balanced(client)


def test_a_body_that_ends_with_the_connection() -> None:
    with Upstream(BODY_UNTIL_CLOSE, BODY_UNTIL_RESET) as upstream, to(upstream) as client:
        assert client.get("/").body == b"until the end"
        with pytest.raises(ClosedInResponse):
            client.get("/")
        assert_balanced(client)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_response(name: str) -> None:
    with Upstream(answers(MALFORMED[name])) as upstream, to(upstream) as client:
        with pytest.raises((MalformedResponse, ResponseTooLarge)) as told:
            client.get("/")
        assert told.value.phase in ("head", "body")
        assert told.value.elapsed > 0
        upstream.wait_closed(1)
        assert upstream.accepted == 1
        assert_balanced(client)


def test_informational_responses_are_skipped() -> None:
    with Upstream(answers(HUNDRED_TIMES_1XX)) as upstream, to(upstream) as client:
        assert client.get("/").body == b"ok"
        assert_balanced(client, 1)


# Large bodies, and both sides at once


@pytest.mark.parametrize("body", [LARGE, lambda: (LARGE[:100_000] for _ in range(80))], ids=["whole", "streamed"])
@pytest.mark.parametrize("script", [ANSWERS_BEFORE_BODY, ANSWERS_BEFORE_BODY_AND_RESETS], ids=["drains", "resets"])
def test_an_early_response_ends_a_large_body(script: Script, body: Any) -> None:
    with Upstream(script) as upstream, to(upstream) as client:
        try:
            response = client.post("/", body=body() if callable(body) else body)
        except (WriteError, ClosedBeforeResponse):
            assert script is ANSWERS_BEFORE_BODY_AND_RESETS  # TCP may lose a response that a reset follows
        else:
            assert (response.status_code, response.body) == (413, b"big")
        assert_balanced(client)


def test_no_more_of_a_stream_is_taken_when_the_response_is_there() -> None:
    taken = 0
    gate = Gate()
    answered = threading.Event()
    is_closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        try:
            while True:
                taken += 1
                if taken == 3:  # the response is there to be read while this one is written
                    gate.open()
                    assert answered.wait(10)
                    pooled = next(iter(client._pool.core._conns))
                    assert select.select([pooled.conn._sock], [], [], 10)[0]
                yield b"x" * 10
        finally:
            is_closed.set()

    script: Script = [request_head, wait_for(gate), send(OK), lambda peer: answered.set(), until_closed]
    with Upstream(script) as upstream, to(upstream) as client:
        assert client.post("/", body=pieces()).body == b"ok"
        assert taken == 3
        assert is_closed.is_set()
        assert_balanced(client)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_two_that_write_first_do_not_wait_for_each_other(streams: bool, tls: bool) -> None:
    """The upstream reads no more of the request until its response is taken, more than the buffers hold."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + LARGE
    with (
        Upstream(
            [request_head, send(answer), until_closed],
            receive_buffer=65536,
            tls=server_context() if tls else None,
        ) as upstream,
        SyncHostClient(upstream.url, tls_config=client_context() if tls else None) as client,
    ):
        if streams:
            with client.stream("POST", "/", body=LARGE) as response:
                assert isinstance(response.stream, SyncBodyReader)
                assert response.stream.read() == LARGE
        else:
            assert client.post("/", body=LARGE).body == LARGE
        # It is used again only when all was written before the holder had its response.
        assert_balanced(client, client.idle_conns_count)


@pytest.mark.parametrize("streams", [False, True], ids=["read whole", "read as it comes"])
@pytest.mark.parametrize("body", [LARGE, LARGE[:100_000]], ids=["whole", "in pieces"])
def test_a_body_is_sent_to_its_end_beside_its_response(body: bytes, streams: bool) -> None:
    """An upstream that echoes: it answers with the first byte, and needs all of them."""

    def echo(peer: Any) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n")
        data = bytes(peer.received[peer._unread :])
        left = 8_000_000 - len(data)
        peer.send(data)
        while left > 0:
            data = peer.receive()
            left -= len(data)
            peer.send(data)

    pieces = body if body is LARGE else (body for _ in range(80))
    with Upstream([request_head, echo, until_closed], receive_buffer=65536) as upstream, to(upstream) as client:
        if not streams:
            assert client.post("/", body=pieces, headers={"Content-Length": 8_000_000}).body == LARGE
        elif body is LARGE:
            with client.stream("POST", "/", body=LARGE) as response:
                assert isinstance(response.stream, SyncBodyReader)
                assert response.stream.read() == LARGE
        else:
            # Nobody takes the answer while its pieces are written, so there is no end to it: a bound, and no deadlock.
            with client.stream("POST", "/", body=pieces, headers={"Content-Length": 8_000_000}, timeout=1) as response:
                assert isinstance(response.stream, SyncBodyReader)
                with pytest.raises(ResponseBodyTimeout):
                    response.stream.read()
        # It is used again only when all was written before the holder had its response.
        assert_balanced(client, client.idle_conns_count)
