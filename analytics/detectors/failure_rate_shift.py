"""A repository whose jobs fail more often than they used to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import lgamma, log, sqrt
from typing import Final

from analytics.days import DAY_MS, before, day_of, known_from, since
from analytics.detectors.detector import REPOSITORY, Counts, Finding, Profile, ProfileDetector
from analytics.examples import every

_STRETCHES_A_YEAR: Final = 365 * 144
_SURE_DAYS: Final = 7
"""How many days the first guess of the scatter counts for."""
_MOST_ODD: Final = 64.0
_MOST_CLUMP: Final = 100.0
"""How far off a day may be, squared: eight standard deviations, and ten failures."""
_WIDTH: Final = 2.0
"""The usual rate is taken two standard errors higher than it was seen, since it is not known exactly."""
_CLEAR_AT: Final = log(100)
_GUESS_RUNS: Final = 4.0
"""How many job runs the prior of the higher rate counts for."""


@dataclass(slots=True)
class _Tally:
    """Job runs that failed, of how many, from which moment on."""

    since_ms: int
    failed: int = 0
    runs: int = 0
    stretches: int = 0  # in which any failed
    last_ms: int = 0  # the last of them

    def add(self, stretch: Counts) -> None:
        self.failed += stretch.failed
        self.runs += stretch.failed + stretch.passed
        if stretch.failed:
            self.stretches += 1
            self.last_ms = stretch.at_ms


@dataclass(frozen=True, slots=True)
class FailureRateShift(ProfileDetector):
    """The share of a repository's job runs that fail has risen, and chance does not explain it.

    A change point by a cumulative sum (Page, Biometrika 1954). Stretch by stretch of ten minutes, and before them day
    by day for three days, it asks how much likelier all since a beginning is at a higher rate of failures than at the
    usual one, as a logarithm. Where that falls to nought the beginning is given up, and what was since then is usual;
    since when it stands above is when the shift began. The higher rate is not known: all are weighed, about the least
    one that is looked for (a mixture with a beta prior, after Robbins and Siegmund, Annals of Statistics 1974). The
    usual one is taken from all that was before, two standard errors up.

    The rate of false alarms is stated, whatever the usual rate and the volume: from one beginning the likelihood ratio
    ever exceeds e**h with a chance of at most e**-h (Ville), and there is at most one beginning a stretch (Lorden,
    Annals of Mathematical Statistics 1971). How job runs fail in clumps, all jobs of one run together, is measured by
    how much more the days scatter than single runs would make them (the design effect): evidence counts for that much
    less. For a known higher rate that keeps the bound for clumps of that size, however they hang together (Hoelder's
    inequality); benchmarks/false_alarms.py measures it for this one. Within the shift the same is asked the other way:
    it ends when the usual rate is a hundred times likelier than one that is half-way back.

    `false_alarms_per_year`  the bound for one repository, at a constant rate of failures
    `ratio`, `step`          a shift is at least to `ratio` times the usual share, and by `step` (0.1: ten in a hundred)
    `least_before`           job runs before the shift, at least
    `least_stretches`        with a failure since it began, at least: one run with many jobs is no shift
    `clump`                  job runs that fail together, as long as the days do not say

    What ended neither passed nor failed does not count. A shift must show within some three days, and one that lasts
    stands until it has become usual, after a week or two.
    """

    by = REPOSITORY
    within: timedelta = timedelta(days=3)
    false_alarms_per_year: float = 1.0
    ratio: float = 2.0
    step: float = 0.1
    least_before: int = 30
    least_stretches: int = 3
    clump: float = 3.0

    def judge(self, profile: Profile, at_ms: int) -> Finding | None:
        """Replay the sum over the last days and stretches, and say where it stands."""
        replay = _Replay(self, profile)
        if not replay.shifted:
            return None
        now, usual = replay.now, replay.before
        first_ms = known_from(now.since_ms, profile)
        days = day_of(now.since_ms) - day_of(profile.days[0].at_ms)
        return Finding(
            first_ms=first_ms,
            last_ms=max(first_ms, now.last_ms),
            occurrences=now.failed,
            events=(),
            message=f"fails {now.failed} of {now.runs} job runs since {since(now.since_ms, profile)}, "
            f"{usual.failed} of {usual.runs} " + (f"in the {days} days before" if days > 1 else "before"),
        )

    def cleared(self, profile: Profile, at_ms: int) -> str:
        """Say that the rate is back, or that too little is heard."""
        if not profile.recent:
            return "no job has ended since"
        replay = _Replay(self, profile)
        if replay.back is not None:
            back = replay.back
            return f"fails {back.failed} of {back.runs} job runs since {since(back.since_ms, profile)}, as usual"
        usual = replay.before
        return f"usual are {usual.failed} of {usual.runs} job runs: the last days do not fail clearly more often"

    FIRES = (
        (*every(1, 0, 48), *every(0.1, 48, 51, fails=1)),
        (*every(0.5, 0, 48, fails=1, of=24), *every(0.1, 72, 77, fails=4, of=5)),
        (*every(0.05, 0, 4, fails=1, of=20), *every(0.05, 4, 6, fails=1)),
    )
    SILENT = (
        every(0.5, 0, 48, fails=1, of=5),
        (*every(0.5, 0, 36, fails=1, of=5), *every(0.02, 36, 37, fails=1, of=5)),
        (*every(0.5, 0, 48, fails=1, of=24), *every(0.005, 48, 48.1, fails=1)),
        (*every(0.5, 0, 48, fails=1, of=2), *every(0.5, 48, 56)),
        every(0.05, 0, 1, fails=1),
    )


class _Replay:
    """The state to which days and stretches lead: `shifted` or not, and what was counted on the way."""

    __slots__ = ("_clear_at", "_evidence", "_least", "_raise_at", "_rule", "_scatter", "_usual",
                 "back", "before", "now", "shifted")  # fmt: skip

    def __init__(self, rule: FailureRateShift, profile: Profile) -> None:
        older, last = before(profile)
        self.before: Final = _Tally(0)
        for day in older:
            self.before.add(day)
        self._rule: Final = rule
        self._scatter: Final = _scatter(older, self.before, rule.clump)
        self._raise_at: Final = self._scatter * log(_STRETCHES_A_YEAR / rule.false_alarms_per_year)
        self._clear_at: Final = self._scatter * _CLEAR_AT
        self.shifted = False
        self.now = _Tally(0)
        self.back: _Tally | None = None
        self._evidence = 0.0
        for stretch in (*last, _rest_of_day(profile), *profile.recent):
            if self.shifted:
                self._within(stretch)
            elif self._evidence or stretch.failed:
                self._outside(stretch)
            else:
                self.before.runs += stretch.passed

    def _outside(self, stretch: Counts) -> None:
        """Look for a shift that has begun; what speaks for none is usual."""
        usual, rule = self.before, self._rule
        if usual.runs < rule.least_before:
            usual.add(stretch)
            return
        if not self._evidence:
            self._begin(stretch.at_ms)
        now = self.now
        now.add(stretch)
        self._evidence = self._for_shift()
        if self._evidence <= 0:
            self._evidence = 0.0
            usual.failed += now.failed
            usual.runs += now.runs
        elif self._evidence >= self._raise_at and self._is_shift():
            self.shifted, self._evidence, self.back = True, 0.0, None

    def _is_shift(self) -> bool:
        now, usual = self.now, self.before.failed / self.before.runs
        return now.stretches >= self._rule.least_stretches and now.failed >= _least_shift(self._rule, usual) * now.runs

    def _begin(self, at_ms: int) -> None:
        self.now = _Tally(at_ms)
        self._usual = _no_more_than(self.before, self._scatter)
        self._least = _least_shift(self._rule, self._usual)

    def _for_shift(self) -> float:
        """How much likelier all since it began is at a higher rate, whatever that is; 0 where it is no higher."""
        failed, passed = self.now.failed, self.now.runs - self.now.failed
        if failed <= self._usual * (failed + passed):
            return 0.0
        guess, calm = _GUESS_RUNS * self._least, _GUESS_RUNS * (1 - self._least)
        shifted = _log_beta(failed + guess, passed + calm) - _log_beta(guess, calm)
        return shifted - failed * log(self._usual) - passed * log(1 - self._usual)

    def _within(self, stretch: Counts) -> None:
        """Look for the end of the shift."""
        if self.back is None:
            self.back = _Tally(stretch.at_ms)
        now, back, usual = self.now, self.back, self.before
        half_way, rate = (self._least + now.failed / now.runs) / 2, (usual.failed + 0.5) / (usual.runs + 1)
        self._evidence += stretch.failed * log(rate / half_way) + stretch.passed * log((1 - rate) / (1 - half_way))
        back.add(stretch)
        if self._evidence >= self._clear_at:
            self.shifted, self._evidence = False, 0.0
        elif self._evidence <= 0:
            self._evidence, self.back = 0.0, None
            now.failed += back.failed
            now.runs += back.runs
            now.last_ms = max(now.last_ms, back.last_ms)


def _rest_of_day(profile: Profile) -> Counts:
    """What ended on the day of the first stretch of `recent` before it."""
    first = profile.recent[0].at_ms // DAY_MS * DAY_MS
    day = next((day for day in profile.days if day.at_ms == first), Counts(first))
    told = [stretch for stretch in profile.recent if stretch.at_ms < first + DAY_MS]
    failed = max(0, day.failed - sum(stretch.failed for stretch in told))
    return Counts(first, max(0, day.passed - sum(stretch.passed for stretch in told)), failed)


def _least_shift(rule: FailureRateShift, usual: float) -> float:
    return min(max(usual * rule.ratio, usual + rule.step), (1 + usual) / 2)


def _log_beta(failed: float, passed: float) -> float:
    return lgamma(failed) + lgamma(passed) - lgamma(failed + passed)


def _no_more_than(tally: _Tally, scatter: float) -> float:
    """An upper limit of the rate: Wilson's, of as many runs as the tally is worth (Wilson, JASA 1927)."""
    runs = tally.runs / scatter
    rate, spread = tally.failed / tally.runs, _WIDTH * _WIDTH / runs
    return (rate + spread / 2 + sqrt(spread * (rate * (1 - rate) + spread / 4))) / (1 + spread)


def _scatter(days: Sequence[Counts], all_days: _Tally, clump: float) -> float:
    """How much more the days differ than if each job run failed on its own: the variance of their failures by that
    of a binomial one, to begin with `clump`. A day that is odd beyond that was a shift itself, and counts for less.
    """
    rate = (all_days.failed + 0.5) / (all_days.runs + 1)
    odd = expected = 0.0
    for day in days:
        runs = day.failed + day.passed
        variance = runs * rate * (1 - rate)
        expected += variance
        odd += min((day.failed - runs * rate) ** 2, max(_MOST_ODD * variance, _MOST_CLUMP))
    measured = odd / expected if expected else clump
    return max(1.0, (clump * _SURE_DAYS + measured * len(days)) / (_SURE_DAYS + len(days)))
