"""Instructions per request of a connection alone, counted by callgrind: no sockets, no noise.

    python loadtests/instructions.py [--cases get,browser,...,client-get,client-wait] [--handlers async,inline]
    python loadtests/instructions.py --check loadtests/instructions.json
    python loadtests/instructions.py --update loadtests/instructions.json --reason "what made it so"

Each case is run twice in a process under ``valgrind --tool=callgrind``, with few and with many
requests; the difference is what one request costs, start-up and warm-up left out. ``floor`` is
httptools fed the same bytes, with a callback for each part of a message, answering with
constant bytes. The client's cases are HostClient.do on a transport that answers at once; in
client-wait 16 tasks share 8 connections. The counts repeat from run to run for one interpreter;
compare ratios between interpreters.

--check fails when a ratio to the floor is more than 3 % off the recorded one of this CPython
minor version, in either direction; --update records what was measured. Needs valgrind.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from bench.gate import TOLERANCE, Gate, build, differences
from bench.in_memory import CLIENT_CASES, SERVER_CASES, per_segment, run

FEW, MANY = 160, 800
CLIENTS = ("HostClient",)


def count(subjects: list[tuple[str, str, int]]) -> list[int]:
    """Instructions of a process that runs (who, case, requests), for each of them, its start included.

    All are forks of one process, made when everything is imported: under callgrind that takes ten seconds, a case less than one.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out.%p",
            sys.executable, __file__, "--forks", json.dumps(subjects),
        ]  # fmt: skip
        env = dict(os.environ, PYTHONHASHSEED="0")
        result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    collected = dict(re.findall(r"^==(\d+)== Collected\s*:\s*(\d+)$", result.stderr, re.MULTILINE))
    forks = result.stdout.split()
    if result.returncode or len(forks) != len(subjects) or not set(forks) <= collected.keys():
        raise SystemExit(f"instructions.py: error: callgrind failed:\n{result.stderr[-2000:]}")
    return [int(collected[pid]) for pid in forks]


def fork(subjects: list[tuple[str, str, int]]) -> None:
    """Run each in a fork, one after the other, and print its pid."""
    gc.collect()
    gc.freeze()  # or whether a full collection falls into a count would move it by a tenth
    for who, case, requests in subjects:
        pid = os.fork()
        if not pid:
            try:
                run(who, case, requests)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"{case}/{who} failed")
        print(pid, flush=True)


def measure(cases: list[str], handlers: list[str]) -> Iterator[tuple[str, str, int, int]]:
    """Case, who, instructions of a request, and those of its floor."""
    named = [(case, who) for case in cases for who in ("floor", *(CLIENTS if case in CLIENT_CASES else handlers))]
    few, many = (
        [(who, case, requests - requests % per_segment(case)) for case, who in named] for requests in (FEW, MANY)
    )
    counts = count(few + many)
    each = {
        name: round((dearer - cheaper) / (with_many[2] - with_few[2]))
        for name, with_few, with_many, cheaper, dearer in zip(
            named, few, many, counts[: len(few)], counts[len(few) :], strict=True
        )
    }
    for case, who in named:
        if who != "floor":
            yield case, who, each[case, who], each[case, "floor"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(SERVER_CASES + CLIENT_CASES))
    parser.add_argument("--handlers", default="async,inline", help="of the server's cases")
    parser.add_argument("--check", type=Path, metavar="FILE")
    parser.add_argument("--update", type=Path, metavar="FILE", nargs="?", const=Path(__file__).with_suffix(".json"))
    parser.add_argument("--reason", help="why the figures changed: stays in the file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--forks", type=json.loads, help=argparse.SUPPRESS)
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
    if arguments.forks:
        fork(arguments.forks)
        return
    if shutil.which("valgrind") is None:
        raise SystemExit("instructions.py: error: valgrind is not installed (Debian: apt-get install valgrind)")
    print(f"instructions per request, CPython {sys.version.split()[0]}")
    print(f"{'case':14} {'':10} {'floor':>8} {'':>9} {'x floor':>8}")
    ratios: dict[str, float] = {}
    for case, who, instructions, floor in measure(arguments.cases.split(","), arguments.handlers.split(",")):
        ratios[f"{case}/{who}"] = instructions / floor
        print(f"{case:14} {who:10} {floor:8} {instructions:9} {instructions / floor:8.2f}", flush=True)
    if arguments.update:
        Gate(arguments.update).record(build(), ratios, arguments.reason.strip())
        print(f"recorded in {arguments.update}")
    if arguments.check:
        check(Gate(arguments.check), arguments.check, ratios)


if __name__ == "__main__":
    main()
