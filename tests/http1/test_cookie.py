from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.errors import ResponseError
from fastserve.http1.cookie import Cookie, parse_cookies
from fastserve.http1.fields import is_field_value


@pytest.mark.parametrize(
    ("values", "cookies"),
    [
        ([], {}),
        ([""], {}),
        (["a=1"], {"a": "1"}),
        (["a=1; b=2"], {"a": "1", "b": "2"}),
        (["a=1;b=2"], {"a": "1", "b": "2"}),
        ([" \ta = 1\t;;  ; b=2 ;"], {"a": "1", "b": "2"}),
        (["a=1; a=2", "a=3; b=4"], {"a": "1", "b": "4"}),
        (["a=; a=2"], {"a": ""}),
        (["a=x=y=="], {"a": "x=y=="}),
        (['a="x y"; b=""; c="; d="e'], {"a": "x y", "b": "", "c": '"', "d": '"e'}),
        (['a=""x""'], {"a": '"x"'}),
        (["a=1, b=2"], {"a": "1, b=2"}),
        (["naked; =nameless; = ; a=1"], {"a": "1"}),
        (["==__Host-id=x; a=1"], {"a": "1"}),
        (["A=1; a=2"], {"A": "1", "a": "2"}),
        (["a=%41+b"], {"a": "%41+b"}),
        (['a="x\\"y"'], {"a": 'x\\"y'}),
        (["a[b]=1; caf\xe9=\xe9"], {"a[b]": "1", "caf\xe9": "\xe9"}),
        (["$Version=1; a=1"], {"$Version": "1", "a": "1"}),
    ],
)
def test_parse(values: list[str], cookies: dict[str, str]) -> None:
    assert parse_cookies(values) == cookies
    assert parse_cookies(iter(values)) == cookies


def test_parse_many() -> None:
    assert len(parse_cookies(["; ".join(f"c{i}={i}" for i in range(10_000))])) == 10_000


@given(st.lists(st.text(st.characters(max_codepoint=255))))
def test_parse_never_fails(values: list[str]) -> None:
    assert all(parse_cookies(values))


@pytest.mark.parametrize(
    ("cookie", "rendered"),
    [
        (Cookie("a", "1"), "a=1; Path=/"),
        (Cookie("a"), "a=; Path=/"),
        (Cookie("a", "1", path=None), "a=1"),
        (Cookie("a", '"quoted"'), 'a="quoted"; Path=/'),
        (Cookie("a", "1", path="/x y/%20"), "a=1; Path=/x y/%20"),
        (Cookie("a", "1", domain="sub.example.com"), "a=1; Path=/; Domain=sub.example.com"),
        (Cookie("a", "1", domain="127.0.0.1"), "a=1; Path=/; Domain=127.0.0.1"),
        (Cookie("a", "1", max_age=0), "a=1; Path=/; Max-Age=0"),
        (
            Cookie("a", "1", expires=datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=UTC)),
            "a=1; Path=/; Expires=Mon, 03 Feb 2031 04:05:06 GMT",
        ),
        (
            Cookie("a", "1", expires=datetime(2031, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))),
            "a=1; Path=/; Expires=Tue, 31 Dec 2030 23:00:00 GMT",
        ),
        (Cookie("a", "1", same_site="lax"), "a=1; Path=/; SameSite=Lax"),
        (Cookie("a", "1", same_site="strict"), "a=1; Path=/; SameSite=Strict"),
        (Cookie("__Host-a", "1", secure=True), "__Host-a=1; Path=/; Secure"),
        (Cookie("__Secure-a", "1", secure=True, path=None), "__Secure-a=1; Secure"),
        (
            Cookie(
                "a",
                "1",
                domain="example.com",
                max_age=60,
                expires=datetime(1601, 1, 1, tzinfo=UTC),
                secure=True,
                http_only=True,
                same_site="none",
                partitioned=True,
            ),
            "a=1; Path=/; Domain=example.com; Max-Age=60; Expires=Mon, 01 Jan 1601 00:00:00 GMT; "
            "Secure; HttpOnly; SameSite=None; Partitioned",
        ),
    ],
)
def test_render(cookie: Cookie, rendered: str) -> None:
    assert cookie.render() == rendered


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("", {}, "is not a token"),
        ("a b", {}, "is not a token"),
        ("a=b", {}, "is not a token"),
        ("a;b", {}, "is not a token"),
        ("a\r\nX: y", {}, r"'a\\r\\nX: y' is not a token"),
        ("é", {}, "is not a token"),
        ("a", {"value": "x y"}, "cookie a: the value"),
        ("a", {"value": "x;y"}, "cookie a: the value"),
        ("a", {"value": "x,y"}, "cookie a: the value"),
        ("a", {"value": 'x"y'}, "cookie a: the value"),
        ("a", {"value": '"x'}, "cookie a: the value"),
        ("a", {"value": '"'}, "cookie a: the value"),
        ("a", {"value": '"x y"'}, "cookie a: the value"),
        ("a", {"value": "x\\y"}, "cookie a: the value"),
        ("a", {"value": "x\r\nSet-Cookie: b=1"}, "cookie a: the value"),
        ("a", {"value": "x\n"}, "cookie a: the value"),
        ("a", {"value": "x\x00"}, "cookie a: the value"),
        ("a", {"value": "\x7f"}, "cookie a: the value"),
        ("a", {"value": "é"}, "cookie a: the value"),
        ("a", {"value": "x" * 4096}, "over 4096 bytes"),
        ("a", {"path": ""}, "path"),
        ("a", {"path": "relative"}, "path"),
        ("a", {"path": "/x; Domain=evil.example"}, "path"),
        ("a", {"path": "/x\r\nA: b"}, "path"),
        ("a", {"path": "/x\n"}, "path"),
        ("a", {"path": "/x "}, "path"),
        ("a", {"path": "/é"}, "path"),
        ("a", {"path": "/" + "x" * 1024}, "path"),
        ("a", {"domain": ""}, "domain"),
        ("a", {"domain": ".example.com"}, "domain"),
        ("a", {"domain": "example.com."}, "domain"),
        ("a", {"domain": "example.com:80"}, "domain"),
        ("a", {"domain": "a..b"}, "domain"),
        ("a", {"domain": "-a.example"}, "domain"),
        ("a", {"domain": "example.com; Secure"}, "domain"),
        ("a", {"domain": "example.com\n"}, "domain"),
        ("a", {"domain": "bücher.example"}, "domain"),
        ("a", {"domain": "a." * 130 + "example"}, "domain"),
        ("a", {"domain": "a" * 64}, "domain"),
        ("a", {"max_age": -1}, "max_age is -1"),
        ("a", {"max_age": 1.5}, "max_age is 1.5"),
        ("a", {"expires": datetime(2031, 1, 1)}, "no time zone"),
        ("a", {"expires": datetime(1600, 12, 31, tzinfo=UTC)}, "before 1601"),
        ("a", {"expires": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "not a year"),
        ("a", {"same_site": "Lax"}, "same_site 'Lax'"),
        ("a", {"same_site": ""}, "same_site ''"),
        ("a", {"same_site": "none"}, "same_site 'none' needs secure"),
        ("a", {"partitioned": True}, "partitioned needs secure"),
        ("__Secure-a", {}, "needs secure"),
        ("__Host-a", {}, "needs secure"),
        ("__hOsT-a", {}, "needs secure"),
        ("__SECURE-a", {}, "needs secure"),
        ("__Host-a", {"secure": True, "path": "/x"}, "__Host- needs path '/'"),
        ("__Host-a", {"secure": True, "path": None}, "__Host- needs path '/'"),
        ("__host-a", {"secure": True, "domain": "example.com"}, "__Host- needs path '/' and no domain"),
    ],
)
def test_refused_at_construction(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ResponseError, match=text) as caught:
        Cookie(name, **options)
    assert str(caught.value).isprintable()


def test_a_refused_value_is_not_shown() -> None:
    with pytest.raises(ResponseError) as caught:
        Cookie("session", "the secret")
    assert "secret" not in str(caught.value)


def test_replace_is_checked_too() -> None:
    cookie = Cookie("a", "1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        cookie.value = "\r\n"  # type: ignore[misc]
    with pytest.raises(ResponseError):
        dataclasses.replace(cookie, value="\r\n")


def test_value_at_the_limit() -> None:
    assert Cookie("a", "x" * 4095).render().startswith("a=xxx")


def test_expired() -> None:
    gone = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert Cookie.expired("a").render() == f"a=; Path=/; {gone}"
    assert Cookie.expired("a", "/x", "example.com").render() == f"a=; Path=/x; Domain=example.com; {gone}"
    assert Cookie.expired("__Host-a").render() == f"__Host-a=; Path=/; {gone}; Secure"
    assert Cookie.expired("__secure-a").render() == f"__secure-a=; Path=/; {gone}; Secure"
    with pytest.raises(ResponseError):
        Cookie.expired("a b")


_octets = "".join(chr(i) for i in range(0x21, 0x7F) if chr(i) not in '",;\\')


@given(st.text(st.sampled_from(_octets)))
def test_what_is_set_comes_back(value: str) -> None:
    rendered = Cookie("name", value, http_only=True).render()
    assert is_field_value(rendered)
    assert parse_cookies([rendered.partition(";")[0]]) == {"name": value}
    # The standard library reads it as the same cookie.
    assert SimpleCookie(rendered)["name"].value == value


@given(st.datetimes(datetime(1601, 1, 1), timezones=st.just(UTC)))
def test_expires_is_an_imf_fixdate(expires: datetime) -> None:
    rendered = Cookie("a", expires=expires).render()
    assert rendered == f"a=; Path=/; Expires={format_datetime(expires, usegmt=True)}"


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_whatever_is_let_in_can_be_sent(name: str, value: str, path: str, domain: str) -> None:
    try:
        rendered = Cookie(name, value, path="/" + path, domain=domain).render()
    except ResponseError:
        return
    assert is_field_value(rendered)
    assert rendered.count(";") == 2
