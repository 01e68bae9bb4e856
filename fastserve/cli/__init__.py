"""The command ``fastserve``.

Whatever goes wrong is one line on standard error that says what to do. Exit status 2 means that
the command was used wrongly, 1 that it failed, 0 that it did what was asked.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import click

from fastserve import __version__
from fastserve.cli.loader import UserCodeError
from fastserve.cli.options import environment_hint
from fastserve.cli.run import run as run_command
from fastserve.errors import AppLoadError, ConfigError, ListenError

__all__ = ["main"]

_FAILED = 1
_BAD_USE = 2
_INTERRUPTED = 130


@click.group(context_settings={"max_content_width": 100}, invoke_without_command=True)
@click.version_option(__version__, prog_name="fastserve")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A fast, strict HTTP/1.1 server. Try: fastserve run fastserve.demo:handler"""
    if ctx.invoked_subcommand is None:
        raise click.UsageError("what should it do? 'fastserve run app:handler' serves a handler", ctx)


cli.add_command(run_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (by default those of the process) and return the exit status."""
    try:
        status = cli.main(args=arguments, prog_name="fastserve", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "fastserve"
        text = error.format_message().rstrip(".")
        if isinstance(error, click.BadParameter) and error.ctx and error.param and error.param.name:
            text += environment_hint(error.ctx, error.param.name)
        return _fail(f"{text[:1].lower()}{text[1:]} (see {command} --help)", _BAD_USE)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (AppLoadError, ConfigError) as error:
        return _fail(str(error), _BAD_USE)
    except ListenError as error:
        return _fail(str(error), _FAILED)
    except UserCodeError as error:
        original = error.original
        click.echo("".join(traceback.format_exception(original)), err=True, nl=False)
        return _fail(f"{error} (its traceback is above)", _FAILED)
    except click.Abort:
        return _fail("interrupted", _INTERRUPTED)
    return status if isinstance(status, int) else 0


def _fail(text: str, status: int) -> int:
    """Say `text` on one line, whatever it holds, and return `status`."""
    click.echo(f"fastserve: error: {' '.join(text.split())}", err=True)
    return status
