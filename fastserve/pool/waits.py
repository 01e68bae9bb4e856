"""What is awaited in `ConnPool`. All of its coroutines are here, since they are never compiled: see `.ci/hatch_build.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve.errors import PoolError
from fastserve.pool.conn import PooledConn
from fastserve.pool.dials import redial_timeout
from fastserve.pool.sleeping import LoopWant
from fastserve.pool.want import WAITING

if TYPE_CHECKING:
    from fastserve.pool.aio import ConnPool

__all__ = ["acquire", "close", "closing_ended", "dialled", "left", "opened", "redial", "tried"]

logger = logging.getLogger("fastserve")

C = TypeVar("C")


async def acquire(pool: ConnPool[C], timeout: float | None) -> PooledConn[C]:
    """See `ConnPool.acquire`."""
    now = pool.clock()
    pooled = pool.take_idle(now)
    if pooled is not None:
        return pooled
    want: LoopWant[C] = LoopWant(pool.running_loop())
    pool.enqueue(want, now, timeout)
    if want.state is WAITING:
        try:
            await want.signal
        except BaseException:
            pool.cancel(want)
            raise
    return pool.collect(want)


async def redial(pool: ConnPool[C], pooled: PooledConn[C], timeout: float | None) -> PooledConn[C]:
    """See `ConnPool.redial`."""
    started = pool.clock()
    bound = pool.core.options.dial_timeout
    try:
        async with asyncio.timeout(bound if timeout is None else min(bound, timeout)) as limit:
            conn = await pool.dial()
    except TimeoutError as error:
        if isinstance(error, PoolError) or not limit.expired():
            raise
        raise redial_timeout(pool.clock() - started, bound, timeout) from None
    return pool.replace(pooled, conn)


async def close(pool: ConnPool[Any], timeout: float | None) -> int:
    """See `ConnPool.aclose`."""
    pool.running_loop()
    pool.start_closing()
    cut = 0
    try:
        async with asyncio.timeout(timeout):
            while (drained := pool.drained()) is not None:
                await asyncio.shield(drained)  # several may wait for it
    except TimeoutError:
        pass
    finally:
        cut = pool.cut()
    tasks = pool.tasks()
    if tasks:
        patience = pool.core.options.dial_timeout
        _, late = await asyncio.wait(tasks, timeout=patience)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=patience)
    return cut


async def opened(pool: ConnPool[C]) -> ConnPool[C]:
    """See `ConnPool.__aenter__`."""
    pool.running_loop()
    pool.sweep()
    return pool


async def left(pool: ConnPool[Any], timeout: float | None) -> None:
    """See `ConnPool.__aexit__`."""
    await close(pool, timeout)


async def dialled(dial: Callable[[], Awaitable[C]]) -> C:
    """As a coroutine, which a task must have; what `dial` returns need not be one."""
    return await dial()


async def tried(hook: Callable[..., Any], answer: Awaitable[Any], seconds: float, ended: Callable[[Any], None]) -> None:
    """What an async `test_on_borrow` or `reset` says, within so many seconds. Told as False when it raised."""
    ok = False
    try:
        async with asyncio.timeout(seconds):
            ok = await answer
    except Exception as error:
        logger.info("pool: %r refused a connection: %r", hook, error)
    finally:
        ended(ok)


async def closing_ended(conn: object, closing: Awaitable[Any], seconds: float) -> None:
    """An async `close`, within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await closing
    except Exception:
        logger.warning("pool: closing %r failed", conn, exc_info=True)
