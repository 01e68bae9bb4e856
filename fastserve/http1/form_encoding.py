"""Form bodies out: ``application/x-www-form-urlencoded`` and ``multipart/form-data`` as browsers send them (WHATWG HTML 4.10.22).

Invariants (tests/http1/test_form_encoding.py):

* What `forms.parse_form` reads from an encoded form is what was encoded, but for what browsers change: line ends become
  CRLF, and in names CR, LF and ``"`` come as ``%0D``, ``%0A`` and ``%22``. Backslashes are sent as they are, as
  browsers do; a reader may take one at the end of a name, or two in a row, for an escape.
* No name, file name, content type or datum can end its line, its part or the body.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fastserve.errors import FormError
from fastserve.http1.args import Args
from fastserve.http1.fields import is_field_value, printable

__all__ = ["FileContent", "FormFields", "FormFiles", "encode_multipart", "encode_urlencoded", "to_args"]

Scalar = str | int | float | bool
FormFields = Args | Mapping[str, Any] | Iterable[tuple[str, Any]]
"""Fields: a mapping, or pairs, of names to values or to several of them. A value is str, int, float or bool; numbers are
sent in decimal, True and False as true and false."""
FileContent = bytes | tuple[str, bytes] | tuple[str, bytes, str]
"""A file: its bytes, ``(filename, bytes)`` or ``(filename, bytes, content_type)``."""
FormFiles = Mapping[str, Any] | Iterable[tuple[str, FileContent]]
"""Files: a mapping of names to files, or to lists of them, or pairs."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"

_line_end = re.compile(r"\r\n|\r|\n").sub
_controls = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
# RFC 2046 5.1.1 without those characters that need quotes in a header.
_boundary = re.compile(r"[0-9A-Za-z'+_.-]{1,70}\Z").match


def to_args(fields: FormFields) -> Args:
    """`fields` in order. Raises `TypeError` for a value that is not text, a number or a truth value."""
    if isinstance(fields, Args):
        return fields
    args = Args()
    pairs: Iterable[tuple[str, Any]] = fields.items() if isinstance(fields, Mapping) else fields
    for name, value in pairs:
        if isinstance(value, str | int | float):
            args.add(name, _text(value))
        elif isinstance(value, bytes) or not isinstance(value, Iterable):
            raise TypeError(
                f"'{printable(name)}': the value must be str, int, float or bool, or several, not {type(value).__name__}"
            )
        else:
            for one in value:
                if not isinstance(one, str | int | float):
                    raise TypeError(
                        f"'{printable(name)}': a value must be str, int, float or bool, not {type(one).__name__}"
                    )
                args.add(name, _text(one))
    return args


def _text(value: Scalar) -> str | int:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else value


def encode_urlencoded(fields: FormFields) -> bytes:
    """The body of an ``application/x-www-form-urlencoded`` form. Raises `FormError` for a lone surrogate."""
    try:
        return to_args(fields).encode().encode("ascii")
    except UnicodeEncodeError as error:
        raise FormError(f"a form field is not text that has a UTF-8 form: {error.reason}") from None


def encode_multipart(fields: FormFields = (), files: FormFiles = (), boundary: str | None = None) -> tuple[str, bytes]:
    """Content-Type and body of a ``multipart/form-data`` form: the fields, then the files, in order.

    Names and text are UTF-8; line ends in them are sent as CRLF. In names and file names CR, LF and ``"`` are sent
    as ``%0D``, ``%0A`` and ``%22``. Without a `boundary` one is made that does not occur in the data.

    Raises `FormError` for other control characters in names, a content type that is no header value, and a
    `boundary` that is malformed or occurs in the data.
    """
    parts: list[tuple[bytes, bytes]] = []
    for name, value in to_args(fields).items():
        head = b'Content-Disposition: form-data; name="%b"\r\n\r\n' % _escaped(_crlf(name), "name")
        parts.append((head, _utf8(_crlf(value), f"the value of '{printable(name)}'")))
    for name, file in _each_file(files):
        filename, data, content_type = _file_parts(name, file)
        if not is_field_value(content_type) or not content_type:
            raise FormError(f"file '{printable(filename)}': bad content type '{printable(content_type)}'")
        head = b'Content-Disposition: form-data; name="%b"; filename="%b"\r\nContent-Type: %b\r\n\r\n' % (
            _escaped(_crlf(name), "name"),
            _escaped(filename, "file name"),
            content_type.encode("latin-1"),
        )
        parts.append((head, data))
    chosen = _chosen_boundary(parts, boundary)
    delimiter = b"--" + chosen
    pieces = []
    for head, data in parts:
        pieces += [delimiter, b"\r\n", head, data, b"\r\n"]
    pieces += [delimiter, b"--\r\n"]
    return f"multipart/form-data; boundary={chosen.decode('ascii')}", b"".join(pieces)


def _each_file(files: FormFiles) -> Iterable[tuple[str, FileContent]]:
    if not isinstance(files, Mapping):
        yield from files
        return
    for name, file in files.items():
        if isinstance(file, list):
            for one in file:
                yield name, one
        else:
            yield name, file


def _file_parts(name: str, file: FileContent) -> tuple[str, bytes, str]:
    if isinstance(file, bytes | bytearray | memoryview):
        return name, bytes(file), DEFAULT_CONTENT_TYPE
    if (
        isinstance(file, tuple)
        and len(file) in (2, 3)
        and isinstance(file[0], str)
        and isinstance(file[1], bytes | bytearray | memoryview)
        and isinstance(file[-1], bytes | bytearray | memoryview if len(file) == 2 else str)
    ):
        return file[0], bytes(file[1]), file[2] if len(file) == 3 else DEFAULT_CONTENT_TYPE
    raise TypeError(
        f"file '{printable(name)}': takes bytes, (filename, bytes) or (filename, bytes, content_type),"
        f" not {type(file).__name__}"
    )


def _chosen_boundary(parts: list[tuple[bytes, bytes]], boundary: str | None) -> bytes:
    if boundary is None:
        while True:
            chosen = b"fastserve-" + os.urandom(16).hex().encode("ascii")
            if not _occurs(chosen, parts):
                return chosen
    if not _boundary(boundary):
        raise FormError(f"boundary '{printable(boundary)}': takes 1 to 70 letters, digits and '+_.- (RFC 2046 5.1.1)")
    chosen = boundary.encode("ascii")
    if _occurs(chosen, parts):
        raise FormError("the boundary occurs in the form's data: leave it out, and one is made that does not")
    return chosen


def _occurs(boundary: bytes, parts: list[tuple[bytes, bytes]]) -> bool:
    return any(boundary in head or boundary in data for head, data in parts)


def _crlf(text: str) -> str:
    return _line_end("\r\n", text)


def _escaped(text: str, what: str) -> bytes:
    if _controls(text):
        raise FormError(f"a {what} with a control character: '{printable(text)}'")
    text = text.replace("\n", "%0A").replace("\r", "%0D").replace('"', "%22")
    return _utf8(text, f"a {what}")


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormError(f"{what} has no UTF-8 form: {error.reason}") from None
