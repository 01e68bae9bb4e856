"""`ResponseParser` fed bytes in every way they can come: its four invariants, its strictness, its limits to the byte."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastserve.errors import ClientError, ClosedBeforeResponse, ClosedInResponse, MalformedResponse, ResponseTooLarge
from fastserve.http1.parser import MAX_SMALL_PARTS
from fastserve.http1.response_parser import (
    LEARNED_HEAD,
    LEARNED_HEADS,
    MAX_INFORMATIONAL,
    ResponseHeadMemory,
    ResponseParser,
    ResponseState,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BEHIND = b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad"


@dataclass(frozen=True)
class Taken:
    """What a client would see of one response."""

    status: int
    reason: bytes
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    informational: int


@dataclass(frozen=True)
class Outcome:
    taken: Taken | None
    refusal: type[ClientError] | None
    end: int
    """How many bytes the response took, when it is complete."""

    @property
    def verdict(self) -> tuple[Taken | None, bool, int]:
        """What must not depend on how the bytes were cut. When two rules are broken, which is told first may."""
        return self.taken, self.refusal is not None, self.end


def new_parser(
    memory: ResponseHeadMemory | None = None,
    /,
    *,
    max_header_size: int = 16 * 1024,
    max_header_count: int = 100,
    max_body_size: int | None = None,
) -> ResponseParser:
    return ResponseParser(memory or ResponseHeadMemory(max_header_size, max_header_count, 0), max_body_size)


def take(parser: ResponseParser) -> Taken:
    head = parser.head
    return Taken(
        head.status,
        head.reason,
        head.minor,
        head.fields,
        parser.take_body(),
        tuple(parser.trailer_fields),
        parser.keep_alive,
        parser.informational_count,
    )


def read(parser: ResponseParser, segments: Iterable[bytes], method: str = "GET") -> Outcome:
    """Read one response, and then the end of the connection, as a client does."""
    parser.begin(method)
    assert not parser.started
    before = 0
    try:
        for segment in segments:
            fed = parser.feed(segment)
            assert 0 <= fed <= len(segment)
            if parser.state is ResponseState.COMPLETE:
                return Outcome(take(parser), None, before + fed)
            assert fed == len(segment)
            assert not parser.keep_alive
            before += fed
        parser.eof()
    except ClientError as error:
        assert not parser.keep_alive
        return Outcome(None, type(error), 0)
    return Outcome(take(parser), None, before)


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [piece for a, b in pairwise(edges) if (piece := data[a:b])]


def every_way(data: bytes, method: str = "GET", **limits: int) -> Outcome:
    """Read `data` whole, byte by byte and with bytes behind it, with a memory that has seen it and without one."""
    outcome = read(new_parser(**limits), [data], method)
    assert read(new_parser(**limits), single_bytes(data), method).verdict == outcome.verdict
    learned = ResponseHeadMemory(limits.get("max_header_size", 16 * 1024), limits.get("max_header_count", 100))
    parser = new_parser(learned, **{name: size for name, size in limits.items() if name == "max_body_size"})
    for _ in range(3):
        assert read(parser, [data], method).verdict == outcome.verdict
        assert read(parser, single_bytes(data), method).verdict == outcome.verdict
        assert read(parser, cut(data, [len(data) // 2]), method).verdict == outcome.verdict
    if outcome.taken is not None and outcome.end == len(data) and not until_close(data, method, **limits):
        parser.begin(method)
        assert parser.feed(data + BEHIND) == len(data)  # the caller sees that there is more
        assert take(parser) == outcome.taken
        parser.begin(method)
        assert parser.feed(BEHIND + data, len(BEHIND)) == len(BEHIND) + len(data)
        assert take(parser) == outcome.taken
    elif outcome.taken is None and outcome.refusal is MalformedResponse:
        assert read(new_parser(**limits), [data + BEHIND], method).refusal is not None
    # Whatever it was: the parser begins the next response afresh.
    assert read(parser, [OK]) == read(new_parser(**limits), [OK])
    return outcome


def until_close(data: bytes, method: str, **limits: int) -> bool:
    parser = new_parser(**limits)
    parser.begin(method)
    parser.feed(data)
    return parser.state is ResponseState.CLOSE


def taken(data: bytes, method: str = "GET", **limits: int) -> Taken:
    outcome = every_way(data, method, **limits)
    assert outcome.taken is not None, outcome.refusal
    return outcome.taken


# What is read


def test_a_response_with_a_length() -> None:
    response = taken(b"HTTP/1.1 200 All right\r\nServer: x\r\nX:  a b \t\r\ncontent-length: 5\r\nx: 2\r\n\r\nhello")
    assert response == Taken(
        200,
        b"All right",
        1,
        ((b"Server", b"x"), (b"X", b"a b"), (b"content-length", b"5"), (b"x", b"2")),
        b"hello",
        (),
        True,
        0,
    )


def test_a_body_of_nothing() -> None:
    assert taken(EMPTY).body == b""


def test_a_chunked_body_with_extensions_and_trailers() -> None:
    response = taken(CHUNKED + b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nT: 1\r\nt: 2 \r\n\r\n")
    assert response.body == b"hello!"
    assert response.fields == ((b"Transfer-Encoding", b"chunked"),)
    assert response.trailers == ((b"T", b"1"), (b"t", b"2"))
    assert response.keep_alive


def test_trailers_say_nothing_of_the_connection() -> None:
    assert taken(CHUNKED + b"0\r\nConnection: close\r\n\r\n").keep_alive


def test_a_body_that_ends_with_the_connection() -> None:
    response = taken(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert response.body == b"hello"
    assert not response.keep_alive


@pytest.mark.parametrize("line", [b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 200 \t caf\xe9\r\n"])
def test_reasons(line: bytes) -> None:
    assert taken(line + b"Content-Length: 0\r\n\r\n").status == 200


@pytest.mark.parametrize("status", [100, 199, 200, 204, 304, 404, 599, 600, 999])
def test_any_status_of_three_digits(status: int) -> None:
    outcome = every_way(b"HTTP/1.1 %d X\r\n\r\n" % status + (OK if status < 200 else b""))
    assert outcome.taken is not None
    assert outcome.taken.status == (200 if status < 200 else status)


@pytest.mark.parametrize("head", [b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n"])
def test_head_has_no_body_whatever_is_announced(head: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + head
    response = taken(data, "HEAD", max_body_size=10)
    assert response.body == b""
    assert response.keep_alive
    memory = ResponseHeadMemory()
    parser = new_parser(memory)
    read(parser, [data], "HEAD")
    parser.begin("GET")  # what HEAD taught says of GET what it should
    parser.feed(data)
    assert parser.state is not ResponseState.COMPLETE


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_204_and_304_have_no_body(method: str) -> None:
    assert taken(b"HTTP/1.1 204 No Content\r\n\r\n", method).keep_alive
    assert taken(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", method).keep_alive
    assert taken(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", method).keep_alive
    assert taken(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", method).keep_alive


@pytest.mark.parametrize("field", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_the_connection_of_a_204_that_announces_a_body_is_not_kept(field: bytes) -> None:
    # RFC 9112 6.1, RFC 9110 8.6: it must not. What comes behind it may be that body, or a response.
    response = taken(b"HTTP/1.1 204 No Content\r\n" + field + b"\r\n\r\n")
    assert response.body == b""
    assert not response.keep_alive


def test_informational_responses_are_skipped() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    response = taken(data)
    assert (response.status, response.body, response.informational) == (200, b"hello", 2)
    assert taken(b"HTTP/1.1 102 Processing\r\n\r\n" + EMPTY, "HEAD").informational == 1


def test_a_hundred_informational_responses_and_no_more() -> None:
    one = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert taken(one * MAX_INFORMATIONAL + OK).informational == MAX_INFORMATIONAL
    assert every_way(one * (MAX_INFORMATIONAL + 1) + OK).refusal is MalformedResponse


@pytest.mark.parametrize("field", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
def test_an_informational_response_that_announces_a_body_is_refused(field: bytes) -> None:
    assert every_way(b"HTTP/1.1 100 Continue\r\n" + field + b"\r\n\r\n" + OK).refusal is MalformedResponse


def test_101_is_final_and_what_is_behind_it_is_not_read() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    response = taken(head)
    assert (response.status, response.body, response.keep_alive) == (101, b"", False)
    parser = new_parser(ResponseHeadMemory())
    for _ in range(2):
        parser.begin()
        assert parser.feed(head + b"\x00other") == len(head)


def test_101_without_upgrade_is_refused() -> None:
    assert every_way(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").refusal is MalformedResponse


def test_an_upgrade_that_is_only_advertised_changes_nothing() -> None:
    # RFC 9110 7.8: in any other response the field lists what the server could speak.
    data = b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi"
    response = taken(data)
    assert (response.body, response.keep_alive) == (b"hi", True)


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: X, CLOSE ,y\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: closed\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: x\r\nconnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nProxy-Connection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: x, keep-alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n", False),
    ],
)
def test_keep_alive(head: bytes, kept: bool) -> None:
    assert taken(head + b"Content-Length: 2\r\n\r\nhi").keep_alive is kept
    assert taken(head + b"\r\n", "HEAD").keep_alive is kept
    assert not taken(head + b"\r\nhi").keep_alive  # RFC 9112 9.3: the body ends with the connection


# What is refused

MALFORMED: dict[str, bytes] = {
    "two lengths that differ": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two lengths that are equal": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "hexadecimal length": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "length without digits": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
    "length out of range": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
    "length, then coding": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding, then length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "coding without chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
    "chunked not last": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked not alone": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "not quite chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding on HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size no number": CHUNKED + b"x\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": CHUNKED + b"-1\r\nhello\r\n0\r\n\r\n",
    "chunk size 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size out of range": CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "chunk shorter than its size": CHUNKED + b"5\r\nhell\r\n0\r\n\r\n",
    "chunk line with bare LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "chunk data with bare LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "length among the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "no version": b"200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/0.9 announced": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2 announced": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "another protocol": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "blank line before": b"\r\n" + OK,
    "space before": b" " + OK,
    "byte before": b"x" + OK,
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status negative": b"HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n",
    "status no number": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
    "reason with NUL": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
    "reason with a control": b"HTTP/1.1 200 O\x1bK\r\nContent-Length: 0\r\n\r\n",
    "reason with bare CR": b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
    "value with NUL": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "name with NUL": b"HTTP/1.1 200 OK\r\nX\x00: a\r\nContent-Length: 0\r\n\r\n",
    "value with bare CR": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "value with bare LF": b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n",
    "bare LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before the first header": b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "line without a colon": b"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n",
    "empty name": b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_responses_are_refused(data: bytes) -> None:
    assert every_way(data).refusal is MalformedResponse
    # A head that was bad is never remembered, and one that was good covers for nothing behind it.
    memory = ResponseHeadMemory()
    parser = new_parser(memory)
    read(parser, [OK])
    known = dict(memory.heads)
    assert read(parser, [data]).refusal is MalformedResponse
    assert {head for head in memory.heads if head not in known} <= {CHUNKED}
    assert read(parser, [b"HTTP/1.1 100 Continue\r\n\r\n" + data]).refusal is MalformedResponse


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_refusal_says_where_it_was_and_holds_no_control_characters(data: bytes) -> None:
    parser = new_parser()
    with pytest.raises(MalformedResponse) as caught:
        parser.feed(data)
    assert caught.value.phase in ("head", "body")
    assert caught.value.elapsed == 0.0
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("byte", [b"<", b"\r", b"\n", b" ", b"\x00", b"h"])
def test_what_is_no_response_is_refused_at_its_first_byte(byte: bytes) -> None:
    # Not at a timeout: whoever speaks HTTP/0.9 sends no blank line, and llhttp would skip one.
    with pytest.raises(MalformedResponse):
        new_parser().feed(byte)


@pytest.mark.parametrize(
    ("data", "refusal", "phase"),
    [
        (b"", ClosedBeforeResponse, "head"),
        (b"H", ClosedInResponse, "head"),
        (OK[:-6], ClosedInResponse, "head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ClosedInResponse, "head"),
        (OK[:-1], ClosedInResponse, "body"),
        (OK[:-5], ClosedInResponse, "body"),
        (CHUNKED, ClosedInResponse, "body"),
        (CHUNKED + b"5\r\nhello\r\n", ClosedInResponse, "body"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", ClosedInResponse, "body"),
        (CHUNKED + b"5\r\nhello\r\n0\r\nT: 1\r\n", ClosedInResponse, "body"),
    ],
)
def test_the_end_of_the_connection_in_a_response(data: bytes, refusal: type[ClientError], phase: str) -> None:
    assert every_way(data).refusal is refusal
    parser = new_parser()
    if data:
        parser.feed(data)
    assert parser.started is bool(data)
    with pytest.raises(refusal) as caught:
        parser.eof()
    assert caught.value.phase == phase
    assert isinstance(caught.value, ConnectionError)


def test_the_end_of_the_connection_behind_a_response_is_none_of_it() -> None:
    parser = new_parser()
    parser.feed(OK)
    parser.eof()
    assert take(parser).body == b"hello"


# Limits


def head_of(size: int) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


def test_a_head_of_exactly_the_limit_passes_and_one_byte_more_is_refused() -> None:
    assert every_way(head_of(200), max_header_size=200).taken is not None
    assert every_way(head_of(201), max_header_size=200).refusal is ResponseTooLarge
    assert every_way(b"HTTP/1.1 200 " + b"x" * 300, max_header_size=200).refusal is ResponseTooLarge
    # Each head has the whole limit: also those behind informational ones.
    assert every_way(b"HTTP/1.1 100 C\r\n\r\n" + head_of(200), max_header_size=200).taken is not None


def test_a_large_body_is_not_taken_for_a_head() -> None:
    assert taken(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, max_header_size=60)


def test_header_count() -> None:
    lines = b"".join(b"X%d: 1\r\n" % i for i in range(9))
    assert every_way(b"HTTP/1.1 204 N\r\n" + lines + b"\r\n", max_header_count=9).taken is not None
    assert every_way(b"HTTP/1.1 204 N\r\nY: 1\r\n" + lines + b"\r\n", max_header_count=9).refusal is ResponseTooLarge


def test_trailer_count() -> None:
    lines = b"".join(b"X%d: 1\r\n" % i for i in range(9))
    assert every_way(CHUNKED + b"0\r\n" + lines + b"\r\n", max_header_count=9).taken is not None
    assert every_way(CHUNKED + b"0\r\nY: 1\r\n" + lines + b"\r\n", max_header_count=9).refusal is ResponseTooLarge


def test_trailers_and_extensions_are_bounded_in_bytes() -> None:
    assert every_way(CHUNKED + b"0\r\nX: " + b"x" * 300 + b"\r\n\r\n", max_header_size=200).refusal is ResponseTooLarge
    assert every_way(CHUNKED + b"1;" + b"x" * 300 + b"\r\n!\r\n0\r\n\r\n", max_header_size=200).refusal
    endless = new_parser(max_header_size=200)
    endless.feed(CHUNKED)
    with pytest.raises(ResponseTooLarge):
        for _ in range(300):
            endless.feed(b"1;xxxxxxxxxxxx\r\n!\r\n")


@pytest.mark.parametrize(
    "data",
    [OK, CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello"],
    ids=["length", "chunked", "until close"],
)
def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_is_refused(data: bytes) -> None:
    assert taken(data, max_body_size=5).body == b"hello"
    assert every_way(data, max_body_size=4).refusal is ResponseTooLarge
    assert taken(data, max_body_size=0).body == b"hello"


def test_a_length_over_the_limit_is_refused_before_the_body_comes() -> None:
    with pytest.raises(ResponseTooLarge) as caught:
        new_parser(max_body_size=4).feed(OK[:-5])
    assert "4 bytes" in str(caught.value)
    memory = ResponseHeadMemory()
    read(new_parser(memory), [OK])
    with pytest.raises(ResponseTooLarge):
        new_parser(memory, max_body_size=4).feed(OK)


def test_max_body_size_may_change_between_responses() -> None:
    parser = new_parser(max_body_size=4)
    assert parser.max_body_size == 4
    assert read(parser, [OK]).refusal is ResponseTooLarge
    parser.max_body_size = None
    assert parser.max_body_size is None
    assert read(parser, [OK]).taken is not None


@pytest.mark.parametrize("zeros", [1, 5000])
def test_leading_zeros_of_a_length(zeros: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * zeros
    assert taken(head + b"5\r\n\r\nhello").body == b"hello"
    assert taken(head + b"\r\n\r\n").body == b""


@pytest.mark.parametrize("kind", ["length", "chunked", "until close"])
def test_a_body_of_many_small_pieces_is_held_in_few(kind: str) -> None:
    count = 5 * MAX_SMALL_PARTS
    parser = new_parser()
    heads = {"length": b"Content-Length: %d\r\n\r\n" % count, "chunked": CHUNKED[17:], "until close": b"\r\n"}
    parser.feed(b"HTTP/1.1 200 OK\r\n" + heads[kind])
    most = 0
    for _ in range(count):
        parser.feed(b"1\r\nx\r\n" if kind == "chunked" else b"x")
        most = max(most, len(parser.parts))
    assert most <= MAX_SMALL_PARTS + 10
    assert parser.body == b"x" * count


@pytest.mark.parametrize("kind", ["length", "chunked", "until close"])
def test_a_streamed_body_is_taken_piece_by_piece(kind: str) -> None:
    count = 3 * MAX_SMALL_PARTS
    parser = new_parser()
    heads = {"length": b"Content-Length: %d\r\n\r\n" % count, "chunked": CHUNKED[17:], "until close": b"\r\n"}
    parser.feed(b"HTTP/1.1 200 OK\r\n" + heads[kind])
    pieces = []
    for i in range(count):
        parser.feed(b"1\r\n%d\r\n" % (i % 10) if kind == "chunked" else b"%d" % (i % 10))
        if i % 7 == 0:
            pieces.append(parser.take_body())
    if kind == "chunked":
        parser.feed(b"0\r\n\r\n")
    elif kind == "until close":
        parser.eof()
    pieces.append(parser.take_body())
    assert parser.state is ResponseState.COMPLETE
    assert b"".join(pieces) == b"".join(b"%d" % (i % 10) for i in range(count))
    assert parser.take_body() == b""


# The memory of heads


def test_a_remembered_response_is_read_without_llhttp(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ResponseHeadMemory()
    first = new_parser(memory)
    assert read(first, [OK]).taken is not None

    def unwanted(callbacks: object) -> None:
        raise AssertionError("llhttp was called")

    monkeypatch.setattr("fastserve.http1.response_parser.HttpResponseParser", unwanted)
    second = new_parser(memory)
    for body in (b"hello", b"world"):
        second.begin()
        assert second.feed(OK[:-5] + body) == len(OK)
        assert take(second).body == body
        assert second.head is first.head


def test_the_memory_is_bounded() -> None:
    memory = ResponseHeadMemory()
    parser = new_parser(memory)
    for i in range(LEARNED_HEADS + 10):
        read(parser, [b"HTTP/1.1 200 OK\r\nX: %d\r\nContent-Length: 0\r\n\r\n" % i])
        assert len(memory.heads) <= LEARNED_HEADS
    assert len(memory.heads) == 10


def test_a_long_head_is_not_remembered_nor_an_informational_one() -> None:
    memory = ResponseHeadMemory()
    read(new_parser(memory), [head_of(LEARNED_HEAD + 1)])
    read(new_parser(memory), [b"HTTP/1.1 100 Continue\r\n\r\n"])
    assert not memory.heads
    read(new_parser(memory), [head_of(LEARNED_HEAD)])
    assert len(memory.heads) == 1


def test_heads_are_shared_and_cannot_be_changed() -> None:
    memory = ResponseHeadMemory()
    parser = new_parser(memory)
    read(parser, [OK])
    head = parser.head
    with pytest.raises(AttributeError):
        head.status = 500  # type: ignore[misc]
    assert isinstance(head.fields, tuple)


# Any input

values = st.sampled_from(
    [b"a", b"close", b"keep-alive", b"chunked", b"5", b"0", b"3", b"", b"gzip, chunked", b"\x00", b"a\n b"]
)
names = st.sampled_from(
    [b"Content-Length", b"Transfer-Encoding", b"Connection", b"X", b"Upgrade", b"Server", b"X ", b""]
)
lines = st.tuples(names, values).map(b": ".join)
status_lines = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 N",
        b"HTTP/1.1 100 C",
        b"HTTP/1.1 101 S",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 500",
        b"HTTP/2.0 200 OK",
        b"\r\nHTTP/1.1 200 OK",
    ]
)
heads = st.tuples(status_lines, st.lists(lines, max_size=4)).map(
    lambda head: b"\r\n".join([head[0], *head[1], b"", b""])
)
bodies = st.sampled_from(
    [
        b"",
        b"hello",
        b"hel",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"1\r\nx\r\n0\r\nT: 1\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello!",
        b"x\r\n\r\ny",
    ]
)
messages = st.lists(st.one_of(heads, bodies, st.sampled_from([OK, EMPTY, CHUNKED])), max_size=6).map(b"".join)


@given(
    data=st.one_of(messages, messages, st.binary(max_size=100)),
    taught=st.lists(messages, max_size=3),
    method=st.sampled_from(["GET", "GET", "HEAD"]),
    limit=st.sampled_from([None, 4, 100]),
    draw=st.data(),
)
@example(data=OK + OK, taught=[OK], method="HEAD", limit=None, draw=None)
@settings(max_examples=400, deadline=None)
def test_any_input_gives_the_same_in_any_pieces_with_and_without_memory(
    data: bytes, taught: list[bytes], method: str, limit: int | None, draw: st.DataObject | None
) -> None:
    """Invariants 1, 3 and 4, over all responses of one connection."""

    def connection(parser: ResponseParser, segments: list[bytes]) -> list[tuple[Taken | None, bool, int]]:
        """Response after response of an unsolicited stream, until one is refused or the connection is not kept."""
        verdicts = []
        rest = list(segments)
        while True:
            outcome = read(parser, rest, method)
            verdicts.append(outcome.verdict)
            if outcome.taken is None or not outcome.taken.keep_alive or not outcome.end:
                return verdicts
            left = outcome.end
            while left:
                if len(rest[0]) <= left:
                    left -= len(rest.pop(0))
                else:
                    rest[0] = rest[0][left:]
                    left = 0

    expected = connection(new_parser(max_body_size=limit), [data] if data else [])
    assert connection(new_parser(max_body_size=limit), single_bytes(data)) == expected
    memory = ResponseHeadMemory()
    parser = new_parser(memory, max_body_size=limit)
    for other in taught:
        read(parser, [other] if other else [])
    for _ in range(2):  # the second time every head that can be is remembered
        assert connection(parser, [data] if data else []) == expected
    if draw is not None:
        places = draw.draw(st.lists(st.integers(0, len(data)), max_size=6))
        assert connection(parser, cut(data, places)) == expected
    assert connection(new_parser(ResponseHeadMemory(), max_body_size=limit), single_bytes(data)) == expected


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_nothing_but_client_errors_comes_out(data: bytes) -> None:
    parser = new_parser(max_header_size=100, max_header_count=3, max_body_size=20)
    for start in (b"", b"HTTP/1.1 200 OK\r\n", CHUNKED):
        outcome = read(parser, [start + data])
        assert outcome.taken is not None or outcome.refusal is not None
