"""Names and values of header fields: what may be sent and what a Host may be (RFC 9110 5.1, 5.5, 7.2).

A check here is the only thing between a handler's string and the wire, so it is a
whole-string match: nothing is stripped, escaped or repaired.
"""

from __future__ import annotations

import re

__all__ = ["is_field_name", "is_field_value", "is_host", "printable"]

_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z").match
# Visible characters, space, tab and obs-text. Leading and trailing white space is not part of a value.
_value = re.compile("(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?\\Z").match
# uri-host [ ":" port ] (RFC 3986 3.2.2): a name, an IPv4 address, or a bracketed IPv6 or future address.
_host = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|\[[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?\Z",
    re.ASCII,
).match


def is_field_name(name: str) -> bool:
    """True for a token (RFC 9110 5.6.2), at least one character."""
    return _name(name) is not None


def is_field_value(value: str) -> bool:
    """True when `value` can be sent as it is: no CR, LF, NUL or other control, no outer white space, Latin-1 only."""
    return _value(value) is not None


def is_host(value: bytes) -> bool:
    """True for ``uri-host [ ":" port ]``. Empty is valid (RFC 9112 3.2: a target without an authority)."""
    return _host(value) is not None


def printable(text: str, limit: int = 200) -> str:
    """`text` for a log line: control characters escaped, cut at `limit` characters, so that no client writes log lines."""
    shown = text[:limit].encode("unicode_escape").decode("ascii")
    return shown + "..." if len(text) > limit else shown
