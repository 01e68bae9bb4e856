"""`SyncConnection`: one connection to the upstream for one thread at a time, which writes, waits and reads itself.

    (idle) -> WRITE -> HEAD -> BODY -> (idle)

The socket never blocks; what waits is one poll, whose time is what is left of the phase. So a deadline costs no system call
of its own (a socket's timeout costs a poll for each), and a large body is written while the other side is listened to: two
peers that both write first do not wait for each other.

Invariants:
1. One holder at a time. Another thread may `close` it at any time, and then the holder's wait ends.
2. Every wait ends: at its phase's deadline, and none is behind `limit`.
3. `reusable` is True only when a response was read to its end, nothing came behind it, and the request was written to its
   end before.

Names are looked up in `select` and `socket` when they are used, so that gevent's monkey-patching has its effect.
"""

from __future__ import annotations

import _socket
import math
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from time import monotonic

from fastserve.client.endings import Phase, broken, ends_request, timed_out
from fastserve.errors import ClientClosed, ClientError
from fastserve.http1.response_parser import ResponseHeadMemory, ResponseParser, ResponseState

__all__ = ["SyncConnection"]

MAX_READ = 64 * 1024
"""Bytes of one read; also what is held of a streamed body that nobody takes."""
TLS_RECORD = 16 * 1024
"""Bytes of one write through TLS (RFC 8446 5.1), which is taken whole or not at all: more would hide progress."""
MAX_WAIT = 1_000_000.0
"""Seconds of one poll at most, in milliseconds what C takes."""

IN_HEAD, COMPLETE = ResponseState.HEAD, ResponseState.COMPLETE
WRITE, HEAD, BODY = Phase.WRITE, Phase.HEAD, Phase.BODY

# Not now: the kernel's buffer is full or empty; or the TLS below has to read, or to write, first.
LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SyncConnection:
    """Takes a connected socket, plain or `ssl`. `max_body_size` bounds bodies that are read whole."""

    __slots__ = (
        "_body_timeout",
        "_closing",
        "_is_ended",
        "_max_body_size",
        "_outgoing",
        "_peeks",
        "_pending",
        "_readable",
        "_ready",
        "_recv",
        "_send",
        "_sock",
        "_streams",
        "_write_error",
        "_write_timeout",
        "cut",
        "deadline",
        "held",
        "limit",
        "parser",
        "phase",
        "spoiled",
        "wrote",
    )

    def __init__(
        self,
        sock: socket.socket,
        memory: ResponseHeadMemory,
        *,
        write_timeout: float,
        body_timeout: float,
        max_body_size: int,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._send = sock.send
        self._recv = sock.recv
        self._pending = getattr(sock, "pending", None)  # TLS only: bytes that are decrypted already
        self._peeks = not isinstance(
            sock, _socket.socket
        )  # gevent's: a poll goes through its hub, a read that fails does not
        readable, ready = select.poll(), select.poll()
        readable.register(sock.fileno(), select.POLLIN)
        ready.register(sock.fileno(), select.POLLIN | select.POLLOUT)
        self._readable = readable.poll
        self._ready = ready.poll
        self._closing = threading.Lock()
        self._is_ended = False
        self._write_timeout = write_timeout
        self._body_timeout = body_timeout
        self._max_body_size = max_body_size
        self.parser = ResponseParser(memory, max_body_size)
        self.held = False
        """Somebody uses it: then nobody else may close the socket."""
        self.cut = False
        """It was closed, if only by `close` under its holder."""
        self.spoiled = False
        """True when it may not be used for another request."""
        self.wrote = False
        """True when some of the request under way was written."""
        self.phase = HEAD
        self.deadline = self.limit = math.inf
        """When the wait under way is given up; and when the request is, which is never sooner."""
        self._streams = False
        self._outgoing: memoryview | None = None  # what is not written yet of the request
        self._write_error: OSError | None = None

    # For the holder

    def is_stale(self) -> bool:
        """Before a request: True when the upstream has closed the connection, or has sent what nobody asked for, which can't be
        the response to what will be asked (RFC 9112 9.2).
        """
        if not self._peeks and not self._readable(0) and (self._pending is None or not self._pending()):
            return False
        if self._pending is None and not self._peeks:
            return True
        try:
            if self._pending is None:
                self._recv(1, socket.MSG_PEEK)
            else:
                self._recv(1)
        except LATER:
            return False  # nothing; or TLS's own business, a ticket for the next session (RFC 8446 4.6.1)
        except OSError:
            pass
        return True

    def send(self, method: str, data: bytes, streams: bool, now: float, read_timeout: float) -> None:
        """Write a whole request, and wait for the response, or its head if it `streams`."""
        parser = self.parser
        if streams is not self._streams:
            self._set_streams(streams)
        parser.begin(method)
        self.wrote = False
        self.phase = HEAD
        if self._pending is None or len(data) <= TLS_RECORD:
            try:
                sent = self._send(data)
            except LATER:
                sent = 0
            except OSError as error:  # nothing was taken
                raise broken(HEAD, error, started=False) from error
            self.wrote = True
            if sent == len(data):
                self.deadline = until = now + read_timeout if now + read_timeout < self.limit else self.limit
                self._await_response(until, until - now)
                return
            self._outgoing = memoryview(data)[sent:]
        else:
            self._outgoing = memoryview(data)
        self._write_out()
        self._sent(read_timeout)

    def send_in_parts(
        self,
        method: str,
        head: bytes,
        parts: Iterable[bytes],
        last: Callable[[], bytes],
        streams: bool,
        read_timeout: float,
    ) -> None:
        """As `send`, for a body that is large, or comes bit by bit: no more `parts` are taken when the upstream has answered,
        nor is their `last` one asked for, with which the request is whole.
        """
        self._set_streams(streams)
        self.parser.begin(method)
        self.wrote = False
        self._write(head)
        remaining = iter(parts)
        while not self._answered:  # at first, not a part is taken: all of it may be sent again
            part = next(remaining, None)
            self.wrote = True  # from here on a stream can't be read again, whatever was written of it
            if part is None:
                self._write(last())
                break
            self._write(part)
        else:
            self.spoiled = True
        self._sent(read_timeout)

    def stream_begins(self) -> None:
        """The head is there; the body's time runs while it is waited for, and not while its reader is busy."""
        self.phase = BODY

    def next_piece(self) -> bytes:
        """More of a streamed body; empty at its end. Raises what ended it before."""
        parser = self.parser
        while not parser.parts:
            if parser.state is COMPLETE:
                return b""
            self._turn_until(self._body_timeout)
        return parser.take_body()

    @property
    def reusable(self) -> bool:
        return self.parser.keep_alive and not self.spoiled

    # For the pool

    def close(self) -> None:
        """Close the socket, or, while it is held, shut it down: the holder's wait ends, and it closes the socket itself."""
        self.cut = (
            True  # before `held` is looked at; a holder does it the other way round, and one of us sees the other
        )
        if not self.held:
            self.end()
            return
        with self._closing:
            if not self._is_ended:
                try:
                    # Not the ssl module's, which would have the holder go on without TLS.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
                except (
                    OSError,
                    TypeError,
                ):  # gone already; or no socket of the socket module, which may not know better
                    pass

    def was_cut(self) -> ClientClosed:
        """What a holder under which the connection was closed raises."""
        return ClientClosed("the client was closed while the request was under way", phase=self.phase.value)

    def end(self) -> None:
        """Close the socket: for the holder, or when there is none."""
        self.cut = True
        with self._closing:
            if not self._is_ended:
                self._is_ended = True
                if self._outgoing is not None:
                    # Its FIN would stand behind what an upstream that reads nothing does not take, and it would never
                    # learn that we are gone. With RST it does, and the kernel keeps nothing for it.
                    try:
                        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    except OSError:
                        pass
                self._sock.close()

    # Inside

    def _set_streams(self, streams: bool) -> None:
        self._streams = streams
        self.parser.max_body_size = None if streams else self._max_body_size  # what is streamed is not held

    @property
    def _answered(self) -> bool:
        """True when there is no need to write on: the response is there, says that the rest is not wanted, or can't come;
        or it waits to be taken, which the holder does when it has stopped writing.
        """
        parser = self.parser
        state = parser.state
        if state is COMPLETE or self.spoiled:
            return True
        if state is IN_HEAD:
            return False
        return ends_request(parser.head) or (self._streams and sum(map(len, parser.parts)) > MAX_READ)

    def _write(self, data: bytes) -> None:
        """Write a part of the request, unless the upstream has answered already: then what is left of it waits."""
        if data and not self._answered:
            self._outgoing = memoryview(data)
            self._write_out()

    def _sent(self, read_timeout: float) -> None:
        """The request is written, or the rest of it may not be wanted. Wait for the response, or its head."""
        if self._outgoing is not None:
            self.spoiled = True  # the upstream did not wait for the rest: what it makes of it is not known
        self.phase = HEAD
        now = monotonic()
        self.deadline = until = min(self.limit, now + read_timeout)
        self._await_response(until, until - now)

    def _await_response(self, until: float, wait: float) -> None:
        """Until the response is there, or its head if it is streamed. `wait` is the time from now to `until`."""
        parser = self.parser
        if self._outgoing is None and parser.state is IN_HEAD:
            self._turn(wait)  # mostly all of it
        while (state := parser.state) is not COMPLETE:
            if state is IN_HEAD:
                self._turn(until - monotonic())
            elif self._streams:
                return
            else:
                self.phase = BODY
                self._turn_until(self._body_timeout)

    def _write_out(self) -> None:
        """Until all is written, or the upstream has answered. Each byte that it takes gives it `write_timeout` again."""
        self.phase = WRITE
        left = -1
        while self._outgoing is not None and not self._answered:
            if len(self._outgoing) != left:
                left = len(self._outgoing)
                self.deadline = min(self.limit, monotonic() + self._write_timeout)
            self._turn(self.deadline - monotonic())

    def _turn_until(self, seconds: float) -> None:
        now = monotonic()
        self.deadline = until = min(self.limit, now + seconds)
        self._turn(until - now)

    def _turn(self, wait: float) -> None:
        """Read once, and write once if something is left to write, when either can be done. Raises the phase's timeout when
        neither can in `wait` seconds.
        """
        if wait <= 0:
            raise self._timed_out()
        milliseconds = wait * 1000 if wait < MAX_WAIT else MAX_WAIT * 1000
        if self._outgoing is not None:
            self._turn_both_ways(milliseconds)
        elif (self._pending is not None and self._pending()) or self._readable(milliseconds):
            self._read()
        else:
            raise self._timed_out()

    def _turn_both_ways(self, milliseconds: float) -> None:
        events = self._ready(milliseconds)
        if not events:
            raise self._timed_out()
        flags = events[0][1]
        if flags & ~select.POLLOUT or self._pending is not None:  # TLS may have to read before it can write
            self._read()
        outgoing = self._outgoing
        if not flags & select.POLLOUT or outgoing is None or self.parser.state is COMPLETE:
            return
        try:
            count = self._send(outgoing if self._pending is None else outgoing[:TLS_RECORD])
        except ssl.SSLWantReadError:
            if not self._readable(milliseconds):
                raise self._timed_out() from None
            return
        except LATER:
            return
        except OSError as error:
            # It may have answered before it hung up: that can still be read, and the reading ends at once.
            self._write_error = error
            self._outgoing = None
            self.spoiled = True
            return
        self.wrote = True
        self._outgoing = outgoing[count:] if count < len(outgoing) else None

    def _read(self) -> None:
        try:
            data = self._recv(MAX_READ)
        except LATER:
            return
        except OSError as error:
            raise self._broken(error) from error
        parser = self.parser
        if data:
            if parser.feed(data) < len(data):
                self.spoiled = True
            return
        self.spoiled = True
        if self.cut:  # our own end; to the parser it might complete a body
            raise self.was_cut()
        if self._write_error is not None and not parser.started:
            raise self._broken(self._write_error) from self._write_error
        parser.eof()

    def _broken(self, error: OSError) -> ClientError:
        if self.cut:
            return self.was_cut()
        if self._write_error is not None:
            self.phase = WRITE  # what came of it shows only now
            error = self._write_error
        return broken(self.phase, error, started=self.parser.started)

    def _timed_out(self) -> ClientError:
        return timed_out(self.phase, own_time=monotonic() >= self.limit)
