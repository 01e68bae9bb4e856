"""Invariant 4 of the parser: header lines that are remembered change no verdict and no request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastserve.errors import RequestError
from fastserve.http1.head_memory import LEARNED_BLOCK, SEEN_BLOCKS, HeadMemory
from fastserve.http1.parser import ParserState
from tests.http1.test_parser import GET, SAMPLES, cut, new_parser, parse, requests, single_bytes

POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


def warmed(*heads: bytes) -> HeadMemory:
    """A memory that knows the header lines of `heads`: learned name by name, seen once, and then remembered."""
    memory = HeadMemory()
    for head in heads:
        for _ in range(3):
            parse(new_parser(memory), [head])
    return memory


class Llhttp:
    """Counts what a parser hands to llhttp."""

    def __init__(self, feed: Callable[[bytes | memoryview], None]) -> None:
        self.calls = 0
        self._feed = feed

    def __call__(self, piece: bytes | memoryview) -> None:
        self.calls += 1
        self._feed(piece)


@pytest.mark.parametrize("data", [GET, POST, GET * 3, POST * 3, POST + GET, GET + POST])
def test_known_lines_are_not_parsed_again(data: bytes) -> None:
    parser = new_parser(warmed(GET, POST))
    counted = parser._feed = Llhttp(parser._feed)
    outcome = parse(parser, [data])
    assert counted.calls == 0
    assert outcome == parse(new_parser(), [data])
    assert len(outcome.requests) == data.count(b" HTTP/1.1")


def test_lines_are_remembered_when_they_come_again() -> None:
    memory = HeadMemory()
    parse(new_parser(memory), [GET])  # names
    for i in range(20):
        parse(new_parser(memory), [b"GET / HTTP/1.1\r\nHost: a\r\nAccept: %d\r\n\r\n" % i])
    assert memory.blocks == {}
    parse(new_parser(memory), [GET] * 2)
    assert list(memory.blocks) == [GET.split(b" ", 2)[2]]


def test_lines_seen_once_are_bounded() -> None:
    memory = warmed(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: x\r\n\r\n")
    parser = new_parser(memory)
    most = 0
    for i in range(SEEN_BLOCKS + 100):
        parse(parser, [b"GET / HTTP/1.1\r\nHost: a\r\nAccept: %d\r\n\r\n" % i])
        most = max(most, len(memory._seen))
    assert most == SEEN_BLOCKS
    assert len(memory.blocks) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"GET  /",
        b"GET / ",
        b" GET /",
        b"GET /a b",
        b"GET /#f",
        b"GET /\x7f",
        b"GET /\xff",
        b"GET /\t",
        b"GET /\r",
        b"GET /\n",
        b"GET *",
        b"GET x",
        b"GET ",
        b"GET",
        b"get /",
        b"GETT /",
        b"SOURCE /",
        b"CONNECT a:80",
        b"",
        b" ",
        b"/",
        b"HTTP/1.1\r\nHost: a\r\n\r\nGET /",
    ],
)
def test_known_lines_excuse_no_request_line(line: bytes) -> None:
    for block in (GET.split(b" ", 2)[2], b"HTTP/1.1\r\nHost:a\r\n\r\n"):
        memory = warmed(b"GET / " + block)
        assert block in memory.blocks
        assert parse(new_parser(memory), [line + b" " + block]).refusal is not None
        for data in (line + b" " + block, line + block, GET + line + b" " + block):
            fresh = parse(new_parser(), [data])
            for segments in ([data], single_bytes(data), [data[:7], data[7:]]):
                assert parse(new_parser(memory), segments).verdict == fresh.verdict


@pytest.mark.parametrize("line", [b"HEAD /", b"OPTIONS *", b"GET http://b/x", b"\r\nGET /", b"\r\n\r\n\r\nGET /"])
def test_known_lines_behind_an_unusual_request_line(line: bytes) -> None:
    data = line + b" " + GET.split(b" ", 2)[2]
    for segments in ([data], [GET + data + GET], single_bytes(data)):
        segments = list(segments)
        assert parse(new_parser(warmed(GET)), segments) == parse(new_parser(), segments)
    head = new_parser(warmed(GET))
    parse(head, [b"HEAD / " + GET.split(b" ", 2)[2]])
    assert not head.request.head.plain  # its response is framed in another way


def test_a_limit_holds_when_the_lines_are_known() -> None:
    memory = warmed(GET, POST)
    target = b"GET /" + b"x" * 300 + GET[5:]
    assert parse(new_parser(memory, max_header_size=256), [target]).refusal == 414
    assert parse(new_parser(memory, max_header_size=len(target)), [target]).refusal is None
    assert parse(new_parser(memory, max_header_size=len(target) - 1), [target]).refusal is not None
    assert parse(new_parser(memory, max_body_size=2), [POST]).refusal == 413
    assert parse(new_parser(memory, max_body_size=3), [POST]).refusal is None


def test_a_known_body_comes_whole_or_in_pieces() -> None:
    memory = warmed(POST)
    for place in range(1, len(POST)):
        outcome = parse(new_parser(memory), [POST + POST[:place], POST[place:] + POST])
        assert [request.body for request in outcome.requests] == [b"abc"] * 3, place
        assert outcome.refusal is None


@pytest.mark.parametrize("option", ["stops_at_head", "streams"])
def test_a_parser_that_stops_at_heads_does_so_when_they_are_known(option: str) -> None:
    memory = warmed(POST)
    parser = new_parser(memory)
    parser = type(parser)(parser.request, memory, 1024, 10, 1024, **{option: True})
    assert parser.feed(POST) == len(POST) - 3
    assert parser.state is ParserState.LENGTH
    parser.max_body_size = 2
    with pytest.raises(RequestError, match="413"):
        parser.check_body_size()


@given(st.sampled_from(list(SAMPLES.values())), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_input_is_judged_alike_with_a_memory(data: bytes, draw: st.DataObject) -> None:
    memory = warmed(data)
    place = draw.draw(st.integers(0, len(data)))
    inserted = draw.draw(
        st.sampled_from(
            [b"", b"\r", b"\n", b"\n:", b"\nb:c", b"\r\n", b" ", b"\x00", b":", b",", b"0", b"\xff", b"#", b"a"]
        )
    )
    removed = draw.draw(st.integers(0, 2))
    damaged = data[:place] + inserted + data[place + removed :]
    places = draw.draw(st.sets(st.integers(1, max(len(damaged) - 1, 1)), max_size=4))
    expected = parse(new_parser(), [damaged])
    for _ in range(3):
        assert parse(new_parser(memory), [damaged]).verdict == expected.verdict
        assert parse(new_parser(memory), cut(damaged, places)).verdict == expected.verdict


@given(st.lists(requests(), min_size=1, max_size=3), st.data())
@settings(max_examples=100, deadline=None)
def test_valid_requests_are_taken_alike_with_a_memory(
    sent: list[tuple[bytes, bytes, bytes]], draw: st.DataObject
) -> None:
    data = b"".join(part[0] for part in sent)
    memory = warmed(*(part[0] for part in sent))
    places = draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=6))
    expected = parse(new_parser(), [data])
    for segments in ([data], single_bytes(data), cut(data, places)):
        assert parse(new_parser(memory), segments).verdict == expected.verdict


def test_an_empty_body_that_is_announced_is_remembered() -> None:
    """What clients send with a POST that has none."""
    data = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    parser = new_parser(warmed(data))
    counted = parser._feed = Llhttp(parser._feed)
    outcome = parse(parser, [data + GET + data])
    assert counted.calls == 1  # for the GET
    assert [(request.target, request.body) for request in outcome.requests] == [(b"/p", b""), (b"/", b""), (b"/p", b"")]


# The head that a parser took last


@pytest.mark.parametrize("data", [GET, POST])
def test_the_head_that_came_last_is_taken_as_it_was(data: bytes) -> None:
    memory = warmed(data)
    parser = new_parser(memory)
    first = parse(parser, [data])
    memory.blocks.clear()
    counted = parser._feed = Llhttp(parser._feed)
    for segments in ([data], [data * 3], [data + data[:20], data[20:]]):
        again = parse(parser, segments)
        assert again.requests == first.requests * (sum(map(len, segments)) // len(data))
    assert counted.calls == (2 if data == GET else 3)  # for the one that came in two pieces


def test_the_last_head_is_no_excuse_for_a_longer_or_a_shorter_one() -> None:
    memory = warmed(GET)
    for data in (
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r",
        b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n" + GET,
        GET + b"\x00" + GET,
        GET + b" " + GET,
    ):
        parser = new_parser(memory)
        parse(parser, [GET])
        assert parse(parser, [data]).verdict == parse(new_parser(), [data]).verdict


def test_limits_hold_for_the_last_head() -> None:
    parser = new_parser(warmed(POST))
    assert len(parse(parser, [POST * 2]).requests) == 2
    parser.max_body_size = 2
    assert parse(parser, [POST]).refusal == 413


@pytest.mark.parametrize("option", ["stops_at_head", "streams"])
def test_a_parser_that_stops_at_heads_does_so_at_the_last_one(option: str) -> None:
    parser = new_parser(warmed(POST))
    parser = type(parser)(parser.request, warmed(POST), 1024, 10, 1024, **{option: True})
    for _ in range(2):
        assert parser.feed(POST) == len(POST) - 3
        assert parser.state is ParserState.LENGTH
        assert parser.feed(POST, len(POST) - 3) == len(POST)


@pytest.mark.parametrize(("size", "kept"), [(LEARNED_BLOCK, True), (LEARNED_BLOCK + 1, False)])
def test_the_last_head_is_bounded(size: int, kept: bool) -> None:
    head = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * (size - len(GET)))
    assert len(head) == size
    parser = new_parser(warmed(GET))
    assert len(parse(parser, [head]).requests) == 1
    assert (parser._last_bytes == head) is kept


def test_a_body_that_reads_as_the_last_head_is_a_body() -> None:
    memory = warmed(GET)
    parser = new_parser(memory)
    parse(parser, [GET])
    assert parse(parser, [b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", GET]).refusal == 400
    parser = new_parser(memory)
    parse(parser, [GET])
    outcome = parse(parser, [b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(GET), GET, GET])
    assert [request.body for request in outcome.requests] == [GET, b""]


@given(st.sampled_from(list(SAMPLES.values())), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_input_behind_what_came_last_is_judged_alike(data: bytes, draw: st.DataObject) -> None:
    parser = new_parser(warmed(data))
    before = parse(parser, [data])
    assume(before.refusal is None and parser.untouched and before.requests[-1].keep_alive)
    place = draw.draw(st.integers(0, len(data)))
    damaged = data[:place] + draw.draw(st.sampled_from([b"", b"\r\n", b"\nb:c", b" ", b"\x00", b"a"])) + data[place:]
    places = draw.draw(st.sets(st.integers(1, max(len(damaged) - 1, 1)), max_size=2))
    assert parse(parser, cut(damaged, places)).verdict == parse(new_parser(), [damaged]).verdict
