"""`Request`: what a client asked for. str at the surface, bytes underneath, decoded when asked for and not before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastserve.errors import RequestError
from fastserve.http1.args import Args
from fastserve.http1.cookie import parse_cookies
from fastserve.http1.forms import Form, parse_form
from fastserve.http1.head import NO_HEAD, Framing, RequestHead
from fastserve.http1.headers import Headers
from fastserve.http1.uri import URI

__all__ = ["Request"]


class Request:
    """One request, filled by `RequestParser`.

    `method` is str (``"GET"``), `target` the bytes of the request target in origin-form (or ``b"*"``), `head` what stands
    behind it, `body` bytes (empty while it is streamed).
    """

    __slots__ = ("body", "head", "method", "scheme", "surface", "target")

    def __init__(self) -> None:
        self.method = "GET"
        self.target = b"/"
        self.head = NO_HEAD
        self.body = b""
        self.scheme = "http"
        self.surface: dict[str, Any] | None = None
        """What was decoded on demand, by property; and trailers."""

    def begin(self, method: str, target: bytes, head: RequestHead) -> None:
        """Take the head of the next request; everything of the last one is gone."""
        self.method = method
        self.target = target
        self.head = head
        self.body = b""
        self.surface = None

    def add_trailers(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Fields behind a chunked body, which has come to its end."""
        self._decoded("trailers", lambda: Headers(fields))

    @property
    def minor(self) -> int:
        """0 or 1, for HTTP/1.0 and 1.1."""
        return self.head.minor

    @property
    def framing(self) -> Framing:
        """What the head says of body and connection."""
        return self.head.framing

    def _decoded(self, name: str, decode: Callable[[], Any]) -> Any:
        surface = self.surface
        if surface is None:
            surface = self.surface = {}
        elif name in surface:
            return surface[name]
        value = surface[name] = decode()
        return value

    @property
    def protocol(self) -> str:
        """``"HTTP/1.1"`` or ``"HTTP/1.0"``."""
        return "HTTP/1.1" if self.minor else "HTTP/1.0"

    @property
    def headers(self) -> Headers:
        """The header fields; names are case-insensitive. Trailers are kept apart (RFC 9110 6.5.1)."""
        headers: Headers = self._decoded("headers", self._read_headers)
        return headers

    def _read_headers(self) -> Headers:
        fields = self.head.fields
        return Headers(fields.items() if isinstance(fields, dict) else fields)

    @property
    def trailers(self) -> Headers:
        """Fields sent behind a chunked body; repeated names included. There when the body has been read."""
        surface = self.surface
        trailers: Headers | None = None if surface is None else surface.get("trailers")
        return Headers() if trailers is None else trailers

    @property
    def host(self) -> str:
        """Host and port that were asked for: the target's own authority, else the Host header (RFC 9112 3.2.2), else empty."""
        host = self.framing.host
        if host is None:
            return self.headers.get("host") or ""
        return host.decode("latin-1")

    @property
    def uri(self) -> URI:
        uri: URI = self._decoded("uri", lambda: URI(self.target, self.host, self.scheme))
        return uri

    @property
    def path(self) -> str:
        """The path, percent-decoded as UTF-8."""
        return self.uri.path

    @property
    def query_string(self) -> str:
        """What follows the ``?``, as sent."""
        return self.uri.query_string

    @property
    def query_args(self) -> Args:
        """Arguments of the query string. Raises `RequestError` 400 beyond 1000 of them."""
        return self.uri.query_args

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name; of a repeated name the first, as RFC 6265 5.4 orders them most specific first."""
        cookies: dict[str, str] = self._decoded("cookies", lambda: parse_cookies(self.headers.get_all("cookie")))
        return cookies

    @property
    def content_type(self) -> str | None:
        return self.headers.get("content-type")

    @property
    def form(self) -> Form:
        """An urlencoded or multipart body. Empty for other content types; raises `FormError` for a malformed one."""
        form: Form = self._decoded("form", lambda: parse_form(self.content_type, self.body))
        return form

    def json(self, loads: Callable[[bytes], Any] = json.loads) -> Any:
        """The body as JSON. `loads` may be another library's (orjson.loads, msgspec.json.decode). Raises `RequestError` 400."""
        try:
            return loads(self.body)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is not JSON: {error}") from error
