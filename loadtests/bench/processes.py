"""Processes that are measured: start on one core, wait for the first answer, read CPU time and memory from /proc, end."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Measured", "NotStarted", "allow_files", "free_port", "on_core", "started"]

START_TIMEOUT = 20.0
"""Seconds in which a server must have answered once."""
STOP_TIMEOUT = 5.0
"""Seconds after which a process that was asked to end is killed."""
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = resource.getpagesize()


class NotStarted(Exception):
    """A process ended, or did not answer in time; the text is what it wrote last."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def allow_files(count: int) -> None:
    """Raise the limit of open files to `count`, for this process and those that it starts. Raises OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise OSError(f"needs {count} file descriptors, the limit is {hard}; raise it with ulimit -n")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in here runs on that core from its first instruction on: the affinity of this thread is inherited."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Measured:
    """A server in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, start_up: float) -> None:
        self.process = process
        self.port = port
        self.start_up = start_up
        """Seconds from the start of the process to its first answer."""

    def _members(self) -> Iterator[tuple[Path, list[str]]]:
        """Each process of the group, with its fields of /proc/N/stat from the state on."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it has just ended
                    continue
                if int(fields[2]) == self.process.pid:
                    yield folder, fields

    def cpu(self) -> float:
        """CPU seconds that the group has used, user and system."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self._members()) / TICKS

    def memory(self) -> int:
        """Bytes of resident memory; pages that several processes of the group share are counted once."""
        members = list(self._members())
        if len(members) == 1:
            return int(members[0][1][21]) * PAGE
        total = 0
        for folder, fields in members:
            try:
                shares = (folder / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in shares.splitlines() if line.startswith("Pss:")) * 1024
            except (OSError, StopIteration):
                total += int(fields[21]) * PAGE
        return total


def answer(port: int, timeout: float = 2.0) -> tuple[int, int]:
    """Status and size of the body of a GET. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, len(response.read())
    finally:
        connection.close()


def _first_answer(process: subprocess.Popen[bytes], port: int, expected: int | None) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStarted(f"ended with status {process.returncode}")
        try:
            status, size = answer(port)
        except (OSError, http.client.HTTPException):
            time.sleep(0.005)
            continue
        if status != 200 or expected not in (None, size):
            raise NotStarted(f"answered with status {status} and {size} bytes; wanted 200 and {expected}")
        return
    raise NotStarted(f"did not answer within {START_TIMEOUT:.0f} s")


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    expected: int | None = None,
) -> Iterator[Measured]:
    """A server that has answered a GET with 200 and `expected` bytes (None: any). Raises `NotStarted`."""
    with tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        with on_core(core):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        try:
            try:
                _first_answer(process, port, expected)
            except NotStarted as error:
                output.seek(0)
                text = output.read()[-1000:].decode(errors="replace").strip()
                raise NotStarted(f"{error}: {text}" if text else str(error)) from None
            yield Measured(process, port, time.monotonic() - begun)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: it leads one of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
