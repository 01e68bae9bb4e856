"""`ClientOptions`: what each takes, what it says when it can't, and that each has its reason beside it."""

from __future__ import annotations

import ssl
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from fastserve import ClientOptions, ClientRequest, ConfigError, HostClient
from fastserve.pool.options import PoolOptions


def test_defaults() -> None:
    options = ClientOptions()
    assert options.max_conns == 512
    assert options.max_idle_conn_duration == 10.0
    assert options.max_idempotent_call_attempts == 5
    assert options.max_conn_wait_timeout == 0.0
    assert options.dial_timeout == 3.0
    assert options.conn_pool_strategy == "lifo"
    assert not options.stream_response_body
    with pytest.raises(FrozenInstanceError):
        options.max_conns = 1  # type: ignore[misc]


def test_each_option_says_what_it_is_and_why() -> None:
    for f in fields(ClientOptions):
        assert len(f.metadata["help"]) > 20, f.name
        assert f.metadata["takes"], f.name


def test_everything_that_waits_or_grows_is_bounded_by_default() -> None:
    options = ClientOptions()
    for name in ("dial_timeout", "read_timeout", "write_timeout", "body_timeout", "max_idle_conn_duration"):
        assert 0 < getattr(options, name) <= 60, name
    for name in ("max_conns", "max_waiters", "max_header_size", "max_header_count", "max_response_body_size"):
        assert getattr(options, name) > 0, name


def plain(request: ClientRequest) -> bool:
    return True


async def asynchronous(request: ClientRequest) -> bool:
    return True


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("max_conns", 0, "at least 1"),
        ("max_conns", 1.5, "takes int, not float"),
        ("max_conns", True, "takes int, not bool"),
        ("max_conns", None, "takes int, not NoneType"),
        ("max_conn_wait_timeout", -1, "at least 0"),
        ("max_conn_wait_timeout", float("inf"), "finite"),
        ("max_conn_wait_timeout", float("nan"), "finite"),
        ("max_waiters", -1, "at least 0"),
        ("max_idle_conn_duration", 0, "at least 0.001"),
        ("max_conn_duration", 0, "at least 0.001"),
        ("max_conn_duration", "1", "takes float or None, not str"),
        ("conn_pool_strategy", "random", "takes one of lifo, fifo"),
        ("conn_pool_strategy", None, "takes str"),
        ("max_idempotent_call_attempts", 0, "at least 1"),
        ("retry_if", 5, "takes a function"),
        ("retry_if", asynchronous, "takes a plain function, not `async def`"),
        ("dial", "tcp", "takes a function"),
        ("dial_timeout", 0, "at least 0.001"),
        ("tls_timeout", 0, "at least 0.001"),
        ("dns_cache_duration", -1, "at least 0"),
        ("write_timeout", 0, "at least 0.001"),
        ("read_timeout", 0, "at least 0.001"),
        ("body_timeout", None, "takes float, not NoneType"),
        ("max_header_size", 1, "at least 64"),
        ("max_header_count", 0, "at least 1"),
        ("max_response_body_size", 0, "at least 1"),
        ("stream_response_body", 1, "takes bool, not int"),
        ("decode_content", "yes", "takes bool, not str"),
        ("is_tls", 1, "takes bool or None, not int"),
        ("name", 5, "takes str or None, not int"),
        ("server_hostname", b"a", "takes str or None, not bytes"),
        ("tls_config", "strict", "takes an ssl.SSLContext"),
        ("no_default_user_agent_header", None, "takes bool"),
    ],
)
def test_values_that_cannot_work(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ClientOptions(**{name: value})
    assert str(caught.value).startswith(name)
    assert text in str(caught.value)
    with pytest.raises(ConfigError):
        HostClient("a", **{name: value})
    assert isinstance(caught.value, ValueError)


def test_values_that_work() -> None:
    ClientOptions(
        is_tls=True,
        tls_config=ssl.create_default_context(),
        server_hostname="a",
        retry_if=plain,
        dial=asynchronous,
        max_conn_wait_timeout=1,
        max_conn_duration=60,
        conn_pool_strategy="fifo",
    )


def test_options_by_name_win_over_the_object() -> None:
    client = HostClient("a", ClientOptions(max_conns=3, read_timeout=5), max_conns=4)
    assert client.options.max_conns == 4
    assert client.options.read_timeout == 5


def test_what_the_pool_gets() -> None:
    options = ClientOptions(max_conns=3, max_conn_wait_timeout=1, max_waiters=2, max_conn_duration=9, dial_timeout=2)
    pool = options.pool_options(min_idle_conns=1)
    assert isinstance(pool, PoolOptions)
    assert (pool.max_conns, pool.max_conn_wait_timeout, pool.max_waiters) == (3, 1, 2)
    assert (pool.max_conn_duration, pool.min_idle_conns) == (9, 1)
    assert pool.dial_timeout > options.dial_timeout  # the dial ends itself, and knows in which phase
