"""`ResponseRenderer`: the bytes of a head, what ends a body, and the heads that are kept for a second."""

from __future__ import annotations

import pytest

from fastserve.errors import ResponseError
from fastserve.http1.render import LAST_CHUNK, MAX_CACHED_HEADS, Delimiter, ResponseRenderer, chunk, delimiter
from fastserve.http1.response import Response

EPOCH = b"Thu, 01 Jan 1970 00:00:00 GMT"


def new_renderer(*, server: bool = True, date: bool = True, content_type: bool = True) -> ResponseRenderer:
    renderer = ResponseRenderer("s", server_header=server, date=date, content_type=content_type)
    renderer.set_time(0.25)
    return renderer


def response(status: int = 200, body: bytes = b"", *headers: tuple[str, str]) -> Response:
    made = Response()
    made.set_status_code(status)
    made.set_body(body)
    for name, value in headers:
        made.headers.add(name, value)
    return made


def streamed(size: int = -1) -> Response:
    made = Response()
    made.set_stream([b"x"], size)
    return made


def head(made: Response, method: str = "GET", minor: int = 1, keep_alive: bool = True) -> bytes:
    return new_renderer(server=False, date=False, content_type=False).head(method, minor, made, keep_alive)


# The head


def test_a_whole_head() -> None:
    made = response(200, b"hello", ("X-A", "1"), ("X-A", "2"))
    assert new_renderer().head("GET", 1, made, True) == (
        b"HTTP/1.1 200 OK\r\nServer: s\r\nDate: " + EPOCH + b"\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
    )


def test_what_may_be_left_out() -> None:
    assert head(response(200, b"hello")) == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (413, b"HTTP/1.1 413 Content Too Large\r\n"),
        (418, b"HTTP/1.1 418 I'm a Teapot\r\n"),
        (422, b"HTTP/1.1 422 Unprocessable Content\r\n"),
        (599, b"HTTP/1.1 599 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ],
)
def test_status_lines(status: int, line: bytes) -> None:
    # RFC 9112 4: the space stays when there is no phrase
    assert head(response(status)).startswith(line)


def test_headers_of_the_handler_take_the_place_of_the_servers() -> None:
    made = response(200, b"x", ("Server", "mine"), ("date", "now"), ("Content-Type", "a/b"))
    rendered = new_renderer().head("GET", 1, made, True)
    assert rendered == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nServer: mine\r\ndate: now\r\nContent-Type: a/b\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("status", "body", "typed"),
    [(200, b"", True), (200, b"x", True), (404, b"x", True), (404, b"", False), (204, b"", False), (304, b"", False)],
)
def test_default_content_type(status: int, body: bytes, typed: bool) -> None:
    assert (b"Content-Type: " in new_renderer().head("GET", 1, response(status, body), True)) is typed


def test_content_type_that_was_set_and_that_was_set_to_none() -> None:
    made = response(200, b"x")
    made.set_content_type("a/b")
    assert b"\r\nContent-Type: a/b\r\n" in new_renderer().head("GET", 1, made, True)
    made.set_content_type("")
    assert b"Content-Type" not in new_renderer().head("GET", 1, made, True)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Keep-Alive"])
def test_headers_that_frame_are_the_servers(name: str) -> None:
    with pytest.raises(ResponseError, match=name):
        head(response(200, b"x", (name, "1")))


@pytest.mark.parametrize(
    ("value", "closes"), [("close", True), ("Close", True), ("x, close", True), ("keep-alive", False), ("x", False)]
)
def test_connection_of_a_handler_is_a_wish(value: str, closes: bool) -> None:
    made = response(200, b"", ("Connection", value))
    assert head(made) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"Connection: close\r\n" * closes + b"\r\n"
    assert made.close is closes


def test_the_head_of_an_upgrade_keeps_its_connection_header() -> None:
    # RFC 9110 7.8 and 15.2.2
    made = response(101, b"", ("Connection", "Upgrade"), ("Upgrade", "x"))
    assert head(made) == b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


# Keep-alive (RFC 9112 9.3)


@pytest.mark.parametrize(
    ("minor", "keep_alive", "connection"),
    [
        (1, True, b""),
        (1, False, b"Connection: close\r\n"),
        (0, True, b"Connection: keep-alive\r\n"),
        (0, False, b"Connection: close\r\n"),
    ],
)
def test_connection_is_announced(minor: int, keep_alive: bool, connection: bytes) -> None:
    rendered = head(response(200, b"x"), minor=minor, keep_alive=keep_alive)
    assert rendered == b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n" + connection + b"\r\n"


def test_a_response_that_closes_says_so() -> None:
    made = response(200, b"x")
    made.close = True
    assert b"\r\nConnection: close\r\n" in head(made)


# What ends a body (RFC 9112 6.3)


@pytest.mark.parametrize(
    ("method", "minor", "made", "expected"),
    [
        ("GET", 1, response(200, b"x"), Delimiter.LENGTH),
        ("GET", 0, response(200, b"x"), Delimiter.LENGTH),
        ("GET", 1, response(200), Delimiter.LENGTH),
        ("HEAD", 1, response(200, b"x"), Delimiter.NONE),
        ("GET", 1, response(204), Delimiter.NONE),
        ("GET", 1, response(304, b"x"), Delimiter.NONE),
        ("GET", 1, response(101), Delimiter.NONE),
        ("GET", 1, response(205), Delimiter.LENGTH),
        ("GET", 1, streamed(), Delimiter.CHUNKED),
        ("GET", 0, streamed(), Delimiter.CLOSE),
        ("GET", 1, streamed(5), Delimiter.LENGTH),
        ("GET", 0, streamed(0), Delimiter.LENGTH),
        ("HEAD", 1, streamed(), Delimiter.NONE),
        ("HEAD", 0, streamed(), Delimiter.NONE),
    ],
)
def test_delimiter(method: str, minor: int, made: Response, expected: Delimiter) -> None:
    assert delimiter(method, minor, made) is expected


@pytest.mark.parametrize("status", [101, 204, 304])
@pytest.mark.parametrize("body", [b"", b"ignored"])
def test_no_length_and_no_coding_where_there_is_no_body(status: int, body: bytes) -> None:
    # RFC 9110 8.6, RFC 9112 6.1: a 1xx or 204 must not have either
    rendered = head(response(status, body))
    assert b"Content-Length" not in rendered
    assert b"Transfer-Encoding" not in rendered


def test_a_stream_for_a_status_without_a_body_has_no_coding() -> None:
    made = streamed()
    made.set_status_code(204)
    assert head(made) == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_205_has_a_length_of_zero() -> None:
    # RFC 9110 15.3.6
    assert head(response(205)) == b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"


def test_streams() -> None:
    assert head(streamed()) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert head(streamed(7)) == b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
    assert head(streamed(7), minor=0) == b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: keep-alive\r\n\r\n"
    # RFC 9112 6.1: no Transfer-Encoding to an HTTP/1.0 client, so the end of the connection ends the body
    assert head(streamed(), minor=0) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def test_head_has_the_fields_of_get() -> None:
    # RFC 9110 9.3.2
    for made in (response(200, b"hello"), response(200), streamed(), streamed(7), response(404, b"x", ("X", "y"))):
        assert head(made, "HEAD") == head(made, "GET")


def test_a_handler_may_tell_the_length_that_get_would_have() -> None:
    rendered = head(response(200, b"", ("Content-Length", "1234")), "HEAD")
    assert rendered.count(b"Content-Length") == 1
    assert b"Content-Length: 1234\r\n" in rendered
    assert b"Transfer-Encoding" not in rendered


def test_chunks() -> None:
    # RFC 9112 7.1
    assert chunk(b"x") == b"1\r\nx\r\n"
    assert chunk(b"y" * 255) == b"ff\r\n" + b"y" * 255 + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"


# Once a second


def test_the_date_is_made_once_a_second() -> None:
    renderer = new_renderer()
    made = response(200, b"x")
    assert b"\r\nDate: " + EPOCH + b"\r\n" in renderer.head("GET", 1, made, True)
    first = renderer.plain_head(made)
    renderer.set_time(0.99)
    assert renderer.plain_heads == {(200, None, 1): first}
    renderer.set_time(1.0)
    assert renderer.plain_heads == {}
    assert b"\r\nDate: Thu, 01 Jan 1970 00:00:01 GMT\r\n" in renderer.plain_head(made)
    renderer.set_time(784111777.0)
    assert b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n" in renderer.plain_head(made)  # RFC 9110 5.6.7


@pytest.mark.parametrize("status", [200, 404, 599])
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_a_plain_head_is_the_head(status: int, body: bytes) -> None:
    renderer = new_renderer()
    made = response(status, body)
    assert renderer.plain_head(made) == renderer.head("GET", 1, made, True)


def test_a_plain_head_is_kept_by_all_that_makes_it_differ() -> None:
    renderer = new_renderer()
    typed = response(200, b"x")
    typed.set_content_type("a/b")
    untyped = response(200, b"x")
    untyped.set_content_type("")
    made = [response(200, b"x"), response(200, b"xx"), response(404, b"x"), typed, untyped]
    heads = [renderer.plain_head(each) for each in made]
    assert len(set(heads)) == len(renderer.plain_heads) == len(made)
    for each, rendered in zip(made, heads, strict=True):
        assert renderer.plain_heads[(each.plain_status, each.plain_type, len(each.body))] == rendered


def test_what_is_plain_may_come_from_the_kept_heads() -> None:
    assert response(200, b"x").plain
    assert response(404).plain
    # The body follows a kept head at once, and nothing else is in it.
    for status in (101, 204, 304):
        assert not response(status, b"x").plain
    assert not response(200, b"x", ("X", "y")).plain
    assert not streamed().plain
    closing = response(200, b"x")
    closing.close = True
    assert not closing.plain


def test_kept_heads_are_bounded() -> None:
    renderer = new_renderer()
    for size in range(MAX_CACHED_HEADS + 10):
        assert b"Content-Length: %d\r\n" % size in renderer.plain_head(response(200, b"x" * size))
    assert len(renderer.plain_heads) == MAX_CACHED_HEADS


def test_the_head_of_a_stream_to_head_never_has_both_framings_nor_one_in_a_204() -> None:
    announced = streamed()
    announced.headers.set("Content-Length", 5)
    head = new_renderer().head("HEAD", 1, announced, True)
    assert b"Content-Length: 5\r\n" in head
    assert b"Transfer-Encoding" not in head
    empty = streamed()
    empty.set_status_code(204)
    assert b"Transfer-Encoding" not in new_renderer().head("HEAD", 1, empty, True)


def test_two_lengths_in_an_answer_to_head_are_refused() -> None:
    with pytest.raises(ResponseError):
        new_renderer().head("HEAD", 1, response(200, b"", ("Content-Length", "5"), ("Content-Length", "6")), True)
