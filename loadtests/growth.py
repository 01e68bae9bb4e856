"""How the cost of a request grows: with connections, body sizes, headers, pipelining, and a client's waiting requests.

    python loadtests/growth.py [--quick] [--axes idle,headers] [--peers fastserve,go-fasthttp,HostClient,go-HostClient]
        [--json FILE] [--markdown FILE] [--chart FILE.svg]

At each point: requests per second, CPU per request of the server (or client), p99; the median of interleaved rounds. What
should be flat and is not is said, and so is what grows more than its quantity. --markdown puts the tables between
<!-- growth --> and <!-- end --> of the file. 10 000 idle connections need a limit of as many open files (ulimit -n). Linux
alone, with wrk for the servers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.axes import AXES, Axis
from bench.growth_report import console, markdown, save_plots
from bench.measure import ClientCase, Machine, Plan, Round, machine, serving
from bench.peers import Found, Peer, find_clients, find_servers
from bench.processes import NotStarted, allow_files
from bench.progress import progress
from bench.report import names, put_between, save_json
from bench.wrk import HINT, Wrk

PEERS = ("fastserve", "go-fasthttp", "HostClient", "go-HostClient")
WAITING = ("HostClient", "go-HostClient", "aiohttp")
"""Clients that can have thousands of requests waiting: those without a thread for each."""
UPSTREAMS = ("go-fasthttp", "fastserve")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two points of each, one round of a second")
    parser.add_argument("--axes", type=names, default=list(AXES), help=f"of {', '.join(AXES)}; default: all")
    parser.add_argument("--peers", type=names, default=list(PEERS), help=f"default: {', '.join(PEERS)}")
    parser.add_argument(
        "--points", type=lambda text: [int(point) for point in names(text)], help="in place of an axis's own"
    )
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--seconds", type=float, help="of a round; default 2")
    parser.add_argument("--connections", type=int, default=64, help="busy ones, and the client's; default 64")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="PNG or SVG, as its name ends")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing: show what was written there")
    arguments = parser.parse_args()
    unknown = set(arguments.axes) - set(AXES)
    if unknown:
        parser.error(f"no axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.seconds = arguments.seconds or (1.0 if arguments.quick else 2.0)
    if arguments.rounds < 1 or arguments.seconds <= 0 or arguments.connections < 1:
        parser.error("--rounds, --seconds and --connections take more than 0")
    if arguments.points and len(arguments.axes) != 1:
        parser.error("--points are those of one axis: give --axes with one name")
    if arguments.chart is not None and arguments.chart.suffix not in (".png", ".svg"):
        parser.error("--chart takes a name that ends in .png or .svg")
    return arguments


def points_of(arguments: argparse.Namespace, axis: Axis) -> list[int]:
    return arguments.points or list(axis.quick if arguments.quick else axis.points)


class Growth:
    """Measures each axis in turn."""

    def __init__(self, plan: Plan, wrk: Wrk | None, upstream: Peer) -> None:
        self.plan = plan
        self.wrk = wrk
        self.upstream = upstream
        self.errors: dict[str, str] = {}

    def along(self, name: str, points: list[int], peers: list[Peer]) -> dict[str, dict[str, list[Round]]]:
        """Peer to point to rounds. What can't be measured is left out, and told in `errors`."""
        curves: dict[str, dict[str, list[Round]]] = {peer.name: {str(point): [] for point in points} for peer in peers}
        for _ in range(self.plan.rounds):
            for point in points:
                for peer in peers:
                    self.plan.tell(f"{peer.name}, {AXES[name].unit}: {point:,}")
                    try:
                        curves[peer.name][str(point)].append(self.one(name, point, peer))
                    except (NotStarted, RuntimeError, OSError) as error:
                        self.errors[f"{peer.name}, {name} {point}"] = str(error)
        return curves

    def one(self, name: str, point: int, peer: Peer) -> Round:
        if AXES[name].client:
            with serving(self.plan.work, self.upstream, None, self.plan.cores.server_core) as server:
                return self.plan.client_round(peer, server.port, ClientCase(), waiters=point)
        assert self.wrk is not None
        connections = point if name == "busy" else min(self.plan.connections, 16) if name == "pipeline" else 0
        idle = point if name == "idle" else 0
        return self.plan.server_round(self.wrk, peer, AXES[name].case(name, point), connections=connections, idle=idle)


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    servers = find_servers(work, arguments.peers)
    waiting = [name for name in arguments.peers if name in WAITING]
    clients = find_clients(work, waiting) if waiting else Found()
    unknown = set(arguments.peers) - servers.peers.keys() - servers.missing.keys() - set(WAITING)
    if unknown:
        raise SystemExit(f"growth.py: error: no server or client named {', '.join(sorted(unknown))}")
    cores = Machine.here()
    wrk = None
    axes = {name: AXES[name] for name in arguments.axes}
    if servers.peers and any(not axis.client for axis in axes.values()):
        try:
            wrk = Wrk(work, cores.other_core)
        except FileNotFoundError:
            print(f"growth.py: {HINT}", file=sys.stderr)
            servers.peers.clear()
    ours = {name: list((clients if axis.client else servers).peers.values()) for name, axis in axes.items()}
    points = {name: points_of(arguments, axis) for name, axis in axes.items()}
    axes = {name: axis for name, axis in axes.items() if ours[name]}
    if not axes:
        raise SystemExit("growth.py: error: none of the peers can be measured on those axes")
    allow_files(300 + max((point for name in axes if name in ("busy", "idle") for point in points[name]), default=0))
    total = arguments.rounds * sum(len(points[name]) * len(ours[name]) for name in axes)
    upstreams = find_servers(work, list(UPSTREAMS)).peers
    with progress(total) as tell:
        plan = Plan(work, cores, arguments.rounds, arguments.seconds, 0.0, arguments.connections, tell)
        growth = Growth(plan, wrk, next(upstreams[name] for name in UPSTREAMS if name in upstreams))
        curves = {name: growth.along(name, points[name], ours[name]) for name in axes}
    versions = {peer.name: peer.version for peers in ours.values() for peer in peers}
    return {
        "command": f"python loadtests/growth.py {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "versions": versions | ({"wrk": wrk.version} if wrk else {}),
        "missing": servers.missing | clients.missing,
        "errors": growth.errors,
        "axes": curves,
    }


def main() -> None:
    arguments = parse()
    if arguments.from_json:
        results = json.loads(arguments.from_json.read_text())
    else:
        try:
            with tempfile.TemporaryDirectory(prefix="fastserve-growth-") as work:
                results = measure(arguments, Path(work))
        except OSError as error:
            raise SystemExit(f"growth.py: error: {error}") from None
    console(results)
    if arguments.json:
        save_json(arguments.json, results)
    if arguments.markdown:
        put_between(arguments.markdown, "growth", markdown(results))
    if arguments.chart:
        save_plots(arguments.chart, results)


if __name__ == "__main__":
    main()
