"""What came of reruns, and what that makes of a score: a Beta posterior for each signature, action and attempt.

The scorer's chance is the mean of the prior, which weighs as much as four outcomes. A signature whose reruns never pass
thus loses its score of 0.88 after four of them, and where nothing is known yet the score stays what it was, bit for
bit.

What comes within the same quarter of an hour is one outcome together, shared out among passes and failures as they
are: in an outage everything fails alike, and a hundred failures of one cause are no more evidence than one.

What was learnt fades: with each full week of stream time, and whenever there are more than 64, all counts are halved.
So what changed is believed within days, and what is not run again because it never passed is tried again some weeks
later. All of it is plain arithmetic in one order, so every replay comes to the same.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from analytics.rows import SEPARATOR

PRIOR_WEIGHT: Final = 4.0
"""Outcomes that the scorer's word is worth."""
WEEK_MS: Final = 7 * 86_400_000
TOGETHER_MS: Final = 900_000
"""What comes within the same one of these counts as one outcome."""
MOST_COUNTED: Final = 64.0
MOST_KEYS: Final = 10_000
_DECIMALS: Final = 6  # as scores have
_GONE: Final = 1 / 64
"""What has faded to less than this is nothing."""


class Counts(NamedTuple):
    """How many passed and failed, each fading."""

    passes: float
    fails: float

    def mean(self, prior: float) -> float:
        """The chance, where it was `prior` before anything was seen."""
        if not (self.passes or self.fails):
            return prior
        seen = PRIOR_WEIGHT + self.passes + self.fails
        return round((PRIOR_WEIGHT * prior + self.passes) / seen, _DECIMALS)


_NOTHING: Final = Counts(0.0, 0.0)


class _Known(msgspec.Struct, array_like=True):
    """What is known of one key: settled counts, as of `week`, and those of the quarter of an hour that goes on."""

    passes: float
    fails: float
    week: int
    quarter: int
    passed: int = 0
    failed: int = 0

    def counts(self, at_ms: int) -> Counts:
        """All of it together, as it weighs now."""
        left = 0.5 ** max(at_ms // WEEK_MS - self.week, 0)
        share = left / max(self.passed + self.failed, 1)
        faded = Counts(self.passes * left + self.passed * share, self.fails * left + self.failed * share)
        return faded if faded.passes + faded.fails >= _GONE else _NOTHING


class Posteriors:
    """The counts of one shard. The key longest without news is forgotten first."""

    def __init__(self) -> None:
        """Begin with nothing learnt."""
        self._known: dict[str, _Known] = {}

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._known)

    def of(self, signature: str | None, action: str, attempt: int, at_ms: int) -> Counts:
        """What is known at stream time `at_ms`."""
        known = self._known.get(_key(signature, action, attempt)) if signature is not None else None
        return _NOTHING if known is None else known.counts(at_ms)

    def count(self, signature: str, action: str, attempt: int, *, passed: bool, at_ms: int) -> float:
        """Add an outcome; what it weighs."""
        key = _key(signature, action, attempt)
        known = self._known.pop(key, None)
        if known is None and len(self._known) >= MOST_KEYS:
            del self._known[next(iter(self._known))]
        quarter = at_ms // TOGETHER_MS
        if known is None or known.quarter != quarter:
            passes, fails = _NOTHING if known is None else known.counts(at_ms)
            while passes + fails > MOST_COUNTED:
                passes, fails = passes / 2, fails / 2
            known = _Known(passes, fails, at_ms // WEEK_MS, quarter)
        self._known[key] = known
        known.passed, known.failed = known.passed + passed, known.failed + (not passed)
        return 1 / (known.passed + known.failed)

    def take_back(
        self, signature: str, action: str, attempt: int, *, passed: bool, at_ms: int, since_ms: int, weight: float
    ) -> None:
        """Take back an outcome that was added at `since_ms` and weighed so much, as far as it has not faded."""
        key = _key(signature, action, attempt)
        known = self._known.get(key)
        if known is None:
            return
        if known.quarter == since_ms // TOGETHER_MS:
            known.passed, known.failed = max(known.passed - passed, 0), max(known.failed - (not passed), 0)
        else:
            weight *= 0.5 ** max(known.week - since_ms // WEEK_MS, 0)
            known.passes = max(known.passes - weight * passed, 0.0)
            known.fails = max(known.fails - weight * (not passed), 0.0)
        if known.counts(at_ms) == _NOTHING:
            del self._known[key]

    def state(self) -> dict[str, Any]:
        """All counts, longest without news first."""
        return self._known

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self._known = msgspec.convert(state, dict[str, _Known])


def _key(signature: str | None, action: str, attempt: int) -> str:
    return f"{signature}{SEPARATOR}{action}{SEPARATOR}{attempt}"
