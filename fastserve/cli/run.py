"""``fastserve run module:attribute``: load a handler and serve it until a signal says stop."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any, Literal

import click
from click.core import ParameterSource

from fastserve import __version__
from fastserve.cli.loader import load_handler
from fastserve.cli.options import (
    LARGEST_NUMBER,
    SECONDS,
    SectionedCommand,
    SectionedOption,
    Whole,
    config_names,
    config_options,
    environment_hint,
    option_name,
)
from fastserve.errors import ConfigError
from fastserve.server.config import ServerConfig
from fastserve.server.memory import keep_freed_memory
from fastserve.server.server import Server

__all__ = ["run"]

_CUT = 1
_KINDS = {"async": "async handler", "threads": "handler in threads", "inline": "inline handler"}

_EPILOG = """\b
Examples:
  fastserve run fastserve.demo:handler
  fastserve run shop.web:handler --host 0.0.0.0 --port 80 --max-request-body-size 32M
  FASTSERVE_PORT=9000 fastserve run shop.web:make_handler --factory --app-dir src
"""


def _option(section: str, *names: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=SectionedOption, section=section, **settings)


@click.command(
    "run",
    short_help="Serve a handler.",
    cls=SectionedCommand,
    epilog=_EPILOG,
    context_settings={"auto_envvar_prefix": "FASTSERVE", "max_content_width": 100},
)
@click.argument("app", metavar="MODULE:ATTRIBUTE", envvar="FASTSERVE_APP")
@_option(
    "Application", "--factory", is_flag=True, help="Call ATTRIBUTE without arguments; what it returns is the handler."
)
@_option(
    "Application",
    "--app-dir",
    type=click.Path(exists=True, file_okay=False),
    default=".",
    help="Folder to import MODULE from; it goes first on sys.path.",
)
@_option("Listening", "--host", default="127.0.0.1", help="Name or address. 0.0.0.0 and :: are every interface.")
@_option(
    "Listening",
    "--port",
    type=Whole(0, 65535),
    metavar="NUMBER",
    default=8000,
    help="TCP port. With 0 the system chooses one, which is printed.",
)
@_option("Listening", "--uds", metavar="PATH", help="Listen on a Unix domain socket instead.")
@_option(
    "Listening",
    "--fd",
    type=Whole(0, LARGEST_NUMBER),
    metavar="NUMBER",
    help="Listen on an inherited socket instead (systemd's is 3).",
)
@_option("Listening", "--reuse-port", is_flag=True, help="Share the port with other processes (SO_REUSEPORT).")
@_option(
    "Workers",
    "--loop",
    type=click.Choice(["auto", "uvloop", "asyncio"]),
    default="auto",
    help="Event loop. auto is uvloop where it is installed.",
)
@_option(
    "Workers", "--inline", is_flag=True, help="Run a plain `def` handler on the event loop. Only if it never blocks."
)
@_option(
    "Timeouts",
    "--shutdown-timeout",
    type=SECONDS,
    default="30",
    help="On SIGINT or SIGTERM, requests in flight have this long to finish; then they are cut off.",
)
@_option(
    "Logging",
    "--log-level",
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    default="info",
    help="Least severity that is logged to standard error. The addresses are info.",
)
@config_options
@_option(
    "Application",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,
    show_envvar=False,
    callback=lambda ctx, param, value: _show_version(ctx, value),
    help="Show the version and exit.",
)
@click.help_option(
    cls=SectionedOption, section="Application", allow_from_autoenv=False, show_envvar=False, help="Show this and exit."
)
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    app: str,
    factory: bool,
    app_dir: str,
    loop: Literal["auto", "uvloop", "asyncio"],
    inline: bool,
    shutdown_timeout: float,
    log_level: str,
    **values: Any,
) -> int:
    """Serve the handler that MODULE:ATTRIBUTE names, until SIGINT (Ctrl-C) or SIGTERM.

    The first signal lets requests in flight finish, the second stops at once. Exit status: 0 after
    a clean stop, 1 when requests were cut off or the server could not start, 2 for bad use.

    Each option can also be set in the environment, as FASTSERVE_ and its name in capitals
    (FASTSERVE_PORT, and FASTSERVE_APP for MODULE:ATTRIBUTE); the command line wins. A SIZE is in
    bytes, or has a suffix K, M or G (powers of 1024). SECONDS may be fractions.
    """
    where = _listen_on(ctx)
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise click.UsageError("--loop uvloop: uvloop is not installed; pip install uvloop, or use --loop asyncio", ctx)
    config = _config(ctx, {name: values[name] for name in config_names()})
    handler = load_handler(app, app_dir, factory)
    _log_to_stderr(log_level)
    quiet = not logging.getLogger("fastserve").isEnabledFor(logging.INFO)
    watchers = []

    async def tell_of_the_drain(server: Server) -> None:
        await server.service.done.wait()
        _say(f"draining; requests in flight have {shutdown_timeout:g} s to finish. Ctrl-C again stops at once.")

    def announce(server: Server) -> None:
        if quiet:
            return
        made_by = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        for url in server.urls:
            _say(f"serving {app} on {url} ({made_by}, {_KINDS[server.kind]}). Ctrl-C stops.")
        watchers.append(asyncio.ensure_future(tell_of_the_drain(server)))

    keep_freed_memory(os.environ)
    report = Server(handler, config, inline=inline).run(
        **where, loop=loop, shutdown_timeout=shutdown_timeout, on_started=announce
    )
    return 0 if report.clean else _CUT  # the server has logged what was cut


def _show_version(ctx: click.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"fastserve, version {__version__}")
        ctx.exit()


def _listen_on(ctx: click.Context) -> dict[str, Any]:
    """The one of host and port, uds, fd to listen on; the command line outranks the environment."""
    for source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        given = [name for name in ("host", "port", "uds", "fd") if ctx.get_parameter_source(name) is source]
        ways = {"port" if name == "host" else name for name in given}
        if len(ways) > 1:
            named = ", ".join(f"--{name}" for name in given)
            raise click.UsageError(f"{named}: only one of --host and --port, --uds, --fd can be listened on", ctx)
        for name in given:
            if ctx.params[name] == "":
                # What an unset variable in a script gives; sockets take it for every interface, or for any free name.
                raise click.UsageError(f"--{name} is empty; leave it out, or say where to listen", ctx)
        if ways & {"uds", "fd"}:
            if ctx.get_parameter_source("reuse_port") is source and ctx.params["reuse_port"]:
                raise click.UsageError(f"--reuse-port shares a TCP port; it does not go with --{given[0]}", ctx)
            return {given[0]: ctx.params[given[0]], "reuse_port": False}
        if ways:
            break
    return {name: ctx.params[name] for name in ("host", "port", "reuse_port")}


def _config(ctx: click.Context, values: dict[str, Any]) -> ServerConfig:
    """The `ServerConfig` with these values; what it refuses is named as the option that the user wrote."""
    try:
        return ServerConfig(**values)
    except ConfigError as error:
        name, _, rest = str(error).partition("=")
        if name not in values:
            raise
        raise ConfigError(f"{option_name(name)}={rest}{environment_hint(ctx, name)}") from None


def _log_to_stderr(level: str) -> None:
    """Send fastserve's log to standard error, unless the application has already said where logs go."""
    logger = logging.getLogger("fastserve")
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


def _say(text: str) -> None:
    click.echo(f"fastserve {__version__}: {text}", err=True)
