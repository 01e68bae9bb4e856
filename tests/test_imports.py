"""The arrows of the house: which part may import which. Read from the source, not from what happens to be loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastserve

PACKAGE = Path(fastserve.__file__).parent

# Part to the parts below it. Each may also import itself; `fastserve` alone is the public face, for those on top.
BELOW: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "options": frozenset({"errors"}),
    "http1": frozenset({"errors"}),
    "pool": frozenset({"errors", "options"}),
    "server": frozenset({"errors", "options", "http1", "pool"}),
    "client": frozenset({"errors", "options", "http1", "pool"}),
    "testing": frozenset({"errors", "options", "http1", "server"}),
    "demo": frozenset({"errors", "options", "http1", "server"}),
    "adapters": frozenset({"errors", "options", "http1", "pool", "server", "client"}),
    "process": frozenset({"errors", "options", "http1", "pool", "server", "client", "adapters"}),
    "__init__": frozenset({"errors", "options", "http1", "pool", "server", "client", "adapters", "process"}),
}
MAY_IMPORT_EVERYTHING = frozenset({"cli", "__main__"})
PURE = frozenset({"errors", "options", "http1", "pool"})
SHELLS = frozenset({"fastserve.pool.aio", "fastserve.pool.sleeping", "fastserve.pool.threads", "fastserve.pool.waits"})
"""What carries out the decisions of a pure part next to it; the only modules of such a part that do I/O."""
INPUT_OUTPUT = frozenset(
    {"asyncio", "socket", "socketserver", "selectors", "select", "ssl", "uvloop", "_socket", "threading"}
)


def imported(source: str, module: str) -> Iterator[str]:
    """Every module that `source` imports anywhere, by absolute name; its own is `module` (as ``a.b.__init__``)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            # `from fastserve import server` imports a module too; `from fastserve.errors import X` names one already.
            for alias in node.names:
                yield f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def violations(source: str, module: str) -> list[str]:
    """What `source`, the text of `module`, imports against the arrows."""
    part = module.split(".")[1]
    found = []
    for name in imported(source, module):
        top, _, rest = name.partition(".")
        if part in PURE and module not in SHELLS and top in INPUT_OUTPUT:
            found.append(f"{module} imports {name}: {part} does no I/O")
        if top != "fastserve" or part in MAY_IMPORT_EVERYTHING:
            continue
        target = rest.split(".")[0]
        if target != part and target not in BELOW[part]:
            found.append(f"{module} imports {name}: {part} stands beside or below {target or 'the public face'}")
    return found


def modules() -> list[tuple[str, Path]]:
    return [
        (".".join(["fastserve", *path.relative_to(PACKAGE).with_suffix("").parts]), path)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def test_every_part_has_its_place() -> None:
    parts = {name.split(".")[1] for name, _ in modules()}
    assert {"errors", "http1", "server", "cli"} <= parts
    unplaced = parts - BELOW.keys() - MAY_IMPORT_EVERYTHING
    assert not unplaced, f"say in BELOW which parts these may import: {sorted(unplaced)}"


def test_the_arrows_point_downwards() -> None:
    found = [line for name, path in modules() for line in violations(path.read_text("utf-8"), name)]
    assert not found, "\n".join(found)


def test_the_table_has_no_circle() -> None:
    for part, below in BELOW.items():
        for other in below:
            assert part not in BELOW[other], f"{part} and {other} are each below the other"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastserve.http1.parser", "import asyncio"),
        ("fastserve.http1.parser", "import asyncio.events as events"),
        ("fastserve.http1.parser", "from socket import socket"),
        ("fastserve.http1.parser", "def late():\n    import ssl"),
        ("fastserve.http1.parser", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from asyncio import Task"),
        ("fastserve.http1.parser", "from fastserve.server.ctx import RequestCtx"),
        ("fastserve.http1.parser", "from fastserve import server"),
        ("fastserve.http1.parser", "from fastserve import RequestCtx"),
        ("fastserve.http1.parser", "import fastserve"),
        ("fastserve.http1.parser", "from ..server import ctx"),
        ("fastserve.http1.parser", "from .. import server"),
        ("fastserve.http1.parser", "from ..server.ctx import RequestCtx"),
        ("fastserve.http1.__init__", "from ..server import ctx"),
        ("fastserve.http1.parser", "import importlib\nimportlib.import_module('fastserve.server')"),
        ("fastserve.pool.core", "import asyncio"),
        ("fastserve.pool.map", "import asyncio"),
        ("fastserve.pool.core", "import threading"),
        ("fastserve.pool.aio", "from fastserve.http1.parser import RequestParser"),
        ("fastserve.pool.core", "from fastserve.http1.parser import RequestParser"),
        ("fastserve.pool.core", "from fastserve.client.host import HostClient"),
        ("fastserve.server.server", "from fastserve.client import HostClient"),
        ("fastserve.server.server", "from fastserve.cli.run import run"),
        ("fastserve.server.server", "from fastserve.process.prefork import Supervisor"),
        ("fastserve.server.server", "from fastserve.testing import MemoryServer"),
        ("fastserve.client.host", "from fastserve.server.server import Server"),
        ("fastserve.adapters.asgi", "from fastserve.process.prefork import Supervisor"),
        ("fastserve.adapters.asgi", "import fastserve.cli"),
        ("fastserve.process.prefork", "from fastserve.cli import main"),
        ("fastserve.errors", "from fastserve.http1.fields import printable"),
        ("fastserve.errors", "import asyncio"),
        ("fastserve.__init__", "from fastserve.cli import main"),
        ("fastserve.__init__", "from . import testing"),
    ],
)
def test_a_violation_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "fastserve.http1.parser",
            "import re, enum\nfrom fastserve.errors import RequestError\nfrom .head import PLAIN",
        ),
        ("fastserve.http1.parser", "from . import head\nfrom .. import errors"),
        ("fastserve.pool.aio", "import asyncio\nfrom fastserve.pool.core import PoolCore"),
        ("fastserve.pool.threads", "import threading"),
        ("fastserve.server.server", "import asyncio, socket\nfrom fastserve.http1.request import Request"),
        ("fastserve.adapters.asgi", "from fastserve.server.ctx import RequestCtx"),
        ("fastserve.process.prefork", "from fastserve.server.server import Server\nimport fastserve.adapters.wsgi"),
        ("fastserve.cli.run", "import fastserve\nfrom fastserve.process.prefork import Supervisor\nimport asyncio"),
        ("fastserve.__main__", "from fastserve.cli import main"),
        ("fastserve.__init__", "from fastserve.server.server import Server"),
    ],
)
def test_an_arrow_downwards_is_none(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_public_names_live_in_one_place() -> None:
    assert sorted(fastserve.__all__) == sorted(set(fastserve.__all__))
    for name in fastserve.__all__:
        assert hasattr(fastserve, name), name
