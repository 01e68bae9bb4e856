"""`RequestEncoder`: a `ClientRequest` as the bytes that one upstream is sent. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fastserve.client.addresses import Address
from fastserve.client.options import ClientOptions
from fastserve.client.request import ClientRequest, Origin
from fastserve.errors import InvalidRequest
from fastserve.http1.content_coding import accept_encoding
from fastserve.http1.headers import Headers
from fastserve.http1.render import LAST_CHUNK, chunk
from fastserve.http1.request_writer import DEFAULT_USER_AGENT, RequestWriter

__all__ = ["BodyFramer", "RequestEncoder"]

ONE_WRITE: Final = 64 * 1024
"""Bytes of a body that are joined to the head: one segment more costs more than to copy them."""


class RequestEncoder:
    """Heads for one upstream, which may have several addresses. Raises `InvalidRequest` for what it can't be asked."""

    __slots__ = ("_accept_encoding", "_authorities", "_user_agent", "_writers", "origin", "plain_heads")

    def __init__(self, addresses: list[Address], options: ClientOptions) -> None:
        origins = [origin_of(address) for address in addresses]
        self.origin = origins[0]
        """What a path is a part of: the first address."""
        self._authorities = frozenset(origins)
        self._user_agent = None if options.no_default_user_agent_header else options.name or DEFAULT_USER_AGENT
        self._writers = {self.origin: RequestWriter(self.origin.authority, self._user_agent)}
        self._accept_encoding = accept_encoding() if options.decode_content else ""
        self.plain_heads = {} if self._accept_encoding else self._writers[self.origin].plain_heads
        """Whole requests with neither headers nor body that were sent before, by (method, target)."""

    def encode(self, request: ClientRequest) -> tuple[bytes, bytes]:
        """The request's head, and what is left of its body: a small one stands behind the head. A stream is not touched."""
        writer = self._writer(request)
        headers = request._headers  # None, mostly: `request.headers` would make some
        content = request.content
        if self._accept_encoding and (headers is None or "accept-encoding" not in headers):
            headers = Headers(() if headers is None else headers.raw)
            headers.set("Accept-Encoding", self._accept_encoding)
        if not headers and not content and request.stream is None:
            return writer.plain_head(request.method, request.target), b""
        length = request.content_length
        head = writer.head(
            request.method,
            request.target,
            headers,
            content_length=length if content or request.stream is not None else None,
            chunked=length is None,
        )
        return (head + content, b"") if len(content) <= ONE_WRITE else (head, content)

    def _writer(self, request: ClientRequest) -> RequestWriter:
        origin = request.origin or self.origin
        writer = self._writers.get(origin)
        if writer is None:
            if origin not in self._authorities:
                raise InvalidRequest(
                    f"this client talks to {self.origin} and the request is for {origin}: make a client for that, or give a path"
                )
            writer = self._writers[origin] = RequestWriter(origin.authority, self._user_agent)
        return writer

    def serves(self, origin: Origin) -> bool:
        """True when `origin` is one of the upstream's own."""
        return origin in self._authorities


def origin_of(address: Address) -> Origin:
    """How a URL names `address`. A unix socket is ``localhost``, as curl has it."""
    host = address.host or "localhost"
    scheme = "https" if address.is_tls else "http"
    port = address.port or (443 if address.is_tls else 80)
    return Origin(scheme, f"[{host}]" if ":" in host else host, port)


class BodyFramer:
    """The pieces of a streamed body, framed: in chunks (RFC 9112 7.1), or to the length that was announced."""

    __slots__ = ("_left",)

    def __init__(self, request: ClientRequest) -> None:
        self._left = request.content_length

    def frame(self, piece: object) -> bytes:
        """One piece, ready to be written; empty for an empty one. Raises `InvalidRequest`."""
        if isinstance(piece, str):
            try:
                data = piece.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"the body's stream gave str with no UTF-8 form: {error.reason}", phase="write"
                ) from None
        elif isinstance(piece, bytes | bytearray | memoryview):
            data = bytes(piece)  # a memoryview's len() may count more than bytes
        else:
            raise InvalidRequest(
                f"the body's stream gave {type(piece).__name__}: bytes and str can be sent", phase="write"
            )
        if self._left is None:
            return chunk(data) if data else b""
        self._left -= len(data)
        if self._left < 0:
            raise InvalidRequest("the body's stream is longer than its Content-Length says", phase="write")
        return data

    def end(self) -> bytes:
        """What stands behind the last piece. Raises `InvalidRequest` when bytes are missing."""
        if self._left is None:
            return LAST_CHUNK
        if self._left:
            raise InvalidRequest(f"the body's stream ended {self._left} bytes before its Content-Length", phase="write")
        return b""


def pieces_of(stream: object) -> Iterator[object]:
    """A plain iterable's pieces. Raises `InvalidRequest` for an async one, which a blocking client can't wait for."""
    if not isinstance(stream, Iterable):
        raise InvalidRequest("an async iterable as a body needs HostClient: a blocking client can't wait for it")
    return iter(stream)
