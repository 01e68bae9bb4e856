"""`SyncBodyReader`: the body of a response as it comes, for threads."""

from __future__ import annotations

from types import TracebackType

from fastserve.client.reader import BaseBodyReader
from fastserve.client.sync_connection import SyncConnection
from fastserve.client.sync_pool import ClientPool, Pooled

__all__ = ["SyncBodyReader"]


class SyncBodyReader(BaseBodyReader[SyncConnection]):
    """An iterator of bytes, and a context manager. To be read to its end by one thread, or closed with `close`.

    Read to its end, the connection serves other requests; else it is closed. One that is dropped unread is closed with a
    `ResourceWarning` when it is collected. What ended the body early is raised again by every later read.
    """

    __slots__ = ()

    _pool: ClientPool

    def __iter__(self) -> SyncBodyReader:
        return self

    def __next__(self) -> bytes:
        """The next piece, of any size over 0. Raises `ClientError` when the body does not come to its end."""
        self._begin_read()
        try:
            while True:
                for piece in self._pieces:
                    if piece:
                        return piece
                if self._pooled is None:
                    break
                self._put(self._pooled.conn.next_piece())
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._is_reading = False
        raise StopIteration

    def read(self) -> bytes:
        """All that is left of the body. Raises `ResponseTooLarge` beyond `max_response_body_size`."""
        pieces = []
        size = 0
        for piece in self:
            size += len(piece)
            if size > self._max_size:
                raise self._too_large()
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Read no more: the connection is closed, unless the body was there to its end."""
        self._close()

    def __enter__(self) -> SyncBodyReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _drop(self, pooled: Pooled) -> None:
        self._pool.drop(pooled)
