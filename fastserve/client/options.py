"""`ClientOptions`: every option of `HostClient` and `SyncHostClient`, with its default and the reason for it.

The names are fasthttp's HostClient's in snake case. Times are in seconds, sizes in bytes. Each wait, each buffer and each
retry has a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from fastserve.errors import ConfigError
from fastserve.options import check_options, hook, option
from fastserve.pool.options import PoolOptions

if TYPE_CHECKING:
    import ssl

    from fastserve.client.request import ClientRequest

__all__ = ["ClientOptions"]

DIAL_GRACE = 1.0
"""Seconds after which the pool ends a dial that has outlived dial_timeout. The dial itself should: it knows its phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Options of one client. Raises `ConfigError` when a value cannot work."""

    is_tls: bool | None = option(
        None,
        "Speak TLS. None, the default, does so where an address says https://.",
        takes="bool or None",
    )
    tls_config: ssl.SSLContext | None = option(
        None,
        "The ssl.SSLContext to use as it is. None, the default, verifies certificate and name with the system's roots, "
        "TLS 1.2 or newer.",
        takes="object or None",
    )
    server_hostname: str | None = option(
        None,
        "The name to send (SNI) and to check in the certificate. None: the host of the address that is dialled. Set it "
        "where addresses are numeric and the certificate has a name.",
        takes="str or None",
    )
    name: str | None = option(
        None,
        "Value of the User-Agent header. None is 'fastserve'.",
        takes="str or None",
    )
    no_default_user_agent_header: bool = option(False, "Send no User-Agent of the client's own.", takes="bool")
    max_conns: int = option(
        512,
        "Most connections: idle, in use and being dialled. Lower it to protect a small upstream. 512 as in fasthttp.",
        takes="int",
        least=1,
    )
    max_conn_wait_timeout: float = option(
        0.0,
        "How long a request may wait for another one's connection when all are in use. 0 raises NoFreeConns at once, as "
        "fasthttp does; set a second or so to ride out bursts, first come first served.",
        takes="float",
    )
    max_waiters: int = option(
        10_000, "Most requests that wait for a connection; one more gets NoFreeConns.", takes="int"
    )
    max_idle_conn_duration: float = option(
        10.0,
        "An idle connection is closed after this long. Stay below the upstream's own idle timeout, so that it is not the "
        "upstream that closes. 10 s as in fasthttp.",
        takes="float",
        least=0.001,
    )
    max_conn_duration: float | None = option(
        None,
        "A connection is closed at this age, when nobody uses it. Set it when upstreams move behind DNS or a balancer. "
        "None: never.",
        takes="float or None",
        least=0.001,
    )
    conn_pool_strategy: Literal["lifo", "fifo"] = option(
        "lifo",
        "Which idle connection is used next. 'lifo' lets the surplus of a burst grow old and close; 'fifo' spreads "
        "requests evenly over connections.",
        takes="str",
        choices=("lifo", "fifo"),
    )
    max_idempotent_call_attempts: int = option(
        5,
        "Most times one request is sent when its connection dies before the first byte of a response, on a fresh "
        "connection each time; only GET, HEAD, OPTIONS, TRACE, PUT and DELETE, unless nothing was written. 1 turns it "
        "off. 5 as in fasthttp.",
        takes="int",
        least=1,
    )
    retry_if: Callable[[ClientRequest], bool] | None = hook(
        "Called as (request) in place of the rule about methods: True lets it be sent again. Never asked for a request "
        "with a streamed body, or after a byte of its response."
    )
    dial: Callable[..., Any] | None = option(
        None,
        "Opens a connection in place of the client's own dialling: HostClient awaits it as (protocol_factory) for "
        "(transport, protocol), as loop.create_connection does; SyncHostClient calls it as () for a connected socket.",
        takes="function or None",
    )
    dial_timeout: float = option(
        3.0,
        "How long a connection may take to open: name look-up, connect and TLS together. 3 s as in fasthttp: one lost "
        "SYN is sent again after one second.",
        takes="float",
        least=0.001,
    )
    tls_timeout: float | None = option(
        None,
        "How long the TLS handshake alone may take. None: what is left of dial_timeout.",
        takes="float or None",
        least=0.001,
    )
    dns_cache_duration: float = option(
        60.0,
        "How long the addresses of a name are used before they are looked up again. 60 s as in fasthttp.",
        takes="float",
    )
    write_timeout: float = option(
        30.0,
        "An upstream that takes no byte of the request for this long is given up. Raise it for peers that pause on purpose.",
        takes="float",
        least=0.001,
    )
    read_timeout: float = option(
        30.0,
        "The response's head must be there this long after the request was written. Raise it for slow answers (reports, "
        "long polling), or give such requests a timeout of their own, which may not be longer.",
        takes="float",
        least=0.001,
    )
    body_timeout: float = option(
        30.0,
        "A response's body must not pause for longer than this.",
        takes="float",
        least=0.001,
    )
    max_header_size: int = option(
        16 * 1024, "Most bytes in a response's head, or its trailers: ResponseTooLarge beyond.", takes="int", least=64
    )
    max_header_count: int = option(100, "Most headers in a response: ResponseTooLarge beyond.", takes="int", least=1)
    max_response_body_size: int = option(
        64 * 1024 * 1024,
        "Most bytes of a body that is read whole, before and after its content coding is undone: ResponseTooLarge "
        "beyond. 64 MiB: more is better streamed. Streamed bodies have no bound, as they are not held.",
        takes="int",
        least=1,
    )
    stream_response_body: bool = option(
        False,
        "Return responses when their head is there; the body is read from response.stream. Or ask for it request by "
        "request with stream().",
        takes="bool",
    )
    decode_content: bool = option(
        False,
        "Send Accept-Encoding and undo gzip and deflate (br and zstd where their libraries are installed). Off by "
        "default, as in fasthttp: upstreams are mostly near.",
        takes="bool",
    )

    def __post_init__(self) -> None:
        check_options(self)
        context = self.tls_config
        if context is not None and not (hasattr(context, "wrap_bio") and hasattr(context, "wrap_socket")):
            raise ConfigError(f"tls_config={context!r}: takes an ssl.SSLContext, or None")

    def pool_options(self, **more: Any) -> PoolOptions:
        """What of these is the pool's."""
        return PoolOptions(
            max_conns=self.max_conns,
            max_conn_wait_timeout=self.max_conn_wait_timeout,
            max_waiters=self.max_waiters,
            max_idle_conn_duration=self.max_idle_conn_duration,
            max_conn_duration=self.max_conn_duration,
            conn_pool_strategy=self.conn_pool_strategy,
            dial_timeout=self.dial_timeout + DIAL_GRACE,
            **more,
        )


ClientOptions.__doc__ = "\n".join(
    [
        ClientOptions.__doc__ or "",
        *(f"    {f.name}: {f.metadata['help']} Default: {f.default!r}." for f in fields(ClientOptions)),
    ]
)
