"""`HeadMemory`: what was seen of heads and found harmless, for all parsers of a server."""

from __future__ import annotations

from typing import Final

from fastserve.http1.fields import is_host
from fastserve.http1.head import FRAMING_NAMES, PLAIN, Framing, RequestHead

__all__ = ["LEARNED_BLOCK", "HeadMemory"]

# Names that say nothing of framing, in spellings that clients really send: a head with no other name than these and Host
# needs no closer look. A name that is not here is looked at, and learned when it is harmless, up to LEARNED_NAMES.
LEARNED_NAMES: Final = 1000
LEARNED_HOSTS: Final = 1000
LEARNED_LENGTHS: Final = 1000
LEARNED_LENGTH: Final = 100  # of a name or a host, in bytes
LEARNED_DIGITS: Final = 15  # of a Content-Length
LEARNED_BLOCKS: Final = 1000
LEARNED_BLOCK: Final = 2048  # of a block of header lines, in bytes
SEEN_BLOCKS: Final = 1000  # hashes of blocks that came once

# What there is to know before anything came.
KNOWN_NAMES: Final = frozenset({b"Host", b"Connection", b"Content-Length"})
KNOWN_FRAMINGS: Final[dict[bytes | None, Framing]] = {None: PLAIN, b"0": PLAIN}


class HeadMemory:
    """Header lines, and names, hosts and lengths, that were seen to be harmless, for all parsers of a server; bounded, as
    clients choose them.
    """

    __slots__ = ("_seen", "blocks", "framings", "hosts", "names")

    def __init__(self) -> None:
        self.blocks: dict[bytes, RequestHead] = {}
        """Version and header lines, as they were sent, and what they mean."""
        self._seen: set[int] = set()  # hashes of blocks that came once
        self.names = set(KNOWN_NAMES)
        self.hosts: set[bytes] = set()
        self.framings = dict(KNOWN_FRAMINGS)
        """By Content-Length: the framing of a request with no other field that tells of framing."""

    def learn_block(self, block: bytes, fields: dict[bytes, bytes], framing: Framing) -> None:
        """Remember `block` when it comes for the second time: those with a trace id or a nonce come once."""
        if len(block) > LEARNED_BLOCK:
            return
        seen = self._seen
        if hash(block) not in seen:
            if len(seen) >= SEEN_BLOCKS:
                seen.clear()
            seen.add(hash(block))
            return
        if len(self.blocks) >= LEARNED_BLOCKS:
            self.blocks.clear()  # other clients have come: theirs are worth more
        self.blocks[block] = RequestHead(1, tuple(fields.items()), framing)

    def learn(self, fields: dict[bytes, bytes]) -> None:
        """What a head that was let pass says to be harmless. What is full is emptied: others have come, or somebody makes
        names up, and those that come again are learned again.
        """
        names = self.names
        for name in fields:
            if name not in names and len(name) <= LEARNED_LENGTH and name.lower() not in FRAMING_NAMES:
                if len(names) >= LEARNED_NAMES:
                    names.clear()
                    names.update(KNOWN_NAMES)
                names.add(name)
        length = fields.get(b"Content-Length")
        framings = self.framings
        if (
            length is not None
            and length not in framings
            and len(length) <= LEARNED_DIGITS
            and length.isdigit()
            and int(length)
        ):
            if len(framings) >= LEARNED_LENGTHS:
                framings.clear()
                framings.update(KNOWN_FRAMINGS)
            framings[length] = Framing(content_length=int(length))
        host = fields.get(b"Host")
        if host is not None and host not in self.hosts and len(host) <= LEARNED_LENGTH and is_host(host):
            if len(self.hosts) >= LEARNED_HOSTS:
                self.hosts.clear()
            self.hosts.add(host)
