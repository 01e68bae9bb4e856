"""`Address` and `parse_addresses`: where an upstream is, as people write it. No I/O."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fastserve.errors import ConfigError

__all__ = ["Address", "parse_addresses"]

HTTP_PORT = 80
HTTPS_PORT = 443
MAX_HOST_LENGTH = 253
"""Characters of a host name: RFC 1035 3.1 has 255 bytes with the lengths of its labels."""

_is_host = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?", re.ASCII).fullmatch
_is_port = re.compile(r"[0-9]{1,5}", re.ASCII).fullmatch
_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://").match


@dataclass(frozen=True, slots=True)
class Address:
    """One place to dial.

    Attributes:
        host: a name in lower case, or a numeric address without brackets; empty for a unix socket.
        port: 1 to 65535; 0 for a unix socket.
        uds: the path of a unix socket, or None.
        is_tls: whether TLS is spoken there.
    """

    host: str
    port: int
    uds: str | None = None
    is_tls: bool = False

    def __str__(self) -> str:
        if self.uds is not None:
            return f"unix:{self.uds}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_addresses(text: str, *, is_tls: bool | None = None) -> list[Address]:
    """``"a:80, [::1]:8080, unix:/run/x.sock, https://host:444"`` as addresses, in the order given.

    `is_tls` is for those that name no scheme, by default False, and may not contradict those that do. Without a
    port it is 80, and 443 with TLS. An address that is given twice is dialled twice as often.
    Raises `ConfigError`.
    """
    if not isinstance(text, str):
        raise ConfigError(f"addr={text!r}: takes a str, such as 'host:port'")
    return [_parse(part.strip(), text, is_tls) for part in text.split(",")]


def _parse(text: str, whole: str, is_tls: bool | None) -> Address:
    if not text:
        raise ConfigError(
            f"addr {whole!r} has an empty address: write host, host:port, [IPv6]:port or unix:/path, comma between them"
        )
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path[2:]  # as a URL: unix:///run/x.sock
        if not path or "\0" in path:
            raise ConfigError(f"addr {text!r} names no socket: write unix:/path/to/it.sock")
        return Address("", 0, path, bool(is_tls))
    rest = text
    tls = bool(is_tls)
    if scheme := _scheme(text):
        name = scheme[1].lower()
        if name not in ("http", "https"):
            raise ConfigError(f"addr {text!r} begins with {name}://: takes http://, https:// or unix:")
        tls = name == "https"
        if is_tls is not None and tls != is_tls:
            raise ConfigError(f"addr {text!r} says {name}:// and is_tls is {is_tls}: leave is_tls out, or the scheme")
        rest = text[scheme.end() :].removesuffix("/")
    for found, what in (("/", "a path"), ("?", "a query"), ("#", "a fragment"), ("@", "a user")):
        if found in rest:
            raise ConfigError(f"addr {text!r} has {what}: an address is a host and a port; the rest is the request's")
    host, port = _split(rest, text)
    return Address(_host(host, text), _port(port, text, tls), None, tls)


def _split(rest: str, text: str) -> tuple[str, str | None]:
    """Host, in brackets if it was, and the port if there is one."""
    if rest.startswith("["):
        host, bracket, port = rest.partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigError(f"addr {text!r} is not [IPv6] or [IPv6]:port")
        return host + bracket, port[1:] if port else None
    if rest.count(":") > 1:
        # "::1:80" could be either.
        raise ConfigError(f"addr {text!r} is ambiguous: an IPv6 address stands in brackets, as in [::1]:80")
    host, colon, port = rest.partition(":")
    return host, port if colon else None


def _host(host: str, text: str) -> str:
    if host.startswith("["):
        try:
            # With its zone, as in fe80::1%eth0 (RFC 4007 11).
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise ConfigError(f"addr {text!r} is no IPv6 address: {error}") from None
    if not host:
        raise ConfigError(f"addr {text!r} has no host")
    try:
        # Refuses labels that are empty or over 63 bytes; other scripts become ASCII (RFC 5891), as TLS needs it.
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise ConfigError(f"addr {text!r} has a host that is no name: {error}") from None
    if len(name) > MAX_HOST_LENGTH or not _is_host(name):
        raise ConfigError(f"addr {text!r} has a host that is no name: letters, digits, '-', '_' and '.' are")
    return name


def _port(port: str | None, text: str, tls: bool) -> int:
    if port is None:
        return HTTPS_PORT if tls else HTTP_PORT
    if not _is_port(port) or not 1 <= int(port) <= 65535:
        raise ConfigError(f"addr {text!r} has port {port!r}: takes 1 to 65535")
    return int(port)
