"""Real Redis connections in both pools, with the manners of redigo and go-redis: examples that are tests.

Needs redis-server (Debian: ``apt-get install redis-server``) and the redis package.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from fastserve.pool.aio import ConnPool
from fastserve.pool.options import PoolOptions
from fastserve.pool.threads import SyncConnPool
from tests.conftest import program
from tests.pool.world import Clock, until, wait_until

try:
    import redis.asyncio.connection
    import redis.connection
    from redis.exceptions import RedisError, ResponseError
except ImportError as error:
    raise ImportError("the tests of the Redis pool need the redis package: pip install redis") from error

Redis: TypeAlias = Any
"""A connection of the redis package, which is typed in part only."""

open_connection: Any = redis.connection.Connection
open_async_connection: Any = redis.asyncio.connection.Connection

Run = Callable[[Coroutine[Any, Any, None]], None]

SENTINEL = b"fastserve: clean"

CLEANING: list[tuple[str | bytes, ...]] = [("DISCARD",), ("UNSUBSCRIBE",), ("PUNSUBSCRIBE",), ("UNWATCH",)]
"""What leaves every state behind, in an order that works in each; what does not apply is answered with an error."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a redis-server of our own, which ends with the tests."""
    binary = program("redis-server", "redis-server")
    directory: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:  # ends when the server does
            seen.append(line)
            if "eady to accept connections" in line:
                break
        else:
            pytest.fail("redis-server did not start: " + "".join(seen))
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


# --- the connections


def command(conn: Redis, *parts: str | bytes) -> Any:
    conn.send_command(*parts)
    return conn.read_response()


async def command_async(conn: Redis, *parts: str | bytes) -> Any:
    await conn.send_command(*parts)
    return await conn.read_response()


def dialer(port: int) -> Callable[[], Redis]:
    def dial() -> Redis:
        conn = open_connection(host="127.0.0.1", port=port, protocol=2, socket_timeout=10)
        conn.connect()
        return conn

    return dial


def async_dialer(port: int) -> Callable[[], Coroutine[Any, Any, Redis]]:
    async def dial() -> Redis:
        conn = open_async_connection(host="127.0.0.1", port=port, protocol=2, socket_timeout=10)
        await conn.connect()
        return conn

    return dial


def close(conn: Redis) -> None:
    conn.disconnect()


async def close_async(conn: Redis) -> None:
    await conn.disconnect()


def ping_after_a_minute(conn: Redis, last_used: float) -> bool:
    """As redigo's documentation has it."""
    return last_used < 60 or command(conn, "PING") == b"PONG"


async def ping_after_a_minute_async(conn: Redis, last_used: float) -> bool:
    return last_used < 60 or await command_async(conn, "PING") == b"PONG"


def reset(conn: Redis) -> bool:
    """As redigo's activeConn.Close: send what ends each state and a sentinel, and read up to the sentinel: replies and
    messages that the last holder left unread go with it.
    """
    for parts in CLEANING:
        conn.send_command(*parts)
    conn.send_command("ECHO", SENTINEL)
    for _ in range(10_000):
        try:
            if conn.read_response() == SENTINEL:
                return True
        except ResponseError:
            pass
    return False


async def reset_async(conn: Redis) -> bool:
    for parts in CLEANING:
        await conn.send_command(*parts)
    await conn.send_command("ECHO", SENTINEL)
    for _ in range(10_000):
        try:
            if await conn.read_response() == SENTINEL:
                return True
        except ResponseError:
            pass
    return False


@pytest.fixture
def admin(server: int) -> Iterator[Redis]:
    """A connection beside the pool, to look at the server and to interfere."""
    conn = dialer(server)()
    command(conn, "FLUSHALL")
    command(conn, "CONFIG", "RESETSTAT")
    yield conn
    conn.disconnect()


def pings(admin: Redis) -> int:
    for line in command(admin, "INFO", "commandstats").decode().splitlines():
        if line.startswith("cmdstat_ping:calls="):
            return int(line.removeprefix("cmdstat_ping:calls=").split(",")[0])
    return 0


def others(admin: Redis) -> list[dict[str, str]]:
    """What the server says of its other clients."""
    own = str(command(admin, "CLIENT", "ID"))
    lines = command(admin, "CLIENT", "LIST").decode().splitlines()
    clients = [dict(field.split("=", 1) for field in line.split(" ")) for line in lines]
    return [client for client in clients if client["id"] != own]


# --- test_on_borrow


def test_ping_after_a_minute_idle(server: int, admin: Redis) -> None:
    clock = Clock()
    options = PoolOptions(test_on_borrow=ping_after_a_minute, max_idle_conn_duration=None)
    pool = SyncConnPool(dialer(server), close, options, clock=clock)
    first = pool.acquire()
    pool.release(first)
    clock.now += 59
    again = pool.acquire()
    assert again is first
    assert pings(admin) == 0
    pool.release(again)
    clock.now += 60
    again = pool.acquire()
    assert again is first
    assert pings(admin) == 1
    pool.release(again)
    clock.now += 60
    command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    fresh = pool.acquire()
    assert fresh is not first
    assert command(fresh.conn, "PING") == b"PONG"
    assert pool.stats().closed["stale"] == 1
    pool.release(fresh)
    pool.close()
    wait_until(lambda: not others(admin))


def test_ping_after_a_minute_idle_async(run: Run, server: int, admin: Redis) -> None:
    async def main() -> None:
        clock = Clock()
        options = PoolOptions(test_on_borrow=ping_after_a_minute_async, max_idle_conn_duration=None)
        pool = ConnPool(async_dialer(server), close_async, options, clock=clock)
        first = await pool.acquire()
        pool.release(first)
        clock.now += 59
        pool.release(await pool.acquire())
        assert pings(admin) == 0
        clock.now += 60
        again = await pool.acquire()
        assert again is first
        assert pings(admin) == 1
        pool.release(again)
        clock.now += 60
        command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        fresh = await pool.acquire()
        assert fresh is not first
        assert await command_async(fresh.conn, "PING") == b"PONG"
        assert pool.stats().closed["stale"] == 1
        pool.release(fresh)
        await pool.aclose()

    run(main())
    wait_until(lambda: not others(admin))


# --- reset

STATES: dict[str, list[tuple[str, ...]]] = {
    "MULTI": [("MULTI",), ("SET", "left", "behind")],
    "WATCH": [("WATCH", "watched")],
    "WATCH and MULTI": [("WATCH", "watched"), ("MULTI",)],
    "SUBSCRIBE": [("SUBSCRIBE", "news"), ("PSUBSCRIBE", "n*")],
}


def assert_clean(admin: Redis) -> None:
    (client,) = others(admin)
    assert (client["flags"], client["sub"], client["psub"], client["multi"]) == ("N", "0", "0", "-1")


@pytest.mark.parametrize("state", STATES)
def test_reset_leaves_no_state_behind(server: int, admin: Redis, state: str) -> None:
    pool = SyncConnPool(dialer(server), close, PoolOptions(reset=reset))
    with pool.connection() as conn:
        for parts in STATES[state]:
            command(conn, *parts)
        command(admin, "PUBLISH", "news", "unread")
        conn.send_command("ECHO", "a reply that nobody reads")
    assert_clean(admin)
    command(admin, "SET", "watched", "changed by another")
    with pool.connection() as same:
        assert same is conn
        assert command(same, "PING") == b"PONG"  # no message, no QUEUED, no old reply
        command(same, "MULTI")
        command(same, "SET", "done", "1")
        assert command(same, "EXEC") == [b"OK"]  # not refused for what the last holder watched
    assert command(admin, "GET", "left") is None
    assert pool.stats().hits == 1
    pool.close()
    wait_until(lambda: not others(admin))


@pytest.mark.parametrize("state", STATES)
def test_reset_leaves_no_state_behind_async(run: Run, server: int, admin: Redis, state: str) -> None:
    async def main() -> None:
        options = PoolOptions(reset=reset_async, max_conns=1, max_conn_wait_timeout=20.0)
        pool = ConnPool(async_dialer(server), close_async, options)
        async with pool.connection() as conn:
            for parts in STATES[state]:
                await command_async(conn, *parts)
            command(admin, "PUBLISH", "news", "unread")
            await conn.send_command("ECHO", "a reply that nobody reads")
        async with pool.connection() as same:  # waits until it is clean
            assert same is conn
            assert_clean(admin)
            assert await command_async(same, "PING") == b"PONG"
        await until(lambda: pool.stats().idle == 1)
        await pool.aclose()

    run(main())
    wait_until(lambda: not others(admin))


def test_a_connection_that_cannot_be_reset_is_closed(server: int, admin: Redis) -> None:
    pool = SyncConnPool(dialer(server), close, PoolOptions(reset=reset))
    held = pool.acquire()
    command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(RedisError):
        command(held.conn, "PING")
    pool.discard(held)
    held = pool.acquire()
    command(admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    held.conn.disconnect()
    held.conn.port = 1  # redis-py would dial again by itself
    pool.release(held)
    assert pool.stats().closed["error"] == 2
    assert pool.stats().conns == 0
    pool.close()


# --- min_idle_conns


def test_min_idle_is_kept_up(server: int, admin: Redis) -> None:
    """As go-redis: opened before anyone asks, and replaced when they go."""
    pool = SyncConnPool(dialer(server), close, PoolOptions(min_idle_conns=3, max_conns=5))
    wait_until(lambda: pool.stats().idle == 3)
    assert len(others(admin)) == 3
    held = pool.acquire()
    pool.discard(held)
    pool.close_idle_connections()
    wait_until(lambda: pool.stats().idle == 3)
    wait_until(lambda: len(others(admin)) == 3)
    assert pool.stats().closed["error"] == 1
    pool.close()
    wait_until(lambda: not others(admin))


def test_min_idle_is_kept_up_async(run: Run, server: int, admin: Redis) -> None:
    async def main() -> None:
        options = PoolOptions(min_idle_conns=3, max_conns=5)
        async with ConnPool(async_dialer(server), close_async, options) as pool:
            await until(lambda: pool.stats().idle == 3)
            held = [await pool.acquire() for _ in range(2)]
            await until(lambda: pool.stats().idle == 3 and pool.stats().conns == 5)
            for pooled in held:
                pool.discard(pooled)
            pool.close_idle_connections()
            await until(lambda: pool.stats().idle == 3)
            assert pool.stats().conns == 3

    run(main())
    wait_until(lambda: not others(admin))


def test_many_tasks_on_few_connections(run: Run, server: int, admin: Redis) -> None:
    async def main() -> None:
        options = PoolOptions(max_conns=4, max_conn_wait_timeout=20.0)
        async with ConnPool(async_dialer(server), close_async, options) as pool:

            async def count() -> None:
                async with pool.connection() as conn:
                    await command_async(conn, "INCR", "counted")

            await asyncio.gather(*(count() for _ in range(200)))
            assert pool.stats().conns == 4

    command(admin, "DEL", "counted")
    run(main())
    assert command(admin, "GET", "counted") == b"200"
