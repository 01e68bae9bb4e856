"""What sleeps in an `acquire` of either shell, until it has its connection."""

from __future__ import annotations

import asyncio
import threading
from typing import TypeVar

from fastserve.pool.want import WantConn

__all__ = ["LoopWant", "ThreadWant"]

C = TypeVar("C")


class LoopWant(WantConn[C]):
    """A task's."""

    __slots__ = ("signal",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.signal: asyncio.Future[None] = loop.create_future()

    def wake(self) -> None:
        if not self.signal.done():
            self.signal.set_result(None)


class ThreadWant(WantConn[C]):
    """A thread's, on a lock of its own."""

    __slots__ = ("signal",)

    def __init__(self) -> None:
        super().__init__()
        self.signal = threading.Lock()
        self.signal.acquire()

    def wake(self) -> None:
        self.signal.release()
