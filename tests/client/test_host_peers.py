"""HostClient and real peers: our own server, Python's http.server, and nginx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastserve import RequestCtx, ServerThread, TLSError
from tests.client.certificates import client_context
from tests.client.peers import BIG, HELLO, http_server, nginx
from tests.client.support import Run, balanced, client_of, until


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def echo(ctx: RequestCtx) -> None:
    """All of the body, once it is here, in pieces."""
    pieces = [piece async for piece in ctx.request_body_stream]

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    ctx.set_body_stream(body())


async def pipe(ctx: RequestCtx) -> None:
    """Answers while it reads."""

    async def body() -> AsyncIterator[bytes]:
        async for piece in ctx.request_body_stream:
            yield piece

    ctx.set_body_stream(body())


def test_a_server_that_answers_while_it_reads(run: Run) -> None:
    async def main() -> None:
        with ServerThread(pipe, stream_request_body=True, max_request_body_size=50_000_000) as server:
            async with client_of(server.port) as client:
                large = b"x" * 3_000_000
                assert (await client.post("/", body=large)).body == large
                assert (await client.post("/", body=pieces(*[large] * 5))).body == large * 5
                balanced(client)

    run(main())


def test_our_own_server(run: Run) -> None:
    async def main() -> None:
        with ServerThread(echo, stream_request_body=True) as server:
            async with client_of(server.port) as client:
                large = b"x" * 3_000_000
                assert (await client.post("/", body=large)).body == large
                assert (await client.post("/", body=pieces(b"a", b"b"))).body == b"ab"
                async with client.stream("POST", "/", body=pieces(b"a", b"b")) as response:
                    assert await response.stream.read() == b"ab"  # type: ignore[union-attr]
                balanced(client, idle=1)
                results = await asyncio.gather(*(client.post("/", body=str(n)) for n in range(100)))
                assert [int(r.body) for r in results] == list(range(100))
                # A request may have got a connection that was released before its dial ended: that comes to idle later.
                await until(lambda: client.stats().dialing == 0, "the dials that were overtaken end")
                balanced(client)
                server.shutdown()
                await until(lambda: client.conns_count == 0, "the server's end is noticed")

    run(main())


def test_http_server(run: Run) -> None:
    async def main() -> None:
        with http_server() as peer:
            async with client_of(peer.port) as client:
                for _ in range(3):
                    assert (await client.get("/hello")).body == HELLO
                    assert (await client.get("/big")).body == BIG
                    assert (await client.post("/echo", body=b"x" * 100_000)).body == b"x" * 100_000
                counted = await client.post("/echo", body=pieces(b"ab", b"c"), headers={"Content-Length": "3"})
                assert counted.body == b"abc"
                balanced(client, idle=1)
                assert client.stats().misses == 1

    run(main())


MORE = """
    gzip on;
    gzip_types text/plain application/octet-stream;
    listen unix:{folder}/nginx.sock;
    location = /connection {{ return 200 "$connection"; }}
    location = /moved {{ absolute_redirect off; return 302 /hello; }}
    location = /empty {{ return 204; }}
"""


def test_nginx(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with nginx(tmp_path, more=MORE.format(folder=tmp_path)) as peer:
            async with client_of(peer.port, decode_content=True) as client:
                assert (await client.get("/hello")).body == HELLO
                numbers = {(await client.get("/connection")).body for _ in range(5)}
                assert len(numbers) == 1  # one connection
                assert (await client.get("/moved", max_redirects=1)).body == HELLO
                assert (await client.head("/hello")).status_code == 200
                assert (await client.get("/empty")).status_code == 204
                assert (await client.get("/none")).status_code == 404
                assert (await client.get("/big")).body == BIG  # coded by gzip, in chunks
                part = await client.get("/big", headers={"Range": "bytes=5-9", "Accept-Encoding": "identity"})
                assert (part.status_code, part.body) == (206, BIG[5:10])
                tag = part.headers["last-modified"]
                assert (await client.get("/big", headers={"If-Modified-Since": tag})).status_code == 304
                balanced(client, idle=1)
                # 413, and a lingering close, while more is being sent than nginx takes.
                assert (await client.post("/hello", body=b"x" * 3_000_000)).status_code == 413
                balanced(client, idle=0)
                assert (await client.get("/hello")).body == HELLO
            async with client_of(f"unix:{tmp_path}/nginx.sock") as client:
                assert (await client.get("/hello")).body == HELLO

    run(main())


def test_nginx_with_tls(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with nginx(tmp_path, more=MORE.format(folder=tmp_path)) as peer:
            async with client_of(f"https://localhost:{peer.tls_port}", tls_config=client_context()) as client:
                numbers = {(await client.get("/connection")).body for _ in range(5)}
                assert len(numbers) == 1
                async with client.stream("GET", "/big") as response:
                    assert await response.stream.read() == BIG  # type: ignore[union-attr]
                balanced(client, idle=1)
                results = await asyncio.gather(*(client.get("/hello") for _ in range(50)))
                assert {r.body for r in results} == {HELLO}
            async with client_of(f"https://localhost:{peer.tls_port}") as client:
                with pytest.raises(TLSError, match="certificate is refused"):
                    await client.get("/hello")
            async with client_of(f"https://localhost:{peer.port}", tls_config=client_context()) as client:
                with pytest.raises(TLSError, match="is it http and not https"):
                    await client.get("/hello")

    run(main())


def test_nginx_that_closes_after_some_requests(tmp_path: Path, run: Run) -> None:
    """It says so in time: not even a POST fails."""

    async def main() -> None:
        with nginx(tmp_path, keepalive_requests=3, more=MORE.format(folder=tmp_path)) as peer:
            async with client_of(peer.port, max_conns=4, max_conn_wait_timeout=10) as client:
                results = await asyncio.gather(*(client.post("/empty") for _ in range(100)))
                assert {r.status_code for r in results} == {204}
                await until(lambda: client.stats().dialing == 0, "no dial for nobody")
                balanced(client)

    run(main())


def test_nginx_whose_idle_time_is_shorter_than_ours(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with nginx(tmp_path, keepalive_timeout=1) as peer:
            async with client_of(peer.port) as client:
                await client.get("/hello")
                balanced(client, idle=1)
                await until(lambda: client.conns_count == 0, "nginx closed it")
                assert (await client.get("/hello")).body == HELLO

    run(main())
