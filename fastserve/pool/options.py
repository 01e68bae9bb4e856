"""`PoolOptions`: every option of a connection pool, with its default, the reason for it, and the system it comes from.

Other pools are settings of this one. Times are in seconds. The defaults suit a client of
one HTTP upstream; the queue, each wait, each dial and each idle connection is bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from fastserve.errors import ConfigError
from fastserve.options import check_options, option
from fastserve.pool.events import PoolEvent

__all__ = ["PoolOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Options of a `ConnPool`, `SyncConnPool` or `PoolCore`. Raises `ConfigError` when a value cannot work."""

    max_conns: int = option(
        512,
        "Most connections: idle, in use and being dialled together. Lower it to protect a small upstream. 512 as in "
        "fasthttp (MaxConns; Transport MaxConnsPerHost, redigo MaxActive, go-redis PoolSize, database/sql MaxOpenConns).",
        takes="int",
        least=1,
    )
    max_idle_conns: int | None = option(
        None,
        "Most connections kept idle. Lower it when idle ones cost the upstream something; 0 keeps none. The default, "
        "None, is max_conns: what was opened may stay for max_idle_conn_duration (Transport MaxIdleConnsPerHost, "
        "redigo MaxIdle).",
        takes="int or None",
    )
    idle_evict: Literal["oldest", "newest"] = option(
        "oldest",
        "Which connection is closed when one too many is idle: the one idle longest ('oldest', as redigo), or the one "
        "just released ('newest', as Transport). The newest is the one most surely alive, so it is kept by default.",
        takes="str",
        choices=("oldest", "newest"),
    )
    min_idle_conns: int = option(
        0,
        "Idle connections kept up in the background. Set it when a dial is slow (TLS, log-in) and load comes in bursts. "
        "0 opens none that nobody asked for (go-redis MinIdleConns).",
        takes="int",
    )
    conn_pool_strategy: Literal["lifo", "fifo"] = option(
        "lifo",
        "Which idle connection is used next. 'lifo': the last one released, so that the surplus of a burst grows old "
        "and closes. 'fifo' spreads use evenly, for load balancers that balance connections (fasthttp ConnPoolStrategy, "
        "go-redis PoolFIFO; database/sql was FIFO).",
        takes="str",
        choices=("lifo", "fifo"),
    )
    max_conn_wait_timeout: float = option(
        0.0,
        "How long an acquire may wait for another holder's connection when all are in use. 0 raises NoFreeConns at "
        "once, which tells overload soonest; set a second or so to ride out bursts (fasthttp MaxConnWaitTimeout, redigo "
        "Wait, go-redis PoolTimeout). The wait for a dial is bounded by dial_timeout and dial_retries.",
        takes="float",
    )
    max_waiters: int = option(
        10_000,
        "Most acquires that wait at once; one more gets NoFreeConns. Bounds memory (about 1 KB each): who waits behind "
        "10 000 others is better refused.",
        takes="int",
    )
    max_idle_conn_duration: float | None = option(
        10.0,
        "An idle connection is closed after this long. Stay below the upstream's own idle timeout, so that it is not "
        "the upstream that closes. 10 s as in fasthttp (Transport IdleConnTimeout, redigo IdleTimeout). None: never.",
        takes="float or None",
        least=0.001,
    )
    max_conn_duration: float | None = option(
        None,
        "A connection is closed at this age, as soon as nobody holds it. Set it when upstreams move behind DNS or a "
        "balancer. None, the default: never (fasthttp MaxConnDuration, redigo MaxConnLifetime, go-redis MaxConnAge, "
        "database/sql ConnMaxLifetime).",
        takes="float or None",
        least=0.001,
    )
    lifetime_jitter: float = option(
        0.1,
        "Each connection's max_conn_duration is shortened by a random part of up to this fraction, so that connections "
        "opened together do not close together (pgx MaxConnLifetimeJitter). A tenth is enough to spread them.",
        takes="float",
        most=1.0,
    )
    max_uses: int | None = option(
        None,
        "A connection is closed after it was handed out this many times. For upstreams that leak per connection. "
        "None, the default: never.",
        takes="int or None",
        least=1,
    )
    test_on_borrow: Callable[[Any, float], bool | Awaitable[bool]] | None = option(
        None,
        "Called as (conn, last_used) before an idle connection is handed out; `last_used` is how many seconds ago it was "
        "released. False, or an exception, closes it and the next one is tried. May be async in the asyncio shell "
        "(redigo TestOnBorrow). None, the default: a dead connection is noticed by its owner, who calls `lost`.",
        takes="function or None",
    )
    reset: Callable[[Any], object] | None = option(
        None,
        "Called as (conn) when the last holder releases a connection, before anyone else gets it; it counts as in use "
        "until then. False, or an exception, closes it. May be async in the asyncio shell. For protocols whose "
        "connections carry state, as transactions (redigo activeConn.Close, database/sql SessionResetter).",
        takes="function or None",
    )
    max_concurrent_dials: int = option(
        64,
        "Most dials at once. 1 is single flight: with max_streams, one connection serves a whole burst. 64 by default: a "
        "cold start stays below the usual listen backlog of 128 (go-redis dialer).",
        takes="int",
        least=1,
    )
    dial_timeout: float = option(
        3.0,
        "How long one attempt to open a connection may take, TLS and log-in included; also how long an async "
        "test_on_borrow or reset may take. 3 s as in fasthttp: one lost SYN is sent again after one second.",
        takes="float",
        least=0.001,
    )
    dial_retries: int = option(
        0,
        "How many more attempts one dial makes before it counts as failed, dial_backoff apart. 0 tells the caller "
        "soonest; raise it where a restart of the upstream should pass unnoticed (go-redis dialer).",
        takes="int",
    )
    dial_backoff: float = option(
        0.1,
        "The pause before a dial is tried again; doubled for each further failure up to 30 s, and spread by a fifth so "
        "that many clients do not come back at once (gRPC backoff).",
        takes="float",
        least=0.001,
        most=30.0,
    )
    fail_fast_after: int = option(
        0,
        "After this many failed dials in a row, what needs a dial gets DialError at once; one probe per dial_backoff "
        "goes through until it succeeds. Set it to shed load from a dead upstream (go-redis: its pool size). 0, the "
        "default, never gives up.",
        takes="int",
    )
    max_streams: Callable[[Any], int] | None = option(
        None,
        "Called as (conn) when a connection was dialled: how many may hold it at once. 1 is HTTP/1, and the default; more "
        "is HTTP/2, gRPC's one shared connection, or thrift's: it stays in the list and serves every waiter.",
        takes="function or None",
    )
    on_event: Callable[[PoolEvent], object] | None = option(
        None,
        "Called with a PoolEvent for everything but a warm acquire or release, which stats() counts. Must be quick "
        "(go-redis, database/sql and redigo only have stats).",
        takes="function or None",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.min_idle_conns > self.max_conns:
            raise ConfigError(f"min_idle_conns={self.min_idle_conns}: at most max_conns, which is {self.max_conns}")
        if self.max_idle_conns is not None and self.min_idle_conns > self.max_idle_conns:
            raise ConfigError(
                f"min_idle_conns={self.min_idle_conns}: at most max_idle_conns, which is {self.max_idle_conns}"
            )
