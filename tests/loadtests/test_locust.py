"""`loadtests/locustfile.py` under the real locust, as people start it, against a server of `loadtests/app.py`."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_run import Running
from tests.conftest import free_port, module
from tests.loadtests.conftest import LOADTESTS

PATIENCE = 60.0

USERS = {
    "SmallGetUser": ["small GET"],
    "BrowserGetUser": ["browser GET"],
    "JsonPostUser": ["JSON POST"],
    "LargeBodyUser": ["64 KiB both ways"],
    "StreamUser": ["streamed response"],
    "BlockingUser": ["blocking handler"],
    "NoKeepAliveUser": ["keep-alive off"],
    "MixUser": ["small GET", "browser GET", "JSON POST"],
    "HostClientSmallGetUser": ["HostClient: small GET"],
    "HostClientUser": ["HostClient: small GET", "HostClient: browser GET", "HostClient: JSON POST"],
}
"""Each user class, with rows that must be in its statistics; rare ones of a mix need not come."""


@pytest.fixture(autouse=True, scope="module")
def _locust() -> None:
    module("locust", "'fastserve[loadtest]'")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving("app:handler", tmp_path_factory.mktemp("server")) as url:
        yield url


@contextmanager
def serving(app: str, folder: Path) -> Iterator[str]:
    with Running(folder, app, "--app-dir", str(LOADTESTS), "--port", "0") as running:
        yield f"http://127.0.0.1:{running.port}"
        assert running.stop() == 0


@contextmanager
def locust(
    folder: Path, *arguments: str, locustfile: Path = LOADTESTS / "locustfile.py", enough: int = 200
) -> Iterator[Any]:
    """A locust that runs while the block does; with ``--processes`` it has children, all in a group of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    paths = os.pathsep.join([str(LOADTESTS.parent), str(LOADTESTS)])
    process = subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", f"{locustfile},{Path(__file__).parent / 'enough.py'}", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "ENOUGH_REQUESTS": str(enough)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended, and so have its children


@dataclass(frozen=True)
class Run:
    status: int
    rows: dict[str, dict[str, Any]]
    """By name: what ``--json`` says of each row."""
    log: str

    @property
    def requests(self) -> int:
        return sum(row["num_requests"] for row in self.rows.values())

    @property
    def failures(self) -> int:
        return sum(row["num_failures"] for row in self.rows.values())


def run_locust(folder: Path, url: str, *arguments: str, users: int = 4, enough: int = 200, **settings: Any) -> Run:
    """A headless run that ends when `enough` requests were made."""
    spread = ["-u", str(users), "-r", "100", "-t", f"{PATIENCE:g}s"]
    with locust(
        folder, "--headless", "--only-summary", "--json", "-H", url, *spread, *arguments, enough=enough, **settings
    ) as process:
        out, log = process.communicate(timeout=2 * PATIENCE)
    return Run(process.returncode, {row["name"]: row for row in statistics(out)}, log)


def statistics(out: str) -> list[dict[str, Any]]:
    """The rows of what ``--json`` prints: a list for each process, and the workers' are empty."""
    decoder = json.JSONDecoder()
    rows: list[dict[str, Any]] = []
    while out := out.lstrip():
        of_process, end = decoder.raw_decode(out)
        rows += of_process
        out = out[end:]
    return rows


def aggregated(path: Path) -> dict[str, str]:
    """The last line of a CSV of statistics: all requests together."""
    with path.open(newline="") as file:
        [row] = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    return row


# Users


def test_these_are_all_user_classes(tmp_path: Path) -> None:
    with locust(tmp_path, "--list") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [line.strip() for line in out.splitlines()[1:]] == list(USERS)


@pytest.mark.parametrize("user", USERS)
def test_each_user_is_answered_as_it_must_be(server: str, tmp_path: Path, user: str) -> None:
    done = run_locust(tmp_path, server, user)
    assert done.status == 0, done.log
    assert done.failures == 0
    for name in USERS[user]:
        assert done.rows[name]["num_requests"] > 0


@pytest.mark.parametrize("user", ["MixUser", "HostClientUser"])
def test_a_server_with_a_plain_handler_on_threads(tmp_path: Path, user: str) -> None:
    with serving("app:threads_handler", tmp_path) as url:
        done = run_locust(tmp_path, url, user, users=8)
    assert (done.status, done.failures) == (0, 0), done.log
    assert done.requests > 0


def test_users_of_host_client_wait_in_line_for_few_connections(server: str, tmp_path: Path) -> None:
    done = run_locust(tmp_path, server, "HostClientSmallGetUser", "--max-conns", "2", users=8)
    assert (done.status, done.failures) == (0, 0), done.log
    assert done.requests > 0


def test_think_time(server: str, tmp_path: Path) -> None:
    done = run_locust(tmp_path, server, "SmallGetUser", "--think-time", "3600", users=3, enough=3)
    assert (done.status, done.requests) == (0, 3), done.log


OWN = """
from host_client_user import ReportingUser
from locust import task


class Shopper(ReportingUser):
    def client_options(self):
        return {"max_conns": 7}

    @task
    def shop(self):
        assert self.client.host_client.options.max_conns == 7
        with self.client.stream("GET", "/stream", name="read whole") as response:
            for _ in response.stream:
                pass
        with self.client.stream("GET", "/stream", name="read in part") as response:
            next(response.stream)
        assert self.client.get("/missing").status_code == 404
        self.client.post("/echo", body=b"ab", name="checked", check=lambda r: None if r.body == b"ab" else "?")
        self.client.put("/echo", body=b"ab", name="wrong", check=lambda r: "not what I ordered")
        self.client.get("/", name="no JSON", check=lambda r: None if r.json()["well"] else "not well")
        self.client.get("/", name="late", timeout=0)
        self.client.get("/", name="behind a task that has ended")
"""


def test_a_locustfile_of_ones_own(server: str, tmp_path: Path) -> None:
    """Time, length and exception of each request are in locust's statistics."""
    path = tmp_path / "own.py"
    path.write_text(OWN, "utf-8")
    done = run_locust(tmp_path, server, "--csv", "figures", locustfile=path, users=2)
    assert done.status == 1  # locust's own, as requests failed
    assert "Traceback" not in done.log
    # Whoever was in the middle of a round when the time was up is in some rows and not in others.
    assert set(done.rows) == {"read whole", "read in part", "/missing", "checked", "wrong", "no JSON", "late"}
    for name in ("read whole", "read in part", "checked"):
        assert done.rows[name]["num_requests"] > done.rows[name]["num_failures"] == 0, name
    for name in ("/missing", "wrong", "no JSON", "late"):
        assert done.rows[name]["num_requests"] == done.rows[name]["num_failures"] > 0, name
    assert done.rows["read whole"]["total_content_length"] == 65536 * done.rows["read whole"]["num_requests"]
    assert 0 < done.rows["read in part"]["total_content_length"] < 65536 * done.rows["read in part"]["num_requests"]
    assert done.rows["checked"]["total_content_length"] == 2 * done.rows["checked"]["num_requests"]
    assert done.rows["late"]["total_content_length"] == 0
    assert done.rows["checked"]["min_response_time"] > 0
    with (tmp_path / "figures_failures.csv").open(newline="") as file:
        errors = {row["Name"]: row["Error"] for row in csv.DictReader(file)}
    assert "404" in errors["/missing"]
    assert "not what I ordered" in errors["wrong"]
    assert errors["no JSON"].startswith("JSONDecodeError(")
    assert errors["late"].startswith("RequestTimeout(")


@pytest.mark.parametrize(
    ("host", "says"),
    [("", "no host: say --host http://127.0.0.1:8000"), ("ftp://x", "takes http://, https:// or unix:")],
)
def test_a_user_of_host_client_needs_a_host(tmp_path: Path, host: str, says: str) -> None:
    done = run_locust(tmp_path, host, "HostClientUser", "-t", "1s", users=1)
    assert (done.status, done.requests) == (1, 0)
    assert says in done.log


# Limits


def test_within_the_limits(server: str, tmp_path: Path) -> None:
    done = run_locust(tmp_path, server, "MixUser", "--max-fail-ratio", "0", "--max-p95", "20000")
    assert done.status == 0, done.log
    assert "Limit passed" not in done.log


def test_p95_above_the_limit(server: str, tmp_path: Path) -> None:
    done = run_locust(tmp_path, server, "BlockingUser", "--max-fail-ratio", "0", "--max-p95", "2")
    assert done.status == 1
    assert "ms, at most 2 ms are allowed" in done.log
    assert done.failures == 0


@pytest.mark.parametrize("user", ["SmallGetUser", "HostClientSmallGetUser"])
@pytest.mark.parametrize(
    ("limit", "status"), [((), 1), (("--max-fail-ratio", "0.5"), 1), (("--max-fail-ratio", "1"), 0)]
)
def test_wrong_answers(tmp_path: Path, user: str, limit: tuple[str, ...], status: int) -> None:
    """The demo answers with a page, so all requests fail: more than half of them, and not more than all."""
    with serving("fastserve.demo:handler", tmp_path) as url:
        done = run_locust(tmp_path, url, user, *limit)
    assert done.status == status, done.log
    assert 0 < done.requests == done.failures
    assert ("100.00% of the requests failed, at most 50.00% may" in done.log) == ("0.5" in limit)


def test_nobody_listens(tmp_path: Path) -> None:
    done = run_locust(
        tmp_path, f"http://127.0.0.1:{free_port()}", "MixUser", "HostClientUser", "--max-fail-ratio", "0.01"
    )
    assert done.status == 1
    assert 0 < done.requests == done.failures
    assert "Traceback" not in done.log


def test_a_run_without_any_answer_has_not_passed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run_locust(tmp_path, url, "HostClientSmallGetUser", "--max-p95", "20000", "-t", "1s")
    assert (done.status, done.requests) == (1, 0)
    assert "no request was made" in done.log


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--max-fail-ratio", "2", "'2' is not a ratio from 0 to 1, such as 0.01"),
        ("--max-p95", "nan", "'nan' is not a number of milliseconds, at least 0"),
        ("--think-time", "soon", "'soon' is not a number of seconds from 0 to 3600"),
        ("--max-conns", "0", "'0' is not a number of connections, at least 1"),
    ],
)
def test_values_that_cannot_work(tmp_path: Path, option: str, value: str, says: str) -> None:
    done = run_locust(tmp_path, "http://127.0.0.1:1", option, value)
    assert done.status == 2
    assert says in done.log


# Several processes


def test_a_master_with_two_workers(server: str, tmp_path: Path) -> None:
    port = str(free_port())
    master = [
        *("--master", "--headless", "--only-summary", "--expect-workers", "2", "--expect-workers-max-wait", "30"),
        *(
            "--master-bind-host",
            "127.0.0.1",
            "--master-bind-port",
            port,
            "-H",
            server,
            "-u",
            "8",
            "-r",
            "100",
            "-t",
            "5s",
        ),
        *("--csv", "figures", "--html", "report.html", "--max-fail-ratio", "0", "--max-p95", "20000"),
        *("MixUser", "HostClientUser"),
    ]
    worker = ["--worker", "--master-port", port, "MixUser", "HostClientUser"]
    with (
        locust(tmp_path, *master) as leader,
        locust(tmp_path, *worker) as first,
        locust(tmp_path, *worker) as second,
    ):
        _, log = leader.communicate(timeout=PATIENCE)
        assert leader.returncode == 0, log
        for process in (first, second):
            _, worker_log = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, worker_log
            assert "Traceback" not in worker_log
    total = aggregated(tmp_path / "figures_stats.csv")
    assert int(total["Request Count"]) > 0
    assert int(total["Failure Count"]) == 0
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "HostClient: small GET" in report
    assert report.rstrip().endswith("</html>")
    with socket.create_server(("127.0.0.1", int(port))):
        pass  # nobody listens there any more


def test_processes(server: str, tmp_path: Path) -> None:
    """``--processes 2``: one command, and clients that are made behind the fork."""
    port = str(free_port())
    ports = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    done = run_locust(tmp_path, server, "--processes", "2", *ports, "HostClientUser", "MixUser")
    assert (done.status, done.failures) == (0, 0), done.log
    assert done.requests > 0


def test_the_report_is_written_where_it_was_asked_for(server: str, tmp_path: Path) -> None:
    done = run_locust(tmp_path, server, "JsonPostUser", "--html", "new/report.html")
    assert done.status == 0, done.log
    report = (tmp_path / "new" / "report.html").read_text("utf-8")
    assert "JSON POST" in report
    assert report.rstrip().endswith("</html>")
