"""What `HostClient` and `SyncHostClient` have in common: how a request becomes bytes, and what becomes of one that failed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, Generic, Protocol, TypeVar

from fastserve.client.addresses import parse_addresses
from fastserve.client.encoder import RequestEncoder
from fastserve.client.options import ClientOptions
from fastserve.client.redirect import next_request
from fastserve.client.request import ClientRequest
from fastserve.client.response import ClientResponse
from fastserve.client.retry import may_retry
from fastserve.errors import (
    ClientClosed,
    ClientError,
    ClosedBeforeResponse,
    ConfigError,
    InvalidRequest,
    MalformedResponse,
    PoolClosed,
    RedirectError,
    RequestTimeout,
    WriteError,
)
from fastserve.http1.response_parser import ResponseHeadMemory, ResponseParser, ResponseState
from fastserve.pool.stats import PoolStats

__all__ = ["MAX_REDIRECTS", "SWITCHING_PROTOCOLS", "BaseClient", "check_switch", "time_limit"]

MAX_REDIRECTS = 16
"""Redirects that are followed unless told otherwise, as fasthttp's."""
SWITCHING_PROTOCOLS = 101

R = TypeVar("R")
"""What a request returns: a `ClientResponse`, or an awaitable of one."""


class _Pool(Protocol):
    def stats(self) -> PoolStats: ...
    def set_max_conns(self, max_conns: int) -> None: ...
    def close_idle_connections(self) -> None: ...


class BaseClient(ABC, Generic[R]):
    """`options` may be a `ClientOptions`, and further options beside it win. Raises `ConfigError`."""

    _pool: _Pool

    def __init__(self, addr: str, options: ClientOptions | None, **changes: Any) -> None:
        known = [f.name for f in fields(ClientOptions)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"{name}: not an option of a client; there are {', '.join(known)}")
        if options is not None and not isinstance(options, ClientOptions):
            raise ConfigError(f"options={options!r}: takes a ClientOptions, or give each option by its name")
        base = {name: getattr(options, name) for name in known} if options is not None else {}
        self.options = ClientOptions(**{**base, **changes})
        self.addresses = parse_addresses(addr, is_tls=self.options.is_tls)
        self.addr = addr
        try:
            self._encoder = RequestEncoder(self.addresses, self.options)
        except InvalidRequest as error:  # what every request would be told
            raise ConfigError(f"addr={addr!r}, name={self.options.name!r}: {error.message}") from None
        self._memory = ResponseHeadMemory(self.options.max_header_size, self.options.max_header_count)
        self._last_use_time = 0.0

    # Requests

    @abstractmethod
    def do(self, request: ClientRequest, *, timeout: float | None = None, deadline: float | None = None) -> R:
        """Send `request` and return its response, of any status, its body read (but see `stream_response_body`).

        Args:
            timeout: seconds for everything: the wait for a connection, retries, and the body.
            deadline: the same as a time of `time.monotonic()`. The earlier one counts; by default there is none but those
                of the options for each phase.

        Raises `ClientError`s, each with `phase` and `elapsed`.
        """

    @abstractmethod
    def do_redirects(
        self,
        request: ClientRequest,
        *,
        max_redirects: int = MAX_REDIRECTS,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> R:
        """As `do`, and follow redirects (301, 302, 303, 307, 308) to this upstream: at most `max_redirects`.

        POST becomes GET without its body after 301, 302 and 303. Raises `TooManyRedirects`, and `RedirectError` for one that
        leads to another upstream.
        """

    def request(
        self,
        method: str,
        url: str,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        max_redirects: int = 0,
        **parts: Any,
    ) -> R:
        """`do` with a request made here. `HostClient` returns an awaitable, `SyncHostClient` the response.

        Args:
            method: ``"GET"``.
            url: a path (``"/search?q=1"``), or a whole URL of this upstream.
            timeout, deadline: seconds, and a time of `time.monotonic()`, for everything together; by default None.
            max_redirects: how many redirects are followed; by default 0, which returns the redirect.
            parts: params, headers, json, form, files and body, by name; see `ClientRequest`.

        Raises `ClientError`s, each with `phase` and `elapsed`; those that are for time are `TimeoutError` too.
        """
        request = ClientRequest(method, url, **parts)
        if max_redirects:
            return self.do_redirects(request, max_redirects=max_redirects, timeout=timeout, deadline=deadline)
        return self.do(request, timeout=timeout, deadline=deadline)

    def get(self, url: str, **parts: Any) -> R:
        """``request("GET", url, ...)``: timeout, deadline, max_redirects, params, headers, json, form, files, body."""
        return self.request("GET", url, **parts)

    def head(self, url: str, **parts: Any) -> R:
        """``request("HEAD", url, ...)``: timeout, deadline, max_redirects, params, headers, json, form, files, body."""
        return self.request("HEAD", url, **parts)

    def post(self, url: str, **parts: Any) -> R:
        """``request("POST", url, ...)``: timeout, deadline, max_redirects, params, headers, json, form, files, body."""
        return self.request("POST", url, **parts)

    def put(self, url: str, **parts: Any) -> R:
        """``request("PUT", url, ...)``: timeout, deadline, max_redirects, params, headers, json, form, files, body."""
        return self.request("PUT", url, **parts)

    def patch(self, url: str, **parts: Any) -> R:
        """``request("PATCH", url, ...)``: timeout, deadline, max_redirects, params, headers, json, form, files, body."""
        return self.request("PATCH", url, **parts)

    def delete(self, url: str, **parts: Any) -> R:
        """``request("DELETE", url, ...)``: timeout, deadline, max_redirects, params, headers, json, form, files, body."""
        return self.request("DELETE", url, **parts)

    # The client

    def stats(self) -> PoolStats:
        """The pool's books."""
        return self._pool.stats()

    @property
    def conns_count(self) -> int:
        """Connections: idle, in use and being dialled."""
        return self.stats().conns

    @property
    def idle_conns_count(self) -> int:
        return self.stats().idle

    @property
    def pending_requests(self) -> int:
        """Requests under way, those that wait for a connection included."""
        stats = self.stats()
        return stats.streams + stats.waiting

    @property
    def last_use_time(self) -> float:
        """When the last request began, by the monotonic clock; 0.0 before the first."""
        return self._last_use_time

    def set_max_conns(self, max_conns: int) -> None:
        """Change `max_conns`: raised, those that wait are served; lowered, connections above it close when they are free."""
        self._pool.set_max_conns(max_conns)

    def close_idle_connections(self) -> None:
        self._pool.close_idle_connections()

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<{type(self).__name__} {self.addr}: {stats.conns} connections, {stats.idle} idle, {stats.waiting} waiting>"

    # What becomes of a request

    def _may_retry(
        self,
        error: BaseException,
        request: ClientRequest,
        attempt: int,
        wrote: bool,
        started: bool,
        now: float,
        limit: float,
    ) -> bool:
        """True when `request` may be sent again, on a fresh connection, after its attempt number `attempt` ended so."""
        if not isinstance(error, ClosedBeforeResponse | WriteError) or isinstance(error, TimeoutError) or now >= limit:
            return False
        retry_if = self.options.retry_if
        return may_retry(
            request.method,
            attempt,
            self.options.max_idempotent_call_attempts,
            wrote_anything=wrote,
            got_response_byte=started,
            has_stream_body=request.stream is not None,
            retry_if=None if retry_if is None else bool(retry_if(request)),
        )

    def _told(self, error: BaseException, elapsed: float, attempts: int = 1) -> BaseException:
        """`error` as it is raised: with its time, its number of attempts, and the client's own name for a closed pool."""
        if isinstance(error, PoolClosed) and not isinstance(error, ClientClosed):
            error = ClientClosed("the client is closed: make a new one")
        if isinstance(error, ClientError) and not error.elapsed:
            error.elapsed = elapsed
        if attempts > 1 and isinstance(error, ClosedBeforeResponse | WriteError):
            error.message += f"; this was attempt {attempts} (max_idempotent_call_attempts, retry_if)"
        return error

    def _stream_head(self, request: ClientRequest, parser: ResponseParser) -> tuple[ClientResponse, list[str]]:
        """A response whose body is to be streamed, and the content codings that its reader undoes."""
        if parser.head.status == SWITCHING_PROTOCOLS:
            check_switch(request)
        response = ClientResponse(parser.head, b"", parser.trailer_fields)
        is_empty = parser.state is ResponseState.COMPLETE and not parser.parts
        encodings = response.content_encodings if self.options.decode_content and not is_empty else []
        if encodings:  # they say nothing of what is read
            response.headers.discard("content-encoding")
            response.headers.discard("content-length")
        return response, encodings

    def _redirected(
        self, request: ClientRequest, response: ClientResponse, followed: int, max_redirects: int
    ) -> ClientRequest | None:
        """The request that `response` sends to, if it does, and if it is this client's upstream."""
        origin = request.origin or self._encoder.origin
        following = next_request(request, response, origin, followed=followed, max_redirects=max_redirects)
        if following is not None and following.origin is not None and not self._encoder.serves(following.origin):
            raise RedirectError(
                f"a redirect to {following.origin}, and this client talks to {self._encoder.origin}: send that with another one"
            )
        return following


def check_switch(request: ClientRequest) -> None:
    """For a 101 response, which is the last of its connection. Raises `MalformedResponse` where it was not asked for."""
    if "upgrade" not in request.headers:
        raise MalformedResponse("a 101 response to a request without Upgrade (RFC 9110 15.2.2, 7.8)")


def time_limit(now: float, timeout: float | None, deadline: float | None) -> float:
    """When a request that begins `now` is given up. Raises `RequestTimeout` when that is past already."""
    if timeout is None and deadline is None:
        return math.inf
    for name, value in (("timeout", timeout), ("deadline", deadline)):
        if value is not None and (not isinstance(value, int | float) or value != value):
            raise InvalidRequest(f"{name}={value!r}: takes a number of seconds, or None")
    limit = min(math.inf if timeout is None else now + timeout, math.inf if deadline is None else deadline)
    if limit <= now:
        raise RequestTimeout("the request's time was up before it began", phase="request")
    return limit
