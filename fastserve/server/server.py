"""`Server`: its life, from listening to the last answer."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fastserve.errors import ConfigError, FastserveError
from fastserve.server.config import ServerConfig
from fastserve.server.listener import Listener, open_sockets
from fastserve.server.references import find_limits
from fastserve.server.service import Handler, Service, handler_kind
from fastserve.server.wire import Wire
from fastserve.server.workerpool import CANCEL_TIMEOUT

__all__ = ["SHUTDOWN_TIMEOUT", "Server", "ShutdownReport", "loop_factory"]

logger = logging.getLogger("fastserve")

SHUTDOWN_TIMEOUT = 30.0

find_limits()  # at import, while nothing is served


@dataclasses.dataclass(frozen=True, slots=True)
class ShutdownReport:
    """What `Server.shutdown` had to leave undone."""

    cut: int = 0
    """Requests that were not answered, or not to their end."""
    threads_left: int = 0
    """Threads that are still inside a `def` handler. They end with the process."""
    workers_left: int = 0
    """Tasks whose `async def` handler was cancelled and went on."""

    def __str__(self) -> str:
        left = [
            (self.cut, "request", "cut off"),
            (self.threads_left, "thread", "still in a handler"),
            (self.workers_left, "handler", "deaf to its cancellation"),
        ]
        said = [f"{n} {noun}{' was' if n == 1 else 's were'} {what}" for n, noun, what in left if n]
        return ", ".join(said) or "nothing was cut off"

    @property
    def clean(self) -> bool:
        return not (self.cut or self.threads_left or self.workers_left)


class Server:
    """Serves `handler`, with the options of `ServerConfig` as `config` or by name. Raises `ConfigError`.

    `handler` is ``async def handler(ctx: RequestCtx) -> None``; or a plain ``def``, which runs on a thread, or on the
    loop with ``inline=True`` when it never blocks. One Server serves once: `start`, then `shutdown`; or ``async with``
    around the time that it should serve; or `run`, which owns the loop and the signals.
    """

    def __init__(
        self, handler: Handler, config: ServerConfig | None = None, *, inline: bool = False, **options: Any
    ) -> None:
        known = {f.name for f in dataclasses.fields(ServerConfig)}
        if unknown := options.keys() - known:
            raise ConfigError(f"no such option: {', '.join(sorted(unknown))}; see ServerConfig")
        self.handler = handler
        self.inline = inline
        self.config = dataclasses.replace(config or ServerConfig(), **options)
        self.kind = handler_kind(handler, inline)
        """``"async"``, ``"threads"`` or ``"inline"``."""
        self._service: Service | None = None
        self._listener: Listener | None = None
        self._state = "new"
        self._connection_closed = asyncio.Event()
        self._hurried = False

    # Life

    async def start(
        self,
        host: str | None = "127.0.0.1",
        port: int = 8000,
        *,
        sock: socket.socket | None = None,
        uds: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        reuse_port: bool = False,
    ) -> None:
        """Listen, on one of: `host` and `port` (0 takes a free one, None as host is all addresses), a bound `sock`, a
        unix socket at `uds`, an inherited `fd`. Raises `ListenError`; `FastserveError` when it was started before.
        """
        if self._state != "new":
            raise FastserveError(f"this server was started already (it is {self._state}); make a new one")
        sockets = open_sockets(host, port, sock=sock, uds=uds, fd=fd, reuse_port=reuse_port, config=self.config)
        self._state = "serving"
        self._start_service(asyncio.get_running_loop())
        self._listener = Listener(self.service, sockets, unlink=uds is not None)
        self._listener.start()

    def start_in_memory(self) -> None:
        """Start without listening: connections come from `fastserve.testing`."""
        self._state = "serving"
        self._start_service(asyncio.get_running_loop())

    def _start_service(self, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service = Service(self.handler, self.config, self.inline, loop)
        service.on_connection_closed = self._on_connection_closed
        service.on_hijacked_ended = self._connection_closed.set
        service.start_clock()

    def _on_connection_closed(self, connection: Wire) -> None:
        if self._listener is not None:
            self._listener.connection_closed(connection)
        self._connection_closed.set()

    @property
    def service(self) -> Service:
        """What connections share. Raises `FastserveError` before `start`."""
        if self._service is None:
            raise FastserveError("this server is not started")
        return self._service

    @property
    def addresses(self) -> list[Any]:
        """Where it listens: ``(host, port)`` (with two more numbers for IPv6), or the path of a unix socket."""
        return [] if self._listener is None else list(self._listener.addresses)

    @property
    def urls(self) -> list[str]:
        """`addresses` for people: ``http://127.0.0.1:8000``, ``http://[::1]:8000``, ``unix:/run/app.sock``."""
        shown = []
        for address in self.addresses:
            if isinstance(address, tuple):
                host = f"[{address[0]}]" if ":" in address[0] else address[0]
                shown.append(f"http://{host}:{address[1]}")
            else:
                shown.append(f"unix:{os.fsdecode(address)}")
        return shown

    @property
    def port(self) -> int:
        """The port of the first address. Raises `FastserveError` when there is none."""
        for address in self.addresses:
            if isinstance(address, tuple):
                return int(address[1])
        raise FastserveError("this server does not listen on a port")

    async def shutdown(self, timeout: float = SHUTDOWN_TIMEOUT) -> ShutdownReport:
        """Stop accepting, close idle connections, answer what is in flight, and cut what is left after `timeout` seconds.

        Handlers that run on see ``ctx.done`` set at once. Returns what was cut. A second call returns at once.
        """
        if self._state != "serving":
            return ShutdownReport()
        self._state = "stopping"
        service = self.service
        if self._listener is not None:
            self._listener.close()
        service.done.set()
        service.draining = True
        for connection in list(service.connections):
            if self.config.close_on_shutdown or connection.idle:
                connection.retire()
            else:
                connection.unsettle()
        try:
            async with asyncio.timeout(timeout):
                await self._all_closed()
        except TimeoutError:
            pass
        cut = sum(connection.cut() for connection in list(service.connections))
        for task in service.hijacked:
            task.cancel()
        cut += len(service.hijacked)
        if service.hijacked:
            await asyncio.wait(service.hijacked, timeout=CANCEL_TIMEOUT)
        workers_left = await service.pool.close()
        threads_left = await service.threads.close(0 if cut else 1.0)
        # Transports close at the loop's next turns; whoever closes the loop after us must not find them open.
        while service.connections or (self._listener is not None and self._listener.open):
            self._connection_closed.clear()
            await self._connection_closed.wait()
        service.stop_clock()
        self._state = "stopped"
        report = ShutdownReport(cut, threads_left, workers_left)
        if not report.clean:
            logger.warning("stopped; %s", report)
        return report

    async def _all_closed(self) -> None:
        service = self.service
        while not self._hurried and (
            service.hijacked or not all(connection.lingering for connection in service.connections)
        ):
            self._connection_closed.clear()
            await self._connection_closed.wait()

    async def __aenter__(self) -> Server:
        if self._state == "new":
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shutdown()

    # Owning the process

    def run(
        self,
        host: str | None = "127.0.0.1",
        port: int = 8000,
        *,
        sock: socket.socket | None = None,
        uds: str | os.PathLike[str] | None = None,
        fd: int | None = None,
        reuse_port: bool = False,
        loop: str = "auto",
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
        on_started: Callable[[Server], None] | None = None,
    ) -> ShutdownReport:
        """Serve until SIGINT or SIGTERM, drain, and return what was cut. A second signal stops at once.

        `loop` is ``"uvloop"``, ``"asyncio"``, or ``"auto"``: uvloop where it is installed. Raises what `start` raises,
        and `ConfigError` when uvloop is asked for and missing. To be called from the main thread.
        """

        async def main() -> ShutdownReport:
            running = asyncio.get_running_loop()
            stop = asyncio.Event()
            at_once = asyncio.Event()

            def on_signal() -> None:
                (at_once if stop.is_set() else stop).set()

            for number in (signal.SIGINT, signal.SIGTERM):
                try:
                    running.add_signal_handler(number, on_signal)
                except NotImplementedError:  # Windows
                    signal.signal(number, lambda *_: running.call_soon_threadsafe(on_signal))
            await self.start(host, port, sock=sock, uds=uds, fd=fd, reuse_port=reuse_port)
            if on_started is not None:
                on_started(self)
            await stop.wait()
            drain = running.create_task(self.shutdown(shutdown_timeout))
            hurry = running.create_task(at_once.wait())
            await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not drain.done():
                self.hurry()
            return await drain

        # Loops leave a handler of their own behind, or the default one, and not what was there before.
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
                return runner.run(main())
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    if handler is not None:  # None is one that C code installed
                        signal.signal(number, handler)

    def hurry(self) -> None:
        """Cut what a `shutdown` under way waits for."""
        self._hurried = True
        self._connection_closed.set()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name not in ("auto", "uvloop", "asyncio"):
        raise ConfigError(f"loop={name!r}: takes auto, uvloop or asyncio")
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigError(
                    "loop='uvloop': uvloop is not installed; pip install uvloop, or use loop='asyncio'"
                ) from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop
