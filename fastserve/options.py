"""Options as fields of a frozen dataclass: what a value may be, and a clear `ConfigError` when it is something else.

The meaning of an option, when to change it, and why its default is what it is stand beside the field, as `help`: one
text for the docs, for ``--help`` and for whoever reads the code.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import Field, field, fields
from typing import Any

from fastserve.errors import ConfigError

__all__ = ["check_options", "hook", "is_hook", "option"]


def option(
    default: Any,
    help: str,
    *,
    takes: str,
    least: float | None = 0,
    most: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field. `takes` is ``int``, ``float``, ``str``, ``bool``, ``function`` or ``object``, with ``or None`` behind it
    where None is a value too. `least` and `most` bound numbers, `choices` a str.
    """
    return field(
        default=default, metadata={"help": help, "takes": takes, "least": least, "most": most, "choices": choices}
    )


def hook(help: str) -> Any:
    """A field that takes a plain function, by default none; `is_hook` tells it from the options that a shell can set."""
    return field(default=None, metadata={"help": help, "takes": "function or None", "hook": True})


def is_hook(f: Field[Any]) -> bool:
    return bool(f.metadata.get("hook"))


def check_options(options: Any) -> None:
    """For ``__post_init__``: raises `ConfigError` for the first field whose value cannot work."""
    for f in fields(options):
        _check(f.name, getattr(options, f.name), f.metadata)


def _check(name: str, value: Any, metadata: Any) -> None:
    takes: str = metadata["takes"]
    kind, _, none = takes.partition(" or ")
    if (value is None and none) or kind == "object":
        return
    if kind == "function":
        if not callable(value):
            raise ConfigError(f"{name}={value!r}: takes a function, or None")
        if metadata.get("hook") and inspect.iscoroutinefunction(value):
            # It would never run, and the coroutine that it returns counts as True.
            raise ConfigError(f"{name}: takes a plain function, not `async def`")
        return
    allowed = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}[kind]
    if type(value) not in allowed:
        raise ConfigError(f"{name}={value!r}: takes {takes}, not {type(value).__name__}")
    if kind == "str":
        if metadata["choices"] and value not in metadata["choices"]:
            raise ConfigError(f"{name}={value!r}: takes one of {', '.join(metadata['choices'])}")
    elif kind != "bool":
        least, most = metadata["least"], metadata["most"]
        if not (least <= value <= most and math.isfinite(value)):
            upper = f" and at most {most:g}" if math.isfinite(most) else ""
            raise ConfigError(f"{name}={value!r}: takes a finite number, at least {least:g}{upper}")
