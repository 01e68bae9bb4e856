"""The measuring scripts run, on few requests; what they measure is not judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

LOADTESTS = Path(__file__).parent.parent.parent / "loadtests"


def run_script(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=LOADTESTS, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


@pytest.mark.parametrize("handler", ["floor", "async", "inline"])
@pytest.mark.parametrize("case", ["get", "browser", "varied", "post", "pipeline"])
def test_every_case_is_served(handler: str, case: str) -> None:
    """What runs under callgrind, without it: an exception in the loop would be printed and fail this."""
    run_script("instructions.py", "--child", handler, case, "32")


def test_memory_per_idle_connection() -> None:
    shown = run_script("idle_memory.py", "--connections", "20", "--settle", "0.1")
    assert re.search(r"^ +20 connections +\d+ KiB +-?\d+\.\d\d KiB each$", shown, re.MULTILINE)
    assert re.search(r"^after they closed +\d+ KiB +\d+\.\d\d x the start$", shown, re.MULTILINE)


def test_cost_of_the_pool() -> None:
    shown = run_script("pool_cost.py", "--count", "200", "--waiters", "0,50")
    assert re.search(r"^ConnPool.acquire_nowait, release +\d+ ns +\d+\.\d x$", shown, re.MULTILINE)
    assert re.search(r"^a hand-over with +50 waiters +\d+ ns +\d+\.\d\d x the first$", shown, re.MULTILINE)


@pytest.mark.parametrize("script", ["instructions.py", "idle_memory.py", "pool_cost.py"])
def test_help_tells_how_to_call_it(script: str) -> None:
    assert f"python loadtests/{script}" in run_script(script, "--help")
