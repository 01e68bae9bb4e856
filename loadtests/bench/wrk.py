"""wrk as the generator: a run with the bytes of a case, and what it reports."""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from bench.cases import Case
from bench.peers import program
from bench.processes import on_core

__all__ = ["HINT", "Result", "Wrk"]

HINT = "wrk is not installed: the servers are not measured (Debian: apt-get install wrk)"
REQUEST_TIMEOUT = 10
"""Seconds after which wrk counts a request as an error."""
STEP = 10**8
"""More requests than one run can send: runs of a varied case never send the same one."""

SCRIPT = """
local file = assert(io.open("{work}/request", "rb"))
local bytes = file:read("*a")
file:close()
local number, varied = {start}, {varied}
request = function()
    if not varied then
        return bytes
    end
    number = number + 1
    return string.format(bytes, number, number % 7, number)
end
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format("\\nRESULT %d %d %d %d %d %d %d %d %d\\n",
        summary.requests, summary.duration, summary.bytes,
        errors.status, errors.connect + errors.read + errors.write, errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


@dataclass(frozen=True)
class Result:
    requests: int
    seconds: float
    received: int
    """Bytes."""
    errors: int
    """Answers of 400 or more, connections that broke, and requests that took too long."""
    p50: float
    p99: float
    p999: float
    """Latencies in milliseconds."""


class Wrk:
    def __init__(self, work: Path, core: int | None) -> None:
        path = program("wrk")
        if path is None:
            raise FileNotFoundError(HINT)
        self._path = path
        self._work = work
        self._core = core
        self._starts = count(1)

    @property
    def version(self) -> str:
        told = subprocess.run([self._path, "-v"], capture_output=True, text=True, check=False).stdout
        return told.partition(" Copyright")[0].removeprefix("wrk ").strip()

    def run(self, case: Case, port: int, connections: int, seconds: float) -> Result:
        """Whole seconds: that is what wrk can do. Raises RuntimeError when it fails."""
        (self._work / "request").write_bytes(case.request)
        start = next(self._starts) * STEP
        script = SCRIPT.format(work=self._work, start=start, varied="true" if case.varied else "false")
        (self._work / "case.lua").write_text(script)
        whole = max(1, math.ceil(seconds))
        command = [
            self._path, "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", f"{REQUEST_TIMEOUT}s",
            "-s", str(self._work / "case.lua"), f"http://127.0.0.1:{port}/",
        ]  # fmt: skip
        with on_core(self._core):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            output, errors = process.communicate(timeout=whole + 2 * REQUEST_TIMEOUT)
        finally:
            process.kill()
            process.wait()
        found = re.search(r"^RESULT(( \d+){9})$", output, re.MULTILINE)
        if process.returncode or found is None:
            raise RuntimeError(f"wrk failed: {errors or output}".strip())
        requests, duration, received, status, socket, timeout, p50, p99, p999 = map(int, found[1].split())
        return Result(requests, duration / 1e6, received, status + socket + timeout, p50 / 1e3, p99 / 1e3, p999 / 1e3)
