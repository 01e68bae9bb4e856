"""Options of the command line: made from `ServerConfig`, and shown in sections.

Every option has a section. Every field of `ServerConfig` that is not a hook is an option of the
same name with dashes; its help, default and type are the field's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

import click
from click.core import ParameterSource

from fastserve.options import is_hook
from fastserve.server.config import ServerConfig

__all__ = [
    "LARGEST_NUMBER",
    "NUMBER",
    "SECONDS",
    "SIZE",
    "SectionedCommand",
    "SectionedOption",
    "Whole",
    "config_names",
    "config_options",
    "environment_hint",
    "option_name",
]

LARGEST_NUMBER = 2**31 - 1
"""listen(2), dup(2) and their like take a C int."""

_SECTIONS = ("Application", "Listening", "Workers", "Limits", "Timeouts", "Responses", "Logging")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}

_FIELD_SECTIONS = {
    "backlog": "Listening",
    "tcp_keepalive": "Listening",
    "concurrency": "Workers",
    "threads": "Workers",
    "stream_request_body": "Workers",
    "cancel_on_disconnect": "Workers",
    "name": "Responses",
    "log_all_errors": "Logging",
    "secure_error_log_message": "Logging",
}


class Whole(click.IntRange):
    """A whole number in a range, which click's message would call an "integer range"."""

    name = "integer"


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4, not subscriptable before
    """A whole number that system calls take; how small it may be is for `ServerConfig` to say."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        if number > LARGEST_NUMBER:
            self.fail(f"{value!r} is too large: at most {LARGEST_NUMBER}.", param, ctx)
        return number


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes: plain, or with K, M or G for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,15})([KMG]?)", str(value).strip().upper())
        if match is None:
            self.fail(
                f"{value!r} is not a size: give bytes, or a number with K, M or G, such as 512K or 4M.", param, ctx
            )
        return int(match[1]) * _UNITS[match[2]]


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A number of seconds, at least 0 and finite."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        if not (math.isfinite(seconds) and seconds >= 0):
            self.fail(f"{value!r} is not a finite number of seconds, at least 0.", param, ctx)
        return seconds


NUMBER = Number()
SIZE = Size()
SECONDS = Seconds()


class SectionedOption(click.Option):
    """An option that knows its section of the help, its default and its environment variable shown there."""

    def __init__(self, *names: Any, section: str, **settings: Any) -> None:
        super().__init__(*names, **{"show_default": True, "show_envvar": True} | settings)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in _SECTIONS:
            options = [p for p in self.get_params(ctx) if isinstance(p, SectionedOption) and p.section == section]
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)


def environment_hint(ctx: click.Context, name: str) -> str:
    """Which variable set the option `name`, in parentheses; empty when it was not the environment."""
    if ctx.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
        return ""
    return f" (set by FASTSERVE_{name.upper()} in the environment)"


def config_names() -> tuple[str, ...]:
    """The names of the fields of `ServerConfig` that the command line sets."""
    return tuple(f.name for f in fields(ServerConfig) if not is_hook(f))


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a command with one option for each field of `ServerConfig` that is not a hook."""
    for f in reversed(fields(ServerConfig)):
        if not is_hook(f):
            command = _config_option(f)(command)
    return command


def option_name(field_name: str) -> str:
    """``max_header_size`` is ``--max-header-size``."""
    return "--" + field_name.replace("_", "-")


def _config_option(f: Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name = option_name(f.name)
    default: Any = f.default
    settings: dict[str, Any] = {"default": default}
    if isinstance(default, bool):
        if f.name.startswith(("no_", "disable_")):
            settings |= {"is_flag": True, "show_default": False}
        else:
            name = f"{name}/--no-{name[2:]}"
            settings["show_default"] = "on" if default else "off"
    elif isinstance(default, float):
        settings |= {"type": SECONDS, "default": f"{default:g}"}
    elif f.name.endswith("_size"):
        settings |= {"type": SIZE, "default": _shown_size(default)}
    elif isinstance(default, int):
        settings["type"] = NUMBER
    return click.option(
        name, f.name, cls=SectionedOption, section=_section(f.name), help=f.metadata.get("help"), **settings
    )


def _section(field_name: str) -> str:
    if section := _FIELD_SECTIONS.get(field_name):
        return section
    if field_name.endswith(("_timeout", "_duration", "_wait")):
        return "Timeouts"
    return "Limits" if field_name.startswith("max_") else "Responses"


def _shown_size(size: int) -> str:
    """The shortest way to write a size, as the command line takes it."""
    for unit in ("G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)
