"""HTTP/1.1 as it must be served: literal bytes in, and what comes of them, however they come.

Each case of the tables goes through a server in memory in four ways: whole, byte by byte, and pipelined after a good
request, each with another request behind it; and alone, when the answer must not wait for anything further. Time
stands still, so that no answer can come from a timeout. The rows are those of the rules in `CASES` below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastserve import RequestCtx
from fastserve.testing import MemoryClient, MemoryServer
from tests.server.clients import Run, turns

GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
BEHIND = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
G = b"GET / HTTP/1.1\r\nHost: a\r\n"
P = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = P + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH_OF_BEHIND = b"Content-Length: %d\r\n\r\n" % len(BEHIND)

LIMITS: dict[str, Any] = {"max_header_size": 1024, "max_header_count": 20, "max_request_body_size": 2000}


@dataclass(frozen=True)
class Seen:
    """A request as the handler saw it."""

    method: str
    target: bytes
    body: bytes = b""


@dataclass
class Recorder:
    """A handler that answers everything, and remembers it."""

    seen: list[Seen] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    trailers: list[list[tuple[str, str]]] = field(default_factory=list)

    async def __call__(self, ctx: RequestCtx) -> None:
        self.seen.append(Seen(ctx.method, ctx.request.target, ctx.post_body))
        self.hosts.append(ctx.host)
        self.headers.append(ctx.request.headers.items())
        self.trailers.append(ctx.trailers.items())
        ctx.set_body(b"served " + ctx.request.target)


GOOD_SEEN, BEHIND_SEEN = Seen("GET", b"/good"), Seen("GET", b"/behind")


@dataclass(frozen=True)
class Case:
    name: str
    """Row of the rules, what is sent, and the section that says what must come of it."""
    data: bytes
    refused: tuple[int, ...] = ()
    """The statuses of which one must come, before the connection closes; none when the request is served."""
    seen: Seen = Seen("GET", b"/")
    """What the handler must see when the request is served."""
    closes: bool = False
    """It is served, and then the connection closes."""


def refuse(name: str, data: bytes, *statuses: int) -> Case:
    return Case(name, data, statuses or (400,))


def serve(name: str, data: bytes, method: str = "GET", target: bytes = b"/", body: bytes = b"") -> Case:
    return Case(name, data, seen=Seen(method, target, body))


def serve_and_close(name: str, data: bytes, method: str = "GET", target: bytes = b"/", body: bytes = b"") -> Case:
    return Case(name, data, seen=Seen(method, target, body), closes=True)


def head_of(size: int, begin: bytes = G) -> bytes:
    return begin + b"X: " + b"x" * (size - len(begin) - 7) + b"\r\n\r\n"


def headers(count: int) -> bytes:
    return G + b"".join(b"X-%d: 1\r\n" % i for i in range(count - 1)) + b"\r\n"


def post(fields: bytes, body: bytes = b"") -> bytes:
    return P + fields + b"\r\n\r\n" + body


def chunked(body: bytes) -> bytes:
    return CHUNKED + body


UPGRADE = b"Connection: Upgrade\r\nUpgrade: x\r\n"

CASES: list[Case] = [
    # 1. The size of a head, counted before it is parsed: RFC 9110 15.5.15, RFC 6585 5
    serve("1 head of the limit", head_of(1024)),
    serve("1 head of the limit with blank lines", b"\r\n\r\n" + head_of(1020)),
    refuse("1 head over the limit, RFC 6585 5", head_of(1025), 431),
    refuse("1 head over the limit by blank lines, RFC 9112 2.2", b"\r\n\r\n" + head_of(1021), 431),
    refuse("1 blank lines alone over the limit, RFC 9112 2.2", b"\r\n" * 600, 431),
    refuse("1 one endless header, RFC 6585 5", G + b"X: " + b"x" * 5000, 431),
    refuse("1 one endless name, RFC 6585 5", G + b"X" * 5000, 431),
    refuse("1 target over the limit, RFC 9110 15.5.15", b"GET /" + b"a" * 1100 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    refuse("1 endless target, RFC 9110 15.5.15", b"GET /" + b"a" * 5000, 414),
    refuse("1 endless query, RFC 9110 15.5.15", b"GET /?" + b"a=b&" * 2000, 414),
    # 2. How many headers: RFC 6585 5
    serve("2 as many headers as may be", headers(20)),
    refuse("2 one header more, RFC 6585 5", headers(21), 431),
    refuse("2 the same header too often, RFC 6585 5", G + b"X: 1\r\n" * 20 + b"\r\n", 431),
    # 3. The size of a body: RFC 9110 15.5.14, RFC 9112 7.1.1
    serve("3 body of the limit", post(b"Content-Length: 2000", b"x" * 2000), "POST", body=b"x" * 2000),
    serve(
        "3 chunked body of the limit", chunked(b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"), "POST", body=b"x" * 2000
    ),
    refuse("3 body over the limit, RFC 9110 15.5.14", post(b"Content-Length: 2001", b"x" * 2001), 413),
    refuse("3 body over the limit is refused by its head, RFC 9110 15.5.14", post(b"Content-Length: 2001"), 413),
    refuse("3 body far over the limit, RFC 9110 15.5.14", post(b"Content-Length: 18446744073709551615"), 413),
    refuse(
        "3 chunked body over the limit, RFC 9110 15.5.14", chunked(b"7d1\r\n" + b"x" * 2001 + b"\r\n0\r\n\r\n"), 413
    ),
    refuse(
        "3 chunked body over the limit in sum, RFC 9110 15.5.14",
        chunked(b"64\r\n" + b"x" * 100 + b"\r\n") + (b"64\r\n" + b"x" * 100 + b"\r\n") * 20 + b"0\r\n\r\n",
        413,
    ),
    refuse(
        "3 body over the limit with Expect, RFC 9110 10.1.1", post(b"Content-Length: 2001\r\nExpect: 100-continue"), 413
    ),
    refuse("3 long chunk extension, RFC 9112 7.1.1", chunked(b"1;" + b"e" * 4000 + b"\r\nx\r\n0\r\n\r\n"), 413),
    refuse("3 endless chunk extension, RFC 9112 7.1.1", chunked(b"1;" + b"e" * 4000), 400, 413),
    refuse("3 endless trailer, RFC 9112 7.1.2", chunked(b"0\r\nT: " + b"t" * 4000), 413),
    refuse(
        "3 too many trailers, RFC 9112 7.1.2",
        chunked(b"0\r\n" + b"".join(b"T%d: 1\r\n" % i for i in range(21)) + b"\r\n"),
        431,
    ),
    # 5. Host: RFC 9112 3.2
    refuse("5 no Host, RFC 9112 3.2", b"GET / HTTP/1.1\r\n\r\n"),
    refuse("5 no Host, other headers, RFC 9112 3.2", b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    refuse("5 two Hosts, RFC 9112 3.2", G + b"Host: b\r\n\r\n"),
    refuse("5 two equal Hosts, RFC 9112 3.2", G + b"Host: a\r\n\r\n"),
    refuse("5 two Hosts in two spellings, RFC 9112 3.2", G + b"hOST: a\r\n\r\n"),
    refuse("5 two empty Hosts, RFC 9112 3.2", b"GET / HTTP/1.1\r\nHost:\r\nHost:\r\n\r\n"),
    refuse("5 Host with a space, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    refuse("5 Host with a path, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    refuse("5 Host with a user, RFC 9110 7.2", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    refuse("5 Host with a query, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
    refuse("5 Host with a fragment, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n"),
    refuse("5 Host with a backslash, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
    refuse("5 Host with a bad port, RFC 3986 3.2.3", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    refuse("5 Host with two ports, RFC 3986 3.2.3", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n"),
    refuse("5 Host with an open bracket, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    refuse("5 Host with a bad escape, RFC 3986 2.1", b"GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n"),
    refuse("5 Host that is not ASCII, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n"),
    refuse("5 Host that is a URL, RFC 9110 7.2", b"GET / HTTP/1.1\r\nHost: http://a/\r\n\r\n"),
    refuse("5 Host with a space on HTTP/1.0, RFC 9112 3.2", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
    serve("5 Host that is empty, RFC 9110 7.2", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    serve("5 Host with a port, RFC 9110 7.2", b"GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n"),
    serve("5 Host of IPv6, RFC 3986 3.2.2", b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n"),
    serve("5 host in lower case, RFC 9110 5.1", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
    serve("5 absolute form, RFC 9112 3.2.2", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    serve("5 absolute form without a path, RFC 9112 3.2.1", b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n"),
    serve("5 absolute form, query alone, RFC 9112 3.2.1", b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", target=b"/?q"),
    serve("5 absolute form in upper case, RFC 3986 3.1", b"GET HTTP://B:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("5 absolute form without Host, RFC 9112 3.2", b"GET http://b/ HTTP/1.1\r\n\r\n"),
    refuse("5 absolute form with a bad Host, RFC 9112 3.2", b"GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
    refuse("5 absolute form with a user, RFC 9110 4.2.4", b"GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    refuse("5 absolute form with a password, RFC 9110 4.2.4", b"GET http://u:p@b/ HTTP/1.1\r\nHost: b\r\n\r\n"),
    refuse("5 absolute form without a host, RFC 9110 4.2.1", b"GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("5 absolute form with a bad port, RFC 3986 3.2.3", b"GET http://b:x/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("5 absolute form of another scheme, RFC 9112 3.2.2", b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    # 6. Versions: RFC 9112 2.3, RFC 9110 15.6.6
    refuse("6 HTTP/0.9, RFC 9112 2.3", b"GET /\r\n", 400, 505),
    refuse("6 HTTP/0.9 with a blank line, RFC 9112 2.3", b"GET /\r\n\r\n", 400, 505),
    refuse("6 HTTP/0.9 after a blank line, RFC 9112 2.3", b"\r\nGET /\r\n", 400, 505),
    refuse("6 version 0.9, RFC 9110 15.6.6", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version 1.2, RFC 9110 15.6.6", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version 1.10, RFC 9112 2.3", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version 2.0, RFC 9110 15.6.6", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version 2.0 by its first line, RFC 9110 15.6.6", b"GET / HTTP/2.0\r\n", 400, 505),
    refuse("6 version 3, RFC 9112 2.3", b"GET / HTTP/3\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 the preface of HTTP/2, RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
    refuse("6 RTSP, RFC 9112 2.3", b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 ICE, RFC 9112 2.3", b"GET / ICE/1.0\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version in lower case, RFC 9112 2.3", b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version without a dot, RFC 9112 2.3", b"GET / HTTP/11\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version with a space, RFC 9112 2.3", b"GET / HTTP/ 1.1\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version with a leading zero, RFC 9112 2.3", b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400, 505),
    refuse("6 version with a comma, RFC 9112 2.3", b"GET / HTTP/1,1\r\nHost: a\r\n\r\n", 400, 505),
    # 7. Transfer-Encoding on HTTP/1.0: RFC 9112 6.1
    refuse("7 chunked on HTTP/1.0, RFC 9112 6.1", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refuse(
        "7 chunked on HTTP/1.0 kept, RFC 9112 6.1",
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    refuse(
        "7 both framings on HTTP/1.0, RFC 9112 6.1",
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    refuse("7 gzip on HTTP/1.0, RFC 9112 6.1", b"POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", 400, 501),
    # 8. Transfer-Encoding: RFC 9112 6.1 and 7
    *(
        refuse(
            f"8 Transfer-Encoding {value!r}, RFC 9112 6.1", post(b"Transfer-Encoding:" + value, b"0\r\n\r\n"), 400, 501
        )
        for value in [
            b" gzip, chunked",
            b" gzip,chunked",
            b" deflate, gzip, chunked",
            b" gzip",
            b" identity",
            b" xchunked",
            b" chunkedx",
            b" x-chunked",
            b" chunked, identity",
            b" identity, chunked",
            b" chunked, chunked",
            b" chunked, gzip",
            b" chunked,",
            b" ,chunked",
            b" chunked;q=1",
            b" chunked; a=b",
            b' "chunked"',
            b" chun ked",
            b" chunked chunked",
            b"\x0bchunked",
            b"\x0cchunked",
            b" chunked\x0b",
            b" \xa0chunked",
            b" ch\xc5\xafnked",
            b"",
            b" ",
            b" trailers",
        ]
    ),
    refuse(
        "8 chunked twice, RFC 9112 6.1", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")
    ),
    refuse(
        "8 chunked twice in two spellings, RFC 9112 6.1",
        post(b"Transfer-Encoding: chunked\r\ntransfer-encoding: Chunked", b"0\r\n\r\n"),
    ),
    refuse(
        "8 gzip, then chunked, RFC 9112 6.1",
        post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        400,
        501,
    ),
    refuse(
        "8 chunked, then identity, RFC 9112 6.1",
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n"),
        400,
        501,
    ),
    refuse(
        "8 chunked, then empty, RFC 9112 6.1",
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding:", b"0\r\n\r\n"),
        400,
        501,
    ),
    refuse("8 folded, RFC 9112 5.2", post(b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n")),
    refuse("8 space before the colon, RFC 9112 5.1", post(b"Transfer-Encoding : chunked", b"0\r\n\r\n")),
    refuse("8 tab before the colon, RFC 9112 5.1", post(b"Transfer-Encoding\t: chunked", b"0\r\n\r\n")),
    refuse("8 gzip on GET, RFC 9112 6.1", G + b"Transfer-Encoding: gzip\r\n\r\n", 400, 501),
    serve(
        "8 chunked in odd case, RFC 9112 7",
        post(b"tRANSFER-eNCODING: ChUnKeD", b"1\r\nx\r\n0\r\n\r\n"),
        "POST",
        body=b"x",
    ),
    serve(
        "8 chunked without a space, RFC 9112 5.1",
        post(b"Transfer-Encoding:chunked", b"1\r\nx\r\n0\r\n\r\n"),
        "POST",
        body=b"x",
    ),
    serve(
        "8 chunked behind a tab, RFC 9112 5.1",
        post(b"Transfer-Encoding:\t \tchunked", b"1\r\nx\r\n0\r\n\r\n"),
        "POST",
        body=b"x",
    ),
    serve("8 chunked on GET, RFC 9110 9.3.1", G + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", body=b"x"),
    serve("8 a name that only looks like it, RFC 9110 5.1", post(b"Transfer_Encoding: chunked"), "POST"),
    serve("8 a name that only ends like it, RFC 9110 5.1", post(b"X-Transfer-Encoding: chunked"), "POST"),
    # Both framings: RFC 9112 6.1 and 6.3
    refuse(
        "8 length and chunked, RFC 9112 6.3", post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")
    ),
    refuse(
        "8 chunked and length, RFC 9112 6.3", post(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n")
    ),
    refuse(
        "8 chunked and length zero, RFC 9112 6.3",
        post(b"Transfer-Encoding: chunked\r\nContent-Length: 0", b"0\r\n\r\n"),
    ),
    refuse(
        "8 length and chunked in odd case, RFC 9112 6.3",
        post(b"content-length: 5\r\ntransfer-ENCODING: CHUNKED", b"0\r\n\r\n"),
    ),
    refuse(
        "8 length and identity, RFC 9112 6.3",
        post(b"Content-Length: 5\r\nTransfer-Encoding: identity", b"hello"),
        400,
        501,
    ),
    refuse(
        "8 length and an empty coding, RFC 9112 6.3",
        post(b"Content-Length: 5\r\nTransfer-Encoding:", b"hello"),
        400,
        501,
    ),
    # Content-Length: RFC 9110 8.6, RFC 9112 6.3
    *(
        refuse(f"8 Content-Length {value!r}, RFC 9110 8.6", post(b"Content-Length:" + value, b"hello"))
        for value in [
            b"",
            b" ",
            b" +5",
            b" -5",
            b" -0",
            b" 5 5",
            b" 5,5",
            b" 5, 5",
            b" 5,6",
            b" 5;",
            b" 0x5",
            b" 5x",
            b" 5.0",
            b" 5e0",
            b" 1_0",
            b" five",
            b' "5"',
            b" 18446744073709551616",
            b" 18446744073709551621",
            b" 99999999999999999999999999999999",
            b" \xd9\xa5",
            b"\x0b5",
            b" 5\x00",
        ]
    ),
    refuse("8 two equal lengths, RFC 9112 6.3", post(b"Content-Length: 5\r\nContent-Length: 5", b"hello")),
    refuse("8 two lengths, RFC 9112 6.3", post(b"Content-Length: 5\r\nContent-Length: 6", b"hello!")),
    refuse("8 two lengths in two spellings, RFC 9112 6.3", post(b"Content-Length: 5\r\ncontent-length: 0", b"hello")),
    refuse("8 two lengths of zero, RFC 9112 6.3", post(b"Content-Length: 0\r\nContent-Length: 0")),
    refuse("8 length, space before the colon, RFC 9112 5.1", post(b"Content-Length : 5", b"hello")),
    refuse("8 length, folded, RFC 9112 5.2", post(b"Content-Length:\r\n 5", b"hello")),
    refuse("8 length, bare CR, RFC 9112 2.2", post(b"Content-Length: 5\rX: y", b"hello")),
    serve("8 length of zero, RFC 9112 6.3", post(b"Content-Length: 0"), "POST"),
    serve("8 no length at all, RFC 9112 6.3", P + b"\r\n", "POST"),
    serve("8 length with zeros, RFC 9110 8.6", post(b"Content-Length: 0005", b"hello"), "POST", body=b"hello"),
    serve(
        "8 length with very many zeros, RFC 9110 8.6",
        post(b"Content-Length: " + b"0" * 900 + b"5", b"hello"),
        "POST",
        body=b"hello",
    ),
    serve("8 length with white space, RFC 9112 5.1", post(b"Content-Length:\t 5 \t", b"hello"), "POST", body=b"hello"),
    serve("8 length in odd case, RFC 9110 5.1", post(b"cONTENT-lENGTH: 5", b"hello"), "POST", body=b"hello"),
    serve("8 length on GET, RFC 9110 9.3.1", G + b"Content-Length: 5\r\n\r\nhello", body=b"hello"),
    serve("8 body that is a request, RFC 9112 6.2", P + LENGTH_OF_BEHIND + BEHIND, "POST", body=BEHIND),
    serve("8 body on GET that is a request, RFC 9112 6.2", G + LENGTH_OF_BEHIND + BEHIND, body=BEHIND),
    serve(
        "8 chunk that is a request, RFC 9112 7.1",
        chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BEHIND), BEHIND)),
        "POST",
        body=BEHIND,
    ),
    serve(
        "8 body of line ends, RFC 9112 6.2",
        post(b"Content-Length: 8", b"\r\n\r\n\r\n\r\n"),
        "POST",
        body=b"\r\n\r\n\r\n\r\n",
    ),
    serve("8 a name that only looks like it, RFC 9110 5.1 (length)", post(b"Content_Length: 5"), "POST"),
    # Chunks: RFC 9112 7.1
    *(
        refuse(f"8 chunk {body!r}, RFC 9112 7.1", chunked(body))
        for body in [
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b"1h\r\na\r\n0\r\n\r\n",
            b" 1\r\na\r\n0\r\n\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b"1\t\r\na\r\n0\r\n\r\n",
            b"1 ;a\r\na\r\n0\r\n\r\n",
            b"1,\r\na\r\n0\r\n\r\n",
            b"1_\r\na\r\n0\r\n\r\n",
            b"\r\n0\r\n\r\n",
            b";a\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\ra\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\naa\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"2\r\na\r\n0\r\n\r\n",
            b"1;a\na\r\n0\r\n\r\n",
            b"1;a\rb\r\na\r\n0\r\n\r\n",
            b"1;a\x00\r\na\r\n0\r\n\r\n",
            b'1;a="b\r\na\r\n0\r\n\r\n',
            b"10000000000000000\r\na\r\n0\r\n\r\n",
            b"10000000000000001\r\na\r\n0\r\n\r\n",
            b"0\n\r\n",
            b"0\r\n\n",
            b"0\r\n\rx",
        ]
    ),
    serve(
        "8 chunk sizes in either case, RFC 9112 7.1",
        chunked(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
        "POST",
        body=b"0123456789" * 2,
    ),
    serve("8 chunk sizes with zeros, RFC 9112 7.1", chunked(b"0001\r\nx\r\n000\r\n\r\n"), "POST", body=b"x"),
    serve("8 chunk extensions, RFC 9112 7.1.1", chunked(b'1;a;b=c;d="e f"\r\nx\r\n0;g=h\r\n\r\n'), "POST", body=b"x"),
    serve(
        "8 a chunk that looks like the end, RFC 9112 7.1",
        chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
        "POST",
        body=b"0\r\n\r\n",
    ),
    # 9. White space around values: RFC 9112 5.1; what a field line may be: RFC 9112 5, RFC 9110 5.5
    serve("9 white space around values, RFC 9112 5.1", b"GET / HTTP/1.1\r\nHost: \ta\t \r\nX: \t1 \t\r\n\r\n"),
    refuse("9 space before the colon, RFC 9112 5.1", G + b"X : 1\r\n\r\n"),
    refuse("9 tab before the colon, RFC 9112 5.1", G + b"X\t: 1\r\n\r\n"),
    refuse("9 Host, space before the colon, RFC 9112 5.1", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    refuse("9 space in a name, RFC 9110 5.1", G + b"X Y: 1\r\n\r\n"),
    refuse("9 no colon, RFC 9112 5", G + b"X\r\n\r\n"),
    refuse("9 empty name, RFC 9110 5.1", G + b": 1\r\n\r\n"),
    refuse("9 name that is not ASCII, RFC 9110 5.6.2", G + b"\xc3\xa9: 1\r\n\r\n"),
    refuse("9 name with parentheses, RFC 9110 5.6.2", G + b"X(a): 1\r\n\r\n"),
    refuse("9 name with a slash, RFC 9110 5.6.2", G + b"X/Y: 1\r\n\r\n"),
    refuse("9 quoted name, RFC 9110 5.6.2", G + b'"X": 1\r\n\r\n'),
    refuse("9 NUL in a name, RFC 9110 5.5", G + b"X\x00: 1\r\n\r\n"),
    refuse("9 NUL in a value, RFC 9110 5.5", G + b"X: a\x00b\r\n\r\n"),
    refuse("9 control in a value, RFC 9110 5.5", G + b"X: a\x01b\r\n\r\n"),
    refuse("9 escape in a value, RFC 9110 5.5", G + b"X: a\x1b[2Jb\r\n\r\n"),
    refuse("9 DEL in a value, RFC 9110 5.5", G + b"X: a\x7fb\r\n\r\n"),
    refuse("9 bare CR in a value, RFC 9112 2.2", G + b"X: a\rb\r\n\r\n"),
    refuse("9 bare CR that hides a header, RFC 9112 2.2", G + b"X: a\rTransfer-Encoding: chunked\r\n\r\n"),
    refuse("9 bare LF in a value, RFC 9112 2.2", G + b"X: a\nY: b\r\n\r\n"),
    refuse("9 bare LF everywhere, RFC 9112 2.2", b"GET / HTTP/1.1\nHost: a\n\n"),
    refuse("9 bare LF after the request line, RFC 9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    refuse("9 bare LF as the blank line, RFC 9112 2.2", G + b"\n"),
    refuse("9 CR CR LF, RFC 9112 2.2", G + b"X: 1\r\r\n\r\n"),
    refuse("9 bare CR as the blank line, RFC 9112 2.2", G + b"\rX"),
    refuse("9 obs-fold, RFC 9112 5.2", G + b"X: a\r\n b\r\n\r\n"),
    refuse("9 obs-fold with a tab, RFC 9112 5.2", G + b"X: a\r\n\tb\r\n\r\n"),
    refuse("9 obs-fold of nothing, RFC 9112 5.2", G + b"X: a\r\n \r\n\r\n"),
    refuse("9 obs-fold that hides a header, RFC 9112 5.2", G + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n"),
    refuse("9 white space before the first header, RFC 9112 2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    refuse("9 a blank that looks like the blank line, RFC 9112 2.2", b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n"),
    serve("9 tab inside a value, RFC 9110 5.5", G + b"X: a\tb\r\n\r\n"),
    serve("9 obs-text, RFC 9110 5.5", G + b"X: \x80\xff\r\n\r\n"),
    serve("9 empty value, RFC 9110 5.5", G + b"X:\r\n\r\n"),
    serve("9 every sign a name may have, RFC 9110 5.6.2", G + b"!#$%&'*+-.^_`|~09aZ: 1\r\n\r\n"),
    serve("9 blank lines before, RFC 9112 2.2", b"\r\n\r\n\r\n" + G + b"\r\n"),
    # 10. Trailers: RFC 9110 6.5.1, RFC 9112 7.1.2
    serve("10 trailers, RFC 9110 6.5.1", chunked(b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n"), "POST", body=b"x"),
    serve("10 trailer that says close, RFC 9110 6.5.1", chunked(b"0\r\nConnection: close\r\n\r\n"), "POST"),
    serve(
        "10 trailer that says upgrade, RFC 9110 6.5.1",
        chunked(b"0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
        "POST",
    ),
    serve("10 trailer Host, RFC 9110 6.5.1", chunked(b"0\r\nHost: b\r\n\r\n"), "POST"),
    refuse("10 trailer Content-Length, RFC 9110 6.5.1", chunked(b"0\r\nContent-Length: %d\r\n\r\n" % len(BEHIND))),
    refuse("10 trailer Transfer-Encoding, RFC 9110 6.5.1", chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    refuse("10 trailer without a colon, RFC 9112 5", chunked(b"0\r\nA\r\n\r\n")),
    refuse("10 trailer, space before the colon, RFC 9112 5.1", chunked(b"0\r\nA : b\r\n\r\n")),
    refuse("10 trailer, bare LF, RFC 9112 2.2", chunked(b"0\r\nA: b\n\r\n")),
    refuse("10 trailer, folded, RFC 9112 5.2", chunked(b"0\r\nA: b\r\n c\r\n\r\n")),
    refuse("10 trailer that is a request, RFC 9112 7.1.2", chunked(b"0\r\n" + BEHIND)),
    # 11. The request line: RFC 9112 3
    refuse("11 GET *, RFC 9112 3.2.4", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 fragment, RFC 9112 3.2", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 fragment in absolute form, RFC 9112 3.2", b"GET http://b/#c HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 two spaces before the target, RFC 9112 3", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 two spaces behind the target, RFC 9112 3", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 trailing space, RFC 9112 3", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    refuse("11 trailing spaces and a version, RFC 9112 3", b"GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 leading space, RFC 9112 3", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 tab behind the method, RFC 9112 3", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 tab behind the target, RFC 9112 3", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 tab in the target, RFC 9112 3.2", b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 space in the target, RFC 9112 3.2", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 NUL in the target, RFC 9112 3.2", b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 DEL in the target, RFC 9112 3.2", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 target that is not ASCII, RFC 3986 2", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 CR in the target, RFC 9112 2.2", b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 form feed in the request line, RFC 9112 3", b"GET /\x0cHTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 no target, RFC 9112 3", b"GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 empty target, RFC 9112 3", b"GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 target without a slash, RFC 9112 3.2.1", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 authority form for GET, RFC 9112 3.2.3", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 query alone, RFC 9112 3.2.1", b"GET ?q HTTP/1.1\r\nHost: a\r\n\r\n"),
    refuse("11 CONNECT, RFC 9110 9.3.6", b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", 400, 405, 501),
    refuse("11 CONNECT with a path, RFC 9110 9.3.6", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 SOURCE, RFC 9110 15.6.2", b"SOURCE / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 DESCRIBE, RFC 9110 15.6.2", b"DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 M-SEARCH, RFC 9110 15.6.2", b"M-SEARCH * HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 unknown method, RFC 9110 15.6.2", b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 method in lower case, RFC 9110 9.1", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 method in mixed case, RFC 9110 9.1", b"Get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 method that begins like another, RFC 9110 9.1", b"GETX / HTTP/1.1\r\nHost: a\r\n\r\n", 400, 405, 501),
    refuse("11 TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    refuse("11 not a request at all", b"hello\r\n\r\n"),
    refuse("11 a response, RFC 9112 2.1", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    serve("11 OPTIONS *, RFC 9112 3.2.4", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", b"*"),
    serve(
        "11 OPTIONS of a server in absolute form, RFC 9112 3.2.4",
        b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS",
        b"*",
    ),
    serve("11 two slashes, RFC 9112 3.2.1", b"GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n", target=b"//b/c"),
    serve("11 a URL as the path, RFC 9112 3.2.1", b"GET /http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", target=b"/http://b/"),
    serve(
        "11 escapes stay as they are, RFC 9112 3.2.1",
        b"GET /%2e%2E/%00?%23 HTTP/1.1\r\nHost: a\r\n\r\n",
        target=b"/%2e%2E/%00?%23",
    ),
    # 12. Upgrade: RFC 9110 7.8
    serve("12 Upgrade, RFC 9110 7.8", G + UPGRADE + b"\r\n"),
    serve(
        "12 Upgrade to HTTP/2, RFC 9110 7.8",
        G + b"Upgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
    ),
    serve(
        "12 Upgrade to websocket, RFC 9110 7.8", G + b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n\r\n"
    ),
    serve("12 Upgrade with a length of zero, RFC 9110 7.8", P + UPGRADE + b"Content-Length: 0\r\n\r\n", "POST"),
    serve("12 Upgrade without its token, RFC 9110 7.8", G + b"Upgrade: x\r\n\r\n"),
    serve("12 the token without Upgrade, RFC 9110 7.8", G + b"Connection: upgrade\r\n\r\n"),
    serve(
        "12 Upgrade without its token, with a body",
        P + b"Upgrade: x\r\n" + LENGTH_OF_BEHIND + BEHIND,
        "POST",
        body=BEHIND,
    ),
    serve(
        "12 the token without Upgrade, with a body",
        P + b"Connection: upgrade\r\n" + LENGTH_OF_BEHIND + BEHIND,
        "POST",
        body=BEHIND,
    ),
    refuse("12 Upgrade with a body, RFC 9110 7.8", P + UPGRADE + LENGTH_OF_BEHIND + BEHIND),
    refuse(
        "12 Upgrade with a body behind its length, RFC 9110 7.8", P + b"Content-Length: 5\r\n" + UPGRADE + b"\r\nhello"
    ),
    refuse(
        "12 Upgrade with a chunked body, RFC 9110 7.8",
        P + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BEHIND), BEHIND),
    ),
    refuse(
        "12 Upgrade with a body in odd case, RFC 9110 7.8",
        P + b"connection: UPGRADE\r\nuPGRADE: x\r\n" + LENGTH_OF_BEHIND + BEHIND,
    ),
    refuse("12 Upgrade with a body on GET, RFC 9110 7.8", G + UPGRADE + LENGTH_OF_BEHIND + BEHIND),
    refuse(
        "12 Upgrade by another name with a body, RFC 9110 7.8",
        P + b"Proxy-Connection: upgrade\r\nUpgrade: x\r\n" + LENGTH_OF_BEHIND + BEHIND,
    ),
    refuse(
        "12 Upgrade with a body on HTTP/1.0, RFC 9110 7.8", b"POST / HTTP/1.0\r\n" + UPGRADE + LENGTH_OF_BEHIND + BEHIND
    ),
    # 14. Junk behind a request: RFC 9112 2.2
    refuse("14 junk, RFC 9112 2.2", b"\x00\x01\x02"),
    refuse("14 junk that looks like a body, RFC 9112 6.3", b"a=b&c=d\r\n\r\n"),
    # 17. Expect: RFC 9110 10.1.1
    refuse("17 another expectation, RFC 9110 10.1.1", G + b"Expect: 200-ok\r\n\r\n", 417),
    refuse(
        "17 another expectation beside it, RFC 9110 10.1.1",
        post(b"Expect: 100-continue, x\r\nContent-Length: 5", b"hello"),
        417,
    ),
    refuse(
        "17 another expectation on its own line, RFC 9110 10.1.1",
        post(b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5", b"hello"),
        417,
    ),
    refuse("17 an empty expectation, RFC 9110 10.1.1", G + b"Expect:\r\n\r\n", 417),
    serve("17 an expectation without a body, RFC 9110 10.1.1", G + b"Expect: 100-continue\r\n\r\n"),
    serve_and_close("17 another expectation on HTTP/1.0, RFC 9110 10.1.1", b"GET / HTTP/1.0\r\nExpect: x\r\n\r\n"),
    # Also: which connections are kept, RFC 9112 9.3
    serve_and_close("also close, RFC 9112 9.6", G + b"Connection: close\r\n\r\n"),
    serve_and_close("also close in a list, RFC 9110 7.6.1", G + b"Connection: x, Close\r\n\r\n"),
    serve_and_close("also close on a second line, RFC 9110 7.6.1", G + b"Connection: x\r\nconnection: close\r\n\r\n"),
    serve_and_close("also close wins over keep-alive, RFC 9112 9.3", G + b"Connection: keep-alive, close\r\n\r\n"),
    serve_and_close(
        "also close with a body, RFC 9112 9.6",
        post(b"Connection: close\r\nContent-Length: 5", b"hello"),
        "POST",
        body=b"hello",
    ),
    serve_and_close(
        "also close with a chunked body, RFC 9112 9.6",
        post(b"Connection: close\r\nTransfer-Encoding: chunked", b"1\r\nx\r\n0\r\n\r\n"),
        "POST",
        body=b"x",
    ),
    serve_and_close("also close with Upgrade, RFC 9112 9.6", G + b"Connection: close, upgrade\r\nUpgrade: x\r\n\r\n"),
    serve_and_close("also close by another name", G + b"Proxy-Connection: close\r\n\r\n"),
    serve_and_close("also HTTP/1.0, RFC 9112 9.3", b"GET / HTTP/1.0\r\n\r\n"),
    serve_and_close("also HTTP/1.0 with Host, RFC 9112 9.3", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
    serve_and_close(
        "also HTTP/1.0 with a body, RFC 9112 9.3",
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
        "POST",
        body=b"hello",
    ),
    serve_and_close(
        "also HTTP/1.0 that takes it back, RFC 9112 9.3", b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"
    ),
    serve("also HTTP/1.0 that asks, RFC 9112 9.3", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    serve("also HTTP/1.0 that asks in a list, RFC 9112 9.3", b"GET / HTTP/1.0\r\nConnection: x , KEEP-ALIVE\r\n\r\n"),
    serve("also a token that is not close, RFC 9110 7.6.1", G + b"Connection: closed\r\n\r\n"),
    serve("also another name for keep-alive", G + b"Proxy-Connection: keep-alive\r\n\r\n"),
]
WAYS = ["whole", "byte by byte", "pipelined", "alone"]


def test_no_case_is_there_twice() -> None:
    assert len({case.name for case in CASES}) == len({case.data for case in CASES}) == len(CASES)
    assert len(CASES) >= 150


# These rules know no loop; what waits is tested on both kinds of it, further below.
@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(run: Run, case: Case, way: str) -> None:
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler, **LIMITS) as server, asyncio.timeout(5):
            client = server.connect()
            before = [GOOD_SEEN] if way == "pipelined" else []
            behind = [] if way == "alone" else [BEHIND_SEEN]
            data = case.data + (BEHIND if behind else b"")
            if way == "pipelined":
                data = GOOD + data
            client.feed(data, byte_by_byte=way == "byte by byte")
            for _ in before:
                assert (await client.read_response()).status == 200
            if case.refused:
                await check_refusal(client, case)
                assert handler.seen == before
                return
            response = await client.read_response()
            assert (response.status, response.complete) == (200, True)
            assert response.body == b"served " + case.seen.target
            if case.closes:
                assert response.headers["connection"] == "close"
                assert await client.read_to_end() == b""
                behind = []
            for _ in behind:
                assert (await client.read_response()).body == b"served /behind"
            assert handler.seen == [*before, case.seen, *behind]
            if not case.closes:
                assert not client.transport.eof_written
                assert not client.transport.is_closing()
                client.feed(GOOD)
                assert (await client.read_response()).body == b"served /good"

    run(main())


async def check_refusal(client: MemoryClient, case: Case) -> None:
    response = await client.read_response()
    assert response.status in case.refused, response
    assert response.complete
    assert response.headers["connection"] == "close"
    assert response.headers["content-length"] == str(len(response.body))
    assert await client.read_to_end() == b"", "nothing comes behind a refusal"
    client.feed(BEHIND)  # nothing is served any more, whatever comes
    client.feed_eof()
    await client.closed()
    assert client.transport.received == b""


# What the handler is told


def test_5_the_authority_of_the_target_wins(run: Run) -> None:
    # RFC 9112 3.2.2
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET http://b:81/p HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
            assert (await client.read_response()).body == b"served /p"
            await client.read_response()
            assert handler.hosts == ["b:81", "a"]
            assert handler.headers[0] == [("Host", "a")]

    run(main())


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_9_values_come_without_the_white_space_around_them(run: Run, byte_by_byte: bool) -> None:
    # RFC 9112 5.1
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler) as server:
            client = server.connect()
            for _ in range(2):  # the second time the names are known
                client.feed(b"GET / HTTP/1.1\r\nHost: a \t\r\nX: \t1 2 \t\r\nY:\t\r\n\r\n", byte_by_byte=byte_by_byte)
                await client.read_response()
            assert handler.headers == [[("Host", "a"), ("X", "1 2"), ("Y", "")]] * 2
            assert handler.hosts == ["a", "a"]

    run(main())


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_10_trailers_are_kept_apart(run: Run, byte_by_byte: bool) -> None:
    # RFC 9110 6.5.1
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(chunked(b"1\r\nx\r\n0\r\nX-Admin: 1\r\nHost: b\r\n\r\n") + GOOD, byte_by_byte=byte_by_byte)
            await client.read_response()
            await client.read_response()
            assert handler.headers == [[("Host", "a"), ("Transfer-Encoding", "chunked")], [("Host", "a")]]
            assert handler.trailers == [[("X-Admin", "1"), ("Host", "b")], []]
            assert handler.hosts == ["a", "a"]

    run(main())


# 3, 4: limits that need time or another direction


@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_3_a_body_that_is_too_large_is_refused_before_100_continue(run: Run, byte_by_byte: bool) -> None:
    # RFC 9110 10.1.1
    async def main() -> None:
        async with MemoryServer(Recorder(), max_request_body_size=10) as server:
            client = server.connect()
            client.feed(post(b"Expect: 100-continue\r\nContent-Length: 11"), byte_by_byte=byte_by_byte)
            assert (await client.read_response()).status == 413

    run(main())


def test_4_a_connection_without_a_first_byte_closes(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(Recorder(), read_timeout=5.0, idle_timeout=20.0) as server:
            client = server.connect()
            server.advance(4.9)
            await turns()
            assert not client.transport.closed
            server.advance(2)
            assert await client.read_to_end() == b""
            await client.closed()

    run(main())


def test_4_an_idle_connection_closes(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(Recorder(), read_timeout=5.0, idle_timeout=20.0) as server:
            client = server.connect()
            client.feed(GOOD)
            await client.read_response()
            server.advance(19.9)
            await turns()
            assert not client.transport.closed
            server.advance(2)
            assert await client.read_to_end() == b""
            await client.closed()

    run(main())


@pytest.mark.parametrize(
    "begin",
    [
        b"G",
        G,
        b"\r\nG",
        GOOD + G,
        P + b"Content-Length: 5\r\n\r\n",
        CHUNKED,
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"0\r\nA",
    ],
)
def test_4_a_request_that_stalls_is_told_408(run: Run, begin: bytes) -> None:
    # RFC 9110 15.5.9
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler, read_timeout=5.0, idle_timeout=20.0) as server:
            client = server.connect()
            client.feed(begin)
            await turns()
            if begin.startswith(GOOD):
                await client.read_response()
            server.advance(4.9)
            await turns()
            assert client.transport.received == b""
            server.advance(2)
            response = await client.read_response()
            assert (response.status, response.headers["connection"]) == (408, "close")
            assert await client.read_to_end() == b""
            assert handler.seen == [GOOD_SEEN] * begin.startswith(GOOD)

    run(main())


def test_4_a_dripped_head_has_one_deadline(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(Recorder(), read_timeout=5.0) as server:
            client = server.connect()
            for byte in b"GET /a":
                client.feed(bytes([byte]))
                await turns()
                server.advance(1)
                await turns()
            server.advance(1)
            assert (await client.read_response()).status == 408

    run(main())


def test_4_a_body_may_take_long_but_not_pause(run: Run) -> None:
    async def main() -> None:
        async with MemoryServer(Recorder(), read_timeout=5.0) as server:
            client = server.connect()
            client.feed(P + b"Content-Length: 10\r\n\r\n")
            for _ in range(9):
                await turns()
                server.advance(4)
                client.feed(b"x")
            await turns()
            assert client.transport.received == b""
            client.feed(b"x")
            assert (await client.read_response()).status == 200

    run(main())


def test_4_blank_lines_are_counted_and_belong_to_their_connection_alone(run: Run) -> None:
    # RFC 9112 2.2: they are ignored, but not for ever, and not on account of somebody else
    async def main() -> None:
        async with MemoryServer(Recorder(), **LIMITS) as server:
            client, other = server.connect(), server.connect()
            client.feed(GOOD)
            await client.read_response()
            for _ in range(512):
                client.feed(b"\r\n")
                other.feed(head_of(1024))
                assert (await other.read_response()).status == 200
            assert client.transport.received == b""
            client.feed(b"\r\n")
            assert (await client.read_response()).status == 431

    run(main())


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\r\n\r", b"\r\n\r\n"])
def test_4_a_blank_line_behind_a_request_is_no_new_request(run: Run, end: bytes) -> None:
    # RFC 9112 2.2: old clients sent one behind a body; such a connection is idle.
    async def main() -> None:
        async with MemoryServer(Recorder(), read_timeout=5.0, idle_timeout=20.0) as server:
            client = server.connect()
            client.feed(post(b"Content-Length: 5", b"hello") + end)
            assert (await client.read_response()).status == 200
            server.advance(10)
            await turns()
            assert not client.transport.is_closing()
            client.feed(GOOD)
            assert (await client.read_response()).status == 200
            server.advance(30)
            assert await client.read_to_end() == b""

    run(main())


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("shift", [0, 1, len(GOOD) - 1])
def test_4_a_client_that_does_not_read_gets_no_more_to_read(run: Run, shift: int, waits: bool) -> None:
    # Each segment ends `shift` bytes into the next request.
    body = b"x" * 10_000

    async def handler(ctx: RequestCtx) -> None:
        if waits:
            await asyncio.sleep(0)
        ctx.set_body(body)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect(high_water=50_000)
            client.transport.take(0)
            client.feed(GOOD[:shift])
            for _ in range(100):
                client.feed(GOOD[shift:] + GOOD[:shift])
                await turns()
            assert len(client.transport.buffered) < 100_000
            client.transport.take(None)
            for _ in range(100):
                assert (await client.read_response()).body == body
            await turns()
            assert client.transport.reading

    run(main())


def test_4_a_client_that_does_not_read_is_cut(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(b"x" * 100_000)

    async def main() -> None:
        async with MemoryServer(handler, write_timeout=5.0) as server:
            client = server.connect()
            client.transport.take(0)
            client.feed(GOOD)
            await turns()
            server.advance(4.9)
            await turns()
            client.transport.take(1)  # it takes a byte: another 5 s
            server.advance(4.9)
            await turns()
            assert not client.transport.closed
            server.advance(4.9)
            await turns()
            server.advance(4.9)
            await client.closed()
            assert len(client.transport.received) == 1

    run(main())


# 13: many requests at once


@pytest.mark.parametrize("waits", [False, True])
def test_13_thousands_of_pipelined_requests_are_served_in_order(run: Run, waits: bool) -> None:
    # RFC 9112 9.3.2
    async def handler(ctx: RequestCtx) -> None:
        if waits:
            await asyncio.sleep(0)
        ctx.set_body(ctx.request.target)

    async def main() -> None:
        async with MemoryServer(handler, max_pipelined=64) as server:
            client = server.connect()
            client.feed(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(3000)))
            for i in range(3000):
                assert (await client.read_response()).body == b"/%d" % i
            if not waits:
                assert client.transport.writes >= 3000 // 64
            assert client.transport.reading

    run(main())


def test_13_reading_is_paused_while_pipelined_requests_wait(run: Run) -> None:
    release = asyncio.Event()

    async def handler(ctx: RequestCtx) -> None:
        await release.wait()

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD * 3)
            await turns()
            assert not client.transport.reading
            client.feed(GOOD)
            release.set()
            for _ in range(4):
                assert (await client.read_response()).status == 200
            assert client.transport.reading

    run(main())


# 14: what follows a valid request


@pytest.mark.parametrize("byte_by_byte", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_14_the_first_response_is_sent_then_400_then_close(run: Run, waits: bool, byte_by_byte: bool) -> None:
    async def handler(ctx: RequestCtx) -> None:
        if waits:
            await asyncio.sleep(0)
        ctx.set_body(b"first")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD + b"\x00junk" + GOOD, byte_by_byte=byte_by_byte)
            assert (await client.read_response()).body == b"first"
            response = await client.read_response()
            assert (response.status, response.headers["connection"]) == (400, "close")
            assert await client.read_to_end() == b""

    run(main())


# 15: nothing that a handler sets may split a response


@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\rb", "a\nb", "a\x00b", "a\x01b", "a\x7fb", "a\u0100b", " a"])
@pytest.mark.parametrize("setter", ["set_header", "add_header", "name", "set_content_type", "set_cookie"])
def test_15_a_value_that_cannot_be_sent_is_refused_where_it_is_set(run: Run, setter: str, bad: str) -> None:
    # RFC 9110 5.5 and 11.1 of RFC 9112
    refused: list[str] = []

    async def handler(ctx: RequestCtx) -> None:
        try:
            if setter == "name":
                ctx.set_header(bad, "x")
            elif setter == "set_content_type":
                ctx.set_content_type(bad)
            else:
                getattr(ctx, setter)("X", bad)
        except ValueError as error:
            refused.append(str(error))
        ctx.set_body(b"ok")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD)
            response = await client.read_response()
            assert (response.status, response.body, len(refused)) == (200, b"ok", 1)
            assert "x" not in response.headers
            assert refused[0].isprintable()

    run(main())


@pytest.mark.parametrize("status", [0, 99, 100, 102, 199, 1000, -1, 2**70, True, "200", 200.0, None])
def test_15_a_status_out_of_range_is_refused_where_it_is_set(run: Run, status: Any) -> None:
    refused: list[str] = []

    async def handler(ctx: RequestCtx) -> None:
        try:
            ctx.set_status_code(status)
        except ValueError as error:
            refused.append(str(error))

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD)
            assert (await client.read_response()).status == 200
            assert len(refused) == 1

    run(main())


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_15_a_handler_cannot_write_the_framing(run: Run, name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        if ctx.path != "/good":
            ctx.set_header(name, "1")
        ctx.set_body(b"ok")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD + BEHIND + GOOD)
            statuses = [(await client.read_response()).status for _ in range(3)]
            assert statuses == [200, 500, 200]

    run(main())
    assert name in caplog.text


# 16: the end of the stream


@pytest.mark.parametrize(
    "data", [b"G", G, P + b"Content-Length: 5\r\n\r\nhell", CHUNKED, CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"0\r\n"]
)
@pytest.mark.parametrize("way", ["whole", "byte by byte", "pipelined"])
def test_16_a_request_that_ends_too_soon_is_not_served(run: Run, data: bytes, way: str) -> None:
    # RFC 9112 8
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD * (way == "pipelined") + data, byte_by_byte=way == "byte by byte")
            client.feed_eof()
            if way == "pipelined":
                assert (await client.read_response()).status == 200
            await client.closed()
            assert handler.seen == [GOOD_SEEN] * (way == "pipelined")

    run(main())


@pytest.mark.parametrize("count", [1, 3, 200])
@pytest.mark.parametrize("waits", [False, True])
def test_16_whole_requests_before_the_end_of_the_stream_are_answered(run: Run, waits: bool, count: int) -> None:
    # RFC 9112 9.6: the client has closed its sending side, and still reads
    async def handler(ctx: RequestCtx) -> None:
        if waits:
            await asyncio.sleep(0)
        ctx.set_body(b"ok")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD * count)
            client.feed_eof()
            for _ in range(count):
                assert (await client.read_response()).body == b"ok"
            await client.closed()

    run(main())


# 17: Expect


@pytest.mark.parametrize("way", ["whole", "byte by byte", "pipelined"])
def test_17_100_continue_comes_when_the_body_is_wanted(run: Run, way: str) -> None:
    # RFC 9110 10.1.1
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler) as server:
            client = server.connect()
            head = post(b"Expect: 100-continue\r\nContent-Length: 5")
            client.feed(GOOD * (way == "pipelined") + head, byte_by_byte=way == "byte by byte")
            if way == "pipelined":
                assert (await client.read_response()).status == 200
            assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.feed(b"hello" + GOOD, byte_by_byte=way == "byte by byte")
            assert (await client.read_response()).body == b"served /"
            assert (await client.read_response()).body == b"served /good"
            assert handler.seen[-2:] == [Seen("POST", b"/", b"hello"), GOOD_SEEN]

    run(main())


def test_17_no_100_to_a_client_that_did_not_wait_nor_to_http_1_0(run: Run) -> None:
    # RFC 9110 10.1.1
    async def main() -> None:
        async with MemoryServer(Recorder()) as server:
            client = server.connect()
            client.feed(post(b"Expect: 100-continue\r\nContent-Length: 5", b"hello"))
            assert (await client.read_response()).status == 200
            client.feed(post(b"Expect: 100-continue\r\nTransfer-Encoding: chunked", b"5\r\nhel"))
            client.feed(b"lo\r\n0\r\n\r\n")
            assert (await client.read_response()).status == 200
            client.feed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            await turns()
            assert client.transport.received == b""
            client.feed(b"hello")
            assert (await client.read_response()).status == 200

    run(main())


@pytest.mark.parametrize("way", ["whole", "byte by byte", "pipelined"])
def test_17_continue_handler_may_refuse(run: Run, way: str) -> None:
    # RFC 9110 15.5.18
    async def main() -> None:
        handler = Recorder()
        asked: list[str] = []

        def wanted(ctx: RequestCtx) -> bool:
            asked.append(ctx.path)
            return False

        async with MemoryServer(handler, continue_handler=wanted) as server:
            client = server.connect()
            data = post(b"Expect: 100-continue\r\nContent-Length: %d" % len(BEHIND))
            client.feed(GOOD * (way == "pipelined") + data, byte_by_byte=way == "byte by byte")
            if way == "pipelined":
                assert (await client.read_response()).status == 200
            response = await client.read_response()
            assert (response.status, response.headers["connection"]) == (417, "close")
            client.feed(BEHIND)  # the body, which it sends all the same
            assert await client.read_to_end() == b""
            assert asked == ["/"]
            assert handler.seen == [GOOD_SEEN] * (way == "pipelined")

    run(main())


# Also: responses without a body, RFC 9112 6.3


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("extra", [False, True])
def test_also_the_next_response_begins_where_it_must(
    run: Run, status: int, method: bytes, version: bytes, extra: bool
) -> None:
    async def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/":
            ctx.set_status_code(status)
            if extra:
                ctx.set_header("X", "1")
        ctx.set_body(b"hello")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            one = method + b" / HTTP/" + version + b"\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
            for data in (one * 2 + GOOD, one + GOOD):  # the second time the head may be a kept one
                client.feed(data)
                for _ in range(data.count(b" / ")):
                    response = await client.read_response(head=method == b"HEAD")
                    assert response.status == status
                    bodiless = status in (204, 304)
                    assert response.body == (b"" if bodiless or method == b"HEAD" else b"hello")
                    assert response.headers.get("content-length") == (None if bodiless else "5")
                    assert "transfer-encoding" not in response.headers
                    assert response.headers.get("connection") == ("keep-alive" if version == b"1.0" else None)
                follower = await client.read_response()
                assert (follower.status, follower.body) == (200, b"hello")
            assert client.transport.received == b""

    run(main())


@pytest.mark.parametrize(
    "data", [GOOD, GOOD.replace(b"1.1", b"1.0").replace(b"a\r\n", b"a\r\nConnection: keep-alive\r\n")]
)
def test_also_a_stream_is_framed_by_what_the_client_can_read(run: Run, data: bytes) -> None:
    # RFC 9112 6.1 and 6.3: no chunks for HTTP/1.0, so its body ends with the connection, which must not say keep-alive
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream([b"one", b"", b"two"])

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(data * 2)
            if b"1.0" in data:
                head, _, body = (await client.read_to_end()).partition(b"\r\n\r\n")
                assert b"\r\nConnection: close" in head
                assert b"Transfer-Encoding" not in head
                assert body == b"onetwo"
            else:
                for _ in range(2):
                    assert (await client.read_response()).body == b"onetwo"

    run(main())


# Also: what is behind the last request


def test_also_nothing_is_served_behind_a_close_of_the_handler(run: Run) -> None:
    # RFC 9112 9.6
    async def main() -> None:
        served: list[str] = []

        async def handler(ctx: RequestCtx) -> None:
            served.append(ctx.path)
            if ctx.path == "/good":
                ctx.set_header("Connection", "close")

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD + BEHIND)
            response = await client.read_response()
            assert response.headers.get_all("connection") == ["close"]
            assert await client.read_to_end() == b""
            client.feed(BEHIND)
            client.feed_eof()
            await client.closed()
            assert served == ["/good"]

    run(main())


@pytest.mark.parametrize("waits", [False, True])
def test_also_parsers_go_from_one_connection_to_another_unharmed(run: Run, waits: bool) -> None:
    # Whatever one client sends and however it ends, the next one's first request is parsed afresh.
    async def handler(ctx: RequestCtx) -> None:
        if waits:
            await asyncio.sleep(0)
        ctx.set_body(ctx.request.target)

    async def main() -> None:
        async with MemoryServer(handler, **LIMITS) as server:
            for case in CASES:
                client = server.connect()
                client.feed(GOOD)
                await client.read_response()
                client.feed(case.data)
                await turns()
                other = server.connect()
                other.feed(GOOD)
                assert (await other.read_response()).body == b"/good", case.name
                client.feed_eof()
                other.feed_eof()
                await client.closed()
                await other.closed()

    run(main())


# Also: handlers that fail


def test_also_a_handler_that_raises_before_the_head_gets_500(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    # RFC 9110 15.6.1
    async def handler(ctx: RequestCtx) -> None:
        if ctx.path == "/good":
            ctx.set_body(b"ok")
            return
        ctx.set_body(b"half done")
        ctx.set_header("X", "1")
        raise LookupError("secret")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(BEHIND + GOOD)
            response = await client.read_response()
            assert response.status == 500
            assert "x" not in response.headers
            assert b"secret" not in response.body
            assert (await client.read_response()).body == b"ok"

    run(main())
    assert "secret" in caplog.text


def test_also_a_handler_that_raises_after_the_head_aborts_the_connection(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    # RFC 9112 8: the client must be able to see that the body is not whole
    async def handler(ctx: RequestCtx) -> None:
        async def stream() -> AsyncIterator[bytes]:
            yield b"begin"
            await asyncio.sleep(0)
            raise LookupError("in the middle")

        ctx.set_body_stream(stream())

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GOOD + BEHIND)
            response = await client.read_response()
            assert (response.status, response.body, response.complete) == (200, b"begin", False)
            await client.closed()
            assert b"0\r\n\r\n" not in client.transport.received

    run(main())
    assert "in the middle" in caplog.text


# Also: log lines


def test_also_control_characters_are_escaped_in_log_lines(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        raise LookupError

    async def main() -> None:
        async with MemoryServer(handler, log_all_errors=True) as server:
            client = server.connect()
            client.feed(
                b"GET /%0a%1b HTTP/1.1\r\nHost: a\r\n\r\n" + b"B\x1b[2J\nfake line / HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            await client.read_response()
            assert (await client.read_response()).status in (400, 501)

    with caplog.at_level(logging.INFO, "fastserve"):
        run(main())
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.getMessage().isprintable()


# Also: errors are sticky


def test_also_nothing_revives_a_refused_connection(run: Run) -> None:
    async def main() -> None:
        handler = Recorder()
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
            assert (await client.read_response()).status == 400
            for _ in range(5):
                client.feed(GOOD)
            assert await client.read_to_end() == b""
            server.advance(60)
            await client.closed()
            assert client.transport.received == b""
            assert handler.seen == []

    run(main())
