"""What is asked of a server: the bytes of the requests, how large the answer is. Used on sockets and under callgrind alike."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CASES", "Case", "get_with_headers", "post"]

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"
BROWSER = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20130501 Firefox/30.0 AppleWebKit/600.00 Chrome/30.0.0000.0\r\n"
    b"Cookie: uid=12345678901234567890; __utma=1.1234567890.1234567890.1234567890.12; wd=2560x1600\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n"
)
VARIED = BROWSER.replace(b"GET /", b"GET /items/%d?page=%d").replace(b"Cookie:", b"X-Request-Id: %032x\r\nCookie:")
"""For (number, number % 7, number), in Python and in Lua: no target and no header block comes twice."""
PAGES = BROWSER.replace(b"GET /", b"GET /items/%d?page=%d&id=%x")
"""Likewise: no target comes twice, and the headers always."""


@dataclass(frozen=True)
class Case:
    """One kind of request. With `varied`, `request` is a template for three numbers, see `VARIED` and `PAGES`."""

    request: bytes
    pipelined: int = 1
    varied: bool = False
    response_size: int | None = None
    """Bytes of the answer's body; None: it is `hello`."""

    def numbered(self, number: int) -> bytes:
        return self.request % (number, number % 7, number)


def post(body: bytes) -> bytes:
    return (
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (
            len(body),
            body,
        )
    )


def get_with_headers(count: int) -> bytes:
    """A GET with `count` headers, Host among them."""
    more = b"".join(b"X-Header-%d: value of header %d\r\n" % (number, number) for number in range(1, count))
    return b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n%b\r\n" % more


CASES = {
    "get": Case(GET),
    "browser": Case(BROWSER),
    "pages": Case(PAGES, varied=True),
    "varied": Case(VARIED, varied=True),
    "post": Case(post(b'{"pad": "' + b"x" * 1000 + b'"}')),
    "pipeline": Case(GET * 16, pipelined=16),
    "64k-response": Case(GET, response_size=64 * 1024),
    "64k-request": Case(post(b'{"pad": "' + b"x" * (64 * 1024 - 11) + b'"}')),
}
