"""The compiled build: FASTSERVE_COMPILE=1 makes a wheel whose hot modules are compiled by mypyc, from the same source.

    FASTSERVE_COMPILE=1 pip install .

The wheel holds the Python source of those modules too, for tracebacks. Without a C compiler, or when it fails, the wheel is
the pure one, and a line on stderr says what was missing (pip shows it with -v).
Editable installs are always pure: what is edited would not be what runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Pinned: what mypyc makes of the modules is tested with this version, and costs what the README says.
REQUIREMENTS = ["mypy==2.4.1", "setuptools>=70"]

# Compiled together, since calls among them are then calls in C, while each call of Python's from or to one costs more than
# before: http1 alone would be slower. Left out are those with coroutines and generators, which the compiler does not make
# just as Python does (a cancelled one warns; one keeps the exception that it has caught), and those that run seldom. None has
# a class that extends one of Python's containers, tuples apart: the compiler makes those crash.
MODULES = [
    "fastserve/client/connection.py",
    "fastserve/client/encoder.py",
    "fastserve/client/exchange.py",
    "fastserve/client/response.py",
    "fastserve/client/turn.py",
    "fastserve/client/watch.py",
    "fastserve/http1/head.py",
    "fastserve/http1/head_memory.py",
    "fastserve/http1/parser.py",
    "fastserve/http1/render.py",
    "fastserve/http1/request.py",
    "fastserve/http1/request_writer.py",
    "fastserve/http1/response.py",
    "fastserve/http1/response_head.py",
    "fastserve/http1/response_parser.py",
    "fastserve/pool/aio.py",
    "fastserve/pool/books.py",
    "fastserve/pool/conn.py",
    "fastserve/pool/core.py",
    "fastserve/pool/dials.py",
    "fastserve/pool/sleeping.py",
    "fastserve/pool/waiting.py",
    "fastserve/pool/want.py",
    "fastserve/server/answering.py",
    "fastserve/server/connection.py",
    "fastserve/server/ctx.py",
    "fastserve/server/service.py",
    "fastserve/server/wire.py",
    "fastserve/server/worker.py",
    "fastserve/server/workerpool.py",
]

# In a process of its own, with its own folder: setuptools and mypyc leave files where they are called.
COMPILE = """
import sys
from mypyc.build import mypycify
from setuptools import setup

options = ["--config-file=", "--ignore-missing-imports"]
setup(
    name="fastserve",
    packages=[],
    ext_modules=mypycify([*options, *sys.argv[1:]], opt_level="3", debug_level="0", group_name="fastserve"),
    script_args=["--quiet", "build_ext", "--inplace"],
)
"""


class CannotCompile(Exception):
    """Says in one line what is missing."""


def wanted() -> bool:
    return os.environ.get("FASTSERVE_COMPILE", "0") not in ("", "0")


def check_compiler(folder: Path) -> None:
    """Raise `CannotCompile` when there is no C compiler, or it finds no Python.h: at once, and not behind mypy's work."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        raise CannotCompile(f"no C compiler: {command[0]} is not found (the environment's CC names another one)")
    probe = folder / "probe.c"
    probe.write_text("#include <Python.h>\n", "utf-8")
    include = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    run([*command, *include, "-c", probe.name, "-o", "probe.o"], folder)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in lines if "rror:" in line] or lines[-1:]
        raise CannotCompile(f"{Path(command[0]).name} failed: {told[0] if told else f'status {done.returncode}'}")


def compile_modules(root: Path, folder: Path) -> dict[str, str]:
    """Compile the modules of the source tree at `root`, in `folder`: the files that were made, and their places in a wheel."""
    check_compiler(folder)
    shutil.copytree(root / "fastserve", folder / "fastserve", ignore=shutil.ignore_patterns("__pycache__"))
    run([sys.executable, "-c", COMPILE, *MODULES], folder)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    made = [path for path in folder.rglob(f"*{suffix}") if "build" not in path.relative_to(folder).parts]
    if len(made) != len(MODULES) + 1:  # and the library that they share
        raise CannotCompile(f"{len(made)} extensions were made of {len(MODULES)} modules")
    return {str(path): str(path.relative_to(folder)) for path in made}


class CompileHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return REQUIREMENTS if wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not wanted() or version == "editable":
            return
        # It is there for as long as this hook: until the wheel is made.
        self.folder = tempfile.TemporaryDirectory(prefix="fastserve-")
        try:
            made = compile_modules(Path(self.root), Path(self.folder.name))
        except CannotCompile as error:
            print(f"fastserve is not compiled, this wheel is pure Python: {error}", file=sys.stderr)
            return
        build_data["force_include"].update(made)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()
