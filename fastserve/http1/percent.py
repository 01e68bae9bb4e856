"""Percent-encoding of request data (RFC 3986 2.1)."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

__all__ = ["percent_decode", "percent_encode"]

# What no URL may hold as it is (RFC 3986 2): white space, and what is not visible ASCII. The rest is left as it was
# given, '%' too: it may be encoded already, and to encode twice asks for something else.
_not_for_urls = re.compile(r"[^!-~]").sub


def percent_decode(data: bytes) -> str:
    """`data` with every ``%XX`` decoded once, then read as UTF-8.

    Never fails: a ``%`` that two hexadecimal digits do not follow stays as it is, and bytes that are
    not UTF-8 become U+FFFD. ``+`` stays. The result may hold any character, NUL and ``/`` among them.
    """
    # Most paths and arguments have nothing to decode, and then this is one scan and one decode.
    if b"%" in data:
        data = unquote_to_bytes(data)
    return data.decode("utf-8", "replace")


def percent_encode(text: str) -> str:
    """`text`, part of a URL, with spaces, controls and what is not ASCII as ``%XX`` of its UTF-8.

    Nothing else is changed, so that what is encoded stays so. Raises `UnicodeEncodeError` for a lone surrogate.
    """
    return _not_for_urls(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8")), text)
