"""`fastserve.options`: fields that are checked, with a text that names the field and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest

from fastserve.errors import ConfigError
from fastserve.options import check_options, hook, is_hook, option


@dataclass(frozen=True, kw_only=True)
class Options:
    count: int = option(1, "How many.", takes="int", least=1, most=9)
    seconds: float = option(1.0, "How long.", takes="float")
    maybe: float | None = option(None, "How long, if at all.", takes="float or None", least=0.5)
    word: str = option("a", "Which.", takes="str", choices=("a", "b"))
    free: str | None = option(None, "Any.", takes="str or None")
    flag: bool = option(False, "Whether.", takes="bool")
    call: Callable[[], None] | None = option(None, "What.", takes="function or None")
    plain: Callable[[], None] | None = hook("When.")
    thing: object = option(None, "Whatever.", takes="object or None")

    def __post_init__(self) -> None:
        check_options(self)


def test_what_is_kept_beside_a_field() -> None:
    by_name = {f.name: f for f in fields(Options)}
    assert by_name["count"].default == 1
    assert by_name["count"].metadata["help"] == "How many."
    assert by_name["count"].metadata["most"] == 9


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"count": 9},
        {"seconds": 0},
        {"seconds": 2},
        {"maybe": 0.5},
        {"maybe": None},
        {"word": "b"},
        {"free": ""},
        {"flag": True},
        {"call": print},
        {"thing": 5},
    ],
)
def test_taken(values: dict[str, Any]) -> None:
    options = Options(**values)
    for name, value in values.items():
        assert getattr(options, name) == value


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"count": 0}, "count=0: takes a finite number, at least 1 and at most 9"),
        ({"count": 10}, "count=10: takes a finite number, at least 1 and at most 9"),
        ({"count": 1.0}, "count=1.0: takes int, not float"),
        ({"count": True}, "count=True: takes int, not bool"),
        ({"count": "1"}, "count='1': takes int, not str"),
        ({"seconds": -0.1}, "seconds=-0.1: takes a finite number, at least 0"),
        ({"seconds": float("nan")}, "seconds=nan: takes a finite number, at least 0"),
        ({"seconds": float("inf")}, "seconds=inf: takes a finite number, at least 0"),
        ({"seconds": None}, "seconds=None: takes float, not NoneType"),
        ({"seconds": False}, "seconds=False: takes float, not bool"),
        ({"maybe": 0.4}, "maybe=0.4: takes a finite number, at least 0.5"),
        ({"maybe": "x"}, "maybe='x': takes float or None, not str"),
        ({"word": "c"}, "word='c': takes one of a, b"),
        ({"word": b"a"}, "word=b'a': takes str, not bytes"),
        ({"flag": 0}, "flag=0: takes bool, not int"),
        ({"call": 5}, "call=5: takes a function, or None"),
    ],
)
def test_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Options(**values)
    assert str(caught.value) == text


async def asynchronous() -> None: ...


def test_a_hook_is_a_plain_function() -> None:
    assert Options(plain=print).plain is print
    assert Options(call=asynchronous)  # type: ignore[arg-type]  # what is no hook may be async
    with pytest.raises(ConfigError, match="plain: takes a plain function, not `async def`"):
        Options(plain=asynchronous)  # type: ignore[arg-type]
    assert [f.name for f in fields(Options) if is_hook(f)] == ["plain"]
