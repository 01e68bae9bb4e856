"""fastserve and its peers side by side on this machine, servers and clients.

    python loadtests/compare.py [servers] [clients] [--quick] [--cases get,post] [--only fastserve,uvicorn]
        [--json FILE] [--markdown FILE] [--chart FILE.svg]

Servers run on one core, and wrk on another. Rounds are interleaved (A B C, A B C, ...): a machine drifts, but the ratios of one
round hold, and the median of those is shown with their range. CPU is the server's own per request, memory what is resident
after the load, start the seconds from the start of the process to its first answer. Clients, each in a process of its own, send
to the fastest server that there is, 64 requests in flight.

Peers are measured when they can be imported by this interpreter, or built (Go), or are installed (nginx); the others are named
and left out. --quick takes less than a minute: one round of a second, GET alone, no idle connections. --markdown puts the tables
between <!-- compare --> and <!-- end --> of the file. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.cases import CASES
from bench.measure import CLIENT_CASES, Machine, Plan, machine
from bench.peers import Found, Peer, find_clients, find_servers
from bench.processes import allow_files
from bench.progress import progress
from bench.report import console, markdown, names, put_between, save_chart, save_json
from bench.wrk import HINT, Wrk

KINDS = ("servers", "clients")
UPSTREAMS = ("go-fasthttp", "nginx", "fastserve-inline", "fastserve")
"""The server that clients send to: the first of these that is there."""
BASES = {"servers": ("go-fasthttp", "fastserve", "fastserve-inline"), "clients": ("go-HostClient", "HostClient")}
QUICK = {"rounds": 1, "seconds": 1.0, "warm_up": 0.0, "idle": 0, "cases": ["get"]}
FULL = {"rounds": 5, "seconds": 3.0, "warm_up": 1.0, "idle": 2000, "cases": list(CASES)}
SETTLE = 1.0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="servers|clients", help="default: both")
    parser.add_argument("--quick", action="store_true", help="in less than a minute; what is given beside it holds")
    parser.add_argument("--only", type=names, default=[], help="these peers alone, comma separated")
    parser.add_argument("--cases", type=names, help=f"of {', '.join(CASES)}; for clients {', '.join(CLIENT_CASES)}")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of a round, whole ones for servers; default 3")
    parser.add_argument("--warm-up", type=float, help="seconds before a server's round; default 1, 0 for none")
    parser.add_argument("--connections", type=int, default=64, help="and requests in flight; default 64")
    parser.add_argument("--idle", type=int, help="idle connections whose memory is measured; default 2000, 0 for none")
    parser.add_argument("--base", help="the peer that ratios are to; default: Go's fasthttp, or fastserve without it")
    parser.add_argument(
        "--upstream", help=f"the server that clients send to; default: the first of {', '.join(UPSTREAMS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round's figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="PNG or SVG, as its name ends")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing: show what was written there")
    arguments = parser.parse_args(argv)
    for name, value in (QUICK if arguments.quick else FULL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    unknown = set(arguments.cases) - set(CASES) - set(CLIENT_CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join([*CASES, *CLIENT_CASES])}")
    if not set(arguments.kinds) <= set(KINDS):
        parser.error(f"{' '.join(arguments.kinds)}: takes servers, clients, or both")
    if arguments.rounds < 1 or arguments.seconds <= 0 or arguments.connections < 1 or arguments.idle < 0:
        parser.error("--rounds, --seconds and --connections take more than 0, --idle 0 or more")
    if arguments.chart is not None and arguments.chart.suffix not in (".png", ".svg"):
        parser.error("--chart takes a name that ends in .png or .svg")
    arguments.kinds = arguments.kinds or list(KINDS)
    return arguments


def base_of(kind: str, found: Found, wanted: str | None) -> str:
    for name in (wanted, *BASES[kind]):
        if name in found.peers:
            return name
    return next(iter(found.peers), "")


def upstream_of(work: Path, wanted: str | None) -> Peer:
    choice = (wanted,) if wanted else UPSTREAMS
    found = find_servers(work, list(choice))
    for name in choice:
        if name in found.peers:
            return found.peers[name]
    raise SystemExit(f"compare.py: error: no server {wanted}{'; '.join(f' ({why})' for why in found.missing.values())}")


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    results: dict[str, Any] = {
        "command": f"python loadtests/compare.py {shlex.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "settings": {key: getattr(arguments, key) for key in ("rounds", "seconds", "warm_up", "connections", "idle")},
        "versions": {},
        "base": {},
        "missing": {},
        "errors": {},
    }
    servers = clients = Found()
    if "servers" in arguments.kinds:
        servers = find_servers(work, arguments.only)
    if "clients" in arguments.kinds:
        clients = find_clients(work, arguments.only)
    known = servers.peers.keys() | clients.peers.keys() | servers.missing.keys() | clients.missing.keys()
    unknown = set(arguments.only) - known
    if unknown:
        raise SystemExit(f"compare.py: error: no {' and '.join(arguments.kinds)} named {', '.join(sorted(unknown))}")
    cores = Machine.here()
    if cores.server_core is None:
        print("compare.py: one core alone: both sides share it, and the figures are worth little", file=sys.stderr)
    wrk: Wrk | None = None
    if servers.peers:
        try:
            wrk = Wrk(work, cores.other_core)
        except FileNotFoundError:
            if not clients.peers:
                raise SystemExit(f"compare.py: error: {HINT}") from None
            print(f"compare.py: {HINT}", file=sys.stderr)
            servers = Found()
    server_cases = {name: CASES[name] for name in arguments.cases if name in CASES}
    client_cases = {name: CLIENT_CASES[name] for name in arguments.cases if name in CLIENT_CASES}
    rounds = arguments.rounds
    total = len(servers.peers) * (len(server_cases) * rounds + bool(arguments.idle))
    total += len(clients.peers) * len(client_cases) * rounds
    allow_files(max(2 * arguments.connections, arguments.idle) + 200)
    with progress(total) as tell:
        plan = Plan(work, cores, rounds, arguments.seconds, arguments.warm_up, arguments.connections, tell)
        for kind, found in (("servers", servers), ("clients", clients)):
            results["base"][kind] = base_of(kind, found, arguments.base)
            results["missing"] |= found.missing
            results["versions"] |= {name: peer.version for name, peer in found.peers.items()}
        if wrk is not None:
            results["versions"]["wrk"] = wrk.version
            peers = list(servers.peers.values())
            results["servers"] = plan.servers(wrk, peers, server_cases, results["errors"])
            if arguments.idle:
                results["idle"] = plan.idle(peers, arguments.idle, SETTLE, results["errors"])
        if clients.peers:
            upstream = upstream_of(work, arguments.upstream)
            results["settings"]["upstream"] = upstream.name
            results["clients"] = plan.clients(upstream, clients.peers.values(), client_cases, results["errors"])
    return results


def main() -> None:
    arguments = parse(sys.argv[1:])
    if arguments.from_json:
        results = json.loads(arguments.from_json.read_text())
    else:
        try:
            with tempfile.TemporaryDirectory(prefix="fastserve-compare-") as work:
                results = measure(arguments, Path(work))
        except OSError as error:
            raise SystemExit(f"compare.py: error: {error}") from None
    console(results)
    if arguments.json:
        save_json(arguments.json, results)
    if arguments.markdown:
        put_between(arguments.markdown, "compare", markdown(results))
    if arguments.chart:
        save_chart(arguments.chart, results)


if __name__ == "__main__":
    main()
