"""`ServerThread`: a server in a background thread, for synchronous programs and tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from fastserve.errors import FastserveError
from fastserve.server.config import ServerConfig
from fastserve.server.server import SHUTDOWN_TIMEOUT, Server, ShutdownReport, loop_factory
from fastserve.server.service import Handler

__all__ = ["ServerThread"]


class ServerThread:
    """``with ServerThread(handler) as server: ... server.port`` serves while the block runs.

    Takes what `Server` takes; `listen` is what `Server.start` takes, by default a free port of 127.0.0.1.
    `loop` is as in `Server.run`.
    """

    def __init__(
        self,
        handler: Handler,
        config: ServerConfig | None = None,
        *,
        inline: bool = False,
        loop: str = "auto",
        listen: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._make: Callable[[], Server] = partial(Server, handler, config, inline=inline, **options)
        self._make()  # bad options fail here, where the caller sees it
        self._loop_factory = loop_factory(loop)
        self._listen: dict[str, Any] = {"port": 0} if listen is None else listen
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._timeout = SHUTDOWN_TIMEOUT
        self._report = ShutdownReport()
        self._thread = threading.Thread(target=self._run, name="fastserve-server", daemon=True)

    def start(self) -> None:
        """Return when it listens. Raises what `Server.start` raises, and `FastserveError` when it was started before."""
        if self._thread.ident is not None:
            raise FastserveError("this server thread was started already; make a new one")
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def shutdown(self, timeout: float = SHUTDOWN_TIMEOUT) -> ShutdownReport:
        """As `Server.shutdown`, and wait for the thread to end. A second call returns the same."""
        if self._thread.ident is None:
            return self._report  # never started
        if self._thread.is_alive() and self._loop is not None and self._stop is not None:
            self._timeout = timeout
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:
                pass  # it has ended in between
        self._thread.join()
        return self._report

    @property
    def server(self) -> Server:
        if self._server is None:
            raise FastserveError("this server is not started")
        return self._server

    @property
    def addresses(self) -> list[Any]:
        return self.server.addresses

    @property
    def urls(self) -> list[str]:
        return self.server.urls

    @property
    def port(self) -> int:
        return self.server.port

    def __enter__(self) -> ServerThread:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self._server = self._make()
            await self._server.start(**self._listen)
            self._started.set()
            await self._stop.wait()
            self._report = await self._server.shutdown(self._timeout)

        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(main())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()
