"""When a request may be sent again: one pure decision, from the method and from what was seen of the attempt that failed."""

from __future__ import annotations

__all__ = ["IDEMPOTENT_METHODS", "may_retry"]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 9.2.2: to serve them twice is to serve them once."""


def may_retry(
    method: str,
    attempt: int,
    max_attempts: int,
    *,
    wrote_anything: bool,
    got_response_byte: bool,
    has_stream_body: bool,
    retry_if: bool | None = None,
) -> bool:
    """True when the request, whose attempt number `attempt` (from 1) found its connection dead, may be sent again.

    The next attempt goes on a **fresh** connection, so that a stale one costs one retry and no more: another idle one is
    likely to be as stale as the last (aiohttp#10790, fasthttp#1315). It is for connections that died: a timeout, a
    malformed response or a cancelled caller is no case for it. All attempts are within the request's time, which is for
    the caller to see to.

    - Never beyond `max_attempts`; 1 turns retries off.
    - Never when a byte of the response has come: the server has begun to answer.
    - When nothing was written, always: nobody can have seen it. `wrote_anything` is True from the first byte that was
      given to the transport, and from the first piece that was taken from a body stream.
    - Else never with a body that is a stream, of which a part is gone.
    - Else when the method is idempotent. `retry_if` takes the place of that: what the program said of this request,
      None when it was not asked.

    Whether the connection had been used before plays no part: that it was stale is likely then, and not certain, so a
    POST of which something was written is not sent twice.
    """
    if got_response_byte or attempt >= max_attempts:
        return False
    if not wrote_anything:
        return True
    if has_stream_body:
        return False
    return method in IDEMPOTENT_METHODS if retry_if is None else retry_if
