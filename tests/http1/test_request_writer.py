"""`RequestWriter`: literal heads, what is refused, and what is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.errors import ClientError, InvalidRequest
from fastserve.http1.head_memory import HeadMemory
from fastserve.http1.headers import Headers
from fastserve.http1.parser import ParserState, RequestParser
from fastserve.http1.request import Request
from fastserve.http1.request_writer import MAX_CACHED_HEAD, MAX_CACHED_HEADS, RequestWriter, asks_to_close


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers([(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs])


def parsed(data: bytes) -> Request:
    """What our own server reads from `data`: one whole request, and nothing else."""
    parser = RequestParser(Request(), HeadMemory(), 1 << 20, 1000, 1 << 20)
    position = 0
    while position < len(data):
        position = parser.feed(data, position)
        if parser.state is ParserState.COMPLETE:
            break
    assert parser.state is ParserState.COMPLETE
    assert position == len(data)
    return parser.request


def test_a_plain_head() -> None:
    writer = RequestWriter("a.example:8080")
    head = writer.plain_head("GET", "/p?q=1")
    assert head == b"GET /p?q=1 HTTP/1.1\r\nHost: a.example:8080\r\nUser-Agent: fastserve\r\n\r\n"
    assert writer.plain_head("GET", "/p?q=1") is head


def test_a_head_with_headers_and_a_length() -> None:
    head = RequestWriter("a", "x/1").head(
        "POST", "/", headers(("Accept", "*/*"), ("X", "1"), ("x", "2")), content_length=5
    )
    assert head == (
        b"POST / HTTP/1.1\r\nHost: a\r\nUser-Agent: x/1\r\nAccept: */*\r\nX: 1\r\nx: 2\r\nContent-Length: 5\r\n\r\n"
    )


def test_a_chunked_body() -> None:
    head = RequestWriter("a", None).head("PUT", "/", chunked=True)
    assert head == b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_own_host_and_user_agent_win() -> None:
    head = RequestWriter("a").head("GET", "/", headers(("X", "1"), ("user-agent", "me"), ("HOST", "b:1")))
    assert head == b"GET / HTTP/1.1\r\nHost: b:1\r\nX: 1\r\nuser-agent: me\r\n\r\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_methods_that_enclose_say_that_it_is_nothing(method: str) -> None:
    writer = RequestWriter("a", None)
    assert writer.plain_head(method, "/").endswith(b"Host: a\r\nContent-Length: 0\r\n\r\n")
    assert writer.head(method, "/", content_length=0) == writer.plain_head(method, "/")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "x-own"])
def test_other_methods_without_a_body_have_no_length(method: str) -> None:
    head = RequestWriter("a", None).head(method, "/", content_length=0)
    assert head == method.encode() + b" / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_close() -> None:
    writer = RequestWriter("a", None)
    assert writer.head("GET", "/", close=True) == b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert writer.head("GET", "/") == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    own = headers(("Connection", "x, Close"))
    assert writer.head("GET", "/", own) == b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"
    assert asks_to_close(own)
    assert not asks_to_close(headers(("Connection", "closed, x"), ("X", "close")))


@pytest.mark.parametrize(
    "target", ["/", '/a/b;c=1?x=[]|\\^`{}"<>', "//a", "http://a.example/x?y", "HTTPS://a:1", "/%00"]
)
def test_targets(target: str) -> None:
    assert RequestWriter("a").plain_head("GET", target).startswith(b"GET " + target.encode() + b" HTTP/1.1\r\n")


def test_asterisk_is_for_options() -> None:
    assert RequestWriter("a").plain_head("OPTIONS", "*").startswith(b"OPTIONS * HTTP/1.1\r\n")
    with pytest.raises(InvalidRequest):
        RequestWriter("a").plain_head("GET", "*")


@pytest.mark.parametrize(
    "target",
    ["", "a", "/a b", "/a\r\nX: 1", "/a\n", "/a\rb", "/\x00", "/#f", "/caf\xe9", "/\u2028", "ftp://a/", "http://", "http://u@a/",
     "http://a\r\n/", "http://a/ b", "a:80", "/a\x7f", "/\t"],
)  # fmt: skip
def test_targets_that_are_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        RequestWriter("a").plain_head("GET", target)


@pytest.mark.parametrize(
    "method", ["", "GET ", "G T", "GET\r\n", "G\x00", "G:", "GÉT", "CONNECT", "GET / HTTP/1.1\r\nX: 1\r\n\r\nGET"]
)
def test_methods_that_are_refused(method: str) -> None:
    with pytest.raises(InvalidRequest, match="method"):
        RequestWriter("a").plain_head(method, "/")


@pytest.mark.parametrize("host", ["a b", "a\r\n", "a/", "a\x00", "b\xfccher.example", "a:123456", "u@a", "[::1"])
def test_hosts_that_are_refused(host: str) -> None:
    with pytest.raises(InvalidRequest, match="host"):
        RequestWriter(host)
    with pytest.raises(InvalidRequest):
        RequestWriter("a").head("GET", "/", Headers([(b"Host", host.encode("latin-1"))]))


@pytest.mark.parametrize(
    "pair",
    [
        (b"X", b"a\r\nY: b"),
        (b"X", b"a\nb"),
        (b"X", b"a\rb"),
        (b"X", b"a\x00b"),
        (b"X", b" a"),
        (b"X: a\r\nY", b"b"),
        (b"X ", b"b"),
        (b"", b"b"),
        (b"Host", b"a\r\nX: 1"),
        (b"Content-Length", b"0\r\nX: 1"),
        (b"Transfer-Encoding", b"chunked\r\nX: 1"),
        (b"User-Agent", b"a\r\n"),
    ],
)
def test_no_pair_splits_a_head_however_it_was_made(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RequestWriter("a").head("GET", "/", Headers([pair]))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ClientError)
    assert str(caught.value).isprintable()


def test_a_user_agent_that_splits_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        RequestWriter("a", "x\r\nY: 1")


def test_a_true_length_is_written_once() -> None:
    writer = RequestWriter("a", None)
    own = headers(("content-length", "5"), ("X", "1"))
    expected = b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\nContent-Length: 5\r\n\r\n"
    assert writer.head("POST", "/", own, content_length=5) == expected
    with pytest.raises(InvalidRequest, match="Content-Length says 5"):
        writer.head("POST", "/", own, content_length=6)
    with pytest.raises(InvalidRequest, match="Content-Length says 5"):
        writer.head("POST", "/", own)
    with pytest.raises(InvalidRequest, match="Content-Length"):
        writer.head("POST", "/", own, chunked=True)
    none = headers(("Content-Length", "0"))
    assert writer.head("GET", "/", none) == b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("value", ["", "-1", "+1", "1,1", "0x1", "1" * 19, "\xb2"])
def test_a_length_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest):
        RequestWriter("a").head("POST", "/", headers(("Content-Length", value)), content_length=1)


def test_two_lengths_that_differ_and_two_hosts_are_refused() -> None:
    writer = RequestWriter("a")
    with pytest.raises(InvalidRequest):
        writer.head("POST", "/", headers(("Content-Length", "1"), ("Content-Length", "2")), content_length=1)
    with pytest.raises(InvalidRequest):
        writer.head("GET", "/", headers(("Host", "a"), ("Host", "b")))


def test_transfer_encoding_is_written_once_and_only_for_a_stream() -> None:
    writer = RequestWriter("a", None)
    own = headers(("Transfer-Encoding", "Chunked"))
    assert writer.head("PUT", "/", own, chunked=True) == writer.head("PUT", "/", chunked=True)
    with pytest.raises(InvalidRequest):
        writer.head("PUT", "/", own, content_length=1)
    with pytest.raises(InvalidRequest):
        writer.head("GET", "/", own)
    for value in ("gzip, chunked", "gzip", "identity"):
        with pytest.raises(InvalidRequest):
            writer.head("PUT", "/", headers(("Transfer-Encoding", value)), chunked=True)
    with pytest.raises(InvalidRequest):
        writer.head("PUT", "/", chunked=True, content_length=3)
    with pytest.raises(InvalidRequest):
        writer.head("PUT", "/", content_length=-3)


def test_trace_takes_no_body() -> None:
    for arguments in ({"content_length": 1}, {"chunked": True}):
        with pytest.raises(InvalidRequest, match="TRACE"):
            RequestWriter("a").head("TRACE", "/", **arguments)


def test_heads_that_are_kept_are_bounded() -> None:
    writer = RequestWriter("a")
    for i in range(MAX_CACHED_HEADS + 5):
        writer.plain_head("GET", f"/{i}")
        assert len(writer.plain_heads) <= MAX_CACHED_HEADS
        assert len(writer._prefixes) <= MAX_CACHED_HEADS
    writer.plain_heads.clear()
    writer._prefixes.clear()
    writer.plain_head("GET", "/" + "x" * MAX_CACHED_HEAD)
    assert not writer.plain_heads
    assert not writer._prefixes


def test_one_set_of_headers_is_rendered_once_for_all_lengths() -> None:
    writer = RequestWriter("a")
    for length in range(10):
        writer.head("POST", "/", headers(("X", "1")), content_length=length)
    assert len(writer._prefixes) == 1
    writer.head("POST", "/", headers(("X", "2")))
    writer.head("POST", "/", headers(("X", "1")), close=True)
    assert len(writer._prefixes) == 3


def test_headers_that_change_are_seen() -> None:
    writer = RequestWriter("a")
    own = headers(("X", "1"))
    writer.head("GET", "/", own)
    own.set("X", 2)
    assert b"X: 2\r\n" in writer.head("GET", "/", own)


tokens = st.text("!#$%&'*+.^_`|~abcXYZ019-", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("host", "te", "expect", "upgrade")
)
field_values = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=10
).filter(lambda value: not any("\x7f" <= character <= "\x9f" for character in value))


@given(
    st.sampled_from(["GET", "POST", "DELETE", "PATCH"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20),
    st.lists(st.tuples(tokens, field_values), max_size=5),
    st.binary(max_size=20),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_our_own_server_reads_what_was_meant(
    method: str, path: str, pairs: list[tuple[str, str]], body: bytes, chunked: bool
) -> None:
    writer = RequestWriter("a.example")
    length = None if chunked else len(body)
    data = writer.head(method, "/" + path, headers(*pairs), content_length=length, chunked=chunked)
    assert writer.head(method, "/" + path, headers(*pairs), content_length=length, chunked=chunked) == data
    if chunked:
        data += (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    else:
        data += body
    request = parsed(data)
    assert (request.method, request.target, request.body) == (method, b"/" + path.encode(), body)
    assert request.host == "a.example"
    for name, value in pairs:
        assert value in request.headers.get_all(name)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_anything_is_one_head_or_refused(method: str, target: str, name: str, value: str) -> None:
    try:
        own = headers((name, value))
    except UnicodeEncodeError:
        return
    for arguments in ((method, "/"), ("GET", target), ("GET", "/", own)):
        try:
            head = RequestWriter("a").head(*arguments)
        except InvalidRequest:
            continue
        assert head.count(b"\r\n\r\n") == 1
        assert head.endswith(b"\r\n\r\n")
        assert head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n") <= 6
