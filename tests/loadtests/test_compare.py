"""compare.py and growth.py from end to end, on fastserve alone and for a second; what they measure is not judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.cases import CASES, Case
from bench.report import put_between
from bench.wrk import Wrk

from fastserve import RequestCtx, ServerThread
from tests.conftest import program
from tests.loadtests.conftest import run_script, start_script

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def wrk_alone(tmp_path: Path) -> dict[str, str]:
    """An environment in which wrk is found, and no compiler to build peers with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "wrk").symlink_to(program("wrk", "wrk"))
    return {"PATH": str(folder)}


def test_servers_quickly(tmp_path: Path, wrk_alone: dict[str, str]) -> None:
    shown = run_script(
        "compare.py", "servers", "--quick", "--only", "fastserve,go-fasthttp", "--connections", "4", "--idle", "20",
        "--json", f"{tmp_path}/a.json", "--markdown", f"{tmp_path}/a.md", "--chart", f"{tmp_path}/a.png", env=wrk_alone,
    )  # fmt: skip
    assert "Server, get (ratio to fastserve)" in shown
    assert "Left out: go-fasthttp (Debian: apt-get install golang-go" in shown
    results = json.loads((tmp_path / "a.json").read_text())
    [measured] = results["servers"]["get"]["fastserve"]
    assert measured["errors"] == 0
    for figure in ("rate", "p50", "p99", "p999", "memory", "start"):
        assert measured[figure] > 0, figure
    assert measured["p50"] <= measured["p99"] <= measured["p999"]
    assert results["idle"].keys() == {"fastserve"}
    assert not results["errors"]
    text = (tmp_path / "a.md").read_text()
    assert "### Server, get (ratio to fastserve)\n" in text
    assert "\n| fastserve | " in text
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_clients_quickly_and_what_was_written_shown_again(tmp_path: Path, wrk_alone: dict[str, str]) -> None:
    written = f"{tmp_path}/a.json"
    run_script(
        "compare.py", "clients", "--quick", "--seconds", "0.1", "--cases", ",".join(("get", "64k-response", "64k-request")),
        "--only", "HostClient,raw,http.client", "--upstream", "fastserve", "--connections", "4", "--json", written,
        env=wrk_alone,
    )  # fmt: skip
    results = json.loads(Path(written).read_text())
    assert not results["errors"]
    assert results["clients"].keys() == {"get", "64k-response", "64k-request"}
    for peers in results["clients"].values():
        assert peers.keys() == {"HostClient", "raw", "http.client"}
        for [measured] in peers.values():
            assert min(measured["rate"], measured["p50"], measured["start"]) > 0
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- compare -->\nold\n<!-- end -->\nbelow\n")
    run_script("compare.py", "--from-json", written, "--markdown", str(page), "--chart", f"{tmp_path}/a.svg")
    text = page.read_text()
    assert text.startswith("above\n<!-- compare -->\n")
    assert text.endswith("<!-- end -->\nbelow\n")
    assert "### Client, 64k-request (ratio to HostClient)\n" in text
    assert "old" not in text
    assert "</svg>" in (tmp_path / "a.svg").read_text()


def test_growth_quickly(tmp_path: Path, wrk_alone: dict[str, str]) -> None:
    shown = run_script(
        "growth.py", "--quick", "--axes", "idle", "--points", "0,20", "--peers", "fastserve", "--connections", "2",
        "--json", f"{tmp_path}/a.json", "--markdown", f"{tmp_path}/a.md", "--chart", f"{tmp_path}/a.png", env=wrk_alone,
    )  # fmt: skip
    assert "idle connections beside the busy ones, fastserve: " in shown
    results = json.loads((tmp_path / "a.json").read_text())
    assert not results["errors"]
    curve = results["axes"]["idle"]["fastserve"]
    assert curve.keys() == {"0", "20"}
    assert all(one["rate"] > 0 for [one] in curve.values())
    assert "Expected: flat: nobody looks at" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_growth_of_a_client(tmp_path: Path, wrk_alone: dict[str, str]) -> None:
    written = tmp_path / "a.json"
    run_script(
        "growth.py", "--quick", "--seconds", "0.1", "--axes", "waiters", "--points", "0,30", "--peers", "HostClient",
        "--connections", "2", "--json", str(written), env=wrk_alone,
    )  # fmt: skip
    results = json.loads(written.read_text())
    assert not results["errors"]
    assert all(one["rate"] > 0 for [one] in results["axes"]["waiters"]["HostClient"].values())


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("compare.py", "servers", "--only", "fastserve"), 1, "apt-get install wrk"),
        (("compare.py", "--only", "fastserv"), 1, "no servers and clients named fastserv"),
        (("compare.py", "--cases", "got"), 2, "no case got; there are get, browser"),
        (("compare.py", "peers"), 2, "takes servers, clients, or both"),
        (("compare.py", "--chart", "chart.gif"), 2, "ends in .png or .svg"),
        (("compare.py", "--rounds", "0"), 2, "take more than 0"),
        (("growth.py", "--axes", "got"), 2, "no axis got; there are busy"),
        (("growth.py", "--points", "1,2"), 2, "give --axes with one name"),
        (("growth.py", "--peers", "fastserv"), 1, "no server or client named fastserv"),
    ],
)
def test_what_can_not_be_measured_is_said(tmp_path: Path, arguments: tuple[str, ...], status: int, told: str) -> None:
    result = start_script(*arguments, env={"PATH": str(tmp_path)})
    assert result.returncode == status
    assert told in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_file_without_the_markers_is_written_whole(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    for text in ("one\n", "two\n"):
        put_between(page, "compare", text)
        assert page.read_text() == text


def test_no_request_of_the_varied_case_comes_twice(tmp_path: Path) -> None:
    program("wrk", "wrk")
    seen: dict[tuple[str, str | None], int] = {}

    async def handler(ctx: RequestCtx) -> None:
        key = str(ctx.uri), ctx.request.headers.get("X-Request-Id")
        seen[key] = seen.get(key, 0) + 1

    wrk = Wrk(tmp_path, None)
    with ServerThread(handler) as server:
        port = int(server.urls[0].rpartition(":")[2])
        results = [wrk.run(CASES["varied"], port, 2, 1.0) for _ in range(2)]
    assert all(result.requests and not result.errors for result in results)
    assert sum(result.requests for result in results) <= len(seen)
    assert set(seen.values()) == {1}


def test_what_wrk_counts_as_errors(tmp_path: Path) -> None:
    program("wrk", "wrk")

    async def handler(ctx: RequestCtx) -> None:
        ctx.error("no", 500)

    with ServerThread(handler) as server:
        result = Wrk(tmp_path, None).run(
            Case(CASES["pipeline"].request, 16), int(server.urls[0].rpartition(":")[2]), 1, 1.0
        )
    assert result.requests == result.errors > 0
