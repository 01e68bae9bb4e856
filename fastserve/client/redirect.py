"""Redirects: where a response sends its request, and what goes with it (RFC 9110 15.4, RFC 3986 5). Pure."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from fastserve.client.request import ClientRequest, Origin, split_url
from fastserve.client.response import REDIRECT_STATUSES, ClientResponse
from fastserve.errors import InvalidRequest, RedirectError, TooManyRedirects
from fastserve.http1.fields import printable
from fastserve.http1.headers import Headers

__all__ = ["next_request"]

# A server may send any header: joining and scanning it should cost little. Browsers stop at 2 MB, servers at 8 KiB.
MAX_LOCATION = 16 * 1024

_controls = re.compile(r"[\x00-\x1f\x7f]").search
_whole_url = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://").match

# RFC 9110 15.4: fields of the client's own state for one origin.
ORIGIN_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie", "host", "origin", "referer"})


def next_request(
    request: ClientRequest,
    response: ClientResponse,
    origin: Origin,
    *,
    followed: int = 0,
    max_redirects: int | None = None,
) -> ClientRequest | None:
    """The request that `response` to `request` sends to, None when it is no redirect. `request` stays as it is.

    `origin` is where the request went; the new one's `origin` is always set. `followed` is how many redirects led to this
    response, `max_redirects` how many may (None: no bound here).

    303 turns every method but GET and HEAD into GET, 301 and 302 turn POST into GET (RFC 9110 15.4.2 to 15.4.4), without
    body and Content-* headers. Everything else keeps method and body. Credentials, cookies, Host, Origin and Referer do
    not follow to another origin.

    Raises `RedirectError`: a Location that is malformed, given twice, or not http; a body to send again that was a
    stream and is spent. `TooManyRedirects`: more than `max_redirects`.
    """
    status = response.status_code
    if status not in REDIRECT_STATUSES:
        return None
    locations = response.headers.get_all("location")
    if not locations:
        return None  # RFC 9110 15.4: it is for the user to choose
    if max_redirects is not None and followed >= max_redirects:
        raise TooManyRedirects(f"more than {max_redirects} redirects")
    if len(locations) != 1:
        raise RedirectError(f"a {status} response with {len(locations)} Locations")
    target_origin, target = _resolve(request, origin, locations[0])
    to_get = (status == 303 and request.method not in ("GET", "HEAD")) or (
        status in (301, 302) and request.method == "POST"
    )
    keeps_body = not to_get and status != 303
    if keeps_body and request.stream is not None:
        raise RedirectError(f"a {status} response to a request whose body was a stream, which is spent")
    following = ClientRequest("GET" if to_get else request.method, f"{target_origin}{target}")
    if keeps_body:
        following.content = request.content
    following.headers = _fields(request.headers, target_origin == origin, keeps_body)
    return following


def _resolve(request: ClientRequest, origin: Origin, location: str) -> tuple[Origin, str]:
    """Origin and target that `location` names, seen from `request` (RFC 3986 5.2)."""
    if len(location) > MAX_LOCATION:
        raise RedirectError(f"a Location of more than {MAX_LOCATION} characters")
    # Headers are Latin-1 on the surface; servers send other letters as UTF-8.
    try:
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        pass
    if _controls(location):  # urljoin drops some of them, and so sees another URL than whoever checked it
        raise RedirectError(f"a Location with control characters: '{printable(location)}'")
    if location.startswith("///"):  # a path to one reader, another host to the next
        raise RedirectError(f"Location '{printable(location)}' has an empty host")
    base = f"{origin}{'/' if request.target == '*' else request.target}"
    try:
        # A whole URL is not joined: urljoin takes one with an empty host for a path.
        url = location if _whole_url(location) else urljoin(base, location.partition("#")[0])
        target_origin, target = split_url(url)
    except (InvalidRequest, ValueError) as error:
        text = error.message if isinstance(error, InvalidRequest) else str(error)
        raise RedirectError(f"Location '{printable(location)}' cannot be followed: {text}") from None
    if target_origin is None:
        raise RedirectError(f"Location '{printable(location)}' does not lead to a URL")
    return target_origin, target


def _fields(headers: Headers, same_origin: bool, keeps_body: bool) -> Headers:
    kept = []
    for name, value in headers.raw:
        lower = name.decode("latin-1").lower()
        if not same_origin and lower in ORIGIN_FIELDS:
            continue
        if not keeps_body and (lower.startswith("content-") or lower in ("transfer-encoding", "expect", "trailer")):
            continue
        kept.append((name, value))
    return Headers(kept)
