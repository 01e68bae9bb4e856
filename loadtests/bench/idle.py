"""Resident memory of a server per idle keep-alive connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.processes import Measured

__all__ = ["Idle", "held", "memory_of_idle"]

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
FIRST_NEEDS = 200
"""Connections that come and go before anything is measured: the allocator's own first needs."""


@dataclass(frozen=True)
class Idle:
    connections: int
    start: int
    """Bytes of resident memory."""
    open: int
    closed: int

    @property
    def each(self) -> float:
        """Bytes per connection."""
        return (self.open - self.start) / self.connections


def connect(port: int) -> socket.socket:
    """A connection that has had its first answer. Raises OSError."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        sock.sendall(REQUEST)
        answer = sock.recv(65536)
        if b" 200 " not in answer:
            raise OSError(f"the server answered {answer[:80]!r}")
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def held(port: int, count: int) -> Iterator[None]:
    """So many connections that have had an answer, and ask for nothing more."""
    connections: list[socket.socket] = []
    try:
        while len(connections) < count:
            connections.append(connect(port))
        yield
    finally:
        for sock in connections:
            sock.close()


def memory_of_idle(server: Measured, connections: int, settle: float) -> Idle:
    """Before, with, and after so many; each after `settle` seconds in which the server's timers run."""
    for _ in range(FIRST_NEEDS):
        connect(server.port).close()
    time.sleep(settle)
    start = server.memory()
    with held(server.port, connections):
        time.sleep(settle)
        opened = server.memory()
    time.sleep(settle)
    return Idle(connections, start, opened, server.memory())
