"""Along which quantities cost is measured, what should be true of each, and where it is not."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bench.cases import CASES, Case, get_with_headers, post

__all__ = ["AXES", "Axis", "Shape", "judge"]

FLAT = 1.25
"""How much more than the least a request may cost where it should cost the same; rounds differ by a tenth or two."""
LINEAR = 1.5
"""How much more than halfway the last unit may cost where each should cost the same."""
KIB = 1024


class Shape(enum.Enum):
    """What the CPU time of a request should do when the quantity grows."""

    FLAT = "flat"
    LINEAR = "the same for each more"
    FALLING = "falling"


@dataclass(frozen=True)
class Axis:
    unit: str
    points: tuple[int, ...]
    quick: tuple[int, ...]
    shape: Shape
    expected: str
    """What to expect, and why it may be otherwise."""
    client: bool = False

    def case(self, name: str, value: int) -> Case:
        """What is asked at that point, of a server."""
        if name == "response":
            return Case(CASES["get"].request, response_size=value)
        if name == "request":
            return Case(post(b"x" * value))
        if name == "headers":
            return Case(get_with_headers(value))
        if name == "pipeline":
            return Case(CASES["get"].request * value, pipelined=value)
        return CASES["get"]


AXES = {
    "busy": Axis(
        "busy connections",
        (1, 10, 100, 1000),
        (1, 100),
        Shape.FLAT,
        "flat, but for one: then server and generator wait for each other, and every request needs a turn of the loop. "
        "p99 grows with the connections, as a request waits for those before it.",
    ),
    "idle": Axis(
        "idle connections beside the busy ones",
        (0, 100, 1000, 10_000),
        (0, 1000),
        Shape.FLAT,
        "flat: nobody looks at a connection on which nothing happens but the sweep of the deadlines.",
    ),
    "response": Axis(
        "bytes of the response's body",
        (0, KIB, 16 * KIB, 64 * KIB, 256 * KIB, KIB * KIB),
        (0, 64 * KIB),
        Shape.LINEAR,
        "a constant, and the kernel's copy of each byte.",
    ),
    "request": Axis(
        "bytes of the request's body",
        (0, KIB, 16 * KIB, 64 * KIB, 256 * KIB, KIB * KIB),
        (0, 64 * KIB),
        Shape.LINEAR,
        "a constant, and a copy or two of each byte: into the loop's buffer, and together when it came in pieces.",
    ),
    "headers": Axis(
        "headers of the request",
        (1, 10, 30, 60, 90),
        (1, 30),
        Shape.LINEAR,
        "a constant, and the same for each header.",
    ),
    "pipeline": Axis(
        "requests sent at once",
        (1, 2, 4, 8, 16, 32, 64),
        (1, 16),
        Shape.FALLING,
        "falling towards what a request costs without system calls, which all of a batch share.",
    ),
    "waiters": Axis(
        "requests that wait for one of the connections",
        (0, 100, 1000, 10_000),
        (0, 1000),
        Shape.FLAT,
        "CPU flat: a released connection goes to the first of the queue. Latency grows, as everybody waits for those before.",
        client=True,
    ),
}


def judge(axis: Axis, points: list[int], cpu: list[float]) -> tuple[bool, str]:
    """Whether the CPU microseconds per request at `points` have the axis's shape, and in words."""
    if len(points) < 2:
        return True, f"{cpu[0]:.1f} µs" if cpu else "nothing measured"
    if axis.shape is Shape.FLAT:
        low, high = min(cpu), max(cpu)
        where = f"{low:.1f} µs at {points[cpu.index(low)]:,} to {high:.1f} µs at {points[cpu.index(high)]:,}"
        return high <= FLAT * low, f"{where}, {high / low:.2f} x"
    if axis.shape is Shape.LINEAR:
        each = [(here - cpu[0]) / (point - points[0]) for point, here in zip(points[1:], cpu[1:], strict=True)]
        halfway, last = each[(len(each) - 1) // 2], each[-1]
        what, scale = ("KiB", KIB) if "bytes" in axis.unit else ("one", 1)
        told = f"{cpu[0]:.1f} µs, and {last * scale:.2f} µs for each {what} more"
        # Where the quantity costs next to nothing, a ratio of two such costs would be noise.
        return last * (points[-1] - points[0]) <= 0.1 * cpu[0] or last <= LINEAR * max(halfway, 0.0), told
    least, rising = cpu[0], ""
    for point, here in zip(points, cpu, strict=True):
        if here > FLAT * least and not rising:
            rising = f"; {here:.1f} µs at {point:,} again"
        least = min(least, here)
    return not rising, f"{cpu[0]:.1f} µs at {points[0]:,}, {cpu[-1]:.1f} µs at {points[-1]:,}{rising}"
