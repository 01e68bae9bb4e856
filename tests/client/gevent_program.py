"""Run by test_sync_threads.py in a process of its own: `SyncHostClient` in greenlets, with everything monkey-patched."""

from __future__ import annotations

# ruff: noqa: E402 (patching comes first)
from gevent import monkey  # type: ignore[import-untyped, unused-ignore]

monkey.patch_all()

import socket
import threading

import gevent
from gevent.server import StreamServer  # type: ignore[import-untyped, unused-ignore]

from fastserve.client.sync_host_client import SyncHostClient
from fastserve.errors import ClientClosed, ResponseHeadTimeout
from tests.client.certificates import client_context, server_context

GREENLETS = 30
REQUESTS = 10
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

connections: list[socket.socket] = []
release = threading.Event()
hung_up = threading.Event()


def serve(sock: socket.socket, address: object) -> None:
    """``/hang`` is not answered until the program says so, ``/last`` is and then the connection is closed."""
    connections.append(sock)
    received = b""
    while data := sock.recv(65536):
        received += data
        while b"\r\n\r\n" in received:
            head, _, received = received.partition(b"\r\n\r\n")
            if head.startswith(b"POST"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                while len(received) < length:
                    received += sock.recv(65536)
                received = received[length:]
            if b"/hang" in head:
                release.wait()
            sock.sendall(OK)
            if b"/last" in head:
                sock.shutdown(socket.SHUT_RDWR)
                hung_up.set()
                return


def use(client: SyncHostClient) -> None:
    for _ in range(REQUESTS):
        assert client.get("/").body == b"ok"
        assert client.post("/", body=b"x" * 300_000).body == b"ok"


def main() -> None:
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    client = SyncHostClient(f"127.0.0.1:{server.server_port}", max_conns=3, max_conn_wait_timeout=30.0)
    ticks = 0
    running = True

    def count() -> None:
        nonlocal ticks
        while running:
            ticks += 1
            gevent.sleep(0.001)

    counter = gevent.spawn(count)
    gevent.joinall([gevent.spawn(use, client) for _ in range(GREENLETS)], timeout=40, raise_error=True)
    stats = client.stats()
    assert stats.conns == stats.idle <= 3, stats
    assert stats.hits + stats.misses == GREENLETS * REQUESTS * 2, stats
    assert len(connections) <= 3

    # While every connection waits for its response the hub goes on, and so does everybody else.
    before = ticks
    hung = [gevent.spawn(client.get, "/hang") for _ in range(3)]
    waits = gevent.spawn(client.get, "/")
    with gevent.Timeout(20):
        while ticks < before + 20 or client.stats().waiting < 1:
            gevent.sleep(0)
    assert not any(greenlet.ready() for greenlet in hung)
    release.set()
    for greenlet in [*hung, waits]:
        assert greenlet.get(timeout=20).body == b"ok"

    # A greenlet that is killed in mid-request closes its connection, and its slot comes back; and a timeout is one.
    release.clear()
    killed = gevent.spawn(client.get, "/hang")
    with gevent.Timeout(20):
        while client.stats().streams < 1:
            gevent.sleep(0)
    killed.kill(timeout=20)
    assert client.stats().streams == 0
    try:
        client.get("/hang", timeout=0.05)
    except ResponseHeadTimeout:
        assert client.stats().streams == 0
    else:
        raise AssertionError("must time out")

    # An idle connection that the upstream closed is noticed before it is used.
    client.close_idle_connections()
    assert client.post("/last", body=b"x").body == b"ok"
    assert hung_up.wait(20)
    assert client.get("/").body == b"ok"
    assert client.stats().closed["stale"] == 1, client.stats()

    holder = gevent.spawn(client.get, "/hang")
    with gevent.Timeout(20):
        while client.stats().streams < 1:
            gevent.sleep(0)
    client.close()
    try:
        holder.get(timeout=20)
    except ClientClosed:
        pass
    else:
        raise AssertionError("must be told that the client was closed")
    running = False
    counter.join(timeout=20)
    release.set()
    server.stop(timeout=0)

    secure = StreamServer(("127.0.0.1", 0), serve, ssl_context=server_context())
    secure.start()
    address = f"https://127.0.0.1:{secure.server_port}"
    with SyncHostClient(address, tls_config=client_context(), max_conns=2, max_conn_wait_timeout=30.0) as client:
        gevent.joinall([gevent.spawn(use, client) for _ in range(5)], timeout=40, raise_error=True)
        assert client.stats().closed["stale"] == 0
        assert client.conns_count <= 2
    secure.stop(timeout=0)
    print("all is well, in", threading.current_thread().name)


if __name__ == "__main__":
    main()
