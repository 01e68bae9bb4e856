"""`RequestParser` fed bytes in every way they can come: its three invariants, its limits to the byte, its memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from httptools import HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.errors import RequestError
from fastserve.http1.head_memory import (
    LEARNED_BLOCK,
    LEARNED_BLOCKS,
    LEARNED_HOSTS,
    LEARNED_LENGTH,
    LEARNED_LENGTHS,
    LEARNED_NAMES,
    HeadMemory,
)
from fastserve.http1.parser import MAX_SMALL_PARTS, ParserState, RequestParser
from fastserve.http1.request import Request

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Taken:
    """What a server would see of one request."""

    method: str
    target: bytes
    minor: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...]
    host: str
    keep_alive: bool


@dataclass(frozen=True)
class Outcome:
    requests: tuple[Taken, ...]
    refusal: int | None
    ends: tuple[int, ...]
    """Where each request ended in the input."""
    open: bool
    """A request has begun and more of it may come."""

    @property
    def verdict(self) -> tuple[tuple[Taken, ...], bool, tuple[int, ...], bool]:
        """What must not depend on how the bytes were cut. When two rules are broken, which is told first may."""
        return self.requests, self.refusal is not None, self.ends, self.open


def new_parser(
    memory: HeadMemory | None = None,
    /,
    *,
    max_header_size: int = 16 * 1024,
    max_header_count: int = 100,
    max_body_size: int = 1024 * 1024,
) -> RequestParser:
    return RequestParser(Request(), memory or HeadMemory(), max_header_size, max_header_count, max_body_size)


def take(parser: RequestParser) -> Taken:
    request = parser.request
    return Taken(
        request.method,
        request.target,
        request.minor,
        tuple(request.headers.items()),
        request.body,
        tuple(request.trailers.items()),
        request.host,
        request.framing.keep_alive,
    )


def parse(parser: RequestParser, segments: Iterable[bytes]) -> Outcome:
    """Feed as a connection does: request after request, until one asks to close or is refused."""
    requests: list[Taken] = []
    ends: list[int] = []
    before = 0
    refusal: int | None = None
    try:
        for segment in segments:
            position = 0
            while position < len(segment):
                fed = parser.feed(segment, position)
                assert position < fed <= len(segment)
                position = fed
                if parser.state is ParserState.COMPLETE:
                    requests.append(take(parser))
                    ends.append(before + position)
                    if not requests[-1].keep_alive:
                        return Outcome(tuple(requests), None, tuple(ends), False)
            before += len(segment)
    except RequestError as error:
        refusal = error.status
    return Outcome(tuple(requests), refusal, tuple(ends), refusal is None and parser.in_request)


def whole(data: bytes, **limits: int) -> Outcome:
    return parse(new_parser(**limits), [data])


def byte_by_byte(data: bytes, **limits: int) -> Outcome:
    return parse(new_parser(**limits), single_bytes(data))


def single_bytes(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [piece for a, b in pairwise(edges) if (piece := data[a:b])]


SAMPLES: dict[str, bytes] = {
    "plain": GET,
    "plain pipelined": GET * 3,
    "fields": b"GET /p?q=1 HTTP/1.1\r\nHost: a.example:80\r\nAccept: */*\r\nCookie: a=b\r\nEmpty:\r\n\r\n" + GET,
    "repeated names": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\nX: 3\r\n\r\n" + GET,
    "outer white space in values": b"GET / HTTP/1.1\r\nHost: \ta \t\r\nX:\t 1  \r\n\r\n" + GET,
    "blank lines before": b"\r\n\r\n\r\n" + GET + b"\r\n" + GET + b"\r\n\r\n" + GET,
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.0 kept": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET,
    "close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET,
    "length": b"POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + GET,
    "length zero": b"POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + GET,
    "length whose body looks like a head": b"POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\n" + GET + GET,
    "body on GET": b"GET /l HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\r\n\r\n" + GET,
    "chunked": CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n" + GET,
    "chunked, empty": CHUNKED + b"0\r\n\r\n" + GET,
    "chunked, data full of line ends": CHUNKED + b"8\r\n\r\n\r\n\r\n\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n" + GET,
    "chunked, data that looks like the end": CHUNKED + b"7\r\n0\r\n\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n" + GET,
    "chunked, extensions": CHUNKED + b'1;a=b;c="d e"\r\nx\r\n0;last\r\n\r\n' + GET,
    "chunked, trailers": CHUNKED + b"3\r\nabc\r\n0\r\nDigest: x\r\nX: y \r\n\r\n" + GET,
    "chunked, a trailer that says close": CHUNKED + b"0\r\nConnection: close\r\n\r\n" + GET,
    "chunked, a trailer that says upgrade": CHUNKED + b"0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + GET,
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + GET,
    "upgrade on HTTP/1.0": b"GET / HTTP/1.0\r\nConnection: upgrade, keep-alive\r\nUpgrade: x\r\n\r\n" + GET,
    "another name for Connection": b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\n\r\n" + GET,
    "absolute form": b"GET http://b/p HTTP/1.1\r\nHost: a\r\n\r\n" + GET,
    "incomplete head": GET + b"GET / HTTP/1.1\r\nHost: a\r\n",
    "incomplete body": GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
    "incomplete chunk": CHUNKED + b"5\r\nhel",
    "incomplete trailers": CHUNKED + b"0\r\nA: b\r\n",
    "junk after a request": GET + b"\x00\x01\x02",
    "junk after a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxyz\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "LF in the target": b"GET /a\nb:c HTTP/1.1\r\nHost: a\r\n\r\n" + GET,
    "LF in the target, and a field that it would hide": b"GET /a\nX:evil HTTP/1.1\r\nX: real\r\nHost: a\r\n\r\n" + GET,
    "LF in the target, HTTP/1.0": b"GET /a\nb:c HTTP/1.0\r\n\r\n" + GET,
    "LF in the target behind a blank line": b"\r\nGET /a\nb:c HTTP/1.1\r\nHost: a\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n" + GET,
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + GET,
    "both framings": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + GET,
    "bad chunk size": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n" + GET,
    "no end of a chunk": CHUNKED + b"1\r\naa\r\n0\r\n\r\n" + GET,
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "upgrade with a body": b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n"
    b"Content-Length: 27\r\n\r\n" + GET,
}
samples = pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES.keys())


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("LF in")])
def test_no_line_feed_in_a_target(name: str) -> None:
    """llhttp takes it for the end of an HTTP/0.9 line, and the rest of the line for a header."""
    assert whole(SAMPLES[name]).refusal == 400
    assert whole(SAMPLES[name]).requests == ()


# What a request becomes


def test_all_parts_of_a_request_are_there() -> None:
    data = (
        b"POST /p?q HTTP/1.1\r\nhOsT: a:80\r\nX-One: 1 \r\nx-one: 2\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"5\r\nhello\r\n6;e=1\r\n world\r\n0\r\nX-Two: 3\r\n\r\n"
    )
    outcome = whole(data)
    assert outcome.refusal is None
    assert outcome.ends == (len(data),)
    assert outcome.requests == (
        Taken(
            "POST",
            b"/p?q",
            1,
            (("hOsT", "a:80"), ("X-One", "1"), ("x-one", "2"), ("Transfer-Encoding", "Chunked")),
            b"hello world",
            (("X-Two", "3"),),
            "a:80",
            True,
        ),
    )


def test_nothing_of_a_request_is_left_in_the_next() -> None:
    data = CHUNKED[:-2] + b"X: 1\r\nX: 2\r\n\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n" + GET
    first, second = whole(data).requests
    assert first.body == b"x"
    assert second == Taken("GET", b"/", 1, (("Host", "a"),), b"", (), "a", True)


def test_feed_stops_behind_each_part() -> None:
    parser = new_parser()
    data = b"xx" + GET + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET"

    def feed(position: int) -> tuple[int, ParserState]:
        return parser.feed(data, position), parser.state

    assert feed(2) == (2 + len(GET), ParserState.COMPLETE)
    assert feed(2 + len(GET)) == (len(data) - 6, ParserState.LENGTH)
    assert feed(len(data) - 6) == (len(data) - 3, ParserState.COMPLETE)
    assert parser.request.body == b"abc"


@pytest.mark.parametrize(
    ("data", "begun", "untouched"),
    [
        (b"", False, True),
        (b"\r", False, False),
        (b"\r\n\r\n", False, False),  # they count, so this parser is for no other connection
        (b"\r\n\r\nG", True, False),
        (b"G", True, False),
        (GET, False, True),
        (GET[:-1], True, False),
        (CHUNKED, True, False),
        (CHUNKED + b"0\r\n\r\n", False, True),
    ],
)
def test_in_request_and_untouched(data: bytes, begun: bool, untouched: bool) -> None:
    for segments in ([data], single_bytes(data)):
        parser = new_parser()
        parse(parser, segments)
        assert parser.in_request is begun
        assert parser.untouched is untouched


# Invariant 1: every input gives the same requests, whole, byte by byte, or cut anywhere


@samples
def test_byte_by_byte_is_as_whole(data: bytes) -> None:
    assert byte_by_byte(data).verdict == whole(data).verdict


@samples
def test_cut_at_every_place_is_as_whole(data: bytes) -> None:
    expected = whole(data).verdict
    for place in range(1, len(data)):
        assert parse(new_parser(), cut(data, [place])).verdict == expected, place


@given(st.sampled_from(list(SAMPLES.values())), st.data())
@settings(max_examples=150, deadline=None)
def test_cut_at_random_places_is_as_whole(data: bytes, draw: st.DataObject) -> None:
    places = draw.draw(st.sets(st.integers(1, max(len(data) - 1, 1)), max_size=12))
    assert parse(new_parser(), cut(data, places)).verdict == whole(data).verdict


@given(st.sampled_from(list(SAMPLES.values())), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_input_is_judged_alike_however_cut(data: bytes, draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, len(data)))
    inserted = draw.draw(
        st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b";", b",", b"0", b"\xff", b"#", b"a"])
    )
    removed = draw.draw(st.integers(0, 2))
    damaged = data[:place] + inserted + data[place + removed :]
    places = draw.draw(st.sets(st.integers(1, max(len(damaged) - 1, 1)), max_size=8))
    expected = whole(damaged).verdict
    assert byte_by_byte(damaged).verdict == expected
    assert parse(new_parser(), cut(damaged, places)).verdict == expected


TOKENS = [b"X-A", b"x-a", b"Accept", b"cookie", b"Content-Type", b"Via", b"If-None-Match"]
OWS = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t"])
VALUES = st.sampled_from([b"", b"v", b"two words", b"a\tb", b"\x80\xff", b"a=b; c=d", b"close", b"chunked", b":"])


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """The bytes of a request that must be taken, its target, and its body."""
    target = draw(st.sampled_from([b"/", b"/a/b", b"/%20?x=y", b"//", b"/:80", b"/?"]))
    lines = [draw(st.sampled_from([b"Host: a", b"host:a.example:8080", b"HOST: [::1]", b"Host:"]))]
    names = draw(st.lists(st.sampled_from(TOKENS), max_size=4))
    lines += [name + b":" + draw(OWS) + draw(VALUES) + draw(OWS) for name in names]
    body = draw(st.sampled_from([b"", b"x", b"\r\n\r\n", b"0\r\n\r\n", GET, b"\x00" * 40]))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    sent = b""
    if framing == "none":
        body = b""
    elif framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
        sent = body
    else:
        lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED"])))
        for piece in cut(body, draw(st.sets(st.integers(1, max(len(body) - 1, 1)), max_size=3))):
            extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"']))
            sent += draw(st.sampled_from([b"%x", b"0%X"])) % len(piece) + extension + b"\r\n" + piece + b"\r\n"
        sent += b"0\r\n" + draw(st.sampled_from([b"", b"T: 1\r\n", b"T: 1\r\nU:\r\n"])) + b"\r\n"
    order = draw(st.permutations(lines))
    head = b"POST " + target + b" HTTP/1.1\r\n" + b"\r\n".join(order) + b"\r\n\r\n"
    return draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n"])) + head + sent, target, body


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_valid_requests_are_taken_however_cut(sent: list[tuple[bytes, bytes, bytes]], draw: st.DataObject) -> None:
    data = b"".join(part[0] for part in sent)
    places = draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=10))
    for segments in ([data], single_bytes(data), cut(data, places)):
        outcome = parse(new_parser(), segments)
        assert outcome.refusal is None
        assert [(r.target, r.body) for r in outcome.requests] == [(target, body) for _, target, body in sent]
        assert outcome.ends[-1] == len(data)


# Invariant 2: at most `max_header_size` bytes of a head are ever held or parsed


@pytest.mark.parametrize("size", [1, 3, 64, 1000, 100_000])
@pytest.mark.parametrize(
    "begin", [b"", b"GET /", GET[:-2] + b"X: ", b"\r\n" * 10 + b"GET / HTTP/1.1\r\nX:", b"\r\n\r\nGET /"]
)
def test_no_more_of_a_head_is_parsed_than_the_limit(begin: bytes, size: int) -> None:
    parser = new_parser(max_header_size=256)
    fed = held = 0
    feed = parser._feed

    def counting(piece: bytes | memoryview) -> None:
        nonlocal fed
        fed += len(piece)
        feed(piece)

    parser._feed = counting
    data = begin + (b"a" * 100_000 if begin else b"\r\n" * 50_000)
    refusal: RequestError | None = None
    try:
        for start in range(0, len(data), size):
            segment = data[start : start + size]
            position = 0
            while position < len(segment):
                position = parser.feed(segment, position)
                held = max(held, len(parser._partial))
    except RequestError as error:
        refusal = error
    assert refusal is not None
    assert refusal.status in (414, 431)
    assert fed <= 256
    assert held <= 256


def head_of(size: int, line: bytes = b"GET / HTTP/1.1\r\n", blank: bytes = b"") -> bytes:
    """A head of exactly `size` bytes, leading `blank` lines counted."""
    head = blank + line + b"Host: a\r\nX: "
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("blank", [b"", b"\r\n", b"\r\n\r\n", b"\r\n" * 20])
@pytest.mark.parametrize("limit", [128, 200, 4096])
def test_a_head_of_exactly_the_limit_passes_and_one_byte_more_is_refused(limit: int, blank: bytes) -> None:
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(head_of(limit, blank=blank), max_header_size=limit)
        assert (len(outcome.requests), outcome.refusal) == (1, None)
        outcome = parse_data(head_of(limit + 1, blank=blank), max_header_size=limit)
        assert (outcome.requests, outcome.refusal) == ((), 431)


def test_each_head_has_the_whole_limit() -> None:
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(head_of(200) * 2 + b"\r\n" + head_of(198), max_header_size=200)
        assert (len(outcome.requests), outcome.refusal) == (3, None)
        outcome = parse_data(head_of(200) + b"\r\n" + head_of(199), max_header_size=200)
        assert (len(outcome.requests), outcome.refusal) == (1, 431)


def test_an_overlong_target_is_414_and_overlong_headers_are_431() -> None:
    # RFC 9110 15.5.15, RFC 6585 5
    for parse_data in (whole, byte_by_byte):
        assert parse_data(b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n", max_header_size=128).refusal == 414
        assert parse_data(b"GET /" + b"a" * 300, max_header_size=128).refusal == 414
        assert parse_data(GET[:-2] + b"X: " + b"a" * 300, max_header_size=128).refusal == 431
        assert parse_data(b"\r\n" * 300, max_header_size=128).refusal == 431


@given(st.integers(90, 150), st.integers(0, 30), st.integers(0, 6), st.data())
@settings(max_examples=150, deadline=None)
def test_414_or_431_does_not_depend_on_the_segments(line: int, more: int, blank: int, draw: st.DataObject) -> None:
    data = b"\r\n" * blank + b"GET /" + b"a" * (line - 14) + b" HTTP/1.1\r\nHost: a\r\nX: " + b"b" * more + b"\r\n\r\n"
    places = draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=6))
    expected = whole(data, max_header_size=128)
    assert (expected.refusal is None) == (len(data) <= 128)
    assert byte_by_byte(data, max_header_size=128) == expected
    assert parse(new_parser(max_header_size=128), cut(data, places)) == expected


@pytest.mark.parametrize("repeated", [False, True])
def test_header_count(repeated: bool) -> None:
    def head(count: int) -> bytes:
        lines = [b"Host: a"] + [b"X%d: 1" % (0 if repeated else i) for i in range(count - 1)]
        return b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"

    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(head(10) * 3, max_header_count=10)  # the third time its names are known
        assert (len(outcome.requests), outcome.refusal) == (3, None)
        assert parse_data(head(11), max_header_count=10).refusal == 431
        assert parse_data(head(10) * 2 + head(11), max_header_count=10).refusal == 431


def test_header_count_is_kept_when_all_names_are_known() -> None:
    memory = HeadMemory()
    names = [b"X%d" % i for i in range(20)]
    for name in names:
        parse(new_parser(memory), [b"GET / HTTP/1.1\r\nHost: a\r\n" + name + b": 1\r\n\r\n"])
    assert memory.names.issuperset(names)
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(name + b": 1\r\n" for name in names) + b"\r\n"
    assert parse(new_parser(memory, max_header_count=20), [data]).refusal == 431
    assert parse(new_parser(memory, max_header_count=21), [data]).refusal is None


# Invariant 3: where this module says that a request ended, llhttp says so too


class Completion:
    def __init__(self) -> None:
        self.count = 0

    def on_message_complete(self) -> None:
        self.count += 1


def assert_ends_agree(data: bytes, outcome: Outcome) -> None:
    start = 0
    for end in outcome.ends:
        completion = Completion()
        parser = HttpRequestParser(completion)
        request = data[start:end]
        parser.feed_data(request[:-1])
        assert completion.count == 0
        try:
            parser.feed_data(request[-1:])
        except Exception as error:
            assert type(error).__name__ == "HttpParserUpgrade"  # noqa: PT017 (only one of two outcomes is an error)
        assert completion.count == 1
        start = end


@samples
def test_the_ends_of_samples_are_those_of_llhttp(data: bytes) -> None:
    for parse_data in (whole, byte_by_byte):
        assert_ends_agree(data, parse_data(data))


@given(st.lists(requests(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_the_ends_are_those_of_llhttp(sent: list[tuple[bytes, bytes, bytes]]) -> None:
    data = b"".join(part[0] for part in sent)
    assert_ends_agree(data, whole(data))


CONNECTION_VALUES = st.lists(
    st.sampled_from(
        [
            b"close",
            b"keep-alive",
            b"upgrade",
            b"Close",
            b"CLOSE",
            b"clo se",
            b"x",
            b"",
            b"close;q=1",
            b'"close"',
            b"closed",
        ]
    ),
    min_size=1,
    max_size=3,
)


@given(
    st.lists(
        st.tuples(st.sampled_from([b"Connection", b"connection", b"Proxy-Connection"]), CONNECTION_VALUES), max_size=3
    ),
    st.sampled_from([b",", b", ", b" , ", b",\t"]),
    st.sampled_from([b"1.1", b"1.0"]),
    st.sampled_from([b"", b"Upgrade: x\r\n"]),
    st.sampled_from([b"\r\n", b"Content-Length: 1\r\n\r\nx"]),
)
@settings(max_examples=300, deadline=None)
def test_a_parser_that_keeps_the_connection_takes_the_next_request(
    fields: list[tuple[bytes, list[bytes]]], comma: bytes, version: bytes, upgrade: bytes, rest: bytes
) -> None:
    # llhttp refuses all that follows a message which it thinks is the last (RFC 9112 9.3): both must think the same.
    lines = b"".join(name + b": " + comma.join(values) + b"\r\n" for name, values in fields)
    data = b"POST / HTTP/" + version + b"\r\nHost: a\r\n" + upgrade + lines + rest
    first = whole(data)
    if first.refusal is None and first.requests[0].keep_alive:
        for parse_data in (whole, byte_by_byte):
            outcome = parse_data(data + GET)
            assert (len(outcome.requests), outcome.refusal) == (2, None)


@pytest.mark.parametrize(
    "trailer", [b"Connection: close", b"Proxy-Connection: close", b"Connection: upgrade\r\nUpgrade: x"]
)
def test_a_trailer_says_nothing_of_the_connection(trailer: bytes) -> None:
    # RFC 9110 6.5.1: a recipient must not merge it into the headers.
    data = CHUNKED + b"0\r\n" + trailer + b"\r\n\r\n" + GET * 2
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(data)
        assert (len(outcome.requests), outcome.refusal) == (3, None)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.0\r\nConnection: upgrade, keep-alive\r\nUpgrade: x\r\nContent-Length: 27\r\n\r\n" + GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 27\r\n\r\n" + GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1b\r\n" + GET + b"\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nProxy-Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 27\r\n\r\n" + GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n" + GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n" + GET,
    ],
)
def test_the_body_of_what_llhttp_reads_otherwise_is_never_a_request(data: bytes) -> None:
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(data)
        assert all(request.target == b"/" and request.method == "POST" for request in outcome.requests)
        assert outcome.refusal is not None or outcome.requests[0].body == GET


# Bodies


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 5000])
def test_a_body_ends_at_its_length_and_the_next_request_begins_there(size: int) -> None:
    body = (b"GET /no HTTP/1.1\r\n\r\n" * size)[:size]
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body) + GET
    for outcome in (
        whole(data),
        byte_by_byte(data),
        *(parse(new_parser(), cut(data, [len(data) - len(GET) + d])) for d in (-1, 0, 1)),
    ):
        assert [request.body for request in outcome.requests] == [body, b""]
        assert outcome.ends == (len(data) - len(GET), len(data))


def test_a_length_over_the_limit_is_refused_before_its_body() -> None:
    parser = new_parser(max_body_size=10)
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
    assert parser.state is ParserState.LENGTH
    with pytest.raises(RequestError) as refusal:
        parser.check_body_size()
    assert refusal.value.status == 413
    with pytest.raises(RequestError):
        parser.feed(b"x")


def test_max_body_size_may_change_when_the_head_is_there() -> None:
    parser = new_parser(max_body_size=10)
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
    parser.max_body_size = 11
    parser.check_body_size()
    parser.feed(b"hello world")
    assert parser.state is ParserState.COMPLETE


@pytest.mark.parametrize("length", [b"0" * 5000 + b"5", b"0005"])
def test_leading_zeros_of_a_length(length: bytes) -> None:
    # RFC 9110 8.6: 1*DIGIT, as many as you like.
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + length + b"\r\n\r\nhello" + GET
    for parse_data in (whole, byte_by_byte):
        assert [request.body for request in parse_data(data).requests] == [b"hello", b""]


def test_a_length_of_many_zeros_is_zero() -> None:
    outcome = whole(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"0" * 5000 + b"\r\n\r\n" + GET)
    assert len(outcome.requests) == 2


def test_a_chunked_body_is_bounded_by_its_running_total() -> None:
    ten = b"5\r\nhello\r\n5\r\nworld\r\n"
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(CHUNKED + ten + b"0\r\n\r\n", max_body_size=10)
        assert outcome.requests[0].body == b"helloworld"
        assert parse_data(CHUNKED + ten + b"1\r\n!\r\n0\r\n\r\n", max_body_size=10).refusal == 413
        assert parse_data(CHUNKED + b"fffffff\r\n" + b"x" * 11, max_body_size=10).refusal == 413


@pytest.mark.parametrize(
    "body",
    [
        b"1;" + b"e" * 2000 + b"\r\nx\r\n0\r\n\r\n",
        b"1;" + b"e" * 2000,
        (b"1;" + b"e" * 30 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n",
        b"0" * 2000 + b"1\r\nx\r\n0\r\n\r\n",
        b"1\r\nx\r\n0;" + b"e" * 2000 + b"\r\n\r\n",
        b"0\r\nT: " + b"t" * 2000 + b"\r\n\r\n",
        b"0\r\nT: " + b"t" * 2000,
        b"0\r\n" + b"T: t\r\n" * 500 + b"\r\n",
    ],
    ids=[
        "extension",
        "endless extension",
        "extensions",
        "zeros",
        "last extension",
        "trailer",
        "endless trailer",
        "trailers",
    ],
)
def test_extensions_and_trailers_are_bounded(body: bytes) -> None:
    # RFC 9112 7.1.1: "should limit the total length of chunk extensions"
    for parse_data in (whole, byte_by_byte):
        assert parse_data(CHUNKED + body, max_header_size=256, max_header_count=1000).refusal == 413


def test_one_byte_chunks_are_not_taken_for_extensions() -> None:
    data = CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n" + GET
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(data, max_header_size=128)
        assert [len(request.body) for request in outcome.requests] == [5000, 0]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_many_small_pieces_is_held_in_few(chunked: bool) -> None:
    parser = new_parser()
    count = 3 * MAX_SMALL_PARTS
    pieces = [b"%c%c" % (i % 256, i % 251) for i in range(count)]
    if chunked:
        segments = [CHUNKED, *(b"2\r\n" + piece + b"\r\n" for piece in pieces), b"0\r\n\r\n"]
    else:
        segments = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (2 * count), *pieces]
    for _ in range(2):
        for segment in segments:
            position = 0
            while position < len(segment):
                position = parser.feed(segment, position)
            assert len(parser.parts) <= MAX_SMALL_PARTS + 3
        assert parser.state is ParserState.COMPLETE
        assert parser.request.body == b"".join(pieces)


def test_trailer_count() -> None:
    for parse_data in (whole, byte_by_byte):
        trailers = b"".join(b"T%d: 1\r\n" % i for i in range(10))
        assert len(parse_data(CHUNKED + b"0\r\n" + trailers + b"\r\n", max_header_count=10).requests[0].trailers) == 10
        assert parse_data(CHUNKED + b"0\r\n" + trailers + b"T: 1\r\n\r\n", max_header_count=10).refusal == 431


def test_trailers_are_no_headers() -> None:
    data = CHUNKED + b"0\r\nHost: evil\r\nX-Admin: 1\r\n\r\n" + GET
    for parse_data in (whole, byte_by_byte):
        first, second = parse_data(data).requests
        assert first.fields == (("Host", "a"), ("Transfer-Encoding", "chunked"))
        assert first.trailers == (("Host", "evil"), ("X-Admin", "1"))
        assert first.host == "a"
        assert second.trailers == ()


@pytest.mark.parametrize("place", range(1, 5))
def test_the_last_chunk_may_straddle_segments(place: int) -> None:
    end = b"0\r\n\r\n"
    parser = new_parser()
    outcome = parse(parser, [CHUNKED + b"1\r\nx\r\n" + end[:place], end[place:] + GET])
    assert len(outcome.requests) == 2


# Upgrades


def test_after_an_upgrade_that_is_not_served_comes_the_next_request() -> None:
    upgrade = b"GET /u HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"
    data = upgrade + GET + upgrade + CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + upgrade
    for parse_data in (whole, byte_by_byte):
        outcome = parse_data(data)
        assert [request.target for request in outcome.requests] == [b"/u", b"/", b"/u", b"/c", b"/u"]
        assert outcome.refusal is None


# What is learned


def test_what_is_learned_is_bounded() -> None:
    memory = HeadMemory()
    parser = new_parser(memory)
    for i in range(1100):
        fields = b"Host: h%d\r\nX-%d: 1\r\nY-%d: 1\r\nContent-Length: %d" % (i, i, i, i + 1)
        head = b"POST / HTTP/1.1\r\n" + fields + b"\r\n\r\n"
        assert parse(parser, [head + b"x" * (i + 1)] * 2).refusal is None
        assert len(memory.names) <= LEARNED_NAMES
        assert len(memory.hosts) <= LEARNED_HOSTS
        assert len(memory.framings) <= LEARNED_LENGTHS
    # Whoever made names up has not kept those from being learned that come now.
    head = b"GET / HTTP/1.1\r\nHost: late\r\nX-Late: 1\r\n\r\n"
    for _ in range(3):
        (taken,) = parse(parser, [head]).requests
        assert taken.fields == (("Host", "late"), ("X-Late", "1"))
    assert head.split(b" ", 2)[2] in memory.blocks


def test_learned_blocks_are_bounded() -> None:
    memory = HeadMemory()
    parser = new_parser(memory)
    most = 0
    for i in range(LEARNED_BLOCKS + 100):
        assert parse(parser, [b"GET / HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % i] * 2).refusal is None
        most = max(most, len(memory.blocks))
    assert most == LEARNED_BLOCKS
    large = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * LEARNED_BLOCK + b"\r\n\r\n"
    assert parse(parser, [large] * 3).refusal is None
    assert max(map(len, memory.blocks)) <= LEARNED_BLOCK


@pytest.mark.parametrize("digits", [b"1" * 16, b"9" * 19, b"0" * 16 + b"1", b"00", b"0"])
def test_lengths_that_are_long_or_zero_are_not_learned(digits: bytes) -> None:
    memory = HeadMemory()
    for _ in range(3):
        parse(new_parser(memory), [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + digits + b"\r\n\r\n"])
    assert memory.framings == HeadMemory().framings


def test_what_is_long_is_not_learned() -> None:
    memory = HeadMemory()
    name, host = b"X" * (LEARNED_LENGTH + 1), b"h" * (LEARNED_LENGTH + 1)
    outcome = parse(new_parser(memory), [b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n" + name + b": 1\r\n\r\n"])
    assert outcome.refusal is None
    assert max(map(len, memory.names | memory.hosts)) <= LEARNED_LENGTH


LEARNED = [
    b"GET / HTTP/1.1\r\nHost: a\r\nAccept: x\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\naccept: x\r\nconnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHOST: b\r\nX: a b\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: b\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\n\r\nx",
    CHUNKED + b"0\r\nHost: evil host\r\nExpect: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nupgrade: y\r\nconnection: UPGRADE\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: keep-alive\r\n\r\n",
]
REFUSED = [
    b"GET / HTTP/1.1\r\nAccept: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nHOST: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a@b\r\nAccept: x\r\n\r\n",
    b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nexpect: more\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 1\r\n\r\nx",
]


@pytest.mark.parametrize("bad", REFUSED)
def test_nothing_that_was_learned_weakens_a_check(bad: bytes) -> None:
    fresh = parse(new_parser(), [bad])
    assert fresh.refusal is not None
    memory = HeadMemory()
    for _ in range(2):
        for good in LEARNED:
            assert parse(new_parser(memory), [good]).refusal is None
        for data in (bad, *REFUSED):
            parse(new_parser(memory), [data])
        assert parse(new_parser(memory), [bad]) == fresh
        assert parse(new_parser(memory), single_bytes(bad)).refusal is not None


@pytest.mark.parametrize("data", LEARNED)
def test_what_was_learned_changes_no_request(data: bytes) -> None:
    fresh = parse(new_parser(), [data])
    memory = HeadMemory()
    for good in LEARNED * 2:
        parse(new_parser(memory), [good])
    assert parse(new_parser(memory), [data]) == fresh


@pytest.mark.parametrize(
    "name", [b"connection", b"CONNECTION", b"Connection", b"Proxy-Connection", b"proxy-connection"]
)
def test_close_is_seen_in_every_spelling_however_often_it_came(name: bytes) -> None:
    memory = HeadMemory()
    for value in (b"keep-alive", b"close", b"keep-alive", b"Close", b"x, close"):
        data = b"GET / HTTP/1.1\r\nHost: a\r\n" + name + b": " + value + b"\r\n\r\n"
        (taken,) = parse(new_parser(memory), [data]).requests
        assert taken.keep_alive is (value == b"keep-alive")


def test_framing_names_are_never_learned() -> None:
    memory = HeadMemory()
    for data in LEARNED:
        parse(new_parser(memory), [data])
    assert memory.names == {b"Host", b"Connection", b"Content-Length", b"Accept", b"accept", b"X"}


def test_a_large_body_is_no_credit_for_trailers() -> None:
    """Row 3: trailers are bounded as the head is, however much body went before them."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%b\r\n0\r\n" % (1 << 20, b"x" * (1 << 20))
    trailer = [b"T: "] + [b"t" * 4096] * 8
    outcome = parse(new_parser(max_body_size=1 << 22), [head, body, *trailer])
    assert outcome.refusal == 413
