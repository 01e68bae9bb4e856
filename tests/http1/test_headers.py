from __future__ import annotations

import enum
import http

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.errors import FastserveError, ResponseError
from fastserve.http1.headers import Headers

WIRE = [
    (b"Host", b"example.com"),
    (b"Accept", b"text/html"),
    (b"X-Trace", b"  \tone two\t "),
    (b"aCCept", b"*/*"),
    (b"X-Name", b"caf\xe9"),
    (b"X-Empty", b" \t"),
]


def test_reads_without_regard_to_case() -> None:
    headers = Headers(WIRE)
    assert headers.get("host") == headers.get("HOST") == headers["Host"] == "example.com"
    assert headers.get("accept") == "text/html"
    assert headers.get_all("ACCEPT") == ["text/html", "*/*"]
    assert "hOsT" in headers
    assert "Cookie" not in headers
    assert 7 not in headers


def test_absent_names() -> None:
    headers = Headers(WIRE)
    assert headers.get("Cookie") is None
    assert headers.get("Cookie", "none") == "none"
    assert headers.get_all("Cookie") == []
    with pytest.raises(KeyError, match="Cookie"):
        headers["Cookie"]
    with pytest.raises(KeyError, match="Cookie"):
        del headers["Cookie"]
    headers.discard("Cookie")
    assert headers.raw == WIRE


def test_values_lose_outer_white_space_when_read_and_only_then() -> None:
    headers = Headers(WIRE)
    assert headers["x-trace"] == "one two"
    assert headers["x-empty"] == ""
    assert "X-Empty" in headers
    assert ("X-Trace", "one two") in headers.items()
    assert headers.raw == WIRE


def test_only_space_and_tab_are_white_space() -> None:
    # NO-BREAK SPACE (0xa0) and NEXT LINE (0x85) are obs-text in a field value.
    assert Headers([(b"A", b"\xa0x\x85")])["a"] == "\xa0x\x85"


def test_surface_is_latin_1() -> None:
    assert Headers(WIRE)["x-name"] == "café"


def test_names_fold_in_ascii_only() -> None:
    headers = Headers([(b"k", b"1"), (b"\xc0", b"2")])
    assert "\u212a" not in headers  # KELVIN SIGN, whose lower case is "k"
    assert headers.get("\u212a") is None
    assert "\xe0" not in headers
    assert headers["\xc0"] == "2"


def test_iteration_goes_by_field_line() -> None:
    headers = Headers(WIRE)
    assert list(headers) == headers.keys() == ["Host", "Accept", "X-Trace", "aCCept", "X-Name", "X-Empty"]
    assert headers.values() == ["example.com", "text/html", "one two", "*/*", "café", ""]
    assert headers.items() == list(zip(headers.keys(), headers.values(), strict=True))
    assert len(headers) == 6
    assert not Headers()


def test_the_pairs_given_are_not_changed() -> None:
    pairs = [(b"A", b"1")]
    headers = Headers(pairs)
    headers["B"] = "2"
    assert pairs == [(b"A", b"1")]
    assert Headers(iter(pairs))["a"] == "1"


def test_set_replaces_all_in_the_place_of_the_first() -> None:
    headers = Headers(WIRE)
    headers.set("ACCEPT", "image/png")
    assert headers.raw == [WIRE[0], (b"ACCEPT", b"image/png"), WIRE[2], WIRE[4], WIRE[5]]
    headers["New"] = "x"
    assert headers.raw[-1] == (b"New", b"x")


def test_add_appends() -> None:
    headers = Headers()
    headers.add("Set-Cookie", "a=1")
    headers.add("set-cookie", "b=2")
    assert headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert headers.raw == [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]


def test_delete_removes_all() -> None:
    headers = Headers(WIRE)
    del headers["accept"]
    headers.discard("HOST")
    assert headers.keys() == ["X-Trace", "X-Name", "X-Empty"]


def test_reads_are_fresh_after_each_change() -> None:
    headers = Headers([(b"A", b"1")])
    assert headers.get("b") is None
    headers.add("B", "2")
    assert headers["b"] == "2"
    headers.set("b", "3")
    assert headers.get_all("b") == ["3"]
    headers.set("C", "4")
    assert headers["c"] == "4"
    headers.discard("B")
    assert "b" not in headers


class _Number(enum.IntEnum):
    FIVE = 5


@pytest.mark.parametrize(
    ("value", "wire"),
    [(0, b"0"), (-1, b"-1"), (10**20, b"1" + b"0" * 20), (http.HTTPStatus.OK, b"200"), (_Number.FIVE, b"5")],
)
def test_integers_become_decimal(value: int, wire: bytes) -> None:
    headers = Headers()
    headers["N"] = value
    headers.add("N", value)
    assert headers.raw == [(b"N", wire), (b"N", wire)]


@pytest.mark.parametrize("value", [b"bytes", None, 1.5, True, ["a"]])
def test_other_types_are_refused(value: object) -> None:
    headers = Headers()
    with pytest.raises(TypeError, match=r"header X-A: the value must be str or int, not "):
        headers.set("X-A", value)  # type: ignore[arg-type]
    assert len(headers) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\r\nSet-Cookie: x=1", r"header X-A: the value has the control character \r at 1: 'a\r\nSet-Cookie: x=1'"),
        ("a\nb", r"header X-A: the value has the control character \n at 1: 'a\nb'"),
        ("a\x00b", r"header X-A: the value has the control character \x00 at 1: 'a\x00b'"),
        ("\x7f", r"header X-A: the value has the control character \x7f at 0: '\x7f'"),
        ("ab\n", r"header X-A: the value has the control character \n at 2: 'ab\n'"),
        ("price: 5 €", r"header X-A: the value has \u20ac at 9, which is not Latin-1: 'price: 5 \u20ac'"),
        # U+560A encodes to bytes that end in LF when its high byte is cut off.
        ("\u560a", r"header X-A: the value has \u560a at 0, which is not Latin-1: '\u560a'"),
        (" a", "header X-A: the value begins or ends with white space: ' a'"),
        ("a\t", r"header X-A: the value begins or ends with white space: 'a\t'"),
        ("\ud800", r"header X-A: the value has \ud800 at 0, which is not Latin-1: '\ud800'"),
    ],
)
def test_values_that_cannot_be_sent_are_refused_where_they_are_set(value: str, text: str) -> None:
    headers = Headers([(b"X-A", b"old")])
    for change in (headers.set, headers.add, headers.__setitem__):
        with pytest.raises(ResponseError) as caught:
            change("X-A", value)
        assert str(caught.value) == text
    assert headers.raw == [(b"X-A", b"old")]


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "naïve", "\x00", "a\n", " a", "(a)", "a\u212a"])
def test_names_that_are_no_tokens_are_refused(name: str) -> None:
    headers = Headers()
    for change in (headers.set, headers.add):
        with pytest.raises(ResponseError, match="is not a token") as caught:
            change(name, "x")
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
    assert len(headers) == 0


def test_a_refusal_is_a_fastserve_error_and_a_value_error() -> None:
    with pytest.raises(FastserveError):
        Headers().set("A", "\n")
    with pytest.raises(ValueError):
        Headers().set("A", "\n")


def test_equality() -> None:
    assert Headers([(b"A", b"1"), (b"B", b"2")]) == Headers([(b"b", b" 2"), (b"a", b"1")])
    assert Headers([(b"A", b"1"), (b"A", b"2")]) != Headers([(b"A", b"2"), (b"A", b"1")])
    assert Headers([(b"A", b"x")]) != Headers([(b"A", b"X")])
    assert Headers() != []
    with pytest.raises(TypeError):
        hash(Headers())


def test_repr_escapes_and_keeps_credentials_to_itself() -> None:
    headers = Headers([(b"A", b"\x1b[2J"), (b"AUTHORIZATION", b"Basic c2VjcmV0"), (b"Cookie", b"id=secret")])
    assert repr(headers) == r"Headers([('A', '\x1b[2J'), ('AUTHORIZATION', '...'), ('Cookie', '...')])"


_names = st.text(st.sampled_from("!#$%&'*+-.^_`|~09azAZ"), min_size=1, max_size=4)
_values = st.text(st.characters(max_codepoint=255), max_size=6)


@given(st.lists(st.tuples(_names, _values)))
def test_what_is_let_in_comes_back_and_cannot_split(fields: list[tuple[str, str]]) -> None:
    headers = Headers()
    kept = []
    for name, value in fields:
        try:
            headers.add(name, value)
        except ResponseError:
            continue
        kept.append((name, value))
    assert headers.items() == kept
    for name, value in kept:
        assert headers.get_all(name) == [v for n, v in kept if n.lower() == name.lower()]
        assert not set(name + value) & set("\r\n\0")
    assert Headers(headers.raw) == headers


@given(st.lists(st.tuples(st.binary(), st.binary())))
def test_anything_from_the_wire_can_be_read(pairs: list[tuple[bytes, bytes]]) -> None:
    headers = Headers(pairs)
    assert headers.raw == pairs
    assert all(headers.get(name) is not None for name in headers)
    assert repr(headers).isprintable()


_changes = st.tuples(
    st.sampled_from(["set", "add", "discard", "get"]), st.sampled_from(["a", "A", "b", "B"]), st.integers(0, 9)
)


@given(st.lists(_changes))
def test_reads_agree_with_the_pairs_after_any_changes(changes: list[tuple[str, str, int]]) -> None:
    headers = Headers([(b"a", b"x"), (b"B", b"y"), (b"A", b"z")])
    for change, name, value in changes:
        if change == "set":
            headers.set(name, value)
            assert headers.get_all(name) == [str(value)]
        elif change == "add":
            headers.add(name, value)
        elif change == "discard":
            headers.discard(name)
            assert name not in headers
        assert headers.get_all(name) == [v for n, v in headers.items() if n.lower() == name.lower()]
        assert headers == Headers(headers.raw)
