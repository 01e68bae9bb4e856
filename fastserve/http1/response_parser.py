"""`ResponseParser`: bytes in, one HTTP/1.1 response at a time out.

llhttp (through httptools) judges the syntax of heads and of chunked bodies; this module decides how much it is given,
and never feeds it past the end of a message. A body with a length, or one that ends with the connection, needs no
parser: it is counted. Each head gets a fresh llhttp, which costs less than to know what state the last one is in.

A server sends the same heads again and again: within a second not even Date changes. `ResponseHeadMemory` keeps
those that llhttp and our own rules have accepted, by their bytes, so that a response of one segment is a search, two
slices and a look-up.

Invariants (tests/http1/test_response_parser.py):
1. Every input gives the same responses, whole, byte by byte, or cut anywhere, with a memory and without one. (But for
   chunk extensions close to their bound, which is looked at once per segment, as in `RequestParser`.)
2. At most `max_header_size` bytes of a head are ever held or parsed, and at most `MAX_INFORMATIONAL` heads skipped.
3. `feed` returns less than ``len(data)`` only when the response is COMPLETE: what is behind it was not asked for.
4. `keep_alive` is True only when the response is COMPLETE, its end is certain, and its head says so.
"""

from __future__ import annotations

import enum
import sys
from types import SimpleNamespace
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from fastserve.errors import ClosedBeforeResponse, ClosedInResponse, MalformedResponse, ResponseTooLarge
from fastserve.http1.chunked import ChunkScanner
from fastserve.http1.parser import END_OF_HEAD, MAX_SMALL_PARTS
from fastserve.http1.response_head import CHUNKED_BODY, UNTIL_CLOSE, ResponseHead, read_response_head

__all__ = ["ResponseHeadMemory", "ResponseParser", "ResponseState"]

# RFC 9110 15.2: any number of them may come; a client that waits for the final response must not wait for ever.
MAX_INFORMATIONAL: Final = 100

LEARNED_HEADS: Final = 1000
LEARNED_HEAD: Final = 2048

FIRST_BYTE: Final = b"H"
# What llhttp is told of a chunked response: its own head was judged already, and its fields are not trailers.
CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CALLBACKS: Final = object()


class ResponseState(enum.Enum):
    HEAD = "head"
    """In or before the head, or in one of the informational ones before it."""
    LENGTH = "length"
    """In a body with Content-Length."""
    CHUNKED = "chunked"
    """In a chunked body."""
    CLOSE = "close"
    """In a body that ends with the connection (RFC 9112 6.3 rule 8)."""
    COMPLETE = "complete"
    """The response is whole. `begin` begins the next one."""


# Names of the members, at hand: an enum attribute costs a dictionary look-up per use.
HEAD: Final = ResponseState.HEAD
LENGTH: Final = ResponseState.LENGTH
CHUNKED: Final = ResponseState.CHUNKED
CLOSE: Final = ResponseState.CLOSE
COMPLETE: Final = ResponseState.COMPLETE


class ResponseHeadMemory:
    """What the parsers of one client share: the limits of a head, and heads that passed them.

    `max_header_size` is in bytes, status line to blank line, of each head; the same for a body's trailers.
    `max_heads` bounds what is kept, in heads of at most 2 KiB; 0 keeps none. When it is full it is emptied: the
    heads of this second are worth more than those of the last.
    """

    __slots__ = ("heads", "max_header_count", "max_header_size", "max_heads")

    def __init__(
        self, max_header_size: int = 16 * 1024, max_header_count: int = 100, max_heads: int = LEARNED_HEADS
    ) -> None:
        self.max_header_size = max_header_size
        self.max_header_count = max_header_count
        self.max_heads = max_heads
        self.heads: dict[bytes, ResponseHead] = {}

    def learn(self, head: bytes, meaning: ResponseHead) -> None:
        """Keep a final response's head that was accepted."""
        if len(head) <= LEARNED_HEAD and self.max_heads:
            if len(self.heads) >= self.max_heads:
                self.heads.clear()
            self.heads[head] = meaning


class ResponseParser:
    """Reads one response after another, of any connection. `begin` before each one.

    `max_body_size` bytes bound a body (None or 0: no bound), by its Content-Length before any of it is read, else by
    running total. It may be changed before `begin`. `feed` and `eof` raise `ClientError`s; after that, and after a
    response that was not read to its end, `begin` starts afresh, but the connection is of no use.
    """

    __slots__ = (
        "_bodiless",
        "_chunks",
        "_dirty",
        "_heads",
        "_judge",
        "_last_bytes",
        "_last_head",
        "_max_body_size",
        "_memory",
        "_open",
        "_packed",
        "_partial",
        "_received",
        "_remaining",
        "_unchunk",
        "_untouched",
        "head",
        "informational_count",
        "keep_alive",
        "parts",
        "state",
        "trailer_fields",
    )

    head: ResponseHead
    """The head, from the moment that `state` is no longer HEAD."""

    def __init__(self, memory: ResponseHeadMemory, max_body_size: int | None = None) -> None:
        self._memory = memory
        self._heads = memory.heads
        self.max_body_size = max_body_size
        self.parts: list[bytes] = []
        """Pieces of the body that came and were not taken yet. To be emptied through `take_body`."""
        self.trailer_fields: list[tuple[bytes, bytes]] = []
        """Fields behind a chunked body, in order; never merged into the head's (RFC 9110 6.5)."""
        self._open: list[None] = []  # emptied by llhttp when a chunked body is complete
        self._chunks = ChunkScanner()
        self._last_bytes = b" "  # the last remembered head of this connection; at first what none begins with
        self._last_head: ResponseHead | None = None
        self._partial = bytearray()  # the part of a head that came in earlier segments
        self._unchunk: HttpResponseParser | None = None
        self._judge: HttpResponseParser | None = None
        self._reset()
        self.begin("GET")

    def _reset(self) -> None:
        self._partial.clear()
        self.trailer_fields = []
        self.informational_count = 0
        self._judge = self._unchunk = None
        self._remaining = 0  # bytes of a body with Content-Length still to come
        self._received = 0  # bytes of a body that ends with the connection
        self._packed = 0  # how many of `parts` are made of many
        self._dirty = False  # True when there is something to reset: after a response that was not one remembered head

    @property
    def max_body_size(self) -> int | None:
        return None if self._max_body_size == sys.maxsize else self._max_body_size

    @max_body_size.setter
    def max_body_size(self, size: int | None) -> None:
        self._max_body_size = size or sys.maxsize

    @property
    def started(self) -> bool:
        """True when any byte of this response, or of an informational one before it, has come."""
        return not self._untouched

    @property
    def body(self) -> bytes:
        """What has come of the body and was not taken, as one piece."""
        return b"".join(self.parts)

    def take_body(self) -> bytes:
        """`body`, which is the caller's from now on."""
        parts = self.parts
        if len(parts) == 1:
            self._packed = 0
            return parts.pop()
        body = b"".join(parts)
        parts.clear()
        self._packed = 0
        return body

    def begin(self, method: str = "GET") -> None:
        """The response to a `method` request comes next: to HEAD there is no body (RFC 9112 6.3 rule 1)."""
        if self._dirty:
            self._reset()
        if self.parts:
            self.parts.clear()
        self._untouched = True
        self.state = HEAD
        self.keep_alive = False
        self._bodiless = method == "HEAD"

    def feed(self, data: bytes, start: int = 0) -> int:
        """Parse `data` from `start` to the end of the response or of `data`, whichever is first; return that place.

        Raises `MalformedResponse` and `ResponseTooLarge`.
        """
        if self._untouched:
            # Mostly the last response of this connection had the same head: comparing costs a third of searching.
            if not start and data.startswith(self._last_bytes):
                end = len(self._last_bytes)
                head = self._last_head
            elif start >= len(data):
                return start
            else:
                end = data.find(END_OF_HEAD, start) + 4
                known = data[start:end]
                head = self._heads.get(known)
                if head is not None:
                    self._last_bytes = known
                    self._last_head = head
            self._untouched = False
            if head is not None:
                length = 0 if self._bodiless else head.body_length
                stop = end + length
                if end <= stop <= len(data) and length <= self._max_body_size:
                    if length:
                        self.parts.append(data[end:stop])
                    self.head = head
                    self.keep_alive = head.keep_alive
                    self.state = COMPLETE
                    return stop
                self._dirty = True
                self._begin_body(head)
                return self._feed_body(data, end)
            self._dirty = True
        if self.state is HEAD:
            start = self._feed_head(data, start)
        return self._feed_body(data, start)

    def eof(self) -> None:
        """The connection has ended. Completes a body that ends with it; raises in the middle of any other response."""
        state = self.state
        if state is CLOSE:
            self.state = COMPLETE
        elif state is HEAD:
            if self._untouched:
                raise ClosedBeforeResponse("the connection was closed before the first byte of the response")
            raise ClosedInResponse("the connection was closed in the response's head", phase="head")
        elif state is LENGTH:
            raise ClosedInResponse(
                f"the connection was closed {self._remaining} bytes before the end of the body's"
                f" {self.head.content_length} bytes"
            )
        elif state is CHUNKED:
            raise ClosedInResponse("the connection was closed before the last chunk of the body")

    # The head

    def _feed_head(self, data: bytes, start: int) -> int:
        """Skip informational heads, and begin the final one's body; return its place, or the end of `data`."""
        while start < len(data):
            head, start = self._take_head(data, start)
            if head is None:
                break
            meaning = read_response_head(head, self._memory.max_header_count)
            if not meaning.informational:
                self._memory.learn(head, meaning)
                self._begin_body(meaning)
                break
            self.informational_count += 1
            if self.informational_count > MAX_INFORMATIONAL:
                raise MalformedResponse(f"more than {MAX_INFORMATIONAL} informational responses (RFC 9110 15.2)")
        return start

    def _take_head(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        """The next head, as llhttp has accepted it, and the place behind it; None when it is not whole yet."""
        partial = self._partial
        before = len(partial)
        room = self._memory.max_header_size - before
        if not before and data[start] != FIRST_BYTE[0]:
            # llhttp skips blank lines before a head. RFC 9112 2.2 has servers do that, and no client: something is wrong
            # with what was before. Nor is HTTP/0.9 taken, whose body would begin here.
            raise MalformedResponse("what was received does not begin with 'HTTP/1.1' (RFC 9112 4)")
        at = data.find(END_OF_HEAD, start) if not before else -1
        if at >= 0:
            end = at + 4
            if end - start > room:
                raise self._head_too_large()
            head = data[start:end]
            self._judge_head(head, head)
            return head, end
        partial += data[start : start + room + 1]
        # The end may straddle the segments: look from three bytes before the seam.
        end = partial.find(END_OF_HEAD, max(before - 3, 0)) + 4
        if (end if end >= 4 else len(partial)) - before > room:
            raise self._head_too_large()
        if end < 4:
            self._judge_head(data[start:])
            return None, len(data)
        head = bytes(partial[:end])
        partial.clear()
        self._judge_head(head[before:], head)
        return head, start + end - before

    def _judge_head(self, piece: bytes, head: bytes | None = None) -> None:
        """Give llhttp the next `piece` of a head; `head` is the whole of it when this piece is the last."""
        judge = self._judge
        if judge is None:
            judge = self._judge = HttpResponseParser(NO_CALLBACKS)
        try:
            judge.feed_data(piece)
        except HttpParserUpgrade:
            pass  # a 101, and the end of its head
        except HttpParserError as error:
            if head is not None and head[9:12] == b"101":
                # RFC 9110 15.2.2 and 7.8: llhttp stops at its end all the same, and says so.
                raise MalformedResponse("malformed head, or a 101 without Upgrade and Connection: upgrade") from None
            raise MalformedResponse(f"malformed head: {error}") from None
        if head is not None:
            self._judge = None

    def _head_too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(
            f"the response's head is larger than max_header_size, {self._memory.max_header_size} bytes", phase="head"
        )

    # The body

    def _begin_body(self, head: ResponseHead) -> None:
        self.head = head
        length = 0 if self._bodiless else head.body_length
        if length > self._max_body_size:
            raise self._body_too_large()
        if length > 0:
            self._remaining = length
            self.state = LENGTH
        elif not length:
            self._complete()
        elif length == CHUNKED_BODY:
            self.trailer_fields = trailers = []
            self._chunks = ChunkScanner()
            self._open = [None]
            self._unchunk = HttpResponseParser(
                SimpleNamespace(
                    on_body=self.parts.append,
                    on_header=lambda name, value: trailers.append((name, value.rstrip(b" \t"))),
                    on_message_complete=self._open.pop,
                )
            )
            self._unchunk.feed_data(CHUNKED_HEAD)
            trailers.clear()
            self.state = CHUNKED
        else:
            assert length == UNTIL_CLOSE
            self.state = CLOSE

    def _complete(self) -> None:
        self.state = COMPLETE
        self.keep_alive = self.head.keep_alive

    def _body_too_large(self) -> ResponseTooLarge:
        return ResponseTooLarge(
            f"the response's body is larger than max_response_body_size, {self._max_body_size} bytes"
        )

    def _feed_body(self, data: bytes, start: int) -> int:
        """More of the body; return the end of the response or of `data`."""
        state = self.state
        if state is CHUNKED:
            return self._feed_chunks(data, start) if start < len(data) else start
        if state is LENGTH:
            end = min(len(data), start + self._remaining)
            if end > start:
                self.parts.append(data[start:end])
                self._remaining -= end - start
                if not self._remaining:
                    self._complete()
        elif state is CLOSE:
            end = len(data)
            self._received += end - start
            if self._received > self._max_body_size:
                raise self._body_too_large()
            if end > start:
                self.parts.append(data[start:end])
        else:
            return start  # complete, or the head is not
        self._pack()
        return end

    def _feed_chunks(self, data: bytes, start: int) -> int:
        chunks = self._chunks
        llhttp = self._unchunk
        assert llhttp is not None
        parts = self.parts
        known = len(parts)
        try:
            end = chunks.find_end(data, start)
            llhttp.feed_data(data if end - start == len(data) else memoryview(data)[start:end])
        except (ValueError, HttpParserError) as error:
            raise MalformedResponse(f"malformed chunked body: {error}", phase="body") from None
        chunks.count(end - start, sum(map(len, parts[known:])))
        if chunks.received > self._max_body_size:
            raise self._body_too_large()
        if chunks.excess > self._memory.max_header_size:
            raise ResponseTooLarge("chunk extensions and trailers are larger than a head may be")
        if len(self.trailer_fields) > self._memory.max_header_count:
            raise ResponseTooLarge(f"the response has more than {self._memory.max_header_count} trailers")
        if chunks.ended == bool(self._open):
            raise MalformedResponse("the body does not end where its chunks say", phase="body")
        if chunks.ended:
            self._complete()
        self._pack()
        return end

    def _pack(self) -> None:
        """A body of many small pieces is held in few: a piece of two bytes costs fifty, and a server chooses their size."""
        parts = self.parts
        if len(parts) - self._packed > MAX_SMALL_PARTS:
            parts[self._packed :] = [b"".join(parts[self._packed :])]
            self._packed += 1
