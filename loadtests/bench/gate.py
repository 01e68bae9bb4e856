"""The regression gate: instructions as ratios to the floor, kept in a file of the repo, one set for each CPython minor version.

Invariants:
1. A ratio that differs by more than `TOLERANCE` from the recorded one is a problem, dearer or cheaper: a gain that is not
   recorded can be lost unnoticed.
2. What is recorded changes with a reason only, and the reason stays in the file, with what changed.
"""

from __future__ import annotations

import datetime
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from fastserve.server import connection

__all__ = ["TOLERANCE", "Gate", "build", "differences"]

TOLERANCE = 0.03
"""Ratios repeat within 1 % for one CPython, in whatever virtual environment."""


def build() -> str:
    """Whose ratios can be compared: those of one CPython minor version, compiled modules apart."""
    name = f"{sys.version_info.major}.{sys.version_info.minor}"
    return name if connection.__file__.endswith(".py") else f"{name}-compiled"


def differences(recorded: dict[str, float], measured: dict[str, float], tolerance: float = TOLERANCE) -> list[str]:
    """What of `measured` is not as `recorded`, a line each. Cases that were not measured are not looked at."""
    lines = []
    for name, ratio in measured.items():
        before = recorded.get(name)
        if before is None:
            lines.append(f"{name}: {ratio:.3f} x the floor, and nothing is recorded")
        elif abs(ratio / before - 1) > tolerance:
            more = "more" if ratio > before else "less"
            lines.append(
                f"{name}: {ratio:.3f} x the floor, recorded are {before:.3f}: {abs(ratio / before - 1):.1%} {more}"
            )
    return lines


class Gate:
    """The file. Raises OSError, or ValueError for one that can't be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: dict[str, Any] = {"figures": {}, "history": []}
        if path.exists():
            self._data = json.loads(path.read_text(encoding="utf-8"))

    def recorded(self, name: str) -> dict[str, float]:
        """The ratios of a build; empty when there are none."""
        ratios: dict[str, float] = self._data["figures"].get(name, {}).get("ratios", {})
        return ratios

    def about(self, name: str) -> str:
        """With which versions they were taken."""
        figures = self._data["figures"].get(name)
        return f"CPython {figures['python']}, httptools {figures['httptools']}" if figures else "nothing recorded"

    def record(self, name: str, measured: dict[str, float], reason: str) -> None:
        """Keep `measured` as the ratios of a build, beside those of its cases that were not measured."""
        before = self.recorded(name)
        kept = before | {case: round(ratio, 4) for case, ratio in measured.items()}
        self._data["figures"][name] = {
            "python": sys.version.split()[0],
            "httptools": metadata.version("httptools"),
            "ratios": kept,
        }
        self._data["history"].append(
            {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "build": name,
                "reason": reason,
                "changes": {
                    case: f"{before[case]:.3f} -> {ratio:.3f}" if case in before else f"{ratio:.3f}"
                    for case, ratio in kept.items()
                    if before.get(case) != ratio
                },
            }
        )
        self._path.write_text(json.dumps(self._data, indent=2) + "\n", encoding="utf-8")
