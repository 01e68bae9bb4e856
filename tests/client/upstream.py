"""`Upstream`: a server that misbehaves by script, for tests of clients (issue 3, line 6).

It runs in threads of its own with blocking sockets, so that it serves asynchronous and blocking clients alike, and in
the same process, so that a test may pace it. A script is a sequence of steps; connection n is served by script n, and
every connection after the last script by the last one:

    with Upstream([request, send(b"HTTP/1.1 200 OK\\r\\nContent-Le"), close], [request, send(OK), until_closed]) as upstream:
        ...                      # talk to 127.0.0.1, upstream.port
        upstream.wait_closed(1)  # the client has closed one of the connections

After its last step a connection is closed. Ready-made scripts are in `tests.client.scripts`. Nothing here sleeps: steps
wait for bytes, for the client, or for a `Gate` that the test opens. The waits of tests are bounded by `PATIENCE` and
fail with what was seen instead; on a loop use ``await asyncio.to_thread(upstream.wait_closed, 1)``. Leaving the block
ends every connection and every thread, and raises what a script raised.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from tests.conftest import TEST_TIMEOUT

PATIENCE = TEST_TIMEOUT / 2
"""Seconds for anything that a test waits for: less than the test itself may take, so that the failure says more."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Gone(Exception):
    """The client is gone, or the upstream ends: the script of this connection is over. No failure."""


class Gate:
    """Lets steps through, as many as the test says: paces what an upstream sends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free = 0
        self._open = False

    def release(self, count: int = 1) -> None:
        """Let `count` more steps through."""
        with self._changed:
            self._free += count
            self._changed.notify_all()

    def open(self) -> None:
        """Let all through from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def look(self) -> None:
        """Make those who wait look whether they are interrupted."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, is_interrupted: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._free > 0 or self._open or is_interrupted(), PATIENCE):
                raise AssertionError("the test did not open the gate")
            if is_interrupted():
                raise Gone
            if not self._open:
                self._free -= 1


class Peer:
    """One connection, as its script sees it."""

    def __init__(self, upstream: Upstream, sock: socket.socket) -> None:
        self.upstream = upstream
        self.sock = sock
        self.number = sock.fileno()
        self.received = bytearray()
        """All that the client sent on this connection."""
        self.is_closed_by_client = False
        self.is_interrupted = False
        self.gone = Gate()
        """Opened when the client has closed, or reset, its side."""
        self._unread = 0  # where in `received` the next request begins
        self._gate: Gate | None = None
        self._closing = threading.Lock()  # between this connection's thread and those that interrupt it
        self._is_closed = False

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.upstream._client_closed(self)
            raise Gone from error

    def receive(self) -> bytes:
        """Some more bytes, also in `received`; none at the end."""
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            self.upstream._client_closed(self)
            raise Gone from error
        if not data:
            self.upstream._client_closed(self)
        self.received += data
        return data

    def read_until(self, length: Callable[[bytes], int | None]) -> bytes:
        """What `length` says belongs together: bytes from where the last one ended. `Gone` at an end before."""
        while (size := length(bytes(self.received[self._unread :]))) is None:
            if not self.receive():
                raise Gone
        start, self._unread = self._unread, self._unread + size
        return bytes(self.received[start : self._unread])

    def wait(self, gate: Gate) -> None:
        self._gate = gate
        gate.wait(lambda: self.is_interrupted)

    def secure(self, context: ssl.SSLContext) -> None:
        try:
            with self._closing:
                self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            assert isinstance(self.sock, ssl.SSLSocket)
            self.sock.do_handshake()
        except OSError as error:
            raise Gone from error

    def close(self) -> None:
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self.upstream._leaving(self)
                self.sock.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        with self._closing:
            if not self._is_closed:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def shutdown(self, how: int) -> None:
        """Of the TCP connection, whatever is on it."""
        try:
            socket.socket.shutdown(self.sock, how)
        except OSError:
            pass  # the client was faster

    def interrupt(self) -> None:
        """End the script from another thread, whatever step it is in."""
        self.is_interrupted = True
        with self._closing:
            if not self._is_closed:
                self.shutdown(socket.SHUT_RDWR)
        if self._gate is not None:
            self._gate.look()


Step = Callable[[Peer], None]
Script = Sequence[Step]


# Steps


def request(peer: Peer) -> None:
    """Read one request to its end; the script ends when the client closes instead of sending one."""
    peer.upstream._add_request(peer.read_until(_request_length))


def request_head(peer: Peer) -> None:
    """Read a request's head, and maybe some of its body; it is no entry of `requests`."""
    peer.read_until(_head_length)


def first_byte(peer: Peer) -> None:
    """Wait for the first byte of a request."""
    peer.read_until(lambda data: 0 if data else None)


def until_closed(peer: Peer) -> None:
    """Read, and throw away, until the client closes."""
    while peer.receive():
        pass


def stall(peer: Peer) -> None:
    """Read nothing and write nothing until the client closes."""
    peer.wait(peer.gone)


def close(peer: Peer) -> None:
    """Close in order. Linux sends RST instead when there are bytes that were not read: see `drain`."""
    peer.close()
    raise Gone


def reset(peer: Peer) -> None:
    """Close with RST."""
    peer.reset()
    raise Gone


def half_close(peer: Peer) -> None:
    """Send FIN, and stay to read."""
    peer.shutdown(socket.SHUT_WR)


def drain(peer: Peer) -> None:
    """FIN, then read until the client closes: whatever it sends, it gets no RST."""
    half_close(peer)
    until_closed(peer)


def send(data: bytes) -> Step:
    def step(peer: Peer) -> None:
        peer.send(data)

    return step


def wait_for(gate: Gate) -> Step:
    """Go on when the test lets one through."""

    def step(peer: Peer) -> None:
        peer.wait(gate)

    return step


def drip(data: bytes, gate: Gate, size: int = 1) -> Step:
    """Send `data` in pieces of `size` bytes, one for each that the gate lets through."""

    def step(peer: Peer) -> None:
        for start in range(0, len(data), size):
            peer.wait(gate)
            peer.send(data[start : start + size])

    return step


def flood(data: bytes) -> Step:
    """Send `data` over and over until the client closes."""

    def step(peer: Peer) -> None:
        while True:
            peer.send(data)

    return step


def repeat(*steps: Step) -> Step:
    """Do `steps` again and again, until the client closes."""

    def step(peer: Peer) -> None:
        while True:
            for each in steps:
                each(peer)

    return step


def signal(event: threading.Event) -> Step:
    """Tell the test that the script has come this far."""

    def step(peer: Peer) -> None:
        event.set()

    return step


SERVES: Script = [repeat(request, send(OK))]
"""Behaves: keep-alive for as long as the client likes."""


# The server


class Upstream:
    """Serves connections by `scripts` on a free port of 127.0.0.1, or `host`.

    Args:
        scripts: one for each connection, in order of their acceptance; the last one for all others.
        host: ``127.0.0.1`` or ``::1``.
        tls: a server context: the scripts run after the handshake.
        receive_buffer: bytes of the sockets' receive buffers, small ones to make a client's writes wait soon.
        backlog: connections that wait to be accepted.
    """

    def __init__(
        self,
        *scripts: Script,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
        backlog: int = 128,
    ) -> None:
        self._scripts = scripts or (SERVES,)
        self._tls = tls
        self._host = host
        self._receive_buffer = receive_buffer
        self._backlog = backlog
        self._changed = threading.Condition()
        self._peers: list[Peer] = []
        self._open: dict[int, Peer] = {}
        self._requests: list[bytes] = []
        self._closed = 0
        self._ended = 0
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._listener: socket.socket | None = None
        self._poll = select.epoll()
        self._wake, self._woken = socket.socketpair()
        self._poll.register(self._woken.fileno(), select.EPOLLIN)
        self.port = 0
        self._listen()
        self._watcher = threading.Thread(target=self._watch, name="upstream", daemon=True)
        self._watcher.start()

    # What tests see

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def connections(self) -> list[Peer]:
        """All that were ever accepted, in order; ``connections[0].received`` is what the client sent on the first."""
        with self._changed:
            return list(self._peers)

    @property
    def accepted(self) -> int:
        with self._changed:
            return len(self._peers)

    @property
    def requests(self) -> list[bytes]:
        """The raw bytes of each request that was read to its end, in order."""
        with self._changed:
            return list(self._requests)

    @property
    def closed(self) -> int:
        """Connections that the client closed, or shut down or reset, before we did; seen also when no step reads."""
        with self._changed:
            return self._closed

    @property
    def open(self) -> int:
        """Connections that neither side has closed."""
        with self._changed:
            return len([peer for peer in self._open.values() if not peer.is_closed_by_client])

    def wait_accepted(self, count: int) -> None:
        self._wait(lambda: len(self._peers) >= count, f"{count} accepted")

    def wait_requests(self, count: int) -> None:
        self._wait(lambda: len(self._requests) >= count, f"{count} requests")

    def wait_closed(self, count: int) -> None:
        """Until the client has closed `count` connections."""
        self._wait(lambda: self._closed >= count, f"{count} closed by the client")

    def wait_ended(self, count: int) -> None:
        """Until the scripts of `count` connections are over, and those closed."""
        self._wait(lambda: self._ended >= count, f"{count} scripts ended")

    # What tests do

    def restart(self) -> None:
        """Close the listener and every connection, and listen again on the same port."""
        self.stop_listening()
        self.close_connections()
        self._listen()

    def stop_listening(self) -> None:
        """Refuse connections from now on; the open ones stay. `restart` listens again."""
        with self._changed:
            listener, self._listener = self._listener, None
        if listener is not None:
            self._poll.unregister(listener.fileno())
            listener.close()

    def close_connections(self) -> None:
        """End every open connection, in whatever step it is, and wait until they are closed."""
        with self._changed:
            peers = list(self._open.values())
            threads = list(self._threads)
        for peer in peers:
            peer.interrupt()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} did not end"

    def stop(self) -> None:
        """End everything. Raises what a script raised."""
        with self._changed:
            self._stopping = True
        self.stop_listening()
        self._wake.send(b"x")
        self._watcher.join(PATIENCE)  # no connection is accepted after this
        assert not self._watcher.is_alive(), "the watcher did not end"
        self.close_connections()
        self._poll.close()
        self._wake.close()
        self._woken.close()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._errors and error is None:
            raise self._errors[0]

    # Inside

    def _listen(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._receive_buffer is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            listener.bind((self._host, self.port))
            listener.listen(self._backlog)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        with self._changed:
            self._listener = listener
        self._poll.register(listener.fileno(), select.EPOLLIN)

    def _watch(self) -> None:
        """Accept, and notice when a client closes, whatever the script is doing."""
        while True:
            for number, _ in self._poll.poll():
                with self._changed:
                    if self._stopping:
                        return
                    listener = self._listener
                    peer = self._open.get(number)
                if peer is not None:
                    self._client_closed(peer)
                elif listener is not None and number == listener.fileno():
                    self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # it went away before, or the listener was closed
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(self, sock)
        with self._changed:
            index = len(self._peers)
            self._peers.append(peer)
            self._open[sock.fileno()] = peer
            self._poll.register(
                sock.fileno(), select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT
            )
            script = self._scripts[min(index, len(self._scripts) - 1)]
            thread = threading.Thread(target=self._serve, args=(peer, script), name=f"upstream-{index}", daemon=True)
            self._threads.append(thread)
            thread.start()
            self._changed.notify_all()

    def _client_closed(self, peer: Peer) -> None:
        with self._changed:
            if self._open.get(peer.number) is not peer or peer.is_closed_by_client or peer.is_interrupted:
                return
            peer.is_closed_by_client = True
            self._closed += 1
            self._changed.notify_all()
        peer.gone.open()

    def _leaving(self, peer: Peer) -> None:
        """Our side is about to close; the number may be another connection's right after."""
        with self._changed:
            if self._open.pop(peer.number, None) is not None:
                self._poll.unregister(peer.number)

    def _serve(self, peer: Peer, script: Script) -> None:
        try:
            if self._tls is not None:
                peer.secure(self._tls)
            for step in script:
                step(peer)
        except Gone:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            peer.close()
            with self._changed:
                self._ended += 1
                self._changed.notify_all()

    def _wait(self, check: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(check, PATIENCE):
                raise AssertionError(
                    f"waited {PATIENCE:g} s for {what}; there were {len(self._peers)} accepted, "
                    f"{len(self._requests)} requests, {self._closed} closed by the client, {self._ended} scripts ended"
                )

    def _add_request(self, data: bytes) -> None:
        with self._changed:
            self._requests.append(data)
            self._changed.notify_all()


_content_length = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE).search
_is_chunked = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE).search


def _head_length(data: bytes) -> int | None:
    end = data.find(b"\r\n\r\n")
    return None if end < 0 else end + 4


def _request_length(data: bytes) -> int | None:
    """Bytes of the whole request at the start of `data`; None until it is all there."""
    head = _head_length(data)
    if head is None:
        return None
    if _is_chunked(data, 0, head):
        return _chunked_end(data, head)
    length = _content_length(data, 0, head)
    end = head + (int(length[1]) if length else 0)
    return end if len(data) >= end else None


def _chunked_end(data: bytes, at: int) -> int | None:
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(data[at:line].partition(b";")[0], 16)
        at = line + 2
        if size:
            at += size + 2
            continue
        # Trailers, up to the empty line.
        end = data.find(b"\r\n\r\n", at - 2)
        return None if end < 0 else end + 4


@contextmanager
def silent_listener(host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a listener that answers no SYN: its backlog is full. A dial there gets no answer, and no refusal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held: list[socket.socket] = []
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        listener.listen(0)
        try:
            for _ in range(16):  # Linux takes one more than it was told
                sock = socket.socket(family, socket.SOCK_STREAM)
                held.append(sock)
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
                poll = select.poll()
                poll.register(sock, select.POLLOUT)
                if not poll.poll(200):
                    break  # no answer to this one: full
            else:
                raise AssertionError("the backlog does not get full")
            yield listener.getsockname()[1]
        finally:
            for sock in held:
                sock.close()
