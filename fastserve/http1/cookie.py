"""Cookies both ways: read leniently as browsers write them, written strictly (RFC 6265, RFC 6265bis)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from fastserve.errors import ResponseError
from fastserve.http1.date import imf_fixdate
from fastserve.http1.fields import is_field_name, printable

__all__ = ["Cookie", "parse_cookies"]

_octets = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_value = re.compile(f'(?:{_octets}|"{_octets}")\\Z').match
# Browsers trim what surrounds an attribute value, so a path that ends with a space would come back as another path.
_path = re.compile(r"/(?:[\x20-\x3a\x3c-\x7e]*[\x21-\x3a\x3c-\x7e])?\Z").match
_label = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_domain = re.compile(rf"{_label}(?:\.{_label})*\Z").match
_white_space = " \t"
_epoch = datetime(1970, 1, 1, tzinfo=UTC)


def parse_cookies(header_values: Iterable[str]) -> dict[str, str]:
    """The cookies in the values of ``Cookie`` header fields, by name (RFC 6265 5.4).

    Never fails. The first cookie of a name wins: browsers send the one with the longest path first.
    Double quotes around a value are taken off, nothing else is decoded. What has no name or no ``=`` is
    skipped: a browser sends a nameless cookie as its bare value, which may look like any other cookie.
    """
    cookies: dict[str, str] = {}
    for header_value in header_values:
        for piece in header_value.split(";"):
            name, equals, value = piece.partition("=")
            name = name.strip(_white_space)
            if not equals or not name or name in cookies:
                continue
            value = value.strip(_white_space)
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies[name] = value
    return cookies


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie to be set. Raises `ResponseError` when a browser would refuse, drop or misread it.

    Attributes:
        name: a token. ``__Secure-`` needs `secure`; ``__Host-`` needs `secure`, path ``/`` and no domain
            (RFC 6265bis 4.1.3), whatever the case of the prefix.
        value: visible ASCII without ``" , ; \\``, or such text in double quotes (RFC 6265 4.1.1). It is
            refused otherwise, not quoted: encode what needs it, percent-encoding or base64url, where you set it.
        path: begins with ``/``; default ``/``. None leaves it to the browser: the directory of the request.
        domain: a host name without leading dot; the cookie goes to it and to every host below. Default None:
            to the host that set it and to no other.
        max_age: seconds to live; 0 deletes; default None: until the browser closes.
        expires: aware datetime, from 1601 on, sent in GMT, whole seconds. `max_age` goes before it.
        secure: only over https. Default False.
        http_only: out of reach of scripts. Default False.
        same_site: ``"lax"``, ``"strict"``, ``"none"`` (needs `secure`), or None, the default: the browser decides.
        partitioned: a separate cookie jar under each top-level site (CHIPS; needs `secure`). Default False.
    """

    name: str
    value: str = ""
    path: str | None = "/"
    domain: str | None = None
    max_age: int | None = None
    expires: datetime | None = None
    secure: bool = False
    http_only: bool = False
    same_site: Literal["lax", "strict", "none"] | None = None
    partitioned: bool = False

    def __post_init__(self) -> None:
        if not is_field_name(self.name):
            raise ResponseError(f"cookie name '{printable(self.name)}' is not a token (RFC 6265 4.1.1)")
        if not _value(self.value):
            # The value itself is not shown: cookies are credentials, and errors end up in logs.
            raise self._refused('the value must be visible ASCII without " , ; and \\ (RFC 6265 4.1.1); encode it')
        if len(self.name) + len(self.value) > 4096:
            raise self._refused("name and value are over 4096 bytes, which browsers drop (RFC 6265bis 5.6)")
        if self.path is not None and not (_path(self.path) and len(self.path) <= 1024):
            raise self._refused(
                f"path '{printable(self.path)}' must begin with '/' and be ASCII without ';' or controls, "
                "not end with a space, and take at most 1024 bytes"
            )
        if self.domain is not None and not (_domain(self.domain) and len(self.domain) <= 253):
            raise self._refused(f"domain '{printable(self.domain)}' is not a host name (without leading dot or port)")
        if self.max_age is not None and not (isinstance(self.max_age, int) and self.max_age >= 0):
            raise self._refused(f"max_age is {self.max_age!r}; it must be 0 (delete) or more whole seconds")
        if self.expires is not None:
            self._expires_in_gmt(self.expires)
        if self.same_site not in (None, "lax", "strict", "none"):
            raise self._refused(f"same_site {self.same_site!r} must be 'lax', 'strict', 'none' or None")
        self._check_secure()

    def render(self) -> str:
        """The value of a ``Set-Cookie`` header field (RFC 6265 4.1.1)."""
        parts = [f"{self.name}={self.value}"]
        if self.path is not None:
            parts.append(f"Path={self.path}")
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.max_age is not None:
            parts.append(f"Max-Age={self.max_age:d}")
        if self.expires is not None:
            parts.append(f"Expires={self._expires_in_gmt(self.expires)}")
        if self.secure:
            parts.append("Secure")
        if self.http_only:
            parts.append("HttpOnly")
        if self.same_site is not None:
            parts.append(f"SameSite={self.same_site.capitalize()}")
        if self.partitioned:
            parts.append("Partitioned")
        return "; ".join(parts)

    @classmethod
    def expired(cls, name: str, path: str | None = "/", domain: str | None = None) -> Cookie:
        """A cookie that makes the browser delete the one with this name, path and domain: all three must match.

        It is `secure` when the name's prefix asks for that. Raises `ResponseError` as the class does.
        """
        prefixed = name.lower().startswith(("__secure-", "__host-"))
        return cls(name, path=path, domain=domain, max_age=0, expires=_epoch, secure=prefixed)

    def _check_secure(self) -> None:
        name = self.name.lower()
        if not self.secure:
            if self.same_site == "none":
                raise self._refused("same_site 'none' needs secure")
            if self.partitioned:
                raise self._refused("partitioned needs secure")
            if name.startswith(("__secure-", "__host-")):
                raise self._refused("the prefix of the name needs secure (RFC 6265bis 4.1.3)")
        if name.startswith("__host-") and (self.path != "/" or self.domain is not None):
            raise self._refused("the prefix __Host- needs path '/' and no domain (RFC 6265bis 4.1.3)")

    def _expires_in_gmt(self, expires: datetime) -> str:
        """As an IMF-fixdate (RFC 9110 5.6.7)."""
        if expires.utcoffset() is None:
            raise self._refused("expires has no time zone; use datetime.now(timezone.utc)")
        try:
            in_gmt = expires.astimezone(UTC)
        except OverflowError:
            raise self._refused(f"expires {expires} is not a year from 1601 to 9999 in GMT") from None
        if in_gmt.year < 1601:
            raise self._refused(f"expires {expires} is before 1601, which browsers ignore (RFC 6265 5.1.1)")
        return imf_fixdate(in_gmt.timetuple())

    def _refused(self, why: str) -> ResponseError:
        return ResponseError(f"cookie {self.name}: {why}")
