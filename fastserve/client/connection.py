"""`ClientConnection`: one connection to the upstream, on asyncio. It has no task: whoever holds it writes, and awaits.

Nor does it await: it gives futures, which `client/waits.py` awaits for its holder.

    (idle) -> WRITE -> HEAD -> BODY -> (idle)

Invariants:
1. One holder at a time, which waits for one thing at a time: that the request is taken, that the response (or its head) is
   there, or that there is more of the body.
2. Whatever ends the connection ends that wait with the error that says why.
3. `reusable` is True only when a response was read to its end, and nothing came behind it.
4. At most `MAX_UNREAD` bytes and a segment of a streamed body are held: then reading is paused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastserve.client.endings import Phase, broken, timed_out
from fastserve.errors import ClientClosed, ClientError, ClosedBeforeResponse
from fastserve.http1.response_parser import ResponseHeadMemory, ResponseParser, ResponseState

if TYPE_CHECKING:
    from fastserve.client.watch import Watch
    from fastserve.pool.conn import PooledConn

__all__ = ["ClientConnection"]

MAX_UNREAD: Final = 64 * 1024

IN_HEAD: Final = ResponseState.HEAD
COMPLETE: Final[ResponseState] = ResponseState.COMPLETE  # not literally: `feed` changes the state
WRITE: Final = Phase.WRITE
HEAD: Final = Phase.HEAD
BODY: Final = Phase.BODY


class ClientConnection(asyncio.Protocol):
    """`watch` ends its waits. `on_unusable` is called once, with the connection, when it can't be used for another request, and
    `on_closed` when its socket is gone. `max_body_size` bounds bodies that are read whole.
    """

    __slots__ = (
        "_body_timeout",
        "_max_body_size",
        "_on_closed",
        "_on_unusable",
        "_read_timeout",
        "_reading_paused",
        "_streams",
        "_told",
        "_transport",
        "_unsent",
        "_watch",
        "_write_paused",
        "_write_timeout",
        "connected",
        "deadline",
        "error",
        "interrupt",
        "limit",
        "loop",
        "lost",
        "parser",
        "phase",
        "pooled",
        "spoiled",
        "waiter",
        "wrote",
    )

    _transport: asyncio.Transport
    pooled: PooledConn[ClientConnection] | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        memory: ResponseHeadMemory,
        watch: Watch,
        on_unusable: Callable[[ClientConnection], None],
        on_closed: Callable[[ClientConnection], None],
        *,
        read_timeout: float,
        write_timeout: float,
        body_timeout: float,
        max_body_size: int,
    ) -> None:
        self.loop = loop
        self._watch = watch
        self._on_unusable = on_unusable
        self._on_closed = on_closed
        self._max_body_size = max_body_size
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        self._body_timeout = body_timeout
        self.parser = ResponseParser(memory, max_body_size)
        self.pooled = None
        """Its entry in the pool's books."""
        self.error: ClientError | None = None
        """Why the connection is of no use any more."""
        self.connected = self.lost = False
        self.spoiled = False
        """True when it may not be used for another request."""
        self.wrote = False
        """True when some of the request under way was written."""
        self.phase = HEAD
        self.deadline = self.limit = math.inf
        """When the wait under way is given up; and when the request is, which is never sooner."""
        self.interrupt: Callable[[], None] | None = None
        """While the holder waits for its own body to send: what ends that wait when there is no need to send."""
        self.waiter: asyncio.Future[None] | None = None
        """What the holder waits for, or waited for last."""
        self._streams = False
        self._told = False
        self._reading_paused = self._write_paused = False
        self._unsent = 0

    # For the holder

    def send(
        self, answer: asyncio.Future[None] | None, method: str, data: bytes, streams: bool, limit: float, now: float
    ) -> asyncio.Future[None]:
        """Write a whole request. Returns `answer`, made here if there is none, which is done when the response is there, or
        its head if it `streams`. It stays at hand as `waiter`.

        `limit` is when the request is given up, whatever it waits for.
        """
        if answer is None:
            answer = self.loop.create_future()
        self.waiter = answer
        if streams is not self._streams:
            self._set_streams(streams)
        self.parser.begin(method)
        self.phase = HEAD
        if self.spoiled:  # also by unasked bytes: what follows them would be taken for the response
            self.wrote = False
            answer.set_exception(
                self.error or ClosedBeforeResponse("the connection was closed before the request was written")
            )
            return answer
        self.wrote = True
        self._transport.write(data)
        self.limit = limit
        until = now + self._read_timeout
        self.deadline = until = until if until < limit else limit
        watch = self._watch
        if until < watch.armed_at:
            watch.arm(until)
        return answer

    def begin(self, method: str, streams: bool, limit: float) -> None:
        """A request comes, in several `write`s and a `sent`; `answered` says when there is no need to go on."""
        self.limit = limit
        self._set_streams(streams)
        self.parser.begin(method)
        self.phase = WRITE
        self.wrote = False
        self.rest()

    def _set_streams(self, streams: bool) -> None:
        self._streams = streams
        self.parser.max_body_size = None if streams else self._max_body_size  # what is streamed is not held

    def rest(self) -> None:
        """Nothing is waited for but the holder itself: only the request's own time runs."""
        self._watch.set(self, math.inf)

    @property
    def answered(self) -> bool:
        """True when there is no need to write on: the response is there, or is an error (RFC 9112 9.5), or never will be
        there. An upstream that begins to answer before it has read all may want the rest, unless nobody can take what it
        answers meanwhile.
        """
        state = self.parser.state
        if self.spoiled or state is COMPLETE:
            return True
        if state is IN_HEAD:
            return False
        return self.parser.head.status >= 400 or self._reading_paused

    def write(self, data: bytes) -> None:
        """Write a part of the request, unless the upstream has answered already. Then wait for `room`."""
        if not self.answered:
            self.wrote = True
            self._transport.write(data)
        elif data:
            self.spoil()  # it is not sent, and the upstream waits for it

    def room(self) -> asyncio.Future[None] | None:
        """Done when the upstream has taken some of what was written; None when that is enough, or it has answered."""
        if not self._write_paused or self.answered:
            return None
        self._unsent = self._transport.get_write_buffer_size()
        self._watch.set(self, self._write_timeout)
        return self._wait()

    def sent(self) -> None:
        """The request is written, or the rest of it is not wanted. Then wait for what is `there`."""
        if self._transport.get_write_buffer_size() and self.answered:
            self.spoil()  # what the upstream makes of the rest is not known
        if self.parser.state is IN_HEAD:
            self.phase = HEAD
            self._watch.set(self, self._read_timeout)
        else:
            self.phase = BODY
            self._watch.set(self, self._body_timeout)

    def there(self) -> asyncio.Future[None] | None:
        """None when the response is there, or its head if it is streamed. Raises what ended the connection before."""
        if not self._is_there():
            return self._wait()
        if self._transport.get_write_buffer_size():
            self.spoil()
        return None

    def more(self) -> asyncio.Future[None] | None:
        """None when there is more of a streamed body in the parser, or it is whole. Raises what ended it before."""
        if self.parser.parts or self.parser.state is COMPLETE:
            return None
        if self.error is not None:
            raise self.error
        self._watch.set(self, self._body_timeout)
        self.resume_reading()
        return self._wait()

    def _wait(self) -> asyncio.Future[None]:
        waiter = self.waiter = self.loop.create_future()
        return waiter

    def waited(self) -> None:
        """One of those is over, or its task was cancelled."""
        self.waiter = None

    def stream_begins(self) -> None:
        """The head is there; the body's time runs while it is waited for, and not while its reader is busy."""
        self.phase = BODY
        self.rest()

    def leave(self) -> None:
        """The holder gives up: nobody looks at what it waited for, which therefore must not end with an error."""
        self.deadline = math.inf
        if self.waiter is not None:
            self.waiter.cancel()

    @property
    def reusable(self) -> bool:
        return self.parser.keep_alive and not self.spoiled

    def close(self) -> None:
        """Close now. What is not written is lost: nobody waits for an answer to it.

        A holder that still waits, or will, is told that it was the client that closed.
        """
        self.spoiled = True
        complete = self.parser.state is COMPLETE or not self.wrote
        if self.error is None and self.parser.state is not COMPLETE:
            self.error = ClientClosed("the client was closed in the middle of the request", phase=self.phase.value)
        if complete and not self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self._transport.abort()  # a close would wait until the rest of the request is taken, maybe for ever

    # For the client's timer

    def expire(self, now: float) -> None:
        """`deadline` has passed. It may be that of a response which came in time: then it is nobody's."""
        if self.phase is WRITE and now < self.limit:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent = unsent
                self.deadline = min(self.limit, now + self._write_timeout)
                return
        self.deadline = math.inf
        if self.parser.state is COMPLETE:
            return
        self._fail(timed_out(self.phase, own_time=now >= self.limit))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.connected = True

    def data_received(self, data: bytes) -> None:
        parser = self.parser
        if parser.state is COMPLETE or not self.wrote:
            # Nothing was asked: what comes now can't be the response to what will be (RFC 9112 9.2).
            self.spoil()
            return
        try:
            position = parser.feed(data)
        except ClientError as error:
            self._fail(error)
            return
        waiter = self.waiter
        if parser.state is COMPLETE:
            if position < len(data):
                self.spoil()
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            elif self.interrupt is not None:
                self.interrupt()
            return
        if parser.state is IN_HEAD:
            return  # part of a head, or an informational one: the deadline stays
        if self._streams:
            if not self._reading_paused and sum(map(len, parser.parts)) > MAX_UNREAD:
                self._reading_paused = True
                self._transport.pause_reading()
            if self.phase is not WRITE and waiter is not None and not waiter.done():
                waiter.set_result(None)
        elif self.phase is not WRITE:
            self.phase = BODY
            self._watch.set(self, self._body_timeout)
        if self.phase is WRITE and self.answered:
            self._wake()  # there is no need to write on

    def eof_received(self) -> bool:
        self.spoil()
        if self.wrote and self.parser.state is not COMPLETE:
            try:
                self.parser.eof()
            except ClientError as error:
                self._fail(error)
            else:
                self._wake()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.spoil()
        if self.wrote and self.parser.state is not COMPLETE and self.error is None:
            self.error = broken(self.phase, error or "closed", started=self.parser.started)
        self._wake()
        self._on_closed(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self.phase is WRITE:
            self._wake()

    # Inside

    def spoil(self) -> None:
        """No other request on this connection."""
        self.spoiled = True
        if not self._told:
            self._told = True
            self._on_unusable(self)

    def _is_there(self) -> bool:
        """The response, or its head if it is streamed. Raises what ended the connection before."""
        state = self.parser.state
        if state is COMPLETE or (self._streams and state is not IN_HEAD):
            return True
        if self.error is not None:
            raise self.error
        if self.spoiled and not self.wrote:
            raise ClosedBeforeResponse("the connection was closed before the request was written")
        return False

    def _fail(self, error: ClientError) -> None:
        self.error = error
        self.spoil()
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is None or waiter.done():
            if self.interrupt is not None and self.answered:
                self.interrupt()
            return
        if self.error is not None and self.phase is not WRITE:
            waiter.set_exception(self.error)
        else:
            waiter.set_result(None)

    def call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        """On the connection's loop, from any thread; not at all when that is closed."""
        try:
            self.loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass

    def resume_reading(self) -> None:
        """Before it is waited for, and before the connection is another request's."""
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
