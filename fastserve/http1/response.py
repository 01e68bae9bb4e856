"""`Response`: what a handler answers. Everything that could break the framing is refused where it is set."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from fastserve.errors import ResponseError
from fastserve.http1.cookie import Cookie
from fastserve.http1.fields import is_field_value, printable
from fastserve.http1.headers import Headers
from fastserve.http1.status import has_no_body

__all__ = ["CHECKED_CONTENT_TYPES", "BodyStream", "Response"]

BodyStream = AsyncIterable[bytes | str] | Iterable[bytes | str]

# Content types that were checked and encoded once. Bounded, as a handler may compute them.
CHECKED_CONTENT_TYPES: Final[dict[str, bytes]] = {}
MAX_CONTENT_TYPES: Final = 1000


class Response:
    """Status, headers and body of one answer. Set through `RequestCtx`, or here.

    Arguments that are refused with `ResponseError` have types that compiled code does not check itself, with TypeError:
    that of a union with a class of Python's.

    `plain_status`, `plain_type` and `plain_body` are what most responses consist of, as the renderer wants them; `plain`
    is False when there is more to it: headers, a stream, a status without a body, the end of the connection.
    """

    __slots__ = ("_close", "_headers", "plain", "plain_body", "plain_status", "plain_type", "stream", "stream_size")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An empty 200."""
        self.plain = True
        self.plain_status = 200
        self.plain_type: bytes | None = None
        """The Content-Type's value; None is the server's default, empty is none at all."""
        self.plain_body = b""
        self._headers: Headers | None = None
        self.stream: BodyStream | None = None
        """What `set_stream` was given."""
        self.stream_size = -1
        self._close = False

    @property
    def headers(self) -> Headers:
        """Headers beside those that the server writes (Date, Server, Content-Type, Content-Length, Connection, ...)."""
        headers = self._headers
        if headers is None:
            self.plain = False
            headers = self._headers = Headers()
        return headers

    @property
    def extra_headers(self) -> Headers | None:
        """As `headers`, None when there are none: looking makes no object."""
        return self._headers

    @property
    def close(self) -> bool:
        """True closes the connection after this response."""
        return self._close

    @close.setter
    def close(self, close: bool) -> None:
        self._close = close
        self.plain = False

    @property
    def status_code(self) -> int:
        return self.plain_status

    @status_code.setter
    def status_code(self, status: int) -> None:  # the getter's type: mypyc 2.4 crashes where they are not the same in C
        self.set_status_code(status)

    def set_status_code(self, status: int | HTTPStatus) -> None:
        """200..999, or 101 before a hijack (RFC 9110 15). Raises `ResponseError`; other 1xx are not final responses."""
        if type(status) is not int:
            status = _plain_int(status)
        if not 200 <= status <= 999 and status != 101:
            raise ResponseError(f"status {status!r}: a response takes 200..999, or 101 before a hijack")
        self.plain_status = status
        if has_no_body(status):
            self.plain = False

    @property
    def content_type(self) -> str | None:
        """The media type; None is the server's default, empty sends none."""
        return None if self.plain_type is None else self.plain_type.decode("latin-1")

    @content_type.setter
    def content_type(self, value: str | StrEnum) -> None:
        self.set_content_type(value)

    def set_content_type(self, value: str | StrEnum) -> None:
        """The media type, such as ``text/html; charset=utf-8``. Empty sends no Content-Type. Raises `ResponseError`."""
        encoded = CHECKED_CONTENT_TYPES.get(value)
        if encoded is None:
            if not isinstance(value, str) or not is_field_value(value):
                raise ResponseError(
                    f"Content-Type {printable(repr(value))}: takes a str without line ends or control characters"
                )
            encoded = value.encode("latin-1")
            if len(CHECKED_CONTENT_TYPES) < MAX_CONTENT_TYPES:
                CHECKED_CONTENT_TYPES[value] = encoded
        self.plain_type = encoded

    @property
    def body(self) -> bytes:
        """The whole body; empty when it is streamed."""
        return self.plain_body

    @body.setter
    def body(self, body: bytes | bytearray | memoryview | str) -> None:
        self.set_body(body)

    def set_body(self, body: bytes | bytearray | memoryview | str) -> None:
        """The whole body; str is sent as UTF-8. Takes the place of any body or stream set before. Raises `ResponseError`."""
        self.plain_body = body if type(body) is bytes else encode_body(body)
        if not self.plain:
            self.stream = None

    def set_stream(self, stream: BodyStream, size: int = -1) -> None:
        """See `RequestCtx.set_body_stream`."""
        if not isinstance(stream, AsyncIterable | Iterable) or isinstance(stream, bytes | bytearray | memoryview | str):
            raise ResponseError(f"a body stream is an iterable or async iterable of bytes, not {type(stream).__name__}")
        self.plain = False
        self.stream = stream
        self.stream_size = size
        self.plain_body = b""

    def set_cookie(self, cookie: Cookie) -> None:
        """Add a Set-Cookie header. Of cookies with the same name, domain and path the last one wins (RFC 6265 5.3)."""
        self.headers.add("Set-Cookie", cookie.render())


def encode_body(body: Any) -> bytes:
    """Body bytes of what a handler gave. Raises `ResponseError` for anything but bytes-like and str."""
    if isinstance(body, str):
        return body.encode("utf-8")
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise ResponseError(f"a body is bytes or str, not {type(body).__name__}")


def _plain_int(status: Any) -> int:
    # http.HTTPStatus is an int and welcome; True is one too and is not.
    if isinstance(status, int) and not isinstance(status, bool):
        return int(status)
    raise ResponseError(f"status {status!r}: takes an int, not {type(status).__name__}")
