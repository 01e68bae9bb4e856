"""TLS as a client: the context that dials use by default, the name that is checked, and errors in words."""

from __future__ import annotations

import functools
import ssl

from fastserve.client.addresses import Address
from fastserve.errors import ConfigError

__all__ = ["check_name", "default_tls_config", "explain", "tls_for"]

# X.509 verification results of OpenSSL (x509_vfy.h), with what to do about each.
_advice = {
    9: "it is not valid yet; check the clocks",
    10: "it has expired",
    18: "it is self-signed; to trust it, give a tls_config that has it loaded (load_verify_locations)",
    19: "its chain ends in an unknown self-signed authority; give a tls_config that has that one loaded",
    20: "its issuer is unknown here; give a tls_config that has the authority's certificate loaded",
    21: "its issuer is unknown here; the peer may send an incomplete chain",
    62: "it is for another host; dial the name in it, or give server_hostname",
    64: "it is for another address; dial the name in it, or give server_hostname",
}


@functools.cache
def default_tls_config() -> ssl.SSLContext:
    """Verifies against the system's authorities, TLS 1.2 at least, ALPN ``http/1.1``. One for all: reading them is slow."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996 retired those before
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_for(
    address: Address, tls_config: ssl.SSLContext | None, server_hostname: str | None
) -> tuple[ssl.SSLContext | None, str | None]:
    """The context and the name to check for a dial of `address`; None twice without TLS. Raises `ConfigError`."""
    if not address.is_tls:
        return None, None
    return tls_config or default_tls_config(), check_name(address, server_hostname)


def check_name(address: Address, server_hostname: str | None) -> str:
    """The name that is sent as SNI and that the certificate must be for."""
    if server_hostname is not None:
        try:
            valid = bool(server_hostname.encode("idna")) and not server_hostname.startswith(".")
        except UnicodeError:
            valid = False
        if not valid:  # asyncio would only log what ssl says about it, in mid-handshake
            raise ConfigError(f"server_hostname {server_hostname!r} is no host name")
        return server_hostname
    if address.uds is not None:
        raise ConfigError(f"{address} has no host name for its certificate to match: give server_hostname")
    # RFC 6066 3: without the trailing dot; and a zone says something here only.
    return address.host.partition("%")[0].removesuffix(".")


def explain(error: BaseException) -> str:
    """Why a handshake failed, in a form that says what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is refused: {error.verify_message.rstrip('.') or error.reason}"
        advice = _advice.get(error.verify_code)
        return f"{text}: {advice}" if advice else text
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "the peer closed the connection in mid-handshake; does it speak TLS on this port?"
    if isinstance(error, ssl.SSLError) and error.reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
    ):
        return "the peer answered with something that is not TLS; is it http and not https?"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error) or type(error).__name__
