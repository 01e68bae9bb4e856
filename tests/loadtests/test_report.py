"""What is made of the figures: ratios round by round, who loses where, and what grows more than it should."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bench.axes import AXES, judge
from bench.cases import CASES, get_with_headers
from bench.report import losses, markdown, rows
from httptools import HttpRequestParser

BASE = {"cpu": 8.0, "p50": 1.0, "p99": 2.0, "p999": 3.0, "memory": 2**20, "start": 0.1, "errors": 0}


def rounds(*rates: float, **changes: float) -> list[dict[str, float]]:
    return [BASE | {"rate": rate} | changes for rate in rates]


def results(case: dict[str, Any]) -> dict[str, Any]:
    about = {"date": "2026-11-24", "cpu": "a", "cores": "2", "memory": "1 GiB", "system": "Linux", "python": "CPython"}
    return {
        "command": "python loadtests/compare.py", "machine": about, "versions": {"fastserve": "1"},
        "base": {"servers": "go-fasthttp"}, "servers": {"get": case},
        "missing": {"nginx": "Debian: apt-get install nginx-light"}, "errors": {"aiohttp": "get: it\ndid not start"},
    }  # fmt: skip


def test_ratios_are_those_of_the_same_round() -> None:
    """The machine was twice as fast in the second round: the medians alone would say 0.75."""
    ours, theirs = rows({"fastserve": rounds(50, 100, 45), "go-fasthttp": rounds(100, 200, 60)}, "go-fasthttp")[::-1]
    assert (ours.peer, ours.ratio, ours.low, ours.high) == ("fastserve", 0.5, 0.5, 0.75)
    assert (theirs.peer, theirs.ratio) == ("go-fasthttp", 1.0)


def test_a_peer_without_rounds_has_no_row_and_without_a_base_there_is_no_ratio() -> None:
    [row] = rows({"fastserve": rounds(50), "uvicorn": []}, "go-fasthttp")
    assert row.ratio is None
    assert row.cells()[:4] == ("fastserve", "50", "", "")


def test_it_says_where_fastserve_loses() -> None:
    case = {
        "fastserve": rounds(100, p99=2.0),
        "fastserve-inline": rounds(120, p99=2.5),
        "go-fasthttp": rounds(180, p99=2.2),
        "uvicorn": rounds(30, p99=1.5),
        "floor": rounds(200, p99=1.0),
    }
    assert list(losses(results(case))) == [
        "Server, get: go-fasthttp 1.50 x the requests per second of fastserve-inline",
        "Server, get: p99 of fastserve is 2.00 ms, of uvicorn 1.50 ms",
    ]
    assert list(losses(results({"fastserve": rounds(100), "uvicorn": rounds(30)}))) == []


def test_a_latency_that_is_not_known_is_no_short_one() -> None:
    case = {"fastserve": rounds(100), "gunicorn": rounds(10, p99=0.0)}
    assert list(losses(results(case))) == []
    assert rows(case, "fastserve")[1].cells()[5:8] == ("1.00", "?", "3.00")


def test_markdown_has_the_tables_and_what_was_left_out() -> None:
    text = markdown(results({"fastserve": rounds(1234.5), "go-fasthttp": rounds(2469)}))
    assert "\n    python loadtests/compare.py\n" in text
    assert re.search(r"^\| fastserve \| 1,234 \| 0.50 \|", text, re.MULTILINE)
    assert "### Where fastserve loses" in text
    assert "\nLeft out: nginx (Debian: apt-get install nginx-light).\n" in text
    assert text.endswith("Failed: aiohttp: did not start.\n")


@pytest.mark.parametrize(
    ("axis", "points", "cpu", "fine", "told"),
    [
        ("idle", [0, 100], [10.0, 12.0], True, "10.0 µs at 0 to 12.0 µs at 100, 1.20 x"),
        ("idle", [0, 10_000], [10.0, 20.0], False, "10.0 µs at 0 to 20.0 µs at 10,000, 2.00 x"),
        ("headers", [1, 11, 21, 31], [10.0, 15.0, 20.0, 25.0], True, "10.0 µs, and 0.50 µs for each one more"),
        ("headers", [1, 11, 21, 31], [10.0, 15.0, 20.0, 70.0], False, "10.0 µs, and 2.00 µs for each one more"),
        ("headers", [1, 11, 21, 31], [10.0, 9.8, 10.1, 10.4], True, "10.0 µs, and 0.01 µs for each one more"),
        ("response", [0, 1024, 2048], [10.0, 11.0, 12.0], True, "10.0 µs, and 1.00 µs for each KiB more"),
        ("pipeline", [1, 2, 4], [10.0, 6.0, 4.0], True, "10.0 µs at 1, 4.0 µs at 4"),
        ("pipeline", [1, 2, 4], [10.0, 4.0, 6.0], False, "10.0 µs at 1, 6.0 µs at 4; 6.0 µs at 4 again"),
        ("idle", [], [], True, "nothing measured"),
        ("idle", [7], [10.0], True, "10.0 µs"),
    ],
)
def test_what_grows_is_found(axis: str, points: list[int], cpu: list[float], fine: bool, told: str) -> None:
    assert judge(AXES[axis], points, cpu) == (fine, told)


class Counted:
    """Of the requests in some bytes: how many, and their headers."""

    def __init__(self, data: bytes) -> None:
        self.requests = self.headers = self.body = 0
        HttpRequestParser(self).feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers += 1

    def on_body(self, body: bytes) -> None:
        self.body += len(body)

    def on_message_complete(self) -> None:
        self.requests += 1


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_of_a_case_are_so_many_requests(name: str) -> None:
    case = CASES[name]
    counted = Counted(case.numbered(7) if case.varied else case.request)
    assert counted.requests == case.pipelined
    assert counted.body == {"post": 1011, "64k-request": 64 * 1024}.get(name, 0)


@pytest.mark.parametrize("name", [name for name, axis in AXES.items() if not axis.client])
def test_the_bytes_of_an_axis(name: str) -> None:
    for point in AXES[name].points:
        case = AXES[name].case(name, point)
        counted = Counted(case.request)
        assert counted.requests == case.pipelined == (point if name == "pipeline" else 1)
        assert counted.body == (point if name == "request" else 0)
        assert case.response_size == (point if name == "response" else None)
    assert Counted(get_with_headers(30)).headers == 30
