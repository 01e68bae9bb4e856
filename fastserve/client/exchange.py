"""`Exchanges`: how a client's exchanges begin and end where nothing is in their way, with what is awaited between the two.

A request that is written whole, on a connection that is ready, takes `begin`, one await and `end`. What else may happen is
`HostClient`'s to see to.
"""

from __future__ import annotations

import asyncio

from fastserve.client.base import SWITCHING_PROTOCOLS, check_switch
from fastserve.client.connection import ClientConnection
from fastserve.client.request import ClientRequest
from fastserve.client.response import ClientResponse
from fastserve.errors import PoolError
from fastserve.pool.aio import ConnPool
from fastserve.pool.conn import PooledConn

__all__ = ["Exchanges"]


class Exchanges:
    """Those of one client, whose pool it is."""

    __slots__ = ("_core", "_pool")

    def __init__(self, pool: ConnPool[ClientConnection]) -> None:
        self._pool = pool
        self._core = pool.core

    def begin(
        self, method: str, data: bytes, streams: bool, limit: float, now: float
    ) -> PooledConn[ClientConnection] | None:
        """Send a whole request on a connection that is ready; None when there is none. Await its `conn.waiter`.

        See `ClientConnection.send` for the arguments.
        """
        pooled = self._core.take_idle(now)
        if pooled is not None:
            try:
                pooled.conn.send(None, method, data, streams, limit, now)
            except BaseException as error:
                told = self.give_up(pooled, error)
                if told is not error:
                    raise told from error
                raise
        return pooled

    def end(self, pooled: PooledConn[ClientConnection], request: ClientRequest) -> ClientResponse:
        """The response that has come whole. Its connection is given back, or closed when it is of no more use.

        Raises `MalformedResponse` for a 101 that `request` did not ask for: then the connection is still held.
        """
        conn = pooled.conn
        parser = conn.parser
        head = parser.head
        response = ClientResponse(head, parser.take_body(), parser.trailer_fields)
        if parser.keep_alive and not conn.spoiled:
            self._pool.release(pooled)
        else:
            if head.status == SWITCHING_PROTOCOLS:
                check_switch(request)
            self._pool.discard(pooled)
        return response

    def give_up(self, pooled: PooledConn[ClientConnection], error: BaseException) -> BaseException:
        """Close a connection in the middle of an exchange that ends with `error`. Returns what is to be raised.

        That is a `PoolError` when another event loop than the connection's was the cause; its own one closes it then. It is
        looked at here, where it costs nothing while all is well: a future or a timer of another loop is refused.
        """
        conn = pooled.conn
        if type(error) is RuntimeError and conn.loop is not asyncio.get_running_loop():
            conn.call_soon(self._close, pooled)
            told = PoolError(
                "this client belongs to another event loop: make one client per loop; the request may be sent",
                phase="write",
            )
            told.__cause__ = error
            return told
        self._close(pooled)
        return error

    def _close(self, pooled: PooledConn[ClientConnection]) -> None:
        pooled.conn.leave()
        self._pool.discard(pooled)
