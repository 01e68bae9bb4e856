from __future__ import annotations

import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.errors import FormError
from fastserve.http1.forms import Form, FormFile, parse_form, parse_media_type
from fastserve.http1.headers import Headers

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=XX"


def part(disposition: bytes, content: bytes, *, more: bytes = b"") -> bytes:
    return b"--XX\r\nContent-Disposition: form-data; " + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


def one_file(disposition: bytes) -> FormFile:
    form = parse_form(MULTIPART, multipart(part(b'name="f"; ' + disposition, b"x")))
    file = form.file("f")
    assert file is not None
    return file


# Media types


@pytest.mark.parametrize(
    ("value", "essence", "parameters"),
    [
        ("text/html", "text/html", {}),
        ("TEXT/Html;Charset=UTF-8", "text/html", {"charset": "UTF-8"}),
        ('text/html; charset="utf-8"', "text/html", {"charset": "utf-8"}),
        (" text/html \t;\t charset=utf-8 ; q=1 ", "text/html", {"charset": "utf-8", "q": "1"}),
        ('a/b; x="a;b=\\"c\\\\"; y=2', "a/b", {"x": 'a;b="c\\', "y": "2"}),
        ('a/b; x=""', "a/b", {"x": ""}),
        ('a/b; x="\xe9\t"', "a/b", {"x": "\xe9\t"}),
        ("a/b;;; x=1;", "a/b", {"x": "1"}),
        ("a/b; x=1; X=2", "a/b", {"x": "1"}),
        ("application/vnd.api+json", "application/vnd.api+json", {}),
    ],
)
def test_parse_media_type(value: str, essence: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(value) == (essence, parameters)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "text",
        "text/",
        "/html",
        "text/html/x",
        "text /html",
        "te(xt)/html",
        "text/html, text/plain",
        "text/html charset=utf-8",
        "a/b; x",
        "a/b; x=",
        "a/b; =1",
        "a/b; x =1",
        "a/b; x= 1",
        'a/b; x="1',
        'a/b; x="1\\"',
        'a/b; x="1"2',
        'a/b; x=1"2"',
        'a/b; x="\r\n"',
        'a/b; x="\\\n"',
        "a/b; x=1\n",
        "a/b\n",
        "a/b; x=\x00",
    ],
)
def test_malformed_media_types(value: str) -> None:
    with pytest.raises(FormError, match="malformed") as caught:
        parse_media_type(value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "a/b;" + " " * 60_000 + "x",
        "a/b; x=" + "y" * 60_000 + "(",
        'a/b; x="' + "y\\" * 30_000,
        "a/b" + "; " * 30_000 + "x",
        "a/" + "b" * 60_000 + " " * 60_000 + "x",
    ],
)
def test_media_types_cost_linear_time(value: str) -> None:
    start = time.process_time()
    with pytest.raises(FormError):
        parse_media_type(value)
    # Quadratic matching takes many seconds of processor time on any machine; linear takes milliseconds.
    assert time.process_time() - start < 2


@given(st.text(max_size=20))
def test_any_text_is_a_media_type_or_refused(value: str) -> None:
    try:
        essence, _ = parse_media_type(value)
    except FormError:
        return
    assert essence.count("/") == 1


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")))
def test_quoted_strings_round_trip(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_media_type(f'a/b; x="{quoted}"; y=1') == ("a/b", {"x": text, "y": "1"})


# Not multipart


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/json", "multipart/mixed; boundary=XX", "multipart/form-datax", ";;", "\x00"],
)
def test_other_content_types_give_an_empty_form(content_type: str | None) -> None:
    assert parse_form(content_type, b"a=1&b=2") == Form()


@pytest.mark.parametrize(
    "content_type",
    [URLENCODED, URLENCODED.upper(), URLENCODED + "; charset=latin-1", " " + URLENCODED + " ;broken"],
)
def test_urlencoded(content_type: str) -> None:
    form = parse_form(content_type, b"a=1&b=c+d&a=%C3%A9")
    assert form.args.items() == [("a", "1"), ("b", "c d"), ("a", "é")]
    assert form.files == {}


def test_urlencoded_limits() -> None:
    assert len(parse_form(URLENCODED, b"a&" * 1000).args) == 1000
    with pytest.raises(FormError, match="more than 1000 form fields"):
        parse_form(URLENCODED, b"a&" * 1001)
    with pytest.raises(FormError, match="more than 2 form fields"):
        parse_form(URLENCODED, b"a&b&c", max_fields=2)


# Multipart


def test_fields_and_files() -> None:
    body = multipart(
        part(b'name="a"', b"1"),
        part(b'name="f"; filename="x.bin"', b"\x00\xff", more=b"Content-Type: application/x-bin\r\nX-More: y \r\n"),
        part(b'name="a"', "zwei\r\né".encode()),
        part(b'name="f"; filename="y"', b""),
        part(b"name=g; filename=z", b"3"),
    )
    form = parse_form(MULTIPART, body)
    assert form.args.items() == [("a", "1"), ("a", "zwei\r\né")]
    assert list(form.files) == ["f", "g"]
    first, second = form.files["f"]
    assert (first.filename, first.content_type, first.data) == ("x.bin", "application/x-bin", b"\x00\xff")
    assert first.headers.items() == [
        ("Content-Disposition", 'form-data; name="f"; filename="x.bin"'),
        ("Content-Type", "application/x-bin"),
        ("X-More", "y"),
    ]
    assert (second.filename, second.content_type, second.data) == ("y", None, b"")
    assert form.file("g") is form.files["g"][0]
    assert form.file("none") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b"line one\r\nline two\r\n",
        b"--XX",
        b"--XX--",
        b"\r\n--X",
        b"\r\n--XY",
        b"\r\n-\r\n--\r\n--X\r\n",
        b"\r\r\n--X\r",
        b"a\n--XX--\nb",
        b"\r--XX\r\n",
        bytes(range(256)),
        bytes(range(256)) * 4096,
        b"\r\n" * 100_000,
    ],
    ids=range(17),
)
def test_files_are_exact_to_the_byte(content: bytes) -> None:
    form = parse_form(MULTIPART, multipart(part(b'name="f"; filename="f"', content), part(b'name="t"', b"end")))
    assert [file.data for file in form.files["f"]] == [content]
    assert form.args.items() == [("t", "end")]


@given(st.lists(st.tuples(st.booleans(), st.one_of(st.binary(), st.text(st.sampled_from("\r\n-Xa")).map(str.encode)))))
def test_multipart_round_trip(parts: list[tuple[bool, bytes]]) -> None:
    boundary = b"----a boundary that no content has:8mVbqZ"
    body = b"".join(
        b"--%b\r\nContent-Disposition: form-data; name=n%b\r\n\r\n%b\r\n"
        % (boundary, b"; filename=f" if is_file else b"", content)
        for is_file, content in parts
    )
    form = parse_form(f'multipart/form-data; boundary="{boundary.decode()}"', body + b"--" + boundary + b"--")
    assert [file.data for file in form.files.get("n", [])] == [content for is_file, content in parts if is_file]
    assert form.args.get_all("n") == [content.decode("utf-8", "replace") for is_file, content in parts if not is_file]


@given(st.binary(max_size=60))
def test_any_body_parses_or_is_refused(junk: bytes) -> None:
    whole = multipart(part(b'name="f"; filename="f"', b"x"))
    for body in (junk, junk + whole, whole[:40] + junk, whole[:40] + junk + whole[40:]):
        shown = ""
        try:
            parse_form(MULTIPART, body)
        except FormError as error:
            shown = str(error)
        assert shown.isprintable()


def test_every_truncation_is_refused() -> None:
    body = multipart(part(b'name="a"', b"1"), part(b'name="f"; filename="x"', b"a\r\nb"))
    end = body.index(b"--XX--") + len(b"--XX--")
    assert len(parse_form(MULTIPART, body[:end]).files["f"]) == 1
    for length in range(end):
        with pytest.raises(FormError):
            parse_form(MULTIPART, body[:length])


def test_missing_final_boundary_says_so() -> None:
    with pytest.raises(FormError, match="ends before the closing delimiter"):
        parse_form(MULTIPART, part(b'name="a"', b"1"))


def test_no_parts_at_all() -> None:
    assert parse_form(MULTIPART, b"--XX--\r\n") == Form()
    with pytest.raises(FormError, match="ends before"):
        parse_form(MULTIPART, b"")


def test_leading_line_break_and_epilogue_are_ignored() -> None:
    body = (
        b"\r\n" + multipart(part(b'name="a"', b"1")) + b'\r\n--XX\r\nContent-Disposition: form-data; name="b"\r\n\r\n'
    )
    assert parse_form(MULTIPART, body).args.items() == [("a", "1")]


@pytest.mark.parametrize("boundary", ["XX", '"XX"', "XX ; charset=utf-8", '"X\\X"', "XX;"])
def test_boundary_spellings(boundary: str) -> None:
    body = multipart(part(b'name="a"', b"1"))
    assert parse_form(f"Multipart/Form-Data; BOUNDARY={boundary}", body).args["a"] == "1"


@pytest.mark.parametrize("boundary", ["a" * 70, "it's (a) +_,-./:=? b", "----WebKitFormBoundary7MA4YWxkTrZu0gW"])
def test_boundaries_of_rfc_2046(boundary: str) -> None:
    body = multipart(part(b'name="a"', b"1")).replace(b"XX", boundary.encode())
    assert parse_form(f'multipart/form-data; boundary="{boundary}"', body).args["a"] == "1"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; charset=utf-8",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="XX',
        'multipart/form-data; boundary="XX "',
        'multipart/form-data; boundary="X\xe9X"',
        'multipart/form-data; boundary="X\\\\X"',
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=XX; boundary=XX",
        "multipart/form-data; boundary=XX; Boundary=YY",
        "multipart/form-data; boundary=X X",
    ],
)
def test_unusable_boundaries(content_type: str) -> None:
    with pytest.raises(FormError, match=r"unsupported media type|malformed"):
        parse_form(content_type, multipart(part(b'name="a"', b"1")))


@pytest.mark.parametrize(
    "body",
    [
        b"junk",
        b"--YY\r\n",
        b"preamble\r\n" + multipart(part(b'name="a"', b"1")),
        multipart(part(b'name="a"', b"1")).replace(b"\r\n", b"\n"),
        b"--XXContent-Disposition: form-data; name=a\r\n\r\n1\r\n--XX--\r\n",
        b"--XX\r\n\r\n1\r\n--XX--\r\n",
        b"--XX\r\nContent-Type: text/plain\r\n\r\n1\r\n--XX--\r\n",
        multipart(part(b'name="a"', b"1", more=b"Content-Disposition: form-data; name=b\r\n")),
        b"--XX\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--XX--\r\n",
        b"--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--\r\n",
        b"--XX\r\nContent-Disposition:\r\n\r\n1\r\n--XX--\r\n",
        b"--XX\r\nContent Disposition: form-data; name=a\r\n\r\n1\r\n--XX--\r\n",
        b"--XX\r\n: x\r\n\r\n1\r\n--XX--\r\n",
        multipart(part(b'filename="x"', b"1")),
        multipart(part(b'name="a', b"1")),
        multipart(part(b'name="a"; name="b"', b"1")),
        multipart(part(b'name="a"; filename="x"; FileName="y"', b"1")),
        multipart(part(b'name="a\x00"', b"1")),
        multipart(part(b'name="a\nb"', b"1")),
        multipart(part(b'name="a"', b"1", more=b"X: y\nZ: w\r\n")),
        multipart(part(b'name="a"', b"1", more=b"X: y\rZ: w\r\n")),
        multipart(part(b'name="a"', b"1", more=b"X: y\r\n folded\r\n")),
        multipart(part(b'name="a"', b"1", more=b"no colon\r\n")),
    ],
)
def test_malformed_bodies(body: bytes) -> None:
    with pytest.raises(FormError) as caught:
        parse_form(MULTIPART, body)
    assert str(caught.value).isprintable()


def test_part_header_names_have_any_case() -> None:
    body = b"--XX\r\ncOnTeNt-DiSpOsItIoN:FORM-DATA;NAME=a\r\n\r\n1\r\n--XX--\r\n"
    assert parse_form(MULTIPART, body).args["a"] == "1"


@pytest.mark.parametrize(
    ("sent", "filename"),
    [
        (b'filename="plain.txt"', "plain.txt"),
        (b'filename=""', ""),
        (b"filename=token.txt", "token.txt"),
        ('filename="größe 🍊.png"'.encode(), "größe 🍊.png"),
        (b'filename="\xe4"', "\ufffd"),
        (b'filename="a\\"b.txt"', 'a"b.txt'),
        (b'filename="a\\\\b.txt"', "a\\b.txt"),
        (b'filename="C:\\dir\\new.txt"', "C:\\dir\\new.txt"),
        (b'filename="a%22b.txt"', "a%22b.txt"),
        (b'filename="a;b=c.txt"', "a;b=c.txt"),
        (b'filename="../../etc/passwd"', "../../etc/passwd"),
        (b"filename=\"x\"; filename*=UTF-8''y", "x"),
    ],
)
def test_filename_is_as_sent(sent: bytes, filename: str) -> None:
    assert one_file(sent).filename == filename


def test_extended_filename_alone_makes_no_file() -> None:
    form = parse_form(MULTIPART, multipart(part(b"name=\"f\"; filename*=UTF-8''evil.txt", b"x")))
    assert form.files == {}
    assert form.args["f"] == "x"


@pytest.mark.parametrize(
    ("filename", "safe"),
    [
        ("plain.txt", "plain.txt"),
        ("größe 🍊.png", "größe 🍊.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\dir\\new.txt", "new.txt"),
        ("/abs/x", "x"),
        ("dir/", ""),
        ("", ""),
        (".", ""),
        ("..", ""),
        (" . . ", ""),
        (".htaccess", "htaccess"),
        ("a\x00.png", "a.png"),
        ("a\r\nb", "ab"),
        ("exe\u202egnp.scr", "exegnp.scr"),
        ("a:b|c?.txt", "a_b_c_.txt"),
        ("x:stream", "x_stream"),
        ("NUL", "_NUL"),
        ("com1.txt", "_com1.txt"),
        ("console.txt", "console.txt"),
        ("name. ", "name"),
        ("x" * 300 + ".tar", "x" * 251 + ".tar"),
        ("é" * 200, "é" * 127),
        ("é" * 200 + ".png", "é" * 125 + ".png"),
        ("x." + "y" * 300, "x." + "y" * 253),
    ],
)
def test_safe_filename(filename: str, safe: str) -> None:
    assert FormFile(filename, None, Headers(), b"").safe_filename == safe


@given(st.text())
def test_safe_filename_is_safe(filename: str) -> None:
    safe = FormFile(filename, None, Headers(), b"").safe_filename
    assert not set(safe) & set('/\\\0\r\n:"')
    assert not safe.startswith(".")
    assert safe.isprintable()
    assert len(safe.encode()) <= 255


def test_repr_leaves_the_contents_out() -> None:
    assert repr(FormFile("a", None, Headers(), b"x" * 100)) == "FormFile(filename='a', content_type=None)"


# Limits


def test_at_the_limits_and_beyond() -> None:
    fields = [part(b'name="a"', b"1")] * 3
    files = [part(b'name="f"; filename="x"', b"1")] * 2
    limits: dict[str, Any] = {"max_fields": 3, "max_files": 2}
    form = parse_form(MULTIPART, multipart(*fields, *files), **limits)
    assert (len(form.args), len(form.files["f"])) == (3, 2)
    with pytest.raises(FormError, match="more than 3 form fields"):
        parse_form(MULTIPART, multipart(*fields, *files, fields[0]), **limits)
    with pytest.raises(FormError, match="more than 2 files"):
        parse_form(MULTIPART, multipart(*fields, *files, files[0]), **limits)
    with pytest.raises(FormError, match="more than 0 files"):
        parse_form(MULTIPART, multipart(files[0]), max_files=0)


def test_default_limits() -> None:
    field, file = part(b'name="a"', b""), part(b'name="f"; filename=""', b"")
    form = parse_form(MULTIPART, multipart(*[field] * 1000, *[file] * 100))
    assert (len(form.args), len(form.files["f"])) == (1000, 100)
    with pytest.raises(FormError, match="more than 1000 form fields"):
        parse_form(MULTIPART, multipart(*[field] * 50_000))
    with pytest.raises(FormError, match="more than 100 files"):
        parse_form(MULTIPART, multipart(*[file] * 50_000))


def test_part_header_limit_counts_all_headers_of_a_part() -> None:
    disposition = len(b"Content-Disposition" + b'form-data; name="a"' + b":\r\n")
    value = b"y" * (8192 - disposition - len(b"X:\r\n"))
    assert parse_form(MULTIPART, multipart(part(b'name="a"', b"1", more=b"X:" + value + b"\r\n"))).args["a"] == "1"
    refused = [
        b"X:" + value + b"y\r\n",
        b"X: " + b"y" * 1_000_000 + b"\r\n",
        b"X" * 1_000_000 + b": y\r\n",
        b"X" * 1_000_000,
        b"X:\r\n" * 2500,
        b"X:" + b" " * 1_000_000 + b"\r\n",
    ]
    for more in refused:
        with pytest.raises(FormError):
            parse_form(MULTIPART, multipart(part(b'name="a"', b"1", more=more)))


def test_part_header_limit_starts_afresh_with_each_part() -> None:
    one = part(b'name="a"', b"1", more=b"X: " + b"y" * 100 + b"\r\n")
    assert len(parse_form(MULTIPART, multipart(*[one] * 20), max_part_header_size=200).args) == 20
    with pytest.raises(FormError):
        parse_form(MULTIPART, multipart(one), max_part_header_size=100)


def test_many_small_headers_fit() -> None:
    more = b"".join(b"X-%d: y\r\n" % i for i in range(100))
    assert parse_form(MULTIPART, multipart(part(b'name="a"', b"1", more=more))).args["a"] == "1"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    with pytest.raises(FormError, match=r"pip install 'fastserve\[forms\]'"):
        parse_form(MULTIPART, multipart(part(b'name="a"', b"1")))
    assert parse_form(URLENCODED, b"a=1").args["a"] == "1"
    assert parse_form("text/plain", b"x") == Form()
