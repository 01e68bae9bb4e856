"""Scripts for `Upstream`: each way in which an upstream misbehaves, by name."""

from __future__ import annotations

from tests.client.upstream import (
    OK,
    Gate,
    Script,
    close,
    drain,
    drip,
    first_byte,
    request,
    request_head,
    reset,
    send,
    stall,
    until_closed,
    wait_for,
)

CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

SAYS_NOTHING: Script = [until_closed]
NEVER_READS: Script = [stall]
CLOSES_AFTER_ACCEPT: Script = [close]
CLOSES_AFTER_REQUEST: Script = [request, close]
CLOSES_IN_HEAD: Script = [request, send(b"HTTP/1.1 200 OK\r\nContent-Le"), close]
CLOSES_IN_BODY: Script = [request, send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), close]
CLOSES_IN_CHUNK: Script = [
    request,
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\nA\r\nhalf"),
    close,
]
CLOSES_BEFORE_LAST_CHUNK: Script = [
    request,
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n"),
    close,
]
CLOSES_IN_TRAILERS: Script = [
    request,
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\nX-Su"),
    close,
]
CLOSES_AFTER_INFORMATIONAL: Script = [request, send(b"HTTP/1.1 103 Early Hints\r\n\r\n"), close]
CLOSES_IDLE: Script = [request, send(OK), close]
"""A whole response that says keep-alive, then FIN: the stale connection of every pool."""
ANSWERS_TWICE: Script = [request, send(OK + OK), until_closed]
ANSWERS_BEFORE_REQUEST: Script = [send(OK), until_closed]
ANSWERS_BEFORE_BODY: Script = [
    request_head,
    send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"),
    drain,
]
"""Answers while the body is still being sent, and takes the rest in."""
ANSWERS_BEFORE_BODY_AND_RESETS: Script = [
    request_head,
    send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"),
    reset,
]
BODY_UNTIL_CLOSE: Script = [request, send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"), close]
"""No failure: such a body is ended by FIN (RFC 9112 6.3, last rule)."""
BODY_UNTIL_RESET: Script = [request, send(b"HTTP/1.1 200 OK\r\n\r\nuntil the e"), reset]

RESETS: dict[str, Script] = {
    "after accept": [reset],
    "in request": [first_byte, reset],
    "after request": [request, reset],
    "in head": [request, send(b"HTTP/1.1 200 OK\r\nContent-Le"), reset],
    "in body": [request, send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), reset],
    "in chunk": [request, send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nhalf"), reset],
    "after response": [request, send(OK), reset],
}
"""RST at each point. What had been sent before may be lost with it: TCP lets the reader's buffer go."""

BREAKS_BEFORE_RESPONSE: dict[str, Script] = {
    "closes after accept": CLOSES_AFTER_ACCEPT,
    "closes after request": CLOSES_AFTER_REQUEST,
    "resets after accept": RESETS["after accept"],
    "resets in request": RESETS["in request"],
    "resets after request": RESETS["after request"],
}
"""Not one byte of a response: what idempotent requests are retried after."""

BREAKS_IN_RESPONSE: dict[str, Script] = {
    "closes in head": CLOSES_IN_HEAD,
    "closes in body": CLOSES_IN_BODY,
    "closes in chunk": CLOSES_IN_CHUNK,
    "closes before last chunk": CLOSES_BEFORE_LAST_CHUNK,
    "closes in trailers": CLOSES_IN_TRAILERS,
    "closes after 103": CLOSES_AFTER_INFORMATIONAL,
}
"""A response that begins and does not end; closed with FIN, so that all of it arrives."""

MALFORMED: dict[str, bytes] = {
    # Framing (RFC 9112 6.3): two readings of one response are how responses get swapped between requests.
    "two differing Content-Lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "differing Content-Lengths in a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!",
    "Content-Length with Transfer-Encoding": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    "Transfer-Encoding with Content-Length": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    "codec that does not end in chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "unknown codec": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "Transfer-Encoding on HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "Content-Length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "Content-Length below zero": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "Content-Length in hex": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    "Content-Length that overflows": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
    "Content-Length that is empty": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    # Chunks (RFC 9112 7.1).
    "chunk size that is no number": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nok\r\n0\r\n\r\n",
    "chunk size with a sign": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
    "chunk size below zero": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
    "chunk size that overflows": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n0\r\n\r\n",
    "chunk without its terminator": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok0\r\n\r\n",
    "chunk longer than its size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
    # Status line (RFC 9112 4).
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "another protocol's status line": b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "status that is no number": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
    "status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "no status": b"HTTP/1.1 \r\nContent-Length: 2\r\n\r\nok",
    # Fields (RFC 9112 5, RFC 9110 5).
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "field without a colon": b"HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\nok",
    "field without a name": b"HTTP/1.1 200 OK\r\n: 2\r\nContent-Length: 2\r\n\r\nok",
    "name that is no token": b"HTTP/1.1 200 OK\r\nX(Y): 1\r\nContent-Length: 2\r\n\r\nok",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "bare CR in a value": b"HTTP/1.1 200 OK\r\nX: a\rContent-Length: 3\r\nContent-Length: 2\r\n\r\nok",
    "folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "space before the first field": b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok",
    # What has no end.
    "huge head": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 1_000_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "huge status line": b"HTTP/1.1 200 " + b"O" * 1_000_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "very many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"Content-Length: 2\r\n\r\nok",
    "huge trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n"
    ),
    "huge chunk extension": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"x" * 1_000_000 + b"\r\nok\r\n0\r\n\r\n"
    ),
    "101 times 1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 101 + OK,
    "101 that was not asked for": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
}
"""Responses to a GET that must be an error, and after which the connection must not be reused."""

HUNDRED_TIMES_1XX = b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + OK
"""The most that is taken: the response is OK."""


def answers(response: bytes) -> Script:
    """Read one request, send `response`, leave the rest to the client: what to do with `MALFORMED`."""
    return [request, send(response), until_closed]


def answers_twice(gate: Gate) -> Script:
    """As `ANSWERS_TWICE`, but the second response is sent when the test says so: the connection is idle by then."""
    return [request, send(OK), wait_for(gate), send(OK), until_closed]


def drips(gate: Gate, response: bytes = OK) -> Script:
    """Read one request and send `response` byte by byte, each when the test says so."""
    return [request, drip(response, gate), until_closed]
