"""The compiled build: what it compiles, what becomes of it without a compiler, and that a compiled run is one."""

from __future__ import annotations

import ast
import enum
import importlib.util
import os
import shutil
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastserve
import fastserve.server.server  # imports all of them

HOOK = Path(__file__).parent.parent / ".ci" / "hatch_build.py"


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(path: str) -> ast.Module:
    return ast.parse((Path(fastserve.__file__).parent.parent / path).read_text("utf-8"))


def decorators(function: ast.FunctionDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in function.decorator_list]


hook = load_hook()
COMPILED = [path.removesuffix(".py").replace("/", ".") for path in hook.MODULES]


@pytest.mark.skipif(
    not os.environ.get("FASTSERVE_EXPECT_COMPILED"),
    reason="FASTSERVE_EXPECT_COMPILED=1 says that this is a compiled run",
)
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_run_is_compiled(name: str) -> None:
    assert str(sys.modules[name].__file__).endswith(tuple(EXTENSION_SUFFIXES))


def test_all_of_them_or_none_are_compiled() -> None:
    """Calls between a compiled module and one that is not cost more than is gained."""
    assert len({str(sys.modules[name].__file__).endswith(".py") for name in COMPILED}) == 1


def test_the_modules_are_there() -> None:
    package = Path(fastserve.__file__).parent.parent
    assert hook.MODULES
    for path in hook.MODULES:
        assert (package / path).is_file(), path


@pytest.mark.parametrize("path", hook.MODULES)
def test_what_is_compiled_has_no_coroutine(path: str) -> None:
    """One that is cancelled warns, from CPython 3.12 on; and it keeps the exceptions that it has caught."""
    suspends = (ast.AsyncFunctionDef, ast.Yield, ast.YieldFrom)
    assert [node.lineno for node in ast.walk(source(path)) if isinstance(node, suspends)] == []


@pytest.mark.parametrize("path", hook.MODULES)
def test_setters_take_what_their_getters_give(path: str) -> None:
    """Compiled code assigns a value of the getter's type in C: an int is none of Python's, and a setter of another crashes."""
    functions = [node for node in ast.walk(source(path)) if isinstance(node, ast.FunctionDef)]
    gives = {f.name: ast.unparse(f.returns) for f in functions if f.returns and "property" in decorators(f)}
    for function in functions:
        if f"{function.name}.setter" in decorators(function):
            annotation = function.args.args[1].annotation
            assert annotation is not None
            if gives[function.name] in ("int", "float", "bool"):
                assert ast.unparse(annotation) == gives[function.name]


MUTABLE = {
    "fastserve/server/answering.py": {"CTX_REFS", "REQUEST_REFS", "RESPONSE_REFS"},
    "fastserve/server/connection.py": {"CTX_REFS", "RENEWED_REFS", "REQUEST_REFS", "RESPONSE_REFS"},
    "fastserve/server/service.py": {"REQUEST_REFS", "RESPONSE_REFS", "MAX_KEPT_CONTEXTS"},
}
"""What is found at the start, or set by a test."""


NO_CONSTANTS = {"__all__", "logger", "C", "Fields", "Handler", "BodyStream"}
"""Not looked up by what is compiled, or not often: and type variables, and other names of types."""


@pytest.mark.parametrize("path", hook.MODULES)
def test_constants_are_final(path: str) -> None:
    """Another name of a module is looked up in a dictionary at each use, by compiled code as well."""
    names: set[str] = set()
    for node in source(path).body:
        if isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and "Final" not in ast.unparse(node.annotation):
            names.add(ast.unparse(node.target))
    assert names - NO_CONSTANTS == MUTABLE.get(path, set())


@pytest.mark.parametrize("name", COMPILED)
def test_bases_that_are_not_compiled_are_empty(name: str) -> None:
    """A compiled class has its attributes where those of a base such as OrderedDict would be."""
    for found in vars(sys.modules[name]).values():
        if isinstance(found, type) and found.__module__ == name and not issubclass(found, enum.Enum | tuple):
            foreign = [base for base in found.__mro__ if base.__module__ not in COMPILED]
            assert {base.__basicsize__ for base in foreign} == {object.__basicsize__}


# Building


@pytest.fixture
def compile_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_COMPILE", "1")


def initialize(root: Path, version: str = "standard") -> dict[str, Any]:
    """What the hook makes of a wheel's data."""
    data: dict[str, Any] = {"force_include": {}, "pure_python": True, "infer_tag": False}
    made = hook.CompileHook(str(root), {}, None, None, str(root), "wheel")
    made.initialize(version, data)
    made.finalize(version, data, "")
    return data


PURE = {"force_include": {}, "pure_python": True, "infer_tag": False}


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_compiled_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None) -> None:
    monkeypatch.delenv("FASTSERVE_COMPILE", raising=False)
    if value is not None:
        monkeypatch.setenv("FASTSERVE_COMPILE", value)
    monkeypatch.setattr(hook, "compile_modules", pytest.fail)
    assert initialize(tmp_path) == PURE
    assert hook.CompileHook(str(tmp_path), {}, None, None, str(tmp_path), "wheel").dependencies() == []


@pytest.mark.usefixtures("compile_wanted")
def test_an_editable_install_is_pure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hook, "compile_modules", pytest.fail)
    assert initialize(tmp_path, "editable") == PURE


@pytest.mark.usefixtures("compile_wanted")
def test_the_compiler_is_pinned(tmp_path: Path) -> None:
    required = hook.CompileHook(str(tmp_path), {}, None, None, str(tmp_path), "wheel").dependencies()
    assert [name for name in required if name.startswith("mypy==")]


@pytest.mark.usefixtures("compile_wanted")
@pytest.mark.parametrize(
    ("compiler", "told"),
    [
        ("fastserve-has-no-such-compiler", "no C compiler: fastserve-has-no-such-compiler is not found"),
        ("false", "false failed: status 1"),
        ("sh -c 'echo probe.c:1:10: fatal error: Python.h: No such file >&2; exit 1'", "Python.h: No such file"),
    ],
)
def test_without_a_compiler_the_wheel_is_pure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], compiler: str, told: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert initialize(tmp_path) == PURE
    _, line = capfd.readouterr()
    assert line.count("\n") == 1
    assert line.startswith("fastserve is not compiled, this wheel is pure Python: ")
    assert told in line


@pytest.mark.usefixtures("compile_wanted")
def test_without_any_compiler_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert initialize(tmp_path) == PURE
    assert "no C compiler" in capfd.readouterr().err


def compiler() -> bool:
    return shutil.which((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]) is not None


@pytest.mark.usefixtures("compile_wanted")
@pytest.mark.skipif(not compiler(), reason="there is no C compiler")
def test_what_can_not_be_compiled_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The compiler works, and mypyc, or what it made, does not."""
    (tmp_path / "fastserve").mkdir()
    monkeypatch.setattr(hook, "COMPILE", "raise SystemExit('fastserve/a.py:1: error: this is no Python')")
    assert initialize(tmp_path) == PURE
    assert "fastserve/a.py:1: error: this is no Python" in capfd.readouterr().err


@pytest.mark.usefixtures("compile_wanted")
@pytest.mark.skipif(not compiler(), reason="there is no C compiler")
def test_what_was_compiled_goes_into_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fastserve").mkdir()
    # In the place of mypyc, which takes twenty seconds: an empty extension for each module, and the shared one.
    program = """
import pathlib, sys, sysconfig
suffix = sysconfig.get_config_var("EXT_SUFFIX")
for name in ["fastserve__mypyc.py", *sys.argv[1:]]:
    path = pathlib.Path(name.removesuffix(".py") + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    built = "build" / path
    built.parent.mkdir(parents=True, exist_ok=True)
    built.touch()
"""
    monkeypatch.setattr(hook, "COMPILE", program)
    data = initialize(tmp_path)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    places = ["fastserve__mypyc.py", *hook.MODULES]
    assert set(data["force_include"].values()) == {path.removesuffix(".py") + suffix for path in places}
    assert (data["pure_python"], data["infer_tag"]) == (False, True)
