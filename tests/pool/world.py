"""The outside of a pool under test: connections that count, dials that take their time or fail when told to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

TICKS = 5
"""Turns of the loop that a dial, a test or a reset takes."""


class Conn:
    """A connection: numbered in the order of opening, closed at most once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def __repr__(self) -> str:
        return f"<Conn {self.number}>"


class World:
    """Opens and closes connections for asyncio; `errors` are raised by the next dials, in order."""

    def __init__(self) -> None:
        self.conns: list[Conn] = []
        self.errors: list[Exception] = []
        self.dials = 0
        self.gate: asyncio.Event | None = None
        """Dials wait for it, if there is one."""

    async def dial(self) -> Conn:
        self.dials += 1
        await ticks(TICKS)
        if self.gate is not None:
            await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.conns.append(Conn(len(self.conns)))
        return self.conns[-1]

    def close(self, conn: Conn) -> None:
        assert not conn.closed, "closed twice"
        conn.closed = True

    @property
    def open(self) -> list[Conn]:
        return [conn for conn in self.conns if not conn.closed]


class ThreadWorld:
    """The same for threads. `gate` is waited for by dials; `fault` may raise instead of a dial."""

    def __init__(self, fault: Callable[[], None] = lambda: None) -> None:
        self.lock = threading.Lock()
        self.conns: list[Conn] = []
        self.fault = fault
        self.gate: threading.Event | None = None
        self.dialling = threading.Semaphore(0)
        """Released once for each dial that begins."""

    def dial(self) -> Conn:
        self.dialling.release()
        if self.gate is not None:
            assert self.gate.wait(20)
        self.fault()
        with self.lock:
            self.conns.append(Conn(len(self.conns)))
            return self.conns[-1]

    def close(self, conn: Conn) -> None:
        with self.lock:
            assert not conn.closed, "closed twice"
            conn.closed = True

    @property
    def open(self) -> list[Conn]:
        with self.lock:
            return [conn for conn in self.conns if not conn.closed]


class Clock:
    """Time that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def ticks(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Until it is true, turn by turn; the `run` fixture bounds it."""
    while not condition():  # noqa: ASYNC110 (there is no event for the books of a pool)
        await asyncio.sleep(0)


def wait_until(condition: Callable[[], bool]) -> None:
    """For threads, whose progress has no event here; bounded."""
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        pause.wait(0.001)
