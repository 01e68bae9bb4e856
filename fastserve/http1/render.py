"""`ResponseRenderer`: a response's head as bytes, and how its body is framed (RFC 9112 6).

Most responses differ from others of the same second in nothing but their body, so a
plain head is rendered once per (status, content type, length) and second.
"""

from __future__ import annotations

import enum
import time
from typing import Final

from fastserve.errors import ResponseError
from fastserve.http1.date import imf_fixdate
from fastserve.http1.response import Response
from fastserve.http1.status import has_no_body, reason_phrase

__all__ = ["LAST_CHUNK", "Delimiter", "ResponseRenderer", "chunk", "delimiter"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

# Heads kept for one second; beyond this a head is rendered each time.
MAX_CACHED_HEADS: Final = 512

_server_owned: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"keep-alive"})


class Delimiter(enum.Enum):
    """What ends a response's body."""

    NONE = "none"
    """Nothing: there is no body on the wire (HEAD, 1xx, 204, 304)."""
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """The end of the connection: an HTTP/1.0 client and a length that is not known."""


def delimiter(method: str, minor: int, response: Response) -> Delimiter:
    """How the body of `response` to a `method` request of HTTP/1.`minor` is framed (RFC 9112 6.3)."""
    if method == "HEAD" or has_no_body(response.status_code):
        return Delimiter.NONE
    if response.stream is None or response.stream_size >= 0:
        return Delimiter.LENGTH
    return Delimiter.CHUNKED if minor else Delimiter.CLOSE


def chunk(data: bytes) -> bytes:
    """`data` as one chunk (RFC 9112 7.1). `data` is not empty: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ResponseRenderer:
    """Renders heads for one server. `set_time` is called once a second; nothing here reads a clock."""

    __slots__ = ("_date", "_default_content_type", "_second", "_send_date", "_server", "plain_heads")

    def __init__(self, server_name: str, *, server_header: bool, date: bool, content_type: bool) -> None:
        self._server = b"Server: %b\r\n" % server_name.encode("latin-1") if server_header else b""
        self._send_date = date
        self._date = b""
        self._second = -1
        self._default_content_type = b"text/plain; charset=utf-8" if content_type else b""
        self.plain_heads: dict[tuple[int, bytes | None, int], bytes] = {}
        """Heads of this second for HTTP/1.1 keep-alive responses without headers of their own: see `plain_head`."""

    def set_time(self, seconds: float) -> None:
        """Seconds since the epoch. A new second makes a new Date, and new heads."""
        second = int(seconds)
        if second != self._second:
            self._second = second
            if self._send_date:
                # Not by way of datetime: it looks `dst` up by a new name each time, and the interpreter's method cache
                # keeps up to 4096 of them, which hold on to the memory of a surge.
                self._date = b"Date: %b\r\n" % imf_fixdate(time.gmtime(second)).encode("ascii")
            self.plain_heads.clear()

    def plain_head(self, response: Response) -> bytes:
        """The head of a `plain` response on a connection that is kept."""
        head = self._common(response, len(response.plain_body)) + b"\r\n"
        if len(self.plain_heads) < MAX_CACHED_HEADS:
            self.plain_heads[(response.plain_status, response.plain_type, len(response.plain_body))] = head
        return head

    def _common(self, response: Response, length: int | None) -> bytes:
        status = response.plain_status
        extra = response.extra_headers
        content_type = response.plain_type
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason_phrase(status))]
        if self._server and not (extra is not None and "server" in extra):
            lines.append(self._server)
        if self._date and not (extra is not None and "date" in extra):
            lines.append(self._date)
        if content_type is None and (length != 0 or status == 200) and not has_no_body(status):
            content_type = self._default_content_type
        if content_type and not (extra is not None and "content-type" in extra):
            lines.append(b"Content-Type: %b\r\n" % content_type)
        if length is not None and not has_no_body(status):
            lines.append(b"Content-Length: %d\r\n" % length)
        return b"".join(lines)

    def head(self, method: str, minor: int, response: Response, keep_alive: bool) -> bytes:
        """The head of any response. Raises `ResponseError` for a header that is the server's to write."""
        how = delimiter(method, minor, response)
        length: int | None = None
        if response.stream is None:
            length = len(response.body)
        elif response.stream_size >= 0:
            length = response.stream_size
        lines = [self._common(response, length)]
        own_length = False
        extra = response.extra_headers
        switching = response.status_code == 101
        if extra is not None:
            for name, value in extra.raw:
                lower = name.lower()
                if lower in _server_owned and not (switching and lower == b"connection"):
                    if lower == b"content-length" and method == "HEAD" and not (response.body or own_length):
                        # A handler that answers HEAD itself may say how long GET's body is (RFC 9110 9.3.2).
                        lines[0] = self._common(response, None)
                        own_length = True
                    elif lower == b"connection":
                        response.close = response.close or b"close" in value.lower()
                        continue
                    else:
                        raise ResponseError(
                            f"header {name.decode('latin-1')} is written by the server: set the body, or its stream"
                        )
                lines.append(b"%b: %b\r\n" % (name, value))
        # To HEAD what GET would be told, but never with a length, nor in a 204 (RFC 9112 6.1, 6.2).
        if how is Delimiter.CHUNKED or (
            method == "HEAD" and length is None and minor and not own_length and not has_no_body(response.status_code)
        ):
            lines.append(b"Transfer-Encoding: chunked\r\n")
        if not switching:
            if not keep_alive or response.close or how is Delimiter.CLOSE:
                lines.append(b"Connection: close\r\n")
            elif minor == 0:
                lines.append(b"Connection: keep-alive\r\n")  # RFC 9112 9.3: an HTTP/1.0 client must be told
        lines.append(b"\r\n")
        return b"".join(lines)
