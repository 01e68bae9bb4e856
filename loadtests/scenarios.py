"""What the load tests ask for, and what must come back: `app.py` answers it, `locustfile.py` sends it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLOCKING_SECONDS", "BODY_SIZE", "HELLO", "MIX", "SCENARIOS", "STREAM_PIECES", "Scenario"]

HELLO = b"hello"
BODY_SIZE = 64 * 1024
STREAM_PIECES = [b"%03d " % number * 1024 for number in range(16)]
"""A streamed response, piece by piece: 64 KiB in all."""
BLOCKING_SECONDS = 0.005
"""How long the blocking handler blocks its thread: about one query of a database."""

BODY = bytes(range(256)) * (BODY_SIZE // 256)
ORDER = b'{"customer": 4711, "items": [{"sku": "A-100", "count": 2}, {"sku": "B-200", "count": 1}], "express": true}'

BROWSER_HEADERS = (
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Accept-Language", "en-GB,en;q=0.7,de;q=0.3"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Cookie", "session=c2Vzc2lvbi1vZi1zb21lYm9keQ; theme=dark; seen=1718000000"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Priority", "u=0, i"),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One request, and the body with which it must be answered."""

    name: str
    method: str
    path: str
    expected: bytes
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("small GET", "GET", "/", HELLO),
        Scenario("browser GET", "GET", "/page?from=home", HELLO, BROWSER_HEADERS),
        Scenario("JSON POST", "POST", "/orders", b'{"pieces": 3}', (("Content-Type", "application/json"),), ORDER),
        Scenario("64 KiB both ways", "POST", "/echo", BODY, (("Content-Type", "application/octet-stream"),), body=BODY),
        Scenario("streamed response", "GET", "/stream", b"".join(STREAM_PIECES)),
        Scenario("blocking handler", "GET", "/blocking", HELLO),
        Scenario("keep-alive off", "GET", "/", HELLO, (("Connection", "close"),)),
    )
}

MIX = {
    "small GET": 10,
    "browser GET": 6,
    "JSON POST": 4,
    "64 KiB both ways": 1,
    "streamed response": 1,
    "blocking handler": 1,
    "keep-alive off": 1,
}
"""How often each comes in a mix: mostly small things that are read, as on most sites."""
