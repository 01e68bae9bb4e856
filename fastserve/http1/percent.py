"""Percent-decoding of request data (RFC 3986 2.1)."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

__all__ = ["percent_decode"]


def percent_decode(data: bytes) -> str:
    """`data` with every ``%XX`` decoded once, then read as UTF-8.

    Never fails: a ``%`` that two hexadecimal digits do not follow stays as it is, and bytes that are
    not UTF-8 become U+FFFD. ``+`` stays. The result may hold any character, NUL and ``/`` among them.
    """
    # Most paths and arguments have nothing to decode, and then this is one scan and one decode.
    if b"%" in data:
        data = unquote_to_bytes(data)
    return data.decode("utf-8", "replace")
