"""The passing index: which lines the last passing log of a job had, as hashes of its masked lines.

What a failed log has and the passing one had not is where to look first. The index is bounded: of a log with more
kinds of lines than that the smallest hashes are kept, a fair sample, and nothing is said about lines outside it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from analytics.logs.mask import MASK_VERSION, Hashes, masked_hashes
from analytics.logs.normalise import NORMALISER_VERSION, Normaliser

MOST_HASHES: Final = 20_000

_HEADER: Final = struct.Struct("<4sBBBxQ")  # magic, version of this form, of the normaliser, of the masks; the limit
_MAGIC: Final = b"PASS"
_FORM: Final = 1
_NO_LIMIT: Final = (1 << 64) - 1


class PassingIndex(NamedTuple):
    """Hashes in order, each once. `limit` is the greatest hash that something is known about."""

    hashes: Hashes
    limit: int = _NO_LIMIT

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """For each of `hashes` whether the passing log had such a line, as far as is known."""
        if not len(self.hashes):
            return np.zeros(len(hashes), np.bool_)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found: npt.NDArray[np.bool_] = self.hashes[places] == hashes
        return found

    def knows(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """For each of `hashes` whether the index can tell."""
        known: npt.NDArray[np.bool_] = hashes <= np.uint64(self.limit)
        return known

    def to_bytes(self) -> bytes:
        """The index as it is kept."""
        header = _HEADER.pack(_MAGIC, _FORM, NORMALISER_VERSION, MASK_VERSION, self.limit)
        return header + self.hashes.astype("<u8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """What `to_bytes` made; None where another version of the masks made it, or something else altogether."""
        if len(data) < _HEADER.size or (len(data) - _HEADER.size) % 8:
            return None
        *made, limit = _HEADER.unpack_from(data)
        if made != [_MAGIC, _FORM, NORMALISER_VERSION, MASK_VERSION]:
            return None
        return cls(np.frombuffer(data, "<u8", offset=_HEADER.size).astype(np.uint64), limit)


class PassingIndexing:
    """Makes the index of a passing log that is fed in chunks of any size."""

    def __init__(self) -> None:
        self._normaliser = Normaliser()
        self._index = PassingIndex(np.zeros(0, np.uint64))

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the log."""
        for block in self._normaliser.feed(chunk):
            self._add(block.text)

    def finish(self) -> PassingIndex:
        """The index, when the log has ended."""
        for block in self._normaliser.finish():
            self._add(block.text)
        return self._index

    def _add(self, text: bytes) -> None:
        hashes = np.union1d(self._index.hashes, masked_hashes(text))
        limit = self._index.limit
        if len(hashes) > MOST_HASHES:
            hashes = hashes[:MOST_HASHES]
            limit = int(hashes[-1])
        self._index = PassingIndex(hashes, limit)
