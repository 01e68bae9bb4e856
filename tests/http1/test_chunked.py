"""Where a chunked body ends: `ChunkScanner` alone, and what `RequestParser` does with it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from fastserve.errors import RequestError
from fastserve.http1.chunked import ChunkScanner
from fastserve.http1.head_memory import HeadMemory
from fastserve.http1.parser import ParserState, RequestParser
from fastserve.http1.request import Request

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

CHUNK_DATA = st.sampled_from([b"x", b"\r\n\r\n", b"0\r\n\r\n", b"\n", b"5\r\n", b"A: b\r\n\r\n", b"y" * 300])
EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c \\" 0"'])
ZEROS = st.sampled_from([b"", b"", b"0", b"000"])
TRAILERS = st.lists(st.sampled_from([b"A: b\r\n", b"a:\r\n", b"A: 0\r\n", b"X-Y:  z \r\n"]), max_size=4)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    body = b""
    for data in draw(st.lists(CHUNK_DATA, max_size=6)):
        body += draw(ZEROS) + draw(st.sampled_from([b"%x", b"%X"])) % len(data) + draw(EXTENSIONS) + b"\r\n" + data
        body += b"\r\n"
    return body + b"0" + draw(ZEROS) + draw(EXTENSIONS) + b"\r\n" + b"".join(draw(TRAILERS)) + b"\r\n"


def segments(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]


@given(bodies(), st.lists(st.integers(0, 10_000), max_size=8))
@example(b"0\r\n\r\n", [1, 2, 3, 4])
@example(b"1\r\nx\r\n0\r\nA: b\r\nA: c\r\n\r\n", list(range(23)))
def test_it_ends_where_the_body_ends_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    """Invariant 1."""
    scanner = ChunkScanner()
    fed = 0
    for segment in segments(body + NEXT, cuts):
        end = scanner.find_end(segment, 0)
        fed += end
        if scanner.ended:
            break
        assert end == len(segment)
    assert scanner.ended
    assert fed == len(body)
    assert body.endswith(scanner.trailers[2:])
    assert scanner.trailers.endswith(b"\r\n\r\n")


@given(bodies(), st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=2)), max_size=2))
def test_what_llhttp_takes_ends_in_the_same_place(body: bytes, edits: list[tuple[int, bytes]]) -> None:
    """Invariant 1 on damaged bodies too: what llhttp takes whole, it takes up to the scanner's end and no byte earlier."""
    for place, text in edits:
        place %= len(body) + 1
        body = body[:place] + text + body[place + len(text) :]
    completions: list[None] = []

    class Callbacks:
        def on_message_complete(self) -> None:
            completions.append(None)

    parser = HttpRequestParser(Callbacks())
    parser.feed_data(HEAD)
    scanner = ChunkScanner()
    try:
        end = scanner.find_end(body, 0)
        parser.feed_data(body[: end - 1])
        assert not completions
        parser.feed_data(body[end - 1 : end])
    except (ValueError, HttpParserError):
        return  # refused by either: nothing is read as another request
    assert bool(completions) == scanner.ended


def counted(parser: RequestParser) -> list[int]:
    """The size of each piece that llhttp is given from now on."""
    sizes: list[int] = []
    feed: Callable[[Any], None] = parser._feed

    def counting(data: Any) -> None:
        sizes.append(len(data))
        feed(data)

    parser._feed = counting
    return sizes


def new_parser() -> RequestParser:
    return RequestParser(Request(), HeadMemory(), 16 * 1024, 100, 1024 * 1024)


@pytest.mark.parametrize("size", [4, 40_000])
def test_a_body_full_of_blank_lines_is_one_call_of_llhttp(size: int) -> None:
    """It was one for every CRLFCRLF: four bytes of a client's cost a call."""
    parser = new_parser()
    parser.feed(HEAD)
    sizes = counted(parser)
    body = (b"%x\r\n" % size + b"\r\n" * (size // 2) + b"\r\n") * (80_000 // size) + b"0\r\n\r\n"
    assert parser.feed(body + NEXT) == len(body)
    assert parser.state is ParserState.COMPLETE
    assert parser.request.body == b"\r\n" * 40_000
    assert sizes == [len(body)]


def test_every_trailer_line_is_kept() -> None:
    data = HEAD + b"1\r\nx\r\n0\r\nServer-Timing: a\r\nX: 1\r\nServer-Timing: b\r\nserver-timing: c \r\n\r\n"
    for step in (len(data), 1):
        parser = new_parser()
        for piece in (data[i : i + step] for i in range(0, len(data), step)):
            position = 0
            while position < len(piece):
                position = parser.feed(piece, position)
        assert parser.state is ParserState.COMPLETE
        assert parser.request.trailers.items() == [
            ("Server-Timing", "a"),
            ("X", "1"),
            ("Server-Timing", "b"),
            ("server-timing", "c"),
        ]


def test_repeated_trailers_are_counted() -> None:
    for count, refused in ((100, False), (101, True)):
        parser = new_parser()
        parser.feed(HEAD)
        data = b"0\r\n" + b"T: 1\r\n" * count + b"\r\n"
        if refused:
            with pytest.raises(RequestError) as refusal:
                parser.feed(data)
            assert refusal.value.status == 431
        else:
            assert parser.feed(data) == len(data)
            assert len(parser.request.trailers) == count


@pytest.mark.parametrize("size", [b"0", b"f", b";", b"\r"])
def test_a_size_line_without_an_end_is_refused_at_once(size: bytes) -> None:
    """A pattern that backtracks would try the digits in every way there is: minutes for one segment."""
    parser = new_parser()
    parser.feed(HEAD)
    with pytest.raises(RequestError):
        parser.feed(size * 1024 * 1024)


def test_an_end_that_llhttp_does_not_see_is_refused() -> None:
    """The check behind the scanner: were the two ever to differ, nothing behind the body is read as a request."""
    parser = new_parser()
    parser.feed(HEAD)

    class Wrong(ChunkScanner):
        def find_end(self, data: bytes, start: int) -> int:
            return len(data)

    parser._chunks = Wrong()
    with pytest.raises(RequestError) as refusal:
        parser.feed(b"0\r\n\r\n")
    assert "does not end where its chunks say" in refusal.value.reason
