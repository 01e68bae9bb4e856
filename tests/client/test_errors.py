"""The client's errors: one class per ending, each with its phase and time, each what Python calls it too."""

from __future__ import annotations

import pickle

import pytest

from fastserve import errors
from fastserve.errors import ClientError, FastserveError, StatusError

# Class, phase, is a ConnectionError, is a TimeoutError.
ENDINGS = [
    (errors.InvalidRequest, "request", False, False),
    (errors.ClientClosed, "wait", False, False),
    (errors.DialError, "dial", True, False),
    (errors.DialTimeout, "dial", True, True),
    (errors.ResolveError, "look-up", True, False),
    (errors.TLSError, "TLS", True, False),
    (errors.TLSTimeout, "TLS", True, True),
    (errors.WriteError, "write", True, False),
    (errors.WriteTimeout, "write", True, True),
    (errors.ClosedBeforeResponse, "head", True, False),
    (errors.ClosedInResponse, "body", True, False),
    (errors.ResponseHeadTimeout, "head", False, True),
    (errors.ResponseBodyTimeout, "body", False, True),
    (errors.ResponseTooLarge, "body", False, False),
    (errors.MalformedResponse, "head", False, False),
    (errors.ContentCodingError, "body", False, False),
    (errors.RedirectError, "redirect", False, False),
    (errors.TooManyRedirects, "redirect", False, False),
    (errors.StatusError, "done", False, False),
]


@pytest.mark.parametrize(("kind", "phase", "connection", "timeout"), ENDINGS)
def test_each_ending(kind: type[ClientError], phase: str, connection: bool, timeout: bool) -> None:
    error = kind("what happened")
    assert isinstance(error, FastserveError)
    assert (error.phase, error.elapsed, error.message) == (phase, 0.0, "what happened")
    assert isinstance(error, ConnectionError) is connection
    assert isinstance(error, TimeoutError) is timeout
    assert str(error) == f"what happened (phase: {phase})"
    error.elapsed = 1.25
    assert str(error) == f"what happened (phase: {phase}, after 1.250 s)"
    copy = pickle.loads(pickle.dumps(error))  # tests and process pools send errors about
    assert (type(copy), str(copy)) == (kind, str(error))
    assert kind.__name__ in errors.__all__
    assert kind.__doc__


def test_phase_and_time_may_be_told() -> None:
    error = ClientError("x", phase="tls", elapsed=2.0)
    assert str(error) == "x (phase: tls, after 2.000 s)"
    assert (errors.MalformedResponse("x").phase, errors.MalformedResponse("x", phase="body").phase) == ("head", "body")


def test_a_status_error_has_the_response() -> None:
    response = object()
    error = StatusError("404 Not Found", status_code=404, response=response, elapsed=1.0)
    assert (error.status_code, error.response, error.elapsed) == (404, response, 1.0)


def test_every_ending_is_here() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ClientError)}
    assert {kind for kind, *_ in ENDINGS} | {ClientError} <= kinds
