"""How an exchange ends before its response is whole: the error for each phase, the same on a loop and in a thread."""

from __future__ import annotations

import enum

from fastserve.errors import (
    ClientError,
    ClosedBeforeResponse,
    ClosedInResponse,
    ResponseBodyTimeout,
    ResponseHeadTimeout,
    WriteError,
    WriteTimeout,
)
from fastserve.http1.response_head import ResponseHead

__all__ = ["Phase", "broken", "ends_request", "timed_out"]


class Phase(enum.Enum):
    """What the holder of a connection waits for."""

    WRITE = "write"
    HEAD = "head"
    BODY = "body"


def ends_request(head: ResponseHead) -> bool:
    """True when a response that begins before its request was written says that the rest is not wanted: an error does.

    Any other may be one that is made while the request is read, and need all of it, whatever it says of the connection.
    """
    return head.status >= 400


def timed_out(phase: Phase, *, own_time: bool) -> ClientError:
    """A wait in `phase` had no more time; `own_time` when that was the request's own."""

    def within(option: str) -> str:
        return "the request's own time (timeout, deadline)" if own_time else option

    if phase is Phase.WRITE:
        return WriteTimeout(f"the upstream did not take the request within {within('write_timeout')}")
    if phase is Phase.HEAD:
        return ResponseHeadTimeout(f"the response's head did not come within {within('read_timeout')}")
    return ResponseBodyTimeout(f"the response's body did not go on within {within('body_timeout')}")


def broken(phase: Phase, why: object, *, started: bool) -> ClientError:
    """The connection broke in `phase`; `started` when a byte of the response had come by then."""
    if started:
        return ClosedInResponse(f"the connection broke in the middle of the response: {why}")
    if phase is Phase.WRITE:
        return WriteError(f"the connection broke while the request was written: {why}")
    return ClosedBeforeResponse(f"the connection broke before the first byte of the response: {why}")
