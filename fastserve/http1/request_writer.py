"""`RequestWriter`: a client request's head as bytes, and how its body is framed (RFC 9112 3, 6).

Invariants (tests/http1/test_request_writer.py):

* What is rendered is one head: no method, target, host, name or value with CR, LF, NUL or another control gets into
  it, however it was built. It is refused with `InvalidRequest`, and nothing is written.
* The framing is the client's: at most one Content-Length, or ``Transfer-Encoding: chunked``, never both, and always
  what the body really is.
* A head is rendered once: the same (method, target, host, headers) is a look-up. What is kept is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fastserve.errors import InvalidRequest
from fastserve.http1.fields import is_field_name, is_field_value, is_host, printable
from fastserve.http1.headers import Headers

__all__ = ["RequestWriter", "asks_to_close"]

DEFAULT_USER_AGENT: Final = "fastserve"

# Heads that are kept, of each kind; when there are more they are all dropped. A head over MAX_CACHED_HEAD is not kept.
MAX_CACHED_HEADS: Final = 1000
MAX_CACHED_HEAD: Final = 2048

# RFC 9110 8.6: these say what they enclose even when it is nothing; a server may answer 411 otherwise.
ENCLOSING_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})

# RFC 9112 3.2: visible ASCII. No fragment: what follows a '#' is for the client itself.
_origin_form: Final = re.compile(r"/[!-\"$-~]*\Z").match
_absolute_form: Final = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+(?:[/?][!-\"$-~]*)?\Z", re.ASCII).match
_visible: Final = re.compile(r"[!-~]+\Z").match


def asks_to_close(headers: Headers) -> bool:
    """True when the request's own headers end the connection behind its response (RFC 9112 9.6)."""
    if not [name for name, _ in headers.raw if len(name) == 10 and name.lower() == b"connection"]:
        return False  # without an index of all of them
    return any(
        token.strip(" \t").lower() == "close" for value in headers.get_all("connection") for token in value.split(",")
    )


class RequestWriter:
    """Renders the heads of requests to one host.

    `host` is what Host says: the authority, without a default port; a request's own Host header wins. `user_agent` is
    sent where a request has none of its own; None sends none.
    """

    __slots__ = ("_host", "_prefixes", "_user_agent", "plain_heads")

    def __init__(self, host: str, user_agent: str | None = DEFAULT_USER_AGENT) -> None:
        self._host = _checked_host(host)
        self._user_agent = b""
        if user_agent is not None:
            self._user_agent = b"User-Agent: %b\r\n" % _checked_value("User-Agent", user_agent)
        self.plain_heads: dict[tuple[str, str], bytes] = {}
        """Whole heads of requests with neither headers nor body, by (method, target): see `plain_head`."""
        self._prefixes: dict[
            tuple[str, str, bool, tuple[tuple[bytes, bytes], ...]], tuple[bytes, bool, int | None]
        ] = {}

    def plain_head(self, method: str, target: str) -> bytes:
        """The head of a request with neither headers nor body. Raises `InvalidRequest`."""
        head = self.plain_heads.get((method, target))
        if head is None:
            head = self.head(method, target)
            if len(head) <= MAX_CACHED_HEAD:
                if len(self.plain_heads) >= MAX_CACHED_HEADS:
                    self.plain_heads.clear()
                self.plain_heads[method, target] = head
        return head

    def head(
        self,
        method: str,
        target: str,
        headers: Headers | None = None,
        *,
        content_length: int | None = None,
        chunked: bool = False,
        close: bool = False,
    ) -> bytes:
        """The head of any request, from request line to blank line.

        `content_length` is the body's, None when there is none or it is `chunked`. `close` asks the server to close
        the connection behind its response.

        Of the headers that are the client's to write, the request's own Content-Length and Transfer-Encoding must say
        what is true and are written once; its Connection is sent as it is, beside the ``close``. Raises `InvalidRequest`.
        """
        fields: tuple[tuple[bytes, bytes], ...] = tuple(headers.raw) if headers is not None else ()
        key = (method, target, close, fields)
        known = self._prefixes.get(key)
        if known is None:
            known = self._render(method, target, fields, close)
            if len(known[0]) <= MAX_CACHED_HEAD:
                if len(self._prefixes) >= MAX_CACHED_HEADS:
                    self._prefixes.clear()
                self._prefixes[key] = known
        prefix, coded, announced = known
        if chunked:
            if content_length is not None:
                raise InvalidRequest("a body is sent with its length or in chunks, not both (RFC 9112 6.2)")
            if announced is not None:
                raise InvalidRequest("Content-Length beside a body whose length is not known: leave the header out")
            if method == "TRACE":
                raise _body_of_trace()
            return prefix + b"Transfer-Encoding: chunked\r\n\r\n"
        if coded:
            raise InvalidRequest(
                "Transfer-Encoding is written by the client: leave it out, or give the body as a stream"
            )
        if announced is not None and announced != (content_length or 0):
            raise InvalidRequest(
                f"Content-Length says {announced} and the body has {content_length or 0} bytes: leave the header out"
            )
        if content_length:
            if content_length < 0:
                raise InvalidRequest(f"the length of a body is {content_length}")
            if method == "TRACE":
                raise _body_of_trace()
            return prefix + b"Content-Length: %d\r\n\r\n" % content_length
        if announced is not None or method in ENCLOSING_METHODS:
            return prefix + b"Content-Length: 0\r\n\r\n"
        return prefix + b"\r\n"

    def _render(
        self, method: str, target: str, fields: Iterable[tuple[bytes, bytes]], close: bool
    ) -> tuple[bytes, bool, int | None]:
        """All lines but the framing's; whether the fields say chunked; the Content-Length that they announce."""
        host = self._host
        own_host = coded = False
        announced: int | None = None
        user_agent = self._user_agent
        lines = []
        for name_bytes, value_bytes in fields:
            # Checked again, whoever checked before: pairs may be another message's, or built by hand.
            name = name_bytes.decode("latin-1")
            if not is_field_name(name):
                raise InvalidRequest(f"header name '{printable(name)}' is not a token (RFC 9110 5.6.2)")
            value = _checked_value(name, value_bytes.decode("latin-1"))
            lower = name_bytes.lower()
            if lower == b"host":
                if own_host:
                    raise InvalidRequest("two Host headers (RFC 9112 3.2)")
                host = _checked_host(value.decode("latin-1"))
                own_host = True
                continue
            if lower == b"content-length":
                length = int(value) if value.isdigit() and len(value) <= 18 else -1
                if length < 0 or announced not in (None, length):
                    raise InvalidRequest("Content-Length must be one number of at most 18 digits: leave it out")
                announced = length
                continue
            if lower == b"transfer-encoding":
                if coded or value.lower() != b"chunked":
                    raise InvalidRequest("no transfer coding but 'chunked' is sent, once: leave Transfer-Encoding out")
                coded = True
                continue
            if lower == b"user-agent":
                user_agent = b""
            lines.append(b"%b: %b\r\n" % (name_bytes, value))
        if close:
            lines.append(b"Connection: close\r\n")
        first = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (_checked_method(method), _checked_target(method, target), host)
        return b"".join([first, user_agent, *lines]), coded, announced


def _checked_method(method: str) -> bytes:
    if not is_field_name(method):
        raise InvalidRequest(f"method '{printable(method, 50)}' is not a token (RFC 9110 9.1)")
    if method == "CONNECT":  # RFC 9110 9.3.6: its response has no body, and another protocol behind it
        raise InvalidRequest("method CONNECT: this client makes no tunnels")
    return method.encode("ascii")


def _checked_target(method: str, target: str) -> bytes:
    if not (
        _origin_form(target)
        or (target == "*" and method == "OPTIONS")  # RFC 9112 3.2.4
        or (_absolute_form(target) and _visible(target))
    ):
        raise InvalidRequest(
            f"target '{printable(target)}': takes a path that begins with '/', a URL, or '*' for OPTIONS, in visible"
            " ASCII without a fragment: percent-encode the rest (RFC 9112 3.2)"
        )
    return target.encode("ascii")


def _checked_host(host: str) -> bytes:
    try:
        encoded = host.encode("ascii")
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"host '{printable(host)}' is not ASCII: write an international name in its 'xn--' form"
        ) from None
    if not is_host(encoded):
        raise InvalidRequest(f"host '{printable(host)}' is not a host with an optional port (RFC 9110 7.2)")
    return encoded


def _checked_value(name: str, value: str) -> bytes:
    if not is_field_value(value):
        raise InvalidRequest(
            f"header {name}: the value takes Latin-1 without control characters or outer white space (RFC 9110 5.5):"
            f" '{printable(value)}'"
        )
    return value.encode("latin-1")


def _body_of_trace() -> InvalidRequest:
    return InvalidRequest("TRACE takes no body (RFC 9110 9.3.8)")
