"""`RequestCtx`: every attribute and method, against real bytes."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import pytest

from fastserve.errors import BodyStreamError, FormError, HijackError, ResponseError
from fastserve.http1.cookie import Cookie
from fastserve.server.ctx import RequestCtx
from fastserve.testing import MemoryResponse, MemoryServer
from tests.server.clients import GET, Run

Handler = Callable[[RequestCtx], Any]


def get(target: str, *headers: str) -> bytes:
    return "".join([f"GET {target} HTTP/1.1\r\nHost: a\r\n", *(f"{h}\r\n" for h in headers), "\r\n"]).encode("latin-1")


def post(body: bytes, content_type: str = "application/x-www-form-urlencoded", target: str = "/") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer(run: Run, handler: Handler, data: bytes = GET, *, head: bool = False, **options: Any) -> MemoryResponse:
    """What `handler` answers to `data`; the same when `data` comes byte by byte."""

    async def main() -> list[MemoryResponse]:
        responses = []
        for byte_by_byte in (False, True):
            async with MemoryServer(handler, **options) as server:
                client = server.connect()
                client.feed(data, byte_by_byte=byte_by_byte)
                responses.append(await client.read_response(head=head))
        return responses

    whole, dripped = run(main())
    assert (whole.status, whole.body, whole.complete) == (dripped.status, dripped.body, dripped.complete)
    assert isinstance(whole, MemoryResponse)
    return whole


def seen(run: Run, look: Callable[[RequestCtx], Any], data: bytes = GET, **options: Any) -> Any:
    """What `look` finds in the ctx of the request `data`."""
    found: list[Any] = []

    async def handler(ctx: RequestCtx) -> None:
        found.append(look(ctx))

    assert answer(run, handler, data, **options).status == 200
    assert len(found) == 2
    return found[0]


# The request


def test_method_path_host(run: Run) -> None:
    data = b"DELETE /a%20b/%C3%A9?x=1&x=2 HTTP/1.1\r\nHost: example.org:81\r\n\r\n"
    found = seen(
        run,
        lambda c: (c.method, c.path, c.host, c.uri.path, c.request.query_string, c.is_get, c.is_head, c.is_post),
        data,
    )
    assert found == ("DELETE", "/a b/\u00e9", "example.org:81", "/a b/\u00e9", "x=1&x=2", False, False, False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_is_method(run: Run, method: str) -> None:
    def handler(ctx: RequestCtx) -> None:
        ctx.set_header("X-Is", f"{ctx.is_get:d}{ctx.is_head:d}{ctx.is_post:d}")

    data = f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    response = answer(run, handler, data, head=method == "HEAD", inline=True)
    assert response.headers["X-Is"] == {"GET": "100", "HEAD": "010", "POST": "001"}[method]


def test_absolute_form_wins_over_host(run: Run) -> None:
    data = b"GET http://example.org/x HTTP/1.1\r\nHost: other\r\n\r\n"
    assert seen(run, lambda c: (c.host, c.path), data) == ("example.org", "/x")


def test_query_args_with_repeated_keys(run: Run) -> None:
    args = seen(run, lambda c: c.query_args, get("/?a=1&b=&a=2&c&a=%263&d=x+y%20z"))
    assert args.items() == [("a", "1"), ("b", ""), ("a", "2"), ("c", ""), ("a", "&3"), ("d", "x y z")]
    assert args["a"] == "1"
    assert args.get_all("a") == ["1", "2", "&3"]
    assert args.get("none") is None


def test_form_args_with_repeated_keys(run: Run) -> None:
    args = seen(run, lambda c: c.post_args, post(b"a=1&a=2&name=%C3%A9+x"))
    assert args.get_all("a") == ["1", "2"]
    assert args["name"] == "\u00e9 x"


def test_form_value_looks_in_the_query_first(run: Run) -> None:
    def look(ctx: RequestCtx) -> Any:
        return [ctx.form_value(name) for name in ("q", "f", "both", "none")] + [ctx.form_value("none", "default")]

    data = post(b"f=form&both=form&both=2", target="/?q=query&both=query&empty=")
    assert seen(run, look, data) == ["query", "form", "query", None, "default"]
    assert seen(run, lambda c: c.form_value("empty", "default"), get("/?empty=")) == ""


def test_a_body_of_another_type_is_no_form(run: Run) -> None:
    data = post(b"a=1", "text/plain")
    assert seen(run, lambda c: (len(c.post_args), c.form_file("a"), c.form_value("a")), data) == (0, None, None)


MULTIPART = (
    b'--XX\r\nContent-Disposition: form-data; name="title"\r\n\r\nA b\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="../x.txt"\r\n'
    b"Content-Type: text/csv\r\n\r\n1,2\r\n\r\n"
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="y.bin"\r\n\r\n\x00\xff\r\n--XX--\r\n'
)


def test_multipart_files(run: Run) -> None:
    data = post(MULTIPART, "multipart/form-data; boundary=XX")
    form = seen(run, lambda c: c.form, data)
    assert form.args.items() == [("title", "A b")]
    assert [(f.filename, f.safe_filename, f.content_type, f.data) for f in form.files["file"]] == [
        ("../x.txt", "x.txt", "text/csv", b"1,2\r\n"),
        ("y.bin", "y.bin", None, b"\x00\xff"),
    ]
    first, none = seen(run, lambda c: (c.form_file("file"), c.form_file("none")), data)
    assert first.data == b"1,2\r\n"
    assert none is None


def test_a_malformed_form_is_the_clients_fault(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.form  # noqa: B018

    response = answer(run, handler, post(b"--YY\r\n", "multipart/form-data; boundary=XX"))
    assert response.status == 400
    assert response.body.startswith(b"Bad Request: ")
    assert not [record for record in caplog.records if record.name == "fastserve"]

    async def catches(ctx: RequestCtx) -> None:
        with pytest.raises(FormError):
            ctx.form  # noqa: B018
        ctx.set_body("caught")

    assert answer(run, catches, post(b"--YY\r\n", "multipart/form-data; boundary=XX")).body == b"caught"


def test_too_many_args_are_the_clients_fault(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.form_value("a")

    assert answer(run, handler, get("/?" + "&".join(["a=1"] * 1001))).status == 400


def test_post_body(run: Run) -> None:
    assert seen(run, lambda c: c.post_body) == b""
    assert seen(run, lambda c: c.post_body, post(b"\x00\xff\r\n\r\n")) == b"\x00\xff\r\n\r\n"
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    assert seen(run, lambda c: c.post_body, chunked) == b"abcde"


def test_a_body_that_is_not_streamed(run: Run) -> None:
    def look(ctx: RequestCtx) -> None:
        with pytest.raises(BodyStreamError, match="set stream_request_body"):
            ctx.request_body_stream  # noqa: B018

    seen(run, look)


def test_json_in(run: Run) -> None:
    data = post(b'{"a": [1, "\xc3\xa9"]}', "application/json")
    assert seen(run, lambda c: c.json(), data) == {"a": [1, "\u00e9"]}
    taken: list[bytes] = []

    def loads(body: bytes) -> str:
        taken.append(body)
        return "other"

    assert seen(run, lambda c: c.json(loads), data) == "other"
    assert taken[0] == b'{"a": [1, "\xc3\xa9"]}'


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_malformed_json_is_the_clients_fault(run: Run, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> MemoryResponse:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(post(body, "application/json"))
            return await client.read_response()

    async def handler(ctx: RequestCtx) -> None:
        ctx.json()

    response = run(main())
    assert response.status == 400
    assert response.body.startswith(b"Bad Request: the body is not JSON")
    assert not caplog.records


def test_json_out(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_json({"a": "\u00e9"})

    response = answer(run, handler)
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(response.body) == {"a": "\u00e9"}

    for dumps in (lambda value: b'{"by":1}', lambda value: '{"by":1}'):

        def with_dumps(ctx: RequestCtx, dumps: Any = dumps) -> None:
            ctx.set_json(object(), dumps)

        assert answer(run, with_dumps, inline=True).body == b'{"by":1}'


def test_cookies_both_ways(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_cookie("a", ctx.cookies["x"], max_age=60, http_only=True)
        ctx.set_cookie(Cookie("b", "2", path="/p", secure=True, same_site="none"))
        ctx.set_body(repr(ctx.cookies))

    response = answer(run, handler, get("/", "Cookie: x=1; y=two", "Cookie: x=3; z=\xe9"))
    assert response.body.decode() == repr({"x": "1", "y": "two", "z": "\xe9"})
    assert response.headers.get_all("Set-Cookie") == [
        "a=1; Path=/; Max-Age=60; HttpOnly",
        "b=2; Path=/p; Secure; SameSite=None",
    ]


def test_trailers_stand_apart(run: Run) -> None:
    data = (
        b"POST / HTTP/1.1\r\nHost: a\r\nX-A: head\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\nX-A: tail\r\nX-B: 1\r\n\r\n"
    )

    def look(ctx: RequestCtx) -> Any:
        return ctx.request.headers.get_all("x-a"), ctx.trailers.items(), "X-B" in ctx.request.headers

    assert seen(run, look, data) == (["head"], [("X-A", "tail"), ("X-B", "1")], False)


def test_where_it_came_from(run: Run) -> None:
    peers = [
        (("192.0.2.1", 5000), "192.0.2.1:5000", "192.0.2.1"),
        (("2001:db8::1", 5000, 0, 0), "[2001:db8::1]:5000", "2001:db8::1"),
        ("", "", ""),
        (b"/run/peer", "/run/peer", ""),
        (None, "", ""),
    ]

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_json([ctx.remote_addr, ctx.remote_ip, ctx.local_addr, ctx.is_tls])

    async def main() -> None:
        async with MemoryServer(handler) as server:
            for peer, address, ip in peers:
                client = server.connect(peer=peer)
                client.feed(GET)
                found = json.loads((await client.read_response()).body)
                assert found == [address, ip, "127.0.0.1:8000", False]

    run(main())


def test_time_and_number(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        first = ctx.time
        await asyncio.sleep(0)
        assert abs(ctx.time - time.time()) < 20
        assert ctx.time >= first
        assert ctx.time == ctx.time  # fixed, now that it has waited
        ctx.set_json([ctx.id, ctx.conn_request_num, ctx.conn_time >= 0])

    async def main() -> None:
        async with MemoryServer(handler) as server:
            ids = set()
            for _ in range(2):
                client = server.connect()
                for number in (1, 2, 3):
                    client.feed(GET)
                    name, found, age = json.loads((await client.read_response()).body)
                    assert found == number
                    assert age is True
                    assert name.endswith(f"-{number}")
                    ids.add(name)
            assert len(ids) == 6

    run(main())


def test_conn_time_is_the_servers_time(run: Run) -> None:
    ages: list[float] = []

    async def handler(ctx: RequestCtx) -> None:
        ages.append(ctx.conn_time)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            await client.read_response()
            server.advance(7)
            client.feed(GET)
            await client.read_response()

    run(main())
    assert ages == pytest.approx([0, 7])


def test_user_values_are_new_for_each_request(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        assert ctx.user_value("user") is None
        assert ctx.user_value("user", "nobody") == "nobody"
        ctx.set_user_value("user", "ann")
        ctx.user_values[1] = "any key"
        ctx.set_json([ctx.user_value("user"), len(ctx.user_values)])

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET * 3)
            for _ in range(3):
                assert (await client.read_response()).body == b'["ann", 2]'

    run(main())


def test_what_a_handler_keeps_stays(run: Run) -> None:
    kept: list[RequestCtx] = []

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body(ctx.path)
        ctx.user_values["path"] = ctx.path
        kept.append(ctx)

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(get("/1", "X-N: 1") + get("/2", "X-N: 2") + get("/3", "X-N: 3"))
            for number in (1, 2, 3):
                assert (await client.read_response()).body == b"/%d" % number

    run(main())
    assert [c.path for c in kept] == ["/1", "/2", "/3"]
    assert [c.request.headers["X-N"] for c in kept] == ["1", "2", "3"]
    for ctx in kept:
        assert ctx.disconnected
        with pytest.raises(ResponseError, match="answered already"):
            ctx.remote_addr  # noqa: B018


# The response


def test_defaults(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None: ...

    response = answer(run, handler)
    assert (response.status, response.body) == (200, b"")
    assert [name for name, _ in response.fields] == [b"Server", b"Date", b"Content-Type", b"Content-Length"]
    assert response.headers["Server"] == "fastserve"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert abs(parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()) < 20


def test_defaults_can_be_left_out(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body("x")

    options: dict[str, Any] = {
        "no_default_server_header": True,
        "no_default_date": True,
        "no_default_content_type": True,
    }
    assert answer(run, handler, **options).fields == [(b"Content-Length", b"1")]
    assert answer(run, handler, name="my server").headers["Server"] == "my server"


def test_handler_headers_take_the_place_of_defaults(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_header("Server", "mine")
        ctx.set_header("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
        ctx.set_header("Content-Type", "text/css")
        ctx.set_body("x")

    headers = answer(run, handler).headers
    assert headers.get_all("server") == ["mine"]
    assert headers.get_all("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert headers.get_all("content-type") == ["text/css"]


def test_headers(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.add_header("X-A", "1")
        ctx.add_header("x-a", 2)
        ctx.set_header("X-B", "gone")
        ctx.set_header("x-b", "\xe9")
        ctx.set_content_type("text/html; charset=utf-8")
        ctx.set_status_code(HTTPStatus.CREATED)

    response = answer(run, handler)
    assert response.status == 201
    assert response.headers.get_all("X-A") == ["1", "2"]
    assert response.headers.get_all("X-B") == ["\xe9"]
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "body", [b"abc", "abc", bytearray(b"abc"), memoryview(b"abc")], ids=lambda body: type(body).__name__
)
def test_body_types(run: Run, body: Any) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body("forgotten")
        ctx.set_body(body)

    assert answer(run, handler).body == b"abc"


def test_str_is_utf_8(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body("\u20ac")
        ctx.write("\u00e9")
        ctx.write(b"\xff")
        ctx.write(bytearray(b"!"))

    response = answer(run, handler)
    assert response.body == "\u20ac\u00e9".encode() + b"\xff!"
    assert response.headers["Content-Length"] == "7"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(run: Run, status: int) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_status_code(status)
        ctx.set_body("not sent")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET + GET)
            for _ in range(2):
                response = await client.read_response()
                assert response.status == status
                assert "Content-Length" not in response.headers
                assert "Transfer-Encoding" not in response.headers
            assert not client.transport.received

    run(main())


def test_head_says_what_get_would(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body("hello")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
            response = await client.read_response(head=True)
            assert response.headers["Content-Length"] == "5"
            assert (await client.read_response()).body == b"hello"

    run(main())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(run: Run, status: int) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body("not sent")
        ctx.redirect("/caf\u00e9?x=1#y", status)

    response = answer(run, handler)
    assert (response.status, response.body) == (status, b"")
    assert response.headers["Location"] == "/caf%C3%A9?x=1#y"


def test_error_forgets_what_was_set(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_header("X-A", "1")
        ctx.set_body_stream([b"x"])
        ctx.set_content_type("text/html")
        ctx.error("no tea\n", 418)

    response = answer(run, handler)
    assert (response.status, response.body) == (418, b"no tea\n")
    assert "X-A" not in response.headers
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"

    async def default(ctx: RequestCtx) -> None:
        ctx.error("broken")

    assert answer(run, default).status == 500


def test_not_found(run: Run) -> None:
    def handler(ctx: RequestCtx) -> None:
        ctx.not_found()

    response = answer(run, handler, inline=True)
    assert (response.status, response.body) == (404, b"Not Found\n")


def test_connection_close_is_asked_for_by_header(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_header("Connection", "close")
        ctx.set_body("x")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET + GET)
            response = await client.read_response()
            assert response.headers.get_all("Connection") == ["close"]
            assert await client.read_to_end() == b""  # nothing is served after it

    run(main())


# What cannot be sent is refused where it is set


def _break_header_value(ctx: RequestCtx) -> None:
    ctx.set_header("X-A", "1\r\nX-Evil: 1")


REFUSED: dict[str, Handler] = {
    "header value with CRLF": _break_header_value,
    "header value with LF": lambda c: c.set_header("X-A", "1\nX-Evil: 1"),
    "header value with CR": lambda c: c.add_header("X-A", "1\rX-Evil: 1"),
    "header value with NUL": lambda c: c.add_header("X-A", "X-Evil\0"),
    "header value with outer space": lambda c: c.add_header("X-A", " X-Evil"),
    "header value beyond Latin-1": lambda c: c.set_header("X-A", "X-Evil\u20ac"),
    "header name with a space": lambda c: c.set_header("X-Evil A", "1"),
    "header name with a colon": lambda c: c.set_header("X-Evil:", "1"),
    "header name with CRLF": lambda c: c.set_header("X\r\nX-Evil", "1"),
    "header name empty": lambda c: c.set_header("", "X-Evil"),
    "content type with CRLF": lambda c: c.set_content_type("text/html\r\nX-Evil: 1"),
    "content type with NUL": lambda c: c.set_content_type("X-Evil\0"),
    "content type not a str": lambda c: c.set_content_type(b"X-Evil"),  # type: ignore[arg-type]
    "status 99": lambda c: c.set_status_code(99),
    "status 100": lambda c: c.set_status_code(100),
    "status 199": lambda c: c.set_status_code(199),
    "status 1000": lambda c: c.set_status_code(1000),
    "status -1": lambda c: c.set_status_code(-1),
    "status a str": lambda c: c.set_status_code("200"),  # type: ignore[arg-type]
    "status a bool": lambda c: c.set_status_code(True),
    "cookie value with CRLF": lambda c: c.set_cookie("a", "1\r\nX-Evil: 1"),
    "cookie name with a semicolon": lambda c: c.set_cookie("a;X-Evil", "1"),
    "cookie path with CRLF": lambda c: c.set_cookie("a", "1", path="/\r\nX-Evil: 1"),
    "redirect with CRLF": lambda c: c.redirect("/\r\nX-Evil: 1"),
    "redirect with another status": lambda c: c.redirect("/X-Evil", 200),
    "error with another status": lambda c: c.error("X-Evil", 42),
    "body an int": lambda c: c.set_body(5),  # type: ignore[arg-type]
    "body None": lambda c: c.set_body(None),  # type: ignore[arg-type]
    "write an int": lambda c: c.write(5),  # type: ignore[arg-type]
    "stream of bytes": lambda c: c.set_body_stream(b"X-Evil"),  # type: ignore[arg-type]
    "stream of a bytearray": lambda c: c.set_body_stream(bytearray(b"X-Evil")),  # type: ignore[arg-type]
    "stream of str": lambda c: c.set_body_stream("X-Evil"),
    "stream of an int": lambda c: c.set_body_stream(5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_where_it_is_set(run: Run, name: str) -> None:
    refused = REFUSED[name]

    async def handler(ctx: RequestCtx) -> None:
        ctx.set_header("X-Before", "1")
        ctx.set_body("before")
        with pytest.raises(ResponseError):
            refused(ctx)
        ctx.set_header("X-After", "1")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            await client.transport.changed.wait()
            assert b"X-Evil" not in client.transport.received
            response = await client.read_response()
            if not name.startswith("error"):  # which forgets what was before
                assert (response.status, response.body) == (200, b"before")
                assert response.headers["X-Before"] == "1"
            assert response.headers["X-After"] == "1"

    run(main())


def test_uncaught_it_is_a_500_and_nothing_of_it_is_written(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_header("X-Before", "1")
        _break_header_value(ctx)

    response = answer(run, handler)
    assert (response.status, response.body) == (500, b"Internal Server Error\n")
    assert [name for name, _ in response.fields] == [b"Server", b"Date", b"Content-Type", b"Content-Length"]
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=5")]
)
@pytest.mark.parametrize("set_error_too", [False, True])
def test_framing_is_the_servers_to_write(
    run: Run, name: str, value: str, set_error_too: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def break_it(ctx: RequestCtx, error: Exception | None = None) -> None:
        ctx.set_header(name, value)
        ctx.set_body("four")

    async def handler(ctx: RequestCtx) -> None:
        break_it(ctx)

    async def main() -> None:
        async with MemoryServer(handler, error_handler=break_it if set_error_too else None) as server:
            client = server.connect()
            client.feed(GET)
            response = await client.read_response()
            assert response.status == 500
            assert response.complete
            client.feed(GET)  # and the connection serves on
            assert (await client.read_response()).status == 500

    run(main())
    assert f"header {name} is written by the server" in caplog.text


def test_head_may_be_told_the_length(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_header("Content-Length", 1000)

    response = answer(run, handler, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", head=True)
    assert response.headers.get_all("Content-Length") == ["1000"]


@pytest.mark.parametrize("with_header", [False, True])
def test_101_without_hijack_is_a_500(run: Run, with_header: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_status_code(101)
        if with_header:
            ctx.set_header("Upgrade", "echo")

    assert answer(run, handler).status == 500
    assert "101 without hijack" in caplog.text


def test_write_after_a_stream_is_refused(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream([b"a", b"b"])
        with pytest.raises(ResponseError, match="one body"):
            ctx.write("c")

    assert answer(run, handler).body == b"ab"


def test_set_body_closes_nothing_but_takes_the_place_of_a_stream(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_body_stream(io.BytesIO(b"stream"))
        ctx.set_body("body")
        ctx.write("!")

    assert answer(run, handler).body == b"body!"


def test_hijack_takes_a_function(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        with pytest.raises(HijackError, match="async function"):
            ctx.hijack(None)  # type: ignore[arg-type]

    assert answer(run, handler).status == 200


# Around the handler


def test_run_in_thread(run: Run) -> None:
    async def handler(ctx: RequestCtx) -> None:
        ctx.set_json(await ctx.run_in_thread(divmod, 7, 2))

    assert answer(run, handler).body == b"[3, 1]"

    async def fails(ctx: RequestCtx) -> None:
        with pytest.raises(ZeroDivisionError):
            await ctx.run_in_thread(divmod, 7, 0)
        ctx.set_body("caught")

    assert answer(run, fails).body == b"caught"


@pytest.mark.parametrize("kind", ["async", "threads", "inline"])
def test_the_whole_surface_from_every_kind_of_handler(run: Run, kind: str) -> None:
    def work(ctx: RequestCtx) -> None:
        assert ctx.method == "POST"
        assert ctx.remote_ip == "127.0.0.1"
        assert ctx.conn_request_num == 1
        assert not ctx.done.is_set()
        assert not ctx.disconnected
        ctx.set_status_code(201)
        ctx.set_cookie("a", "b")
        ctx.set_json({"q": ctx.query_args["q"], "f": ctx.post_args["f"]})

    async def coroutine(ctx: RequestCtx) -> None:
        work(ctx)

    given: Handler = coroutine if kind == "async" else work
    response = answer(run, given, post(b"f=2", target="/?q=1"), inline=kind == "inline")
    assert (response.status, json.loads(response.body)) == (201, {"q": "1", "f": "2"})
    assert response.headers["Set-Cookie"] == "a=b; Path=/"


def test_a_plain_function_that_returns_a_coroutine_is_told_so(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def coroutine(ctx: RequestCtx) -> None: ...

    assert answer(run, lambda ctx: coroutine(ctx)).status == 500
    assert "make it `async def`" in caplog.text


@pytest.mark.parametrize("waits", [False, True])
def test_timeout_error_that_cannot_be_sent_is_refused_where_it_is_called(run: Run, waits: bool) -> None:
    refused = []

    async def handler(ctx: RequestCtx) -> None:
        if waits:
            await asyncio.sleep(0)
        try:
            ctx.timeout_error("late", 99)
        except ResponseError as error:
            refused.append(error)
        ctx.set_body(b"ok")

    async def main() -> None:
        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            response = await client.read_response()
            assert (response.status, response.body) == (200, b"ok")
            assert len(refused) == 1

    run(main())


def test_a_stream_set_after_timeout_error_is_closed(run: Run) -> None:
    async def main() -> None:
        go, closed = asyncio.Event(), asyncio.Event()

        class File(io.BytesIO):
            def close(self) -> None:
                super().close()
                closed.set()

        async def handler(ctx: RequestCtx) -> None:
            await asyncio.sleep(0)
            ctx.timeout_error()
            await go.wait()
            ctx.set_body_stream(File(b"for nobody"))

        async with MemoryServer(handler) as server:
            client = server.connect()
            client.feed(GET)
            assert (await client.read_response()).status == 408
            go.set()
            await closed.wait()

    run(main())
