"""`PoolStats`: the books of a pool at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from fastserve.pool.events import CloseReason

__all__ = ["PoolStats"]


def no_closes() -> Mapping[str, int]:
    zeros: dict[str, int] = dict.fromkeys(CloseReason, 0)
    return MappingProxyType(zeros)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """Gauges of now (conns, idle, dialing, waiting, streams), and counts since the pool was made."""

    conns: int = 0
    """Slots taken: idle, in use and being dialled."""
    idle: int = 0
    dialing: int = 0
    waiting: int = 0
    """Acquires that wait now, for a dial or for a release."""
    streams: int = 0
    """Holders."""
    hits: int = 0
    """Acquires that found a connection ready."""
    misses: int = 0
    """Acquires that did not."""
    waits: int = 0
    """Of those, the ones that waited for another holder's connection."""
    wait_duration: float = 0.0
    """Seconds that `waits` took altogether."""
    timeouts: int = 0
    """Waits that ran out of time, the caller's or the pool's."""
    undelivered: int = 0
    """Connections handed to an acquire that was cancelled in the same moment: they went on to the next."""
    dial_errors: int = 0
    """Failed attempts to dial, time-outs included."""
    closed: Mapping[str, int] = field(default_factory=no_closes)
    """Connections closed, by reason; the keys compare equal to plain strings: ``stats.closed["idle"]``."""

    @property
    def in_use(self) -> int:
        return self.conns - self.idle - self.dialing

    @classmethod
    def total(cls, parts: Iterable[PoolStats]) -> PoolStats:
        """The sum of several pools' books."""
        sums: dict[str, float] = {f.name: 0 for f in fields(cls) if f.name != "closed"}
        closed: dict[str, int] = dict.fromkeys(CloseReason, 0)
        for part in parts:
            for name in sums:
                sums[name] += getattr(part, name)
            for reason, number in part.closed.items():
                closed[reason] += number
        return cls(closed=MappingProxyType(closed), **sums)  # type: ignore[arg-type]
