"""Certificates for tests, made by an authority of their own; good, expired, for another host, self-signed."""

from __future__ import annotations

import datetime
import functools
import ssl

import trustme

__all__ = ["authority", "client_context", "issue", "server_context"]


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def issue(*names: str, is_expired: bool = False, by: trustme.CA | None = None) -> trustme.LeafCert:
    """A certificate for `names`, by default ``localhost``, 127.0.0.1 and ::1."""
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = names or ("localhost", "127.0.0.1", "::1")
    return (by or authority()).issue_cert(*names, not_after=yesterday if is_expired else None)


def server_context(*names: str, is_expired: bool = False, by: trustme.CA | None = None) -> ssl.SSLContext:
    """A server's context with a certificate as of `issue`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    issue(*names, is_expired=is_expired, by=by).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """Trusts `authority`, and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    authority().configure_trust(context)
    return context
