"""`ClientPool`: `SyncConnPool` for `SyncConnection`s, which knows who may close a socket, and when.

A client that is closed while requests are under way closes their connections under them, from another thread. The number
of a closed socket may be the next one's at once, so a thread that is about to write would write to a stranger. So a
connection that is held is only shut down, which wakes its holder, and the holder closes it.
"""

from __future__ import annotations

from collections.abc import Callable

from fastserve.client.sync_connection import SyncConnection
from fastserve.pool.conn import PooledConn
from fastserve.pool.threads import SyncConnPool

__all__ = ["ClientPool"]

Pooled = PooledConn[SyncConnection]


class ClientPool(SyncConnPool[SyncConnection]):
    """Who takes a connection sets its `held`; giving it back, in any of these ways, ends that."""

    __slots__ = ()

    def release(self, pooled: Pooled) -> None:
        conn = pooled.conn
        conn.held = False
        super().release(pooled)
        if conn.cut:
            conn.end()

    def discard(self, pooled: Pooled) -> None:
        pooled.conn.held = False
        super().discard(pooled)
        pooled.conn.end()

    def retire(self, pooled: Pooled) -> None:
        """As `discard`, where the connection was found dead before it was used: the books say stale, and not error."""
        self.lost(pooled)
        self.discard(pooled)

    def drop(self, pooled: Pooled) -> None:
        pooled.conn.held = False
        super().drop(pooled)

    def redial(self, pooled: Pooled, dial: Callable[[], SyncConnection] | None = None) -> Pooled:
        pooled.conn.held = False  # nobody uses it any more, whatever becomes of the dial
        fresh = super().redial(pooled, dial)
        pooled.conn.end()
        return fresh
