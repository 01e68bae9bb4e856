"""What all tests share: loops to run on, and a bound on how long anything may take."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import sysconfig
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import pytest

T = TypeVar("T")

TEST_TIMEOUT = 30.0
"""Seconds after which a test that waits for an event has failed: events come in milliseconds."""


def loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop
    except ImportError:
        pass
    else:
        factories["uvloop"] = uvloop.new_event_loop
    return factories


FACTORIES = loop_factories()


@pytest.fixture(params=list(FACTORIES))
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine to its end, on each kind of loop, with a bound on its time.

    What was logged by the loop as an unhandled exception fails the test: nothing may end in the log alone.
    """

    def run_on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
        unhandled: list[dict[str, Any]] = []

        async def bounded() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
            async with asyncio.timeout(TEST_TIMEOUT):
                return await coroutine

        with asyncio.Runner(loop_factory=FACTORIES[request.param]) as runner:
            result = runner.run(bounded())
        assert not unhandled, unhandled
        return result

    return run_on_loop


def program(name: str, package: str) -> str:
    """The path of a real peer. Where it is missing the test is skipped, but in CI it fails: there it was to be installed."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if path is None:
        missing(f"{name} is missing (Debian: apt-get install {package})")
    return path


def script(name: str, requirement: str) -> str:
    """As `program`, for one that pip puts beside the interpreter."""
    path = shutil.which(name, path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        missing(f"{name} is missing (pip install {requirement})")
    return path


def module(name: str, requirement: str) -> None:
    """As `program`, for a module. It is looked for and not imported: locust patches the process that imports it."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of the package that it is in
        found = None
    if found is None:
        missing(f"{name} is missing (pip install {requirement})")


def missing(text: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def free_port() -> int:
    """A port of 127.0.0.1 for a program that can't choose one itself and say which."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
