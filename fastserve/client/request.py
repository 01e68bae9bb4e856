"""`ClientRequest`: what a client asks for. str at the surface; whatever cannot be sent is refused where it is set."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, NamedTuple, cast

from fastserve.errors import FormError, InvalidRequest, ResponseError
from fastserve.http1.fields import is_field_name, is_host, printable
from fastserve.http1.form_encoding import FormFields, FormFiles, encode_multipart, encode_urlencoded, to_args
from fastserve.http1.headers import SECRET_NAMES, Headers, checked_pair
from fastserve.http1.percent import percent_encode

__all__ = ["ClientRequest", "Origin", "RequestBody", "RequestHeaders", "split_url"]

RequestBody = bytes | bytearray | memoryview | str | Iterable[bytes | str] | AsyncIterable[bytes | str]
"""A body: bytes, text (sent as UTF-8), or an (async) iterable of them, which is sent as it comes."""
RequestHeaders = Headers | Mapping[str, Any] | Iterable[tuple[str, Any]]
"""Headers: a mapping or pairs of names to values, str or int."""

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")
DEFAULT_PORTS = {"http": 80, "https": 443}

# Made once: `json.dumps` makes one for each call that has options.
_to_json = json_module.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_url = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?\Z", re.DOTALL
).match
_controls = re.compile(r"[\x00-\x1f\x7f]").search
_port = re.compile(r":([0-9]*)\Z").search

# A program asks for the same URLs with the same headers again and again. Bounded, as it may make them up; safe between
# threads, as each step is one operation of a dict and what is kept cannot change.
MAX_KNOWN = 1000
MAX_KNOWN_LENGTH = 1024


class Origin(NamedTuple):
    """Scheme, host and port (RFC 9110 4.3.1): what credentials belong to. `host` is in lower case, as in a URL (``[::1]``)."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What the Host header says of it: the port only where it is not the scheme's own (RFC 9110 7.2)."""
        return self.host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


_known_urls: dict[str, tuple[Origin | None, str]] = {}


def split_url(url: str) -> tuple[Origin | None, str]:
    """The origin that `url` names, None for a mere path, and its target in origin-form: percent-encoded, without a fragment.

    Raises `InvalidRequest` for anything but a path that begins with ``/``, ``*``, a query, or an http or https URL.
    """
    if not isinstance(url, str):
        raise InvalidRequest(f"the URL is {type(url).__name__}, not str")
    known = _known_urls.get(url)
    if known is None:
        known = _split(url)
        if len(url) <= MAX_KNOWN_LENGTH:
            if len(_known_urls) >= MAX_KNOWN:
                _known_urls.clear()
            _known_urls[url] = known
    return known


def _split(url: str) -> tuple[Origin | None, str]:
    if _controls(url):  # what a URL parser that drops them sees is another URL
        raise InvalidRequest(f"the URL has control characters: '{printable(url)}'")
    if not url or url[0] in "/?#":
        return None, _target(url.partition("#")[0])
    if url == "*":
        return None, "*"
    parts = _url(url)
    if parts is None:
        raise InvalidRequest(f"'{printable(url)}' is neither a path that begins with '/' nor a URL with '://'")
    scheme = parts["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise InvalidRequest(f"scheme '{printable(scheme)}': only http and https are spoken")
    authority = parts["authority"]
    if "@" in authority:  # RFC 9110 4.2.4
        raise InvalidRequest("a URL with a user name or password: send an Authorization header")
    if not authority.isascii():
        raise InvalidRequest(
            f"host '{printable(authority)}' is not ASCII: write an international name in its 'xn--' form"
        )
    port_text = _port(authority)
    host = authority[: port_text.start()] if port_text else authority
    port = int(port_text[1]) if port_text and port_text[1] and len(port_text[1]) <= 5 else 0
    if (port_text and port_text[1] and not 0 < port <= 65535) or not host or not is_host(host.encode("ascii")):
        raise InvalidRequest(f"'{printable(authority)}' is not a host with an optional port 1..65535")
    return Origin(scheme, host.lower(), port or DEFAULT_PORTS[scheme]), _target(parts["rest"])


def _target(rest: str) -> str:
    path, mark, query = rest.partition("?")
    try:
        return (percent_encode(path) or "/") + mark + percent_encode(query)
    except UnicodeEncodeError:
        raise InvalidRequest(f"the URL has no UTF-8 form: '{printable(rest)}'") from None


class ClientRequest:
    """One request. The client sends it any number of times, unless its body is a stream.

    Args:
        method: ``"GET"``; letters are taken in upper case.
        url: a path with an optional query (``"/search?q=1"``), or a whole http or https URL. Spaces and what is not
            ASCII are percent-encoded; a fragment is dropped.
        params: arguments that are added to the query.
        headers: a mapping, pairs, or `Headers`, which are copied. A name may come several times in pairs.
        json, form, files, body: at most one kind of body, but `form` and `files` go together. `json` and forms bring
            their Content-Type, unless the headers have one; ``json=None`` is no body: send null as ``body="null"``.

    Attributes:
        method, target: as they are sent; target in origin-form, ASCII.
        origin: what a whole URL named, None for a path: then it is the client's own.
        content: the whole body, empty when there is none or it is a stream.
        stream: the (async) iterable that was given as a body, or None. It is read once.

    Raises `InvalidRequest` for what cannot be sent.
    """

    __slots__ = ("_headers", "content", "method", "origin", "stream", "target")

    def __init__(
        self,
        method: str,
        url: str,
        *,
        params: FormFields | None = None,
        headers: RequestHeaders | None = None,
        json: Any = None,
        form: FormFields | None = None,
        files: FormFiles | None = None,
        body: RequestBody | None = None,
    ) -> None:
        if method not in METHODS:
            if not isinstance(method, str) or not is_field_name(method):
                raise InvalidRequest(f"method '{printable(str(method), 50)}' is not a token (RFC 9110 9.1)")
            method = method.upper()
        self.method = method
        self.origin, self.target = split_url(url)
        if params is not None:
            self._add_params(params)
        self._headers = _to_headers(headers) if headers is not None else None
        self.content = b""
        self.stream: Iterable[bytes | str] | AsyncIterable[bytes | str] | None = None
        if json is not None or form is not None or files is not None or body is not None:
            self._set_body(json, form, files, body)

    @property
    def headers(self) -> Headers:
        """The header fields, to be changed until the request is sent."""
        headers = self._headers
        if headers is None:
            headers = self._headers = Headers()
        return headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    def _add_params(self, params: FormFields) -> None:
        try:
            query = to_args(params).encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"params: no UTF-8 form: {error.reason}") from None
        except TypeError as error:
            raise InvalidRequest(f"params: {error}") from None
        if query:
            if self.target == "*":
                raise InvalidRequest("the target '*' takes no params (RFC 9112 3.2.4)")
            path, mark, before = self.target.partition("?")
            self.target = f"{path}?{before}&{query}" if mark and before else f"{path}?{query}"

    def _set_body(self, json: Any, form: FormFields | None, files: FormFiles | None, body: RequestBody | None) -> None:
        if (json is not None) + (form is not None or files is not None) + (body is not None) > 1:
            raise InvalidRequest("a request takes one of json, form (with files) and body")
        content_type = None
        if json is not None:
            try:
                self.content = _to_json(json).encode()
            except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
                raise InvalidRequest(f"json: {error}") from error
            content_type = "application/json"
        elif body is None:
            try:
                if files is not None:
                    content_type, self.content = encode_multipart(form or (), files)
                else:
                    self.content = encode_urlencoded(form or ())
                    content_type = "application/x-www-form-urlencoded"
            except (FormError, TypeError) as error:
                raise InvalidRequest(f"form: {error}") from error
        elif isinstance(body, str):
            try:
                self.content = body.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(f"body: no UTF-8 form: {error.reason}") from None
        elif isinstance(body, bytes | bytearray | memoryview):
            self.content = bytes(body)
        elif isinstance(body, Mapping) or not isinstance(body, Iterable | AsyncIterable):
            raise InvalidRequest(
                f"a body is bytes, str or an (async) iterable of them, not {type(body).__name__}: see json= and form="
            )
        else:
            self.stream = cast("Iterable[bytes | str] | AsyncIterable[bytes | str]", body)
        if content_type is not None and (self._headers is None or "content-type" not in self._headers):
            # Not remembered with a boundary, which is never the same again.
            pair = (_to_pair if files is None else checked_pair)("Content-Type", content_type)
            self._headers = Headers((*self.headers.raw, pair))

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; of a stream what its Content-Length header says, None (sent in chunks) without one.

        Raises `InvalidRequest` for a stream with a Content-Length header that is no number.
        """
        if self.stream is None:
            return len(self.content)
        announced = self.headers.get("content-length")
        if announced is None:
            return None
        if not (announced.isascii() and announced.isdigit() and len(announced) <= 18):
            raise InvalidRequest(f"Content-Length '{printable(announced, 50)}' is not a number of at most 18 digits")
        return int(announced)

    def __repr__(self) -> str:
        return f"<ClientRequest {self.method} {self.origin or ''}{self.target}>"


_known_pairs: dict[tuple[str, str], tuple[bytes, bytes]] = {}
"""Headers that were checked, with their bytes; none of `SECRET_NAMES`, which would outlive their use."""


def _to_headers(headers: RequestHeaders) -> Headers:
    if isinstance(headers, Headers):
        return Headers(headers.raw)
    # A dict first: whether it is a Mapping takes an ABC long to say.
    pairs: Iterable[tuple[str, Any]] = headers.items() if isinstance(headers, (dict, Mapping)) else headers
    try:
        return Headers([_to_pair(name, value) for name, value in pairs])
    except ResponseError as error:
        raise InvalidRequest(str(error)) from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"headers: a mapping or pairs of str to str or int: {error}") from None


def _to_pair(name: str, value: Any) -> tuple[bytes, bytes]:
    if type(value) is not str:  # 1 and True are the same key, and one of them is refused
        return checked_pair(name, value)
    known = _known_pairs.get((name, value))
    if known is not None:
        return known
    pair = checked_pair(name, value)
    if len(name) + len(value) <= MAX_KNOWN_LENGTH and pair[0].lower() not in SECRET_NAMES:
        if len(_known_pairs) >= MAX_KNOWN:
            _known_pairs.clear()
        _known_pairs[name, value] = pair
    return pair
