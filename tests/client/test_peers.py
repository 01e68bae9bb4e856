"""The real peers are there, keep connections, and are gone afterwards."""

from __future__ import annotations

import http.client
import os
import threading
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from tests.client.certificates import client_context
from tests.client.counting import sockets
from tests.client.peers import BIG, HELLO, PEERS, http_server, nginx, own_server
from tests.client.upstream import PATIENCE


def children() -> set[str]:
    """Processes that this one started, and that are there in any state."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("name", PEERS)
def test_it_serves_and_is_gone_afterwards(name: str, tmp_path: Path) -> None:
    threads, before, opened = threading.active_count(), children(), sockets()
    with PEERS[name](tmp_path) as peer:
        assert peer.name == name
        with urllib.request.urlopen(f"{peer.url}/hello", timeout=PATIENCE) as response:
            assert response.read() == HELLO
        with urllib.request.urlopen(f"{peer.url}/big", timeout=PATIENCE) as response:
            assert response.read() == BIG
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(f"{peer.url}/other", timeout=PATIENCE)
        caught.value.close()
        # A connection that is kept does not keep the peer.
        kept = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=PATIENCE)
        kept.request("GET", "/hello")
        assert kept.getresponse().read() == HELLO
    with closing(kept), pytest.raises((http.client.HTTPException, ConnectionError)):
        kept.request("GET", "/hello")
        kept.getresponse()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{peer.url}/hello", timeout=PATIENCE)
    assert threading.active_count() == threads
    assert children() == before
    assert sockets() == opened


@pytest.mark.parametrize("name", PEERS)
def test_it_keeps_connections(name: str, tmp_path: Path) -> None:
    with (
        PEERS[name](tmp_path) as peer,
        closing(http.client.HTTPConnection("127.0.0.1", peer.port, timeout=PATIENCE)) as c,
    ):
        ours = None
        for _ in range(3):
            c.request("GET", "/hello")
            assert c.getresponse().read() == HELLO
            assert c.sock is not None
            ours = ours or c.sock.getsockname()
            assert c.sock.getsockname() == ours
        c.request("HEAD", "/big")
        response = c.getresponse()
        assert response.read() == b""
        assert response.headers["Content-Length"] == str(len(BIG))


def test_those_that_can_send_back_what_they_get() -> None:
    for make in (http_server, own_server):
        with make() as peer, urllib.request.urlopen(f"{peer.url}/echo", b"a body", PATIENCE) as response:
            assert response.read() == b"a body"


def test_nginx_speaks_tls(tmp_path: Path) -> None:
    with (
        nginx(tmp_path) as peer,
        urllib.request.urlopen(f"{peer.tls_url}/hello", timeout=PATIENCE, context=client_context()) as response,
    ):
        assert response.read() == HELLO


def test_nginx_may_be_told_when_to_close(tmp_path: Path) -> None:
    with (
        nginx(tmp_path, keepalive_requests=2, more='location = /more { return 200 "more"; }') as peer,
        closing(http.client.HTTPConnection("127.0.0.1", peer.port, timeout=PATIENCE)) as c,
    ):
        closes = []
        for _ in range(2):
            c.request("GET", "/more")
            response = c.getresponse()
            assert response.read() == b"more"
            closes.append(response.headers["Connection"] == "close")
        assert closes == [False, True]


def test_an_nginx_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unknown directive"), nginx(tmp_path, more="nonsense on;"):
        pass


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_no_nginx_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """In CI, where it was to be installed, the tests that need it fail."""
    monkeypatch.setattr("shutil.which", lambda *args, **options: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="apt-get install nginx-light"), nginx(tmp_path):
        pytest.fail("it started")
