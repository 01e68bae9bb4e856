"""`ClientResponse`: its surface over a parsed head and a body."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.client.response import ClientResponse
from fastserve.errors import ClientError, ContentCodingError, ResponseTooLarge, StatusError
from fastserve.http1.response_parser import ResponseHeadMemory, ResponseParser


def response(head: bytes, body: bytes = b"") -> ClientResponse:
    parser = ResponseParser(ResponseHeadMemory())
    data = b"HTTP/1.1 " + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert parser.feed(data) == len(data)
    return ClientResponse(parser.head, parser.take_body(), parser.trailer_fields)


def test_surface() -> None:
    found = response(b"404 Not There\r\nX: 1\r\nx: 2\r\n", b"hello")
    assert (found.status_code, found.reason, found.http_version) == (404, "Not There", "HTTP/1.1")
    assert found.headers.get_all("X") == ["1", "2"]
    assert found.headers is found.headers
    assert (found.body, found.text) == (b"hello", "hello")
    assert found.stream is None
    assert len(found.trailers) == 0
    assert repr(found) == "<ClientResponse 404 Not There>"


def test_trailers_and_http_1_0() -> None:
    parser = ResponseParser(ResponseHeadMemory())
    parser.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: 1\r\n\r\n")
    found = ClientResponse(parser.head, b"", parser.trailer_fields)
    assert found.trailers["t"] == "1"
    parser.begin()
    assert found.trailers["t"] == "1"  # the next response leaves them
    parser.feed(b"HTTP/1.0 200 OK\r\n\r\n")
    assert ClientResponse(parser.head).http_version == "HTTP/1.0"


def test_headers_that_are_changed_are_this_response_s_alone() -> None:
    first = response(b"200 OK\r\nX: 1\r\n")
    first.headers.set("X", "2")
    second = ClientResponse(first.head)
    assert second.headers["x"] == "1"


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        (b"", "utf-8"),
        (b"Content-Type: text/html\r\n", "utf-8"),
        (b"Content-Type: text/html; charset=ISO-8859-1\r\n", "ISO-8859-1"),
        (b'Content-Type: text/html;charset="utf-16"\r\n', "utf-16"),
        (b"Content-Type: text/html; charset=none-such\r\n", "utf-8"),
        (b"Content-Type: text/html; charset=zlib\r\n", "utf-8"),
        (b"Content-Type: text/html; charset=rot13\r\n", "utf-8"),
        (b"Content-Type: text/html; charset=punycode\r\n", "utf-8"),
        (b"Content-Type: text/html; charset=unicode_escape\r\n", "utf-8"),
        (b"Content-Type: text/html; charset=\r\n", "utf-8"),
        (b"Content-Type: ;;\r\n", "utf-8"),
        (b'Content-Type: text/html; charset="a\xe9"\r\n', "utf-8"),
    ],
)
def test_charset(content_type: bytes, charset: str) -> None:
    found = response(b"200 OK\r\n" + content_type, "é".encode(charset) + b"\xff\xfe\xff")
    assert found.charset == charset
    assert found.text.startswith("é")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=15), st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_text_never_fails(charset: str, body: bytes) -> None:
    assert isinstance(response(b"200 OK\r\nContent-Type: a/b; charset=" + charset.encode() + b"\r\n", body).text, str)


def test_json() -> None:
    assert response(b"200 OK\r\n", b'{"a": [1]}').json() == {"a": [1]}
    assert response(b"200 OK\r\n", b"5").json(loads=lambda data: int(data) + 1) == 6
    for body in (b"", b"{", b"\xff\xff", b"[" * 100_000):
        with pytest.raises(ValueError):
            response(b"200 OK\r\n", body).json()
    assert json.dumps(response(b"200 OK\r\n", b"\xef\xbb\xbf1").json()) == "1"


def test_decode_content() -> None:
    found = response(b"200 OK\r\nContent-Encoding: gzip\r\n", gzip.compress(b"hello"))
    found.decode_content(5)
    assert found.body == b"hello"
    assert "content-encoding" not in found.headers
    assert "content-length" not in found.headers
    found.decode_content()
    assert found.body == b"hello"


def test_a_body_that_cannot_be_decoded_stays() -> None:
    encoded = gzip.compress(b"hello")
    found = response(b"200 OK\r\nContent-Encoding: gzip\r\n", encoded)
    with pytest.raises(ResponseTooLarge):
        found.decode_content(4)
    assert found.body == encoded
    assert "content-encoding" in found.headers
    with pytest.raises(ContentCodingError):
        response(b"200 OK\r\nContent-Encoding: none-such\r\n", b"x").decode_content()
    found.stream = iter([b"x"])
    with pytest.raises(ContentCodingError, match="streamed"):
        found.decode_content()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_is_redirect(status: int) -> None:
    assert response(b"%d R\r\nLocation: /\r\n" % status).is_redirect
    assert not response(b"%d R\r\n" % status).is_redirect
    assert not response(b"200 R\r\nLocation: /\r\n").is_redirect
    assert not response(b"300 R\r\nLocation: /\r\n").is_redirect


def test_raise_for_status() -> None:
    for status in (200, 204, 302, 399):
        good = response(b"%d\r\n" % status) if status != 204 else response(b"204\r\n")
        assert good.raise_for_status() is good
    for head, text in (
        (b"404 Not There\r\n", "404 Not There"),
        (b"500\r\n", "500 Internal Server Error"),
        (b"999\r\n", "999"),
    ):
        bad = response(head)
        with pytest.raises(StatusError) as caught:
            bad.raise_for_status()
        assert caught.value.response is bad
        assert caught.value.status_code == bad.status_code
        assert str(caught.value) == f"{text} (phase: done)"
        assert isinstance(caught.value, ClientError)
