"""``fastserve run``: its options, its one-line errors, and what it does when it is told to stop."""

from __future__ import annotations

import http.client
import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

import fastserve
from fastserve.cli import main
from fastserve.errors import ListenError
from fastserve.server.config import ServerConfig
from fastserve.server.server import ShutdownReport

_PATIENCE = 20.0  # seconds that a test waits for something that is bound to happen
_ROOT = str(Path(fastserve.__file__).parent.parent)

_APP = """
import asyncio

async def handler(ctx):
    ctx.set_body("served\\n")

def blocking(ctx):
    ctx.set_body("served\\n")

def make():
    return handler

async def until_shutdown(ctx):
    print("in flight", flush=True)
    await ctx.done.wait()
    ctx.set_body("finished\\n")

async def never_ends(ctx):
    print("in flight", flush=True)
    await asyncio.Event().wait()

async def asgi(scope, receive, send): ...
def raises(): raise LookupError("no settings")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(_APP)
    return tmp_path


def _environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTSERVE_")}
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"} | variables


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastserve", *arguments]


def _fails(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None, **settings: Any
) -> tuple[int, list[str]]:
    """The exit status of ``fastserve run`` with `arguments`, and its lines on standard error."""
    done = subprocess.run(
        _command("run", *arguments),
        cwd=folder,
        env=_environment(**environment or {}),
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
        **settings,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


class Running:
    """``fastserve run`` in a process of its own; leaving the block ends it."""

    def __init__(
        self, folder: Path, *arguments: str, environment: dict[str, str] | None = None, **settings: Any
    ) -> None:
        self.process = subprocess.Popen(
            _command("run", *arguments),
            cwd=folder,
            env=_environment(**environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )
        self.lines: dict[str, queue.Queue[str | None]] = {"stdout": queue.Queue(), "stderr": queue.Queue()}
        self.readers = [threading.Thread(target=self._read, args=(name,)) for name in self.lines]

    def _read(self, name: str) -> None:
        for line in getattr(self.process, name):
            self.lines[name].put(line.rstrip("\n"))
        self.lines[name].put(None)

    def __enter__(self) -> Running:
        for reader in self.readers:
            reader.start()
        self.greeting = self.line()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_PATIENCE)
        for reader in self.readers:
            reader.join(_PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def line(self, name: str = "stderr") -> str:
        line = self.lines[name].get(timeout=_PATIENCE)
        assert line is not None, f"{name} ended"
        return line

    def rest(self) -> list[str]:
        """The lines on standard error until it ends."""
        return list(iter(lambda: self.lines["stderr"].get(timeout=_PATIENCE), None))

    @property
    def port(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+) ", self.greeting)
        assert found, self.greeting
        return int(found[1])

    def get(self, path: str = "/", method: str = "GET", **settings: Any) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.request(method, path, **settings)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(_PATIENCE)


# --- options, with a server that only notes what it was given ---------------------------------------------------


class NotingServer:
    """Stands in for `Server`: keeps what it was made with and what it was run with."""

    made: dict[str, Any]
    ran: dict[str, Any]
    freed: ClassVar[list[Any]] = []
    report = ShutdownReport()

    def __init__(self, handler: Callable[[Any], Any], config: ServerConfig, *, inline: bool) -> None:
        NotingServer.made = {"handler": handler, "config": config, "inline": inline}

    def run(self, **settings: Any) -> ShutdownReport:
        NotingServer.ran = settings
        return NotingServer.report


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[NotingServer]]:
    monkeypatch.setattr("fastserve.cli.run.Server", NotingServer)
    monkeypatch.setattr("fastserve.cli.run.keep_freed_memory", NotingServer.freed.append)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name in [name for name in os.environ if name.startswith("FASTSERVE_")]:
        monkeypatch.delenv(name)
    logger = logging.getLogger("fastserve")
    level, handlers = logger.level, logger.handlers[:]
    yield NotingServer
    logger.setLevel(level)
    logger.handlers[:] = handlers


def _run(*arguments: str) -> int:
    return main(["run", "fastserve.demo:handler", *arguments])


def test_without_options_the_defaults_are_those_of_the_library(noted: type[NotingServer]) -> None:
    assert _run() == 0
    assert noted.made["config"] == ServerConfig()
    assert noted.made["inline"] is False
    assert noted.freed.pop() is os.environ
    assert noted.ran.pop("on_started")
    assert noted.ran == {
        "host": "127.0.0.1",
        "port": 8000,
        "reuse_port": False,
        "loop": "auto",
        "shutdown_timeout": 30.0,
    }


def _other(default: Any) -> Any:
    """A legal value that is not the default."""
    if isinstance(default, bool):
        return not default
    return "shop" if isinstance(default, str) else default + 64


_SETTABLE = [f for f in fields(ServerConfig) if not f.metadata.get("hook")]


@pytest.mark.parametrize("name", [f.name for f in _SETTABLE])
@pytest.mark.parametrize("source", ["option", "environment"])
def test_each_field_of_the_config_is_an_option_and_a_variable(
    noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    default = getattr(ServerConfig(), name)
    value = _other(default)
    option = "--" + name.replace("_", "-")
    if source == "environment":
        monkeypatch.setenv(f"FASTSERVE_{name.upper()}", str(value))
        assert _run() == 0
    elif isinstance(default, bool):
        assert _run(option if value else "--no-" + option.removeprefix("--")) == 0
    else:
        assert _run(option, str(value)) == 0
    assert noted.made["config"] == ServerConfig(**{name: value})


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64K", 65536), ("64k", 65536), ("3M", 3 * 1024**2), ("1G", 1024**3)]
)
def test_sizes_take_bytes_and_suffixes(noted: type[NotingServer], text: str, size: int) -> None:
    assert _run("--max-request-body-size", text) == 0
    assert noted.made["config"].max_request_body_size == size


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--port", "9000"], {}, {"host": "127.0.0.1", "port": 9000, "reuse_port": False}),
        (["--host", "::1", "--reuse-port"], {}, {"host": "::1", "port": 8000, "reuse_port": True}),
        (["--uds", "a.sock"], {}, {"uds": "a.sock", "reuse_port": False}),
        (["--fd", "3"], {}, {"fd": 3, "reuse_port": False}),
        ([], {"PORT": "9000"}, {"host": "127.0.0.1", "port": 9000, "reuse_port": False}),
        (["--port", "9001"], {"PORT": "9000"}, {"host": "127.0.0.1", "port": 9001, "reuse_port": False}),
        (["--uds", "a.sock"], {"HOST": "0.0.0.0", "PORT": "9000"}, {"uds": "a.sock", "reuse_port": False}),
        (["--uds", "a.sock"], {"REUSE_PORT": "1"}, {"uds": "a.sock", "reuse_port": False}),
        (["--host", "::1"], {"UDS": "a.sock", "PORT": "90"}, {"host": "::1", "port": 90, "reuse_port": False}),
    ],
)
def test_where_to_listen_is_said_once_and_the_command_line_wins(
    noted: type[NotingServer],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    expected: dict[str, Any],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"FASTSERVE_{name}", value)
    assert _run(*arguments) == 0
    listened = {name: noted.ran.get(name) for name in ("host", "port", "uds", "fd", "reuse_port") if name in noted.ran}
    assert listened == expected


def test_the_rest_of_the_options_reach_the_server(noted: type[NotingServer]) -> None:
    assert _run("--inline", "--loop", "asyncio", "--shutdown-timeout", "1.5", "--log-level", "error") == 0
    assert noted.made["inline"] is True
    assert (noted.ran["loop"], noted.ran["shutdown_timeout"]) == ("asyncio", 1.5)
    assert logging.getLogger("fastserve").level == logging.ERROR


def test_the_application_can_be_named_in_the_environment(
    noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSERVE_APP", "fastserve.demo:handler")
    assert main(["run"]) == 0
    assert noted.made["handler"].__module__ == "fastserve.demo"


@pytest.mark.parametrize("name", ["VERSION", "HELP"])
def test_a_variable_for_another_purpose_is_not_taken_for_an_option(
    noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"FASTSERVE_{name}", "1")
    assert _run() == 0
    assert noted.ran


def test_a_request_that_was_cut_off_fails(noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "report", ShutdownReport(cut=2, threads_left=1))
    assert _run() == 1


def test_a_text_with_line_ends_is_still_one_line(
    noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: object, **_: Any) -> None:
        raise ListenError("cannot listen\non a path\rwith line ends")

    monkeypatch.setattr(noted, "run", refuse)
    assert _run() == 1
    assert capsys.readouterr().err == "fastserve: error: cannot listen on a path with line ends\n"


def test_uvloop_must_be_there_to_be_asked_for(
    noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _run("--loop", "uvloop") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "uvloop is not installed; pip install uvloop, or use --loop asyncio" in line


def test_ctrl_c_before_the_server_is_up_has_its_own_status(
    noted: type[NotingServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastserve.cli.run.load_handler", interrupted)
    assert _run() == 130
    assert capsys.readouterr().err.strip() == "fastserve: error: interrupted"


def test_the_help_lists_every_option_once_in_sections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    sections = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert sections == ["Application", "Listening", "Workers", "Limits", "Timeouts", "Responses", "Logging"]
    options = re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)
    assert len(options) == len(set(options))
    assert {"--" + f.name.replace("_", "-") for f in _SETTABLE} < set(options)
    assert "FASTSERVE_PORT" in text
    assert "default: 16K" in text
    assert text.rstrip().splitlines()[-4].strip() == "Examples:"


@pytest.mark.parametrize("arguments", [["--version"], ["run", "--version"]])
def test_the_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"fastserve, version {fastserve.__version__}\n"


# --- errors: one line, and a status ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "missing argument 'MODULE:ATTRIBUTE'"),
        (["app"], "'app' is not of the form module:attribute, such as app:handler"),
        (["ap:handler"], "no module named 'ap'"),
        (["app:handlr"], "did you mean 'handler'?"),
        (["app:asgi"], "app:asgi is an ASGI application"),
        (["app:make"], "add --factory"),
        (["app:handler", "--factory"], "leave --factory out"),
        (["app:handler", "extra"], "got unexpected extra argument (extra)"),
        (["app:handler", "--app-dir", "nowhere"], "'nowhere' does not exist"),
        (["app:handler", "--prot", "80"], "--prot"),
        (["app:handler", "--port", "http"], "invalid value for '--port': 'http' is not a valid integer"),
        (["app:handler", "--port", "65536"], "invalid value for '--port'"),
        (["app:handler", "--port", "-1"], "invalid value for '--port'"),
        (["app:handler", "--fd", "-1"], "invalid value for '--fd'"),
        (["app:handler", "--loop", "trio"], "'trio' is not one of"),
        (["app:handler", "--log-level", "loud"], "'loud' is not one of"),
        (["app:handler", "--threads", "0"], "--threads=0: takes"),
        (["app:handler", "--concurrency", "many"], "invalid value for '--concurrency'"),
        (["app:handler", "--read-timeout", "0"], "--read-timeout=0.0: takes"),
        (["app:handler", "--read-timeout", "soon"], "'soon' is not a number of seconds"),
        (["app:handler", "--write-timeout", "nan"], "invalid value for '--write-timeout'"),
        (["app:handler", "--shutdown-timeout", "inf"], "invalid value for '--shutdown-timeout'"),
        (["app:handler", "--shutdown-timeout", "-1"], "invalid value for '--shutdown-timeout'"),
        (["app:handler", "--max-header-size", "16T"], "'16T' is not a size: give bytes, or a number with K, M or G"),
        (["app:handler", "--max-header-size", "1"], "--max-header-size=1: takes"),
        (["app:handler", "--name", "a\nb"], "--name='a\\nb'"),
        (["app:handler", "--host", ""], "--host is empty; leave it out"),
        (["app:handler", "--uds", ""], "--uds is empty; leave it out"),
        (["app:handler", "--backlog", "99999999999"], "invalid value for '--backlog': '99999999999' is too large"),
        (["app:handler", "--fd", "99999999999"], "invalid value for '--fd'"),
        (["app:handler", "--uds", "a.sock", "--fd", "3"], "--uds, --fd: only one of"),
        (["app:handler", "--port", "80", "--uds", "a.sock"], "--port, --uds: only one of"),
        (["app:handler", "--uds", "a.sock", "--reuse-port"], "--reuse-port shares a TCP port"),
    ],
)
def test_bad_use_is_one_line_and_status_2(folder: Path, arguments: list[str], text: str) -> None:
    status, lines = _fails(folder, *arguments)
    assert len(lines) == 1, lines
    assert lines[0].startswith("fastserve: error: ")
    assert text in lines[0]
    assert status == 2


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("FASTSERVE_PORT", "tcp://10.0.0.1:8000", "(set by FASTSERVE_PORT in the environment)"),
        ("FASTSERVE_THREADS", "0", "(set by FASTSERVE_THREADS in the environment)"),
        ("FASTSERVE_GET_ONLY", "perhaps", "(set by FASTSERVE_GET_ONLY in the environment)"),
    ],
)
def test_a_bad_variable_is_named(folder: Path, variable: str, value: str, text: str) -> None:
    status, [line] = _fails(folder, "app:handler", environment={variable: value})
    assert text in line
    assert status == 2


@pytest.mark.parametrize("arguments", [[], ["rnu"], ["--bad"]])
def test_a_command_must_be_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fastserve: error: ")


@pytest.mark.parametrize(
    ("source", "raised"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: invalid syntax"),
    ],
)
def test_an_application_that_raises_is_shown_with_its_traceback(folder: Path, source: str, raised: str) -> None:
    (folder / "broken.py").write_text(source)
    status, lines = _fails(folder, "broken:handler")
    name = raised.partition(":")[0]
    assert lines[-1] == f"fastserve: error: importing 'broken' raised {name} (its traceback is above)"
    assert lines[-2] == raised
    files = [line.split('"')[1] for line in lines if line.startswith("  File ")]
    assert files == [str(folder / "broken.py")]
    assert status == 1


def test_a_factory_that_raises_is_shown_with_its_traceback(folder: Path) -> None:
    status, lines = _fails(folder, "app:raises", "--factory")
    assert lines[-2:] == [
        "LookupError: no settings",
        "fastserve: error: calling app:raises() raised LookupError (its traceback is above)",
    ]
    assert status == 1


def _one_line(outcome: tuple[int, list[str]]) -> str:
    status, lines = outcome
    assert len(lines) == 1, lines
    assert lines[0].startswith("fastserve: error: ")
    assert status == 1
    return lines[0]


def test_an_address_in_use_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = _one_line(_fails(folder, "app:handler", "--port", str(port)))
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


def test_a_port_that_needs_privileges_is_one_line(folder: Path) -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 1))
        except PermissionError:
            pass
        else:
            pytest.skip("this user may open every port")
    line = _one_line(_fails(folder, "app:handler", "--port", "1"))
    assert "127.0.0.1:1" in line
    assert "privilege" in line


@pytest.mark.parametrize("host", ["::zz", "a..b", "192.0.2.1"])
def test_a_host_that_cannot_be_listened_on_is_one_line(folder: Path, host: str) -> None:
    assert host in _one_line(_fails(folder, "app:handler", "--port", "0", "--host", host))


@pytest.mark.parametrize("path", ["nowhere/a.sock", ".", "app.py", "x" * 200])
def test_a_socket_path_that_cannot_be_listened_on_is_one_line(folder: Path, path: str) -> None:
    before = sorted(folder.iterdir())
    assert path in _one_line(_fails(folder, "app:handler", "--uds", path))
    assert sorted(folder.iterdir()) == before
    assert (folder / "app.py").read_text() == _APP


def test_a_socket_path_in_use_is_one_line(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(folder / "a.sock"))
        taken.listen()
        assert "a.sock" in _one_line(_fails(folder, "app:handler", "--uds", "a.sock"))


def test_a_descriptor_that_is_not_open_is_one_line(folder: Path) -> None:
    assert "199" in _one_line(_fails(folder, "app:handler", "--fd", "199"))


def test_a_descriptor_that_is_no_socket_is_one_line(folder: Path) -> None:
    with (folder / "app.py").open() as file:
        number = file.fileno()
        assert str(number) in _one_line(_fails(folder, "app:handler", "--fd", str(number), pass_fds=[number]))


# --- serving, and stopping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    ("arguments", "named", "kind"),
    [
        (["app:handler"], "app:handler", "async handler"),
        (["app:blocking"], "app:blocking", "handler in threads"),
        (["app:blocking", "--inline"], "app:blocking", "inline handler"),
        (["app:make", "--factory"], "app:make", "async handler"),
    ],
)
def test_it_says_where_it_serves_and_serves_there(
    folder: Path, loop: str, arguments: list[str], named: str, kind: str
) -> None:
    with Running(folder, *arguments, "--port", "0", "--loop", loop) as running:
        assert running.greeting == (
            f"fastserve {fastserve.__version__}: serving {named} on http://127.0.0.1:{running.port} "
            f"({loop}, {kind}). Ctrl-C stops."
        )
        status, _, body = running.get()
        assert (status, body) == (200, b"served\n")
        assert running.stop() == 0


def test_the_environment_configures_it(folder: Path) -> None:
    variables = {
        "FASTSERVE_APP": "app:handler",
        "FASTSERVE_PORT": "0",
        "FASTSERVE_NAME": "shop",
        "FASTSERVE_GET_ONLY": "1",
    }
    with Running(folder, environment=variables) as running:
        status, headers, _ = running.get(method="POST", body=b"x")
        assert (status, headers["Server"]) == (405, "shop")


def test_a_unix_socket_is_served(folder: Path) -> None:
    with Running(folder, "app:handler", "--uds", "a.sock") as running:
        assert "on unix:" in running.greeting
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            client.connect(str(folder / "a.sock"))
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.read().endswith(b"\r\n\r\nserved\n")
        assert running.stop() == 0
    assert not (folder / "a.sock").exists()


def test_an_inherited_socket_is_served(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        with Running(folder, "app:handler", "--fd", str(number), pass_fds=[number]) as running:
            assert running.port == listening.getsockname()[1]
            assert running.get()[0] == 200


def test_log_level_warning_is_quiet_until_something_is_wrong(folder: Path) -> None:
    quiet = subprocess.Popen(
        _command("run", "app:make", "--factory", "--uds", "a.sock", "--log-level", "warning"),
        cwd=folder,
        env=_environment(),
        stderr=subprocess.PIPE,
    )
    with quiet:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                _connect_when_there(client, folder / "a.sock", quiet)
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                with client.makefile("rb") as answer:
                    assert answer.read().endswith(b"served\n")
            quiet.terminate()
            _, said = quiet.communicate(timeout=_PATIENCE)
        finally:
            quiet.kill()
    assert said == b""
    assert quiet.returncode == 0


def _connect_when_there(client: socket.socket, path: Path, process: subprocess.Popen[bytes]) -> None:
    """Connect as soon as the process listens; nothing but the socket itself tells when a quiet one does."""
    client.settimeout(_PATIENCE)
    waiting = threading.Event()
    for _ in range(int(_PATIENCE / 0.02)):
        try:
            client.connect(str(path))
            return
        except OSError:
            assert process.poll() is None
            waiting.wait(0.02)
    pytest.fail("the socket never came")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_finished_before_it_stops(folder: Path, number: int) -> None:
    with Running(folder, "app:until_shutdown", "--port", "0") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_PATIENCE)
        connection.request("GET", "/")
        assert running.line("stdout") == "in flight"
        running.process.send_signal(number)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"finished\n")
        connection.close()
        assert running.process.wait(_PATIENCE) == 0
        assert len(running.rest()) == 1


def test_the_second_signal_stops_at_once_and_says_what_was_cut(folder: Path) -> None:
    with Running(folder, "app:never_ends", "--port", "0") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_PATIENCE)
        connection.request("GET", "/")
        assert running.line("stdout") == "in flight"
        running.process.send_signal(signal.SIGINT)
        assert "Ctrl-C" in running.line()  # the line that says it is draining
        assert running.stop(signal.SIGINT) == 1
        connection.close()
        assert running.rest()[-1].endswith("WARNING fastserve: stopped; 1 request was cut off")


def test_the_shutdown_timeout_cuts_off_what_does_not_end(folder: Path) -> None:
    with Running(folder, "app:never_ends", "--port", "0", "--shutdown-timeout", "0") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_PATIENCE)
        connection.request("GET", "/")
        assert running.line("stdout") == "in flight"
        assert running.stop() == 1
        connection.close()
        assert running.rest()[-1].endswith("stopped; 1 request was cut off")


# --- the demo ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("demo"), "fastserve.demo:handler", "--port", "0") as running:
        yield running


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("/hello", 200, "text/plain; charset=utf-8", b"Hello, world!\n"),
        ("/hello?name=Zo%C3%AB", 200, "text/plain; charset=utf-8", "Hello, Zoë!\n".encode()),
        ("/hello?name=%3Cb%3E", 200, "text/plain; charset=utf-8", b"Hello, <b>!\n"),
        ("/slow?seconds=0", 200, "text/plain; charset=utf-8", b"slept 0 s\n"),
        ("/stream", 200, "text/plain; charset=utf-8", b"".join(b"line %d of 5\n" % n for n in range(1, 6))),
    ],
)
def test_the_demo_answers(demo: Running, path: str, status: int, content_type: str, body: bytes) -> None:
    answered, headers, received = demo.get(path)
    assert (answered, headers["Content-Type"], received) == (status, content_type, body)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/slow?seconds=soon", 400),
        ("GET", "/slow?seconds=nan", 400),
        ("GET", "/slow?seconds=-1", 400),
        ("GET", "/echo", 405),
        ("POST", "/", 405),
        ("HEAD", "/", 200),
    ],
)
def test_the_demo_refuses(demo: Running, method: str, path: str, status: int) -> None:
    answered, headers, _ = demo.get(path, method)
    assert answered == status
    assert (headers["Allow"] is not None) == (status == 405)


def test_the_demo_lists_its_routes(demo: Running) -> None:
    _, headers, body = demo.get("/")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    for path in ("/hello", "/echo", "/headers", "/stream", "/events", "/slow"):
        assert f"href='{path}'".encode() in body


def test_the_demo_echoes(demo: Running) -> None:
    body = bytes(range(256)) * 1000
    status, _, received = demo.get("/echo", "POST", body=body)
    assert (status, received) == (200, body)


def test_the_demo_shows_the_headers(demo: Running) -> None:
    _, headers, body = demo.get("/headers", headers={"X-Shop": "open"})
    assert headers["Content-Type"].startswith("application/json")
    shown = {name.lower(): value for name, value in json.loads(body).items()}
    assert shown["x-shop"] == "open"


def test_the_demo_sends_events(demo: Running) -> None:
    _, headers, body = demo.get("/events")
    assert headers["Content-Type"] == "text/event-stream"
    assert body.count(b"\n\n") == 10


def test_the_demo_ends_its_events_when_the_server_stops(tmp_path: Path) -> None:
    with Running(tmp_path, "fastserve.demo:handler", "--port", "0") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_PATIENCE)
        connection.request("GET", "/events")
        response = connection.getresponse()
        first = response.readline()
        running.process.send_signal(signal.SIGTERM)
        assert first == b"id: 1\n"
        assert response.read().count(b"\n\n") < 10
        connection.close()
        assert running.process.wait(_PATIENCE) == 0


def test_the_demo_finishes_a_slow_answer_before_it_stops(tmp_path: Path) -> None:
    with Running(tmp_path, "fastserve.demo:handler", "--port", "0") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_PATIENCE)
        # The second request is answered once the first has been read, which is then in flight.
        connection.request("GET", "/slow?seconds=0.3")
        assert running.get("/hello")[0] == 200
        running.process.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"slept 0.3 s\n")
        connection.close()
        assert running.process.wait(_PATIENCE) == 0
