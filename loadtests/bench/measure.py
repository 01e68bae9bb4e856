"""Interleaved rounds: every peer once, then every peer again. The machine drifts, so each round has ratios of its own.

The results are plain dictionaries, as they go into JSON:

    {"servers": {case: {peer: [round, ...]}}, "clients": {...}, "idle": {peer: bytes}, "errors": {peer: text}, ...}

A round is ``{"rate": req/s, "cpu": us per request, "p50": ms, "p99": ms, "p999": ms, "memory": bytes, "start": s, "errors": n}``.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.body import HELLO
from bench.cases import Case
from bench.idle import held, memory_of_idle
from bench.peers import Peer, environment
from bench.processes import Measured, NotStarted, free_port, on_core, started
from bench.wrk import Wrk

__all__ = ["CLIENT_CASES", "ClientCase", "Machine", "Plan", "machine", "median", "ratios", "serving"]

Round = dict[str, float]
CLIENT_TIMEOUT = 60.0
"""Seconds that a client may need to start, and to end once its time is over."""


@dataclass(frozen=True)
class ClientCase:
    body: int = 0
    """Bytes of the request's body; 0 is a GET."""
    response_size: int | None = None


CLIENT_CASES = {
    "get": ClientCase(),
    "post": ClientCase(body=1000),
    "64k-response": ClientCase(response_size=64 * 1024),
    "64k-request": ClientCase(body=64 * 1024),
}


@dataclass(frozen=True)
class Machine:
    """On which core servers run, and on which whatever loads them, or is loaded with them."""

    server_core: int | None
    other_core: int | None

    @staticmethod
    def here() -> Machine:
        cores = sorted(os.sched_getaffinity(0))
        return Machine(cores[0], cores[1]) if len(cores) > 1 else Machine(None, None)


@dataclass
class Plan:
    """How much of everything, and where to tell how far it is."""

    work: Path
    cores: Machine
    rounds: int
    seconds: float
    warm_up: float
    connections: int
    tell: Callable[[str], None]
    """Called with what is measured next, once for each measurement."""

    def servers(
        self, wrk: Wrk, peers: Iterable[Peer], cases: dict[str, Case], errors: dict[str, str]
    ) -> dict[str, Any]:
        results: dict[str, dict[str, list[Round]]] = {}
        for name, case in cases.items():
            rows = results[name] = {peer.name: [] for peer in peers}
            for _ in range(self.rounds):
                for peer in peers:
                    self.tell(f"{peer.name}, {name}")
                    if peer.name in errors:
                        continue
                    try:
                        rows[peer.name].append(self.server_round(wrk, peer, case))
                    except (NotStarted, RuntimeError, OSError) as error:
                        errors[peer.name] = f"{name}: {error}"
        return results

    def server_round(self, wrk: Wrk, peer: Peer, case: Case, *, connections: int = 0, idle: int = 0) -> Round:
        """One server, started for it. `idle` connections more are open meanwhile."""
        with serving(self.work, peer, case.response_size, self.cores.server_core) as server, held(server.port, idle):
            active = connections or self.connections
            if self.warm_up:
                wrk.run(case, server.port, active, self.warm_up)
            before = server.cpu()
            result = wrk.run(case, server.port, active, self.seconds)
            cpu = server.cpu() - before
            if server.process.poll() is not None:
                raise RuntimeError(f"ended under load, with status {server.process.returncode}")
            if not result.requests:
                raise RuntimeError("no request was answered")
            return {
                "rate": result.requests / result.seconds,
                "cpu": cpu / result.requests * 1e6,
                "p50": result.p50,
                "p99": result.p99,
                "p999": result.p999,
                "memory": server.memory(),
                "start": server.start_up,
                "errors": result.errors,
            }

    def idle(self, peers: Iterable[Peer], connections: int, settle: float, errors: dict[str, str]) -> dict[str, float]:
        """Bytes per idle connection, of each peer once: it does not depend on who else runs."""
        results: dict[str, float] = {}
        for peer in peers:
            self.tell(f"{peer.name}, idle connections")
            if peer.name in errors:
                continue
            try:
                with serving(self.work, peer, None, self.cores.server_core) as server:
                    results[peer.name] = memory_of_idle(server, connections, settle).each
            except (NotStarted, OSError) as error:
                errors[f"{peer.name}, idle"] = str(error)
        return results

    def clients(
        self, upstream: Peer, peers: Iterable[Peer], cases: dict[str, ClientCase], errors: dict[str, str]
    ) -> dict[str, Any]:
        results: dict[str, dict[str, list[Round]]] = {}
        for name, case in cases.items():
            rows = results[name] = {peer.name: [] for peer in peers}
            with serving(self.work, upstream, case.response_size, self.cores.server_core) as server:
                for _ in range(self.rounds):
                    for peer in peers:
                        self.tell(f"{peer.name}, {name}")
                        if peer.name in errors:
                            continue
                        try:
                            rows[peer.name].append(self.client_round(peer, server.port, case))
                        except RuntimeError as error:
                            errors[peer.name] = f"{name}: {error}"
        return results

    def client_round(self, peer: Peer, port: int, case: ClientCase, *, waiters: int = 0) -> Round:
        """One client, `waiters` more tasks than connections. Raises RuntimeError."""
        expected = len(HELLO) if case.response_size is None else case.response_size
        command = peer.fill(
            port=port, conns=self.connections, tasks=self.connections + waiters, seconds=self.seconds,
            body=case.body, expected=expected,
        )  # fmt: skip
        with on_core(self.cores.other_core):
            begun = time.time()
            process = subprocess.Popen(
                command, env=environment(), cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        try:
            output, told = process.communicate(timeout=self.seconds + CLIENT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done {CLIENT_TIMEOUT:.0f} s after its time was over") from None
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise RuntimeError(told.strip().rpartition("\n")[2] or f"ended with status {process.returncode}")
        report = json.loads(output)
        requests = report["requests"]
        return {
            "rate": requests / report["seconds"],
            "cpu": report["cpu"] / requests * 1e6,
            "p50": report["p50"],
            "p99": report["p99"],
            "p999": report["p999"],
            "memory": report["memory"],
            "start": report["first"] - begun,
            "errors": 0,
        }


def serving(work: Path, peer: Peer, response_size: int | None, core: int | None) -> AbstractContextManager[Measured]:
    """The server `peer`, on a port of its own."""
    port = free_port()
    peer.prepare(work, port, response_size)
    expected = len(HELLO) if response_size is None else response_size
    command = peer.fill(port=port)
    return started(command, port, core=core, env=environment(response_size), cwd=work, expected=expected)


def median(rounds: list[Round], key: str) -> float:
    return statistics.median(one[key] for one in rounds)


def ratios(rounds: list[Round], base: list[Round]) -> list[float]:
    """`rate` as a ratio to the base's in the same round, of each round."""
    return [one["rate"] / other["rate"] for one, other in zip(rounds, base, strict=False) if other["rate"]]


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
