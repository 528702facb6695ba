"""Durations by bucket: counts that add up, from which a median is read to a fifth.

Bucket b holds durations in [2**(b/4), 2**((b+1)/4)) seconds, and -1 those below one second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

PER_OCTAVE: Final = 4
LONGEST: Final = 99
"""The bucket of 2**25 seconds, more than a year."""
NO_BUCKET: Final = -2
"""Of what is not known."""


def fine_bucket_of(duration_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bucket of each duration; negative ones are not known."""
    seconds = np.maximum(duration_ms, 500) / 1000
    buckets = np.floor(np.log2(seconds) * PER_OCTAVE + 1e-9).astype(np.int64)
    return np.where(duration_ms < 0, NO_BUCKET, np.clip(buckets, -1, LONGEST))


def middle_ms(bucket: int) -> float:
    """A duration in the middle of `bucket`, on the logarithmic scale."""
    return 500.0 if bucket < 0 else float(1000 * 2 ** ((bucket + 0.5) / PER_OCTAVE))


def by_doubling(counts: Mapping[int, int], buckets: int) -> list[int]:
    """The same in coarse buckets: bucket i holds what is below 2**i seconds, the last one all that is longer."""
    coarse = [0] * buckets
    for bucket, count in counts.items():
        coarse[min(bucket // PER_OCTAVE + 1, buckets - 1)] += count
    return coarse
