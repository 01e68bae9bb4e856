"""`ClientRequest`: URLs, headers and bodies of every kind; what cannot be sent is refused where it is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.client.request import (
    MAX_KNOWN,
    MAX_KNOWN_LENGTH,
    ClientRequest,
    Origin,
    _known_pairs,
    _known_urls,
    split_url,
)
from fastserve.errors import ClientError, InvalidRequest
from fastserve.http1.args import Args
from fastserve.http1.forms import parse_form
from fastserve.http1.headers import Headers
from fastserve.http1.request_writer import RequestWriter


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("/", None, "/"),
        ("", None, "/"),
        ("?q=1", None, "/?q=1"),
        ("/a b/é?ü= 1&x=%41%zz#frag", None, "/a%20b/%C3%A9?%C3%BC=%201&x=%41%zz"),
        ("#frag", None, "/"),
        ("//a/b", None, "//a/b"),
        ("/a?b?c#d?e", None, "/a?b?c"),
        ("*", None, "*"),
        ("http://a.example", Origin("http", "a.example", 80), "/"),
        ("HTTP://A.Example:80/P?Q", Origin("http", "a.example", 80), "/P?Q"),
        ("https://a.example:8443?q", Origin("https", "a.example", 8443), "/?q"),
        ("http://[::1]:81/x", Origin("http", "[::1]", 81), "/x"),
        ("http://[::1]", Origin("http", "[::1]", 80), "/"),
        ("https://a:/x#f", Origin("https", "a", 443), "/x"),
        ("http://a/x://y", Origin("http", "a", 80), "/x://y"),
        ("http://a?@b", Origin("http", "a", 80), "/?@b"),
    ],
)
def test_urls(url: str, origin: Origin | None, target: str) -> None:
    assert split_url(url) == (origin, target)
    assert split_url(url) == (origin, target)  # and when it is known
    request = ClientRequest("GET", url)
    assert (request.origin, request.target) == (origin, target)


@pytest.mark.parametrize(
    "url",
    ["a", "a/b", "a:80", "ftp://a/", "file:///etc", "javascript:x", "http:a", "http://", "http:///x", "http://u@a/", "http://u:p@a/",
     "http://a:0/", "http://a:65536/", "http://a:123456/", "http://a:x/", "http://a b/", "http://[::1/", "http://b\xfccher/",
     "http://a\\@b/", "/\r\n", "/a\x00", "/\x7f", "http://a\n/", "/\ud800", " /", "http://a%zz/"],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ClientRequest("GET", url)
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, ClientError)


@pytest.mark.parametrize("url", [None, b"/", 5, ["/"]])
def test_a_url_is_str(url: Any) -> None:
    with pytest.raises(InvalidRequest):
        ClientRequest("GET", url)


def test_known_urls_are_bounded() -> None:
    for i in range(MAX_KNOWN + 5):
        split_url(f"/{i}")
        assert len(_known_urls) <= MAX_KNOWN
    long = "/" + "x" * MAX_KNOWN_LENGTH
    assert split_url(long) == (None, long)
    assert long not in _known_urls


def test_authority_has_the_port_only_where_it_is_not_the_scheme_s() -> None:
    assert Origin("http", "a", 80).authority == "a"
    assert Origin("https", "a", 80).authority == "a:80"
    assert str(Origin("https", "[::1]", 444)) == "https://[::1]:444"


def test_methods() -> None:
    assert ClientRequest("get", "/").method == "GET"
    assert ClientRequest("PROPFIND", "/").method == "PROPFIND"
    method: Any
    for method in ("", "G T", "GET\r\n", "G\x00", "GÉT", None, 5, b"GET"):
        with pytest.raises(InvalidRequest):
            ClientRequest(method, "/")


def test_params_are_added_to_the_query() -> None:
    assert ClientRequest("GET", "/", params={"a": "1 2", "b": [1, True]}).target == "/?a=1+2&b=1&b=true"
    assert ClientRequest("GET", "/?x=1#f", params=[("a", "é")]).target == "/?x=1&a=%C3%A9"
    assert ClientRequest("GET", "/?", params=Args.parse("a=1")).target == "/?a=1"
    assert ClientRequest("GET", "/?x", params={}).target == "/?x"
    for params in ({"a": None}, {"a": "\ud800"}):
        with pytest.raises(InvalidRequest, match="params"):
            ClientRequest("GET", "/", params=params)


def test_known_headers_are_bounded_and_hold_no_secrets() -> None:
    for i in range(MAX_KNOWN + 5):
        assert ClientRequest("GET", "/", headers={"X-Id": str(i)}).headers.raw == [(b"X-Id", b"%d" % i)]
        assert len(_known_pairs) <= MAX_KNOWN
    long = "x" * MAX_KNOWN_LENGTH
    secret = {"Authorization": "Bearer t", "cookie": "a=b", "Proxy-Authorization": "Basic c"}
    for _ in range(2):
        assert ClientRequest("GET", "/", headers={"X-Id": long, **secret}).headers["x-id"] == long
    assert not {("X-Id", long), *secret.items()} & _known_pairs.keys()


def test_a_known_header_is_no_other_one() -> None:
    for _ in range(2):
        assert ClientRequest("GET", "/", headers={"X-N": "1"}).headers.raw == [(b"X-N", b"1")]
        assert ClientRequest("GET", "/", headers={"X-N": 1}).headers.raw == [(b"X-N", b"1")]
        assert ClientRequest("GET", "/", headers={"x-n": "1"}).headers.raw == [(b"x-n", b"1")]
        with pytest.raises(InvalidRequest, match="not bool"):
            ClientRequest("GET", "/", headers={"X-N": True})
    request = ClientRequest("GET", "/", headers={"X-N": "1"})
    request.headers.add("X-M", "2")
    assert ClientRequest("GET", "/", headers={"X-N": "1"}).headers.raw == [(b"X-N", b"1")]


def test_headers() -> None:
    request = ClientRequest("GET", "/", headers={"Accept": "a", "X": 5})
    assert request.headers.items() == [("Accept", "a"), ("X", "5")]
    pairs = [("X", "1"), ("x", "2")]
    request = ClientRequest("GET", "/", headers=pairs)
    assert request.headers.get_all("X") == ["1", "2"]
    mine = Headers([(b"A", b"b")])
    request = ClientRequest("GET", "/", headers=mine)
    request.headers.set("A", "c")
    assert mine.get("a") == "b"


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"},
        {"X\n": "a"},
        {"X": None},
        {"X": "\u20ac"},
        [("a", "b", "c")],
        ["ab:c"],
        [5],
        {"X": " a"},
        {5: "x"},
    ],
)
def test_headers_that_are_refused(headers: Any) -> None:
    with pytest.raises(InvalidRequest):
        ClientRequest("GET", "/", headers=headers)


@pytest.mark.parametrize(
    ("arguments", "content", "content_type"),
    [
        ({}, b"", None),
        ({"body": b"x"}, b"x", None),
        ({"body": bytearray(b"x")}, b"x", None),
        ({"body": memoryview(b"x")}, b"x", None),
        ({"body": "é"}, b"\xc3\xa9", None),
        ({"body": ""}, b"", None),
        ({"json": {"a": [1, "é"]}}, b'{"a":[1,"\xc3\xa9"]}', "application/json"),
        ({"json": False}, b"false", "application/json"),
        ({"json": None}, b"", None),
        ({"form": {"a": "1 2"}}, b"a=1+2", "application/x-www-form-urlencoded"),
        ({"form": {}}, b"", "application/x-www-form-urlencoded"),
    ],
)
def test_bodies(arguments: dict[str, Any], content: bytes, content_type: str | None) -> None:
    request = ClientRequest("POST", "/", **arguments)
    assert request.content == content
    assert request.content_length == len(content)
    assert request.stream is None
    assert request.headers.get("content-type") == content_type
    own = ClientRequest("POST", "/", headers={"content-type": "mine/own"}, **arguments)
    assert own.headers.items() == [("content-type", "mine/own")]


def test_a_multipart_body() -> None:
    request = ClientRequest("POST", "/", form={"a": "1"}, files={"f": ("x.txt", b"data", "text/plain")})
    form = parse_form(request.headers["content-type"], request.content)
    assert form.args.items() == [("a", "1")]
    assert [file.data for file in form.files["f"]] == [b"data"]
    assert (
        ClientRequest("POST", "/", files={"f": b"x"})
        .headers["content-type"]
        .startswith("multipart/form-data; boundary=")
    )


async def pieces() -> AsyncIterator[bytes]:
    yield b"x"


def test_a_streamed_body() -> None:
    for stream in (iter([b"x"]), [b"x", "y"], pieces(), (b"x" for _ in range(2))):
        request = ClientRequest("POST", "/", body=stream)  # type: ignore[arg-type]
        assert request.stream is stream
        assert request.content == b""
        assert request.content_length is None
    request = ClientRequest("POST", "/", body=[b"x"], headers={"Content-Length": 1})
    assert request.content_length == 1
    for length in ("", "-1", "\xb2", "9" * 19):
        with pytest.raises(InvalidRequest, match="Content-Length"):
            _ = ClientRequest("POST", "/", body=[b"x"], headers={"Content-Length": length}).content_length


@pytest.mark.parametrize(
    "arguments",
    [
        {"json": 1, "body": b"x"},
        {"json": 1, "form": {}},
        {"files": {}, "body": b""},
        {"json": object()},
        {"json": float("nan")},
        {"json": "\ud800"},
        {"body": "\ud800"},
        {"body": 5},
        {"body": {"a": "b"}},
        {"form": {"a": object()}},
        {"form": {"a": "\ud800"}},
        {"files": {"f": "text"}},
        {"files": {"f": ("a\x00", b"")}},
    ],
)
def test_bodies_that_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        ClientRequest("POST", "/", **arguments)


def test_json_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidRequest, match="json"):
        ClientRequest("POST", "/", json=endless)


def test_repr_shows_no_secret() -> None:
    assert repr(ClientRequest("GET", "http://a/b")) == "<ClientRequest GET http://a/b>"


@given(st.text(max_size=30), st.text(max_size=10))
@settings(max_examples=300, deadline=None)
def test_what_was_taken_can_be_sent(path: str, value: str) -> None:
    for url in ("/" + path, "http://a" + path, path):
        try:
            request = ClientRequest("GET", url, params={value: value})
        except InvalidRequest:
            continue
        authority = request.origin.authority if request.origin else "a"
        assert RequestWriter(authority).plain_head(request.method, request.target).count(b"\r\n\r\n") == 1
