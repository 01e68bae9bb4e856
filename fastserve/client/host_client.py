"""`HostClient`: an HTTP/1.1 client for one upstream, on asyncio, in the manner of fasthttp's HostClient.

A request is written and its response read in the caller's own task: there is no task per connection, and no timer per
request. Which connection a request gets is `ConnPool`'s to decide.

Invariants (tests/client):
1. A connection goes back to the pool only when its response was read to its end, said keep-alive, and nothing came behind
   it; in every other case, a cancelled caller included, it is closed.
2. A request is sent again only where `may_retry` says so, and then on a fresh connection.
3. Every wait has a deadline of its own, and none is behind the request's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from math import inf
from types import TracebackType
from typing import Any

from fastserve.client import waits
from fastserve.client.base import MAX_REDIRECTS, BaseClient, time_limit
from fastserve.client.connection import ClientConnection
from fastserve.client.dialing import Dialer
from fastserve.client.encoder import BodyFramer
from fastserve.client.exchange import Exchanges
from fastserve.client.options import ClientOptions
from fastserve.client.reader import BodyReader
from fastserve.client.request import ClientRequest
from fastserve.client.resolver import Resolver
from fastserve.client.response import ClientResponse
from fastserve.client.retry import IDEMPOTENT_METHODS
from fastserve.client.sending import send_pieces
from fastserve.client.turn import Turn
from fastserve.client.watch import Watch
from fastserve.errors import ClientError, DialError, DialTimeout
from fastserve.http1.request_writer import asks_to_close
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn

__all__ = ["HostClient"]

CLOSE_TIMEOUT = 1.0
"""Seconds that `aclose` waits for sockets to be closed by the loop."""

Pooled = PooledConn[ClientConnection]


class HostClient(BaseClient[Coroutine[Any, Any, ClientResponse]]):
    """Talks to the upstream at `addr`: ``"host:port"``, several of them with commas between (dialled round robin, a bad one
    is skipped), ``"https://host"``, or ``"unix:/path"``.

    Options: see `ClientOptions`, as one object or by name. May be made outside of a loop; it belongs to the loop that first
    uses it. Raises `ConfigError`.
    """

    _pool: ConnPool[ClientConnection]

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
        self._pool = ConnPool(
            self._dial,
            ClientConnection.close,
            given.pool_options(),
            attach=self._attach,
            clock=self._clock,
        )
        self._exchanges = Exchanges(self._pool)
        self._watch = Watch(lambda: self._clock())
        self._connections = self._watch.connections
        self._streams = given.stream_response_body
        self._at_once = given.retry_if is None and given.max_idempotent_call_attempts > 1  # see client/turn.py
        self._plain_heads = self._encoder.plain_heads
        self._decodes = given.decode_content
        self._all_closed: asyncio.Future[None] | None = None

    # Requests

    def do(
        self, request: ClientRequest, *, timeout: float | None = None, deadline: float | None = None
    ) -> Coroutine[Any, Any, ClientResponse]:
        # Not a coroutine function itself: each would cost the steps of one more.
        return self._do(request, timeout, deadline, self._streams)

    async def _do(
        self, request: ClientRequest, timeout: float | None, deadline: float | None, streams: bool
    ) -> ClientResponse:
        # Taken out of self before it is called: an attribute that is no method is looked up at length.
        clock = self._clock
        started = self._last_use_time = clock()
        limit = inf if timeout is None and deadline is None else time_limit(started, timeout, deadline)
        method = request.method
        head = content = None
        whole, closes = True, False
        if request._headers is None and not request.content and request.stream is None and request.origin is None:
            head = self._plain_heads.get((method, request.target))
        if head is None:
            head, content = self._encoder.encode(request)
            whole = not content and request.stream is None
            closes = request._headers is not None and asks_to_close(request._headers)
        attempt = 1
        turn: Turn | None = None
        answer: asyncio.Future[None] | None = None  # to a request that is on its way
        pooled: Pooled | None = None  # what is held
        try:
            if whole and (pooled := self._exchanges.begin(method, head, streams, limit, started)) is not None:
                answer = pooled.conn.waiter
            elif whole and self._at_once and method in IDEMPOTENT_METHODS:
                turn = Turn(self._pool, method, head, streams, limit)
                answer = turn.answer
                self._pool.enqueue(turn, started, None if limit is inf else limit - started)
            else:
                pooled = await self._pool.acquire(None if limit is inf else limit - started)
            while True:
                try:
                    if answer is not None:
                        await answer
                        if turn is not None:
                            pooled, turn = turn.given, None
                    elif whole:
                        assert pooled is not None
                        await pooled.conn.send(None, method, head, streams, limit, clock())
                    else:
                        assert pooled is not None
                        await self._send_in_parts(pooled.conn, request, head, content, streams, limit)
                    break
                except ClientError as error:
                    if turn is not None:
                        pooled, turn = turn.given, None
                    if pooled is None:  # there was none to be had
                        raise
                    conn = pooled.conn
                    now = clock()
                    if not self._may_retry(error, request, attempt, conn.wrote, conn.parser.started, now, limit):
                        raise
                answer = None
                attempt += 1
                pooled = await self._pool.redial(pooled, None if limit is inf else limit - now)
            assert pooled is not None
            if closes:  # also if the response did not say so (RFC 9112 9.6)
                pooled.conn.spoil()
            if streams:
                response = self._streamed(request, pooled, started)
                pooled = None
                return response
            response = self._exchanges.end(pooled, request)
            pooled = None
            if self._decodes and response.body:
                response.decode_content(self.options.max_response_body_size)
            return response
        except BaseException as error:
            if turn is not None and pooled is None:
                pooled = turn.given
                if pooled is None:
                    self._pool.cancel(turn)
            answer = None  # its error holds this frame
            if pooled is not None:
                error = self._exchanges.give_up(pooled, error)
            if isinstance(error, ClientError):
                raise self._told(error, self._clock() - started, attempt) from error.__cause__
            raise

    async def do_redirects(
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
            response = await self._do(request, None, limit, self._streams)
            try:
                following = self._redirected(request, response, followed, max_redirects)
            except ClientError as error:
                await _close_stream(response)
                raise self._told(error, self._clock() - started) from error.__cause__
            if following is None:
                return response
            await _close_stream(response)
            request = following
            followed += 1

    def stream(
        self, method: str, url: str, *, timeout: float | None = None, deadline: float | None = None, **parts: Any
    ) -> StreamedExchange:
        """``async with client.stream("GET", "/log") as response:`` returns when the head is there; read the body with
        ``async for piece in response.stream``. What is not read at the end of the block closes the connection.
        """
        return StreamedExchange(self, ClientRequest(method, url, **parts), timeout, deadline)

    # The client

    async def aclose(self, timeout: float | None = 0) -> None:
        """Close the client. Requests under way have `timeout` seconds (None: as long as they take); those that wait for a
        connection get `ClientClosed` at once.
        """
        await self._pool.aclose(timeout)
        self._watch.stop()
        if self._connections:
            if self._all_closed is None:
                self._all_closed = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_closed], timeout=CLOSE_TIMEOUT)

    async def __aenter__(self) -> HostClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # Inside

    async def _dial(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        self._watch.loop = loop
        options = self.options

        def connection() -> ClientConnection:
            return ClientConnection(
                loop,
                self._memory,
                self._watch,
                self._on_unusable,
                self._on_closed,
                read_timeout=options.read_timeout,
                write_timeout=options.write_timeout,
                body_timeout=options.body_timeout,
                max_body_size=options.max_response_body_size,
            )

        if options.dial is not None:
            conn = await _dial_by(options.dial, connection, options.dial_timeout)
        else:
            _, conn = await self._dialer.dial(connection, timeout=options.dial_timeout)
        if not conn.lost:  # else it has left already
            self._connections.add(conn)
        return conn

    async def _send_in_parts(
        self,
        conn: ClientConnection,
        request: ClientRequest,
        head: bytes,
        content: bytes | None,
        streams: bool,
        limit: float,
    ) -> None:
        """Send a request whose body is large, or comes bit by bit; it ends early when the upstream has answered."""
        conn.begin(request.method, streams, limit)
        await waits.write(conn, head)
        if content:
            await waits.write(conn, content)
        elif request.stream is not None:
            framer = BodyFramer(request)
            if not conn.answered:  # else not a piece is taken: it may be sent again
                await send_pieces(conn, request.stream, framer)
            if conn.answered:
                conn.spoil()  # the rest of the body is not sent
            else:
                await waits.write(conn, framer.end())
        await waits.response(conn)

    def _streamed(self, request: ClientRequest, pooled: Pooled, started: float) -> ClientResponse:
        response, encodings = self._stream_head(request, pooled.conn.parser)
        response.stream = BodyReader(
            self._pool,
            pooled,
            encodings,
            self.options.max_response_body_size,
            lambda: self._clock() - started,
        )
        return response

    def _attach(self, pooled: Pooled) -> None:
        pooled.conn.pooled = pooled
        if pooled.conn.spoiled:  # before the pool had it
            self._pool.lost(pooled)

    def _on_unusable(self, conn: ClientConnection) -> None:
        pooled = conn.pooled
        if pooled is not None:
            self._pool.lost(pooled)

    def _on_closed(self, conn: ClientConnection) -> None:
        self._connections.discard(conn)
        if not self._connections and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)


async def _dial_by(
    dial: Callable[..., Any], connection: Callable[[], ClientConnection], seconds: float
) -> ClientConnection:
    """A connection by the `dial` of the options. Whatever that raises or returns, what ends the request is a `ClientError`."""
    made: list[ClientConnection] = []

    def factory() -> ClientConnection:
        made.append(connection())
        return made[-1]

    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            result = await dial(factory)
    except ClientError:
        raise
    except TimeoutError as error:
        if scope.expired():
            raise DialTimeout(f"dial took longer than dial_timeout, {seconds:g} s", elapsed=seconds) from None
        raise DialError(f"dial raised TimeoutError: {error}") from error
    except Exception as error:
        raise DialError(f"dial raised {type(error).__name__}: {error}") from error
    conn = result[1] if isinstance(result, tuple) and len(result) == 2 else None
    if not any(conn is each and each.connected for each in made):
        if isinstance(result, tuple):
            for part in result:
                if hasattr(part, "abort"):  # a transport; uvloop's are no asyncio.BaseTransport
                    part.abort()
        raise DialError("dial must return (transport, protocol), with the protocol that its argument made, connected")
    assert isinstance(conn, ClientConnection)
    return conn


async def _close_stream(response: ClientResponse) -> None:
    if isinstance(response.stream, BodyReader):
        await response.stream.aclose()


class StreamedExchange:
    """What `HostClient.stream` returns: an async context manager."""

    __slots__ = ("_client", "_deadline", "_request", "_response", "_timeout")

    def __init__(
        self, client: HostClient, request: ClientRequest, timeout: float | None, deadline: float | None
    ) -> None:
        self._client = client
        self._request = request
        self._timeout = timeout
        self._deadline = deadline
        self._response: ClientResponse | None = None

    async def __aenter__(self) -> ClientResponse:
        self._response = await self._client._do(self._request, self._timeout, self._deadline, True)
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._response is not None:
            await _close_stream(self._response)
