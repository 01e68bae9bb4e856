"""What `HostClient` and `SyncHostClient` have in common: how a request becomes bytes, and what becomes of one that failed."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

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
from fastserve.http1.response_parser import ResponseHeadMemory

__all__ = ["BaseClient"]

MAX_REDIRECTS = 16
"""Redirects that are followed unless told otherwise, as fasthttp's."""


class BaseClient:
    """`options` may be a `ClientOptions`, and further options beside it win. Raises `ConfigError`."""

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

    @property
    def last_use_time(self) -> float:
        """When the last request began, by the monotonic clock; 0.0 before the first."""
        return self._last_use_time

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

    def _told(self, error: BaseException, elapsed: float) -> BaseException:
        """`error` as it is raised: with its time, and the client's own name for a closed pool."""
        if isinstance(error, PoolClosed) and not isinstance(error, ClientClosed):
            error = ClientClosed("the client is closed: make a new one")
        if isinstance(error, ClientError) and not error.elapsed:
            error.elapsed = elapsed
        return error

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
