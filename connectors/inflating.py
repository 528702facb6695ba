"""What was deflated, a piece at a time: a kilobyte may stand for a megabyte, and nobody should have to hold that."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

PIECE_BYTES: Final = 64 << 10
GZIP: Final = 16 + zlib.MAX_WBITS  # https://docs.python.org/3/library/zlib.html#zlib.decompress
RAW: Final = -zlib.MAX_WBITS


class Inflater(Protocol):
    """What zlib.decompressobj() makes."""

    @property
    def eof(self) -> bool:
        """Whether the end of what was deflated has come."""

    @property
    def unconsumed_tail(self) -> bytes:
        """Input that waits because a piece was full."""

    @property
    def unused_data(self) -> bytes:
        """Input behind the end."""

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes:
        """Some of what `data` stands for."""


def inflated(stream: Inflater, data: bytes) -> Iterator[bytes]:
    """What `data`, the next part of `stream`, stands for, in pieces of at most 64 KiB.

    Raises:
        zlib.error: it is no such stream.
    """
    while True:
        piece = stream.decompress(data, PIECE_BYTES)
        if piece:
            yield piece
        data = stream.unconsumed_tail
        if stream.eof or (not data and len(piece) < PIECE_BYTES):
            return
