"""What a client is told, and what the log says, when a request is refused or its handler failed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fastserve.errors import ClientDisconnected, FormError, RequestError
from fastserve.http1.fields import printable
from fastserve.http1.status import reason_phrase

if TYPE_CHECKING:
    from fastserve.server.config import ServerConfig
    from fastserve.server.ctx import RequestCtx

__all__ = ["answer_failure", "failure_status", "log_failure", "log_refusal"]

logger = logging.getLogger("fastserve")

RETRY_AFTER = 1
"""Seconds in the Retry-After of a 503 (RFC 9110 10.2.3): a full pool is mostly a matter of moments."""


def failure_status(error: BaseException) -> int:
    """What `error` is to the client: its own fault has a status of 4xx, all else is 500."""
    if isinstance(error, RequestError):
        return error.status if 400 <= error.status <= 599 else 500
    return 400 if isinstance(error, FormError) else 500


def answer_failure(ctx: RequestCtx, error: BaseException, config: ServerConfig) -> None:
    """Make `ctx._response` tell of `error`, through `error_handler` when there is one, and log what is the server's fault."""
    status = failure_status(error)
    if status == 500:
        log_failure(ctx, error, secure=config.secure_error_log_message)
    _default_answer(ctx, error, status)
    if config.error_handler is not None:
        shown = (
            error if isinstance(error, Exception) else RuntimeError(f"the handler ended with {type(error).__name__}")
        )
        try:
            config.error_handler(ctx, shown)
        except Exception as second:
            logger.exception("error_handler raised")
            _default_answer(ctx, second, status)


def _default_answer(ctx: RequestCtx, error: BaseException, status: int) -> None:
    # Why a request was refused helps who sent it; why a handler failed is nobody's business.
    told = error.reason if isinstance(error, RequestError) else str(error) if isinstance(error, FormError) else ""
    title = reason_phrase(status).decode("ascii") or "Error"
    ctx.failure = None
    ctx._response.reset()
    ctx._response.set_status_code(status)
    ctx._response.set_content_type("text/plain; charset=utf-8")
    ctx._response.set_body(f"{title}: {printable(told)}\n" if told else f"{title}\n")
    if status == 503:
        ctx._response.headers.set("Retry-After", RETRY_AFTER)


def log_failure(ctx: RequestCtx, error: BaseException, *, secure: bool = False) -> None:
    """Log `error` with its traceback. A cancellation and a client that went away are nobody's failure."""
    if isinstance(error, ClientDisconnected | asyncio.CancelledError):
        return
    target = "(target withheld)" if secure else printable(ctx._request.target.decode("latin-1"))
    logger.error("handler failed: %s %s", ctx._request.method, target, exc_info=error)


def log_refusal(number: int, error: RequestError, config: ServerConfig) -> None:
    """Log a client's own fault, when asked to."""
    if config.log_all_errors:
        reason = "(reason withheld)" if config.secure_error_log_message else printable(error.reason)
        logger.info("connection %d refused: %d %s", number, error.status, reason)
