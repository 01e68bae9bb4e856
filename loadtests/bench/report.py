"""What `measure` has found, as tables, Markdown, JSON and a chart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Round, median, ratios

__all__ = [
    "HEADINGS",
    "OURS",
    "Row",
    "console",
    "losses",
    "markdown",
    "markdown_of_machine",
    "markdown_table",
    "matplotlib_parts",
    "names",
    "notes",
    "put_between",
    "rows",
    "save_chart",
    "save_json",
]

OURS = ("fastserve", "fastserve-inline", "fastserve-threads", "HostClient", "SyncHostClient")
"""Which peers are this project."""
LIMITS = ("floor", "raw")
"""Which are no server or client that one could use, but what uvloop and httptools leave to be had."""
HEADINGS = ("", "req/s", "ratio", "of rounds", "CPU µs", "p50 ms", "p99 ms", "p99.9 ms", "MiB", "start s", "errors")
FILE_WIDTH = 130
"""Columns where the tables do not go to a terminal."""
KINDS = {"servers": "Server", "clients": "Client"}


@dataclass(frozen=True)
class Row:
    """One peer in one case: the medians of its rounds."""

    peer: str
    rate: float
    ratio: float | None
    """To the base, the median of the rounds' own; None where there is no base to compare with."""
    low: float
    high: float
    cpu: float
    p50: float
    p99: float
    p999: float
    """Milliseconds; 0 where wrk does not know: it loses count of the longest ones of slow pipelined runs."""
    memory: float
    start: float
    errors: int
    """In all rounds."""

    def cells(self) -> tuple[str, ...]:
        return (
            self.peer,
            f"{self.rate:,.0f}",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.ratio is None else f"{self.low:.2f}–{self.high:.2f}",  # noqa: RUF001
            f"{self.cpu:.1f}",
            *(f"{latency:.2f}" if latency else "?" for latency in (self.p50, self.p99, self.p999)),
            f"{self.memory / 2**20:.0f}",
            f"{self.start:.2f}",
            f"{self.errors or ''}",
        )


def names(text: str) -> list[str]:
    """Those of an option, comma separated."""
    return [name.strip() for name in text.split(",") if name.strip()]


def rows(case: dict[str, list[Round]], base: str) -> list[Row]:
    """The best first."""
    found = []
    for peer, rounds in case.items():
        if not rounds:
            continue
        to_base = ratios(rounds, case.get(base, []))
        found.append(
            Row(
                peer,
                rate=median(rounds, "rate"),
                ratio=statistics.median(to_base) if to_base else None,
                low=min(to_base, default=0.0),
                high=max(to_base, default=0.0),
                cpu=median(rounds, "cpu"),
                p50=median(rounds, "p50"),
                p99=median(rounds, "p99"),
                p999=median(rounds, "p999"),
                memory=median(rounds, "memory"),
                start=median(rounds, "start"),
                errors=int(sum(one["errors"] for one in rounds)),
            )
        )
    return sorted(found, key=lambda row: -(row.ratio if row.ratio is not None else row.rate))


def tables(results: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Each case with its title."""
    for kind, title in KINDS.items():
        for name, case in results.get(kind, {}).items():
            base = results["base"][kind]
            yield f"{title}, {name} (ratio to {base})", rows(case, base)


def losses(results: dict[str, Any]) -> Iterator[str]:
    """In which case some other peer is faster than the best of ours."""
    for title, found in tables(results):
        ours = [row for row in found if row.peer in OURS]
        if not ours:
            continue
        best = max(ours, key=lambda row: row.rate)
        faster = [
            f"{row.peer} {row.rate / best.rate:.2f} x"
            for row in found
            if row.rate > best.rate and row.peer not in OURS + LIMITS
        ]
        if faster:
            yield f"{title.partition(' (')[0]}: {', '.join(faster)} the requests per second of {best.peer}"
        tail = min(ours, key=lambda row: row.p99)
        shorter = [
            f"{row.peer} {row.p99:.2f} ms" for row in found if 0 < row.p99 < tail.p99 and row.peer not in OURS + LIMITS
        ]
        if shorter:
            yield f"{title.partition(' (')[0]}: p99 of {tail.peer} is {tail.p99:.2f} ms, of {', '.join(shorter)}"


def notes(results: dict[str, Any]) -> Iterator[str]:
    """One line each: what was left out, and what failed."""
    missing = results.get("missing", {})
    if missing:
        yield "Left out: " + "; ".join(f"{name} ({why})" for name, why in missing.items())
    for name, why in results.get("errors", {}).items():
        lines = why.splitlines()
        yield f"Failed: {name}: {lines[-1] if lines else 'no reason given'}"


def idle_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{each / 1024:.1f}") for name, each in sorted(results.get("idle", {}).items(), key=lambda item: item[1])
    ]


def console(results: dict[str, Any]) -> None:
    """Print it all."""
    from rich.console import Console
    from rich.table import Table

    out = Console()
    if not out.is_terminal:
        out.width = FILE_WIDTH
    for title, found in tables(results):
        table = Table(title=title)
        for heading in HEADINGS:
            table.add_column(heading, justify="right" if heading else "left")
        for row in found:
            table.add_row(*row.cells(), style="bold" if row.peer in OURS else "")
        out.print(table)
    if results.get("idle"):
        table = Table("", "KiB per idle connection", title=f"Memory of {results['settings']['idle']} idle connections")
        for cells in idle_rows(results):
            table.add_row(*cells)
        out.print(table)
    for line in losses(results):
        out.print(f"Not first: {line}", highlight=False)
    for line in notes(results):
        out.print(line, highlight=False, markup=False)


def markdown_table(headings: tuple[str, ...], body: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for cells in body:
        yield f"| {' | '.join(cells)} |"


def markdown_of_machine(results: dict[str, Any]) -> Iterator[str]:
    about = results["machine"]
    yield f"{about['date']}, {about['cpu']}, {about['cores']} cores, {about['memory']}, {about['system']}, {about['python']}:"
    yield ""
    yield f"    {results['command']}"
    yield ""
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items())) + "."
    yield ""


def markdown(results: dict[str, Any]) -> str:
    lines = list(markdown_of_machine(results))
    for title, found in tables(results):
        lines += [f"### {title}", "", *markdown_table(HEADINGS, [row.cells() for row in found]), ""]
    if results.get("idle"):
        headings = ("", "KiB per idle connection")
        lines += [
            f"### Memory of {results['settings']['idle']} idle connections",
            "",
            *markdown_table(headings, list(idle_rows(results))),
            "",
        ]
    lost = list(losses(results))
    if lost:
        lines += ["### Where fastserve loses", "", *(f"- {line}" for line in lost), ""]
    for line in notes(results):
        lines += [f"{line}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def put_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end -->`` in `path`; a file without them is replaced whole."""
    opening, closing = f"<!-- {name} -->\n", "<!-- end -->"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    head, found, rest = before.partition(opening)
    if found:
        tail = rest.partition(closing)[2]
        text = f"{head}{opening}{text}{closing}{tail}"
    path.write_text(text, encoding="utf-8")


def save_json(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def save_chart(path: Path, results: dict[str, Any]) -> None:
    """Bars of the ratio in each case, with the range of the rounds; PNG or SVG, as the name ends."""
    figure_of, axes_of = matplotlib_parts()
    found = list(tables(results))
    across = min(2, len(found)) or 1
    down = -(-len(found) // across) or 1
    height = max((len(case) for _, case in found), default=1)
    figure = figure_of(figsize=(6.5 * across, (0.9 + 0.27 * height) * down), layout="constrained")
    for axes, (title, case) in zip(axes_of(figure, down, across), found, strict=False):
        bars = list(reversed(case))
        values = [row.rate if row.ratio is None else row.ratio for row in bars]
        colours = ["#c0392b" if row.peer in OURS else "#bbbbbb" if row.peer in LIMITS else "#5d7fa3" for row in bars]
        spread = None
        if all(row.ratio is not None for row in bars):
            spread = [
                [value - row.low for value, row in zip(values, bars, strict=True)],
                [row.high - value for value, row in zip(values, bars, strict=True)],
            ]
        axes.barh([row.peer for row in bars], values, color=colours, xerr=spread, ecolor="#444444")
        axes.set_title(title, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.set_xlim(left=0)
    figure.savefig(path)


def matplotlib_parts() -> tuple[Any, Any]:
    """Figure, without a display, and what gives the list of its axes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--chart needs matplotlib: pip install 'fastserve[loadtest]'") from None
    matplotlib.rcParams["svg.hashsalt"] = "fastserve"  # the same figures give the same file

    def axes_of(figure: Any, down: int, across: int) -> list[Any]:
        return list(figure.subplots(down, across, squeeze=False).flat)

    return Figure, axes_of
