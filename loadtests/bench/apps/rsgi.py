"""Granian's own interface."""

from __future__ import annotations

from typing import Any

from bench.body import response_body

BODY = response_body()
HEADERS = [("content-type", "text/plain")]


async def app(scope: Any, protocol: Any) -> None:
    if scope.method == "POST":
        await protocol()
    protocol.response_bytes(200, HEADERS, BODY)
