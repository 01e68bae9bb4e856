"""From ``module:attribute.path`` to a handler.

Three kinds of failure are told apart, because a person mends each elsewhere:

* the text does not lead to a handler: `AppLoadError`, one line that says what to write instead;
* the application's own code raised while it was imported or called: `UserCodeError`, whose
  traceback begins in that code;
* anything else is a bug of ours, and passes through.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import ModuleType, TracebackType
from typing import Any

from fastserve.errors import AppLoadError

__all__ = ["UserCodeError", "load_handler"]

_OTHER_INTERFACES = {
    ("scope", "receive", "send"): "an ASGI",
    ("environ", "start_response"): "a WSGI",
    ("env", "start_response"): "a WSGI",
}


class UserCodeError(Exception):
    """The application's own code raised.

    `doing` says what was under way ("importing 'app'"); `original` is what was raised (any
    BaseException but KeyboardInterrupt), its traceback without the frames that led to that code.
    """

    def __init__(self, doing: str, original: BaseException) -> None:
        super().__init__(doing, original)
        self.doing = doing
        self.original = original

    def __str__(self) -> str:
        return f"{self.doing} raised {type(self.original).__name__}"


def load_handler(spec: str, app_dir: str, factory: bool) -> Callable[[Any], Any]:
    """Import what `spec` names and return the handler.

    `spec` is ``module:attribute``, both possibly dotted. `app_dir` goes first on sys.path. With
    `factory`, the attribute is called without arguments and what it returns is the handler.

    Raises `AppLoadError` when this leads to nothing that takes one argument, and `UserCodeError`
    when the application's own code raises.
    """
    folder = os.path.abspath(app_dir)
    module_name, attributes = _split(spec, folder)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    found: Any = _import(module_name, folder)
    label = f"module {module_name!r}"
    if origin := getattr(found, "__file__", None):
        label = f"{label} ({origin})"
    for name in attributes:
        found = _attribute(found, name, label)
        label = repr(name)
    label = spec
    if factory:
        found, label = _call_factory(found, spec), f"what {spec}() returned"
    return _checked(found, label, factory)


def _split(spec: str, folder: str) -> tuple[str, list[str]]:
    """The module's name and the attributes' names."""
    module_name, _, path = spec.partition(":")
    if os.sep in module_name or (module_name.endswith(".py") and os.path.exists(os.path.join(folder, module_name))):
        dotted = os.path.normpath(module_name).removesuffix(".py").strip(os.sep).replace(os.sep, ".")
        raise AppLoadError(f"{spec!r} names a file; write its module, such as {dotted}:{path or 'handler'}")
    attributes = path.split(".")
    if not (all(module_name.split(".")) and all(attributes)):
        example = module_name.strip(".") or "app"
        raise AppLoadError(f"{spec!r} is not of the form module:attribute, such as {example}:handler")
    return module_name, attributes


def _import(name: str, folder: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        with _user_code(f"importing {name!r}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        missing = error.original
        # With a traceback, it is something that the application imports: shown as it is.
        if isinstance(missing, ModuleNotFoundError) and missing.__traceback__ is None:
            raise AppLoadError(_no_module(missing, name, folder)) from None
        raise


def _no_module(error: ModuleNotFoundError, name: str, folder: str) -> str:
    missing = error.name or name
    parent, _, last = missing.rpartition(".")
    where = list(getattr(sys.modules.get(parent), "__path__", ())) if parent else [folder]
    advice = _near(last, (module.name for module in pkgutil.iter_modules(where)), prefix=f"{parent}." if parent else "")
    text = str(error)
    return f"{text[:1].lower()}{text[1:]} (looked in {folder}; {advice or 'is --app-dir right?'})"


def _attribute(owner: Any, name: str, label: str) -> Any:
    try:
        with _user_code(f"reading {name!r} of {label}"):
            return getattr(owner, name)
    except UserCodeError as error:
        absent = error.original
        if not isinstance(absent, AttributeError):
            raise
        # A __getattr__ of the application may raise it as well, of this very name or by a fault of its own.
        if absent.__traceback__ is not None and not (absent.name == name and absent.obj is owner):
            raise
    with _user_code(f"listing the names in {label}"):
        advice = _near(name, dir(owner))
    raise AppLoadError(
        f"{label} has no attribute {name!r}; {advice or 'what follows the colon is a name defined there'}"
    )


def _near(name: str, names: Iterable[str], prefix: str = "") -> str:
    near = get_close_matches(name, list(names), 1)
    return f"did you mean {prefix + near[0]!r}?" if near else ""


def _call_factory(factory: Any, spec: str) -> Any:
    if not callable(factory):
        raise AppLoadError(
            f"--factory calls {spec}, but it is {_kind(factory)}; leave --factory out, or name a function"
        )
    if not _takes(factory):
        raise AppLoadError(
            f"--factory calls {spec} without arguments, but it takes {inspect.signature(factory)}; "
            "leave --factory out if it is the handler itself"
        )
    if inspect.iscoroutinefunction(factory):
        raise AppLoadError(f"--factory calls {spec} before there is an event loop; make it a plain def")
    with _user_code(f"calling {spec}()"):
        return factory()


def _checked(found: Any, label: str, factory: bool) -> Callable[[Any], Any]:
    """`found`, if it takes the one argument that a handler is called with."""
    if not callable(found):
        if inspect.iscoroutine(found):
            found.close()
        raise AppLoadError(f"{label} is {_kind(found)}, not a handler; write a function of one argument, ctx")
    handler: Callable[[Any], Any] = found
    if inspect.isclass(handler):
        advice = "" if factory else ", or add --factory if calling it makes the handler"
        raise AppLoadError(f"{label} is a class; name an instance with a __call__ of one argument, ctx{advice}")
    try:
        parameters = tuple(inspect.signature(handler).parameters)
    except (TypeError, ValueError):
        return handler  # some builtins have no signature to look at
    for names, interface in _OTHER_INTERFACES.items():
        if parameters[: len(names)] == names:
            raise AppLoadError(
                f"{label} is {interface} application ({', '.join(names)}); a fastserve handler takes one argument, ctx"
            )
    if not _takes(handler, object()):
        hint = "; add --factory if it makes the handler" if not factory and _takes(handler) else ""
        raise AppLoadError(
            f"{label} takes {inspect.signature(handler)}; a fastserve handler takes one argument, ctx{hint}"
        )
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in (handler, type(handler).__call__)):
        raise AppLoadError(f"{label} is a generator; write the body with ctx.set_body_stream() instead of yield")
    return handler


def _takes(function: Callable[..., Any], *arguments: object) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}" if value is not None else "None"


@contextmanager
def _user_code(doing: str) -> Iterator[None]:
    """What the block raises becomes a `UserCodeError`, SystemExit included; Ctrl-C stays Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserCodeError(doing, error.with_traceback(_from_user_code(error.__traceback__))) from None


def _from_user_code(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without its first frames that are ours or the import system's."""
    ours = (__file__, importlib.__file__)
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if filename not in ours and not filename.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace
