"""From endpoints to one connected socket, for loops and for threads.

Invariants:
1. One socket comes out; every other one that was opened is closed, also when the caller is cancelled at any point.
2. `outcomes` tells of every endpoint that was tried, in the order of the attempts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time

from fastserve.client.resolver import Endpoint

__all__ = ["AllFailed", "Outcomes", "connect", "connect_blocking", "share"]

ATTEMPT_DELAY = 0.25
"""Seconds before the next endpoint is tried beside one that has not answered (RFC 8305 5, Connection Attempt Delay)."""
LEAST_SHARE = 1.0
"""Seconds below which the time for a dial is not divided: a far peer needs some for its answer."""

AF_UNIX = getattr(socket, "AF_UNIX", None)
"""None where the system has none."""

Outcomes = dict[Endpoint, str]
"""What became of each attempt; ``no answer`` until something did."""


class AllFailed(OSError):
    """No endpoint took the connection; the outcomes say why."""


def share(left: float, attempts: int) -> float:
    """Seconds for the next of `attempts` that have `left` seconds together: a silent one must not take it all."""
    return min(left, max(left / attempts, LEAST_SHARE))


async def connect(endpoints: list[Endpoint], outcomes: Outcomes) -> socket.socket:
    """The first of `endpoints` that answers: each gets a head start over the next one (RFC 8305 5).

    Raises `AllFailed`. As long as the system takes; the caller bounds it.
    """
    if len(endpoints) == 1:
        try:
            return await _attempt(endpoints[0], outcomes)
        except OSError as error:
            raise AllFailed from error
    waiting = list(reversed(endpoints))
    running: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_attempt(waiting.pop(), outcomes)))
            while True:
                done, running = await asyncio.wait(
                    running, timeout=ATTEMPT_DELAY if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                running |= done  # until looked at, they are to be closed
                for attempt in done:
                    failure = attempt.exception()
                    running.remove(attempt)
                    if failure is None:
                        return attempt.result()
                    if not isinstance(failure, OSError):
                        raise failure
                if waiting or not running:
                    break  # one failed, or had its head start: the next one, without waiting any longer
        raise AllFailed from failure
    finally:
        for attempt in running:
            attempt.cancel()
            # In this very tick it may have connected.
            attempt.add_done_callback(_close_result)


def _close_result(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _attempt(endpoint: Endpoint, outcomes: Outcomes) -> socket.socket:
    try:
        sock = _open(endpoint, outcomes)
        try:
            sock.setblocking(False)
            if sock.family == AF_UNIX:
                # Never in progress: it is there, or refused, or its backlog is full, and then a loop's
                # sock_connect would wait for writability, which comes at once, and call it connected.
                sock.connect(endpoint.sockaddr)
            else:
                await asyncio.get_running_loop().sock_connect(sock, endpoint.sockaddr)
                _refuse_itself(sock, endpoint)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        _note(endpoint, error, outcomes)
        raise
    return sock


def connect_blocking(endpoints: list[Endpoint], outcomes: Outcomes, deadline: float) -> socket.socket:
    """The first of `endpoints` that answers, one after another, each with its share of the time until `deadline`.

    `deadline` is of `time.monotonic`. Raises `AllFailed`, or TimeoutError when it has passed. The socket's timeout
    is unspecified.
    """
    error: OSError | None = None
    for index, endpoint in enumerate(endpoints):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            sock = _open(endpoint, outcomes)
            try:
                sock.settimeout(share(left, len(endpoints) - index))
                sock.connect(endpoint.sockaddr)
                if sock.family != AF_UNIX:
                    _refuse_itself(sock, endpoint)
            except BaseException:
                sock.close()
                raise
        except OSError as failure:
            _note(endpoint, failure, outcomes)
            error = failure
        else:
            return sock
    if deadline <= time.monotonic():
        raise TimeoutError
    raise AllFailed from error


def _open(endpoint: Endpoint, outcomes: Outcomes) -> socket.socket:
    outcomes[endpoint] = "no answer"
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    if endpoint.family != AF_UNIX:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            raise
    return sock


def _refuse_itself(sock: socket.socket, endpoint: Endpoint) -> None:
    """A port of this machine that nobody listens on, and that the system gave to our side: TCP connects it to itself."""
    if sock.getsockname()[:2] == endpoint.sockaddr[:2]:
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _note(endpoint: Endpoint, error: OSError, outcomes: Outcomes) -> None:
    if isinstance(error, TimeoutError) and error.errno is None:
        return  # out of our own time: it gave no answer
    if error.errno == errno.EAGAIN:
        outcomes[endpoint] = "its queue of connections not yet accepted is full"
    else:
        outcomes[endpoint] = os.strerror(error.errno) if error.errno else str(error)
