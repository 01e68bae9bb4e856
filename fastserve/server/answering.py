"""`Answering`: the end of a request: its response, and what becomes of the connection then."""

from __future__ import annotations

import logging
import threading
from sys import getrefcount
from typing import TYPE_CHECKING, Final

from fastserve.errors import BodyStreamError, RequestError, ResponseError
from fastserve.http1.head import NO_HEAD, RequestHead
from fastserve.http1.parser import ParserState
from fastserve.http1.render import Delimiter, delimiter
from fastserve.server.failures import answer_failure, failure_status, log_failure, log_refusal
from fastserve.server.hijack import HijackedConnection, HijackHandler, run_hijacked
from fastserve.server.stream import discard_stream, send_stream
from fastserve.server.wire import UNKNOWN, ConnState, Phase, Wire

if TYPE_CHECKING:
    from fastserve.server.ctx import RequestCtx
    from fastserve.server.service import Service

__all__ = ["Answering"]

logger = logging.getLogger("fastserve")

HEAD: Final = ParserState.HEAD
# References there are in `call_ended` when no handler kept anything: see server/references.py, which finds them.
CTX_REFS = REQUEST_REFS = RESPONSE_REFS = UNKNOWN
IDLE: Final = Phase.IDLE
SERVING: Final = Phase.SERVING
CLOSING: Final = Phase.CLOSING
HIJACKED: Final = Phase.HIJACKED


class Answering(Wire):
    """The half of a connection that answers. `Connection` is the half that receives, and that a server makes."""

    __slots__ = ("_awaits_turn", "_begun", "_ctx", "_refusal", "_rest", "keeps_ctx")

    def __init__(self, service: Service, ip: str | None) -> None:
        super().__init__(service, ip)
        self._ctx: RequestCtx | None = None  # of the request that is being read or served, or of the next one
        self.keeps_ctx = False
        """True when the context may stay with this connection between two requests: see `Service.take_ctx`."""
        self._rest = b""  # received and not parsed yet
        self._begun: ParserState | None = None  # what of the request under way has come: nothing, some head, some body
        self._awaits_turn = False  # `_rest` is to be served when `_resume` is called
        self._refusal: RequestError | None = None  # of the request that `data_received` is at

    def _resume(self) -> None:
        """Serve what came while a request was being served."""
        raise NotImplementedError

    def ended(self, ctx: RequestCtx) -> bool:
        """A worker has run `ctx.run`. True: let the same worker run it again, to send the stream."""
        if ctx.run is send_stream:
            self._stream_ended(ctx)
            return False
        return self._finish(ctx)

    def call_ended(self, ctx: RequestCtx) -> None:
        """A thread has run the handler."""
        service = self.service
        request = ctx._request
        response = ctx._response
        # As `data_received` does after a handler that has not waited.
        if not (response.plain and not ctx.unusual and request.head.plain and self._calm and not self._lost):
            self._answer(ctx)
            return
        body = response.plain_body
        try:
            answer = service.plain_heads[response.plain_status, response.plain_type, len(body)] + body
        except KeyError:
            answer = service.renderer.plain_head(response) + body
        self._transport.write(answer)
        if not self._calm:  # the client does not read
            self._next(ctx)
            return
        self._phase = IDLE
        self._begun = ctx.context = None
        self.deadline = service.idle_deadline
        if getrefcount(ctx) > CTX_REFS or (
            ctx.touched and (getrefcount(request) > REQUEST_REFS or getrefcount(response) > RESPONSE_REFS)
        ):
            self._ctx = ctx._connection = None  # a handler kept it: it keeps what it saw
            return
        response.plain_status = 200
        response.plain_type = None
        response.plain_body = request.body = b""
        ctx.touched = False
        ctx._arrived = ctx._user_values = request.surface = None
        self._return_ctx(ctx)

    def refused(self, ctx: RequestCtx) -> None:
        """No worker, or no thread, for `ctx`."""
        if self._lost:
            self._forget(ctx)
            return
        error = RequestError(503, "the server is busy")
        if self._phase is SERVING:
            self._refuse(ctx, error)
        else:
            self._refusal = error  # for `data_received`, which has the responses that go before

    def _answer(self, ctx: RequestCtx) -> None:
        """`_finish`, from outside a worker."""
        if not self._finish(ctx):
            return
        if self.service.pool.closed:  # a thread's handler ended while the server was being cut off
            discard_stream(ctx._response.stream)
            self._forget(ctx)
            self._transport.abort()
        elif self.service.pool.start(ctx):
            self._stream_ended(ctx)

    def _finish(self, ctx: RequestCtx) -> bool:
        """The handler is done: answer. True when `ctx.run` is to be run by a worker, to send the stream."""
        service = self.service
        response = ctx._response
        if response.stream is not None and (ctx._early is not None or ctx.failure is not None or self._lost):
            discard_stream(response.stream)
        if ctx._early is not None:
            ctx.failure = None
            response.reset()
            response.status_code = ctx._early[1]
            response.set_body(ctx._early[0])
        if self._lost:
            if ctx.failure is not None:
                log_failure(ctx, ctx.failure, secure=service.config.secure_error_log_message)
            self._forget(ctx)
            return False
        if ctx._body_stream is not None and not ctx._body_stream.complete:
            # What was not read of the body would be taken for the next request.
            response.close = True
            if ctx._body_stream.refusal is not None and ctx.failure is ctx._body_stream.refusal:
                log_refusal(self.number, ctx._body_stream.refusal, service.config)
        if ctx.failure is not None:
            close = response.close
            ctx._hijack_handler = None
            answer_failure(ctx, ctx.failure, service.config)
            response.close = response.close or close
        request = ctx._request
        try:
            if response.status_code == 101 and ctx._hijack_handler is None:
                raise ResponseError("status 101 without hijack(): nobody would speak the new protocol")
            head = service.renderer.head(request.method, request.minor, response, self._keeps(ctx))
        except ResponseError as error:
            ctx._hijack_handler = None
            discard_stream(response.stream)
            answer_failure(ctx, error, service.config)
            head = self._failure_head(ctx, 500, request.minor, self._keeps(ctx))
        how = delimiter(request.method, request.minor, response)
        if response.stream is not None:
            if how is Delimiter.CLOSE:
                response.close = True
            ctx._stream_head = head
            ctx.unusual = True
            ctx.run = send_stream
            if self._eof:
                self.deadline = self._stream_deadline()
            return True
        self._transport.write(head if how is Delimiter.NONE else head + response.body)
        if ctx._hijack_handler is not None:
            self._hijack(ctx, ctx._hijack_handler)
        else:
            self._next(ctx)
        return False

    def _stream_ended(self, ctx: RequestCtx) -> None:
        error = ctx.failure
        if error is None and not self._lost:
            self._next(ctx)
            return
        if error is not None:
            log_failure(ctx, error, secure=self.service.config.secure_error_log_message)
        # The head is out: only a broken connection tells the client that the body is not whole (RFC 9112 8).
        self._forget(ctx)
        self._phase = CLOSING
        self.deadline = self.service.now
        self._transport.abort()

    def _keeps(self, ctx: RequestCtx) -> bool:
        """True when another request may follow this response."""
        return (
            ctx._request.framing.keep_alive
            and not ctx._response.close
            and not self._retire
            and self.requests < self.service.max_requests
            and not (self._eof and not self._rest)
        )

    def _next(self, ctx: RequestCtx) -> None:
        """The response is written: the next request, or the end."""
        keep = self._keeps(ctx)
        body_stream = ctx._body_stream
        unread = bool(self._rest) or (body_stream is not None and not body_stream.complete)
        self._forget(ctx)
        if keep and not unread and ctx.parser.untouched:
            # Not now: whoever called still holds it.
            self.service.loop.call_soon(self.service.recycle, ctx)
        self._begun = None
        if not keep:
            self._close(linger=unread)
        elif self._rest:
            # Not now: this may be a worker's task, and nothing may be entered while another task is current.
            self._awaits_turn = True
            self.service.loop.call_soon(self._resume)
        else:
            self._phase = IDLE
            self._idle()

    def _forget(self, ctx: RequestCtx) -> None:
        """`ctx` is not this connection's any more; its worker, or whoever it gave it to, may still hold it."""
        ctx._connection = None
        if ctx._body_stream is not None:
            # Whoever still reads it must not wait for bytes that nobody will bring.
            ctx._body_stream.fail(BodyStreamError("the request was answered: its body is not read any further"))
        ctx.failure = None  # its traceback refers to the frames that refer to ctx
        if self._ctx is ctx:
            self._ctx = None

    def _park(self, ctx: RequestCtx) -> None:
        """No request is under way: give parser and context to whoever needs them next, unless they may stay."""
        self._phase = IDLE
        if not self.keeps_ctx:
            self._return_ctx(ctx)
        self._idle()

    def _return_ctx(self, ctx: RequestCtx) -> None:
        self._ctx = None
        ctx._connection = None
        self.service.contexts.append(ctx)

    def return_kept_ctx(self) -> None:
        """Keep no context between two requests, until the next one."""
        self.keeps_ctx = False
        ctx = self._ctx
        # Blank lines before a request leave a connection idle, with a parser that has seen them.
        if ctx is not None and self._phase is IDLE and ctx.parser.untouched:
            self._return_ctx(ctx)

    def _idle(self) -> None:
        service = self.service
        if self._retire or self._eof or service.draining:
            self._close(linger=False)
            return
        if self._write_paused:
            self._pause_reading()
        else:
            self.deadline = service.idle_deadline
            self._resume_reading()
        self._take_stock()
        self._tell(ConnState.IDLE)

    def _refuse(self, ctx: RequestCtx, error: RequestError) -> None:
        """Answer with `error` and close: what follows on this connection can't be trusted, or is not wanted."""
        log_refusal(self.number, error, self.service.config)
        self._retire = True
        self._calm = False
        self._refusal = None
        request = ctx._request
        if ctx.parser.state is HEAD:
            request.begin("GET", b"/", NO_HEAD)  # of a head that is refused nothing is known
        answer_failure(ctx, error, self.service.config)
        response = ctx._response
        if response.stream is not None:
            logger.error("error_handler set a stream: a refused request is answered with a whole body")
            discard_stream(response.stream)
            response.stream = None
        head = self._failure_head(ctx, failure_status(error), 1, False)
        how = delimiter(request.method, 1, response)
        self._transport.write(head if how is Delimiter.NONE else head + response.body)
        self._forget(ctx)
        self._close(linger=True)

    def _failure_head(self, ctx: RequestCtx, status: int, minor: int, keep: bool) -> bytes:
        """The head of what `answer_failure` made; of a bare `status` when its error_handler set what can't be sent."""
        renderer = self.service.renderer
        response = ctx._response
        try:
            return renderer.head(ctx._request.method, minor, response, keep)
        except ResponseError:
            logger.exception("error_handler set what can't be sent")
            response.reset()
            response.status_code = status
            return renderer.head(ctx._request.method, minor, response, keep)

    def answer_early(self, ctx: RequestCtx, message: str, status: int) -> None:
        """Answer `ctx` now; its handler goes on for nobody. See `RequestCtx.timeout_error`."""
        service = self.service
        if threading.get_ident() != service.thread_id:
            service.loop.call_soon_threadsafe(self._answer_early_for_thread, ctx, message, status)
            return
        if self._ctx is not ctx or self._lost:
            return  # it is answered, or nobody is there to read it
        if ctx.run is send_stream:
            raise ResponseError("timeout_error: the response has begun already")
        if self._phase is not SERVING:  # from within the handler's first step
            ctx.unusual = True
            ctx._early = (message, status)
            return
        early = service.new_ctx()
        request = ctx._request
        early._request.begin(request.method, request.target, RequestHead(request.minor, {}, request.framing))
        early._body_stream = ctx._body_stream
        early.unusual = True
        early._early = (message, status)
        early._connection = ctx._connection
        self._ctx = early
        ctx._connection = None
        self._answer(early)

    def _answer_early_for_thread(self, ctx: RequestCtx, message: str, status: int) -> None:
        """`answer_early` that another thread asked for, which has gone on: nobody is there to catch an error."""
        try:
            self.answer_early(ctx, message, status)
        except ResponseError as error:
            logger.warning("connection %d, request %d: %s", self.number, self.requests, error)

    def _hijack(self, ctx: RequestCtx, handler: HijackHandler) -> None:
        service = self.service
        self._forget(ctx)
        self._phase = HIJACKED
        service.connections.discard(self)
        received, self._rest = self._rest, b""
        self._tell(ConnState.HIJACKED)

        def lost() -> None:
            self._lost = True
            service.connections.discard(self)
            self._tell(ConnState.CLOSED)
            service.connection_closed(self)

        hijacked = HijackedConnection(self._transport, received, self._write_paused, lost)
        if self._eof:
            hijacked.eof_received()
        self._transport.set_protocol(hijacked)
        self._resume_reading()
        task = service.spawn(run_hijacked(handler, hijacked), f"fastserve-hijacked-{self.number}")
        # Not a `finally` in the task: one that is cancelled before its first step never runs its code.
        task.add_done_callback(lambda task: self._hijack_ended(hijacked, task.cancelled()))

    def _hijack_ended(self, hijacked: HijackedConnection, cancelled: bool) -> None:
        if self._lost:
            return
        # Nobody waits any more for the peer to read what is left: that has a deadline again.
        self.service.connections.add(self)
        self._close(linger=False)
        if cancelled:
            hijacked.abort()

    def _cancel(self, ctx: RequestCtx) -> None:
        if ctx.worker is not None:
            ctx.worker.cancel()
