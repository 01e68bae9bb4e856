"""`SyncHostClient`: `HostClient` for threads, with the same options, behaviour and errors. Also under gevent.

Any number of threads share one client. A request is written and its response read in the caller's own thread; which
connection it gets is `SyncConnPool`'s to decide.

Invariants (tests/client/test_sync_*.py): those of `host_client`, and
4. No loop watches an idle connection, so whoever takes one looks whether it is alive before anything is written: one
   that is dead makes way for another, and is no attempt of the request.
"""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Callable, Generator, Iterator
from math import inf
from types import TracebackType
from typing import Any

from fastserve.client.base import MAX_REDIRECTS, SWITCHING_PROTOCOLS, BaseClient, check_switch, time_limit
from fastserve.client.dialing import Dialer
from fastserve.client.encoder import BodyFramer, pieces_of
from fastserve.client.options import ClientOptions
from fastserve.client.request import ClientRequest
from fastserve.client.resolver import Resolver
from fastserve.client.response import ClientResponse
from fastserve.client.sync_connection import SyncConnection
from fastserve.client.sync_pool import ClientPool, Pooled
from fastserve.client.sync_reader import SyncBodyReader
from fastserve.errors import ClientError, ClosedBeforeResponse, DialError, DialTimeout
from fastserve.http1.request_writer import asks_to_close
from fastserve.pool.dials import redial_timeout

__all__ = ["SyncHostClient"]

GRACE = 1.0
"""Seconds that the pool gives a dial of ours beyond `dial_timeout`: it minds that itself, and says more when it ends."""


class SyncHostClient(BaseClient[ClientResponse]):
    """Talks to the upstream at `addr`: ``"host:port"``, several of them with commas between (dialled round robin, a bad one
    is skipped), ``"https://host"``, or ``"unix:/path"``.

    Options: see `ClientOptions`, as one object or by name. For any number of threads; not to be taken through a fork.
    Raises `ConfigError`.
    """

    _pool: ClientPool

    def __init__(self, addr: str, options: ClientOptions | None = None, **changes: Any) -> None:
        super().__init__(addr, options, **changes)
        given = self.options
        self._dialer = Dialer(
            self.addresses,
            tls_config=given.tls_config,
            server_hostname=given.server_hostname,
            tls_timeout=given.tls_timeout,
            resolver=Resolver(life=given.dns_cache_duration),
        )
        self._clock = time.monotonic
        pool_options = given.pool_options()
        if given.dial is None:
            pool_options = dataclasses.replace(pool_options, dial_timeout=given.dial_timeout + GRACE)
        self._pool = ClientPool(self._dial, SyncConnection.close, pool_options, clock=self._clock)
        self._read_timeout = given.read_timeout
        self._streams = given.stream_response_body
        self._plain_heads = self._encoder.plain_heads
        self._decodes = given.decode_content

    # Requests

    def do(
        self, request: ClientRequest, *, timeout: float | None = None, deadline: float | None = None
    ) -> ClientResponse:
        return self._do(request, timeout, deadline, self._streams)

    def do_redirects(
        self,
        request: ClientRequest,
        *,
        max_redirects: int = MAX_REDIRECTS,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> ClientResponse:
        started = self._clock()
        limit = time_limit(started, timeout, deadline)
        followed = 0
        while True:
            response = self._do(request, None, limit, self._streams)
            try:
                following = self._redirected(request, response, followed, max_redirects)
            except ClientError as error:
                _close_stream(response)
                raise self._told(error, self._clock() - started) from error.__cause__
            if following is None:
                return response
            _close_stream(response)
            request = following
            followed += 1

    def stream(
        self, method: str, url: str, *, timeout: float | None = None, deadline: float | None = None, **parts: Any
    ) -> SyncStreamedExchange:
        """``with client.stream("GET", "/log") as response:`` goes on when the head is there; read the body with
        ``for piece in response.stream``. What is not read at the end of the block closes the connection.
        """
        return SyncStreamedExchange(self, ClientRequest(method, url, **parts), timeout, deadline)

    def _do(
        self, request: ClientRequest, timeout: float | None, deadline: float | None, streams: bool
    ) -> ClientResponse:
        clock = self._clock
        started = now = self._last_use_time = clock()
        limit = inf if timeout is None and deadline is None else time_limit(started, timeout, deadline)
        head = content = pieces = None
        closes = False
        if request._headers is None and not request.content and request.stream is None and request.origin is None:
            head = self._plain_heads.get((request.method, request.target))
        if head is None:
            head, content = self._encoder.encode(request)
            if request.stream is not None:
                pieces = pieces_of(request.stream)
            closes = request._headers is not None and asks_to_close(request._headers)
        pool = self._pool
        attempt = 1
        pooled: Pooled | None = None
        try:
            pooled = pool.acquire_nowait()
            if pooled is None:
                pooled = pool.acquire(None if limit is inf else limit - started)
                now = clock()
            while True:
                conn = pooled.conn
                conn.held = True
                conn.limit = limit
                try:
                    if conn.cut or conn.is_stale():
                        if pooled.uses > 1 and not conn.cut:
                            pooled = self._another(pooled, limit)
                            now = clock()
                            continue
                        conn.wrote = False
                        raise ClosedBeforeResponse("the upstream hung up, or spoke first, on a new connection")
                    if content or pieces is not None:
                        self._send_in_parts(conn, request, head, content, pieces, streams)
                    else:
                        conn.send(request.method, head, streams, now, self._read_timeout)
                    break
                except ClientError as error:
                    if conn.cut:
                        raise conn.was_cut() from error
                    now = clock()
                    if not self._may_retry(error, request, attempt, conn.wrote, conn.parser.started, now, limit):
                        raise
                attempt += 1
                pooled = self._redial(pooled, limit)
                now = clock()
            parser = conn.parser
            if closes:  # also if the response did not say so (RFC 9112 9.6)
                conn.spoiled = True
            if streams:
                response = self._streamed(request, pooled, started)
                pooled = None
                return response
            response = ClientResponse(parser.head, parser.take_body(), parser.trailer_fields)
            if parser.keep_alive and not conn.spoiled:
                pool.release(pooled)
            else:
                if parser.head.status == SWITCHING_PROTOCOLS:
                    check_switch(request)
                pool.discard(pooled)
            pooled = None
            if self._decodes and response.body:
                response.decode_content(self.options.max_response_body_size)
            return response
        except BaseException as error:
            if pooled is not None:
                pool.discard(pooled)
            if isinstance(error, ClientError):
                raise self._told(error, clock() - started, attempt) from error.__cause__
            raise

    # The client

    def close(self, timeout: float | None = 0) -> None:
        """Close the client. Requests under way have `timeout` seconds (None: as long as they take), then their connections are
        closed under them and they raise `ClientClosed`; those that wait for a connection do so at once.
        """
        self._pool.close(timeout)

    def __enter__(self) -> SyncHostClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _dial(self, timeout: float = inf) -> SyncConnection:
        """A new connection, within `dial_timeout` and `timeout`; a `dial` of the user's takes its own time."""
        options = self.options
        if options.dial is not None:
            sock = _dial_by(options.dial)
        else:
            sock = self._dialer.dial_blocking(timeout=min(options.dial_timeout, timeout))
        try:
            return SyncConnection(
                sock,
                self._memory,
                write_timeout=options.write_timeout,
                body_timeout=options.body_timeout,
                max_body_size=options.max_response_body_size,
            )
        except BaseException:
            sock.close()
            raise

    def _another(self, pooled: Pooled, limit: float) -> Pooled:
        """In place of an idle connection that was found dead: the next idle one, else a fresh one in the same slot."""
        other = self._pool.acquire_nowait()
        if other is None:
            return self._redial(pooled, limit)
        self._pool.retire(pooled)
        return other

    def _redial(self, pooled: Pooled, limit: float) -> Pooled:
        started = self._clock()
        left = limit - started
        bound = self.options.dial_timeout
        if left <= 0:
            raise redial_timeout(0.0, bound, 0.0)
        try:
            return self._pool.redial(pooled, lambda: self._dial(left))
        except DialTimeout:
            if left < bound:
                raise redial_timeout(self._clock() - started, bound, left) from None
            raise

    def _send_in_parts(
        self,
        conn: SyncConnection,
        request: ClientRequest,
        head: bytes,
        content: bytes | None,
        pieces: Iterator[object] | None,
        streams: bool,
    ) -> None:
        if pieces is None:
            conn.send_in_parts(request.method, head, (), lambda: content or b"", streams, self._read_timeout)
            return
        framer = BodyFramer(request)
        try:
            conn.send_in_parts(request.method, head, map(framer.frame, pieces), framer.end, streams, self._read_timeout)
        finally:
            if isinstance(pieces, Generator):  # and no other: a file is its own iterator, and its owner's to close
                pieces.close()

    def _streamed(self, request: ClientRequest, pooled: Pooled, started: float) -> ClientResponse:
        response, encodings = self._stream_head(request, pooled.conn.parser)
        response.stream = SyncBodyReader(
            self._pool,
            pooled,
            encodings,
            self.options.max_response_body_size,
            lambda: self._clock() - started,
        )
        return response


def _dial_by(dial: Callable[[], Any]) -> socket.socket:
    """A socket by the `dial` of the options. Whatever that raises or returns, what ends the request is a `ClientError`."""
    try:
        sock: socket.socket = dial()
    except ClientError:
        raise
    except Exception as error:
        raise DialError(f"dial raised {type(error).__name__}: {error}") from error
    if not hasattr(sock, "fileno") or not hasattr(sock, "recv"):
        raise DialError(f"dial must return a connected socket, not {type(sock).__name__}")
    return sock


def _close_stream(response: ClientResponse) -> None:
    if isinstance(response.stream, SyncBodyReader):
        response.stream.close()


class SyncStreamedExchange:
    """What `SyncHostClient.stream` returns: a context manager."""

    __slots__ = ("_client", "_deadline", "_request", "_response", "_timeout")

    def __init__(
        self, client: SyncHostClient, request: ClientRequest, timeout: float | None, deadline: float | None
    ) -> None:
        self._client = client
        self._request = request
        self._timeout = timeout
        self._deadline = deadline
        self._response: ClientResponse | None = None

    def __enter__(self) -> ClientResponse:
        self._response = self._client._do(self._request, self._timeout, self._deadline, True)
        return self._response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._response is not None:
            _close_stream(self._response)
