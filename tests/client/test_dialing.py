"""Dials, on loops and in threads: what they connect to, what they say when they can't, and that nothing is left."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trustme

from fastserve.client import connecting
from fastserve.client.addresses import Address, parse_addresses
from fastserve.client.dialing import Dialer, _shake_hands, dial, dial_blocking
from fastserve.client.resolver import Endpoint, Resolver
from fastserve.client.tls import default_tls_config
from fastserve.errors import (
    ConfigError,
    DialError,
    DialTimeout,
    FastserveError,
    ResolveError,
    TLSError,
    TLSTimeout,
)
from tests.client.certificates import client_context, server_context
from tests.client.counting import sockets
from tests.client.scripts import (
    SAYS_NOTHING,
)
from tests.client.upstream import (
    OK,
    PATIENCE,
    SERVES,
    Upstream,
    reset,
    send,
    silent_listener,
    until_closed,
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TICKS = range(11)


class Reader(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.transport: asyncio.BaseTransport | None = None
        self.data = b""
        self.changed = asyncio.Event()
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.changed.set()

    async def until(self, size: int) -> bytes:
        while len(self.data) < size and not self.is_lost:
            self.changed.clear()
            await self.changed.wait()
        return self.data


async def ask(address: Address, **options: Any) -> bytes:
    """Dial on the loop, ask, read OK, close, and see it closed."""
    transport, reader = await dial(address, Reader, **options)
    assert reader.transport is transport
    transport.write(GET)
    data = await reader.until(len(OK))
    transport.abort()
    while not reader.is_lost:
        await reader.until(len(OK) + 1)
    return data


async def ask_blocking(address: Address, **options: Any) -> bytes:
    def work() -> bytes:
        with dial_blocking(address, **options) as sock:
            assert sock.gettimeout() is None
            sock.settimeout(PATIENCE)
            sock.sendall(GET)
            data = b""
            while len(data) < len(OK) and (more := sock.recv(1024)):
                data += more
            return data

    return await asyncio.to_thread(work)


Ask = Callable[..., Coroutine[Any, Any, bytes]]


@pytest.fixture(params=["loop", "thread"])
def asking(request: pytest.FixtureRequest) -> Ask:
    return ask if request.param == "loop" else ask_blocking


async def back_to(count: int) -> None:
    """Turns of the loop until as many sockets are open as before; the test's own bound ends it."""
    while sockets() != count:  # noqa: ASYNC110
        await asyncio.sleep(0)


def at(upstream: Upstream, host: str = "127.0.0.1", *, is_tls: bool = False) -> Address:
    return Address(host, upstream.port, None, is_tls)


def resolving(*hosts: str) -> Resolver:
    """Every name has `hosts` as its addresses, in this order."""
    families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host in hosts]
    tails = [(0, 0) if ":" in host else () for host in hosts]
    return Resolver(
        look_up=lambda name: [Endpoint(f, (h, 0, *t)) for f, h, t in zip(families, hosts, tails, strict=True)]
    )


def refusing_port() -> int:
    """A port that nobody listens on, and that nobody is given while the listeners of the test take theirs."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def unix_upstream(path: Path) -> Iterator[None]:
    """Serves one connection at `path`."""
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(PATIENCE)

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.settimeout(PATIENCE)
                sock.recv(1024)
                sock.sendall(OK)
                sock.recv(1024)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(PATIENCE)
            assert not thread.is_alive()


# Connections


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_numeric_hosts(run: Run, asking: Ask, host: str) -> None:
    with Upstream(host=host) as upstream:
        assert run(asking(at(upstream, host))) == OK
        upstream.wait_closed(1)


def test_a_name(run: Run, asking: Ask) -> None:
    with Upstream() as upstream:
        assert run(asking(at(upstream, "localhost"), resolver=Resolver())) == OK
        assert run(asking(at(upstream, "localhost"))) == OK


def test_a_unix_socket(run: Run, asking: Ask, tmp_path: Path) -> None:
    with unix_upstream(tmp_path / "x.sock"):
        assert run(asking(parse_addresses(f"unix:{tmp_path}/x.sock")[0])) == OK


def test_small_writes_are_not_delayed(run: Run) -> None:
    async def main() -> None:
        with Upstream() as upstream:
            transport, _ = await dial(at(upstream), Reader)
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.abort()
            with dial_blocking(at(upstream)) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(main())


def test_bytes_that_come_at_once_are_not_lost(run: Run) -> None:
    async def main() -> None:
        for tls in (None, server_context()):
            with Upstream([send(OK), until_closed], tls=tls) as upstream:
                transport, reader = await dial(at(upstream, is_tls=bool(tls)), Reader, tls_config=client_context())
                assert await reader.until(len(OK)) == OK
                transport.abort()

    run(main())


def test_a_protocol_that_cannot_be_made_leaves_nothing(run: Run) -> None:
    def broken() -> asyncio.Protocol:
        raise ZeroDivisionError

    async def main() -> None:
        with Upstream() as upstream:
            before = sockets()
            with pytest.raises(ZeroDivisionError):
                await dial(at(upstream), broken)
            await asyncio.to_thread(upstream.wait_closed, 1)
            await asyncio.to_thread(upstream.wait_ended, 1)
            await back_to(before)

    run(main())


# All addresses of a name


def test_the_next_address_is_tried_when_one_refuses(run: Run, asking: Ask) -> None:
    with Upstream() as upstream:
        assert run(asking(at(upstream, "name"), resolver=resolving("127.0.0.2", "::1", "127.0.0.1"))) == OK
        assert upstream.accepted == 1


def test_all_that_failed_are_told(run: Run, asking: Ask) -> None:
    port = refusing_port()
    hosts = [f"127.0.0.{n}" for n in range(1, 11)]
    with pytest.raises(DialError) as caught:
        run(asking(Address("name", port), resolver=resolving("::1", *hosts)))
    assert type(caught.value) is DialError
    assert caught.value.phase == "connect"
    assert caught.value.address == f"name:{port}"
    assert 0 < caught.value.elapsed < PATIENCE
    text = str(caught.value)
    assert text.startswith(f"can't dial name:{port}: connect failed after 0.")
    assert f": [::1]:{port}: Connection refused, 127.0.0.1:{port}: Connection refused, " in text
    assert text.endswith(f"127.0.0.7:{port}: Connection refused, and 3 more")


def test_one_that_does_not_answer_gets_a_head_start_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.01)

    async def main() -> None:
        with silent_listener() as port, socket.create_server(("127.0.0.2", port)):
            before = sockets()
            transport, _ = await dial(Address("name", port), Reader, resolver=resolving("127.0.0.1", "127.0.0.2"))
            assert transport.get_extra_info("peername")[0] == "127.0.0.2"
            transport.abort()
            await back_to(before)

    run(main())


def test_a_thread_gives_one_that_does_not_answer_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LEAST_SHARE", 0.01)
    with silent_listener() as port, socket.create_server(("127.0.0.2", port)):
        resolver = resolving("127.0.0.1", "127.0.0.2")
        with dial_blocking(Address("name", port), timeout=0.4, resolver=resolver) as sock:
            assert sock.getpeername()[0] == "127.0.0.2"


def test_a_photo_finish_leaves_one_socket(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.0)

    async def main() -> None:
        with Upstream(host="127.0.0.1") as one:
            before = sockets()
            resolver = resolving("127.0.0.1", *[f"127.0.0.{n}" for n in range(2, 9)], "127.0.0.1")
            for _ in range(20):
                transport, _ = await dial(at(one, "name"), Reader, resolver=resolver)
                transport.abort()
            await asyncio.to_thread(one.wait_ended, one.accepted)
            await back_to(before)

    run(main())


def test_a_connection_to_itself_is_refused(run: Run, asking: Ask) -> None:
    """Linux may give the dialling side the very port that it dials, and connects the socket to itself."""

    def connect_to_itself(sock: socket.socket, endpoint: Any) -> None:
        real(sock, Endpoint(socket.AF_INET, sock.getsockname()))

    real = connecting._refuse_itself
    with Upstream() as upstream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(connecting, "_refuse_itself", connect_to_itself)
        with pytest.raises(DialError, match="Connection refused"):
            run(asking(at(upstream)))


def test_an_address_that_moved_is_looked_up_again(run: Run, asking: Ask) -> None:
    asked = []
    now = [0.0]

    def look_up(host: str) -> list[Endpoint]:
        asked.append(host)
        return [Endpoint(socket.AF_INET, ("127.0.0.2" if len(asked) == 1 else "127.0.0.1", 0))]

    resolver = Resolver(look_up=look_up, clock=lambda: now[0])
    with Upstream() as upstream:
        for now[0] in (0.0, 1.0):
            with pytest.raises(DialError, match="127.0.0.2"):
                run(asking(at(upstream, "name"), resolver=resolver))
        assert run(asking(at(upstream, "name"), resolver=resolver)) == OK
    assert asked == ["name", "name"]


# Errors


def test_a_name_without_address(run: Run, asking: Ask) -> None:
    def look_up(host: str) -> list[Endpoint]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(
        ResolveError, match=r"can't dial name:80: look-up failed after 0.* s: Name or service not known"
    ) as e:
        run(asking(Address("name", 80), resolver=Resolver(look_up=look_up)))
    assert e.value.phase == "look-up"
    assert isinstance(e.value.__cause__, socket.gaierror)


def test_a_name_server_that_does_not_answer(run: Run, asking: Ask) -> None:
    release = threading.Event()

    def look_up(host: str) -> list[Endpoint]:
        assert release.wait(PATIENCE)
        return []

    try:
        with pytest.raises(DialTimeout, match=r"can't dial name:80: look-up not done after 0\.\d+ s") as caught:
            run(asking(Address("name", 80), timeout=0.05, resolver=Resolver(look_up=look_up)))
        assert caught.value.phase == "look-up"
        assert caught.value.elapsed >= 0.04  # uvloop's timers round to milliseconds
    finally:
        release.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_peer_that_does_not_answer(run: Run, asking: Ask, host: str) -> None:
    with silent_listener(host) as port:
        before = sockets()
        with pytest.raises(DialTimeout, match=r"connect not done after 0\.\d+ s: .*: no answer$") as caught:
            run(asking(Address(host, port), timeout=0.05))
        assert caught.value.phase == "connect"
        assert caught.value.elapsed >= 0.04  # uvloop's timers round to milliseconds
        assert sockets() == before


def test_no_unix_socket_there(run: Run, asking: Ask, tmp_path: Path) -> None:
    with pytest.raises(DialError, match=r"x.sock: No such file or directory$"):
        run(asking(Address("", 0, f"{tmp_path}/x.sock")))
    with pytest.raises(DialError, match="path too long"):
        run(asking(Address("", 0, "/" + "x" * 200)))


def test_a_unix_socket_whose_backlog_is_full(run: Run, asking: Ask, tmp_path: Path) -> None:
    """A loop's own sock_connect would call it connected, and the first write fail."""
    path = str(tmp_path / "x.sock")
    with closing(socket.socket(socket.AF_UNIX)) as listener, closing(socket.socket(socket.AF_UNIX)) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(DialError, match="its queue of connections not yet accepted is full"):
            run(asking(Address("", 0, path), timeout=0.2))


def test_no_more_file_descriptors(run: Run, asking: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(endpoint: Endpoint, outcomes: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(connecting, "_open", no_socket)
    for hosts in (["127.0.0.1"], ["127.0.0.1", "::1"]):
        with pytest.raises(DialError, match="Too many open files"):
            run(asking(Address("name", 80), resolver=resolving(*hosts)))


def test_no_time(run: Run, asking: Ask) -> None:
    with silent_listener() as port, pytest.raises(DialTimeout):
        run(asking(Address("127.0.0.1", port), timeout=0.0))
    with silent_listener() as port, pytest.raises(DialTimeout):
        run(asking(Address("127.0.0.1", port), timeout=-1.0))


@pytest.mark.parametrize("timeout", [float("inf"), float("nan")])
def test_no_time_without_end(run: Run, asking: Ask, timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        run(asking(Address("127.0.0.1", 1), timeout=timeout))


def test_errors_are_one_tree_and_travel() -> None:
    for kind in (DialTimeout, ResolveError, TLSError, TLSTimeout):
        error = kind("text", phase="TLS", elapsed=1.5, address="a:80")
        assert isinstance(error, DialError)
        assert isinstance(error, FastserveError)
        assert isinstance(error, OSError)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.phase, copy.elapsed, copy.address) == (kind, "text", "TLS", 1.5, "a:80")
    assert issubclass(TLSTimeout, TLSError)
    assert issubclass(TLSTimeout, DialTimeout)
    assert issubclass(DialTimeout, TimeoutError)


# TLS


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_tls(run: Run, asking: Ask, host: str) -> None:
    with Upstream(tls=server_context(), host="::1" if ":" in host else "127.0.0.1") as upstream:
        assert run(asking(at(upstream, host, is_tls=True), tls_config=client_context())) == OK
        upstream.wait_closed(1)


def test_what_is_offered_in_the_handshake(run: Run, asking: Ask) -> None:
    names = []
    server = server_context()
    server.sni_callback = lambda sock, name, context: names.append(name)
    with Upstream(tls=server) as upstream:
        for host, name in (("localhost", None), ("localhost.", None), ("127.0.0.1", "localhost"), ("127.0.0.1", None)):
            options = {"server_hostname": name, "resolver": resolving("127.0.0.1")}
            assert run(asking(at(upstream, host, is_tls=True), tls_config=client_context(), **options)) == OK
        upstream.wait_closed(4)
    assert names == ["localhost", "localhost", "localhost", None]  # a number is no name (RFC 6066 3)


def test_alpn(run: Run) -> None:
    async def main() -> None:
        with Upstream(tls=server_context()) as upstream:
            address = at(upstream, is_tls=True)
            transport, _ = await dial(address, Reader, tls_config=client_context())
            assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            transport.abort()
            with dial_blocking(address, tls_config=client_context()) as sock:
                assert isinstance(sock, ssl.SSLSocket)
                assert sock.selected_alpn_protocol() == "http/1.1"

    run(main())


def test_the_default_verifies() -> None:
    context = default_tls_config()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert default_tls_config() is context


def self_signed() -> ssl.SSLContext:
    """The authority's own certificate as a server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lonely = trustme.CA()
    with lonely.private_key_pem.tempfile() as key, lonely.cert_pem.tempfile() as certificate:
        context.load_cert_chain(certificate, key)
    return context


BAD_CERTIFICATES: dict[str, tuple[Callable[[], ssl.SSLContext], str]] = {
    "unknown": (lambda: server_context(by=trustme.CA()), "its issuer is unknown here; give a tls_config"),
    "self-signed": (self_signed, "it is self-signed; to trust it, give a tls_config"),
    "expired": (lambda: server_context(is_expired=True), "certificate has expired: it has expired"),
    "wrong name": (lambda: server_context("example.org"), "not valid for 'localhost'.*it is for another host"),
}


@pytest.mark.parametrize("name", BAD_CERTIFICATES)
def test_bad_certificates(run: Run, asking: Ask, name: str) -> None:
    make, message = BAD_CERTIFICATES[name]
    with Upstream(tls=make()) as upstream:
        before = sockets()
        with pytest.raises(
            TLSError, match=f"TLS failed after 0.* s: its certificate is refused: .*{message}"
        ) as caught:
            run(asking(at(upstream, "localhost", is_tls=True), tls_config=client_context()))
        assert type(caught.value) is TLSError
        assert caught.value.phase == "TLS"
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        upstream.wait_ended(1)
        assert sockets() == before
        assert upstream.requests == []


def test_a_wrong_address(run: Run, asking: Ask) -> None:
    with (
        Upstream(tls=server_context("localhost")) as upstream,
        pytest.raises(TLSError, match="it is for another address; dial the name in it"),
    ):
        run(asking(at(upstream, "127.0.0.1", is_tls=True), tls_config=client_context()))


def test_the_default_trusts_the_system_only(run: Run, asking: Ask) -> None:
    with Upstream(tls=server_context()) as upstream, pytest.raises(TLSError, match="certificate is refused"):
        run(asking(at(upstream, "localhost", is_tls=True)))


def test_another_name_may_be_wanted(run: Run, asking: Ask) -> None:
    with Upstream(tls=server_context("example.org")) as upstream:
        options = {"tls_config": client_context(), "server_hostname": "example.org"}
        assert run(asking(at(upstream, is_tls=True), **options)) == OK


def test_an_own_context_is_used_as_it_is(run: Run, asking: Ask) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with Upstream(tls=self_signed()) as upstream:
        assert run(asking(at(upstream, is_tls=True), tls_config=context)) == OK


def test_old_versions_are_refused(run: Run, asking: Ask) -> None:
    server = server_context()
    server.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server.maximum_version = ssl.TLSVersion.TLSv1_1
    with Upstream(tls=server) as upstream, pytest.raises(TLSError, match=r"TLS failed after .* s: .*protocol"):
        run(asking(at(upstream, is_tls=True)))


def test_a_peer_that_speaks_http(run: Run, asking: Ask) -> None:
    with (
        Upstream([send(OK), until_closed]) as upstream,
        pytest.raises(TLSError, match="not TLS; is it http and not https"),
    ):
        run(asking(at(upstream, is_tls=True), tls_config=client_context()))


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_goes_in_mid_handshake(run: Run, asking: Ask, how: str) -> None:
    script = [lambda peer: peer.read_until(lambda data: 1 if data else None)]
    if how == "reset":
        script.append(reset)
    else:
        # All of the client's hello is read, so that FIN is sent and not RST.
        script = [lambda peer: peer.receive()]
    with Upstream(script) as upstream:
        before = sockets()
        with pytest.raises(TLSError, match="closed the connection in mid-handshake"):
            run(asking(at(upstream, is_tls=True), tls_config=client_context()))
        upstream.wait_ended(1)
        assert sockets() == before


@pytest.mark.parametrize("options", [{"timeout": 0.1}, {"timeout": PATIENCE, "tls_timeout": 0.1}])
def test_a_handshake_that_never_ends(run: Run, asking: Ask, options: dict[str, float]) -> None:
    with Upstream(SAYS_NOTHING) as upstream:
        before = sockets()
        with pytest.raises(TLSTimeout, match=r"TLS not done after 0\.\d+ s$") as caught:
            run(asking(at(upstream, is_tls=True), tls_config=client_context(), **options))
        assert caught.value.phase == "TLS"
        assert 0.09 <= caught.value.elapsed < PATIENCE  # uvloop's timers round to milliseconds
        upstream.wait_closed(1)
        upstream.wait_ended(1)
        assert sockets() <= before


def test_a_unix_socket_with_tls_needs_a_name(run: Run, asking: Ask) -> None:
    with pytest.raises(ConfigError, match="give server_hostname"):
        run(asking(Address("", 0, "/run/x.sock", True)))


@pytest.mark.parametrize("name", ["", ".a", "a..b", "x" * 64])
def test_bad_names(run: Run, asking: Ask, name: str) -> None:
    with pytest.raises(ConfigError, match="is no host name"):
        run(asking(Address("a", 443, None, True), server_hostname=name))


# Cancellation


async def cancelled_after(ticks: int, dialling: Coroutine[Any, Any, tuple[asyncio.Transport, Any]]) -> None:
    """Cancel `dialling` after so many turns of the loop; what it made before that is closed."""
    task = asyncio.ensure_future(dialling)
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    try:
        transport, _ = await task
    except (asyncio.CancelledError, DialError):
        pass
    else:
        transport.abort()


@pytest.mark.parametrize("kind", ["tcp", "name", "refused", "tls", "silent", "unix"])
def test_a_cancel_at_any_tick_leaks_nothing(
    run: Run, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(connecting, "ATTEMPT_DELAY", 0.0)

    async def main(address: Address, resolver: Resolver) -> None:
        context = client_context()
        for ticks in TICKS:
            before = sockets()
            await cancelled_after(ticks, dial(address, Reader, tls_config=context, resolver=resolver))
            # Numbers that are free again are taken at once: a late close by number would hit these.
            with socket.socket() as one, socket.socket() as two:
                for _ in range(5):
                    await asyncio.sleep(0)
                gc.collect()
                assert one.fileno() >= 0
                assert os.fstat(one.fileno())
                assert os.fstat(two.fileno())
            await back_to(before)

    if kind == "silent":
        with silent_listener() as port:
            run(main(Address("name", port), resolving("127.0.0.1", "127.0.0.1", "::1")))
        return
    if kind == "unix":
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(tmp_path / "x.sock"))
            listener.listen(128)
            run(main(Address("", 0, str(tmp_path / "x.sock")), Resolver()))
        return
    with kernel_only() as port:
        is_tls = kind == "tls"
        if kind == "refused":
            port = refusing_port()
        host = "127.0.0.1" if kind == "tcp" else "name"
        run(main(Address(host, port, None, is_tls), resolving("127.0.0.2", "::1", "127.0.0.1")))


@contextmanager
def kernel_only() -> Iterator[int]:
    """A listener that only its backlog serves: connections are made by the system, and no socket of ours is at their end."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("ticks", range(60))
def test_a_cancel_in_a_handshake_leaks_nothing(run: Run, ticks: int) -> None:
    async def main() -> None:
        with Upstream(tls=server_context()) as upstream:
            before = sockets()
            await cancelled_after(ticks, dial(at(upstream, is_tls=True), Reader, tls_config=client_context()))
            await back_to(before)

    run(main())


@pytest.mark.parametrize("ticks", range(6))
def test_a_cancel_in_the_turn_in_which_a_handshake_ends_leaks_nothing(run: Run, ticks: int) -> None:
    """Whoever is cancelled does not see the transport that was ready for it, so it is aborted all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ready, aborted = asyncio.Event(), asyncio.Event()
        transport = Mock(spec=asyncio.Transport)
        transport.abort.side_effect = aborted.set

        async def opening() -> tuple[asyncio.Transport, Reader]:
            await ready.wait()
            return transport, Reader()

        ours, theirs = socket.socketpair()
        with ours, theirs:
            task = asyncio.ensure_future(_shake_hands(loop, opening(), ours))
            await asyncio.sleep(0)
            ready.set()
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            try:
                assert await task is transport
            except asyncio.CancelledError:
                await aborted.wait()

    run(main())


@pytest.mark.parametrize("ticks", TICKS)
def test_a_time_out_at_any_tick_leaks_nothing(run: Run, ticks: int) -> None:
    async def main() -> None:
        with kernel_only() as port:
            before = sockets()
            task = asyncio.ensure_future(dial(Address("127.0.0.1", port), Reader, timeout=ticks / 20_000))
            try:
                transport, _ = await task
            except DialTimeout:
                pass
            else:
                transport.abort()
            await back_to(before)

    run(main())


# Several addresses


def test_round_robin(run: Run) -> None:
    async def main() -> None:
        with Upstream() as one, Upstream() as two:
            dialer = Dialer(f"127.0.0.1:{one.port}, 127.0.0.1:{two.port}")
            ports = []
            for _ in range(4):
                transport, _ = await dialer.dial(Reader)
                ports.append(transport.get_extra_info("peername")[1])
                transport.abort()
                with dialer.dial_blocking() as sock:
                    ports.append(sock.getpeername()[1])
            assert ports == [one.port, two.port] * 4

    run(main())


def dials(dialer: Dialer, count: int, **options: Any) -> list[int]:
    ports = []
    for _ in range(count):
        with dialer.dial_blocking(**options) as sock:
            ports.append(sock.getpeername()[1])
    return ports


def test_one_that_fails_is_skipped_and_left_out(run: Run) -> None:
    async def main() -> None:
        bad = refusing_port()
        with Upstream() as good:
            dialer = Dialer(f"127.0.0.1:{bad}, 127.0.0.1:{good.port}", backoff=3600.0, max_backoff=3600.0)
            for _ in range(3):
                transport, _ = await dialer.dial(Reader)
                assert transport.get_extra_info("peername")[1] == good.port
                transport.abort()
                assert dialer.left_out() == [Address("127.0.0.1", bad)]
            assert dials(dialer, 3) == [good.port] * 3

    run(main())


def test_one_that_was_left_out_comes_back() -> None:
    with Upstream() as one, Upstream() as two:
        dialer = Dialer(f"127.0.0.1:{one.port}, 127.0.0.1:{two.port}", backoff=0.001, max_backoff=0.001)
        one.stop_listening()
        assert dials(dialer, 2) == [two.port] * 2
        one.restart()
        deadline = time.monotonic() + PATIENCE
        while dialer.left_out() and time.monotonic() < deadline:
            pass
        assert set(dials(dialer, 2)) == {one.port, two.port}


def test_one_that_is_silent_does_not_take_all_the_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LEAST_SHARE", 0.01)

    async def main() -> None:
        with silent_listener() as silent, Upstream() as good:
            for blocking in (False, True):
                dialer = Dialer(f"127.0.0.1:{silent}, 127.0.0.1:{good.port}")
                if blocking:
                    assert await asyncio.to_thread(functools.partial(dials, dialer, 1, timeout=1.0)) == [good.port]
                else:
                    transport, _ = await dialer.dial(Reader, timeout=1.0)
                    assert transport.get_extra_info("peername")[1] == good.port
                    transport.abort()
                assert dialer.left_out() == [Address("127.0.0.1", silent)]

    run(main())


def test_when_all_fail_all_are_tried_and_told(run: Run) -> None:
    one, two = refusing_port(), refusing_port()
    addresses = f"127.0.0.1:{one}, 127.0.0.1:{two}"

    async def main() -> None:
        dialer = Dialer(addresses)
        for _ in range(2):  # also when all are left out
            for dialling in (dialer.dial(Reader), asyncio.to_thread(dialer.dial_blocking)):
                with pytest.raises(DialError, match=f"none of {addresses} could be dialled, 0") as caught:
                    await dialling
                assert type(caught.value) is DialError
                assert str(caught.value).count("Connection refused") == 2
                assert (caught.value.phase, caught.value.address) == ("connect", addresses)

    run(main())


def test_what_was_not_tried_is_told(run: Run) -> None:
    async def main() -> None:
        with silent_listener() as silent:
            dialer = Dialer(f"127.0.0.1:{silent}, 127.0.0.1:1, 127.0.0.1:2")
            with pytest.raises(DialTimeout, match="2 not tried, the time was up"):
                await dialer.dial(Reader, timeout=0.05)

    run(main())


def test_one_address_alone_has_its_own_error(run: Run) -> None:
    port = refusing_port()

    async def main() -> None:
        dialer = Dialer([Address("127.0.0.1", port)])
        for _ in range(2):
            with pytest.raises(DialError, match=f"^can't dial 127.0.0.1:{port}: connect failed"):
                await dialer.dial(Reader)

    run(main())


def test_mixed_addresses_with_tls(run: Run) -> None:
    with Upstream(SERVES) as plain, Upstream(SERVES, tls=server_context()) as secure:
        dialer = Dialer(f"http://localhost:{plain.port}, https://localhost:{secure.port}", tls_config=client_context())

        async def main() -> None:
            for is_tls in (False, True):
                transport, reader = await dialer.dial(Reader)
                assert (transport.get_extra_info("ssl_object") is not None) == is_tls
                transport.write(GET)
                assert await reader.until(len(OK)) == OK
                transport.abort()

        run(main())


def test_a_dial_that_is_cancelled_says_nothing_against_its_address(run: Run) -> None:
    async def main() -> None:
        with silent_listener() as port:
            dialer = Dialer(f"127.0.0.1:{port}")
            await cancelled_after(5, dialer.dial(Reader))
            assert dialer.left_out() == []

    run(main())


def test_bad_options_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="port"):
        Dialer("a:x")
    with pytest.raises(ConfigError, match="no address"):
        Dialer([])
    with pytest.raises(ConfigError, match="server_hostname"):
        Dialer([Address("", 0, "/x", True)])
    with pytest.raises(ConfigError, match="tls_timeout"):
        Dialer("a", tls_timeout=float("inf"))
