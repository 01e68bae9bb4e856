"""Content codings: gzip, deflate, br and zstd undone, piece by piece and within a limit (RFC 9110 8.4).

Invariants (tests/http1/test_content_coding.py):

* A decoder gives its output in pieces of at most `MAX_PIECE` bytes, and stops at the limit: a body that decodes to a
  gigabyte costs the limit and one piece of memory per coding.
* A body that ends before its coding does is an error, and so is what stands behind its end.
* What is announced in Accept-Encoding can be decoded here; br and zstd only with a library that can bound its output.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Protocol

from fastserve.errors import ContentCodingError, ResponseTooLarge
from fastserve.http1.fields import printable

__all__ = ["ContentDecoder", "accept_encoding", "content_decoder", "decode_body"]

MAX_PIECE = 64 * 1024
# What a coding is given at once: it may copy the rest of it at the end of each of many tiny members.
MAX_INPUT = 8 * 1024

# Nobody sends more than two; each one costs a decoder's window, and multiplies what a bomb can do.
MAX_CODINGS = 5

# RFC 9659: a decoder for HTTP needs no larger window for zstd, and an encoder may take no larger one.
ZSTD_WINDOW = 8 * 1024 * 1024
ZSTD_WINDOW_LOG = 23
# A block of zstd is at most 128 KiB and takes at least four bytes: so many bytes of input give 2 MiB at most.
ZSTD_INPUT = 64


class Coding(Protocol):
    """One coding of one body."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What `data` decodes to, in bounded pieces, each made when it is asked for. Raises `ContentCodingError`."""
        ...

    def finish(self) -> None:
        """The body has ended. Raises `ContentCodingError` when the coding has not."""
        ...


class ContentDecoder:
    """Undoes the codings of one body, the last applied first. Made by `content_decoder`."""

    __slots__ = ("_codings", "_max_size", "_size")

    def __init__(self, codings: list[Coding], max_size: int | None) -> None:
        self._codings = codings
        self._max_size = max_size or 0
        self._size = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What the next `data` of the body decodes to, in pieces made one by one.

        Take all of them before the next call. Raises `ContentCodingError`, and `ResponseTooLarge` before the
        piece that goes over the limit.
        """
        pieces: Iterator[bytes] = iter((data,))
        for coding in self._codings:
            pieces = _through(coding, pieces)
        for piece in pieces:
            self._size += len(piece)
            if self._max_size and self._size > self._max_size:
                raise ResponseTooLarge(f"the body decodes to more than {self._max_size} bytes")
            if piece:
                yield piece

    def finish(self) -> None:
        """The body has ended. Raises `ContentCodingError` when it was cut short. An empty body is complete."""
        for coding in self._codings:
            coding.finish()


def _through(coding: Coding, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if len(piece) <= MAX_INPUT:
            yield from coding.decode(piece)
        else:
            for start in range(0, len(piece), MAX_INPUT):
                yield from coding.decode(piece[start : start + MAX_INPUT])


def content_decoder(content_encodings: Iterable[str], max_size: int | None = None) -> ContentDecoder | None:
    """A decoder for a body with these Content-Encoding header values (each may be a list), None when there is nothing to undo.

    `max_size` bounds the decoded bytes; None or 0: no bound. Raises `ContentCodingError` for a coding that cannot be
    undone here, and for more than `MAX_CODINGS`.
    """
    # Bounded before it is split: a head may hold thousands of commas.
    names = [
        name for value in content_encodings for word in value.split(",", 1000) if (name := word.strip(" \t").lower())
    ]
    names = [name for name in names if name != "identity"]
    if len(names) > MAX_CODINGS:
        raise ContentCodingError(f"the body has more than {MAX_CODINGS} content codings")
    codings = []
    for name in reversed(names):
        make = _makers().get(name)
        if make is None:
            raise ContentCodingError(
                f"content coding '{printable(name, 50)}' cannot be decoded: known here are {accept_encoding()}"
            )
        codings.append(make())
    return ContentDecoder(codings, max_size) if codings else None


def decode_body(body: bytes, content_encodings: Iterable[str], max_size: int | None = None) -> bytes:
    """The whole of `body`, decoded. Raises as `content_decoder` and `ContentDecoder` do."""
    decoder = content_decoder(content_encodings, max_size)
    if decoder is None:
        return body
    decoded = b"".join(decoder.decode(body))
    decoder.finish()
    return decoded


def accept_encoding() -> str:
    """The value of Accept-Encoding that says what can be decoded here, such as ``gzip, deflate, br``."""
    return ", ".join(name for name in _makers() if name != "x-gzip")


@cache
def _makers() -> dict[str, Callable[[], Coding]]:
    """By name, what begins to undo a coding; looked up once, when the first body is decoded."""
    makers: dict[str, Callable[[], Coding]] = {"gzip": Gzip, "x-gzip": Gzip, "deflate": Deflate}  # RFC 9110 8.4.1.3
    brotli = _brotli()
    if brotli is not None:
        makers["br"] = lambda: Brotli(brotli)
    zstd = _zstd()
    if zstd is not None:
        makers["zstd"] = zstd
    return makers


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Gzip:
    """RFC 1952: one member, or several one behind the other."""

    def __init__(self) -> None:
        self._member: Any = None
        self._began = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            member = self._member
            if member is None:
                member = self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
                self._began = True
            yield from _inflate(member, data, "gzip")
            data = b""
            if member.eof:
                data = member.unused_data
                self._member = None

    def finish(self) -> None:
        if self._member is not None:
            raise _truncated("gzip")


class Deflate:
    """RFC 9110 8.4.1.2: a zlib stream (RFC 1950). Some servers send what is in it alone (RFC 1951), which is read too."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._start = b""

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            data = self._start + data
            if len(data) < 2:
                self._start = data
                return
            # RFC 1950 2.2: method 8, a window of at most 32 KiB, and a check that makes it a multiple of 31.
            zlib_header = data[0] & 0x8F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._stream = zlib.decompressobj(wbits=zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)
        stream = self._stream
        if stream.eof:
            if data:
                raise _surplus("deflate")
            return
        yield from _inflate(stream, data, "deflate")
        if stream.unused_data:
            raise _surplus("deflate")

    def finish(self) -> None:
        if self._start and self._stream is None:
            raise _truncated("deflate")
        if self._stream is not None and not self._stream.eof:
            raise _truncated("deflate")


def _inflate(stream: Any, data: bytes, name: str) -> Iterator[bytes]:
    while True:
        try:
            piece = stream.decompress(data, MAX_PIECE)
        except zlib.error as error:
            raise ContentCodingError(f"malformed {name} body: {error}") from None
        if piece:
            yield piece
        data = stream.unconsumed_tail
        if stream.eof or (not data and len(piece) < MAX_PIECE):
            return


class Brotli:
    """RFC 7932, through brotli or brotlicffi."""

    def __init__(self, library: Any) -> None:
        self._error = library.error
        self._stream = library.Decompressor()
        self._began = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        self._began = True
        try:
            if self._stream.is_finished():
                raise _surplus("br")
            piece = self._stream.process(data, output_buffer_limit=MAX_PIECE)
            while True:
                yield from _in_pieces(piece)  # it may be a block over the limit
                if self._stream.is_finished() or (not piece and self._stream.can_accept_more_data()):
                    return
                piece = self._stream.process(b"", output_buffer_limit=MAX_PIECE)
        except self._error as error:
            raise ContentCodingError(f"malformed br body: {error}") from None

    def finish(self) -> None:
        if self._began and not self._stream.is_finished():
            raise _truncated("br")


def _brotli() -> Any:
    """brotli or brotlicffi, None without one that bounds its output: releases before 1.2 give a bomb whole."""
    for name in ("brotli", "brotlicffi"):
        library = _imported(name)
        if library is not None:
            try:
                library.Decompressor().process(b"", output_buffer_limit=MAX_PIECE)
            except TypeError:
                continue
            return library
    return None


class Zstd:
    """RFC 8878: one frame, or several one behind the other. `begin` makes a bounded decompressor for one frame.

    It is given `step` bytes at a time where the library cannot bound its output but by its input.
    """

    def __init__(self, begin: Callable[[], Any], error: type[Exception], step: int | None) -> None:
        self._begin = begin
        self._error = error
        self._step = step
        self._frame: Any = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        position = 0
        step = self._step or len(data)
        try:
            while position < len(data):
                frame = self._frame
                if frame is None:
                    frame = self._frame = self._begin()
                given = data[position : position + step]
                position += len(given)
                if self._step is None:
                    yield frame.decompress(given, MAX_PIECE)
                    while not frame.eof and not frame.needs_input:
                        yield frame.decompress(b"", MAX_PIECE)
                else:
                    yield from _in_pieces(frame.decompress(given))
                if frame.eof:
                    position -= len(frame.unused_data)
                    self._frame = None
        except self._error as error:
            raise ContentCodingError(f"malformed zstd body: {error}") from None

    def finish(self) -> None:
        if self._frame is not None:
            raise _truncated("zstd")


def _in_pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), MAX_PIECE):
        yield data[start : start + MAX_PIECE]


def _zstd() -> Callable[[], Coding] | None:
    """What begins to undo zstd: the standard library's (3.14), its backport's, or zstandard's."""
    for name in ("compression.zstd", "backports.zstd"):
        standard = _imported(name)
        if standard is not None:
            return _standard_zstd(standard)
    library = _imported("zstandard")
    if library is not None:
        return lambda: Zstd(
            lambda: library.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj(),
            library.ZstdError,
            step=ZSTD_INPUT,
        )
    return None


def _standard_zstd(library: Any) -> Callable[[], Coding]:
    options = {library.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    return lambda: Zstd(lambda: library.ZstdDecompressor(options=options), library.ZstdError, step=None)


def _truncated(name: str) -> ContentCodingError:
    return ContentCodingError(f"the {name} body ends before its coding does")


def _surplus(name: str) -> ContentCodingError:
    return ContentCodingError(f"the {name} body goes on behind the end of its coding")
