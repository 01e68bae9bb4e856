"""The misbehaving upstream misbehaves as it says, and is gone when its block is left."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from tests.client import upstream as steps
from tests.client.certificates import client_context, server_context
from tests.client.counting import sockets
from tests.client.scripts import (
    ANSWERS_BEFORE_BODY,
    ANSWERS_BEFORE_BODY_AND_RESETS,
    ANSWERS_BEFORE_REQUEST,
    ANSWERS_TWICE,
    BODY_UNTIL_CLOSE,
    BODY_UNTIL_RESET,
    BREAKS_BEFORE_RESPONSE,
    BREAKS_IN_RESPONSE,
    CHUNKED_OK,
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
    Peer,
    Script,
    Upstream,
    flood,
    request,
    send,
    signal,
    silent_listener,
    until_closed,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\n12345\r\n0\r\nX: y\r\n\r\n"


def connect(upstream: Upstream) -> socket.socket:
    return socket.create_connection((upstream._host, upstream.port), timeout=steps.PATIENCE)


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def get(upstream: Upstream, script_sends: int) -> bytes:
    with connect(upstream) as sock:
        sock.sendall(GET)
        return read(sock, script_sends)


def test_it_serves_and_counts() -> None:
    with Upstream() as upstream:
        with connect(upstream) as sock:
            for message in (GET, POST, CHUNKED):
                sock.sendall(message)
                assert read(sock, len(OK)) == OK
            assert upstream.closed == 0
            assert upstream.open == 1
        upstream.wait_closed(1)
        upstream.wait_ended(1)
        assert upstream.requests == [GET, POST, CHUNKED]
        assert upstream.connections[0].received == GET + POST + CHUNKED
        assert (upstream.accepted, upstream.closed, upstream.open) == (1, 1, 0)
        assert upstream.url == f"http://127.0.0.1:{upstream.port}"


def test_a_request_in_pieces_is_one() -> None:
    for message in (GET, POST, CHUNKED):
        with Upstream() as upstream, connect(upstream) as sock:
            for at in range(len(message)):
                sock.sendall(message[at : at + 1])
            assert read(sock, len(OK)) == OK
            assert upstream.requests == [message]


def test_pipelined_requests_are_each_one() -> None:
    with Upstream() as upstream, connect(upstream) as sock:
        sock.sendall(GET + CHUNKED + POST)
        assert read(sock, 3 * len(OK)) == 3 * OK
        assert upstream.requests == [GET, CHUNKED, POST]


def test_each_connection_has_its_script_and_the_last_one_stays() -> None:
    with Upstream(answers(b"one"), answers(b"two")) as upstream:
        assert [get(upstream, 3) for _ in range(3)] == [b"one", b"two", b"two"]
        upstream.wait_closed(3)


@pytest.mark.parametrize("script", [SAYS_NOTHING, NEVER_READS])
def test_it_says_nothing_and_sees_the_client_go(script: Script) -> None:
    with Upstream(script) as upstream:
        with connect(upstream) as sock:
            sock.sendall(GET)
            upstream.wait_accepted(1)
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
        upstream.wait_closed(1)
        upstream.wait_ended(1)
        assert upstream.requests == []


def test_it_never_reads() -> None:
    with Upstream(NEVER_READS, receive_buffer=4096) as upstream, connect(upstream) as sock:
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            while True:
                sock.sendall(b"x" * 1_000_000)
        assert upstream.connections[0].received == b""


@pytest.mark.parametrize("name", BREAKS_BEFORE_RESPONSE)
def test_it_breaks_before_the_response(name: str) -> None:
    with Upstream(BREAKS_BEFORE_RESPONSE[name]) as upstream:
        data = b""
        try:
            with connect(upstream) as sock:  # which may see an RST right after the accept itself
                sock.sendall(GET)
                data = read_all(sock)
        except ConnectionError:
            pass
        assert data == b""
        upstream.wait_ended(1)
        assert upstream.requests == ([GET] if "after request" in name else [])


@pytest.mark.parametrize("name", BREAKS_IN_RESPONSE)
def test_it_breaks_in_the_response(name: str) -> None:
    with Upstream(BREAKS_IN_RESPONSE[name]) as upstream, connect(upstream) as sock:
        sock.sendall(GET)
        assert read_all(sock).startswith(b"HTTP/1.1 ")
        upstream.wait_ended(1)
        assert upstream.requests == [GET]


@pytest.mark.parametrize("script", [*RESETS.values(), BODY_UNTIL_RESET], ids=[*RESETS, "in body without length"])
def test_it_resets(script: Script) -> None:
    with Upstream(script) as upstream:
        with pytest.raises(ConnectionError), connect(upstream) as sock:
            sock.sendall(GET)
            read_all(sock)
            pytest.fail("it ended in order")
        upstream.wait_ended(1)


@pytest.mark.parametrize(
    ("script", "response"), [(CLOSES_IDLE, OK), (BODY_UNTIL_CLOSE, b"HTTP/1.1 200 OK\r\n\r\nuntil the end")]
)
def test_it_answers_and_closes(script: Script, response: bytes) -> None:
    with Upstream(script) as upstream, connect(upstream) as sock:
        sock.sendall(GET)
        assert read_all(sock) == response
        upstream.wait_ended(1)
        assert upstream.closed == 0  # it was not the client


def test_it_answers_twice() -> None:
    with Upstream(ANSWERS_TWICE) as upstream:
        assert get(upstream, 2 * len(OK)) == OK + OK


def test_it_answers_again_on_an_idle_connection() -> None:
    gate = Gate()
    with Upstream(answers_twice(gate)) as upstream, connect(upstream) as sock:
        sock.sendall(GET)
        assert read(sock, len(OK)) == OK
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(steps.PATIENCE)
        gate.release()
        assert read(sock, len(OK)) == OK


def test_it_answers_before_the_request() -> None:
    with Upstream(ANSWERS_BEFORE_REQUEST) as upstream, connect(upstream) as sock:
        assert read(sock, len(OK)) == OK


@pytest.mark.parametrize("script", [ANSWERS_BEFORE_BODY, ANSWERS_BEFORE_BODY_AND_RESETS])
def test_it_answers_before_the_body(script: Script) -> None:
    with Upstream(script) as upstream, connect(upstream) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nthe beginning")
        if script is ANSWERS_BEFORE_BODY:
            assert read_all(sock).endswith(b"\r\n\r\nbig")
            sock.sendall(b"x" * 1000)  # is taken, though nobody wants it
            sock.shutdown(socket.SHUT_WR)
        else:
            with pytest.raises(ConnectionError):
                while True:
                    sock.sendall(b"x" * 1000)
        upstream.wait_ended(1)
        assert upstream.requests == []


def test_it_drips_as_the_test_says() -> None:
    gate = Gate()
    with Upstream(drips(gate)) as upstream, connect(upstream) as sock:
        sock.sendall(GET)
        upstream.wait_requests(1)
        for at in range(len(OK)):
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            sock.settimeout(steps.PATIENCE)
            gate.release()
            assert sock.recv(100) == OK[at : at + 1]


def test_an_open_gate_lets_all_through() -> None:
    gate = Gate()
    gate.open()
    with Upstream(drips(gate, CHUNKED_OK)) as upstream:
        assert get(upstream, len(CHUNKED_OK)) == CHUNKED_OK


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_responses_are_sent_as_they_are(name: str) -> None:
    with Upstream(answers(MALFORMED[name])) as upstream:
        assert get(upstream, len(MALFORMED[name])) == MALFORMED[name]
        upstream.wait_closed(1)


def test_the_limit_of_informational_responses() -> None:
    assert HUNDRED_TIMES_1XX.count(b"HTTP/1.1 103") == 100
    assert MALFORMED["101 times 1xx"].count(b"HTTP/1.1 103") == 101


def test_a_flood_ends_with_the_client() -> None:
    with Upstream([request, flood(b"x" * 65536)]) as upstream:
        assert get(upstream, 1_000_000) == b"x" * 1_000_000
        upstream.wait_closed(1)
        upstream.wait_ended(1)


def test_a_script_says_how_far_it_has_come() -> None:
    seen = threading.Event()
    with Upstream([request, signal(seen), until_closed]) as upstream, connect(upstream) as sock:
        assert not seen.is_set()
        sock.sendall(GET)
        assert seen.wait(steps.PATIENCE)


def test_it_restarts_on_its_port() -> None:
    with Upstream() as upstream, connect(upstream) as before:
        before.sendall(GET)
        assert read(before, len(OK)) == OK
        port = upstream.port
        upstream.restart()
        assert read_all(before) == b""
        assert upstream.port == port
        assert get(upstream, len(OK)) == OK
        upstream.wait_closed(1)
        assert (upstream.accepted, upstream.closed) == (2, 1)  # the first was ours to close


def test_it_restarts_in_the_middle_of_anything() -> None:
    gate = Gate()
    scripts: list[Script] = [drips(gate), NEVER_READS, SAYS_NOTHING, [request, flood(b"x" * 65536)], SERVES]
    with Upstream(*scripts) as upstream:
        socks = [connect(upstream) for _ in scripts]
        for sock in socks:
            sock.sendall(GET)
        upstream.wait_requests(3)
        upstream.restart()
        upstream.wait_ended(len(scripts))
        for sock in socks:
            sock.close()
        assert get(upstream, len(OK)) == OK


def test_it_stops_listening_and_refuses() -> None:
    with Upstream() as upstream, connect(upstream) as sock:
        upstream.wait_accepted(1)
        upstream.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            connect(upstream)
        sock.sendall(GET)
        assert read(sock, len(OK)) == OK
        upstream.restart()
        assert get(upstream, len(OK)) == OK


def test_it_closes_connections_and_listens_on() -> None:
    with Upstream() as upstream, connect(upstream) as sock:
        upstream.wait_accepted(1)
        upstream.close_connections()
        assert read_all(sock) == b""
        assert upstream.open == 0
        assert get(upstream, len(OK)) == OK


def test_ipv6() -> None:
    with Upstream(host="::1") as upstream:
        assert upstream.url == f"http://[::1]:{upstream.port}"
        assert get(upstream, len(OK)) == OK


def test_tls() -> None:
    context = client_context()
    with Upstream(SERVES, CLOSES_IDLE, SAYS_NOTHING, tls=server_context()) as upstream:
        assert upstream.url.startswith("https://")
        with context.wrap_socket(connect(upstream), server_hostname="127.0.0.1") as sock:
            sock.sendall(GET)
            assert read(sock, len(OK)) == OK
        upstream.wait_closed(1)
        with context.wrap_socket(connect(upstream), server_hostname="127.0.0.1") as sock:
            sock.sendall(GET)
            assert read(sock, len(OK)) == OK
        with connect(upstream):  # and one that never begins its handshake is ended all the same
            upstream.wait_accepted(3)
            upstream.close_connections()
        upstream.wait_ended(3)


# Its end


def hold(gate: Gate) -> Script:
    return drips(gate)


ENDLESS: dict[str, Callable[[Gate], Script]] = {
    "waits for a gate": hold,
    "reads": lambda gate: SAYS_NOTHING,
    "stalls": lambda gate: NEVER_READS,
    "writes": lambda gate: [request, flood(b"x" * 65536)],
    "serves": lambda gate: SERVES,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_nothing_is_left(name: str) -> None:
    threads, before = set(threading.enumerate()), sockets()
    sock = None
    with Upstream(ENDLESS[name](Gate())) as upstream:
        sock = connect(upstream)
        sock.sendall(GET)
        upstream.wait_accepted(1)
    sock.close()
    assert set(threading.enumerate()) <= threads  # those of other tests may end meanwhile
    assert sockets() == before


def test_what_a_script_raises_fails_the_test() -> None:
    def broken(peer: Peer) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Upstream([broken]) as upstream, connect(upstream) as sock:
        assert read_all(sock) == b""


def test_a_gate_that_stays_shut_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PATIENCE", 0.01)
    with pytest.raises(AssertionError, match="did not open the gate"):
        Gate().wait(lambda: False)


def test_a_wait_in_vain_says_what_there_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream([request, send(OK), until_closed]) as upstream:
        assert get(upstream, len(OK)) == OK
        upstream.wait_closed(1)
        with monkeypatch.context() as patch:
            patch.setattr(steps, "PATIENCE", 0.01)
            with pytest.raises(AssertionError, match=r"for 2 requests; there were 1 accepted, 1 requests, 1 closed"):
                upstream.wait_requests(2)


def test_a_silent_listener_gives_no_answer() -> None:
    with silent_listener() as port, socket.socket() as sock:
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.connect(("127.0.0.1", port))
