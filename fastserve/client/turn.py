"""`Turn`: a request that waits for a connection, and is sent in the moment in which one is handed to it.

Whoever gives a connection back writes the waiting request itself, in its own step of the loop, instead of waking a
task that would. So the task that waits is woken once, by the response: a wait costs no turn of the loop, and the
connection is never idle between two requests.

For idempotent requests that may be sent again. A turn later the loop may have seen that the upstream has closed the
connection behind its last response: what can't be sent twice is better written then. Nor is there time to see bytes that
nobody asked for, which would be taken for the response; as for two requests of one task, one behind the other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastserve.pool.want import WantConn

if TYPE_CHECKING:
    from fastserve.client.connection import ClientConnection
    from fastserve.pool.aio import ConnPool
    from fastserve.pool.conn import PooledConn

__all__ = ["Turn"]


class Turn(WantConn["ClientConnection"]):
    """One whole request, enqueued. Await `answer`: the response (or its head, if it `streams`) is there, and `given` is the
    connection's entry, which is held from then on. It raises what the pool and the exchange do; with `given` None, nothing
    is held.
    """

    __slots__ = ("_data", "_limit", "_method", "_pool", "_streams", "answer", "given")

    def __init__(
        self,
        pool: ConnPool[ClientConnection],
        method: str,
        data: bytes,
        streams: bool,
        limit: float,
    ) -> None:
        WantConn.__init__(self)  # super() would cost as much again
        self._pool = pool
        self._method = method
        self._data = data
        self._streams = streams
        self._limit = limit
        self.answer: asyncio.Future[None] = pool.running_loop().create_future()
        self.given: PooledConn[ClientConnection] | None = None

    def wake(self) -> None:
        """Send it, or have its task told why it can't be. Raises nothing: the caller is another request."""
        answer = self.answer
        if answer.done():
            return  # its task was cancelled and has not run yet; what it was given goes to the next when it does
        try:
            self.given = pooled = self._pool.collect(self)
            clock = self._pool.clock
            pooled.conn.send(answer, self._method, self._data, self._streams, self._limit, clock())
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
