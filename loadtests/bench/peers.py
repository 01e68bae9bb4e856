"""Who is measured: servers and clients that can be found here, and why the others can't."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import fastserve
from bench.body import HELLO, RESPONSE_SIZE
from bench.gate import build

__all__ = ["Found", "Peer", "environment", "find_clients", "find_servers", "program"]

LOADTESTS = Path(__file__).parent.parent
GO_SOURCES = Path(__file__).parent / "go"
GOPATH = "/usr/share/gocode"
"""Where Debian's golang packages put their sources."""
GO_HINT = "Debian: apt-get install golang-go golang-github-valyala-fasthttp-dev"
GO_TIMEOUT = 300.0


@dataclass(frozen=True)
class Peer:
    """A command with {port}, and for clients also {conns}, {tasks}, {seconds}, {body} and {expected}."""

    name: str
    command: tuple[str, ...]
    version: str

    def fill(self, **values: object) -> list[str]:
        return [part.format(**values) for part in self.command]

    def prepare(self, work: Path, port: int, response_size: int | None) -> None:
        """Write what the command needs beside its arguments."""


class Nginx(Peer):
    """Needs a file with the port, and one with the body when it is larger than a directive may be."""

    CONF = """
daemon off;
{user}
worker_processes 1;
pid {work}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    default_type text/plain;
    types {{ }}
    keepalive_requests 1000000;
    client_max_body_size 64m;
    client_body_temp_path {work}/client;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ {answer} }}
    }}
}}
"""

    def prepare(self, work: Path, port: int, response_size: int | None) -> None:
        answer = f'return 200 "{HELLO.decode()}";'
        if response_size is not None:
            (work / "body").write_bytes(b"x" * response_size)
            answer = f"root {work}; rewrite ^ /body break;"
        user = "user root;" if os.geteuid() == 0 else ""
        (work / "nginx.conf").write_text(self.CONF.format(work=work, port=port, answer=answer, user=user))


@dataclass
class Found:
    peers: dict[str, Peer] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Name to what to do about it."""

    def only(self, names: list[str]) -> Found:
        """Those of `names` alone, if there are any."""
        if not names:
            return self
        return Found(
            {name: peer for name, peer in self.peers.items() if name in names},
            {name: why for name, why in self.missing.items() if name in names},
        )


def environment(response_size: int | None = None) -> dict[str, str]:
    """The environment of what is started: it finds the modules here, and the fastserve that is imported here."""
    package = Path(fastserve.__file__).parent.parent
    env = dict(os.environ, GOMAXPROCS="1", PYTHONPATH=f"{LOADTESTS}{os.pathsep}{package}")
    env.pop(RESPONSE_SIZE, None)
    if response_size is not None:
        env[RESPONSE_SIZE] = str(response_size)
    return env


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")


def find_servers(work: Path, names: list[str]) -> Found:
    """The servers that can be started, of `names` or all; Go's are built into `work`."""
    found = Found()
    for name, package, command in _python_servers():
        _add_python(found, names, name, package, command)
    for name in ("fasthttp", "nethttp"):
        _add_go(found, names, f"go-{name}", name, work, ("{port}",))
    if not names or "nginx" in names:
        path = program("nginx")
        if path is None:
            found.missing["nginx"] = "Debian: apt-get install nginx-light"
        else:
            told = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
            command = (path, "-p", str(work), "-c", f"{work}/nginx.conf", "-e", "stderr")
            found.peers["nginx"] = Nginx("nginx", command, told.stderr.strip().rpartition("/")[2])
    return found


def find_clients(work: Path, names: list[str]) -> Found:
    found = Found()
    places = ("{port}", "{conns}", "{tasks}", "{seconds}", "{body}", "{expected}")
    for name, package in (
        ("HostClient", "fastserve"),
        ("SyncHostClient", "fastserve"),
        ("raw", "uvloop"),
        ("aiohttp", "aiohttp"),
        ("httpx", "httpx"),
        ("pycurl", "pycurl"),
        ("urllib3", "urllib3"),
        ("http.client", ""),
    ):
        if name == "SyncHostClient" and not hasattr(fastserve, name):
            continue
        _add_python(found, names, name, package, ("-m", "bench.clients", name, *places))
    _add_go(found, names, "go-HostClient", "hostclient", work, places)
    return found


def _python_servers() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, package, and the command after the interpreter."""
    for name, handler, options in (
        ("fastserve", "async_handler", ()),
        ("fastserve-inline", "plain_handler", ("--inline",)),
        ("fastserve-threads", "plain_handler", ()),
    ):
        yield name, "fastserve", (
            "-m", "fastserve", "run", f"handlers:{handler}", *options, "--app-dir", str(LOADTESTS), "--port", "{port}",
            "--log-level", "error",
        )  # fmt: skip
    yield "floor", "uvloop", ("-m", "bench.apps.serve_floor", "{port}")
    yield "uvicorn", "uvicorn", (
        "-m", "uvicorn", "bench.apps.asgi:app", "--port", "{port}", "--log-level", "critical", "--no-access-log",
        "--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "75",
    )  # fmt: skip
    for interface in ("asgi", "rsgi", "wsgi"):
        yield f"granian-{interface}", "granian", (
            "-m", "granian", f"bench.apps.{interface}:app", "--port", "{port}", "--interface", interface, "--no-ws",
            "--http", "1", "--log-level", "critical",
        )  # fmt: skip
    yield "gunicorn", "gunicorn", (
        "-m", "gunicorn", "bench.apps.wsgi:app", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread",
        "--threads", "16", "--worker-connections", "16384", "--keep-alive", "75", "--log-level", "critical",
    )  # fmt: skip
    yield "aiohttp", "aiohttp", ("-m", "bench.apps.serve_aiohttp", "{port}")
    yield "socketify", "socketify", ("-m", "bench.apps.serve_socketify", "{port}")
    for interface in ("asgi", "wsgi"):
        yield f"fastpysgi-{interface}", "fastpysgi", ("-m", "bench.apps.serve_fastpysgi", "{port}", interface)


def _add_python(found: Found, names: list[str], name: str, package: str, command: tuple[str, ...]) -> None:
    if names and name not in names:
        return
    if package and importlib.util.find_spec(package) is None:
        found.missing[name] = f"pip install {package}"
        return
    if package == "fastserve":
        version = f"{fastserve.__version__} ({'compiled' if build().endswith('compiled') else 'pure Python'})"
    else:
        version = metadata.version(package) if package else sys.version.split()[0]
    found.peers[name] = Peer(name, (sys.executable, *command), version)


def _add_go(found: Found, names: list[str], name: str, source: str, work: Path, arguments: tuple[str, ...]) -> None:
    if names and name not in names:
        return
    go = program("go")
    if go is None:
        found.missing[name] = GO_HINT
        return
    env = dict(os.environ, GO111MODULE="off", GOFLAGS="", GOPATH=os.environ.get("GOPATH", GOPATH))
    if "HOME" not in env:
        env.setdefault("GOCACHE", str(work / "gocache"))
    binary = work / source
    built = subprocess.run(
        [go, "build", "-o", str(binary), str(GO_SOURCES / source / "main.go")],
        env=env, capture_output=True, text=True, check=False, timeout=GO_TIMEOUT,
    )  # fmt: skip
    if built.returncode:
        found.missing[name] = GO_HINT
        return
    told = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout.split()
    found.peers[name] = Peer(name, (str(binary), *arguments), told[2].removeprefix("go"))
