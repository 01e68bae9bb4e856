"""`ChunkScanner`: where a chunked body ends (RFC 9112 7.1), and its trailers as they were sent.

llhttp judges the syntax and unpacks the data. The scanner only counts: it looks at each
chunk's size and skips as many bytes, so that data which looks like an end is not taken
for one, and a segment is parsed in one call whatever stands in it.

Invariants:
1. Of any well-formed body it finds the end that llhttp finds, however it is cut. (Of others it may find another: the
   caller compares, see `RequestParser._feed_chunked`.)
2. It holds no more than an unfinished size line, and the trailers: both count as framing, which the caller bounds.
"""

from __future__ import annotations

import re

__all__ = ["ChunkScanner"]

# Bytes of framing allowed per byte of a chunked body, in the segment it comes in: even one-byte chunks need five.
# What is more, is extensions (RFC 9112 7.1.1) and trailers, and bounded as the head is.
CHUNK_OVERHEAD = 8

# A line ends at its LF: llhttp takes no LF without a CR before it, in sizes, extensions and trailers.
# Possessive: a size of 64 KiB of zeros without its LF must not be tried in every way to split it.
_size_line = re.compile(rb"([0-9A-Fa-f]++)[^\n]*+\n").match


class ChunkScanner:
    """Follows one body. `find_end` is to be called with each segment of it, once, and `count` when it was parsed."""

    __slots__ = ("_left", "_line", "ended", "excess", "received", "trailers")

    def __init__(self) -> None:
        self.ended = False
        """True when the end was in the last segment."""
        self.trailers = bytearray()
        """From the CRLF of the last chunk's size line on: empty before it has come, CRLFCRLF when there are no trailers."""
        self.received = 0
        """Bytes of body."""
        self.excess = 0
        """Bytes of extensions and trailers that no body bytes of the same segment account for."""
        self._left = 0  # bytes of the chunk under way, and the CRLF behind them, still to come
        self._line = bytearray()  # a size line that is not whole yet

    def find_end(self, data: bytes, start: int) -> int:
        """Where the body ends in `data`, of which it has `start` on; the length of `data` when it goes on behind it.

        Raises `ValueError` where a chunk does not begin with its size.
        """
        length = len(data)
        position = start
        while not self.trailers:
            if self._left >= length - position:
                self._left -= length - position
                return length
            position += self._left
            self._left = 0
            line = None if self._line else _size_line(data, position)
            if line is not None:
                position = line.end()
            else:
                newline = data.find(b"\n", position) + 1
                self._line += data[position : newline or length]
                if not newline:
                    return length
                position = newline
                line = _size_line(bytes(self._line))
                if line is None:
                    raise ValueError("a chunk does not begin with its size")
                self._line.clear()
            size = int(line[1], 16)
            if size:
                self._left = size + 2
            else:
                self.trailers += b"\r\n"
        trailers = self.trailers
        before = len(trailers)
        # The end may straddle the segments: look from three bytes before the seam.
        end = data.find(b"\r\n\r\n", position) + 4
        trailers += data[position : end if end >= 4 else length]
        end = trailers.find(b"\r\n\r\n", max(before - 3, 0)) + 4
        if end < 4:
            return length
        del trailers[end:]
        self.ended = True
        return position + end - before

    def count(self, fed: int, received: int) -> None:
        """`fed` bytes were parsed, and held `received` bytes of body."""
        self.received += received
        # Body bytes pay for framing only of the segment they came in: what they leave over is no credit for trailers.
        self.excess = max(0, self.excess + (fed - received) - CHUNK_OVERHEAD * received)
