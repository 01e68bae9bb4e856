"""Real peers for tests of clients: nginx and Python's http.server, each on a free port for as long as a block runs.

nginx runs in the foreground, in a directory of its own, and is ended by its process. Needs Debian's nginx-light; without
it the tests fail and say so.
"""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.client.certificates import authority
from tests.client.upstream import PATIENCE

__all__ = ["Nginx", "http_server", "nginx"]

CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 1m;
    keepalive_timeout {keepalive_timeout};
    keepalive_requests {keepalive_requests};
    gzip on;
    gzip_types text/plain;
    gzip_min_length 1;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        listen unix:{directory}/nginx.sock;
        server_name localhost;
        ssl_certificate {directory}/certificate.pem;
        ssl_certificate_key {directory}/key.pem;
        root {directory}/files;
        location = /hello {{ return 200 "hello"; }}
        location = /connection {{ return 200 "$connection"; }}
        location = /moved {{ absolute_redirect off; return 302 /hello; }}
        location = /empty {{ return 204; }}
    }}
}}
"""


@dataclass
class Nginx:
    port: int
    tls_port: int
    directory: Path

    @property
    def uds(self) -> Path:
        return self.directory / "nginx.sock"


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


@contextmanager
def nginx(directory: Path, *, keepalive_timeout: str = "60s", keepalive_requests: int = 1000) -> Iterator[Nginx]:
    """Serves ``directory/files``, and /hello, /connection (its number), /moved and /empty."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.fail("nginx is missing: apt-get install -y nginx-light (Debian), or see nginx.org")
    port, tls_port = free_ports(2)
    (directory / "files").mkdir(exist_ok=True)
    directory.chmod(0o755)
    certificate = authority().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "certificate.pem")
    config = directory / "nginx.conf"
    config.write_text(
        CONFIG.format(
            directory=directory,
            port=port,
            tls_port=tls_port,
            keepalive_timeout=keepalive_timeout,
            keepalive_requests=keepalive_requests,
        )
    )
    command = [binary, "-p", str(directory), "-e", "stderr", "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen: list[str] = []
    listens = threading.Event()

    def watch() -> None:
        assert process.stderr is not None
        for line in process.stderr:  # ends when nginx does
            seen.append(line)
            if "start" in line or "event method" in line or "OS:" in line:  # said when it listens
                listens.set()
        listens.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        if not listens.wait(PATIENCE) or process.poll() is not None:
            pytest.fail("nginx did not start: " + "".join(seen))
        yield Nginx(port, tls_port, directory)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
        watcher.join(PATIENCE)
        process.stderr.close()


@contextmanager
def http_server(version: str = "HTTP/1.1") -> Iterator[int]:
    """Python's own server: GET answers ``hello``, POST what it was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = version

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            if version == "HTTP/1.1":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(b"hello")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(PATIENCE)
