"""`next_request`: methods, bodies, credentials and Locations of redirects."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.client.redirect import MAX_LOCATION, next_request
from fastserve.client.request import ClientRequest, Origin
from fastserve.client.response import ClientResponse
from fastserve.errors import RedirectError, TooManyRedirects
from fastserve.http1.response_head import read_response_head

HERE = Origin("http", "a.example", 80)


def redirect(status: int, *locations: bytes) -> ClientResponse:
    lines = b"".join(b"Location: %b\r\n" % location for location in locations)
    return ClientResponse(read_response_head(b"HTTP/1.1 %d\r\n%bContent-Length: 0\r\n\r\n" % (status, lines), 100))


def followed(location: bytes, url: str = "/b/c/d;p?q", status: int = 302, origin: Origin = HERE) -> str:
    following = next_request(ClientRequest("GET", url), redirect(status, location), origin)
    assert following is not None
    assert following.origin is not None
    return f"{following.origin}{following.target}"


@pytest.mark.parametrize("status", [200, 204, 300, 304, 305, 306, 400])
def test_other_statuses_are_no_redirects(status: int) -> None:
    assert next_request(ClientRequest("GET", "/"), redirect(status, b"/x"), HERE) is None


def test_a_redirect_without_a_location_is_for_the_caller() -> None:
    assert next_request(ClientRequest("GET", "/"), redirect(302), HERE) is None


@pytest.mark.parametrize(
    ("method", "status", "becomes", "keeps_body"),
    [
        ("GET", 301, "GET", True),
        ("GET", 303, "GET", False),
        ("HEAD", 301, "HEAD", True),
        ("HEAD", 302, "HEAD", True),
        ("HEAD", 303, "HEAD", False),
        ("HEAD", 307, "HEAD", True),
        ("POST", 301, "GET", False),
        ("POST", 302, "GET", False),
        ("POST", 303, "GET", False),
        ("POST", 307, "POST", True),
        ("POST", 308, "POST", True),
        ("PUT", 301, "PUT", True),
        ("PUT", 303, "GET", False),
        ("DELETE", 302, "DELETE", True),
        ("DELETE", 303, "GET", False),
        ("PATCH", 308, "PATCH", True),
    ],
)
def test_method_and_body(method: str, status: int, becomes: str, keeps_body: bool) -> None:
    headers = {
        "Content-Type": "text/plain",
        "content-length": 4,
        "Content-Language": "de",
        "Expect": "100-continue",
        "Accept": "a",
    }
    request = ClientRequest(method, "/", headers=headers, body="text")
    following = next_request(request, redirect(status, b"/x"), HERE)
    assert following is not None
    assert following.method == becomes
    assert following.content == (b"text" if keeps_body else b"")
    assert following.content_length == len(following.content)
    assert following.headers.keys() == (list(headers) if keeps_body else ["Accept"])
    assert (request.method, request.content, len(request.headers)) == (method, b"text", 5)  # it stays as it was


@pytest.mark.parametrize("status", [307, 308])
def test_a_stream_is_not_sent_twice(status: int) -> None:
    request = ClientRequest("POST", "/", body=[b"x"])
    with pytest.raises(RedirectError, match="stream"):
        next_request(request, redirect(status, b"/x"), HERE)
    following = next_request(request, redirect(303, b"/x"), HERE)
    assert following is not None
    assert following.stream is None


SECRETS = {
    "Authorization": "s",
    "cookie": "s",
    "Proxy-Authorization": "s",
    "Host": "v.example",
    "Origin": "o",
    "Referer": "r",
}


@pytest.mark.parametrize("location", [b"/x", b"http://a.example/x", b"//A.EXAMPLE:80/x", b"HTTP://a.example"])
def test_credentials_stay_with_their_origin(location: bytes) -> None:
    following = next_request(ClientRequest("GET", "/", headers=SECRETS), redirect(302, location), HERE)
    assert following is not None
    assert following.headers.keys() == list(SECRETS)


@pytest.mark.parametrize(
    "location",
    [b"https://a.example/x", b"http://b.example/x", b"http://a.example:81/x", b"//b.example", b"http://a.example.b/"],
)
def test_credentials_do_not_follow_to_another_origin(location: bytes) -> None:
    request = ClientRequest("GET", "/", headers={**SECRETS, "Accept": "a"})
    following = next_request(request, redirect(302, location), HERE)
    assert following is not None
    assert following.headers.keys() == ["Accept"]


# RFC 3986 5.4, with its base http://a/b/c/d;p?q; fragments are dropped, and so are schemes that are not spoken.
@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"g", "http://a.example/b/c/g"),
        (b"./g", "http://a.example/b/c/g"),
        (b"g/", "http://a.example/b/c/g/"),
        (b"/g", "http://a.example/g"),
        (b"//g", "http://g/"),
        (b"?y", "http://a.example/b/c/d;p?y"),
        (b"g?y", "http://a.example/b/c/g?y"),
        (b"#s", "http://a.example/b/c/d;p?q"),
        (b"g#s", "http://a.example/b/c/g"),
        (b"g?y#s", "http://a.example/b/c/g?y"),
        (b";x", "http://a.example/b/c/;x"),
        (b"", "http://a.example/b/c/d;p?q"),
        (b".", "http://a.example/b/c/"),
        (b"..", "http://a.example/b/"),
        (b"../g", "http://a.example/b/g"),
        (b"../..", "http://a.example/"),
        (b"../../../g", "http://a.example/g"),
        (b"/./g", "http://a.example/g"),
        (b"/../g", "http://a.example/g"),
        (b"g;x=1/../y", "http://a.example/b/c/y"),
        (b"g?y/../x", "http://a.example/b/c/g?y/../x"),
        (b"caf\xc3\xa9 x", "http://a.example/b/c/caf%C3%A9%20x"),
        (b"caf\xe9", "http://a.example/b/c/caf%C3%A9"),
        (b"/a%2Fb", "http://a.example/a%2Fb"),
        (b"https://h:8443/x#f", "https://h:8443/x"),
        (b"http://h:80", "http://h/"),
        (b"http:g", "http://a.example/b/c/g"),
        (b"/x://y", "http://a.example/x://y"),
    ],
)
def test_locations(location: bytes, url: str) -> None:
    assert followed(location) == url


def test_a_location_after_options_asterisk() -> None:
    following = next_request(ClientRequest("OPTIONS", "*"), redirect(307, b"x"), HERE)
    assert following is not None
    assert following.target == "/x"


@pytest.mark.parametrize(
    "location",
    [b"ftp://a/", b"file:///etc/passwd", b"javascript:alert(1)", b"data:,x", b"mailto:a@b", b"http://", b"http:///x", b"///x",
     b"http://u:p@b/",
     b"//u@b/", b"http://b:0/", b"http://b:99999/", b"http://[::1/", b"http://b\xc3\xbc/", b"ht\ttp://b/", b"/a\x00",
     b"/a\x7f", b"http://b /"],
)  # fmt: skip
def test_locations_that_are_refused(location: bytes) -> None:
    with pytest.raises(RedirectError) as caught:
        followed(location)
    assert caught.value.phase == "redirect"
    assert str(caught.value).isprintable()


def test_a_location_that_is_too_long_or_given_twice() -> None:
    assert followed(b"/" + b"x" * (MAX_LOCATION - 1))
    with pytest.raises(RedirectError, match="more than"):
        followed(b"/" + b"x" * MAX_LOCATION)
    with pytest.raises(RedirectError, match="2 Locations"):
        next_request(ClientRequest("GET", "/"), redirect(302, b"/a", b"/b"), HERE)


def test_too_many_redirects() -> None:
    request = ClientRequest("GET", "/")
    assert next_request(request, redirect(302, b"/x"), HERE, followed=2, max_redirects=3) is not None
    with pytest.raises(TooManyRedirects) as caught:
        next_request(request, redirect(302, b"/x"), HERE, followed=3, max_redirects=3)
    assert isinstance(caught.value, RedirectError)
    assert next_request(request, redirect(200), HERE, followed=3, max_redirects=3) is None


@given(st.binary(max_size=40), st.sampled_from([301, 302, 303, 307, 308]))
@settings(max_examples=400, deadline=None)
def test_any_location_is_followed_or_refused(location: bytes, status: int) -> None:
    request = ClientRequest("POST", "/a/b?c", headers=SECRETS, body="x")
    for prefix in (b"", b"http://", b"//", b"/", b"http://a.example"):
        try:
            following = next_request(request, redirect(status, prefix + location), HERE)
        except RedirectError:
            continue
        assert following is not None
        assert following.origin is not None
        assert following.target.isascii()
        assert following.target.isprintable()
        assert " " not in following.target
        assert following.target[0] == "/"
        assert ("cookie" in following.headers) is (following.origin == HERE)
