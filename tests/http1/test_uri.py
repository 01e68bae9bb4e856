from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.errors import RequestError
from fastserve.http1.uri import URI, percent_decode


def uri(target: bytes) -> URI:
    return URI(target, "example.com:8080", "http")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"/plain", "/plain"),
        (b"a+b", "a+b"),
        (b"a%20b", "a b"),
        (b"caf%C3%A9", "café"),
        (b"caf%c3%a9", "café"),
        (b"caf\xc3\xa9", "café"),
        (b"%", "%"),
        (b"%%", "%%"),
        (b"100%", "100%"),
        (b"%4", "%4"),
        (b"%zz", "%zz"),
        (b"%4g", "%4g"),
        (b"% 41", "% 41"),
        (b"%+1", "%+1"),
        (b"%%41", "%A"),
        (b"%e4", "\ufffd"),
        (b"\xe4", "\ufffd"),
        (b"%e4x", "\ufffdx"),
        (b"%c0%af", "\ufffd\ufffd"),  # overlong "/"
        (b"%ed%a0%80", "\ufffd\ufffd\ufffd"),  # a surrogate
        (b"%2541", "%41"),  # once, not twice
        (b"%00", "\x00"),
        (b"%0d%0a", "\r\n"),
        (b"%2F", "/"),
        (b"%F0%9F%8D%8A", "\U0001f34a"),
    ],
)
def test_percent_decode(data: bytes, text: str) -> None:
    assert percent_decode(data) == text


@given(st.text())
def test_percent_decode_undoes_quote(text: str) -> None:
    assert percent_decode(quote(text, safe="").encode()) == text


@given(st.binary())
def test_percent_decode_never_fails(data: bytes) -> None:
    percent_decode(data).encode("utf-8")


@pytest.mark.parametrize(
    ("target", "raw_path", "path", "query"),
    [
        (b"/", "/", "/", ""),
        (b"/a/b?x=1&y=2", "/a/b", "/a/b", "x=1&y=2"),
        (b"/a%20b+c", "/a%20b+c", "/a b+c", ""),
        (b"/a?b?c", "/a", "/a", "b?c"),
        (b"/a?", "/a", "/a", ""),
        (b"/a%3Fb", "/a%3Fb", "/a?b", ""),
        (b"/a?%41%3D=%zz", "/a", "/a", "%41%3D=%zz"),
        (b"/caf\xc3\xa9", "/caf\xc3\xa9", "/café", ""),
        (b"/%e4", "/%e4", "/\ufffd", ""),
        (b"//evil.example/x", "//evil.example/x", "//evil.example/x", ""),
        (b"/a/../b/./c", "/a/../b/./c", "/a/../b/./c", ""),
        (b"/http://other/x", "/http://other/x", "/http://other/x", ""),
        (b"http://other.example/a?b", "/a", "/a", "b"),
        (b"HTTP://other.example", "/", "/", ""),
        (b"http://other.example?b", "/", "/", "b"),
        (b"https://u:p@[::1]:99//x", "//x", "//x", ""),
        (b"*", "*", "*", ""),
        (b"example.com:443", "", "", ""),
    ],
)
def test_parts(target: bytes, raw_path: str, path: str, query: str) -> None:
    assert (uri(target).raw_path, uri(target).path, uri(target).query_string) == (raw_path, path, query)
    # Whichever part is asked for first.
    one = uri(target)
    assert (one.query_string, one.path, one.raw_path) == (query, path, raw_path)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (b"/a%20b?x=%41", "http://example.com:8080/a%20b?x=%41"),
        (b"/a?", "http://example.com:8080/a"),
        (b"http://other.example/a?b", "http://example.com:8080/a?b"),
        (b"*", "http://example.com:8080"),
        (b"example.com:8080", "http://example.com:8080"),
    ],
)
def test_str_is_the_target_uri(target: bytes, text: str) -> None:
    assert str(uri(target)) == text


def test_host_and_scheme_are_as_given() -> None:
    one = URI(b"/", "[::1]:8443", "https")
    assert (one.scheme, one.host, str(one)) == ("https", "[::1]:8443", "https://[::1]:8443/")
    assert repr(one) == "URI(b'/', '[::1]:8443', 'https')"


@pytest.mark.parametrize(
    ("target", "normalized"),
    [
        (b"/", "/"),
        (b"//", "/"),
        (b"/a//b///c", "/a/b/c"),
        (b"/a/./b", "/a/b"),
        (b"/a/b/../c", "/a/c"),
        (b"/a/b/..", "/a/"),
        (b"/a/.", "/a/"),
        (b"/a/", "/a/"),
        (b"/a/..", "/"),
        (b"/..", "/"),
        (b"/../../etc/passwd", "/etc/passwd"),
        (b"/a/../../../b", "/b"),
        (b"/%2e%2e/%2E%2e/etc", "/etc"),
        (b"/..%2f..%2Fetc", "/etc"),
        (b"/a%2F..%2Fb", "/b"),
        (b"//../a", "/a"),
        (b"/a//../b", "/b"),
        (b"/...", "/..."),
        (b"/..a/.b", "/..a/.b"),
        (b"/%252e%252e/a", "/%2e%2e/a"),
        (b"/a\\..\\b", "/a\\..\\b"),
        (b"/./././", "/"),
        (b"*", "*"),
        (b"example.com:443", "/"),
        # RFC 3986 5.2.4
        (b"/a/b/c/./../../g", "/a/g"),
    ],
)
def test_normalized_path(target: bytes, normalized: str) -> None:
    assert uri(target).normalized_path() == normalized


@given(st.text(st.sampled_from("/.a%2eEfF?"), max_size=30))
def test_normalized_path_never_climbs_and_is_stable(rest: str) -> None:
    normalized = uri(b"/" + rest.encode()).normalized_path()
    assert normalized.startswith("/")
    assert "//" not in normalized
    assert not {".", ".."} & set(normalized.split("/"))
    assert uri(quote(normalized).encode()).normalized_path() == normalized


def test_query_args_are_parsed_once() -> None:
    one = uri(b"/?a=1&a=%C3%A9&b+c")
    assert one.query_args.items() == [("a", "1"), ("a", "é"), ("b c", "")]
    assert one.query_args is one.query_args
    assert len(uri(b"/").query_args) == 0


def test_too_many_query_args_are_refused() -> None:
    with pytest.raises(RequestError) as caught:
        _ = uri(b"/?" + b"a&" * 1001).query_args
    assert caught.value.status == 400


@given(st.binary())
def test_any_target_can_be_read(target: bytes) -> None:
    one = uri(target)
    assert one.raw_path.encode("latin-1") in target or one.raw_path == "/"
    one.path.encode("utf-8")
    str(one)
    one.normalized_path()
