"""What a request's head means, and which heads are refused: the rules that the parser leaves to us.

Pure functions from bytes to facts; each check names its section. They run on heads
that llhttp has already accepted, so names are tokens, header lines end in CRLF, nothing is
folded, and Content-Length is a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from fastserve.errors import RequestError
from fastserve.http1.fields import is_field_name, is_host, printable

__all__ = [
    "FRAMING_NAMES",
    "METHODS",
    "NO_HEAD",
    "PLAIN",
    "Fields",
    "Framing",
    "RequestHead",
    "RequestLine",
    "field_pairs",
    "read_framing",
    "read_request_line",
]

# The methods a handler may see (RFC 9110 9.3, PATCH of RFC 5789, and those of WebDAV, RFC 3253, 3744, 4791, 5323).
# CONNECT is not among them, since this is no proxy; nor are those of other protocols that llhttp knows (SOURCE, RTSP's).
METHODS: Final[dict[bytes, str]] = {
    name.encode("ascii"): name
    for name in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "TRACE",
        "PROPFIND",
        "PROPPATCH",
        "MKCOL",
        "COPY",
        "MOVE",
        "LOCK",
        "UNLOCK",
        "ACL",
        "BIND",
        "UNBIND",
        "REBIND",
        "SEARCH",
        "REPORT",
        "MKACTIVITY",
        "CHECKOUT",
        "MERGE",
        "MKCALENDAR",
        "LINK",
        "UNLINK",
        "PURGE",
        "QUERY",
    ]
}

_http_version: Final = re.compile(rb"HTTP/[0-9]+\.[0-9]+\Z").match
_absolute_form: Final = re.compile(
    rb"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://(?P<authority>[^/?]*)(?P<rest>.*)\Z", re.DOTALL
).match


class RequestLine(NamedTuple):
    """`method` as str, `target` in origin-form or ``*``, HTTP/1.`minor`, `authority` of an absolute-form or None."""

    method: str
    target: bytes
    minor: int
    authority: bytes | None


class Framing(NamedTuple):
    """How one request is framed and what its connection is asked to do (RFC 9112 6 and 9)."""

    content_length: int = 0
    chunked: bool = False
    keep_alive: bool = True
    expect_continue: bool = False
    upgrade: bool = False
    host: bytes | None = None

    @property
    def has_body(self) -> bool:
        return self.chunked or self.content_length > 0


PLAIN: Final = Framing()
"""The framing of most requests: HTTP/1.1, no body, keep-alive, Host not looked at yet."""

Fields = dict[bytes, bytes] | Sequence[tuple[bytes, bytes]]
"""Header fields as sent: name to value, or pairs in order where a name came twice."""


class RequestHead:
    """What stands behind a request's target: version and header fields, and what they mean.

    Requests with the same header block may share one, and `fields` may be the parser's own: read it within the request.
    """

    __slots__ = ("content_length", "fields", "framing", "minor", "plain")

    def __init__(self, minor: int, fields: Fields, framing: Framing, plain: bool = True) -> None:
        self.minor = minor
        self.fields = fields
        self.framing = framing
        self.content_length = framing.content_length
        self.plain = plain and minor == 1 and framing.keep_alive
        """True when the response has a body behind a Content-Length, and no Connection header."""


NO_HEAD: Final = RequestHead(1, {}, PLAIN)


def read_request_line(line: bytes) -> RequestLine:
    """The request line without its CRLF, strictly (RFC 9112 3). Raises `RequestError` 400, 501 or 505."""
    if b"\n" in line:
        # llhttp takes it for the end of an HTTP/0.9 line, and what follows for a header.
        raise RequestError(400, "a bare LF in the request line")
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[1]:
        # RFC 9112 3: single spaces, nothing before, nothing after. Peers that split on runs of white space see another target.
        raise RequestError(400, "the request line is not 'METHOD target HTTP/1.1'")
    method_token, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if _http_version(version):
            raise RequestError(505, "only HTTP/1.1 and HTTP/1.0 are served")
        raise RequestError(400, "the request line does not end in an HTTP version")
    method = METHODS.get(method_token)
    if method is None:
        name = method_token.decode("latin-1")
        raise RequestError(501 if is_field_name(name) else 400, f"method {printable(name)} is not served")
    authority = None
    if target[0] != 0x2F:
        if target == b"*":
            if method != "OPTIONS":  # RFC 9112 3.2.4
                raise RequestError(400, "the target '*' is for OPTIONS alone")
        else:
            absolute = _absolute_form(target)
            if absolute is None:
                raise RequestError(400, "the request target is neither a path nor a URL")
            authority = absolute["authority"]
            if not authority or b"@" in authority:  # RFC 9110 4.2.1 and 4.2.4
                raise RequestError(400, "the target's authority is empty or carries user information")
            target = absolute["rest"] or (b"*" if method == "OPTIONS" else b"/")
            if target[:1] == b"?":
                target = b"/" + target
    if b"#" in target:  # RFC 9112 3.2: no fragment in a target
        raise RequestError(400, "the request target has a fragment")
    return RequestLine(method, target, 1 if version == b"HTTP/1.1" else 0, authority)


def field_pairs(head: bytes) -> list[tuple[bytes, bytes]]:
    """Each field line of `head` in order, repeated names included. `head` is request line to blank line, as llhttp took it."""
    pairs = []
    for line in head[head.index(b"\r\n") + 2 : -4].split(b"\r\n"):
        name, _, value = line.partition(b":")
        pairs.append((name, value.strip(b" \t")))
    return pairs


def read_framing(pairs: Iterable[tuple[bytes, bytes]], minor: int, authority: bytes | None) -> Framing:
    """What the fields say of body, connection and host. Raises `RequestError` 400, 417 or 501.

    `pairs` holds each field line once; `minor` is 0 or 1; `authority` that of an absolute-form target.
    """
    content_length = 0
    chunked = close = keep_alive = expect_continue = upgrade_token = upgrade = False
    host: bytes | None = None
    for name, value in pairs:
        lower = name.lower()
        if lower not in FRAMING_NAMES:
            continue
        value = value.rstrip(b" \t")  # RFC 9112 5.1; llhttp keeps it
        if lower == b"host":
            if host is not None:  # RFC 9112 3.2
                raise RequestError(400, "two Host headers")
            if not is_host(value):
                raise RequestError(400, "the Host header is not a host")
            host = value
        elif lower == b"content-length":
            content_length = int(value.lstrip(b"0") or b"0")  # int() refuses thousands of zeros; llhttp does not
        elif lower == b"transfer-encoding":
            if (
                minor == 0
            ):  # RFC 9112 6.1: the sender does not know what it says; bodies end in different places for different peers
                raise RequestError(400, "Transfer-Encoding on HTTP/1.0")
            if chunked:
                raise RequestError(400, "two Transfer-Encoding headers")
            if value.lower() != b"chunked":  # RFC 9112 6.1: 501 for a coding that is not understood
                raise RequestError(501, "no transfer coding but 'chunked' is served")
            chunked = True
        elif lower in CONNECTION_NAMES:
            tokens = [token.strip(b" \t") for token in value.lower().split(b",")]
            close = close or b"close" in tokens
            keep_alive = keep_alive or b"keep-alive" in tokens
            upgrade_token = upgrade_token or b"upgrade" in tokens
        elif lower == b"upgrade":
            upgrade = True
        elif minor:  # Expect; RFC 9110 10.1.1: ignored from HTTP/1.0
            if value.lower() != b"100-continue":
                raise RequestError(417, "no expectation but '100-continue' is served")
            expect_continue = True
    if host is None and minor:  # RFC 9112 3.2
        raise RequestError(400, "no Host header")
    if authority is not None:  # RFC 9112 3.2.2: it wins over Host
        if not is_host(authority):
            raise RequestError(400, "the target's authority is not a host")
        host = authority
    upgrade = upgrade and upgrade_token and minor == 1  # RFC 9110 7.8
    if upgrade and (chunked or content_length):
        # llhttp reads no body after an upgrade: what follows would be read as the next request.
        raise RequestError(400, "an Upgrade request with a body is not served")
    persistent = not close and (minor == 1 or keep_alive)  # RFC 9112 9.3
    return Framing(content_length, chunked, persistent, expect_continue, upgrade, host)


# One and the same to llhttp: it reads nothing after the 'close' of either.
CONNECTION_NAMES: Final = frozenset({b"connection", b"proxy-connection"})
FRAMING_NAMES: Final = (
    frozenset({b"host", b"content-length", b"transfer-encoding", b"upgrade", b"expect"}) | CONNECTION_NAMES
)
