"""Instructions per request of a connection alone, counted by callgrind: no sockets, no noise.

    python loadtests/instructions.py [--cases get,browser,varied,post,pipeline,client-get] [--handlers async,inline]
    python loadtests/instructions.py --check loadtests/instructions.json
    python loadtests/instructions.py --update loadtests/instructions.json --reason "what made it so"

Each case is run twice in a child under ``valgrind --tool=callgrind``, with few and with many
requests; the difference is what one request costs, start-up and warm-up left out. ``floor`` is
httptools fed the same bytes, with a callback for each part of a message, answering with
constant bytes. The client's cases are HostClient.do on a transport that answers at once. The
counts repeat from run to run for one interpreter; compare ratios between interpreters.

--check fails when a ratio to the floor is more than 3 % off the recorded one of this CPython
minor version, in either direction; --update records what was measured. Needs valgrind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.gate import TOLERANCE, Gate, build, differences
from bench.in_memory import CLIENT_CASES, SERVER_CASES, per_segment, run

FEW, MANY = 160, 800
CLIENTS = ("HostClient",)


def count(who: str, case: str, requests: int) -> int:
    """Instructions of one child that serves, or sends, `requests` requests."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
            sys.executable, __file__, "--child", who, case, str(requests),
        ]  # fmt: skip
        env = dict(os.environ, PYTHONHASHSEED="0")
        result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    found = re.search(r"Collected\s*:\s*(\d+)", result.stderr)
    if result.returncode or found is None:
        raise SystemExit(f"callgrind failed:\n{result.stderr[-2000:]}")
    return int(found[1])


def per_request(who: str, case: str) -> int:
    pipelined = per_segment(case)
    few, many = FEW - FEW % pipelined, MANY - MANY % pipelined
    return round((count(who, case, many) - count(who, case, few)) / (many - few))


def measure(cases: list[str], handlers: list[str], jobs: int) -> Iterator[tuple[str, str, int, int]]:
    """Case, who, instructions, and those of its floor. Several children at once: what others do is not counted."""
    with ThreadPoolExecutor(jobs) as pool:
        counts = {
            (case, who): pool.submit(per_request, who, case)
            for case in cases
            for who in ("floor", *(CLIENTS if case in CLIENT_CASES else handlers))
        }
        try:
            for (case, who), instructions in counts.items():
                if who != "floor":
                    yield case, who, instructions.result(), counts[case, "floor"].result()
        finally:
            for instructions in counts.values():
                instructions.cancel()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(SERVER_CASES + CLIENT_CASES))
    parser.add_argument("--handlers", default="async,inline", help="of the server's cases")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="children at once; default: cores"
    )
    parser.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--update", type=Path, metavar="FILE", nargs="?", const=Path(__file__).with_suffix(".json"))
    parser.add_argument("--reason", help="why the figures changed: stays in the file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.cases.split(",")) - {*SERVER_CASES, *CLIENT_CASES}
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(SERVER_CASES + CLIENT_CASES)}")
    if arguments.check and not arguments.check.exists():
        parser.error(f"--check {arguments.check}: there is no such file; --update writes one")
    if bool(arguments.update) != bool((arguments.reason or "").strip()):
        parser.error("--update and --reason go together: say what made the figures change")
    return arguments


def check(gate: Gate, path: Path, ratios: dict[str, float]) -> None:
    """Raises SystemExit when they are not as recorded."""
    name = build()
    found = differences(gate.recorded(name), ratios)
    if not found:
        print(f"all within {TOLERANCE:.0%} of {path} ({gate.about(name)})")
        return
    print("\n".join(found))
    raise SystemExit(
        f"instructions.py: error: {len(found)} of {len(ratios)} not within {TOLERANCE:.0%} of {path} ({gate.about(name)}).\n"
        "More than was recorded: find what made it dearer (callgrind_annotate), and take it back. Less, or worth its price:\n"
        f"record it, with `python loadtests/instructions.py --update {path} --reason '...'` on this CPython."
    )


def main() -> None:
    arguments = parse()
    if arguments.child:
        who, case, requests = arguments.child
        run(who, case, int(requests))
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("instructions.py: error: valgrind is not installed (Debian: apt-get install valgrind)")
    print(f"instructions per request, CPython {sys.version.split()[0]}")
    print(f"{'case':14} {'':10} {'floor':>8} {'':>9} {'x floor':>8}")
    ratios: dict[str, float] = {}
    for case, who, instructions, floor in measure(
        arguments.cases.split(","), arguments.handlers.split(","), arguments.jobs
    ):
        ratios[f"{case}/{who}"] = instructions / floor
        print(f"{case:14} {who:10} {floor:8} {instructions:9} {instructions / floor:8.2f}", flush=True)
    if arguments.update:
        Gate(arguments.update).record(build(), ratios, arguments.reason.strip())
        print(f"recorded in {arguments.update}")
    if arguments.check:
        check(Gate(arguments.check), arguments.check, ratios)


if __name__ == "__main__":
    main()
