"""Masks: a line without what varies from run to run, so that two runs of one job can be compared.

Whatever holds a digit goes, with what hangs on it and the blanks before it: numbers, sizes, durations, versions,
dates, ids, hashes, uuids, addresses, ports, line numbers, names of pods and containers. So do temporary paths, and the
length of rulers and progress bars. Masking twice is masking once.

A masked line's hash is the same in every process and on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from analytics.logs.marks import Indices
from analytics.logs.pages import starts_of

MASK_VERSION: Final = 1
MASKED: Final = "<*>"

Hashes = npt.NDArray[np.uint64]

_UNITS: Final = "[kKMGT]i?B|B|bytes|ms|us|ns|s|secs?|seconds?|m|mins?|minutes?|h|hours?|%"
_VARIES: Final = (
    r"(?:[ \t]*(?:"
    rf"[A-Za-z_]*[0-9][0-9A-Za-z_.:,+@-]*(?: ?(?:{_UNITS})(?-u:\b))?"
    r"|/(?:private/)?(?:tmp|var/tmp|var/folders)/[^ \t\n:'\")\]]+"
    r"|[.=*#~_-]{4,}>?"
    r"))+"
)
_WORD_BYTES: Final = 8
_PLACE: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mask(text: str) -> str:
    """One line or several, masked."""
    masked: str = pl.Series([text]).str.replace_all(_VARIES, MASKED)[0]
    return masked


def masked_hashes(text: bytes) -> Hashes:
    """The hash of each masked line of `text`, which is in UTF-8 and of which each line ends with its line break."""
    masked: bytes = pl.Series([text]).cast(pl.String).str.replace_all(_VARIES, MASKED).cast(pl.Binary)[0]
    return _hashes(masked, starts_of(masked))


def _hashes(text: bytes, starts: Indices) -> Hashes:
    """A hash of each line: its words of eight bytes, each mixed with its place, added up."""
    lengths = np.diff(starts) - 1
    counts = np.maximum((lengths + _WORD_BYTES - 1) // _WORD_BYTES, 1)
    firsts = np.cumsum(counts) - counts
    places = np.arange(counts.sum()) - np.repeat(firsts, counts)
    left = np.repeat(lengths, counts) - _WORD_BYTES * places
    every: Hashes = np.ndarray(len(text) + 1, "<u8", text + bytes(_WORD_BYTES), 0, (1,))
    words = every[np.repeat(starts[:-1], counts) + _WORD_BYTES * places]
    last = left < _WORD_BYTES
    words[last] &= (np.uint64(1) << (left[last] * _WORD_BYTES).astype(np.uint64)) - np.uint64(1)
    mixed = _mixed(words + (places + 1).astype(np.uint64) * _PLACE)
    return _mixed(np.add.reduceat(mixed, firsts) + lengths.astype(np.uint64)) if len(lengths) else mixed


def _mixed(values: Hashes) -> Hashes:
    """SplitMix64's last steps: every bit of a value moves every bit of the result."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
