"""Status codes: reason phrases, and which responses have no body (RFC 9110 15, IANA registry)."""

from __future__ import annotations

from http import HTTPStatus

__all__ = ["has_no_body", "reason_phrase"]

_reasons = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}
# Renamed by RFC 9110; the standard library kept the old phrases until 3.13.
_reasons.update({413: b"Content Too Large", 414: b"URI Too Long", 416: b"Range Not Satisfiable"})
_reasons.update({422: b"Unprocessable Content"})


def reason_phrase(status: int) -> bytes:
    """The registered phrase, or nothing: the phrase may be empty (RFC 9112 4)."""
    return _reasons.get(status, b"")


def has_no_body(status: int) -> bool:
    """True for 1xx, 204 and 304, whose responses end with their head (RFC 9112 6.3 rule 1)."""
    return status < 200 or status == 204 or status == 304
