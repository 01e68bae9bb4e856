"""Content codings undone: whole, byte by byte, several on one body; bombs, truncation, surplus; libraries that come and go."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.errors import ContentCodingError, ResponseTooLarge
from fastserve.http1 import content_coding
from fastserve.http1.content_coding import MAX_CODINGS, MAX_PIECE, accept_encoding, content_decoder, decode_body

TEXT = b"".join(b"line %d of a text that repeats itself\n" % i for i in range(20_000))


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


class FakeBrotli:
    """brotli 1.2's interface over zlib streams: our side of it is tested where the library is not installed."""

    class error(Exception):  # noqa: N801
        pass

    class Decompressor:
        def __init__(self) -> None:
            self._stream = zlib.decompressobj()

        def process(self, data: bytes, output_buffer_limit: int) -> bytes:
            try:
                piece = self._stream.decompress(self._stream.unconsumed_tail + data, output_buffer_limit)
            except zlib.error as error:
                raise FakeBrotli.error(str(error)) from None
            if self._stream.unused_data:
                raise FakeBrotli.error("surplus")
            return piece

        def is_finished(self) -> bool:
            return self._stream.eof

        def can_accept_more_data(self) -> bool:
            return not self._stream.unconsumed_tail


class FakeStandardZstd:
    """compression.zstd's interface over zlib streams."""

    class ZstdError(Exception):
        pass

    class DecompressionParameter:
        window_log_max = 100

    class ZstdDecompressor:
        def __init__(self, options: dict[Any, int]) -> None:
            assert options == {100: 23}
            self._stream = zlib.decompressobj()

        def decompress(self, data: bytes, max_length: int) -> bytes:
            try:
                return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
            except zlib.error as error:
                raise FakeStandardZstd.ZstdError(str(error)) from None

        @property
        def eof(self) -> bool:
            return self._stream.eof

        @property
        def needs_input(self) -> bool:
            return not self._stream.unconsumed_tail

        @property
        def unused_data(self) -> bytes:
            return self._stream.unused_data


class FakeZstandard:
    """zstandard's interface over zlib streams."""

    ZstdError = zlib.error

    class ZstdDecompressor:
        def __init__(self, max_window_size: int) -> None:
            assert max_window_size == 8 * 1024 * 1024

        def decompressobj(self) -> Any:
            return zlib.decompressobj()


LIBRARIES = ("brotli", "brotlicffi", "compression.zstd", "backports.zstd", "zstandard")
FAKES: dict[str, tuple[str, Any]] = {
    "br by brotli": ("brotli", FakeBrotli),
    "br by brotlicffi": ("brotlicffi", FakeBrotli),
    "zstd by compression": ("compression.zstd", FakeStandardZstd),
    "zstd by backports": ("backports.zstd", FakeStandardZstd),
    "zstd by zstandard": ("zstandard", FakeZstandard),
}
ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    **{name: (name.split()[0], zlib.compress) for name in FAKES},
}
if importlib.util.find_spec("brotli"):
    ENCODERS["real br"] = ("br", lambda data: importlib.import_module("brotli").compress(data, quality=4))
if importlib.util.find_spec("zstandard"):
    ENCODERS["real zstd"] = ("zstd", lambda data: importlib.import_module("zstandard").compress(data))


def libraries(monkeypatch: pytest.MonkeyPatch, present: dict[str, Any], *, real: bool = False) -> None:
    """Let only the libraries of `present` be installed."""
    for name in LIBRARIES:
        if name in present or not real:
            module: Any = present.get(name)
            monkeypatch.setitem(sys.modules, name, module)
            if "." in name and module is not None:
                package = ModuleType(name.partition(".")[0])
                package.__path__ = []
                monkeypatch.setitem(sys.modules, package.__name__, package)
    content_coding._makers.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_makers() -> Iterator[None]:
    yield
    content_coding._makers.cache_clear()


@pytest.fixture(params=list(ENCODERS))
def coding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Callable[[bytes], bytes]]:
    """Name and encoder of one coding, with the library that it needs."""
    fake = FAKES.get(request.param)
    libraries(monkeypatch, {fake[0]: fake[1]} if fake else {}, real=request.param.startswith("real"))
    return ENCODERS[request.param]


def piecewise(name: str, data: bytes, size: int, max_size: int | None = None) -> bytes:
    decoder = content_decoder([name], max_size)
    assert decoder is not None
    pieces = [piece for i in range(0, len(data), size) for piece in decoder.decode(data[i : i + size])]
    decoder.finish()
    assert all(0 < len(piece) <= MAX_PIECE for piece in pieces)
    return b"".join(pieces)


def test_a_body_is_decoded_in_any_pieces(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, encode = coding
    for data in (b"", b"x", b"hello", TEXT, bytes(3 * MAX_PIECE), bytes(2 * MAX_PIECE)):
        encoded = encode(data)
        assert decode_body(encoded, [name]) == data
        for size in (1, 7, 1000):
            assert piecewise(name, encoded, size) == data


def test_the_limit_to_the_byte(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, encode = coding
    encoded = encode(TEXT)
    assert decode_body(encoded, [name], len(TEXT)) == TEXT
    assert decode_body(encoded, [name], 0) == TEXT
    with pytest.raises(ResponseTooLarge):
        decode_body(encoded, [name], len(TEXT) - 1)
    with pytest.raises(ResponseTooLarge):
        piecewise(name, encoded, 1, 10)


def test_a_bomb_costs_the_limit_and_a_piece(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, encode = coding
    bomb = encode(bytes(64 * 1024 * 1024))
    decode_body(encode(b"warm"), [name])
    limit = 1024 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(ResponseTooLarge):
            decode_body(bomb, [name], limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit + 16 * 1024 * 1024  # a decoder's window is at most 8 MiB; the bomb is 64


def test_a_body_that_ends_too_early_is_an_error(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, encode = coding
    encoded = encode(b"hello, world " * 20)
    for length in range(1, len(encoded)):
        with pytest.raises(ContentCodingError):
            decode_body(encoded[:length], [name])


def test_an_empty_body_is_complete(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    # Servers send Content-Encoding with a 304, to HEAD, and with Content-Length: 0.
    assert decode_body(b"", [coding[0]]) == b""


def test_junk_behind_the_end_is_an_error(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, encode = coding
    encoded = encode(b"hello")
    for size in (1, len(encoded), 1000):
        with pytest.raises(ContentCodingError):
            piecewise(name, encoded + b"junk behind it", size)


def test_junk_is_an_error(coding: tuple[str, Callable[[bytes], bytes]]) -> None:
    for junk in (b"\xff" * 100, b"<html>hello, this is text</html>"):
        with pytest.raises(ContentCodingError):
            decode_body(junk, [coding[0]])


@pytest.mark.parametrize("name", ["gzip", "zstd by compression", "zstd by zstandard"])
def test_several_members_are_one_body(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FAKES.get(name)
    libraries(monkeypatch, {fake[0]: fake[1]} if fake else {})
    word, encode = ENCODERS[name]
    encoded = encode(b"hello, ") + encode(b"") + encode(TEXT)
    assert decode_body(encoded, [word]) == b"hello, " + TEXT
    assert piecewise(word, encoded, 1) == b"hello, " + TEXT


def test_many_tiny_members_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # The rest of the input is copied at the end of each: it must not be the rest of the body.
    given: list[int] = []

    class Counting(content_coding.Gzip):
        def decode(self, data: bytes) -> Iterator[bytes]:
            given.append(len(data))
            return super().decode(data)

    monkeypatch.setattr(content_coding, "Gzip", Counting)
    content_coding._makers.cache_clear()
    member = gzip.compress(b"")
    assert decode_body(member * 20_000, ["gzip"]) == b""
    assert max(given) <= content_coding.MAX_INPUT


def test_several_codings_are_undone_in_reverse() -> None:
    body = gzip.compress(zlib.compress(gzip.compress(TEXT)))
    assert decode_body(body, ["gzip, deflate", " ,GZIP\t"]) == TEXT
    assert decode_body(body, ["gzip", "identity", "deflate", "", "gzip"]) == TEXT
    with pytest.raises(ContentCodingError):
        decode_body(body, ["gzip, gzip, deflate"])


def test_a_bomb_in_a_bomb() -> None:
    body = gzip.compress(gzip.compress(bytes(100 * 1024 * 1024)))
    assert len(body) < 1000
    with pytest.raises(ResponseTooLarge):
        decode_body(body, ["gzip, gzip"], 1000)


def test_more_codings_than_anybody_sends_are_refused() -> None:
    body = TEXT
    for _ in range(MAX_CODINGS):
        body = gzip.compress(body)
    assert decode_body(body, ["gzip"] * MAX_CODINGS) == TEXT
    for value in (["gzip"] * (MAX_CODINGS + 1), [", gzip" * 5000], ["," * 100_000 + "x"]):
        with pytest.raises(ContentCodingError):
            content_decoder(value)


@pytest.mark.parametrize("value", [[], [""], ["identity"], ["identity, ,"]])
def test_nothing_to_undo(value: list[str]) -> None:
    assert content_decoder(value) is None
    assert decode_body(b"as it is", value) == b"as it is"


def test_an_unknown_coding_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, {})
    with pytest.raises(ContentCodingError, match=r"'compress\\x00'.*gzip, deflate"):
        content_decoder(["compress\x00"])
    with pytest.raises(ContentCodingError, match="br"):
        content_decoder(["br"])


def test_accept_encoding_names_what_can_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch, {})
    assert accept_encoding() == "gzip, deflate"
    libraries(monkeypatch, {"brotli": FakeBrotli, "zstandard": FakeZstandard})
    assert accept_encoding() == "gzip, deflate, br, zstd"


def test_a_brotli_that_cannot_bound_its_output_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                return data

    libraries(monkeypatch, {"brotli": Old})
    assert accept_encoding() == "gzip, deflate"
    libraries(monkeypatch, {"brotli": Old, "brotlicffi": FakeBrotli})
    assert accept_encoding() == "gzip, deflate, br"


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_the_same_in_any_pieces(data: bytes, name: str, size: int) -> None:
    def outcome(step: int) -> bytes | None:
        try:
            return piecewise(name, data, step) if data else b""
        except ContentCodingError:
            return None

    assert outcome(max(len(data), 1)) == outcome(size) == outcome(1)
