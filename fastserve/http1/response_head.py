"""What a response's head means to a client, and which heads are refused: the rules that the parser leaves to us.

Pure functions from bytes to facts, as `head` is for requests; each check names its section. They run on heads that
llhttp has already accepted, so names are tokens, lines end in CRLF, nothing is folded, and Content-Length is a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from fastserve.errors import MalformedResponse, ResponseTooLarge
from fastserve.http1.fields import printable
from fastserve.http1.head import field_pairs
from fastserve.http1.status import has_no_body

__all__ = ["CHUNKED_BODY", "UNTIL_CLOSE", "ResponseHead", "read_response_head"]

CHUNKED_BODY: Final = -1
UNTIL_CLOSE: Final = -2

# RFC 9112 4. Many servers leave out the space before an empty reason, and every client reads it. llhttp takes control
# characters in the reason, versions 0.9 and 2.0, other protocols' names and blank lines before the line: not here.
_status_line: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n").match


# What decides where the body ends and whether the connection stays; the value without the white space before it.
_framing_lines: Final = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|proxy-connection):[ \t]*([^\r\n]*)", re.IGNORECASE
).finditer


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """One response's head. Immutable, so that every response with the same bytes may share it.

    `head` is what was received. `content_length` is what was announced, None without one. `body_length` is how many bytes
    of body follow to any method but HEAD: a number, `CHUNKED_BODY` or `UNTIL_CLOSE`. `keep_alive` is what the head says
    of the connection (RFC 9112 9.3); a body that ends with it is told apart.
    """

    head: bytes
    status: int
    reason: bytes
    minor: int
    content_length: int | None
    body_length: int
    keep_alive: bool
    _fields: tuple[tuple[bytes, bytes], ...] | None = field(default=None, repr=False, compare=False)

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header lines in order, as sent. Taken apart when they are first asked for: many a caller never does."""
        fields = self._fields
        if fields is None:
            fields = tuple(field_pairs(self.head)) if self.head.count(b"\r\n") > 2 else ()
            object.__setattr__(self, "_fields", fields)
        return fields

    @property
    def informational(self) -> bool:
        """True for 1xx but 101: another response follows (RFC 9110 15.2). 101 is the last of its connection."""
        return self.status < 200 and self.status != 101


def read_response_head(head: bytes, max_header_count: int) -> ResponseHead:
    """`head` from status line to blank line. Raises `MalformedResponse`, or `ResponseTooLarge` for too many headers."""
    line = _status_line(head)
    if line is None:
        shown = printable(head[: head.find(b"\r\n")].decode("latin-1"), 80)
        raise MalformedResponse(f"the status line is not 'HTTP/1.1 nnn reason' (RFC 9112 4): '{shown}'")
    minor = int(line[1])
    status = int(line[2])
    if head.count(b"\r\n") - 2 > max_header_count:  # those of the status line and the blank one
        raise ResponseTooLarge(f"the response has more than {max_header_count} headers", phase="head")
    content_length: int | None = None
    chunked = close = keep_alive = False
    for match in _framing_lines(head):
        name, value = match.groups()
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"content-length":
            if content_length is not None:
                # Equal ones too, as llhttp does (RFC 9112 6.3 rule 5 allows either): two writers made this head, and what
                # they agree on today is where a response is split tomorrow.
                raise MalformedResponse("two Content-Length headers (RFC 9112 6.3)")
            content_length = int(value.lstrip(b"0") or b"0")  # int() refuses thousands of zeros; llhttp does not
        elif name == b"transfer-encoding":
            if minor == 0:  # RFC 9112 6.1: the framing is faulty, the sender does not know what it says
                raise MalformedResponse("Transfer-Encoding on HTTP/1.0 (RFC 9112 6.1)")
            if chunked or value.lower() != b"chunked":
                # Not asked for (no TE was sent), and where one does not end in chunked the body has no end of its own.
                raise MalformedResponse("the transfer coding is not exactly 'chunked' (RFC 9112 6.1)")
            chunked = True
        else:  # Connection, a list (RFC 9110 7.6.1), or Proxy-Connection, which is the same to llhttp
            tokens = [token.strip(b" \t") for token in value.lower().split(b",")]
            close = close or b"close" in tokens
            keep_alive = keep_alive or b"keep-alive" in tokens
    if chunked and content_length is not None:  # RFC 9112 6.3 rule 3: one of them smuggles
        raise MalformedResponse("Content-Length with Transfer-Encoding (RFC 9112 6.3)")
    persistent = not close and (minor == 1 or keep_alive)
    if has_no_body(status):
        body_length = 0
        if status != 304 and (chunked or content_length):
            # RFC 9112 6.1, RFC 9110 8.6: must not be there. A body that is sent all the same is not the next response.
            if status < 200 and status != 101:
                raise MalformedResponse("a 1xx response that announces a body (RFC 9112 6.3 rule 1)")
            persistent = False
        persistent = persistent and status != 101  # RFC 9110 15.2.2: from here on another protocol
    elif chunked:
        body_length = CHUNKED_BODY
    elif content_length is not None:
        body_length = content_length
    else:
        body_length = UNTIL_CLOSE
    return ResponseHead(head, status, line[3] or b"", minor, content_length, body_length, persistent)
