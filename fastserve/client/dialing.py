"""Dialling: from an `Address` to an open connection, on a loop or in a thread, with or without TLS.

A dial has three phases, look-up, connect and TLS, within one `timeout`. What it raises is a `DialError` that
names the address, the phase, the seconds since the dial began, and why.

Invariants:
1. A dial that fails or is cancelled, at any point, leaves no socket behind. Its look-up may go on for others.
2. It ends within its `timeout`, whatever the peer or the name server does.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from fastserve.client.addresses import Address, parse_addresses
from fastserve.client.connecting import AF_UNIX, AllFailed, Outcomes, connect, connect_blocking, share
from fastserve.client.resolver import Endpoint, Resolver
from fastserve.client.ring import BACKOFF, MAX_BACKOFF, AddressRing
from fastserve.client.tls import explain, tls_for
from fastserve.errors import ConfigError, DialError, DialTimeout, ResolveError, TLSError, TLSTimeout

__all__ = ["DIAL_TIMEOUT", "Dialer", "dial", "dial_blocking"]

P = TypeVar("P", bound=asyncio.BaseProtocol)

DIAL_TIMEOUT = 3.0
"""Seconds for the three phases together, as fasthttp's DefaultDialTimeout."""
TLS_SHUTDOWN_TIMEOUT = 1.0
"""Seconds that a closed connection waits for the peer's close_notify; asyncio's 30 would hold the socket as long."""
TIMER_RESOLUTION = 0.001
"""Seconds: loops round their timers, so that a time-out may come with that much left, which is no time for a dial."""
MAX_TOLD = 8
"""Addresses whose failures a message tells one by one."""

LOOK_UP = "look-up"
CONNECT = "connect"
TLS = "TLS"


async def dial(
    address: Address,
    protocol_factory: Callable[[], P],
    *,
    timeout: float = DIAL_TIMEOUT,
    tls_config: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    tls_timeout: float | None = None,
    resolver: Resolver | None = None,
) -> tuple[asyncio.Transport, P]:
    """A connected transport, after the handshake if there is one, and its protocol.

    Args:
        address: where; all addresses of its name are tried, with happy eyeballs (RFC 8305).
        protocol_factory: called once there is a connection.
        timeout: seconds for the whole dial.
        tls_config: used as it is; by default `default_tls_config`.
        server_hostname: the name to send (SNI) and to check; by default the address's host.
        tls_timeout: seconds for the handshake alone; by default what is left of `timeout`.
        resolver: its cache; by default each dial looks its name up.

    Raises `DialTimeout`, `ResolveError`, `TLSError`, `TLSTimeout`, all of them `DialError`, and `ConfigError`.
    """
    context, name = tls_for(address, tls_config, server_hostname)
    progress = _Progress(address)
    resolver = resolver or Resolver()
    try:
        async with asyncio.timeout(_seconds("timeout", timeout)):
            with progress.during(LOOK_UP):
                endpoints = _unix(address) or await resolver.resolve(address.host, address.port)
            with progress.during(CONNECT):
                sock = await connect(endpoints, progress.outcomes)
            if context is None:
                with progress.during(CONNECT):
                    return await _make_transport(sock, protocol_factory)
            bound = timeout if tls_timeout is None else _seconds("tls_timeout", tls_timeout)
            with progress.during(TLS):
                async with asyncio.timeout(bound):
                    return await _make_transport(
                        sock,
                        protocol_factory,
                        ssl=context,
                        server_hostname=name,
                        ssl_handshake_timeout=max(bound, 0.0) + 60.0,  # ours ends it, and says more
                        ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT,
                    )
    except DialError:
        if progress.phase == CONNECT:
            resolver.forget(address.host)
        raise
    except TimeoutError:
        if progress.phase == CONNECT:
            resolver.forget(address.host)
        raise progress.timed_out() from None


async def _make_transport(
    sock: socket.socket, protocol_factory: Callable[[], P], **options: Any
) -> tuple[asyncio.Transport, P]:
    """Give `sock` to the loop; closed if that fails or is cancelled."""
    try:
        protocol = protocol_factory()
    except BaseException:
        sock.close()
        raise
    loop = asyncio.get_running_loop()
    create: Callable[..., Any] = loop.create_unix_connection if sock.family == AF_UNIX else loop.create_connection
    opening = create(lambda: protocol, sock=sock, **options)
    try:
        if "ssl" in options and not isinstance(loop, asyncio.BaseEventLoop):
            transport = await _shake_hands(loop, opening, sock)
        else:
            transport, _ = await opening
    except BaseException:
        # The loop has had it, and closes it in both cases. asyncio does so through the socket object, in a later
        # turn; uvloop by its number, at once, and with 0.21 the object would close whatever has that number by then
        # (uvloop#738).
        if not isinstance(loop, asyncio.BaseEventLoop):
            sock.detach()
        raise
    return transport, protocol


async def _shake_hands(
    loop: asyncio.AbstractEventLoop,
    opening: Coroutine[Any, Any, tuple[asyncio.Transport, Any]],
    sock: socket.socket,
) -> asyncio.Transport:
    """Await `opening`, a connection with TLS on uvloop, which is not to be cancelled.

    uvloop closes the transport under the TLS of a handshake that is cancelled, and that complains of it to the loop's
    exception handler. So the handshake is told that its peer has gone instead, and ends by itself a few turns later.
    """
    same = sock.dup()  # uvloop closes `sock` by its number, which may be another's when it is shut down here
    task = loop.create_task(opening)
    try:
        return (await asyncio.shield(task))[0]
    except BaseException:
        task.add_done_callback(_close_late)  # also of one that has ended in this turn: nobody else has its transport
        if not task.done():
            try:
                same.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone
        raise
    finally:
        same.close()


def _close_late(task: asyncio.Task[tuple[asyncio.Transport, Any]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()


def dial_blocking(
    address: Address,
    *,
    timeout: float = DIAL_TIMEOUT,
    tls_config: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    tls_timeout: float | None = None,
    resolver: Resolver | None = None,
) -> socket.socket:
    """As `dial`, for threads: a connected socket that blocks without a timeout; set one.

    The addresses of a name are tried one after another, each with its share of the time. Nothing is looked up in the
    socket and ssl modules before it is used, so that gevent's monkey-patching has its effect.
    """
    context, name = tls_for(address, tls_config, server_hostname)
    progress = _Progress(address)
    resolver = resolver or Resolver()
    deadline = progress.started + _seconds("timeout", timeout)
    try:
        with progress.during(LOOK_UP):
            endpoints = _unix(address) or resolver.resolve_blocking(address.host, address.port, timeout)
        with progress.during(CONNECT):
            sock = connect_blocking(endpoints, progress.outcomes, deadline)
        if context is not None:
            bound = deadline
            if tls_timeout is not None:
                bound = min(bound, time.monotonic() + _seconds("tls_timeout", tls_timeout))
            with progress.during(TLS):
                sock = _handshake(sock, context, name, bound)
    except DialError:
        if progress.phase == CONNECT:
            resolver.forget(address.host)
        raise
    sock.settimeout(None)
    return sock


def _handshake(sock: socket.socket, context: ssl.SSLContext, name: str | None, deadline: float) -> ssl.SSLSocket:
    try:
        secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        secured.settimeout(left)
        secured.do_handshake()  # its timeout is for all of it, not for each read
    except BaseException:
        secured.close()
        raise
    return secured


class Dialer:
    """Dials several addresses round robin; one that fails is skipped, and left out for a while.

    A dial that fails on one address goes on with the others within its `timeout`, of which each has its share. See
    `AddressRing` for which are tried when. For loops and threads, and for both at a time.

    Args:
        addresses: as `parse_addresses` takes or returns them.
        tls_config, server_hostname, tls_timeout: as in `dial`, for all addresses.
        resolver: by default one of its own, with its cache.
        backoff, max_backoff: seconds that an address is left out after its first failure, and at most.
    """

    def __init__(
        self,
        addresses: str | Sequence[Address],
        *,
        tls_config: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        tls_timeout: float | None = None,
        resolver: Resolver | None = None,
        backoff: float = BACKOFF,
        max_backoff: float = MAX_BACKOFF,
    ) -> None:
        if isinstance(addresses, str):
            addresses = parse_addresses(addresses)
        self.addresses = tuple(addresses)
        self._ring = AddressRing(self.addresses, backoff=backoff, max_backoff=max_backoff)
        self._lock = threading.Lock()  # around the ring alone, never around a dial
        for address in self.addresses:
            tls_for(address, tls_config, server_hostname)  # a bad name is told here, where the caller sees it
        self._options: dict[str, Any] = {
            "tls_config": tls_config,
            "server_hostname": server_hostname,
            "tls_timeout": None if tls_timeout is None else _seconds("tls_timeout", tls_timeout),
            "resolver": resolver or Resolver(),
        }

    async def dial(
        self, protocol_factory: Callable[[], P], *, timeout: float = DIAL_TIMEOUT
    ) -> tuple[asyncio.Transport, P]:
        """As the function `dial`; `protocol_factory` is called for each address that connects."""
        round = _Round(self, timeout)
        for index, seconds in round:
            try:
                made = await dial(self.addresses[index], protocol_factory, timeout=seconds, **self._options)
            except DialError as error:
                round.failed(index, error)
            else:
                self._succeeded(index)
                return made
        raise round.error()

    def dial_blocking(self, *, timeout: float = DIAL_TIMEOUT) -> socket.socket:
        """As the function `dial_blocking`."""
        round = _Round(self, timeout)
        for index, seconds in round:
            try:
                sock = dial_blocking(self.addresses[index], timeout=seconds, **self._options)
            except DialError as error:
                round.failed(index, error)
            else:
                self._succeeded(index)
                return sock
        raise round.error()

    def left_out(self) -> list[Address]:
        """The addresses that failed lately, and that dials try last."""
        with self._lock:
            return self._ring.left_out(time.monotonic())

    def _order(self) -> list[int]:
        with self._lock:
            return self._ring.order(time.monotonic())

    def _failed(self, index: int) -> None:
        with self._lock:
            self._ring.failed(index, time.monotonic())

    def _succeeded(self, index: int) -> None:
        with self._lock:
            self._ring.succeeded(index)


class _Round:
    """One dial over the addresses of a `Dialer`: iterates over those to try, each with the seconds it may take."""

    def __init__(self, dialer: Dialer, timeout: float) -> None:
        self._dialer = dialer
        self._started = time.monotonic()
        self._deadline = self._started + _seconds("timeout", timeout)
        self._errors: list[DialError] = []

    def __iter__(self) -> Iterator[tuple[int, float]]:
        order = self._dialer._order()
        for place, index in enumerate(order):
            left = self._deadline - time.monotonic()
            if place and left < TIMER_RESOLUTION:
                return
            yield index, share(left, len(order) - place)

    def failed(self, index: int, error: DialError) -> None:
        self._dialer._failed(index)
        self._errors.append(error)

    def error(self) -> DialError:
        """What to raise when no address worked: the error itself if there is one, and one that tells all if more."""
        errors = self._errors
        if len(self._dialer.addresses) == 1 and errors:
            return errors[0]
        elapsed = time.monotonic() - self._started
        names = ", ".join(_some([str(address) for address in self._dialer.addresses]))
        untried = len(self._dialer.addresses) - len(errors)
        told = _some([str(error) for error in errors]) + ([f"{untried} not tried, the time was up"] if untried else [])
        kinds = {type(error) for error in errors}
        kind = DialTimeout if untried else kinds.pop() if len(kinds) == 1 else DialError
        error = kind(
            f"none of {names} could be dialled, {elapsed:.3f} s: {'; '.join(told)}",
            phase=errors[-1].phase if errors else LOOK_UP,
            elapsed=elapsed,
            address=names,
        )
        error.__cause__ = errors[-1] if errors else None
        return error


class _Progress:
    """How far a dial has come, and its errors."""

    def __init__(self, address: Address) -> None:
        self.started = time.monotonic()
        self.phase = LOOK_UP
        self.outcomes: Outcomes = {}
        self._address = address

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """What fails inside becomes the `DialError` of this phase."""
        self.phase = phase
        try:
            yield
        except OSError as error:
            # The system's own time-outs have a number; ours, and those of sockets, have none.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise self.timed_out() from None
            raise self._failed(error) from error

    def timed_out(self) -> DialTimeout:
        elapsed = time.monotonic() - self.started
        text = f"can't dial {self._address}: {self.phase} not done after {elapsed:.3f} s"
        if self.phase == CONNECT:
            text += f": {self._outcomes()}"
        kind = TLSTimeout if self.phase == TLS else DialTimeout
        return kind(text, phase=self.phase, elapsed=elapsed, address=str(self._address))

    def _failed(self, error: OSError) -> DialError:
        elapsed = time.monotonic() - self.started
        kind: type[DialError] = DialError
        if self.phase == TLS:
            kind, why = TLSError, explain(error)
        elif isinstance(error, AllFailed):
            why = self._outcomes()
        else:
            kind, why = (ResolveError if self.phase == LOOK_UP else DialError), error.strerror or str(error)
        text = f"can't dial {self._address}: {self.phase} failed after {elapsed:.3f} s: {why}"
        return kind(text, phase=self.phase, elapsed=elapsed, address=str(self._address))

    def _outcomes(self) -> str:
        return ", ".join(_some([f"{endpoint}: {outcome}" for endpoint, outcome in self.outcomes.items()]))


def _some(told: list[str]) -> list[str]:
    return told if len(told) <= MAX_TOLD else [*told[:MAX_TOLD], f"and {len(told) - MAX_TOLD} more"]


def _unix(address: Address) -> list[Endpoint] | None:
    if address.uds is None:
        return None
    if AF_UNIX is None:
        raise ConfigError(f"{address}: this system has no unix sockets: use host and port")
    return [Endpoint(AF_UNIX, address.uds)]


def _seconds(name: str, value: float) -> float:
    """`value`, if it ends. What is not over 0 has ended: callers give what is left of some time of theirs."""
    if not math.isfinite(value):
        raise ConfigError(f"{name} {value!r}: takes a number of seconds; a dial without end would hang for ever")
    return value
