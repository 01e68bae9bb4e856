"""Form bodies: ``application/x-www-form-urlencoded`` and ``multipart/form-data`` (RFC 7578, RFC 2046 5.1).

Invariants:

* A body is parsed whole or refused with `FormError`; there is no half a form.
* File contents come out byte for byte as they stood between the delimiters.
* Where two parsers could read one body differently (a parameter given twice, a control character in a
  part's header, no closing delimiter), it is refused: a filter in front may have read it the other way.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from fastserve.errors import FormError, RequestError
from fastserve.http1.args import Args
from fastserve.http1.fields import printable
from fastserve.http1.headers import Headers

__all__ = ["Form", "FormFile", "parse_form", "parse_media_type"]

_white_space = " \t"
_token = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_media_type = re.compile(rf"[ \t]*({_token}/{_token})[ \t]*(?=;|\Z)").match
_disposition_type = re.compile(rf"[ \t]*({_token})[ \t]*(?=;|\Z)").match
_quoted_text = r"(?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"
# RFC 9110 5.6.6: *( OWS ";" OWS [ parameter ] ); the value is a token or a quoted-string (5.6.4). White space is
# matched possessively: two runs of it side by side would otherwise cost quadratic time.
_parameter = re.compile(rf"""[ \t]*+;[ \t]*+(?:({_token})=(?:({_token})|"({_quoted_text})"))?[ \t]*+(?=;|\Z)""").match
_quoted_pair = re.compile(r"\\(.)").sub
# Browsers send a file name's backslashes as they are, so only the pairs that must be escapes are undone.
_certain_quoted_pair = re.compile(r'\\(["\\])').sub
# RFC 2046 5.1.1: 1 to 70 of these, no space at the end.
_boundary = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]\Z").match
_control = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_not_for_file_names = re.compile(r'[<>:"|?*]').sub
_device_name = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)", re.IGNORECASE).match


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a form.

    Attributes:
        filename: as the client sent it, read as UTF-8. It may hold a path, ``..`` or anything else; empty when
            the user chose no file.
        content_type: of the part as sent, None without one. The client's claim, not a finding.
        headers: every header field of the part.
        data: the bytes. ``Content-Transfer-Encoding`` is not undone: forms do not use it (RFC 7578 4.7).
    """

    filename: str
    content_type: str | None
    headers: Headers = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def safe_filename(self) -> str:
        """`filename` made fit for a directory of one's own; empty when nothing fit is left.

        The last component only, after ``/`` and ``\\``; no control, invisible or text-direction characters; no
        leading dots (hidden files, ``.htaccess``); what Windows reserves is replaced; at most 255 bytes of
        UTF-8 with the extension kept. Two uploads may have the same name.
        """
        name = self.filename.replace("\\", "/").rpartition("/")[2]
        name = "".join(character for character in name if character.isprintable())
        name = _not_for_file_names("_", name).lstrip(". ").rstrip(". ")
        if _device_name(name):
            name = "_" + name
        if len(name.encode()) > 255:
            stem, dot, extension = name.rpartition(".")
            ending = (dot + extension).encode() if stem and len(extension.encode()) <= 32 else b""
            stem = stem if ending else name
            name = stem.encode()[: 255 - len(ending)].decode("utf-8", "ignore") + ending.decode()
        return name


@dataclass(frozen=True, slots=True)
class Form:
    """What a form body held.

    Attributes:
        args: the text fields, in order.
        files: name of the field to its files, in order.
    """

    args: Args = field(default_factory=Args)
    files: dict[str, list[FormFile]] = field(default_factory=dict)

    def file(self, name: str) -> FormFile | None:
        """The first file of the field `name`, or None."""
        files = self.files.get(name)
        return files[0] if files else None


def parse_media_type(value: str) -> tuple[str, dict[str, str]]:
    """``text/html; charset="utf-8"`` as ``("text/html", {"charset": "utf-8"})`` (RFC 9110 8.3.1).

    Type and parameter names come in lower case, values as sent with quotes and quoted-pairs undone.
    Of a parameter given twice the first counts. Raises `FormError` when it is malformed.
    """
    start = _media_type(value)
    if not start:
        raise FormError(f"malformed media type: '{printable(value)}'")
    parameters: dict[str, str] = {}
    for name, quoted, text in _parameters(value, start.end()):
        parameters.setdefault(name, _quoted_pair(r"\1", text) if quoted else text)
    return start[1].lower(), parameters


def parse_form(
    content_type: str | None,
    body: bytes,
    *,
    max_fields: int = 1000,
    max_files: int = 100,
    max_part_header_size: int = 8192,
) -> Form:
    """The form in `body`. A `content_type` that is no form's, or None, gives an empty `Form`.

    Text is UTF-8, with U+FFFD for what is not; a declared charset does not change that (WHATWG URL 5.1). A part
    is a file when it has a ``filename``, an empty one too. ``filename*`` is ignored (RFC 7578 4.2).

    Args:
        content_type: value of the request's ``Content-Type``.
        body: the whole body; its size was bounded where it was read.
        max_fields: most text fields; default 1000, as for a query.
        max_files: most files; default 100: each may cost its handler an open file.
        max_part_header_size: most bytes of one part's header fields; default 8192, a long file name and room.

    Raises `FormError` for multipart without a usable boundary, a malformed body, more than the limits allow,
    and for multipart when the extra ``fastserve[forms]`` is not installed.
    """
    essence = (content_type or "").partition(";")[0].strip(_white_space).lower()
    if essence == "application/x-www-form-urlencoded":
        try:
            return Form(args=Args.parse(body, max_fields))
        except RequestError as error:
            raise FormError(f"more than {max_fields} form fields") from error
    if content_type is None or essence != "multipart/form-data":
        return Form()
    return _parse_multipart(_boundary_of(content_type), body, max_fields, max_files, max_part_header_size)


def _parameters(value: str, position: int) -> list[tuple[str, bool, str]]:
    """``(name in lower case, was quoted, value)`` of each parameter from `position` to the end."""
    parameters: list[tuple[str, bool, str]] = []
    while position < len(value):
        match = _parameter(value, position)
        if not match:
            raise FormError(f"malformed parameter at {position} of '{printable(value)}'")
        name, token, quoted = match.groups()
        if name is not None:
            parameters.append((name.lower(), token is None, quoted if token is None else token))
        position = match.end()
    return parameters


def _boundary_of(content_type: str) -> bytes:
    """The delimiter's text. Raises `FormError` when it is missing, given twice or not RFC 2046's."""
    start = _media_type(content_type)
    if not start:
        raise FormError(f"malformed media type: '{printable(content_type)}'")
    found = [
        _quoted_pair(r"\1", text) if quoted else text
        for name, quoted, text in _parameters(content_type, start.end())
        if name == "boundary"
    ]
    if len(found) != 1:
        raise FormError(f"unsupported media type: multipart/form-data with {len(found)} boundaries (RFC 2046 5.1.1)")
    if not _boundary(found[0]):
        raise FormError(f"unsupported media type: bad multipart boundary '{printable(found[0])}' (RFC 2046 5.1.1)")
    return found[0].encode("ascii")


def _parse_multipart(boundary: bytes, body: bytes, max_fields: int, max_files: int, max_part_header_size: int) -> Form:
    # Imported when the first such body arrives: it is an extra that most services do without.
    try:
        from python_multipart import MultipartParser
        from python_multipart.exceptions import FormParserError
    except ImportError as error:
        raise FormError("multipart/form-data needs python-multipart: pip install 'fastserve[forms]'") from error
    their_logger = logging.getLogger("python_multipart")
    if their_logger.level == logging.NOTSET:
        # It warns of each malformed form, and so lets clients write the log; FormError says the same to who asked.
        their_logger.setLevel(logging.ERROR)

    parts = _Parts(max_fields, max_files, max_part_header_size)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.headers_finished,
                "on_part_data": parts.content,
                "on_part_end": parts.end,
                "on_end": parts.finish,
            },
        )
        # Its own limits (8 fields of about 4 kB) are narrower than ours. Set after the fact, because releases
        # before 0.0.27 have neither the limits nor the arguments for them.
        parser.max_header_count = parser.max_header_size = max_part_header_size
        parser.write(body)
    except FormParserError as error:
        raise FormError(f"malformed multipart body: {printable(str(error))}") from error
    if not parts.finished:
        raise FormError("malformed multipart body: it ends before the closing delimiter (RFC 2046 5.1.1)")
    return parts.form


class _Parts:
    """Puts a `Form` together from the parser's events, and keeps count.

    Event order for each part: begin, (header_name+, header_value*, header_end)*, headers_finished, content*, end.
    """

    def __init__(self, max_fields: int, max_files: int, max_part_header_size: int) -> None:
        self.form = Form()
        self.finished = False
        self._max_fields = max_fields
        self._max_files = max_files
        self._max_part_header_size = max_part_header_size
        self._file_count = 0
        self.begin()

    def begin(self) -> None:
        self._header_size = 0
        self._pairs: list[tuple[bytes, bytes]] = []
        self._header_name = b""
        self._header_value = b""
        self._content: list[bytes] = []
        self._name = ""
        self._filename: str | None = None

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def header_end(self) -> None:
        self._count_header(len(b":\r\n"))
        if _control(self._header_value):
            raise FormError(f"control character in a part's header {self._shown(self._header_name)}")
        self._pairs.append((self._header_name, self._header_value))
        self._header_name = self._header_value = b""

    def headers_finished(self) -> None:
        found = [value for name, value in self._pairs if name.lower() == b"content-disposition"]
        if len(found) != 1:
            raise FormError(f"a part has {len(found)} Content-Disposition headers; it needs one (RFC 7578 4.2)")
        # RFC 7578 5.1: names are sent as UTF-8 bytes, so the Latin-1 of header fields does not apply here.
        disposition = found[0].decode("utf-8", "replace")
        start = _disposition_type(disposition)
        if not start or start[1].lower() != "form-data":
            raise FormError(f"a part is not form-data: {self._shown(found[0])} (RFC 7578 4.2)")
        parameters: dict[str, str] = {}
        for name, quoted, text in _parameters(disposition, start.end()):
            if name in parameters:
                raise FormError(f"a part has its {name} twice: {self._shown(found[0])}")
            parameters[name] = _certain_quoted_pair(r"\1", text) if quoted else text
        if "name" not in parameters:
            raise FormError(f"a part has no name: {self._shown(found[0])} (RFC 7578 4.2)")
        self._name = parameters["name"]
        self._filename = parameters.get("filename")
        if self._filename is None:
            if len(self.form.args) >= self._max_fields:
                raise FormError(f"more than {self._max_fields} form fields")
        else:
            self._file_count += 1
            if self._file_count > self._max_files:
                raise FormError(f"more than {self._max_files} files in a form")

    def content(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def end(self) -> None:
        content = b"".join(self._content)
        if self._filename is None:
            self.form.args.add(self._name, content.decode("utf-8", "replace"))
        else:
            headers = Headers(self._pairs)
            file = FormFile(self._filename, headers.get("content-type"), headers, content)
            self.form.files.setdefault(self._name, []).append(file)

    def finish(self) -> None:
        self.finished = True

    def _count_header(self, size: int) -> None:
        self._header_size += size
        if self._header_size > self._max_part_header_size:
            raise FormError(f"the headers of a part are over {self._max_part_header_size} bytes")

    @staticmethod
    def _shown(data: bytes) -> str:
        return f"'{printable(data.decode('latin-1'))}'"
