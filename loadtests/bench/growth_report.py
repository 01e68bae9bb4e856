"""How cost grows: tables, Markdown, and the plots.

Results: ``{"axes": {axis: {peer: {point: [round, ...]}}}, "machine": ..., "command": ..., "versions": ..., "errors": ...}``,
with points as strings, as JSON has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.axes import AXES, judge
from bench.measure import median
from bench.report import markdown_of_machine, markdown_table, matplotlib_parts, notes

__all__ = ["console", "markdown", "save_plots", "verdicts"]

HEADINGS = ("", "req/s", "CPU µs", "p99 ms")
MEASURES = (("rate", "req/s"), ("cpu", "CPU µs per request"), ("p99", "p99, ms"))


def series(curve: dict[str, list[dict[str, float]]], key: str) -> tuple[list[int], list[float]]:
    """The points that were measured, and the median at each."""
    points = sorted(int(point) for point, rounds in curve.items() if rounds)
    return points, [median(curve[str(point)], key) for point in points]


def verdicts(results: dict[str, Any]) -> Iterator[tuple[str, str, bool, str]]:
    """Axis, peer, whether cost has the shape that it should, and in words."""
    for name, peers in results["axes"].items():
        for peer, curve in peers.items():
            yield name, peer, *judge(AXES[name], *series(curve, "cpu"))


def sentence(name: str, peer: str, fine: bool, told: str) -> str:
    return f"{AXES[name].unit}, {peer}: {'' if fine else 'NOT '}{AXES[name].shape.value}: {told}"


def body(curve: dict[str, list[dict[str, float]]]) -> list[tuple[str, ...]]:
    points, rates = series(curve, "rate")
    _, cpu = series(curve, "cpu")
    _, p99 = series(curve, "p99")
    return [
        (f"{point:,}", f"{rate:,.0f}", f"{used:.1f}", f"{tail:.2f}")
        for point, rate, used, tail in zip(points, rates, cpu, p99, strict=True)
    ]


def console(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console()
    for name, peers in results["axes"].items():
        for peer, curve in peers.items():
            table = Table(title=f"{AXES[name].unit}, {peer}")
            for heading in HEADINGS:
                table.add_column(heading, justify="right")
            for cells in body(curve):
                table.add_row(*cells)
            out.print(table)
    for verdict in verdicts(results):
        out.print(sentence(*verdict), style="" if verdict[2] else "bold red", highlight=False)
        if not verdict[2]:
            out.print(f"    expected: {AXES[verdict[0]].expected}", highlight=False)
    for line in notes(results):
        out.print(line, highlight=False, markup=False)


def markdown(results: dict[str, Any]) -> str:
    lines = list(markdown_of_machine(results))
    told = list(verdicts(results))
    for name, peers in results["axes"].items():
        lines += [f"### {AXES[name].unit.capitalize()}", "", f"Expected: {AXES[name].expected}", ""]
        lines += [f"- {sentence(*verdict)}" for verdict in told if verdict[0] == name]
        lines.append("")
        headings = ("", *(f"{peer}, {heading}" for peer in peers for heading in HEADINGS[1:]))
        columns = [{cells[0]: cells[1:] for cells in body(curve)} for curve in peers.values()]
        points = list(dict.fromkeys(point for column in columns for point in column))
        nothing = ("",) * (len(HEADINGS) - 1)
        table = [(point, *(cell for column in columns for cell in column.get(point, nothing))) for point in points]
        lines += [*markdown_table(headings, table), ""]
    for line in notes(results):
        lines += [f"{line}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def save_plots(path: Path, results: dict[str, Any]) -> None:
    """One row for each axis: requests per second, CPU per request, p99. PNG or SVG, as the name ends."""
    figure_of, axes_of = matplotlib_parts()
    named = list(results["axes"].items())
    figure = figure_of(figsize=(13, 2.8 * max(len(named), 1)), layout="constrained")
    places = iter(axes_of(figure, max(len(named), 1), len(MEASURES)))
    for name, peers in named:
        for key, label in MEASURES:
            axes = next(places)
            for peer, curve in peers.items():
                axes.plot(*series(curve, key), marker="o", markersize=3, label=peer)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_ylim(bottom=0)
            axes.set_xlabel(AXES[name].unit, fontsize=8)
            axes.set_ylabel(label, fontsize=8)
            axes.tick_params(labelsize=7)
        axes.legend(fontsize=7)
    figure.savefig(path)
