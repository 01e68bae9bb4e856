"""The body that every measured service answers with."""

from __future__ import annotations

import os

__all__ = ["HELLO", "RESPONSE_SIZE", "response_body"]

HELLO = b"hello"
RESPONSE_SIZE = "RESPONSE_SIZE"
"""The environment variable with the size of the body in bytes. Without it the body is `HELLO`."""


def response_body() -> bytes:
    size = os.environ.get(RESPONSE_SIZE)
    return HELLO if size is None else b"x" * int(size)
