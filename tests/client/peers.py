"""Real servers for tests of clients: Python's `http.server`, nginx, and our own. No mocks.

All of them serve `HELLO` at ``/hello`` and `BIG` at ``/big`` over keep-alive, and answer 404 elsewhere; http.server and
our own also send back what is posted to ``/echo``. Each is a context manager that gives a `RunningPeer`, and leaves
nothing behind.
"""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastserve.server.ctx import RequestCtx
from fastserve.server.thread import ServerThread
from tests.client.certificates import issue
from tests.client.upstream import PATIENCE
from tests.conftest import program

__all__ = ["BIG", "HELLO", "PEERS", "RunningPeer", "http_server", "nginx", "own_server"]

HELLO = b"hello"
BIG = b"0123456789abcdef" * 65536
"""1 MiB."""


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """A server that runs; `tls_port` is there where it speaks TLS too, with a certificate of `certificates.authority`."""

    name: str
    port: int
    tls_port: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        assert self.tls_port is not None, f"{self.name} speaks no TLS here"
        return f"https://127.0.0.1:{self.tls_port}"


# http.server


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = {"/hello": HELLO, "/big": BIG}.get(self.path)
        self._answer(404 if body is None else 200, b"not found" if body is None else body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200 if self.path == "/echo" else 404, body if self.path == "/echo" else b"not found")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class _HTTPServer(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True  # `server_close` waits for the threads
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.is_ending = False
        self.connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        with self.lock:
            self.connections.add(sock)
        return sock, address

    def shutdown_request(self, request: Any) -> None:
        with self.lock:
            self.connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake the threads that wait for a next request on a connection that a client keeps."""
        with self.lock:
            self.is_ending = True
            for sock in self.connections:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not self.is_ending:
            super().handle_error(request, client_address)


@contextmanager
def http_server() -> Iterator[RunningPeer]:
    """Python's own threaded server, with keep-alive."""
    server = _HTTPServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="http.server", daemon=True)
    thread.start()
    try:
        yield RunningPeer("http.server", server.server_address[1])
    finally:
        server.shutdown()
        server.end_connections()
        server.server_close()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "http.server did not end"


# nginx

NGINX_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout {keepalive_timeout}s;
    keepalive_requests {keepalive_requests};
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/certificate.pem;
        root {folder}/root;
        {more}
    }}
}}
"""


@contextmanager
def nginx(
    folder: Path, *, keepalive_timeout: int = 60, keepalive_requests: int = 1000, more: str = ""
) -> Iterator[RunningPeer]:
    """nginx with keep-alive and TLS, its files in `folder`; `more` are lines of its ``server`` block."""
    path = program("nginx", "nginx-light")
    (folder / "root").mkdir()
    (folder / "root" / "hello").write_bytes(HELLO)
    (folder / "root" / "big").write_bytes(BIG)
    issue().private_key_and_cert_chain_pem.write_to_path(str(folder / "certificate.pem"))
    for _ in range(5):
        port, tls_port = _free_ports()
        config = NGINX_CONFIG.format(
            user="user root;" if os.geteuid() == 0 else "",  # its workers read `folder`, which is ours alone
            folder=folder,
            port=port,
            tls_port=tls_port,
            keepalive_timeout=keepalive_timeout,
            keepalive_requests=keepalive_requests,
            more=more,
        )
        (folder / "nginx.conf").write_text(config)
        # The -e keeps it from opening its compiled-in log, which is root's.
        command = [path, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
        with _Process(command) as process:
            if process.wait_for("start worker process "):
                yield RunningPeer("nginx", port, tls_port)
                return
        # Somebody may have taken the port in between: others, then.
        assert "Address already in use" in process.output, f"nginx did not start:\n{process.output}"
    raise AssertionError(f"no port for nginx:\n{process.output}")


class _Process:
    """A child with its standard error read by a thread; ended with the block."""

    def __init__(self, command: list[str]) -> None:
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._has_ended = False
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, name=command[0], daemon=True)
        self._thread.start()

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, text: str) -> bool:
        """Until it wrote `text`: True; or until it ended: False."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._has_ended or any(text in line for line in self._lines), PATIENCE
            ):
                raise AssertionError(f"{self._child.args!r} did not write {text!r}:\n{''.join(self._lines)}")
            return any(text in line for line in self._lines)

    def _read(self) -> None:
        assert self._child.stderr is not None
        with self._child.stderr as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(PATIENCE)


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]


# Our own


async def _handler(ctx: RequestCtx) -> None:
    if ctx.path == "/echo":
        ctx.set_body(ctx.post_body)
    elif ctx.path in ("/hello", "/big"):
        ctx.set_body(HELLO if ctx.path == "/hello" else BIG)
    else:
        ctx.error("not found", 404)


@contextmanager
def own_server(handler: Callable[[RequestCtx], Any] = _handler, **options: Any) -> Iterator[RunningPeer]:
    """fastserve in a thread; `options` are those of `ServerThread`."""
    with ServerThread(handler, **options) as server:
        yield RunningPeer("fastserve", server.port)


PEERS: dict[str, Callable[[Path], AbstractContextManager[RunningPeer]]] = {
    "http.server": lambda folder: http_server(),
    "nginx": nginx,
    "fastserve": lambda folder: own_server(),
}
"""By name, to run one test with each: ``with PEERS[name](tmp_path) as peer``."""
