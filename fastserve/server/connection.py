"""`Connection`: one accepted connection, from its first byte to its last. The thin shell around `http1`.

A connection is parked (IDLE) with no worker and no task, and when it has been idle for a
while, with no parser and no RequestCtx either. The first byte of a request lends it a
RequestCtx with its parser (READING). When the request
is whole, a worker runs the handler; mostly it is done at once, and the connection never
leaves `data_received`. A handler that waits makes it SERVING; bytes that come meanwhile
stay unparsed in `_rest`, with reading paused from the first segment on.

Invariants:
1. Responses leave in the order of their requests; a batch of pipelined ones in one write.
2. Nothing is parsed behind a request that is being served, or after the last request of a connection.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final

from fastserve.errors import ClientDisconnected, RequestError, ResponseError
from fastserve.http1.parser import ParserState
from fastserve.http1.render import CONTINUE, Delimiter, delimiter
from fastserve.server.answering import Answering
from fastserve.server.body import RequestBodyStream
from fastserve.server.stream import send_stream
from fastserve.server.wire import UNKNOWN, ConnState, Phase

if TYPE_CHECKING:
    from fastserve.http1.parser import RequestParser
    from fastserve.server.ctx import RequestCtx
    from fastserve.server.service import Service

__all__ = ["Connection"]

logger = logging.getLogger("fastserve")

MAX_BATCH: Final = 64 * 1024
"""Bytes of responses collected before they are written."""

GONE_IN_BODY: Final = "the client closed the connection inside the request's body"

IDLE: Final = Phase.IDLE
READING: Final = Phase.READING
SERVING: Final = Phase.SERVING
LINGERING: Final = Phase.LINGERING
CLOSING: Final = Phase.CLOSING
HIJACKED: Final = Phase.HIJACKED
COMPLETE: Final[ParserState] = ParserState.COMPLETE  # not literally: a call of the parser changes its state
HEAD: Final = ParserState.HEAD
# References there are when no handler kept anything: to the RequestCtx in `data_received`, and in `_renew`; to its request and
# its response in `_renew`. See server/references.py, which finds them.
CTX_REFS = RENEWED_REFS = REQUEST_REFS = RESPONSE_REFS = UNKNOWN


class Connection(Answering):
    """One connection of a server. Users see it through `RequestCtx`, and in `conn_state`."""

    __slots__ = ("_awaits_continue", "_read_timeout")

    def __init__(self, service: Service, ip: str | None = None) -> None:
        super().__init__(service, ip)
        self._awaits_continue = False  # 100 Continue is sent when the handler asks for the body
        self._read_timeout = service.config.read_timeout

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Parse and serve what is in `data`, until it is used up or a handler waits."""
        # The hot path. It is one function, since a call costs as much as ten steps of it.
        phase = self._phase
        service = self.service
        ctx = self._ctx
        if phase is IDLE:
            if ctx is None:
                ctx = self._ctx = service.take_ctx(self)
            self._phase = READING
            if not self._calm:
                self._tell(ConnState.ACTIVE)
        elif phase is not READING or ctx is None:  # in READING there is one
            if phase is SERVING:
                self._receive_while_serving(data)
            return
        parser = ctx.parser
        request = ctx._request
        response = ctx._response
        length = len(data)
        position = batched = 0
        batch: list[bytes] = []
        try:
            while position < length:
                position = parser.feed(data, position)
                if parser.state is not COMPLETE:
                    if (
                        parser.state is not HEAD
                        and self._begun in (None, HEAD)
                        and self._begin_body(ctx, batch, data, position)
                    ):
                        return
                    continue
                requests = self.requests = self.requests + 1
                if requests >= service.max_requests:
                    self._calm = False
                if not service.begin(ctx):
                    if self._refusal is not None:
                        raise self._refusal
                    self._hold(batch, data, position)
                    self._suspended(ctx)
                    return
                if response.plain and not ctx.unusual and request.head.plain and self._calm:
                    body = response.plain_body
                    try:
                        answer = service.plain_heads[response.plain_status, response.plain_type, len(body)] + body
                    except KeyError:
                        answer = service.renderer.plain_head(response) + body
                    response.plain_status = 200
                    response.plain_type = None
                    response.plain_body = b""
                else:
                    answer = self._render(ctx)
                    if not answer:
                        self._hold(batch, data, position)
                        self._answer(ctx)
                        return
                    response.reset()
                ctx.context = None
                request.body = b""
                self._begun = None
                if ctx.touched or getrefcount(ctx) > CTX_REFS:
                    ctx = self._renew(ctx)
                    parser, request, response = ctx.parser, ctx._request, ctx._response
                if position == length:
                    if batch:
                        batch.append(answer)
                        answer = b"".join(batch)
                    self._transport.write(answer)
                    if self._calm and self.keeps_ctx:
                        self._phase = IDLE
                        self.deadline = service.idle_deadline
                    else:
                        self._park(ctx)
                    return
                batch.append(answer)
                batched += len(answer)
                if len(batch) >= service.max_pipelined or batched > MAX_BATCH:
                    self._write(batch)
                    self._yield_turn(data, position)
                    return
        except RequestError as error:
            self._write(batch)
            self._refuse(ctx, error)
            return
        self._write(batch)
        self._await_more(ctx, parser)

    def eof_received(self) -> bool:
        self._eof = True
        self._calm = False
        if self._phase is not SERVING:
            return False  # the transport closes; a request that was not whole is not served
        ctx = self._ctx
        if ctx is not None:
            if ctx._body_stream is not None:
                ctx._body_stream.fail(ClientDisconnected(GONE_IN_BODY))
            if self.service.config.cancel_on_disconnect:
                self._cancel(ctx)
            elif ctx.run is send_stream and not self._write_paused:
                self.deadline = self._stream_deadline()
        return True  # it may well read on (RFC 9293 3.6): a response under way goes to its end

    def connection_lost(self, error: Exception | None) -> None:
        ctx = self._ctx
        if ctx is not None:
            if self._phase is SERVING:
                if ctx._body_stream is not None:
                    ctx._body_stream.fail(ClientDisconnected(GONE_IN_BODY))
                self.service.pool.withdraw(ctx)
                self.service.threads.withdraw(ctx)
                self._client_gone(ctx)
            elif self._phase is IDLE:
                self.return_kept_ctx()
            else:
                self._forget(ctx)  # in mid-request: its parser is of no use to anyone else
        self._rest = b""
        super().connection_lost(error)

    def _client_gone(self, ctx: RequestCtx) -> None:
        """Nobody reads a stream; whether a handler goes on is the user's choice."""
        if ctx.run is send_stream or self.service.config.cancel_on_disconnect:
            self._cancel(ctx)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._calm = False
        self._expect_progress()
        if self._phase is IDLE or self._phase is READING:
            self._pause_reading()  # a client that does not read gets no more to read

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._phase is SERVING:
            self.deadline = self._stream_deadline()
        elif self._phase is IDLE:
            self.deadline = self.service.idle_deadline
            self._resume_reading()
        elif self._phase is READING:
            self.deadline = self.service.deadline(self._read_timeout)
            self._resume_reading()
        self._wake_writer()
        if self._awaits_turn:
            self._resume()

    # Serving

    def _await_more(self, ctx: RequestCtx, parser: RequestParser) -> None:
        """All that came is parsed, and the last request is not whole."""
        service = self.service
        if parser.untouched:
            self._park(ctx)
        elif not parser.in_request:
            # Blank lines: no request has begun, but they count, and this parser has seen them.
            self._phase = IDLE
            self._idle()
        elif self._eof:
            self._close(linger=False)  # the end of a request will not come any more
        elif parser.state is not HEAD:
            self.deadline = service.deadline(self._read_timeout)
        elif self._begun is None:
            self._begun = HEAD
            self.deadline = service.deadline(self._read_timeout)

    def _render(self, ctx: RequestCtx) -> bytes:
        """The response to a handler that did more than the plainest, or nothing: `_answer` has to see to it."""
        request = ctx._request
        response = ctx._response
        if ctx.unusual or response.stream is not None or response.status_code == 101 or not self._keeps(ctx):
            return b""
        try:
            head = self.service.renderer.head(request.method, request.minor, response, True)
        except ResponseError as error:
            ctx.failure = error
            return b""
        if response.close:  # a Connection header said so
            return b""
        if delimiter(request.method, request.minor, response) is Delimiter.NONE:
            return head
        return head + response.plain_body

    def _renew(self, ctx: RequestCtx) -> RequestCtx:
        """`ctx` for the next request: the same, or another one when a handler kept it, so that what it saw stays."""
        if (
            getrefcount(ctx) > RENEWED_REFS
            or getrefcount(ctx._request) > REQUEST_REFS
            or getrefcount(ctx._response) > RESPONSE_REFS
        ):
            ctx._connection = None
            ctx = self._ctx = self.service.new_ctx()
            ctx._connection = self
        else:
            ctx.touched = False
            ctx._user_values = None
            ctx._request.surface = None
        return ctx

    def check_head(self, ctx: RequestCtx) -> None:
        """What is decided when the head is there, before the body. Raises `RequestError`."""
        if self._begun not in (None, HEAD):
            return  # it was, before the body came
        config = self.service.config
        if config.get_only and ctx._request.method not in ("GET", "HEAD"):
            raise RequestError(405, "only GET and HEAD are served")
        ctx.parser.max_body_size = config.max_request_body_size
        self._read_timeout = config.read_timeout
        self._write_timeout = config.write_timeout
        if config.header_received is not None:
            limits = self._call_hook("header_received", config.header_received, ctx)
            if limits is not None:
                if limits.max_request_body_size is not None:
                    ctx.parser.max_body_size = limits.max_request_body_size
                self._read_timeout = limits.read_timeout or config.read_timeout
                self._write_timeout = limits.write_timeout or config.write_timeout

    def _call_hook(self, name: str, hook: Callable[[RequestCtx], Any], ctx: RequestCtx) -> Any:
        try:
            return hook(ctx)
        except RequestError:
            raise
        except Exception:
            logger.exception("%s raised", name)
            raise RequestError(500, f"{name} failed") from None

    def _begin_body(self, ctx: RequestCtx, batch: list[bytes], data: bytes, position: int) -> bool:
        """The head of a request with a body is there. True when a handler has it now, which reads the body itself."""
        service = self.service
        config = service.config
        parser = ctx.parser
        if service.checks_heads:
            self.check_head(ctx)
        self._begun = parser.state
        parser.check_body_size()
        if ctx._request.framing.expect_continue:
            refuse = config.continue_handler
            if refuse is not None and not self._call_hook("continue_handler", refuse, ctx):
                raise RequestError(417, "the body is not wanted")
            if position < len(data):
                pass  # it did not wait: RFC 9110 10.1.1 allows to leave the 100 out
            elif config.stream_request_body:
                self._awaits_continue = True
            else:
                batch.append(CONTINUE)
                self._write(batch)
        if not config.stream_request_body:
            return False
        self._hold(batch, b"", 0)
        stream = ctx._body_stream = RequestBodyStream(self, service.loop)
        ctx.unusual = True
        if position < len(data):
            self._receive_body(ctx, stream, data, position)
        self.requests += 1
        if service.begin(ctx):
            self._answer(ctx)
        elif self._refusal is not None:
            raise self._refusal
        else:
            self._suspended(ctx)
        return True

    def _hold(self, batch: list[bytes], data: bytes, position: int) -> None:
        """Parse no further for now: a request is in a handler's hands."""
        self._phase = SERVING
        self._write(batch)
        self.deadline = math.inf
        if self._write_paused:
            self._expect_progress()
        if position < len(data):
            self._rest = data[position:]
            self._pause_reading()

    def _suspended(self, ctx: RequestCtx) -> None:
        """The handler of `ctx` waits, or is about to run."""
        ctx.stamp()
        if ctx._early is not None:
            self.answer_early(ctx, *ctx._early)

    def _yield_turn(self, data: bytes, position: int) -> None:
        """Other connections first: go on with `data` at the loop's next turn, or when the client has read."""
        self._hold([], data, position)
        self._awaits_turn = True
        if not self._write_paused:
            self.service.loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._awaits_turn or self._lost or self._phase is not SERVING:
            return
        if self._write_paused:
            return  # `resume_writing` comes back here
        self._awaits_turn = False
        self._phase = READING
        if self._ctx is None:
            self._ctx = self.service.take_ctx(self)
        data, self._rest = self._rest, b""
        self._resume_reading()
        self._take_stock()
        self.data_received(data)

    # While a handler has the request

    def _receive_while_serving(self, data: bytes) -> None:
        ctx = self._ctx
        stream = None if ctx is None else ctx._body_stream
        if ctx is not None and stream is not None and not stream.complete and not self._rest:
            self._receive_body(ctx, stream, data, 0)
            return
        # A pipelined request, or part of one. Waiting bytes are bounded: nothing more is read until they are served.
        self._rest += data
        self._pause_reading()

    def _receive_body(self, ctx: RequestCtx, stream: RequestBodyStream, data: bytes, position: int) -> None:
        parser = ctx.parser
        if stream.refusal is not None:
            return  # malformed, or too large: what follows is not looked at
        self._awaits_continue = False
        try:
            while position < len(data) and parser.state is not COMPLETE:
                if stream.full:
                    self._rest = data[position:]
                    self._pause_reading()
                    return
                position = parser.feed(data, position)
                stream.feed(parser.parts, parser.state is COMPLETE)
                parser.parts.clear()
        except RequestError as error:
            stream.fail(error)
            return
        if stream.waiting:
            self.deadline = self.service.deadline(self._read_timeout)
        elif not self._write_paused:
            self.deadline = math.inf
        if position < len(data):
            self._rest = data[position:]
        if self._rest or stream.full:
            self._pause_reading()

    def body_wanted(self, stream: RequestBodyStream) -> None:
        """The handler waits for its body, or has room for more of it."""
        ctx = self._ctx
        if self._lost or ctx is None or ctx._body_stream is not stream or stream.complete:
            return
        if self._awaits_continue:
            self._awaits_continue = False
            self._transport.write(CONTINUE)
        if self._rest:
            data, self._rest = self._rest, b""
            self._receive_body(ctx, stream, data, 0)
        if not self._rest and not stream.full:
            self._resume_reading()
        self.deadline = self.service.deadline(self._read_timeout)

    # Deadlines and ends

    def expire(self, now: float) -> None:
        if self.deadline > now:
            self.retire()
        elif self._phase is LINGERING and not self._unsent:
            self._transport.abort()
        elif self._write_paused or self._phase is CLOSING or self._phase is LINGERING:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._expect_progress()
            else:
                if self.service.config.log_all_errors:
                    logger.info(
                        "connection %d cut: no byte of the response was taken for %g s",
                        self.number,
                        self._write_timeout,
                    )
                self._transport.abort()
        elif self._phase is IDLE:
            self._close(linger=False)
        elif self._phase is READING:
            assert self._ctx is not None
            what = "the request's head" if self._ctx.parser.state is HEAD else "the request's body"
            self._refuse(self._ctx, RequestError(408, f"{what} did not come in time"))
        elif self._ctx is not None and self._ctx._body_stream is not None and self._ctx._body_stream.waiting:
            self.deadline = math.inf
            self._ctx._body_stream.fail(RequestError(408, "the request's body did not come in time"))
        elif self._eof and self._ctx is not None and self._ctx.run is send_stream:
            self.deadline = math.inf
            self._cancel(self._ctx)
        else:
            self.deadline = math.inf  # the handler does not wait for the client: take your time

    def retire(self) -> None:
        self._retire = True
        self._calm = False
        self.retire_at = math.inf
        if self._phase is IDLE:
            self._close(linger=False)

    def cut(self) -> bool:
        serving = self.serving
        if self._ctx is not None:
            self._cancel(self._ctx)
        self._transport.abort()
        return serving
