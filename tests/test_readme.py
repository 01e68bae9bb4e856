"""The README is true: its tables say what the code has, and its examples run as they stand."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import fastserve
from fastserve import ClientError, ClientOptions, ServerThread

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def section(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert found is not None, f"README.md has no section {name!r}"
    return found[1]


def shown(default: object) -> str:
    if isinstance(default, int) and not isinstance(default, bool) and default >= 1024 and default % 1024 == 0:
        return f"{default >> 20} MiB" if default % (1 << 20) == 0 else f"{default >> 10} KiB"
    return repr(default)


def client_options() -> str:
    """The table as it must stand: each option with its default and the first sentence of its help."""
    rows = [
        f"| `{f.name}` | `{shown(f.default)}` | {re.split(r'(?<=[.:]) ', f.metadata['help'])[0].rstrip(':.')} |\n"
        for f in fields(ClientOptions)
    ]
    return "".join(["| option | default | what it is |\n", "|---|---|---|\n", *rows])


def test_the_table_of_client_options() -> None:
    assert section("client options") == client_options()


def test_the_table_of_client_errors() -> None:
    told: set[type] = set()
    for row in section("client errors").splitlines()[2:]:
        names, also, _ = row.strip("|").split("|")
        bases = [getattr(builtins, name) for name in re.findall(r"`(\w+)`", also)]
        kinds = [getattr(fastserve, name) for name in re.findall(r"`(\w+)`", names)]
        told.update(kinds)
        for base in bases:
            assert any(issubclass(kind, base) for kind in kinds), row
        for kind in kinds:
            assert issubclass(kind, ClientError), row
    every = {kind for name in fastserve.__all__ if isinstance(kind := getattr(fastserve, name), type)}
    pool = {fastserve.PoolError, fastserve.PoolClosed, ClientError}
    assert told == {kind for kind in every if issubclass(kind, ClientError)} - pool


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
APP = next(example for example in EXAMPLES if example.startswith("# app.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.strip().splitlines()[0])
def test_an_example_runs_as_it_stands(example: str, tmp_path: Path) -> None:
    """With its own server where it asks one on port 8000, and without the line that serves for ever."""
    (tmp_path / "app.py").write_text(APP, "utf-8")
    program = re.sub(r"^Server\(handler\)\.run\(.*$", "", example, flags=re.MULTILINE)
    namespace: dict[str, object] = {}
    exec(compile(APP, "app.py", "exec"), namespace)
    with ServerThread(namespace["handler"]) as server:  # type: ignore[arg-type]
        program = program.replace("127.0.0.1:8000", server.urls[0].removeprefix("http://"))
        (tmp_path / "example.py").write_text(program, "utf-8")
        result = subprocess.run(
            [sys.executable, "-W", "error", "example.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
