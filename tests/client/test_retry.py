"""`may_retry`: every case, against its rules in words."""

from __future__ import annotations

from itertools import product

import pytest

from fastserve.client.retry import IDEMPOTENT_METHODS, may_retry

METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "PROPFIND"]


def ask(
    method: str = "GET",
    attempt: int = 1,
    max_attempts: int = 5,
    wrote: bool = True,
    got: bool = False,
    stream: bool = False,
    retry_if: bool | None = None,
) -> bool:
    return may_retry(
        method,
        attempt,
        max_attempts,
        wrote_anything=wrote,
        got_response_byte=got,
        has_stream_body=stream,
        retry_if=retry_if,
    )


@pytest.mark.parametrize("method", METHODS)
def test_stale_keep_alive_is_retried_for_idempotent_methods_only(method: str) -> None:
    """Bug row 14: aiohttp#10790, fasthttp#1315."""
    assert ask(method) is (method in IDEMPOTENT_METHODS)
    assert ask(method, max_attempts=1) is False  # turned off
    assert ask(method, wrote=False) is True  # nobody has seen it


def test_idempotent_methods_are_those_of_rfc_9110() -> None:
    assert sorted(IDEMPOTENT_METHODS) == ["DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"]


def test_attempts_are_bounded() -> None:
    assert [ask(attempt=attempt) for attempt in range(1, 7)] == [True, True, True, True, False, False]
    assert [ask(attempt=attempt, wrote=False) for attempt in range(4, 7)] == [True, False, False]


def test_a_stream_is_sent_once_unless_nothing_was() -> None:
    assert ask(stream=True) is False
    assert ask(stream=True, retry_if=True) is False
    assert ask(stream=True, wrote=False) is True


def test_the_program_s_own_verdict() -> None:
    assert ask("POST", retry_if=True) is True
    assert ask("GET", retry_if=False) is False
    assert ask("GET", retry_if=False, wrote=False) is True


@pytest.mark.parametrize(
    ("method", "wrote", "stream", "retry_if"), list(product(METHODS, [False, True], [False, True], [None, False, True]))
)
def test_never_after_a_response_byte_nor_beyond_the_attempts(
    method: str, wrote: bool, stream: bool, retry_if: bool | None
) -> None:
    assert ask(method, 1, 5, wrote, True, stream, retry_if) is False
    assert ask(method, 5, 5, wrote, False, stream, retry_if) is False
    assert ask(method, 1, 1, wrote, False, stream, retry_if) is False
