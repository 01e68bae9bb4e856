"""HostClient and where it dials: TLS, unix sockets, several addresses, and a dial of the program's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve import (
    ClientRequest,
    ConfigError,
    DialError,
    DialTimeout,
    HostClient,
    InvalidRequest,
    RequestCtx,
    ServerThread,
    TLSError,
)
from tests.client.certificates import client_context, server_context
from tests.client.scripts import (
    CLOSES_AFTER_ACCEPT,
)
from tests.client.support import Run, balanced, client_of, until
from tests.client.upstream import (
    SERVES,
    Upstream,
)


def host(ctx: RequestCtx) -> None:
    ctx.set_body(ctx.request.headers.get("host", "").encode())


# TLS


def test_tls_with_a_context_of_its_own(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES, tls=server_context()) as upstream:
            async with client_of(f"https://localhost:{upstream.port}", tls_config=client_context()) as client:
                assert (await client.get("/")).body == b"ok"
                assert (await client.post("/", body=b"x" * 3_000_000)).body == b"ok"
                async with client.stream("GET", "/") as response:
                    assert await response.stream.read() == b"ok"  # type: ignore[union-attr]
                assert upstream.accepted == 1
                assert f"Host: localhost:{upstream.port}".encode() in upstream.requests[0]
                balanced(client, idle=1)
                await client.aclose()
                await asyncio.to_thread(upstream.wait_closed, 1)

    run(main())


def test_tls_verifies_by_default(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES, tls=server_context()) as upstream:
            async with client_of(upstream, is_tls=True) as client:
                with pytest.raises(TLSError, match="certificate is refused") as caught:
                    await client.get("/")
                assert caught.value.phase == "TLS"
                assert caught.value.elapsed > 0
                balanced(client, idle=0)
                assert upstream.requests == []

    run(main())


@pytest.mark.parametrize("problem", ["another host", "expired"])
def test_tls_with_a_certificate_that_is_not_good(problem: str, run: Run) -> None:
    context = server_context("other.example") if problem == "another host" else server_context(is_expired=True)

    async def main() -> None:
        with Upstream(SERVES, tls=context) as upstream:
            async with client_of(f"https://localhost:{upstream.port}", tls_config=client_context()) as client:
                with pytest.raises(TLSError, match=problem):
                    await client.post("/", body=b"secret")
                balanced(client, idle=0)
            if problem == "another host":
                options: dict[str, Any] = {"tls_config": client_context(), "server_hostname": "other.example"}
                async with client_of(f"https://127.0.0.1:{upstream.port}", **options) as client:
                    assert (await client.get("/")).body == b"ok"

    run(main())


def test_tls_to_a_plain_upstream(run: Run) -> None:
    async def main() -> None:
        with Upstream([*CLOSES_AFTER_ACCEPT]) as upstream:
            async with client_of(upstream, is_tls=True, tls_config=client_context()) as client:
                with pytest.raises(TLSError):
                    await client.get("/")
                balanced(client, idle=0)

    run(main())


def test_tls_idle_connection_closed_by_the_upstream_leaves_the_pool(run: Run) -> None:
    async def main() -> None:
        with Upstream(SERVES, tls=server_context()) as upstream:
            async with client_of(f"https://localhost:{upstream.port}", tls_config=client_context()) as client:
                await client.get("/")
                await asyncio.to_thread(upstream.restart)
                await until(lambda: client.conns_count == 0, "it left")
                assert (await client.post("/", body=b"x")).body == b"ok"

    run(main())


# Addresses


def test_unix_socket(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        path = tmp_path / "server.sock"
        with ServerThread(host, inline=True, listen={"uds": str(path)}):
            async with client_of(f"unix:{path}") as client:
                assert (await client.get("/")).body == b"localhost"
                assert (await client.get("/", headers={"Host": "a.example"})).body == b"a.example"
                balanced(client, idle=1)
        async with client_of(f"unix:{path}") as client:
            with pytest.raises(DialError, match=str(path)) as caught:
                await client.get("/")
            assert caught.value.phase == "connect"

    run(main())


def test_several_addresses_are_used_in_turn_and_a_bad_one_is_skipped(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as bound, Upstream() as one, Upstream() as two:
            bound.bind(("127.0.0.1", 0))  # refuses: nobody listens
            bad = bound.getsockname()[1]
            addr = f"127.0.0.1:{bad}, 127.0.0.1:{one.port}, 127.0.0.1:{two.port}"
            async with client_of(addr) as client:
                for _ in range(6):
                    assert (await client.get("/")).body == b"ok"
                    client.close_idle_connections()
                assert one.accepted + two.accepted == 6
                assert min(one.accepted, two.accepted) >= 2
                for each in one.requests + two.requests:  # the upstream is one, whoever answers for it
                    assert f"Host: 127.0.0.1:{bad}".encode() in each

    run(main())


def test_no_address_works(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            b.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
            async with client_of(",".join(addresses)) as client:
                with pytest.raises(DialError) as caught:
                    await client.post("/", body=b"x")
                assert all(address in str(caught.value) for address in addresses)
                assert caught.value.phase == "connect"
                balanced(client, idle=0)
                assert client.stats().dial_errors == 1

    run(main())


def test_an_upstream_that_comes_back(run: Run) -> None:
    async def main() -> None:
        with Upstream() as upstream:
            async with client_of(upstream) as client:
                upstream.stop_listening()
                for _ in range(3):
                    with pytest.raises(DialError):
                        await client.get("/")
                upstream.restart()
                assert (await client.get("/")).body == b"ok"
                balanced(client, idle=1)

    run(main())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("no-slash", "neither a path"),
        ("ftp://a/", "only http and https"),
        ("http://other.example/", "make a client for that"),
        ("https://127.0.0.1/", "make a client for that"),
        ("http://user:pw@a/", "Authorization"),
        ("/a\nb", "control characters"),
        ("http://a:0/", "not a host"),
        (5, "not str"),
    ],
)
def test_urls_that_cannot_be_asked_for(url: Any, text: str, run: Run) -> None:
    async def main() -> None:
        with Upstream() as upstream:
            async with client_of(upstream) as client:
                with pytest.raises(InvalidRequest, match=text) as caught:
                    await client.get(url)
                assert caught.value.phase == "request"
                assert client.conns_count == 0
                assert (await client.get(f"http://127.0.0.1:{upstream.port}/a?b")).body == b"ok"
                assert upstream.requests[0].startswith(b"GET /a?b HTTP/1.1\r\n")
                with pytest.raises(InvalidRequest, match="CONNECT"):
                    await client.do(ClientRequest("CONNECT", "/"))
                assert upstream.accepted == 1

    run(main())


# A dial of the program's own


def test_dial(run: Run) -> None:
    async def main() -> None:
        with Upstream() as upstream:
            calls = 0

            async def dial(factory: Callable[[], asyncio.Protocol]) -> Any:
                nonlocal calls
                calls += 1
                return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", upstream.port)

            async with client_of("far.example:80", dial=dial) as client:
                for _ in range(3):
                    assert (await client.get("/")).body == b"ok"
                assert calls == 1
                assert b"Host: far.example\r\n" in upstream.requests[0]
                balanced(client, idle=1)

    run(main())


async def raises(factory: Callable[[], asyncio.Protocol]) -> Any:
    raise OSError("no way")


async def raises_value_error(factory: Callable[[], asyncio.Protocol]) -> Any:
    raise ValueError("no way")


async def raises_timeout(factory: Callable[[], asyncio.Protocol]) -> Any:
    raise TimeoutError("no way")


async def gives_none(factory: Callable[[], asyncio.Protocol]) -> Any:
    return None


async def gives_unconnected(factory: Callable[[], asyncio.Protocol]) -> Any:
    return None, factory()


def is_plain(factory: Callable[[], asyncio.Protocol]) -> Any:
    return None, factory()


@pytest.mark.parametrize("dial", [raises, raises_value_error, raises_timeout, gives_none, gives_unconnected, is_plain])
def test_dial_that_fails(dial: Callable[..., Any], run: Run) -> None:
    async def main() -> None:
        async with client_of("127.0.0.1:1", dial=dial) as client:
            for _ in range(2):
                with pytest.raises(DialError) as caught:
                    await client.get("/")
                assert caught.value.phase == "dial"
                assert caught.value.elapsed > 0
                balanced(client, idle=0)
            assert ("no way" in str(caught.value)) == ("raises" in dial.__name__)

    run(main())


def test_dial_with_another_protocol_leaves_no_socket(run: Run) -> None:
    async def main() -> None:
        with Upstream() as upstream:

            async def dial(factory: Callable[[], asyncio.Protocol]) -> Any:
                factory()
                return await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", upstream.port)

            async with client_of(upstream, dial=dial) as client:
                with pytest.raises(DialError, match="the protocol that its argument made"):
                    await client.get("/")
                await asyncio.to_thread(upstream.wait_closed, 1)

    run(main())


def test_dial_that_hangs(run: Run) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def dial(factory: Callable[[], asyncio.Protocol]) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with client_of("127.0.0.1:1", dial=dial, dial_timeout=0.05) as client:
            with pytest.raises(DialTimeout, match="dial_timeout") as caught:
                await client.get("/")
            assert caught.value.elapsed >= 0.04
            assert cancelled.is_set()
            balanced(client, idle=0)

    run(main())


def test_a_connection_that_is_closed_while_it_is_dialled(run: Run) -> None:
    """It never was of use: the pool must not keep it, nor the client wait for its end."""

    async def main() -> None:
        with Upstream(CLOSES_AFTER_ACCEPT, SERVES) as upstream:
            dials = 0

            async def dial(factory: Callable[[], asyncio.Protocol]) -> Any:
                nonlocal dials
                dials += 1
                made = await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", upstream.port)
                if dials == 1:
                    await until(lambda: made[1].lost, "closed")  # type: ignore[attr-defined]
                return made

            async with client_of(upstream, dial=dial) as client:
                assert (await client.post("/", body=b"x")).body == b"ok"
                balanced(client, idle=1)
                assert len(client._connections) == 1

    run(main())


def test_a_client_says_at_once_what_is_wrong() -> None:
    for addr, options, text in [
        ("", {}, "empty address"),
        ("a:b", {}, "port"),
        ("ftp://a", {}, "ftp://"),
        ("https://a", {"is_tls": False}, "is_tls"),
        ("a", {"no_such": 1}, "no_such: not an option of a client"),
        ("a", {"max_conns": 0}, "max_conns=0"),
        ("a", {"name": "a\r\nb"}, "User-Agent"),
        ("a", {"options": {"max_conns": 1}}, "ClientOptions"),
        ("a", {"tls_config": True}, "tls_config=True"),
        ("https://a", {"server_hostname": ".."}, "server_hostname"),
        ("unix:/x", {"is_tls": True}, "server_hostname"),
    ]:
        with pytest.raises(ConfigError, match=text):
            HostClient(addr, **options)  # type: ignore[arg-type]
