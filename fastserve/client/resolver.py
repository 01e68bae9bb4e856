"""`Resolver`: names to addresses, with a small cache. One for loops and threads alike.

Invariants:
1. Look-ups of one name at one time are one look-up, in a thread of its own that nobody waits for at exit. (The
   loop's executor would not do: `asyncio.run` waits for its threads, and a look-up may hang for minutes.)
2. A waiter that is cancelled, or whose time is up, leaves the look-up to the others.
3. Only results are kept, no failures; at most `max_names`, each for `life` seconds.
4. A numeric host needs no look-up.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from fastserve.errors import ConfigError

__all__ = ["Endpoint", "Resolver", "interleave", "numeric"]

LIFE = 60.0
"""Seconds, as fasthttp's DefaultDNSCacheDuration: a name that moves is noticed within a minute."""
MAX_NAMES = 1024
MAX_LOOK_UPS = 64
"""Look-ups under way: each holds a thread, for as long as the system's resolver takes to give up."""
FORGETTABLE_AFTER = 1.0
"""Seconds before a result that did not work is looked up again: a dead host must not become a flood of queries."""


class Endpoint(NamedTuple):
    """Where a socket connects to: an address family, and an address in that family's form."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return f"unix:{self.sockaddr}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Result(NamedTuple):
    endpoints: list[Endpoint]
    since: float


class Resolver:
    """Looks up hosts with the system's resolver.

    Args:
        life: seconds that a result is used for, by default 60; 0 keeps none.
        max_names: names kept, by default 1024; the oldest leave first.
        look_up: host to endpoints of port 0, blocking; by default `socket.getaddrinfo`. Raises OSError.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        life: float = LIFE,
        max_names: int = MAX_NAMES,
        look_up: Callable[[str], list[Endpoint]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not life >= 0 or max_names < 1:
            raise ConfigError(f"life {life} takes 0 or more seconds, and max_names {max_names} at least 1")
        self._life = life
        self._max_names = max_names
        self._look_up = look_up or _getaddrinfo
        self._clock = clock
        self._lock = threading.Lock()
        self._results: dict[str, _Result] = {}
        self._pending: dict[str, Future[list[Endpoint]]] = {}

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        """Endpoints in the order to try them (RFC 8305 4). Raises OSError; as long as the system's resolver takes."""
        found = numeric(host, port) or self._known_or_pending(host)
        if isinstance(found, Future):
            # Cancelling the wrapped future does not reach a look-up that runs.
            found = await asyncio.wrap_future(found)
        return _with_port(found, port)

    def resolve_blocking(self, host: str, port: int, timeout: float) -> list[Endpoint]:
        """As `resolve`, for threads. Raises TimeoutError after `timeout` seconds."""
        found = numeric(host, port) or self._known_or_pending(host)
        if isinstance(found, Future):
            found = found.result(max(timeout, 0.0))
        return _with_port(found, port)

    def forget(self, host: str) -> None:
        """None of its addresses worked: the next dial asks again, in case that it moved."""
        with self._lock:
            result = self._results.get(host)
            if result is not None and result.since + FORGETTABLE_AFTER <= self._clock():
                del self._results[host]

    def _known_or_pending(self, host: str) -> list[Endpoint] | Future[list[Endpoint]]:
        with self._lock:
            result = self._results.get(host)
            if result is not None and self._clock() < result.since + self._life:
                return result.endpoints
            pending = self._pending.get(host)
            if pending is not None:
                return pending
            if len(self._pending) >= MAX_LOOK_UPS:
                raise OSError(f"{MAX_LOOK_UPS} look-ups of other names are under way; does the name server answer?")
            pending = self._pending[host] = Future()
            pending.set_running_or_notify_cancel()
        try:
            threading.Thread(target=self._run, args=(host, pending), name="fastserve-resolver", daemon=True).start()
        except RuntimeError as error:
            self._finish(host, pending, OSError(f"no thread for the look-up: {error}"))
        return pending

    def _run(self, host: str, pending: Future[list[Endpoint]]) -> None:
        outcome: list[Endpoint] | OSError
        try:
            outcome = self._look_up(host) or OSError("it has no address")
        except OSError as error:
            outcome = error
        except Exception as error:  # such as UnicodeError for a name that is none
            outcome = OSError(str(error) or type(error).__name__)
        self._finish(host, pending, outcome)

    def _finish(self, host: str, pending: Future[list[Endpoint]], outcome: list[Endpoint] | OSError) -> None:
        with self._lock:
            del self._pending[host]
            self._results.pop(host, None)
            if not isinstance(outcome, OSError) and self._life:
                while len(self._results) >= self._max_names:
                    del self._results[next(iter(self._results))]
                self._results[host] = _Result(outcome, self._clock())
        # Outside the lock: waiters' callbacks run here.
        if isinstance(outcome, OSError):
            pending.set_exception(outcome)
        else:
            pending.set_result(outcome)


def numeric(host: str, port: int) -> list[Endpoint] | None:
    """The endpoint of a numeric host; None for a name."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        if ":" not in host:
            return None
    else:
        return [Endpoint(socket.AF_INET, (host, port))]
    # Does not block: it is only read, with its zone.
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_STREAM, flags=flags)
    return [Endpoint(socket.AF_INET6, found[0][4])]


def interleave(endpoints: list[Endpoint]) -> list[Endpoint]:
    """The resolver's order, but families by turns: a family that is broken costs one attempt (RFC 8305 4)."""
    families: dict[int, list[Endpoint]] = {}
    for endpoint in dict.fromkeys(endpoints):
        families.setdefault(endpoint.family, []).append(endpoint)
    return [endpoint for endpoint in chain.from_iterable(zip_longest(*families.values())) if endpoint is not None]


def _getaddrinfo(host: str) -> list[Endpoint]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    wanted = (socket.AF_INET, socket.AF_INET6)
    return interleave([Endpoint(family, sockaddr) for family, _, _, _, sockaddr in found if family in wanted])


def _with_port(endpoints: list[Endpoint], port: int) -> list[Endpoint]:
    return [Endpoint(family, (address[0], port, *address[2:])) for family, address in endpoints]
