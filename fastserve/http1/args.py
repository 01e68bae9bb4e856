"""`Args`: the arguments of a query or of a urlencoded form (WHATWG URL 5, application/x-www-form-urlencoded).

Invariants:

* ``Args.parse(args.encode()) == args`` for any arguments that can be encoded and fit the limit.
* Order and repetition are kept, blank values too. ``a`` and ``a=`` are the same argument.
* Only ``&`` separates. A second separator (``;``) that a proxy in front does not know lets arguments pass it unseen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import overload
from urllib.parse import quote_plus

from fastserve.errors import RequestError
from fastserve.http1.fields import printable
from fastserve.http1.percent import percent_decode

__all__ = ["Args"]

# int() and float() take other alphabets' digits, underscores, white space, "nan" and "inf"; a number in a URL has none.
# 18 digits always fit 64 bits, in which a database most likely keeps the value.
_integer = re.compile(r"[+-]?[0-9]{1,18}\Z").match
_number = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?\Z").match
_true_words = frozenset(("1", "true", "t", "yes", "y", "on"))
_false_words = frozenset(("0", "false", "f", "no", "n", "off"))
_separators = re.compile(rb"&+")


class Args:
    """An ordered multi-map of arguments, `str` to `str`.

    Iteration, `items` and ``len`` go by argument: a name that was sent twice is there twice.
    `get`, ``args[name]`` and the typed getters read the first value of a name.
    """

    __slots__ = ("_index", "_pairs")

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self) -> None:
        self._pairs: list[tuple[str, str]] = []
        self._index: dict[str, list[str]] | None = None

    @classmethod
    def parse(cls, data: bytes | str, max_count: int = 1000) -> Args:
        """The arguments in `data`, percent-decoded as UTF-8, with ``+`` read as a space.

        A `str` is encoded as UTF-8 first. Malformed percent-encodings stay as they are. Empty pieces (``a&&b``)
        are no arguments. Raises `RequestError` (400) beyond `max_count` arguments (default 1000: pages of
        checkboxes have hundreds, and each argument costs the server a hundred times what it costs the sender).
        """
        if isinstance(data, str):
            data = data.encode("utf-8", "replace")
        args = cls()
        if not data:
            return args
        # Counted before the split, so that a body of ampersands is not made into a list first.
        if data.count(b"&") >= max_count:
            data = _separators.sub(b"&", data).strip(b"&")
            if data and data.count(b"&") >= max_count:
                raise RequestError(400, f"more than {max_count} arguments")
        pairs = args._pairs
        for piece in data.split(b"&"):
            if piece:
                name, _, value = piece.replace(b"+", b" ").partition(b"=")
                pairs.append((percent_decode(name), percent_decode(value)))
        return args

    def encode(self) -> str:
        """The arguments as ``application/x-www-form-urlencoded``: UTF-8, ``+`` for a space, all ASCII.

        Raises `UnicodeEncodeError` for a lone surrogate, which has no UTF-8 form.
        """
        return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in self._pairs)

    __str__ = encode

    # Reading

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    @overload
    def get(self, name: str, default: None) -> str | None: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of `name`, or `default`."""
        values = self._indexed().get(name)
        return values[0] if values else default

    def get_all(self, name: str) -> list[str]:
        """Every value of `name` in order; an empty list when there is none."""
        return list(self._indexed().get(name, ()))

    @overload
    def get_int(self, name: str) -> int | None: ...
    @overload
    def get_int(self, name: str, default: int) -> int: ...
    @overload
    def get_int(self, name: str, default: None) -> int | None: ...
    def get_int(self, name: str, default: int | None = None) -> int | None:
        """The first value of `name` as an integer, or `default` when the argument is absent.

        An optional sign and 1 to 18 ASCII digits; a blank or any other value raises `RequestError` (400).
        """
        value = self.get(name)
        if value is None:
            return default
        if not _integer(value):
            raise _refused(name, value, "an integer of at most 18 digits")
        return int(value)

    @overload
    def get_float(self, name: str) -> float | None: ...
    @overload
    def get_float(self, name: str, default: float) -> float: ...
    @overload
    def get_float(self, name: str, default: None) -> float | None: ...
    def get_float(self, name: str, default: float | None = None) -> float | None:
        """The first value of `name` as a finite number, or `default` when the argument is absent.

        Decimal, with an optional fraction and exponent; no ``nan`` or ``inf``, which would pass most range
        checks. A blank or any other value raises `RequestError` (400).
        """
        value = self.get(name)
        if value is None:
            return default
        if _number(value):
            number = float(value)
            if math.isfinite(number):
                return number
        raise _refused(name, value, "a finite number")

    @overload
    def get_bool(self, name: str) -> bool | None: ...
    @overload
    def get_bool(self, name: str, default: bool) -> bool: ...
    @overload
    def get_bool(self, name: str, default: None) -> bool | None: ...
    def get_bool(self, name: str, default: bool | None = None) -> bool | None:
        """The first value of `name` as a truth value, or `default` when the argument is absent.

        ``1 true t yes y on`` and ``0 false f no n off``, in any case. Anything else raises `RequestError` (400),
        a blank too: ``?debug`` means yes where ``debug=`` from an empty form field means no.
        """
        value = self.get(name)
        if value is None:
            return default
        word = value.lower()
        if word in _true_words:
            return True
        if word in _false_words:
            return False
        raise _refused(name, value, "true or false")

    def has(self, name: str) -> bool:
        """True when `name` was given, with or without a value."""
        return name in self._indexed()

    def __contains__(self, name: object) -> bool:
        return name in self._indexed()

    def __getitem__(self, name: str) -> str:
        """The first value of `name`. Raises `KeyError` when there is none."""
        return self._indexed()[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._pairs])

    def items(self) -> list[tuple[str, str]]:
        """``(name, value)`` of each argument, in order."""
        return list(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return self._pairs == other._pairs if isinstance(other, Args) else NotImplemented

    def __repr__(self) -> str:
        return f"Args({self._pairs!r})"

    # Writing

    def add(self, name: str, value: str | int) -> None:
        """Append an argument, beside those of the same name. An int is kept in decimal."""
        self._pairs.append((name, _text(name, value)))
        self._index = None

    def set(self, name: str, value: str | int) -> None:
        """Make `value` the only value of `name`, in the place of the first one or at the end."""
        pair = (name, _text(name, value))
        if name in self:
            place = next(i for i, (other, _) in enumerate(self._pairs) if other == name)
            self.delete(name)
            self._pairs.insert(place, pair)
        else:
            self._pairs.append(pair)
        self._index = None

    def delete(self, name: str) -> None:
        """Remove every value of `name`, if there is any."""
        self._pairs = [pair for pair in self._pairs if pair[0] != name]
        self._index = None

    # Inside

    def _indexed(self) -> dict[str, list[str]]:
        index = self._index
        if index is None:
            index = self._index = {}
            for name, value in self._pairs:
                index.setdefault(name, []).append(value)
        return index


def _text(name: str, value: str | int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"argument {printable(name)}: the value must be str or int, not {type(value).__name__}")
    return str(int(value))


def _refused(name: str, value: str, expected: str) -> RequestError:
    return RequestError(400, f"argument '{printable(name, 50)}' must be {expected}, not '{printable(value, 50)}'")
