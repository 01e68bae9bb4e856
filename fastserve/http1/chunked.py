"""`ChunkedBounds`: where a chunked body may end, and how much of it may be something else than body (RFC 9112 7.1)."""

from __future__ import annotations

from fastserve.http1.parser import CHUNK_OVERHEAD, END_OF_HEAD

__all__ = ["ChunkedBounds"]


class ChunkedBounds:
    """Counts one chunked body after another. The syntax is llhttp's to judge; this says how much it is given, and counts.

    `received` is the bytes of body so far; `excess` the bytes of chunk extensions and trailers that no body bytes of
    the same segment account for: to be bounded as a head is.
    """

    __slots__ = ("_tail", "excess", "received")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new body begins."""
        self._tail = b""  # the last three bytes so far
        self.excess = 0
        self.received = 0

    def next_stop(self, data: bytes, start: int) -> int:
        """How far `data` may be parsed: the body can end only behind a CRLFCRLF, which may straddle the segments."""
        tail = self._tail
        at = (tail + data[start : start + 3]).find(END_OF_HEAD)
        if at >= 0:
            return start + at + 4 - len(tail)
        at = data.find(END_OF_HEAD, start)
        return at + 4 if at >= 0 else len(data)

    def count(self, data: bytes, start: int, end: int, received: int) -> None:
        """`data[start:end]` was parsed and held `received` bytes of body."""
        self.received += received
        # Body bytes pay for framing only of the segment they came in: what they leave over is no credit for trailers.
        self.excess = max(0, self.excess + (end - start - received) - CHUNK_OVERHEAD * received)
        self._tail = (self._tail + data[max(start, end - 3) : end])[-3:]
