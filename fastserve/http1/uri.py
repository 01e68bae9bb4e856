"""`URI`: what a request asks for (RFC 9112 3.2 and 3.3, RFC 3986)."""

from __future__ import annotations

import re

from fastserve.http1.args import Args
from fastserve.http1.percent import percent_decode

__all__ = ["URI", "percent_decode"]

_absolute_prefix = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*").match


class URI:
    """The target of a request, taken apart when asked and not before.

    Args:
        target: the request-target as it stood on the wire: origin-form, absolute-form, ``*`` or, for
            CONNECT, authority-form (RFC 9112 3.2), which has no path.
        host: the authority that counts (``Host``, or what an absolute-form target named).
        scheme: ``http`` or ``https``.
    """

    __slots__ = ("_args", "_host", "_path", "_query", "_raw_path", "_scheme", "_target")

    def __init__(self, target: bytes, host: str, scheme: str) -> None:
        self._target = target
        self._host = host
        self._scheme = scheme
        self._raw_path: bytes | None = None
        self._query = b""
        self._path: str | None = None
        self._args: Args | None = None

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, as given."""
        return self._scheme

    @property
    def host(self) -> str:
        """Host and port as given, undecoded; may be empty (RFC 9112 3.2)."""
        return self._host

    @property
    def path(self) -> str:
        """The path, percent-decoded once as UTF-8; bytes that are not UTF-8 become U+FFFD, ``+`` stays.

        It is what the client asked for: ``//`` and ``..`` are not collapsed, because routers, signatures and
        proxied applications need the request and not our reading of it, and two readings of one path
        are how an access check in front gets bypassed. It may hold NUL, or a ``/`` that was ``%2F``.
        Whoever looks up files uses `normalized_path`.
        """
        path = self._path
        if path is None:
            path = self._path = percent_decode(self._split())
        return path

    @property
    def raw_path(self) -> str:
        """The path as it stood on the wire: undecoded, Latin-1."""
        return self._split().decode("latin-1")

    def normalized_path(self) -> str:
        """`path` with runs of ``/`` made one and dot segments removed (RFC 3986 5.2.4); ``*`` stays.

        Begins with ``/`` and never climbs above it. Works on the decoded path, so ``%2e%2e`` and ``%2F`` are
        seen for what a file system would make of them. A backslash is a character like any other.
        """
        path = self.path
        if path == "*":
            return path
        kept: list[str] = []
        segments = path.split("/")
        for segment in segments:
            if segment == "..":
                if kept:
                    kept.pop()
            elif segment and segment != ".":
                kept.append(segment)
        # "/a/", "/a/." and "/a/b/.." name a directory and keep its slash.
        closing = "/" if kept and segments[-1] in ("", ".", "..") else ""
        return "/" + "/".join(kept) + closing

    @property
    def query_string(self) -> str:
        """What follows the first ``?``, as it stood on the wire: undecoded, Latin-1, empty when there is none."""
        self._split()
        return self._query.decode("latin-1")

    @property
    def query_args(self) -> Args:
        """The arguments of the query. Raises `RequestError` (400) when there are more than `Args.parse` takes."""
        args = self._args
        if args is None:
            self._split()
            args = self._args = Args.parse(self._query)
        return args

    def __str__(self) -> str:
        """The whole target URI, as RFC 9112 3.3 puts it together; undecoded."""
        path = self._split()
        query = b"?" + self._query if self._query else b""
        rest = b"" if path == b"*" else path + query
        return f"{self._scheme}://{self._host}{rest.decode('latin-1')}"

    def __repr__(self) -> str:
        return f"URI({self._target!r}, {self._host!r}, {self._scheme!r})"

    def _split(self) -> bytes:
        """The raw path; sets `_query` on the way."""
        path = self._raw_path
        if path is None:
            target = self._target
            # A target that begins with "/" is origin-form whatever follows: "//host/x" is a path (RFC 9112 3.2.1).
            if target[:1] == b"/":
                path, _, self._query = target.partition(b"?")
            elif prefix := _absolute_prefix(target):
                path, _, self._query = target[prefix.end() :].partition(b"?")
                path = path or b"/"
            else:
                path = b"*" if target == b"*" else b""
            self._raw_path = path
        return path
