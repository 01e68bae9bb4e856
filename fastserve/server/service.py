"""`Service`: what all connections of one server share, and the one timer that watches over them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from sys import getrefcount
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fastserve.errors import ConfigError, FastserveError
from fastserve.http1.head_memory import HeadMemory
from fastserve.http1.parser import RequestParser
from fastserve.http1.render import ResponseRenderer
from fastserve.http1.request import Request
from fastserve.server.config import ServerConfig
from fastserve.server.ctx import RequestCtx
from fastserve.server.driving import call_and_await
from fastserve.server.memory import SurgeWatch
from fastserve.server.threadpool import ThreadWorkerPool
from fastserve.server.wire import UNKNOWN
from fastserve.server.workerpool import WorkerPool

if TYPE_CHECKING:
    from fastserve.server.connection import Connection
    from fastserve.server.wire import Wire

__all__ = ["Handler", "HandlerKind", "Service", "handler_kind"]

Handler = Callable[[RequestCtx], Any]

logger = logging.getLogger("fastserve")

MAX_SPARE_CONTEXTS: Final = 256
"""RequestCtx with their parsers kept for the next requests; a few KB each."""
MAX_KEPT_CONTEXTS = 256
"""And those that stay with a connection while its requests follow each other closely."""
# References there are in `recycle` when no handler kept anything: see server/references.py, which finds them.
REQUEST_REFS = RESPONSE_REFS = UNKNOWN
MAX_TICK: Final = 0.5
MIN_TICK: Final = 0.01


class HandlerKind:
    """How a handler is run."""

    ASYNC: ClassVar = "async"
    THREADS: ClassVar = "threads"
    INLINE: ClassVar = "inline"


def handler_kind(handler: Handler, inline: bool) -> str:
    """The kind of `handler`; raises `ConfigError` when it can't be one."""
    if not callable(handler):
        raise ConfigError(
            f"handler={handler!r}: takes a function of one argument, 'async def handler(ctx)' or 'def handler(ctx)'"
        )
    try:
        inspect.signature(handler).bind(object())
    except TypeError as error:
        raise ConfigError(f"handler {_name(handler)} can't be called as handler(ctx): {error}") from None
    except ValueError:
        pass  # a builtin without a signature: the first request will tell
    function = inspect.unwrap(handler, stop=inspect.iscoroutinefunction)
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        if inline:
            raise ConfigError(
                "inline is for `def` handlers that never block; this one is `async def` and runs on the loop anyway"
            )
        return HandlerKind.ASYNC
    return HandlerKind.INLINE if inline else HandlerKind.THREADS


def _name(handler: Any) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)


class Service:
    """Handler, pools, limits and clock of one running server."""

    def __init__(self, handler: Handler, config: ServerConfig, inline: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.handler = handler
        self.config = config
        self.loop = loop
        self.clock: Callable[[], float] = loop.time
        """Monotonic seconds. Tests put a clock of their own here."""
        self.kind = handler_kind(handler, inline)
        # A worker steps what `_run` returns in the request's context; what a decorator does before that belongs there too.
        self._run: Handler = handler if inspect.iscoroutinefunction(handler) else call_and_await(handler)
        self.pool = WorkerPool(
            loop,
            concurrency=config.concurrency,
            max_worker_wait=_in_ticks(config.max_worker_wait, config),
            max_idle_worker_duration=config.max_idle_worker_duration,
        )
        self.threads = ThreadWorkerPool(
            loop,
            max_threads=config.threads,
            concurrency=config.concurrency,
            max_wait=_in_ticks(config.max_thread_wait, config),
            max_idle_worker_duration=config.max_idle_worker_duration,
        )
        self._start: Callable[[RequestCtx], bool] = {
            HandlerKind.ASYNC: self.pool.start,
            HandlerKind.THREADS: self._start_in_thread,
            HandlerKind.INLINE: self._run_inline,
        }[self.kind]
        self.renderer = ResponseRenderer(
            config.name,
            server_header=not config.no_default_server_header,
            date=not config.no_default_date,
            content_type=not config.no_default_content_type,
        )
        self.plain_heads = self.renderer.plain_heads
        self.connections: set[Wire] = set()
        self.hijacked: set[asyncio.Task[None]] = set()
        self.contexts: list[RequestCtx] = []
        self._keepers: set[Connection] = set()  # connections that keep theirs
        self.conn_state = config.conn_state
        self.checks_heads = config.header_received is not None or config.get_only
        self.begin = self._check_and_start if self.checks_heads else self._start
        """Run the handler. True: it has ended. Raises `RequestError` when the head is refused after all."""
        self.max_pipelined = config.max_pipelined
        self.max_requests = config.max_requests_per_conn
        self.blocking = self.kind == HandlerKind.THREADS
        self.thread_id = threading.get_ident()
        self.done = asyncio.Event()
        self.retire = config.disable_keepalive
        """True: no connection is kept after its response."""
        self.draining = False
        """True: connections close when they are idle."""
        self.numbered = 0
        self.memory = HeadMemory()
        self._surge = SurgeWatch()
        self.on_connection_closed: Callable[[Wire], None] | None = None
        """For the listener, which counts connections."""
        self.on_hijacked_ended: Callable[[], None] | None = None
        """For a shutdown that waits for their handlers."""
        self._tick_interval = _tick_interval(config)
        self._timer: asyncio.TimerHandle | None = None
        self._callback_refs = 0
        """References that an argument of a callback has, on this loop, when it is nobody else's."""
        loop.call_soon(self._count_refs, object())
        self.now = self.idle_deadline = self.retire_at = 0.0
        self.set_time()

    # Handlers that are not coroutine functions

    def call(self, ctx: RequestCtx) -> None:
        """Run a `def` handler."""
        result = self.handler(ctx)
        if result is not None and hasattr(result, "__await__"):
            if hasattr(result, "close"):
                result.close()
            raise FastserveError(
                f"{_name(self.handler)} is a plain function but returned a coroutine: make it `async def` and await inside"
            )

    def _check_and_start(self, ctx: RequestCtx) -> bool:
        ctx._connected().check_head(ctx)
        return self._start(ctx)

    def _run_inline(self, ctx: RequestCtx) -> bool:
        context = ctx.context = self.pool.base_context.copy()
        try:
            context.run(self.call, ctx)
        except BaseException as error:
            ctx.failure = error
        return True

    def _start_in_thread(self, ctx: RequestCtx) -> bool:
        ctx.stamp()
        return self.threads.start_soon(ctx)

    def take_ctx(self, connection: Connection) -> RequestCtx:
        """A RequestCtx for `connection`, its parser at the beginning of a request: the one that was given back last.

        The connection may keep it for its next request when few do; `sweep` takes it back from those that are idle.
        """
        ctx = self.contexts.pop() if self.contexts else self.new_ctx()
        ctx._connection = connection
        if not connection.keeps_ctx and len(self._keepers) < MAX_KEPT_CONTEXTS:
            connection.keeps_ctx = True
            self._keepers.add(connection)
        return ctx

    def new_ctx(self) -> RequestCtx:
        config = self.config
        request = Request()
        parser = RequestParser(
            request,
            self.memory,
            config.max_header_size,
            config.max_header_count,
            config.max_request_body_size,
            stops_at_head=self.checks_heads,
            streams=config.stream_request_body,
        )
        return RequestCtx(self, request, parser, self._run)

    def _count_refs(self, probe: object) -> None:
        self._callback_refs = getrefcount(probe)

    def recycle(self, ctx: RequestCtx) -> None:
        """Keep `ctx` for another request, unless a handler kept it. To be called by the loop, with `call_soon`."""
        if (
            getrefcount(ctx) <= self._callback_refs
            and getrefcount(ctx._request) <= REQUEST_REFS
            and getrefcount(ctx._response) <= RESPONSE_REFS
        ):
            ctx.reset(self._run)
            self.contexts.append(ctx)

    # Time

    def start_clock(self) -> None:
        self._tick()

    def stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._tick_interval, self._tick)
        self.set_time()
        self.sweep()

    def set_time(self) -> None:
        """Read the clocks. Everything that needs the time to a tick takes it from here."""
        self.now = self.clock()
        self._last_idle_deadline = self.idle_deadline
        # One float for all connections of a tick, not one for each.
        self.idle_deadline = self.deadline(self.config.idle_timeout)
        self.retire_at = self.now + self.config.max_keepalive_duration
        self.renderer.set_time(time.time())

    def deadline(self, timeout: float) -> float:
        """`timeout` seconds from now, as a time of the loop. `now` is up to a tick old, so that one is added: never early."""
        return self.now + timeout + self._tick_interval

    def sweep(self) -> None:
        """Look at every deadline that there is."""
        now = self.now
        # Busy with one request for a while, or idle since the last tick but one: a response would have set the deadline anew.
        for keeper in [k for k in self._keepers if not k.idle or k.deadline < self._last_idle_deadline]:
            self._keepers.discard(keeper)
            keeper.return_kept_ctx()
        del self.contexts[MAX_SPARE_CONTEXTS:]
        if self._surge.tick(len(self.connections)):
            self.connections = set(self.connections)  # a set keeps the table of its largest size
            self.contexts.clear()  # made in it, for the most part: they would keep its memory in use
            self._surge.release()
        self.pool.tick(now)
        self.threads.tick(now)
        expired = [c for c in self.connections if c.deadline <= now or c.retire_at <= now]
        for connection in expired:
            connection.expire(now)

    def connection_closed(self, connection: Wire) -> None:
        """Every accepted connection ends here, also one whose transport was never made."""
        self._keepers.discard(connection)
        if self.on_connection_closed is not None:
            self.on_connection_closed(connection)

    # Hijacked connections

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run the handler of a hijacked connection in a task of its own: it may live as long as the process."""
        task = self.loop.create_task(coroutine, name=name)
        self.hijacked.add(task)
        task.add_done_callback(self._hijacked_ended)
        return task

    def _hijacked_ended(self, task: asyncio.Task[None]) -> None:
        self.hijacked.discard(task)
        if self.on_hijacked_ended is not None:
            self.on_hijacked_ended()


def _in_ticks(wait: float, config: ServerConfig) -> float:
    """`wait` for a pool, whose clock is up to a tick old: never early. 0 stays 0, which is not to wait at all."""
    return wait + _tick_interval(config) if wait else 0.0


def _tick_interval(config: ServerConfig) -> float:
    """A quarter of the shortest time there is to keep, between 10 ms and half a second."""
    shortest = min(
        config.read_timeout,
        config.write_timeout,
        config.idle_timeout,
        config.max_idle_worker_duration,
        config.max_keepalive_duration,
        config.max_thread_wait or MAX_TICK * 4,
        config.max_worker_wait or MAX_TICK * 4,
    )
    return min(MAX_TICK, max(MIN_TICK, shortest / 4))
