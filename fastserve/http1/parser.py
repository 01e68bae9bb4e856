"""`RequestParser`: bytes in, one HTTP/1.1 request at a time out.

llhttp (through httptools) judges the syntax. This module decides *how much* it is
given, and that is what makes everything else simple:

- A head ends at the first CRLFCRLF, a body with Content-Length after that many
  bytes, a chunked body where its chunks say (`ChunkScanner`). The parser is never fed
  past such a place, so that a request always ends where a call of `feed` ends:
  pipelined requests need no queue, and limits are counted before a byte is parsed.
- The raw head is at hand when a request is complete. The request line is read from it,
  since llhttp does not tell 'two spaces' from one.
- Header callbacks are bound methods of a dict, so that a header costs no Python frame.
  Names are kept as they were sent. A name that came twice shows as a difference between
  lines and entries; then, rarely, the lines are read again from the raw head.
- A client sends the same version and header lines again and again, with other targets
  (it is what HPACK lives on). Lines that llhttp and our own rules have let pass are
  remembered (`HeadMemory`), byte for byte, with what they mean: behind a valid method and
  target they need no second judgement, and llhttp does not see that request at all. The last
  such head of this parser is remembered whole: what begins with it again needs no look at all.

Invariants (tests/http1/test_parser.py):
1. Every input gives the same requests, whole, byte by byte, or cut anywhere. (But for chunk extensions close to their
   bound, which is looked at once per segment: a body may pass whole that is refused in small pieces.)
2. At most `max_header_size` bytes of a head are ever held or parsed.
3. Where this module says that a request ended, llhttp says so too; else 400.
4. What is remembered changes no verdict and no request.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from fastserve.errors import RequestError
from fastserve.http1.chunked import ChunkScanner
from fastserve.http1.head import (
    METHODS,
    NO_HEAD,
    PLAIN,
    Fields,
    Framing,
    RequestHead,
    field_pairs,
    read_framing,
    read_request_line,
)
from fastserve.http1.head_memory import LEARNED_BLOCK, HeadMemory
from fastserve.http1.request import Request

__all__ = ["ParserState", "RequestParser"]

END_OF_HEAD: Final = b"\r\n\r\n"
NO_CHUNKS: Final = ChunkScanner()
"""In the place of a body's, so that parsers that are kept for later are small."""
LF: Final = 0x0A

# HEAD is not among them: its response is not framed as the others are.
PLAIN_METHODS: Final = {token: method for token, method in METHODS.items() if method != "HEAD"}

# Pieces of a body held before they become one: a piece of two bytes costs fifty, and a client chooses their size.
MAX_SMALL_PARTS: Final = 1024


def is_plain_target(target: bytes) -> bool:
    """True for an origin-form target of the bytes that llhttp takes for one, without a fragment (RFC 9112 3.2).

    `target` has no space. (A regular expression of the same meaning costs three times as much.)
    """
    return (
        target[:1] == b"/" and target.isascii() and (text := target.decode("ascii")).isprintable() and "#" not in text
    )


class ParserState(enum.Enum):
    HEAD = "head"
    """In a request's head, or in blank lines before it."""
    LENGTH = "length"
    """In a body with Content-Length."""
    CHUNKED = "chunked"
    """In a chunked body."""
    COMPLETE = "complete"
    """Between two requests: the one that was fed last is whole. The next byte begins the next one."""


# Names of the members, at hand: an enum attribute costs a dictionary look-up per use.
HEAD: Final = ParserState.HEAD
LENGTH: Final = ParserState.LENGTH
CHUNKED: Final = ParserState.CHUNKED
COMPLETE: Final = ParserState.COMPLETE


class RequestParser:
    """Fills `request` from bytes. One parser serves one request after another, of any connection.

    `max_header_size` bytes and `max_header_count` bound the head (and the trailers). `max_body_size` bytes bound
    the body. All raise `RequestError` from `feed`: 414, 431 and 413.

    `stops_at_head`: a call of `feed` that comes to the end of a head with a body ends there, so that `max_body_size` may
    be changed. `streams`: pieces of bodies stay in `parts`, to be taken; otherwise they become `request.body` at the end.
    """

    __slots__ = (
        "_announced",
        "_blocks",
        "_chunks",
        "_feed",
        "_last_block",
        "_last_bytes",
        "_last_head",
        "_last_method",
        "_last_target",
        "_memory",
        "_open",
        "_packed",
        "_partial",
        "_remaining",
        "_skipped",
        "_stops_at_head",
        "_streams",
        "fields",
        "max_body_size",
        "max_header_count",
        "max_header_size",
        "parts",
        "request",
        "state",
    )

    def __init__(
        self,
        request: Request,
        memory: HeadMemory,
        max_header_size: int,
        max_header_count: int,
        max_body_size: int,
        *,
        stops_at_head: bool = False,
        streams: bool = False,
    ) -> None:
        self.request = request
        self.max_header_size = max_header_size
        self.max_header_count = max_header_count
        self.max_body_size = max_body_size
        self.state = COMPLETE
        self.fields: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        """Pieces of the body that came and were not taken yet."""
        self._memory = memory
        self._blocks = memory.blocks
        self._stops_at_head = stops_at_head or streams
        self._streams = streams
        self._open: list[None] = [None]  # emptied by llhttp when a message is complete; a second time raises
        self._feed = self._new_feed()
        self._last_bytes: bytes | None = None
        """The last head that was taken from memory, whole; and what it said, in words and together."""
        self._last_block: bytes | None = None
        self._last_method = "GET"
        self._last_target = b"/"
        self._last_head = NO_HEAD
        self._partial = bytearray()  # the part of a head that came in earlier segments
        self._skipped = 0  # bytes of blank lines before the request line
        self._announced = 0  # a body's Content-Length
        self._remaining = 0  # bytes of a body with Content-Length still to come
        self._chunks = NO_CHUNKS  # of the chunked body under way
        self._packed = 0  # how many of `parts` are made of many

    def _new_feed(self) -> Callable[[bytes | memoryview], None]:
        callbacks = SimpleNamespace(
            on_header=self.fields.setdefault, on_body=self.parts.append, on_message_complete=self._open.pop
        )
        feed: Callable[[bytes | memoryview], None] = HttpRequestParser(callbacks).feed_data
        return feed

    @property
    def in_request(self) -> bool:
        """True when a request has begun and is not complete: blank lines before it do not count as a beginning."""
        return self.state in (LENGTH, CHUNKED) or bool(self._partial.strip(b"\r\n"))

    @property
    def untouched(self) -> bool:
        """True when no byte of a request, nor a blank line before it, has come: any connection may take this parser."""
        return self.state in (HEAD, COMPLETE) and not self._partial and not self._skipped

    def feed(self, data: bytes, start: int = 0) -> int:
        """Parse `data` from `start` to the end of the head, of the body, or of `data`, whichever is first; return that place.

        Then `state` says where it stands: COMPLETE, a request is ready; LENGTH or CHUNKED, its head is, or more of its
        body; HEAD, nothing is. After COMPLETE the next call begins the next request, in the same `request`. Raises
        `RequestError`; the parser is of no use after that.
        """
        state = self.state
        if state is COMPLETE:
            end = size = len(data)
            last = self._last_bytes
            # Clients mostly ask what they asked last: then the bytes say all that there is to say.
            if last is not None and (
                (data == last and not start) or (size > len(last) and data[start : start + len(last)] == last)
            ):
                end = start + len(last)
                method, target, head = self._last_method, self._last_target, self._last_head
            else:
                # What follows is written for CPython's costs: a method of bytes with arguments takes 100 ns, and the search
                # for the end of a browser's head three times that. Mostly there is no need: the segment ends with the head.
                whole = data
                known = None
                try:
                    if data[-1] == LF and size <= LEARNED_BLOCK and not start:
                        method_token, target, block = data.split(b" ", 2)
                        known = self._last_head if block == self._last_block else self._blocks.get(block)
                    if known is None:
                        found = (data.find(END_OF_HEAD, start) if start else data.find(END_OF_HEAD)) + 4
                        if found < 4 or found > start + LEARNED_BLOCK:
                            return self._feed_head(data, start, found)
                        if found == size and not start:  # this is what was looked for
                            return self._feed_head(data, start, found, [method_token, target, block])
                        end = found
                        whole = data[start:end]
                        method_token, target, block = whole.split(b" ", 2)
                        known = self._last_head if block == self._last_block else self._blocks.get(block)
                        if known is None:
                            return self._feed_head(data, start, end, [method_token, target, block])
                    method = PLAIN_METHODS[method_token]
                except (KeyError, ValueError):
                    return self._feed_head(data, start, data.find(END_OF_HEAD, start) + 4)
                if not is_plain_target(target) or end - start > self.max_header_size:
                    return self._feed_head(data, start, end)
                head = known
                self._last_bytes, self._last_method, self._last_target = whole, method, target
                self._last_block, self._last_head = block, head
            request = self.request
            length = head.content_length
            if not length:
                request.body = b""
            elif not self._stops_at_head and end + length <= size and length <= self.max_body_size:
                request.body = data[end : end + length]
                end += length
            else:
                return self._feed_head(data, start, end)
            request.method = method
            request.target = target
            request.head = head
            request.surface = None
            return end
        if state is HEAD:
            return self._feed_head(data, start, data.find(END_OF_HEAD, start) + 4)
        return self._feed_length(data, start) if state is LENGTH else self._feed_chunked(data, start)

    # The head

    def _feed_head(self, data: bytes, start: int, end: int, words: list[bytes] | None = None) -> int:
        """A head that llhttp is to judge. It stands in `data` from `start` to `end`, or goes on behind it: then `end` is 3.

        `words` are its method, its target and the rest, when somebody has looked already.
        """
        fields = self.fields
        if self.state is COMPLETE:
            self.state = HEAD
            fields.clear()
            self.parts.clear()
            if not self._open:
                self._open.append(None)
        if end < 4 or self._partial:
            return self._feed_partial_head(data, start)
        if end - start > self.max_header_size - self._skipped:
            raise self._head_too_large(data[start:end])
        head = data if end - start == len(data) else data[start:end]
        try:
            self._feed(head)
        except HttpParserUpgrade:
            self._feed = self._new_feed()
        except HttpParserError as error:
            raise self._syntax_error(head, error) from None
        if words is None:
            words = head.split(b" ", 2)
        if len(words) != 3:
            self._parse_head(head)
            return end
        method_token, target, block = words
        method = PLAIN_METHODS.get(method_token)
        if method is None or not is_plain_target(target) or (framing := self._judge_block(head, block)) is None:
            self._parse_head(head)
        else:
            self._begin(method, target, RequestHead(1, fields, framing))
        return end

    def _judge_block(self, head: bytes, block: bytes) -> Framing | None:
        """The framing that `block`, version and header lines, tells of; None when it must be looked at line by line."""
        fields = self.fields
        memory = self._memory
        if (
            block[:10] == b"HTTP/1.1\r\n"
            # A line that is not an entry is a repeated name. (Behind a plain target llhttp takes no bare LF: each ends a line.)
            and head.count(b"\n") - 2 == len(fields) <= self.max_header_count
            and memory.names.issuperset(fields)
            and fields.get(b"Host") in memory.hosts
            and fields.get(b"Connection", b"keep-alive") == b"keep-alive"
            and (framing := memory.framings.get(fields.get(b"Content-Length"))) is not None
        ):
            memory.learn_block(block, fields, framing)
            return framing
        return None

    def _begin(self, method: str, target: bytes, head: RequestHead) -> None:
        """The head is whole and let pass: a request is ready, or its body comes next."""
        framing = head.framing
        if framing is PLAIN or not framing.has_body:
            if self._open:
                raise RequestError(400, "a body that the head did not announce")
            self.state = COMPLETE
        elif not self._open:
            raise RequestError(400, "no body where the head announced one")
        elif framing.chunked:
            self.state = CHUNKED
            self._chunks = ChunkScanner()
        else:
            self.state = LENGTH
            self._announced = self._remaining = framing.content_length
        self._skipped = 0
        self.request.begin(method, target, head)

    def _feed_partial_head(self, data: bytes, start: int) -> int:
        partial = self._partial
        before = len(partial)
        room = self.max_header_size - self._skipped - before
        partial += data[start : start + room + 1]
        # The end may straddle the segments: look from three bytes before the seam.
        end = partial.find(END_OF_HEAD, max(before - 3, 0)) + 4
        if end < 4:
            if len(partial) - before > room:
                raise self._head_too_large(bytes(partial))
            self._feed_syntax(data[start:] if start else data)
            if data.find(b"\n", start) >= 0:
                # A request line that will be refused is refused now: whoever speaks HTTP/0.9 sends nothing more.
                line, line_end, _ = bytes(partial.lstrip(b"\r\n")).partition(b"\r\n")
                if line_end:
                    read_request_line(line)
            return len(data)
        if end - before > room:
            raise self._head_too_large(bytes(partial))
        head = bytes(partial[:end])
        partial.clear()
        try:
            self._feed(head[before:])
        except HttpParserUpgrade:
            self._feed = self._new_feed()
        except HttpParserError as error:
            raise self._syntax_error(head, error) from None
        self._parse_head(head)
        return start + end - before

    def _head_too_large(self, head: bytes) -> RequestError:
        # Only what a dripped head would have shown by now: the answer must not depend on the segments.
        stripped = head[: self.max_header_size - self._skipped + 1].lstrip(b"\r\n")
        if stripped and b"\r\n" not in stripped:  # RFC 9112 3
            return RequestError(414, f"the request target is longer than {self.max_header_size} bytes")
        return RequestError(431, f"the head is larger than {self.max_header_size} bytes")  # RFC 6585 5

    def _feed_syntax(self, piece: bytes | memoryview) -> None:
        try:
            self._feed(piece)
        except HttpParserUpgrade:
            # llhttp takes what follows for another protocol. It is not: go on with a parser that never saw the upgrade.
            self._feed = self._new_feed()
        except HttpParserError as error:
            raise RequestError(400, str(error) or type(error).__name__) from None

    def _syntax_error(self, head: bytes, error: HttpParserError) -> RequestError:
        """What llhttp found wrong. Of versions and methods RFC 9110 15.6.6 and 15.6.2 tell more exactly."""
        line = head.lstrip(b"\r\n")
        try:
            read_request_line(line[: line.find(b"\r\n")])
        except RequestError as told:
            return told
        return RequestError(400, str(error) or type(error).__name__)

    def _parse_head(self, head: bytes) -> None:
        """Judge any head that llhttp has accepted. What `feed` lets pass at once would pass here too."""
        stripped = head.lstrip(b"\r\n")  # RFC 9112 2.2: blank lines before a request line are ignored
        if not stripped:
            self._skipped += len(head)
            return
        line = read_request_line(stripped[: stripped.index(b"\r\n")])
        count = stripped.count(b"\r\n") - 2
        if count > self.max_header_count:
            raise RequestError(431, f"more than {self.max_header_count} headers")
        fields: Fields = self.fields
        if count != len(self.fields):
            fields = field_pairs(stripped)
        pairs = fields.items() if isinstance(fields, dict) else fields
        framing = read_framing(pairs, line.minor, line.authority)
        self._memory.learn(self.fields)
        if framing.chunked:
            # Trailers come through the same callback: the headers must not be the same dict.
            if isinstance(fields, dict):
                fields = dict(fields)
            self.fields.clear()
        head_only = line.method == "HEAD"
        self._begin(line.method, line.target, RequestHead(line.minor, fields, framing, plain=not head_only))

    # The body

    def check_body_size(self) -> None:
        """Raise `RequestError` 413 when the head announces more than `max_body_size`. To be called before 100 Continue."""
        if self.state is LENGTH and self._announced > self.max_body_size:
            raise self._body_too_large()

    def _body_too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self.max_body_size} bytes")

    def _feed_length(self, data: bytes, start: int) -> int:
        self.check_body_size()
        end = min(len(data), start + self._remaining)
        self._feed_syntax(data if end - start == len(data) else memoryview(data)[start:end])
        self._remaining -= end - start
        if len(self.parts) - self._packed > MAX_SMALL_PARTS:
            self._pack()
        if not self._remaining:
            if self._open:
                raise RequestError(400, "the body does not end where its Content-Length says")
            self._body_complete()
        return end

    def _body_complete(self) -> None:
        self.state = COMPLETE
        self._packed = 0
        if not self._streams:
            parts = self.parts
            self.request.body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()

    def _pack(self) -> None:
        self.parts[self._packed :] = [b"".join(self.parts[self._packed :])]
        self._packed += 1

    def _feed_chunked(self, data: bytes, start: int) -> int:
        chunks = self._chunks
        try:
            end = chunks.find_end(data, start)
        except ValueError as error:
            raise RequestError(400, str(error)) from None
        parts = self.parts
        known = len(parts)
        self._feed_syntax(data if end - start == len(data) else memoryview(data)[start:end])
        chunks.count(end - start, sum(map(len, parts[known:])))
        if chunks.received > self.max_body_size:
            raise self._body_too_large()
        if len(parts) - self._packed > MAX_SMALL_PARTS:
            self._pack()
        if chunks.excess > self.max_header_size:
            raise RequestError(413, "chunk extensions and trailers are larger than the head may be")
        if len(self.fields) > self.max_header_count:
            raise RequestError(431, f"more than {self.max_header_count} trailers")
        if chunks.ended == bool(self._open):
            raise RequestError(400, "the body does not end where its chunks say")
        if chunks.ended:
            if self.fields:
                trailers = field_pairs(bytes(chunks.trailers))  # each line: the callbacks keep one of a name
                if len(trailers) > self.max_header_count:
                    raise RequestError(431, f"more than {self.max_header_count} trailers")
                self.request.add_trailers(trailers)
                # llhttp takes a trailer for a header: after 'Connection: close' it would refuse the next request.
                self._feed = self._new_feed()
            self._body_complete()
        return end
