"""`ServerConfig`: every option has a checked type, a bound, and a reason; what cannot work is refused with its name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from fastserve.errors import ConfigError
from fastserve.server.config import RequestConfig, ServerConfig
from fastserve.server.server import Server

FIELDS = dataclasses.fields(ServerConfig)
HOOKS = [f for f in FIELDS if f.metadata.get("hook")]
OPTIONS = [f for f in FIELDS if not f.metadata.get("hook")]
BOUNDED = [f for f in OPTIONS if f.metadata.get("least") is not None]


async def handler(ctx: Any) -> None: ...


def _one(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


def test_defaults_are_valid_and_nothing_is_unlimited() -> None:
    config = ServerConfig()
    for f in BOUNDED:
        value = getattr(config, f.name)
        assert math.isfinite(value)
        if f.name not in ("max_worker_wait", "max_conns_per_ip"):  # where 0 is 'not at all', and says so
            assert value > 0, f.name


@pytest.mark.parametrize("f", FIELDS, ids=lambda f: f.name)
def test_every_option_says_what_it_is(f: dataclasses.Field[Any]) -> None:
    assert len(f.metadata["help"]) > 20
    assert f.metadata["help"].rstrip().endswith(".")


@pytest.mark.parametrize("f", BOUNDED, ids=lambda f: f.name)
def test_numbers_have_a_lower_bound(f: dataclasses.Field[Any]) -> None:
    least = f.metadata["least"]
    kind: Any = type(f.default)
    assert getattr(ServerConfig(**{f.name: kind(least)}), f.name) == least
    bad: list[Any] = [kind(least - 1), kind(-1)]
    if kind is float:
        bad += [math.nan, math.inf, -math.inf]
    for value in bad:
        with pytest.raises(ConfigError, match=f"{f.name}=.*at least"):
            ServerConfig(**{f.name: value})


@pytest.mark.parametrize("f", OPTIONS, ids=lambda f: f.name)
def test_another_type_is_refused_by_name(f: dataclasses.Field[Any]) -> None:
    kind: Any = type(f.default)
    wrong: list[Any] = [None, b"1", [1]]
    others: dict[Any, list[Any]] = {bool: [0, 1, "yes"], int: [True, 1.0, "1"], float: [True, "1"], str: [1]}
    wrong += others[kind]
    for value in wrong:
        with pytest.raises(ConfigError, match=f"{f.name}=.*takes {kind.__name__}"):
            ServerConfig(**{f.name: value})


def test_whole_seconds_may_be_ints() -> None:
    assert ServerConfig(read_timeout=5).read_timeout == 5


@pytest.mark.parametrize("name", ["a\r\nX: y", "a\nb", "a\0", " a", "\u20ac"])
def test_a_server_name_is_a_header_value(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^name="):
        ServerConfig(name=name)


@pytest.mark.parametrize("f", HOOKS, ids=lambda f: f.name)
def test_hooks_are_plain_functions(f: dataclasses.Field[Any]) -> None:
    with pytest.raises(ConfigError, match=f"{f.name}=5: takes a function"):
        ServerConfig(**_one(f.name, 5))
    # Nobody awaits a hook: an `async def` would never run, and what it returns would count as 'yes'.
    with pytest.raises(ConfigError, match=f"{f.name}: takes a plain function"):
        ServerConfig(**_one(f.name, handler))
    assert callable(getattr(ServerConfig(**_one(f.name, print)), f.name))


def test_a_config_cannot_be_changed() -> None:
    config = ServerConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.concurrency = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        ServerConfig("fastserve")  # type: ignore[call-arg]  # by name only: there are dozens


def test_an_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="concurrency=0"):
        ServerConfig(concurrency=0)


def test_server_takes_options_by_name_over_those_of_a_config() -> None:
    server = Server(handler, ServerConfig(concurrency=5, max_pipelined=7), concurrency=6)
    assert (server.config.concurrency, server.config.max_pipelined) == (6, 7)
    with pytest.raises(ConfigError, match="no such option: concurency, threds"):
        Server(handler, concurency=1, threds=2)
    with pytest.raises(ConfigError, match="concurrency=0"):
        Server(handler, concurrency=0)


def test_request_config_keeps_what_it_does_not_name() -> None:
    assert RequestConfig() == RequestConfig(read_timeout=None, write_timeout=None, max_request_body_size=None)


class Callable:
    async def __call__(self, ctx: Any) -> None: ...


class Blocking:
    def __call__(self, ctx: Any) -> None: ...

    async def method(self, ctx: Any) -> None: ...


def blocking(ctx: Any) -> None: ...


def with_default(ctx: Any, extra: int = 0) -> None: ...


def no_argument() -> None: ...


def two(ctx: Any, other: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (handler, "async"),
        (Callable(), "async"),
        (Blocking().method, "async"),
        (lambda ctx: None, "threads"),
        (blocking, "threads"),
        (with_default, "threads"),
        (Blocking(), "threads"),
        (print, "threads"),
    ],
)
def test_kind_of_handler(given: Any, kind: str) -> None:
    assert Server(given).kind == kind
    if kind == "threads":
        assert Server(given, inline=True).kind == "inline"
    else:
        with pytest.raises(ConfigError, match="inline"):
            Server(given, inline=True)


@pytest.mark.parametrize("given", [None, 5, "app:handler", no_argument, two, [handler]])
def test_what_is_no_handler(given: Any) -> None:
    with pytest.raises(ConfigError, match="handler"):
        Server(given)
