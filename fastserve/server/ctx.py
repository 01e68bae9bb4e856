"""`RequestCtx`: what a handler gets: the request, the response, and the connection they travel on."""

from __future__ import annotations

import contextvars
import json as _json
import time as _time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastserve.errors import BodyStreamError, HijackError, ResponseError
from fastserve.http1.args import Args
from fastserve.http1.cookie import Cookie
from fastserve.http1.forms import Form, FormFile
from fastserve.http1.headers import Headers
from fastserve.http1.request import Request
from fastserve.http1.response import CHECKED_CONTENT_TYPES, BodyStream, Response, encode_body
from fastserve.http1.uri import URI
from fastserve.server.body import RequestBodyStream
from fastserve.server.failures import log_failure
from fastserve.server.stream import discard_stream, send_stream

if TYPE_CHECKING:
    import asyncio

    from fastserve.http1.parser import RequestParser
    from fastserve.server.connection import Connection
    from fastserve.server.hijack import HijackHandler
    from fastserve.server.service import Service
    from fastserve.server.worker import Worker

__all__ = ["RequestCtx"]


class RequestCtx:
    """One request and its response, in the manner of fasthttp's RequestCtx.

    It is used again for the next request when nobody holds it any more after the handler has returned; a handler that
    keeps it, or its `request` or `response`, keeps what it saw. All that is text is str; bodies are bytes.
    """

    __slots__ = (
        "_arrived",
        "_body_stream",
        "_connection",
        "_early",
        "_failure",
        "_hijack_handler",
        "_request",
        "_response",
        "_service",
        "_stream_head",
        "_user_values",
        "context",
        "parser",
        "run",
        "touched",
        "unusual",
        "worker",
    )

    def __init__(
        self,
        service: Service,
        request: Request,
        parser: RequestParser,
        run: Callable[[RequestCtx], Awaitable[Any]],
    ) -> None:
        self._service = service
        self._request = request
        self._response = Response()
        self.touched = False
        """True when a handler may have kept a part of this, or left something in it: see `Connection._renew`."""
        self.parser = parser
        self.run = run
        """What a worker runs: the handler, then whatever sends a streamed response."""
        self._connection: Connection | None = None
        self.context: contextvars.Context | None = None
        self._failure: BaseException | None = None
        self.worker: Worker | None = None
        self._arrived: float | None = None
        self.unusual = False
        """True when one of what follows was set: then the connection takes the longer way, and it is reset."""
        self._hijack_handler: HijackHandler | None = None
        self._early: tuple[str, int] | None = None
        self._body_stream: RequestBodyStream | None = None
        self._stream_head = b""
        self._user_values: dict[Any, Any] | None = None

    def reset(self, run: Callable[[RequestCtx], Awaitable[Any]]) -> None:
        """Forget request and response, and what was set beside them."""
        self._request.body = b""
        self._request.surface = None
        self._response.reset()
        self.run = run
        self.context = None
        self._failure = None
        self.touched = self.unusual = False
        self._arrived = None
        self._hijack_handler = None
        self._early = None
        self._body_stream = None
        self._stream_head = b""
        self._user_values = None

    @property
    def request(self) -> Request:
        """Method, target, headers, body."""
        self.touched = True
        return self._request

    @property
    def response(self) -> Response:
        """Status, headers, body."""
        self.touched = True
        return self._response

    # The request

    @property
    def method(self) -> str:
        """The method, upper case: ``"GET"``."""
        return self._request.method

    @property
    def is_get(self) -> bool:
        return self._request.method == "GET"

    @property
    def is_head(self) -> bool:
        return self._request.method == "HEAD"

    @property
    def is_post(self) -> bool:
        return self._request.method == "POST"

    @property
    def path(self) -> str:
        """The path, percent-decoded as UTF-8, without the query string."""
        return self._request.path

    @property
    def uri(self) -> URI:
        return self._request.uri

    @property
    def host(self) -> str:
        """Host (and port) that the client asked for."""
        return self._request.host

    @property
    def query_args(self) -> Args:
        """Arguments of the query string."""
        return self._request.query_args

    @property
    def post_args(self) -> Args:
        """Text arguments of a form body. Raises `FormError` when it is malformed."""
        return self.form.args

    @property
    def form(self) -> Form:
        """Arguments and files of a form body. Raises `FormError` when it is malformed."""
        self.touched = True  # it may be large: not to be held until the next request
        return self._request.form

    def form_value(self, name: str, default: str | None = None) -> str | None:
        """The first value of `name`: from the query string, else from the form body, else `default` (as fasthttp's FormValue)."""
        value = self.query_args.get(name)
        if value is None:
            value = self.post_args.get(name)
        return default if value is None else value

    def form_file(self, name: str) -> FormFile | None:
        """The first file that was uploaded as `name`, or None."""
        files = self.form.files.get(name)
        return files[0] if files else None

    @property
    def post_body(self) -> bytes:
        """The whole body. Raises `BodyStreamError` when it is being streamed: read `request_body_stream`."""
        if self._body_stream is not None:
            raise BodyStreamError("the body is streamed: read ctx.request_body_stream, or unset stream_request_body")
        return self._request.body

    def json(self, loads: Callable[[bytes], Any] = _json.loads) -> Any:
        """The body as JSON; `loads` may be orjson.loads or msgspec.json.decode. Raises `RequestError` 400."""
        self.post_body  # noqa: B018 (raises when the body is streamed)
        return self._request.json(loads)

    @property
    def request_body_stream(self) -> RequestBodyStream:
        """The body as it arrives. Raises `BodyStreamError` unless the server has `stream_request_body`."""
        stream = self._body_stream
        if stream is None:
            connection = self._connected()
            if not connection.service.config.stream_request_body:
                raise BodyStreamError("the body is not streamed: set stream_request_body, or read ctx.post_body")
            # A request without a body: a handler for uploads need not know.
            self.unusual = True
            stream = self._body_stream = RequestBodyStream(connection, connection.service.loop)
            stream.feed([], True)
        return stream

    @property
    def cookies(self) -> dict[str, str]:
        return self._request.cookies

    @property
    def trailers(self) -> Headers:
        """Fields behind a chunked body, apart from the headers (RFC 9110 6.5.1)."""
        return self._request.trailers

    @property
    def time(self) -> float:
        """When the request was there, in seconds since the epoch."""
        return _time.time() if self._arrived is None else self._arrived

    def stamp(self) -> None:
        """Fix `time`: the handler is about to wait. Before that, now is when the request was there."""
        if self._arrived is None:
            self._arrived = _time.time()

    # The connection

    def _connected(self) -> Connection:
        if self._connection is None:
            raise ResponseError("this RequestCtx was answered already: its connection serves another request")
        return self._connection

    @property
    def remote_addr(self) -> str:
        """``"192.0.2.1:5000"``, ``"[2001:db8::1]:5000"``, or the path of a unix socket's peer (mostly empty)."""
        return self._connected().remote_addr

    @property
    def remote_ip(self) -> str:
        """``"192.0.2.1"``, ``"2001:db8::1"``, or empty for a unix socket."""
        return self._connected().remote_ip

    @property
    def local_addr(self) -> str:
        """The server's end, in the form of `remote_addr`."""
        return self._connected().local_addr

    @property
    def is_tls(self) -> bool:
        return self._connected().is_tls

    @property
    def id(self) -> str:
        """Names this request in this process: number of the connection, dash, number of the request on it."""
        connection = self._connected()
        return f"{connection.number}-{connection.requests}"

    @property
    def conn_request_num(self) -> int:
        """1 for the first request of the connection."""
        return self._connected().requests

    @property
    def conn_time(self) -> float:
        """Seconds that the connection has been open."""
        return self._connected().age

    @property
    def disconnected(self) -> bool:
        """True when the client has gone, or has closed its sending side, which looks the same until something is written.

        Not every client of which this is true has gone: some close their sending side and read on (``nc -N``). The server
        still sends them the whole response; a handler that gives up here chooses not to, as with `cancel_on_disconnect`.
        """
        return self._connection is None or self._connection.gone

    @property
    def done(self) -> asyncio.Event:
        """Set when the server begins to shut down: long handlers end soon then."""
        return self._service.done

    # Values that travel with the request

    @property
    def user_values(self) -> dict[Any, Any]:
        """Values that middleware hands to handlers. Empty for each request."""
        values = self._user_values
        if values is None:
            self.touched = True
            values = self._user_values = {}
        return values

    def set_user_value(self, key: Any, value: Any) -> None:
        self.user_values[key] = value

    def user_value(self, key: Any, default: Any = None) -> Any:
        return default if self._user_values is None else self._user_values.get(key, default)

    # The response

    def set_status_code(self, status: int | HTTPStatus) -> None:
        """200..999, or 101 before a hijack. Raises `ResponseError`. Default 200."""
        self._response.set_status_code(status)

    def set_content_type(self, value: str | StrEnum) -> None:
        """Such as ``text/html; charset=utf-8``. Raises `ResponseError`. Default: text/plain; charset=utf-8."""
        encoded = CHECKED_CONTENT_TYPES.get(value)
        if encoded is None:
            self._response.set_content_type(value)
        else:
            self._response.plain_type = encoded

    def set_body(self, body: bytes | bytearray | memoryview | str) -> None:
        """The whole body; str is sent as UTF-8. Takes the place of any body or stream set before. Raises `ResponseError`."""
        response = self._response
        if type(body) is bytes and response.plain:
            response.plain_body = body
        else:
            response.set_body(body)

    def set_header(self, name: str, value: str | int) -> None:
        """Set a header of the response, in place of any of this name. Raises `ResponseError`."""
        self._response.headers.set(name, value)

    def add_header(self, name: str, value: str | int) -> None:
        """Add a header of the response beside others of this name. Raises `ResponseError`."""
        self._response.headers.add(name, value)

    def set_cookie(self, cookie: Cookie | str, value: str = "", **attributes: Any) -> None:
        """Set a cookie: a `Cookie`, or its name, value and attributes. Raises `ResponseError`."""
        self._response.set_cookie(cookie if isinstance(cookie, Cookie) else Cookie(cookie, value, **attributes))

    def write(self, data: bytes | bytearray | memoryview | str) -> None:
        """Add to the body. Many small pieces are better collected first: each call copies what is there."""
        response = self._response
        if response.stream is not None:
            raise ResponseError("write() after set_body_stream(): the response has one body")
        response.plain_body += data if type(data) is bytes else encode_body(data)

    def set_json(self, value: Any, dumps: Callable[[Any], bytes | str] = _json.dumps) -> None:
        """`value` as JSON with its content type; `dumps` may be orjson.dumps or msgspec.json.encode."""
        self._response.set_body(dumps(value))
        self._response.plain_type = b"application/json"

    def set_body_stream(self, stream: BodyStream, size: int = -1) -> None:
        """Send what `stream`, an iterable or async iterable of bytes or str, gives; `size` bytes, or -1 for as many as come.

        Without a size it is chunked for HTTP/1.1, and ends with the connection for HTTP/1.0. At most 64 KiB are held for
        a client that reads slowly. A stream that raises, or gives another size than announced, aborts the connection.
        It is cancelled when its client has gone, which a write finds out; and when the client has closed its sending side
        and no piece has come for `idle_timeout`, since such a client can't be told from one that has gone.
        """
        self._response.set_stream(stream, size)

    def redirect(self, url: str, status: int = 302) -> None:
        """Send the client to `url`, absolute or relative (RFC 9110 10.2.2), with 301, 302, 303, 307 or 308."""
        if status not in (301, 302, 303, 307, 308):
            raise ResponseError(f"redirect status {status!r}: takes 301, 302, 303, 307 or 308")
        # A Location is a URI reference: what is not ASCII is sent as percent-encoded UTF-8.
        self._response.headers.set("Location", "".join(c if c < "\x7f" else _percent_encode(c) for c in url))
        self._response.status_code = status
        self._response.set_body(b"")

    def error(self, message: str, status: int | HTTPStatus = 500) -> None:
        """Answer with a plain text `message`; everything that was set before is forgotten."""
        self._response.reset()
        self._response.set_status_code(status)
        self._response.set_content_type("text/plain; charset=utf-8")
        self._response.set_body(message)

    def not_found(self) -> None:
        self.error("Not Found\n", 404)

    def timeout_error(self, message: str = "the request took too long\n", status: int | HTTPStatus = 408) -> None:
        """Answer now, while the handler goes on: what it still sets is for nobody.

        As fasthttp's TimeoutError. The connection serves its next request; the handler's worker stays busy until it returns.
        Raises `ResponseError` for a status or body that can't be sent, and when a stream has begun to be sent; called on
        another thread than the loop's it acts a moment later, and then logs that it came too late.
        """
        probe = Response()  # refuse here what can't be sent: nobody would answer when it fails later
        probe.set_status_code(status)
        probe.set_body(message)
        self._connected().answer_early(self, message, status)

    def hijack(self, handler: HijackHandler) -> None:
        """Hand the connection over to ``await handler(connection)`` when the response has been sent.

        `connection` is a `HijackedConnection`. With status 101 the response is the upgrade's (RFC 9110 15.2.2).
        """
        if not callable(handler):
            raise HijackError(f"hijack takes an async function, not {type(handler).__name__}")
        self.unusual = True
        self._hijack_handler = handler

    def run_in_thread(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Await ``function(*args)`` on one of the server's threads: for calls that block, in an `async def` handler."""
        return self._service.threads.run(function, *args)

    # For the worker pools (`Work` and `ThreadWork`)

    @property
    def failure(self) -> BaseException | None:
        """What the handler, or the stream of its response, raised."""
        return self._failure

    @failure.setter
    def failure(self, failure: BaseException | None) -> None:
        self._failure = failure
        if failure is not None:
            self.unusual = True

    def call(self) -> None:
        self._service.call(self)

    def call_ended(self) -> None:
        if self._connection is not None:
            self._connection.call_ended(self)
            return
        discard_stream(self._response.stream)
        if self.failure is not None:
            log_failure(self, self.failure)

    def ended(self) -> bool:
        if self._connection is not None:
            return self._connection.ended(self)
        if self.run is not send_stream:  # which closes its stream itself
            discard_stream(self._response.stream)
        if self.failure is not None:
            log_failure(self, self.failure)
        return False

    def refused(self) -> None:
        if self._connection is not None:
            self._connection.refused(self)


def _percent_encode(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))
