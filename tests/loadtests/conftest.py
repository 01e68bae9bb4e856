"""How the tests here come by the scripts: as commands, and as modules that they import as the scripts themselves do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import fastserve

PACKAGE = Path(fastserve.__file__).parent.parent
LOADTESTS = Path(__file__).parent.parent.parent / "loadtests"

if str(LOADTESTS) not in sys.path:
    sys.path.append(str(LOADTESTS))


def start_script(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    # What is measured is the fastserve that is tested here, from whatever folder.
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=LOADTESTS,
        env=dict(os.environ, PYTHONPATH=str(PACKAGE), **env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_script(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What it writes; it must end with status 0 and write nothing on stderr."""
    result = start_script(*arguments, env=env)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout
