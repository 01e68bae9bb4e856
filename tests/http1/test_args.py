from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.errors import RequestError
from fastserve.http1.args import Args


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b"", []),
        (b"a=1", [("a", "1")]),
        (b"a=1&b=2&a=3", [("a", "1"), ("b", "2"), ("a", "3")]),
        (b"a", [("a", "")]),
        (b"a=", [("a", "")]),
        (b"=", [("", "")]),
        (b"=v", [("", "v")]),
        (b"a==b=", [("a", "=b=")]),
        (b"&&a=1&&&b&", [("a", "1"), ("b", "")]),
        (b"&", []),
        (b"a;b=1;c", [("a;b", "1;c")]),
        (b"a+b=c+d", [("a b", "c d")]),
        (b"a%2Bb=c%20d", [("a+b", "c d")]),
        (b"a%26b=c%3Dd", [("a&b", "c=d")]),
        (b"a%3Db=1", [("a=b", "1")]),
        (b"%=%&%zz=%4", [("%", "%"), ("%zz", "%4")]),
        (b"n=%e4", [("n", "\ufffd")]),
        (b"n=%C3%A9&m=\xc3\xa9", [("n", "é"), ("m", "é")]),
        (b"a=%00%0d%0a", [("a", "\x00\r\n")]),
        (b"a=1#b", [("a", "1#b")]),
    ],
)
def test_parse(data: bytes, items: list[tuple[str, str]]) -> None:
    args = Args.parse(data)
    assert args.items() == items
    assert len(args) == len(items)
    assert list(args) == [name for name, _ in items]


def test_parse_takes_text_as_utf_8() -> None:
    assert Args.parse("name=é+%C3%A9").items() == [("name", "é é")]


def test_parse_at_the_limit_and_beyond() -> None:
    assert len(Args.parse(b"&".join([b"a=1"] * 1000))) == 1000
    with pytest.raises(RequestError) as caught:
        Args.parse(b"&".join([b"a=1"] * 1001))
    assert caught.value.status == 400
    assert "1000" in caught.value.reason
    assert len(Args.parse(b"a&b", max_count=2)) == 2
    with pytest.raises(RequestError):
        Args.parse(b"a&b&c", max_count=2)


def test_empty_pieces_do_not_count() -> None:
    assert Args.parse(b"&" * 1_000_000 + b"a=1" + b"&" * 1_000_000 + b"b" + b"&" * 9, max_count=2).items() == [
        ("a", "1"),
        ("b", ""),
    ]
    assert len(Args.parse(b"&" * 5000)) == 0
    assert len(Args.parse(b"&", max_count=0)) == 0
    with pytest.raises(RequestError):
        Args.parse(b"a", max_count=0)


def test_reading() -> None:
    args = Args.parse(b"a=1&b=&a=2")
    assert args.get("a") == args["a"] == "1"
    assert args.get_all("a") == ["1", "2"]
    assert args.get("b") == ""
    assert args.has("b")
    assert "b" in args
    assert args.get("c") is None
    assert args.get("c", "x") == "x"
    assert args.get_all("c") == []
    assert not args.has("c")
    assert "A" not in args
    assert 1 not in args
    with pytest.raises(KeyError, match="c"):
        args["c"]


def test_get_all_is_a_copy() -> None:
    args = Args.parse(b"a=1")
    args.get_all("a").append("2")
    assert args.get_all("a") == ["1"]


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"n=0", 0),
        (b"n=-7", -7),
        (b"n=%2B7", 7),
        (b"n=007", 7),
        (b"n=999999999999999999", 10**18 - 1),
        (b"n=-999999999999999999", 1 - 10**18),
        (b"n=5&n=x", 5),
    ],
)
def test_get_int(data: bytes, number: int) -> None:
    assert Args.parse(data).get_int("n") == number


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x",
        b"1.0",
        b"1e3",
        b"0x10",
        b"1_000",
        b"+7",  # a plus in a query is a space
        b"%207",
        b"7%20",
        b"7%0a",
        b"--7",
        b"-",
        b"%D9%A3",  # ARABIC-INDIC DIGIT THREE
        b"%C2%B2",  # SUPERSCRIPT TWO
        b"1000000000000000000",
        b"9" * 100_000,
    ],
)
def test_get_int_refuses(value: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        Args.parse(b"page=" + value).get_int("page", 1)
    assert caught.value.status == 400
    assert "'page'" in caught.value.reason
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 400


def test_a_refusal_escapes_what_the_client_sent() -> None:
    args = Args.parse(b"a%0ab=1%0d%0aHTTP/1.1")
    with pytest.raises(RequestError, match=r"argument 'a\\nb' must be an integer .* not '1\\r\\nHTTP/1.1'"):
        args.get_int("a\nb")


@pytest.mark.parametrize(
    ("value", "number"),
    [(b"1", 1.0), (b"-1.5", -1.5), (b".5", 0.5), (b"5.", 5.0), (b"1e3", 1000.0), (b"1E-3", 0.001), (b"1e-999", 0.0)],
)
def test_get_float(value: bytes, number: float) -> None:
    assert Args.parse(b"x=" + value).get_float("x") == number


@pytest.mark.parametrize(
    "value",
    [b"", b".", b"nan", b"inf", b"-Infinity", b"1_0.0", b"1e999", b"1,5", b"0x1p3", b"%D9%A3", b"1%0a", b"1" * 99],
)
def test_get_float_refuses(value: bytes) -> None:
    with pytest.raises(RequestError, match="argument 'x' must be a finite number") as caught:
        Args.parse(b"x=" + value).get_float("x", 1.0)
    assert caught.value.status == 400


@pytest.mark.parametrize("value", [b"1", b"true", b"True", b"TRUE", b"t", b"yes", b"y", b"on", b"ON"])
def test_get_bool_true(value: bytes) -> None:
    assert Args.parse(b"x=" + value).get_bool("x") is True


@pytest.mark.parametrize("value", [b"0", b"false", b"False", b"f", b"no", b"N", b"off"])
def test_get_bool_false(value: bytes) -> None:
    assert Args.parse(b"x=" + value).get_bool("x", True) is False


@pytest.mark.parametrize("value", [b"", b"2", b"maybe", b"%20true", b"none"])
def test_get_bool_refuses(value: bytes) -> None:
    with pytest.raises(RequestError, match="argument 'x' must be true or false"):
        Args.parse(b"x=" + value).get_bool("x", True)


def test_typed_getters_fall_back_only_when_absent() -> None:
    args = Args()
    assert args.get_int("n") is None
    assert args.get_int("n", 20) == 20
    assert args.get_float("n") is None
    assert args.get_float("n", 0.5) == 0.5
    assert args.get_bool("n") is None
    assert args.get_bool("n", True) is True


def test_writing() -> None:
    args = Args.parse(b"a=1&b=2&a=3&c=4")
    args.set("a", "x")
    assert args.items() == [("a", "x"), ("b", "2"), ("c", "4")]
    args.set("d", 5)
    args.add("b", -6)
    assert args.get_all("b") == ["2", "-6"]
    args.delete("b")
    args.delete("not there")
    assert args.items() == [("a", "x"), ("c", "4"), ("d", "5")]
    assert args.get("b") is None
    args.set("c", "y")
    assert args.items() == [("a", "x"), ("c", "y"), ("d", "5")]


@pytest.mark.parametrize("value", [True, None, 1.5, b"x"])
def test_other_types_are_refused(value: object) -> None:
    args = Args()
    with pytest.raises(TypeError, match="argument a: the value must be str or int"):
        args.add("a", value)  # type: ignore[arg-type]
    assert len(args) == 0


def test_encode() -> None:
    args = Args()
    args.add("a b", "c+d&e=f")
    args.add("é", "")
    args.add("a b", "/?#%")
    assert args.encode() == str(args) == "a+b=c%2Bd%26e%3Df&%C3%A9=&a+b=%2F%3F%23%25"
    args.add("lone", "\ud800")
    with pytest.raises(UnicodeEncodeError):
        args.encode()


def test_equality_and_repr() -> None:
    assert Args.parse(b"a=1&b") == Args.parse(b"&a=%31&b=")
    assert Args.parse(b"a=1&b") != Args.parse(b"b&a=1")
    assert Args() != ""
    assert repr(Args.parse(b"a=%0a")) == r"Args([('a', '\n')])"
    with pytest.raises(TypeError):
        hash(Args())


_text = st.text(max_size=8)


@given(st.lists(st.tuples(_text, _text)))
def test_round_trip(items: list[tuple[str, str]]) -> None:
    args = Args()
    for name, value in items:
        args.add(name, value)
    encoded = args.encode()
    assert encoded.isascii()
    assert Args.parse(encoded) == Args.parse(encoded.encode()) == args
    for name in args:
        assert args.get_all(name) == [v for n, v in items if n == name]


@given(st.binary(), st.integers(0, 5))
def test_any_bytes_parse_or_are_too_many(data: bytes, max_count: int) -> None:
    pieces = [piece for piece in data.split(b"&") if piece]
    try:
        args = Args.parse(data, max_count)
    except RequestError:
        assert len(pieces) > max_count
    else:
        assert len(args) == len(pieces) <= max_count
