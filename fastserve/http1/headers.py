"""`Headers`: the fields of one message, as they stood on the wire (RFC 9110 5, RFC 9112 5).

Invariants:

* The pairs keep their order, their spelling and their repetition; nothing is merged or dropped.
* Building one costs a list copy. Names are compared and values decoded when somebody asks.
* What a program sets has been checked: no pair that `set` or `add` let in can split a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload

from fastserve.errors import ResponseError
from fastserve.http1.fields import is_field_name, is_field_value, printable

__all__ = ["SECRET_NAMES", "Headers", "checked_pair"]

_outer_white_space = b" \t"
SECRET_NAMES = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
"""Values of these log in as somebody: a repr ends up in logs and tracebacks, where they must not be."""


class Headers:
    """A case-insensitive multi-map over an ordered list of ``(name, value)`` byte pairs.

    The surface is `str`, Latin-1 on both sides, so that every byte survives. Iteration,
    `keys`, `items` and ``len`` go by field line: a name that was sent twice is there twice.
    Values are read without the white space around them (RFC 9112 5.1); `raw` has them untouched.

    `pairs` comes from the parser and is trusted; a program adds with `set` and `add`, which check.
    """

    __slots__ = ("_index", "_pairs")

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._pairs = list(pairs)
        self._index: dict[bytes, list[bytes]] | None = None

    # Reading

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """The pairs themselves, in order: for rendering without a copy. To be read, not changed."""
        return self._pairs

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    @overload
    def get(self, name: str, default: None) -> str | None: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of `name`, or `default`."""
        values = self._values(name)
        return values[0].strip(_outer_white_space).decode("latin-1") if values else default

    def get_all(self, name: str) -> list[str]:
        """Every value of `name` in order; an empty list when there is none. Commas are not split."""
        return [value.strip(_outer_white_space).decode("latin-1") for value in self._values(name)]

    def __getitem__(self, name: str) -> str:
        """The first value of `name`. Raises `KeyError` when there is none."""
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._values(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._pairs)

    def keys(self) -> list[str]:
        """The name of each field line, in order and as spelled."""
        return [name.decode("latin-1") for name, _ in self._pairs]

    def values(self) -> list[str]:
        """The value of each field line, in order."""
        return [value.strip(_outer_white_space).decode("latin-1") for _, value in self._pairs]

    def items(self) -> list[tuple[str, str]]:
        """``(name, value)`` of each field line, in order."""
        return list(zip(self.keys(), self.values(), strict=True))

    def __eq__(self, other: object) -> bool:
        """Same fields: case of names and order between different names say nothing (RFC 9110 5.1, 5.3)."""
        if not isinstance(other, Headers):
            return NotImplemented
        return self._comparable() == other._comparable()

    def __repr__(self) -> str:
        shown = [
            (name.decode("latin-1"), "..." if name.lower() in SECRET_NAMES else value)
            for (name, _), value in zip(self._pairs, self.values(), strict=True)
        ]
        return f"Headers({shown!r})"

    # Writing

    def set(self, name: str, value: str | int) -> None:
        """Make `value` the only value of `name`, in the place of the first one or at the end.

        An int is sent in decimal. Raises `ResponseError` when the name is not a token or the value
        cannot be sent as it is (RFC 9110 5.1, 5.5): outer white space is refused, not repaired.
        Raises `TypeError` for a value that is neither `str` nor `int`.
        """
        pair = checked_pair(name, value)
        key = pair[0].lower()
        if key in self._indexed():
            place = next(i for i, (other, _) in enumerate(self._pairs) if other.lower() == key)
            kept = [other for other in self._pairs if other[0].lower() != key]
            kept.insert(place, pair)
            self._pairs = kept
            self._index = None
        else:
            self._append(pair)

    def __setitem__(self, name: str, value: str | int) -> None:
        self.set(name, value)

    def add(self, name: str, value: str | int) -> None:
        """Append a field line, beside those of the same name. Raises as `set` does."""
        self._append(checked_pair(name, value))

    def discard(self, name: str) -> None:
        """Remove every value of `name`, if there is any."""
        if name in self:
            key = name.encode("latin-1").lower()
            self._pairs = [pair for pair in self._pairs if pair[0].lower() != key]
            self._index = None

    def __delitem__(self, name: str) -> None:
        """Remove every value of `name`. Raises `KeyError` when there is none."""
        if name not in self:
            raise KeyError(name)
        self.discard(name)

    # Inside

    def _append(self, pair: tuple[bytes, bytes]) -> None:
        self._pairs.append(pair)
        # Kept up to date, not dropped: a handler that sets ten headers would build it ten times.
        if self._index is not None:
            self._index.setdefault(pair[0].lower(), []).append(pair[1])

    def _values(self, name: str) -> list[bytes] | tuple[()]:
        # Bytes are compared, not str: only ASCII may fold, and U+212A lowers to "k" in a str.
        try:
            key = name.encode("latin-1").lower()
        except UnicodeEncodeError:
            return ()
        return self._indexed().get(key, ())

    def _indexed(self) -> dict[bytes, list[bytes]]:
        index = self._index
        if index is None:
            index = self._index = {}
            for name, value in self._pairs:
                index.setdefault(name.lower(), []).append(value)
        return index

    def _comparable(self) -> dict[bytes, list[bytes]]:
        return {name: [value.strip(_outer_white_space) for value in values] for name, values in self._indexed().items()}


def checked_pair(name: str, value: str | int) -> tuple[bytes, bytes]:
    """The pair for the wire. Raises `ResponseError` or `TypeError`, naming the header."""
    if not isinstance(value, str):
        # A bool is an int in Python, and "True" is in no header's grammar: it can only be a mistake.
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"header {printable(name)}: the value must be str or int, not {type(value).__name__}")
        value = str(int(value))
    if not is_field_name(name):
        raise ResponseError(f"header name {_quoted(name)} is not a token (RFC 9110 5.6.2)")
    if not is_field_value(value):
        raise ResponseError(f"header {name}: {_fault(value)}: {_quoted(value)}")
    return name.encode("ascii"), value.encode("latin-1")


def _fault(value: str) -> str:
    """What is wrong with a value that `is_field_value` refused (RFC 9110 5.5)."""
    for position, character in enumerate(value):
        if character == "\x7f" or (character < " " and character != "\t"):
            return f"the value has the control character {printable(character)} at {position}"
        if character > "\xff":
            return f"the value has {printable(character)} at {position}, which is not Latin-1"
    return "the value begins or ends with white space"


def _quoted(text: str) -> str:
    return f"'{printable(text)}'"
