"""`ClientResponse`: what a server answered. str at the surface, bytes underneath, decoded when asked for and not before."""

from __future__ import annotations

import codecs
import json as json_module
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final

from fastserve.errors import ContentCodingError, FormError, StatusError
from fastserve.http1.content_coding import decode_body
from fastserve.http1.fields import printable
from fastserve.http1.forms import parse_media_type
from fastserve.http1.headers import Headers
from fastserve.http1.response_head import ResponseHead
from fastserve.http1.status import reason_phrase

__all__ = ["REDIRECT_STATUSES", "ClientResponse"]

REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})

# What Python knows as encodings and no server means: decoding takes quadratic time, or raises, or runs escapes.
NOT_CHARSETS: Final = frozenset(
    {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "mbcs", "oem"}
)


class ClientResponse:
    """One response.

    Attributes:
        head: the head as it came, shared with all responses of the same head.
        body: the whole body as it came, still in its content coding; empty while it is streamed.
        trailer_fields: the pairs behind a chunked body.
        stream: what reads a streamed body, set by the client; None when the body was read whole.
    """

    __slots__ = ("_headers", "body", "head", "stream", "trailer_fields")

    def __init__(
        self,
        head: ResponseHead,
        body: bytes = b"",
        trailer_fields: Iterable[tuple[bytes, bytes]] = (),
        stream: AsyncIterator[bytes] | Iterator[bytes] | None = None,
    ) -> None:
        self.head = head
        self.body = body
        self.trailer_fields = trailer_fields
        self.stream = stream
        self._headers: Headers | None = None

    @property
    def status_code(self) -> int:
        """100..999; in practice a final status, or 101."""
        return self.head.status

    @property
    def reason(self) -> str:
        """What stands behind the status; it may be empty, and says nothing to programs (RFC 9112 4)."""
        return self.head.reason.decode("latin-1")

    @property
    def http_version(self) -> str:
        """``"HTTP/1.1"`` or ``"HTTP/1.0"``."""
        return "HTTP/1.1" if self.head.minor else "HTTP/1.0"

    @property
    def headers(self) -> Headers:
        """The header fields; names are case-insensitive. Trailers are kept apart (RFC 9110 6.5.1)."""
        headers = self._headers
        if headers is None:
            headers = self._headers = Headers(self.head.fields)
        return headers

    @property
    def trailers(self) -> Headers:
        """Fields sent behind a chunked body. There when the body has been read."""
        return Headers(self.trailer_fields)

    @property
    def content_type(self) -> str | None:
        return self.headers.get("content-type")

    @property
    def charset(self) -> str:
        """The charset that Content-Type names, when Python knows it as an encoding of text; else ``"utf-8"``."""
        value = self.content_type
        if value is not None and ";" in value:
            try:
                name = parse_media_type(value)[1].get("charset", "utf-8")
                if codecs.lookup(name).name not in NOT_CHARSETS:
                    b" ".decode(name, "replace")  # of zlib, rot13 and the like: LookupError
                    return name
            except (FormError, LookupError, ValueError):
                pass
        return "utf-8"

    @property
    def text(self) -> str:
        """The body as text, by `charset`; what is not of it becomes U+FFFD."""
        return self.body.decode(self.charset, "replace")

    def json(self, loads: Callable[[bytes], Any] = json_module.loads) -> Any:
        """The body as JSON. `loads` may be another library's (orjson.loads, msgspec.json.decode), and raises its own errors.

        Raises `ValueError` for a body that is not JSON.
        """
        try:
            return loads(self.body)
        except RecursionError as error:
            raise ValueError(f"the body is not JSON that can be read: {error}") from error

    @property
    def content_encodings(self) -> list[str]:
        """Values of Content-Encoding, in the order of application."""
        return self.headers.get_all("content-encoding")

    def decode_content(self, max_size: int | None = None) -> None:
        """Replace `body` by what it is without its content coding; Content-Encoding and Content-Length go with it.

        Raises `ContentCodingError` and `ResponseTooLarge` (over `max_size` bytes), and leaves the body as it was.
        """
        encodings = self.content_encodings
        if not encodings:
            return
        if self.stream is not None:
            raise ContentCodingError("the body is streamed: decode its pieces")
        self.body = decode_body(self.body, encodings, max_size)
        self.headers.discard("content-encoding")
        self.headers.discard("content-length")

    @property
    def is_redirect(self) -> bool:
        """True for 301, 302, 303, 307 and 308 with a Location."""
        return self.head.status in REDIRECT_STATUSES and "location" in self.headers

    def raise_for_status(self) -> ClientResponse:
        """The response itself below 400; raises `StatusError` from there on."""
        status = self.head.status
        if status < 400:
            return self
        reason = self.reason or reason_phrase(status).decode("ascii")
        raise StatusError(f"{status} {printable(reason)}".rstrip(), status_code=status, response=self)

    def __repr__(self) -> str:
        return f"<ClientResponse {self.head.status} {printable(self.reason)}>"
