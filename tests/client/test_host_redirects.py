"""Redirects on real connections: only where asked, bounded, and to nobody else (the rules: test_redirect.py)."""

from __future__ import annotations

import asyncio

import pytest

from fastserve import ClientRequest, RedirectError, RequestTimeout, ResponseHeadTimeout, TooManyRedirects
from tests.client.support import Run, balanced, client_of
from tests.client.upstream import (
    OK,
    Script,
    Step,
    Upstream,
    repeat,
    request,
    send,
    until_closed,
)


def to(location: str, status: int = 302, body: bytes = b"") -> Step:
    return send(
        b"HTTP/1.1 %d Found\r\nLocation: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (status, location.encode(), len(body), body)
    )


def once(location: str, status: int = 302) -> Script:
    return [request, to(location, status, b"moved"), repeat(request, send(OK))]


def test_only_where_asked(run: Run) -> None:
    async def main() -> None:
        with Upstream([repeat(request, to("/b"))]) as upstream:
            async with client_of(upstream) as client:
                response = await client.get("/a")
                assert response.status_code == 302
                assert response.headers["location"] == "/b"
                assert len(upstream.requests) == 1
                balanced(client, idle=1)

    run(main())


@pytest.mark.parametrize("streams", [False, True])
def test_followed_on_the_same_connection(streams: bool, run: Run) -> None:
    async def main() -> None:
        with Upstream(once("/b?c=d#e")) as upstream:
            async with client_of(upstream, stream_response_body=streams) as client:
                response = await client.get("/a", max_redirects=3, headers={"X": "y", "Authorization": "z"})
                body = await response.stream.read() if streams else response.body  # type: ignore[union-attr]
                assert body == b"ok"
                assert upstream.requests[1].startswith(b"GET /b?c=d HTTP/1.1\r\n")
                assert b"X: y\r\n" in upstream.requests[1]
                assert b"Authorization: z\r\n" in upstream.requests[1]
                assert upstream.accepted == 1
                balanced(client, idle=1)

    run(main())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_post(status: int, run: Run) -> None:
    async def main() -> None:
        with Upstream(once("/b", status)) as upstream:
            async with client_of(upstream) as client:
                await client.post("/a", json=[1], max_redirects=1)
                follows = upstream.requests[1]
                if status in (307, 308):
                    assert follows.startswith(b"POST /b ")
                    assert follows.endswith(b"\r\n\r\n[1]")
                else:
                    assert follows.startswith(b"GET /b ")
                    assert b"ontent-" not in follows
                    assert follows.endswith(b"\r\n\r\n")

    run(main())


@pytest.mark.parametrize("most", [1, 3])
def test_max_redirects(most: int, run: Run) -> None:
    async def main() -> None:
        with Upstream([repeat(request, to("/again"))]) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(TooManyRedirects, match=f"more than {most}") as caught:
                    await client.get("/", max_redirects=most)
                assert caught.value.phase == "redirect"
                assert caught.value.elapsed > 0
                assert len(upstream.requests) == most + 1
                balanced(client, idle=1)
                with pytest.raises(TooManyRedirects, match="more than 16"):
                    await client.do_redirects(ClientRequest("GET", "/"))

    run(main())


@pytest.mark.parametrize(
    "location",
    ["http://other.example/", "//other.example/x", "https://{host}/", "http://{name}:1/", "ftp://x/", "///x"],
)
def test_another_host_is_refused(location: str, run: Run) -> None:
    async def main() -> None:
        with Upstream([repeat(request, to(location.format(host="127.0.0.1", name="127.0.0.1"), 307))]) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(RedirectError) as caught:
                    await client.get("/", max_redirects=3, headers={"Authorization": "secret", "Cookie": "a=b"})
                assert caught.value.phase == "redirect"
                assert caught.value.elapsed > 0
                assert len(upstream.requests) == 1
                if "other" in location:
                    assert "http://other.example" in str(caught.value)
                    assert "send that with another one" in str(caught.value)
                balanced(client, idle=1)

    run(main())


def test_credentials_do_not_follow_to_another_origin_of_the_same_client(run: Run) -> None:
    async def main() -> None:
        with Upstream() as second, Upstream(once(f"http://127.0.0.1:{second.port}/b")) as first:
            async with client_of(f"127.0.0.1:{first.port},127.0.0.1:{second.port}") as client:
                headers = {"Authorization": "secret", "Cookie": "a=b", "X": "y"}
                response = await client.do_redirects(ClientRequest("GET", "/a", headers=headers), max_redirects=1)
                assert response.body == b"ok"
                asked, follows = first.requests + second.requests
                assert b"secret" in asked
                assert follows.startswith(b"GET /b ")
                assert b"secret" not in follows
                assert b"Cookie" not in follows
                assert b"X: y\r\n" in follows
                assert f"Host: 127.0.0.1:{second.port}".encode() in follows

    run(main())


def test_a_spent_stream_is_not_sent_again(run: Run) -> None:
    async def main() -> None:
        with Upstream(once("/b", 307)) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(RedirectError, match="stream, which is spent"):
                    await client.post("/a", body=iter([b"x"]), max_redirects=1)
                balanced(client, idle=1)

    run(main())


def test_all_of_them_are_within_one_time(run: Run) -> None:
    async def main() -> None:
        with Upstream([request, to("/b"), until_closed]) as upstream:
            async with client_of(upstream) as client:
                with pytest.raises((ResponseHeadTimeout, RequestTimeout)):
                    await client.get("/", max_redirects=3, timeout=0.1)
                assert len(upstream.requests) <= 2
                await asyncio.to_thread(upstream.wait_closed, 1)
                balanced(client, idle=0)

    run(main())
