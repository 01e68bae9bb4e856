"""The instruction gate: what it lets pass, what it says, and what it keeps. Without valgrind: one that is made up counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.gate import Gate, build, differences

from tests.loadtests.conftest import LOADTESTS, start_script

COUNTS = """
# A thousand instructions for each request of the floor, and FACTOR hundredths of that for the others.
import json, os, sys
for pid, (who, case, requests) in enumerate(json.loads(sys.argv[-1]), 100):
    each = 1000 if who == "floor" else 10 * int(os.environ["FACTOR"])
    print(pid)
    print(f"=={pid}== Collected : {5000000 + requests * each}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (5.0, []),
        (5.14, []),
        (4.86, []),
        (5.16, ["get/async: 5.160 x the floor, recorded are 5.000: 3.2% more"]),
        (4.84, ["get/async: 4.840 x the floor, recorded are 5.000: 3.2% less"]),
    ],
)
def test_three_percent_in_either_direction(measured: float, expected: list[str]) -> None:
    assert differences({"get/async": 5.0, "post/async": 9.0}, {"get/async": measured}) == expected


def test_a_case_that_nobody_recorded_is_a_problem() -> None:
    assert differences({}, {"get/async": 5.0}) == ["get/async: 5.000 x the floor, and nothing is recorded"]


def test_what_is_recorded_keeps_its_reason_and_the_cases_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "instructions.json"
    Gate(path).record("3.11", {"get/async": 5.0, "get/inline": 4.0}, "first")
    Gate(path).record("3.11", {"get/async": 4.5}, "heads are remembered")
    Gate(path).record("3.12", {"get/async": 6.0}, "first on 3.12")
    gate = Gate(path)
    assert gate.recorded("3.11") == {"get/async": 4.5, "get/inline": 4.0}
    assert gate.recorded("3.12") == {"get/async": 6.0}
    assert gate.recorded("3.13") == {}
    history = json.loads(path.read_text())["history"]
    assert [(entry["build"], entry["reason"], entry["changes"]) for entry in history] == [
        ("3.11", "first", {"get/async": "5.000", "get/inline": "4.000"}),
        ("3.11", "heads are remembered", {"get/async": "5.000 -> 4.500"}),
        ("3.12", "first on 3.12", {"get/async": "6.000"}),
    ]


def test_the_file_of_the_repo_can_be_read() -> None:
    path = LOADTESTS / "instructions.json"
    for name, figures in json.loads(path.read_text())["figures"].items():
        ratios = Gate(path).recorded(name)
        assert ratios == figures["ratios"]
        # What comes again is not parsed again, and the floor parses it: only where nothing does must the floor be cheaper.
        assert all(ratio > 0 for ratio in ratios.values())
        assert all(ratio > 1 for case, ratio in ratios.items() if "varied" in case)


class Counting:
    """instructions.py with a valgrind that is made up, on one case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "recorded.json"
        valgrind = folder / "valgrind"
        valgrind.write_text(f"#!{sys.executable}{COUNTS}")
        valgrind.chmod(0o755)

    def run(self, *arguments: str, hundredths: int = 500) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", "FACTOR": str(hundredths)}
        return start_script("instructions.py", "--cases", "pipeline", "--handlers", "async", *arguments, env=env)


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


def test_recorded_then_checked(counting: Counting) -> None:
    recorded = counting.run("--update", str(counting.file), "--reason", "first")
    assert recorded.returncode == 0, recorded.stderr
    assert "recorded in" in recorded.stdout
    assert Gate(counting.file).recorded(build()) == {"pipeline/async": 5.0}
    passed = counting.run("--check", str(counting.file))
    assert passed.returncode == 0, passed.stderr
    assert "all within 3% of" in passed.stdout
    for hundredths, word in ((520, "more"), (480, "less")):
        failed = counting.run("--check", str(counting.file), hundredths=hundredths)
        assert failed.returncode == 1
        assert f"recorded are 5.000: 4.0% {word}" in failed.stdout
        assert f"--update {counting.file} --reason" in failed.stderr


def test_no_change_is_recorded_without_its_reason(counting: Counting) -> None:
    for arguments in (("--update", str(counting.file)), ("--update", str(counting.file), "--reason", " ")):
        refused = counting.run(*arguments)
        assert refused.returncode == 2
        assert "say what made the figures change" in refused.stderr
    assert not counting.file.exists()


def test_a_file_that_is_not_there_can_not_be_checked(counting: Counting) -> None:
    refused = counting.run("--check", str(counting.file))
    assert refused.returncode == 2
    assert "--update writes one" in refused.stderr


def test_another_python_has_figures_of_its_own(counting: Counting) -> None:
    Gate(counting.file).record("2.7", {"pipeline/async": 5.0}, "long ago")
    failed = counting.run("--check", str(counting.file))
    assert failed.returncode == 1
    assert "pipeline/async: 5.000 x the floor, and nothing is recorded" in failed.stdout
    assert "nothing recorded" in failed.stderr
