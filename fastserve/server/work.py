"""`Work`: what a `WorkerPool` serves."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fastserve.server.worker import Worker

__all__ = ["Work"]


class Work(Protocol):
    """What a worker does: steps of a coroutine, then an end."""

    failure: BaseException | None
    """Set by the worker to what the coroutine raised, before the end; None before and otherwise."""
    worker: Worker | None
    """The worker that is busy with it, once it has waited."""
    context: contextvars.Context | None
    """Where each step runs: None takes a copy of the base context, and it stays for what follows on the same work."""

    run: Callable[[Any], Awaitable[Any]]
    """Called once with the work itself, when a worker begins; what it returns is stepped to its end."""

    def ended(self) -> bool:
        """The coroutine, which had waited, has returned or raised. True asks the same worker to run it again: `run`
        is another function now, for a second phase in the same context. Must not raise.
        """

    def refused(self) -> None:
        """No worker came free in time. Must not raise."""
