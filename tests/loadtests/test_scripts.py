"""The measuring scripts run, on few requests; what they measure is not judged here."""

from __future__ import annotations

import re

import pytest

from tests.loadtests.conftest import LOADTESTS, run_script, start_script


@pytest.mark.parametrize("handler", ["floor", "async", "inline"])
@pytest.mark.parametrize("case", ["get", "browser", "pages", "varied", "post", "pipeline"])
def test_every_case_is_served(handler: str, case: str) -> None:
    """What runs under callgrind, without it: an exception in the loop would be printed and fail this."""
    run_script("instructions.py", "--child", handler, case, "32")


@pytest.mark.parametrize("client", ["floor", "HostClient"])
@pytest.mark.parametrize("case", ["client-get", "client-post", "client-varied", "client-wait"])
def test_every_case_is_sent(client: str, case: str) -> None:
    run_script("instructions.py", "--child", client, case, "32")


def test_forks_are_told_apart() -> None:
    """What callgrind counts is found by pid, in the order of what was asked for."""
    pids = run_script(
        "instructions.py", "--forks", '[["floor", "get", 8], ["async", "get", 8], ["HostClient", "client-get", 8]]'
    )
    assert len(set(map(int, pids.split()))) == 3


def test_a_fork_that_fails_is_not_counted() -> None:
    result = start_script("instructions.py", "--forks", '[["nobody", "client-get", 8], ["floor", "nothing", 8]]')
    assert result.returncode == 1
    assert "KeyError: 'nothing'" in result.stderr
    assert "nothing/floor failed" in result.stderr


def test_memory_per_idle_connection() -> None:
    shown = run_script("idle_memory.py", "--connections", "20", "--settle", "0.1")
    assert re.search(r"^ +20 connections +\d+ KiB +-?\d+\.\d\d KiB each$", shown, re.MULTILINE)
    assert re.search(r"^after they closed +\d+ KiB +\d+\.\d\d x the start$", shown, re.MULTILINE)


def test_cost_of_the_pool() -> None:
    shown = run_script("pool_cost.py", "--count", "200", "--waiters", "0,50")
    assert re.search(r"^ConnPool.acquire_nowait, release +\d+ ns +\d+\.\d x$", shown, re.MULTILINE)
    assert re.search(r"^a hand-over with +50 waiters +\d+ ns +\d+\.\d\d x the first$", shown, re.MULTILINE)


SCRIPTS = sorted(path.name for path in LOADTESTS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


def test_the_scripts_are_found() -> None:
    assert {"compare.py", "growth.py", "instructions.py"} < set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_how_to_call_it(script: str) -> None:
    assert f"python loadtests/{script}" in run_script(script, "--help")
