"""`read_request_line`, `field_pairs` and `read_framing`: each rule that the parser leaves to us, with its section."""

from __future__ import annotations

import pytest

from fastserve.errors import RequestError
from fastserve.http1.head import (
    FRAMING_NAMES,
    METHODS,
    PLAIN,
    Framing,
    RequestLine,
    field_pairs,
    read_framing,
    read_request_line,
)

HOST = (b"Host", b"a")


def refusal_of_line(line: bytes) -> int:
    with pytest.raises(RequestError) as refusal:
        read_request_line(line)
    return refusal.value.status


def refusal_of_fields(*pairs: tuple[bytes, bytes], minor: int = 1, authority: bytes | None = None) -> int:
    with pytest.raises(RequestError) as refusal:
        read_framing(pairs, minor, authority)
    return refusal.value.status


def framing(*pairs: tuple[bytes, bytes], minor: int = 1, authority: bytes | None = None) -> Framing:
    return read_framing((HOST, *pairs), minor, authority)


# The request line (RFC 9112 3)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1", RequestLine("GET", b"/", 1, None)),
        (b"GET / HTTP/1.0", RequestLine("GET", b"/", 0, None)),
        (b"POST /a/b?c=d&e HTTP/1.1", RequestLine("POST", b"/a/b?c=d&e", 1, None)),
        (b"GET //a HTTP/1.1", RequestLine("GET", b"//a", 1, None)),
        (b"GET /http://b/ HTTP/1.1", RequestLine("GET", b"/http://b/", 1, None)),
        (b"OPTIONS * HTTP/1.1", RequestLine("OPTIONS", b"*", 1, None)),
        (b"OPTIONS / HTTP/1.1", RequestLine("OPTIONS", b"/", 1, None)),
    ],
)
def test_origin_and_asterisk_form(line: bytes, expected: RequestLine) -> None:
    assert read_request_line(line) == expected


@pytest.mark.parametrize(
    ("target", "origin", "authority"),
    [
        (b"http://b/p?q", b"/p?q", b"b"),
        (b"http://b", b"/", b"b"),
        (b"http://b?q", b"/?q", b"b"),
        (b"http://b:8080/", b"/", b"b:8080"),
        (b"http://[::1]:80/", b"/", b"[::1]:80"),
        (b"HTTPS://B/P", b"/P", b"B"),
        (b"http://b/p@q", b"/p@q", b"b"),
        (b"http://b//c", b"//c", b"b"),
    ],
)
def test_absolute_form(target: bytes, origin: bytes, authority: bytes) -> None:
    # RFC 9112 3.2.2
    assert read_request_line(b"GET " + target + b" HTTP/1.1") == RequestLine("GET", origin, 1, authority)


def test_options_of_a_whole_server_in_absolute_form() -> None:
    # RFC 9112 3.2.4: without a path it is '*'
    assert read_request_line(b"OPTIONS http://b HTTP/1.1").target == b"*"
    assert read_request_line(b"OPTIONS http://b/ HTTP/1.1").target == b"/"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.1 x",
        b"GET /a b HTTP/1.1",
        b"GET HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
    ],
)
def test_single_spaces_and_three_parts(line: bytes) -> None:
    assert refusal_of_line(line) == 400


@pytest.mark.parametrize(
    ("version", "status"),
    [
        (b"HTTP/0.9", 505),
        (b"HTTP/1.2", 505),
        (b"HTTP/2.0", 505),
        (b"HTTP/1.10", 505),
        (b"HTTP/01.1", 505),
        (b"HTTP/11", 400),
        (b"HTTP/1", 400),
        (b"HTTP/1.1\t", 400),
        (b"http/1.1", 400),
        (b"Http/1.1", 400),
        (b"RTSP/1.0", 400),
        (b"ICE/1.0", 400),
        (b"HTTP/1.1x", 400),
        (b"HTTP/\xb9.1", 400),
    ],
)
def test_versions_that_are_not_served(version: bytes, status: int) -> None:
    # RFC 9110 15.6.6
    assert refusal_of_line(b"GET / " + version) == status


@pytest.mark.parametrize("method", [b"get", b"Get", b"BREW", b"CONNECT", b"SOURCE", b"DESCRIBE", b"PRI"])
def test_methods_that_are_not_served(method: bytes) -> None:
    # RFC 9110 9.1: case-sensitive; 15.6.2: 501
    assert refusal_of_line(method + b" / HTTP/1.1") == 501


@pytest.mark.parametrize("method", [b"", b"GET\x00", b"\xff", b"GET/", b"G@T", b"\tGET"])
def test_what_is_no_method_at_all(method: bytes) -> None:
    # RFC 9110 5.6.2
    assert refusal_of_line(method + b" / HTTP/1.1") == 400


def test_a_refused_method_is_told_without_control_characters() -> None:
    with pytest.raises(RequestError) as refusal:
        read_request_line(b"A\x1b[2J" + b"x" * 1000 + b" / HTTP/1.1")
    assert refusal.value.reason.isprintable()
    assert len(refusal.value.reason) < 300


@pytest.mark.parametrize("method", sorted(METHODS))
def test_methods_that_are_served(method: bytes) -> None:
    assert read_request_line(method + b" / HTTP/1.1").method == method.decode()


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"a",
        b"a:80",
        b"?q",
        b"#",
        b"/#",
        b"/a#b",
        b"/?a#b",
        b"http://b/#f",
        b"http://",
        b"http:///p",
        b"http://?q",
        b"http:/b",
        b"http://u@b/",
        b"http://u:p@b/",
        b"http://@/",
        b"ftp://b/",
        b"ws://b/",
        b"//b/#",
        b"**",
    ],
)
def test_targets_that_are_refused(target: bytes) -> None:
    # RFC 9112 3.2; RFC 9110 4.2.1 and 4.2.4
    assert refusal_of_line(b"GET " + target + b" HTTP/1.1") == 400


# Field lines


def test_field_pairs_keep_order_spelling_and_repetition() -> None:
    head = b"GET / HTTP/1.1\r\nhOsT: a\r\nX:1\r\nx: \t2 \t\r\nE:\r\nC: d:e\r\n\r\n"
    assert field_pairs(head) == [(b"hOsT", b"a"), (b"X", b"1"), (b"x", b"2"), (b"E", b""), (b"C", b"d:e")]


# Host (RFC 9112 3.2)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a",
        b"a.example",
        b"a:80",
        b"a:",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[::1]:80",
        b"a_b",
        b"xn--a",
        b"%41",
        b"[v1.x]",
    ],
)
def test_hosts_that_are_valid(host: bytes) -> None:
    assert read_framing([(b"Host", host)], 1, None).host == host


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a/b",
        b"u@a",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"::1",
        b"[::1",
        b"[a]b",
        b"a:b",
        b"a:80:80",
        b"a:-1",
        b"a:123456",
        b"%zz",
        b"%4",
        b"\xe9",
        b'"a"',
        b"<a>",
        b"a\x00",
        b"a\n",
        b"http://a",
    ],
)
def test_hosts_that_are_refused(host: bytes) -> None:
    assert refusal_of_fields((b"Host", host)) == 400
    assert refusal_of_fields((b"Host", host), minor=0) == 400
    assert refusal_of_fields(HOST, authority=host) == 400


def test_host_is_there_once() -> None:
    assert refusal_of_fields() == 400
    assert refusal_of_fields(HOST, HOST) == 400
    assert refusal_of_fields(HOST, (b"hOST", b"b")) == 400
    assert refusal_of_fields((b"Host", b""), (b"Host", b"")) == 400


def test_host_may_be_missing_on_http_1_0() -> None:
    assert read_framing([], 0, None).host is None


def test_the_authority_of_the_target_wins() -> None:
    # RFC 9112 3.2.2; Host must be there and valid all the same
    assert framing(authority=b"b:80").host == b"b:80"
    assert read_framing([], 0, b"b").host == b"b"
    assert refusal_of_fields(authority=b"b") == 400
    assert refusal_of_fields((b"Host", b"a b"), authority=b"b") == 400


# Bodies (RFC 9112 6)


@pytest.mark.parametrize(
    ("value", "length"), [(b"0", 0), (b"5", 5), (b"005", 5), (b"5 \t", 5), (b"0" * 9000 + b"7", 7)]
)
def test_content_length(value: bytes, length: int) -> None:
    found = framing((b"content-LENGTH", value))
    assert (found.content_length, found.has_body, found.chunked) == (length, length > 0, False)


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"chunked \t"])
def test_chunked(value: bytes) -> None:
    found = framing((b"transfer-ENCODING", value))
    assert (found.chunked, found.has_body) == (True, True)


@pytest.mark.parametrize(
    "value", [b"gzip", b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked", b"", b"chunked;q=1"]
)
def test_transfer_codings_that_are_not_served(value: bytes) -> None:
    assert refusal_of_fields(HOST, (b"Transfer-Encoding", value)) == 501


def test_transfer_encoding_twice_and_on_http_1_0() -> None:
    chunked = (b"Transfer-Encoding", b"chunked")
    assert refusal_of_fields(HOST, chunked, (b"transfer-encoding", b"chunked")) == 400
    assert refusal_of_fields(HOST, chunked, minor=0) == 400  # RFC 9112 6.1
    assert refusal_of_fields(HOST, (b"Transfer-Encoding", b"gzip"), minor=0) == 400


# Connection (RFC 9110 7.6.1, RFC 9112 9.3)


@pytest.mark.parametrize(
    ("values", "minor", "keeps"),
    [
        ([], 1, True),
        ([], 0, False),
        ([b"keep-alive"], 1, True),
        ([b"keep-alive"], 0, True),
        ([b"Keep-Alive"], 0, True),
        ([b"x, keep-alive"], 0, True),
        ([b"close"], 1, False),
        ([b"CLOSE"], 1, False),
        ([b"close "], 1, False),
        ([b"x,close"], 1, False),
        ([b"\tclose\t,x"], 1, False),
        ([b"x", b"close"], 1, False),
        ([b"keep-alive, close"], 1, False),
        ([b"keep-alive", b"close"], 0, False),
        ([b"closed"], 1, True),
        ([b"not close"], 1, True),
        ([b"keep-alive-not"], 0, False),
        ([b""], 1, True),
    ],
)
def test_connection_is_a_list(values: list[bytes], minor: int, keeps: bool) -> None:
    fields = [(b"Connection" if i % 2 else b"connection", value) for i, value in enumerate(values)]
    assert framing(*fields, minor=minor).keep_alive is keeps


def test_proxy_connection_is_read_as_the_parser_reads_it() -> None:
    assert not framing((b"Proxy-Connection", b"close")).keep_alive


# Upgrade (RFC 9110 7.8)


def test_upgrade_takes_both_fields_and_http_1_1() -> None:
    token, protocol = (b"Connection", b"x, Upgrade"), (b"upgrade", b"websocket")
    assert framing(token, protocol).upgrade
    assert not framing(token).upgrade
    assert not framing(protocol).upgrade
    assert not framing(token, protocol, minor=0).upgrade


def test_upgrade_with_a_body_is_refused() -> None:
    upgrade = [HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"x")]
    assert refusal_of_fields(*upgrade, (b"Content-Length", b"1")) == 400
    assert refusal_of_fields((b"Content-Length", b"1"), *upgrade) == 400
    assert refusal_of_fields(*upgrade, (b"Transfer-Encoding", b"chunked")) == 400
    assert read_framing([*upgrade, (b"Content-Length", b"0")], 1, None).upgrade


# Expect (RFC 9110 10.1.1)


def test_expect() -> None:
    assert framing((b"Expect", b"100-continue")).expect_continue
    assert framing((b"expect", b"100-Continue ")).expect_continue
    assert refusal_of_fields(HOST, (b"Expect", b"200-ok")) == 417
    assert refusal_of_fields(HOST, (b"Expect", b"100-continue, x")) == 417
    assert not framing((b"Expect", b"100-continue"), minor=0).expect_continue
    assert not framing((b"Expect", b"200-ok"), minor=0).expect_continue


def test_names_that_frame_are_lower_case_and_plain_is_what_most_requests_are() -> None:
    assert all(name == name.lower() for name in FRAMING_NAMES)
    assert framing()._replace(host=None) == PLAIN
    assert not PLAIN.has_body
