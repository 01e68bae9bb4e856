"""`SyncHostClient` at its main job: against our own server, Python's, TLS; bodies, redirects, streams."""

from __future__ import annotations

import gc
import gzip
import http.server
import io
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastserve import (
    ClientRequest,
    ClosedInResponse,
    ConfigError,
    ContentCodingError,
    DialError,
    InvalidRequest,
    RedirectError,
    RequestCtx,
    ResponseTooLarge,
    ServerThread,
    SyncBodyReader,
    SyncHostClient,
    TooManyRedirects,
)
from tests.client.certificates import client_context, server_context
from tests.client.scripts import (
    CHUNKED_OK,
    answers,
)
from tests.client.upstream import (
    OK,
    SERVES,
    Gate,
    Upstream,
    request,
    send,
    until_closed,
    wait_for,
)

JOIN = 20.0
"""Seconds for a thread that is about to end."""


async def handler(ctx: RequestCtx) -> None:
    """Says what it was sent; ``/to/N`` redirects, N times."""
    if ctx.path.startswith("/to/"):
        count = int(ctx.path[4:])
        ctx.redirect(f"/to/{count - 1}" if count > 1 else "/arrived", 302)
        return
    if ctx.path == "/stream":
        ctx.set_body_stream([b"one ", b"two ", b"three"])
        return
    ctx.set_header("X-Method", ctx.method)
    ctx.set_header("X-Path", ctx.path)
    ctx.set_header("X-Query", ctx.query_args.get("q") or "-")
    ctx.set_header("X-Type", ctx.request.content_type or "-")
    ctx.set_body(ctx.post_body or b"nothing")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(handler) as server:
        yield server


@pytest.fixture
def client(server: ServerThread) -> Iterator[SyncHostClient]:
    with SyncHostClient(f"127.0.0.1:{server.port}") as client:
        yield client
        stats = client.stats()
        assert (stats.streams, stats.waiting) == (0, 0)


def to(upstream: Upstream, **options: Any) -> SyncHostClient:
    return SyncHostClient(f"127.0.0.1:{upstream.port}", **options)


# Requests


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
def test_each_method(client: SyncHostClient, method: str) -> None:
    response = getattr(client, method)("/path", params={"q": "a b"})
    assert response.status_code == 200
    assert response.headers["X-Method"] == method.upper()
    assert response.headers["X-Path"] == "/path"
    assert response.headers["X-Query"] == "a b"
    assert response.body == b"nothing"


def test_head_has_no_body(client: SyncHostClient) -> None:
    assert client.head("/").body == b""
    assert client.get("/").body == b"nothing"  # on the same connection
    assert client.stats().hits == 1


def test_bodies(client: SyncHostClient) -> None:
    assert client.post("/", json={"a": 1}).json() == {"a": 1}
    assert client.post("/", form={"a": "b c"}).text == "a=b+c"
    assert client.post("/", files={"f": b"data"}).headers["X-Type"].startswith("multipart/form-data")
    assert client.post("/", body="text").text == "text"
    large = b"x" * 1_000_000
    assert client.post("/", body=large).body == large
    assert client.conns_count == client.idle_conns_count == 1


def test_one_request_many_times(client: SyncHostClient) -> None:
    again = ClientRequest("GET", "/")
    before = time.monotonic()
    assert client.last_use_time == 0.0
    for _ in range(20):
        assert client.do(again, timeout=10).body == b"nothing"
    assert client.last_use_time >= before
    stats = client.stats()
    assert (stats.misses, stats.hits, stats.conns) == (1, 19, 1)
    client.close_idle_connections()
    assert client.conns_count == 0
    assert client.do(again, deadline=time.monotonic() + 10).status_code == 200


def test_what_goes_over_the_wire() -> None:
    with Upstream() as upstream, to(upstream, name="me") as client:
        client.get("/a?b=c", headers={"X-A": "1"})
        client.post("/", body=b"")
        client.delete(f"http://127.0.0.1:{upstream.port}/whole")
        with pytest.raises(InvalidRequest):
            client.get("http://elsewhere/")
        host = b"Host: 127.0.0.1:%d\r\nUser-Agent: me\r\n" % upstream.port
        assert upstream.requests == [
            b"GET /a?b=c HTTP/1.1\r\n" + host + b"X-A: 1\r\n\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 0\r\n\r\n",
            b"DELETE /whole HTTP/1.1\r\n" + host + b"\r\n",
        ]
        assert client.conns_count == 1


def test_pythons_own_server() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with SyncHostClient(f"127.0.0.1:{server.server_port}") as client:
                for number in range(3):
                    assert client.post("/", body=str(number)).text == str(number)
                assert client.stats().hits == 2
        finally:
            server.shutdown()
            thread.join(JOIN)


def test_tls() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"y" * 1_000_000
    script = [request, send(OK), request, send(large), request, send(OK), until_closed]
    with Upstream(script, SERVES, tls=server_context()) as upstream:
        with SyncHostClient(upstream.url, tls_config=client_context()) as client:
            assert client.get("/").body == b"ok"
            assert client.post("/", body=b"x" * 1_000_000).body == b"y" * 1_000_000
            assert client.get("/").body == b"ok"
            assert upstream.accepted == 1
            assert len(upstream.requests[1]) > 1_000_000
        with SyncHostClient(upstream.url) as stranger, pytest.raises(DialError) as told:
            stranger.get("/")
        assert told.value.phase == "TLS"


def test_tickets_for_tls_sessions_do_not_make_an_idle_connection_stale() -> None:
    """TLS 1.3 sends them when the handshake is over: bytes to read on a connection that is as good as new."""
    with (
        Upstream(tls=server_context()) as upstream,
        SyncHostClient(upstream.url, tls_config=client_context()) as client,
    ):
        pooled = client._pool.acquire()
        client._pool.release(pooled)  # used by nobody yet
        for _ in range(3):
            assert client.get("/").body == b"ok"
        assert upstream.accepted == 1
        assert client.stats().closed["stale"] == 0


def test_an_idle_tls_connection_that_was_closed() -> None:
    with (
        Upstream([request, send(OK)], SERVES, tls=server_context()) as upstream,
        SyncHostClient(upstream.url, tls_config=client_context()) as client,
    ):
        client.get("/")
        upstream.wait_ended(1)
        assert client.post("/", body=b"once").body == b"ok"
        assert len(upstream.requests) == 2
        assert client.stats().closed["stale"] == 1


def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with ServerThread(handler, listen={"uds": path}), SyncHostClient(f"unix:{path}") as client:
        assert client.get("/").body == client.get("/").body == b"nothing"
        assert client.stats().hits == 1


def test_dial_hook(server: ServerThread) -> None:
    dialled: list[socket.socket] = []

    def dial() -> socket.socket:
        dialled.append(socket.create_connection(("127.0.0.1", server.port), 10))
        return dialled[-1]

    with SyncHostClient("nowhere.invalid:80", dial=dial) as client:
        assert client.get("/").status_code == client.get("/").status_code == 200
    assert len(dialled) == 1
    assert dialled[0].fileno() == -1
    with SyncHostClient("nowhere.invalid:80", dial=lambda: None) as client, pytest.raises(DialError, match="socket"):
        client.get("/")


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match="max_cons: not an option"):
        SyncHostClient("127.0.0.1:1", max_cons=3)


def test_decoding() -> None:
    packed = gzip.compress(b"plain")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    unknown = b"HTTP/1.1 200 OK\r\nContent-Encoding: zzz\r\nContent-Length: 1\r\n\r\nx"
    with (
        Upstream(
            [request, send(head + packed), request, send(head + packed), request, send(unknown)], SERVES
        ) as upstream,
        to(upstream, decode_content=True) as client,
    ):
        assert client.get("/").body == b"plain"
        assert b"Accept-Encoding: gzip" in upstream.requests[0]
        with client.stream("GET", "/") as response:
            assert isinstance(response.stream, SyncBodyReader)
            assert response.stream.read() == b"plain"
        with pytest.raises(ContentCodingError), client.stream("GET", "/"):
            pass
        assert client.stats().streams == client.conns_count == 0


def test_a_body_over_the_limit() -> None:
    with Upstream(answers(CHUNKED_OK)) as upstream, to(upstream, max_response_body_size=1) as client:
        with pytest.raises(ResponseTooLarge) as told:
            client.get("/")
        assert told.value.phase == "body"
        upstream.wait_closed(1)
        with client.stream("GET", "/") as response:
            assert isinstance(response.stream, SyncBodyReader)
            with pytest.raises(ResponseTooLarge, match="piece by piece"):
                response.stream.read()
        assert client.idle_conns_count == 1  # all of it had come


# Redirects


def test_redirects_only_where_asked(client: SyncHostClient) -> None:
    assert client.get("/to/1").status_code == 302
    response = client.get("/to/3", max_redirects=3)
    assert (response.status_code, response.headers["X-Path"]) == (200, "/arrived")
    with pytest.raises(TooManyRedirects):
        client.get("/to/3", max_redirects=2)
    response = client.do_redirects(ClientRequest("POST", "/to/1", body=b"lost"), timeout=10)
    assert (response.headers["X-Method"], response.body) == ("GET", b"nothing")


def test_a_redirect_to_another_upstream() -> None:
    away = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    with Upstream(answers(away)) as upstream, to(upstream) as client:
        with pytest.raises(RedirectError, match="elsewhere"):
            client.get("/", max_redirects=1)
        assert client.idle_conns_count == 1


# Streams


def test_a_streamed_response(client: SyncHostClient) -> None:
    with client.stream("GET", "/stream") as response:
        assert response.status_code == 200
        assert b"".join(response.stream) == b"one two three"  # type: ignore[arg-type]
        assert client.pending_requests == 0
    with client.stream("GET", "/stream") as response, response.stream as reader:  # type: ignore[union-attr]
        assert reader.read() == b"one two three"
    assert client.stats().hits == 1


def test_stream_response_body() -> None:
    gate = Gate()
    with (
        Upstream([request, send(CHUNKED_OK[:-5]), wait_for(gate), send(CHUNKED_OK[-5:]), until_closed]) as upstream,
        to(upstream, stream_response_body=True) as client,
    ):
        response = client.get("/")
        assert isinstance(response.stream, SyncBodyReader)
        assert next(response.stream) == b"ok"
        assert client.pending_requests == 1
        gate.open()
        assert list(response.stream) == []
        assert client.pending_requests == 0
        assert client.idle_conns_count == 1


def test_a_stream_that_is_left_early_closes_its_connection() -> None:
    with Upstream(answers(CHUNKED_OK[:-5])) as upstream, to(upstream) as client:
        with client.stream("GET", "/") as response:
            assert response.stream is not None
            assert next(response.stream) == b"ok"  # type: ignore[arg-type]
        upstream.wait_closed(1)
        assert client.conns_count == 0
        with pytest.raises(ClosedInResponse, match="closed before its end was read"):
            list(response.stream)  # type: ignore[arg-type]


def test_a_stream_whose_end_has_come_unread_keeps_its_connection(client: SyncHostClient) -> None:
    with client.stream("GET", "/") as response:
        assert response.stream is not None
    assert client.idle_conns_count == 1


def test_a_dropped_stream_warns_and_gives_its_slot_back() -> None:
    """urllib3's: an unread response that nobody holds any more held its connection for good."""
    with Upstream(answers(CHUNKED_OK[:-5])) as upstream, to(upstream, max_conns=1, stream_response_body=True) as client:
        with pytest.warns(ResourceWarning, match="dropped before its end"):
            client.get("/")  # dropped here and now
        upstream.wait_closed(1)
        assert client.conns_count == 0
        response = client.get("/")
        response.stream.close()  # type: ignore[union-attr]


def test_a_stream_that_is_collected_while_the_pool_is_at_work() -> None:
    """The collector runs wherever something is allocated, also where this very thread holds the pool's lock."""
    with Upstream(answers(CHUNKED_OK[:-5])) as upstream, to(upstream, stream_response_body=True) as client:
        response = client.get("/")
        with client._pool._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del response
            gc.collect()
        assert client.conns_count == 0
        upstream.wait_closed(1)


def test_streamed_requests() -> None:
    def pieces() -> Iterator[bytes | str]:
        yield b"one "
        yield ""
        yield "two"

    class File(io.BytesIO):
        pass

    with Upstream() as upstream, to(upstream) as client:
        client.post("/", body=pieces())
        client.post("/", body=["one ", b"two"], headers={"Content-Length": 7})
        file = File(b"line\nline\n")
        client.put("/", body=file)
        assert not file.closed
        received = upstream.requests
        assert received[0].endswith(b"Transfer-Encoding: chunked\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")
        assert received[1].endswith(b"Content-Length: 7\r\n\r\none two")
        assert received[2].endswith(b"\r\n\r\n5\r\nline\n\r\n5\r\nline\n\r\n0\r\n\r\n")
        assert client.stats().hits == 2


def test_streamed_requests_that_fail() -> None:
    closed = []

    def breaks() -> Iterator[bytes]:
        try:
            yield b"one"
            raise ValueError("mine")
        finally:
            closed.append(True)

    async def waits() -> Any:
        yield b""

    def of_ints() -> Iterator[Any]:
        try:
            yield 1
        finally:
            closed.append(True)

    with Upstream([until_closed]) as upstream, to(upstream) as client:
        with pytest.raises(ValueError, match="mine"):
            client.post("/", body=breaks())
        with pytest.raises(InvalidRequest, match="int"):
            client.post("/", body=of_ints())
        with pytest.raises(InvalidRequest, match="longer"):
            client.post("/", body=[b"12"], headers={"Content-Length": 1})
        with pytest.raises(InvalidRequest, match="before its Content-Length"):
            client.post("/", body=[b"12"], headers={"Content-Length": 3})
        upstream.wait_closed(4)
        assert client.conns_count == 0
        with pytest.raises(InvalidRequest, match="HostClient"):
            client.post("/", body=waits())
        assert upstream.accepted == 4
    assert closed == [True, True]
