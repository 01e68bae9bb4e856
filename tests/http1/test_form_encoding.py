"""Form bodies: literal bytes as browsers send them, and what `forms.parse_form` reads from them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.errors import FormError
from fastserve.http1.args import Args
from fastserve.http1.form_encoding import encode_multipart, encode_urlencoded, to_args
from fastserve.http1.forms import parse_form


def test_urlencoded() -> None:
    assert encode_urlencoded({"a": "1 2", "b": "&=é", "c": ""}) == b"a=1+2&b=%26%3D%C3%A9&c="
    assert encode_urlencoded([("a", 1), ("b", 1.5), ("a", True), ("c", False)]) == b"a=1&b=1.5&a=true&c=false"
    assert encode_urlencoded({"a": ["1", 2], "b": ()}) == b"a=1&a=2"
    assert encode_urlencoded(Args.parse("x=1&y=2")) == b"x=1&y=2"
    assert encode_urlencoded({}) == b""


@pytest.mark.parametrize("value", [None, b"x", object(), [None], [b"x"], [["x"]]])
def test_values_that_are_no_text_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="'name'"):
        to_args({"name": value})


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(FormError):
        encode_urlencoded({"a": "\ud800"})
    with pytest.raises(FormError):
        encode_multipart({"a": "\ud800"})
    with pytest.raises(FormError):
        encode_multipart({"\ud800": "a"})


def test_multipart_is_what_a_browser_sends() -> None:
    content_type, body = encode_multipart(
        {"name": "Ä\nb"},
        [("f", ("a.txt", b"data\r\n", "text/plain")), ("g", ("b", b"\x00")), ("h", b"raw")],
        boundary="xyz",
    )
    assert content_type == "multipart/form-data; boundary=xyz"
    assert body == (
        b'--xyz\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\x84\r\nb\r\n'
        b'--xyz\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\ndata\r\n\r\n'
        b'--xyz\r\nContent-Disposition: form-data; name="g"; filename="b"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\x00\r\n"
        b'--xyz\r\nContent-Disposition: form-data; name="h"; filename="h"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\nraw\r\n"
        b"--xyz--\r\n"
    )


def test_names_are_escaped_as_browsers_do() -> None:
    # WHATWG HTML, multipart/form-data encoding algorithm: line ends of names become CRLF, those of file names stay.
    _, body = encode_multipart({'a"b\nc': "1"}, {"d\re": ('x"\r\n\ny', b"")}, boundary="xyz")
    assert b'name="a%22b%0D%0Ac"\r\n' in body
    assert b'name="d%0D%0Ae"; filename="x%22%0D%0A%0Ay"\r\n' in body


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x0b"])
def test_control_characters_in_names_are_refused(character: str) -> None:
    with pytest.raises(FormError, match="control character"):
        encode_multipart({f"a{character}": "1"})
    for file in ((f"a{character}", b""), b""):
        with pytest.raises(FormError, match="control character"):
            encode_multipart({}, {"f" if file else f"f{character}": file})


@pytest.mark.parametrize("content_type", ["", "a\r\nX: 1", "text/plain ", "a\x00"])
def test_content_types_that_are_no_value_are_refused(content_type: str) -> None:
    with pytest.raises(FormError, match="content type"):
        encode_multipart({}, {"f": ("a", b"", content_type)})


@pytest.mark.parametrize(
    "file", ["text", ("a",), ("a", "text"), (b"a", b"b"), ("a", b"b", None), ("a", b"b", "c", "d"), None]
)
def test_files_that_are_none_are_refused(file: object) -> None:
    with pytest.raises(TypeError, match="'f'"):
        encode_multipart({}, {"f": file})


@pytest.mark.parametrize("boundary", ["", "a b", "x" * 71, "a\r\nb", '"', "é"])
def test_boundaries_that_are_refused(boundary: str) -> None:
    with pytest.raises(FormError, match="boundary"):
        encode_multipart({"a": "b"}, boundary=boundary)


def test_a_boundary_never_occurs_in_the_data() -> None:
    with pytest.raises(FormError, match="occurs"):
        encode_multipart({"a": "--xyz--"}, boundary="xyz")
    with pytest.raises(FormError, match="occurs"):
        encode_multipart({}, {"f": b"\r\n--xyz\r\n"}, boundary="xyz")
    with pytest.raises(FormError, match="occurs"):
        encode_multipart({"xyz": ""}, boundary="xyz")


def test_a_boundary_that_was_unlucky_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([b"\x00" * 16, b"\x01" * 16])
    monkeypatch.setattr("os.urandom", lambda size: next(numbers))
    content_type, _ = encode_multipart({"a": "fastserve-" + "00" * 16})
    assert content_type.endswith("01" * 16)


def test_a_form_of_nothing() -> None:
    content_type, body = encode_multipart()
    assert body.endswith(b"--\r\n")
    assert content_type.startswith("multipart/form-data; boundary=")


def test_several_files_under_one_name() -> None:
    content_type, body = encode_multipart({}, {"f": [b"1", ("b", b"2")]})
    assert [file.data for file in parse_form(content_type, body).files["f"]] == [b"1", b"2"]


# A backslash is sent as it is, and a reader may take it for an escape: browsers and our parser have no common reading.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='\\"'), max_size=10)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)


@given(
    st.lists(st.tuples(names, texts), max_size=4),
    st.lists(st.tuples(names, names, st.binary(max_size=30)), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_what_is_read_is_what_was_sent(fields: list[tuple[str, str]], files: list[tuple[str, str, bytes]]) -> None:
    content_type, body = encode_multipart(fields, [(name, (filename, data)) for name, filename, data in files])
    form = parse_form(content_type, body)
    assert form.args.items() == fields
    read = [(name, file.filename, file.data) for name, group in form.files.items() for file in group]
    assert sorted(read) == sorted(files)
    assert parse_form("application/x-www-form-urlencoded", encode_urlencoded(fields)).args.items() == fields


@given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_name_is_one_part_or_refused(name: str, filename: str, data: bytes) -> None:
    try:
        _, body = encode_multipart({name: "value"}, {name: (filename, data)}, boundary="fixed")
    except FormError:
        return
    parts = body.split(b"--fixed")
    assert len(parts) == 4
    assert parts[1].partition(b"\r\n\r\n")[0].count(b"\r\n") == 1
    assert parts[2].partition(b"\r\n\r\n")[0].count(b"\n") == 2
