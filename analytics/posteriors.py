"""What came of reruns, and what that makes of a score: a Beta posterior for each signature, action and attempt.

The scorer's chance is the mean of the prior, which weighs as much as four outcomes; each pass and each failure then
weighs one. A signature whose reruns never pass thus loses its score of 0.88 after four of them, and where nothing is
known yet the score stays what it was, bit for bit.

What was learnt fades: with each full week of stream time, and whenever there are more than 64, all counts are halved.
So what changed is believed within days, and what is not run again because it never passed is tried again some weeks
later. Halving is exact, so every replay comes to the same.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from analytics.rows import SEPARATOR

PRIOR_WEIGHT: Final = 4.0
"""Outcomes that the scorer's word is worth."""
WEEK_MS: Final = 7 * 86_400_000
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


class Posteriors:
    """The counts of one shard. The key longest without news is forgotten first."""

    def __init__(self) -> None:
        """Begin with nothing learnt."""
        self._counts: dict[str, list[Any]] = {}  # key -> [passes, fails, week]

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._counts)

    def of(self, signature: str | None, action: str, attempt: int, at_ms: int) -> Counts:
        """What is known at stream time `at_ms`."""
        known = self._counts.get(_key(signature, action, attempt)) if signature is not None else None
        return _NOTHING if known is None else _faded(known, at_ms)

    def count(
        self, signature: str, action: str, attempt: int, *, passed: bool, at_ms: int, since_ms: int | None = None
    ) -> None:
        """Add an outcome; with `since_ms`, take back one that was added then, as much of it as has not faded."""
        key = _key(signature, action, attempt)
        known = self._counts.pop(key, None)
        passes, fails = _NOTHING if known is None else _faded(known, at_ms)
        weight = 1.0 if since_ms is None else -(0.5 ** _weeks(since_ms, at_ms))
        passes, fails = (passes + weight, fails) if passed else (passes, fails + weight)
        passes, fails = max(passes, 0.0), max(fails, 0.0)
        while passes + fails > MOST_COUNTED:
            passes, fails = passes / 2, fails / 2
        if passes + fails < _GONE:
            return
        if len(self._counts) >= MOST_KEYS:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = [passes, fails, at_ms // WEEK_MS]

    def state(self) -> dict[str, list[Any]]:
        """All counts, longest without news first."""
        return self._counts

    def load(self, state: dict[str, list[Any]]) -> None:
        """Take what `state` gave."""
        self._counts = state


def _key(signature: str | None, action: str, attempt: int) -> str:
    return f"{signature}{SEPARATOR}{action}{SEPARATOR}{attempt}"


def _weeks(since_ms: int, at_ms: int) -> int:
    return max(at_ms // WEEK_MS - since_ms // WEEK_MS, 0)


def _faded(known: list[Any], at_ms: int) -> Counts:
    passes, fails, week = known
    left = 0.5 ** max(at_ms // WEEK_MS - week, 0)
    faded = Counts(passes * left, fails * left)
    return faded if faded.passes + faded.fails >= _GONE else _NOTHING
