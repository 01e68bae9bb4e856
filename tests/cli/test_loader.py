"""`load_handler`: what it accepts, and the line it says about each thing that it does not."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastserve.cli.loader import UserCodeError, load_handler
from fastserve.errors import AppLoadError

_SHOP = """
from functools import partial

async def handler(ctx): ...
def blocking(ctx, retries=3): ...
def make(): return handler
def needs_two(a, b): ...
def needs_keyword(ctx, *, database): ...
def nothing(): return None
async def asynchronous_make(): return handler
async def asgi(scope, receive, send): ...
def wsgi(environ, start_response): ...
async def streams(ctx): yield b""
def raises(): raise LookupError("no settings")

class Shop:
    def __call__(self, ctx): ...
    def method(self, ctx): ...

class AsgiFramework:
    async def __call__(self, scope, receive, send): ...

shop = Shop()
framework = AsgiFramework()
bound = partial(needs_two, 1)
number = 3
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module `shop_app`; sys.path and sys.modules are put back afterwards."""
    (tmp_path / "shop_app.py").write_text(_SHOP)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("attribute", ["handler", "blocking", "shop", "shop.method", "bound"])
def test_what_takes_one_argument_is_a_handler(shop: Path, attribute: str) -> None:
    handler = load_handler(f"shop_app:{attribute}", str(shop), factory=False)
    expected: object = sys.modules["shop_app"]
    for name in attribute.split("."):
        expected = getattr(expected, name)
    assert handler == expected


@pytest.mark.parametrize(("attribute", "kind"), [("make", "function"), ("Shop", "Shop")])
def test_a_factory_is_called_for_the_handler(shop: Path, attribute: str, kind: str) -> None:
    assert type(load_handler(f"shop_app:{attribute}", str(shop), factory=True)).__name__ == kind


def test_a_callable_without_a_signature_is_accepted(shop: Path) -> None:
    assert load_handler("builtins:print", str(shop), factory=False) is print


def test_the_app_dir_goes_first_on_the_path_and_once(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    length = len(sys.path)
    for _ in range(2):
        load_handler("shop_app:handler", ".", factory=False)
        assert sys.path[0] == str(shop)
    assert len(sys.path) == length + 1


def test_a_module_in_a_package_is_named_with_dots(shop: Path) -> None:
    (shop / "shop_package").mkdir()
    (shop / "shop_package" / "web.py").write_text("def handler(ctx): ...\n")
    handler = load_handler("shop_package.web:handler", str(shop), factory=False)
    assert handler.__module__ == "shop_package.web"


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("shop_app", "'shop_app' is not of the form module:attribute, such as shop_app:handler"),
        ("shop_app:", "'shop_app:' is not of the form module:attribute, such as shop_app:handler"),
        (":handler", "':handler' is not of the form module:attribute, such as app:handler"),
        ("", "'' is not of the form module:attribute, such as app:handler"),
        (".shop_app:handler", "'.shop_app:handler' is not of the form module:attribute, such as shop_app:handler"),
        ("shop_app:a..b", "'shop_app:a..b' is not of the form module:attribute, such as shop_app:handler"),
        ("shop_app.py:shop", "'shop_app.py:shop' names a file; write its module, such as shop_app:shop"),
        ("./shop_app.py", "'./shop_app.py' names a file; write its module, such as shop_app:handler"),
        ("shop_ap:handler", "no module named 'shop_ap' (looked in {folder}; did you mean 'shop_app'?)"),
        ("unlike_all:handler", "no module named 'unlike_all' (looked in {folder}; is --app-dir right?)"),
        (
            "shop_app:handlr",
            "module 'shop_app' ({folder}/shop_app.py) has no attribute 'handlr'; did you mean 'handler'?",
        ),
        ("shop_app:shop.methd", "'shop' has no attribute 'methd'; did you mean 'method'?"),
        ("shop_app:shop.method.x", "'method' has no attribute 'x'; what follows the colon is a name defined there"),
        ("shop_app:number", "shop_app:number is an int, not a handler; write a function of one argument, ctx"),
        ("shop_app:needs_two", "shop_app:needs_two takes (a, b); a fastserve handler takes one argument, ctx"),
        (
            "shop_app:needs_keyword",
            "shop_app:needs_keyword takes (ctx, *, database); a fastserve handler takes one argument, ctx",
        ),
        (
            "shop_app:make",
            "shop_app:make takes (); a fastserve handler takes one argument, ctx; "
            "add --factory if it makes the handler",
        ),
        (
            "shop_app:Shop",
            "shop_app:Shop is a class; name an instance with a __call__ of one argument, ctx, "
            "or add --factory if calling it makes the handler",
        ),
        (
            "shop_app:asgi",
            "shop_app:asgi is an ASGI application (scope, receive, send); a fastserve handler takes one argument, ctx",
        ),
        (
            "shop_app:framework",
            "shop_app:framework is an ASGI application (scope, receive, send); "
            "a fastserve handler takes one argument, ctx",
        ),
        (
            "shop_app:wsgi",
            "shop_app:wsgi is a WSGI application (environ, start_response); "
            "a fastserve handler takes one argument, ctx",
        ),
        (
            "shop_app:streams",
            "shop_app:streams is a generator; write the body with ctx.set_body_stream() instead of yield",
        ),
    ],
)
def test_what_is_no_handler_is_refused_with_what_to_write(shop: Path, spec: str, line: str) -> None:
    with pytest.raises(AppLoadError) as caught:
        load_handler(spec, str(shop), factory=False)
    assert str(caught.value) == line.format(folder=shop)


@pytest.mark.parametrize(
    ("attribute", "line"),
    [
        (
            "handler",
            "--factory calls shop_app:handler without arguments, but it takes (ctx); "
            "leave --factory out if it is the handler itself",
        ),
        ("number", "--factory calls shop_app:number, but it is an int; leave --factory out, or name a function"),
        (
            "asynchronous_make",
            "--factory calls shop_app:asynchronous_make before there is an event loop; make it a plain def",
        ),
        (
            "nothing",
            "what shop_app:nothing() returned is None, not a handler; write a function of one argument, ctx",
        ),
    ],
)
def test_what_is_no_factory_is_refused_with_what_to_write(shop: Path, attribute: str, line: str) -> None:
    with pytest.raises(AppLoadError) as caught:
        load_handler(f"shop_app:{attribute}", str(shop), factory=True)
    assert str(caught.value) == line


def test_a_near_name_is_found_inside_a_package(shop: Path) -> None:
    (shop / "shop_package").mkdir()
    (shop / "shop_package" / "web.py").write_text("")
    with pytest.raises(AppLoadError, match=r"no module named 'shop_package\.wab' .*did you mean 'shop_package\.web'\?"):
        load_handler("shop_package.wab:handler", str(shop), factory=False)


@pytest.mark.parametrize(
    ("source", "raised"),
    [
        ("import not_there_at_all", ModuleNotFoundError),
        ("from os import not_there_at_all", ImportError),
        ("raise SystemExit(0)", SystemExit),
        ("1 / 0", ZeroDivisionError),
        ("def broken(:", SyntaxError),
        ("def __getattr__(name): return object().something_else", AttributeError),
        ("def __getattr__(name): raise OSError('settings')", OSError),
    ],
)
def test_what_the_application_raises_comes_through_from_its_first_line(
    shop: Path, source: str, raised: type[BaseException]
) -> None:
    (shop / "broken_app.py").write_text(source)
    with pytest.raises(UserCodeError) as caught:
        load_handler("broken_app:handler", str(shop), factory=False)
    original = caught.value.original
    assert type(original) is raised
    frames = traceback.extract_tb(original.__traceback__)
    assert [os.path.basename(frame.filename) for frame in frames] == (
        [] if raised is SyntaxError else ["broken_app.py"]
    )


def test_a_module_that_says_what_it_lacks_has_no_such_attribute(shop: Path) -> None:
    (shop / "lazy_app.py").write_text("def __getattr__(name): raise AttributeError(f'no {name} here')")
    with pytest.raises(AppLoadError, match="has no attribute 'handler'"):
        load_handler("lazy_app:handler", str(shop), factory=False)


def test_what_a_factory_raises_comes_through(shop: Path) -> None:
    with pytest.raises(UserCodeError, match=r"^calling shop_app:raises\(\) raised LookupError$") as caught:
        load_handler("shop_app:raises", str(shop), factory=True)
    assert isinstance(caught.value.original, LookupError)


def test_ctrl_c_while_importing_stays_ctrl_c(shop: Path) -> None:
    (shop / "slow_app.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_handler("slow_app:handler", str(shop), factory=False)
