"""A job that fails now and then: neither broken nor healthy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from math import log
from typing import Final

from analytics.days import DAY_MS, date_of, day_of
from analytics.detectors.detector import JOB, Finding, Profile, ProfileDetector
from analytics.examples import every

_DAYS: Final = 29
"""Those a profile holds: today and the 28 before."""
_WEEKS_A_YEAR: Final = 52


@dataclass(frozen=True, slots=True)
class Intermittent(ProfileDetector):
    """The job fails now and then over days: too often for a healthy one, too seldom for a broken one.

    Mozilla's Treeherder calls a group that passes half of the time or more intermittent, and takes it back when later
    data contradict it; Chromium's LUCI wants two flakes and 1 % of at least 100 verdicts; Trunk and Buildkite raise and
    clear at different thresholds, so that a job near one of them does not flicker. So here: raised when, over `days`,
    at least `least_failures` on at least `least_days` of them are a share from `raise_from` to below `raise_below` of
    at least `least_runs` runs. Cleared when the share over `days` is below `clear_below`; and when it is `broken_from`
    or more over as many of the last days as hold `least_runs` runs: then it is broken. The state is replayed over the
    days, so it needs no memory, and only whole days change it: today so far could say one thing and then another.

    `days`            of UTC that are looked at together
    `least_runs`      job runs that passed or failed
    `least_failures`  of these
    `least_days`      with a failure: a job that was broken for a day and then repaired is not intermittent
    `raise_from`      and `raise_below`, `clear_below`, `broken_from`: shares of 1
    `raise_below`, `clear_below`, `broken_from`  see `raise_from`
    `false_alarms_per_year`  of a job that fails as rarely as `clear_below`, about: so unlikely must its failures be
                             (the bound of Chernoff, Annals of Mathematical Statistics 1952, for a binomial tail)

    Counts do not know commits: of a job that runs on every branch, some of the failures are changes that were bad.
    FlakyTest has the proof of the others, and what is found here shows where to look.
    """

    by = JOB
    within: timedelta = timedelta(days=7)
    days: int = 7
    least_runs: int = 20
    least_failures: int = 3
    least_days: int = 3
    raise_from: float = 0.05
    raise_below: float = 0.5
    clear_below: float = 0.02
    false_alarms_per_year: float = 1.0
    broken_from: float = 0.6

    def judge(self, profile: Profile, at_ms: int) -> Finding | None:
        """Replay the days, and count since the first of them."""
        since, _ = self._replay(profile, at_ms)
        if since is None:
            return None
        days = [day for day in profile.days if day_of(day.at_ms) >= since]
        failing = [day for day in days if day.failed]
        failed = sum(day.failed for day in failing)
        return Finding(
            first_ms=since * DAY_MS,
            last_ms=failing[-1].at_ms,
            occurrences=failed,
            events=(),
            message=f"fails now and then: {failed} of {failed + sum(day.passed for day in days)} runs "
            f"since {date_of(since * DAY_MS)}, on {len(failing)} of {len(days)} days",
        )

    def cleared(self, profile: Profile, at_ms: int) -> str:
        """Say whether it is healthy again, or broken."""
        return self._replay(profile, at_ms)[1]

    def _replay(self, profile: Profile, at_ms: int) -> tuple[int | None, str]:
        """Since which day it has been intermittent, if it is, and why it is not, if it is not."""
        since, why = None, "fails too seldom to say in the last days"
        failing = [day.failed for day in profile.days if day.failed]
        if len(failing) < self.least_days or sum(failing) < self.least_failures:
            return since, why
        replay = _Days(profile, at_ms)
        for end in range(self.days, _DAYS):
            failed, runs, with_failures = replay.between(end - self.days, end)
            newest_failed, newest_runs = replay.newest(end, self.least_runs, self.days)
            broken = newest_runs >= self.least_runs and newest_failed >= self.broken_from * newest_runs
            if since is not None and (broken or failed < self.clear_below * runs):
                since = None
                why = (
                    f"fails {newest_failed} of the last {newest_runs} runs: broken, not intermittent"
                    if broken
                    else f"fails {failed} of {runs} runs in the last {self.days} days"
                )
            elif since is None and not broken and self._is_raised(failed, runs, with_failures):
                since = replay.first_failing(end - self.days)
        return since, why

    def _is_raised(self, failed: int, runs: int, with_failures: int) -> bool:
        if runs < self.least_runs or failed < self.least_failures or with_failures < self.least_days:
            return False
        if not self.raise_from * runs <= failed < self.raise_below * runs:
            return False
        share, clear = failed / runs, self.clear_below
        chance = failed * log(share / clear) + (runs - failed) * log((1 - share) / (1 - clear))
        return chance >= log(_WEEKS_A_YEAR / self.false_alarms_per_year)

    FIRES = (
        every(2, 0, 96, fails=1, of=6),
        (*every(4, 0, 120), *every(2, 120, 240, fails=1, of=6)),
        (*every(4, 0, 160, fails=1, of=3), *every(4, 160, 280, fails=1, of=25)),
    )
    SILENT = (
        every(4, 0, 240),
        every(2, 0, 240, fails=1, of=60),
        every(4, 0, 240, fails=1),
        every(12, 0, 96, fails=1, of=2),
        (*every(2, 0, 100), *every(1, 100, 112, fails=1), *every(2, 112, 240)),
        (*every(2, 0, 48, fails=1, of=12), *every(2, 48, 240)),
    )


class _Days:
    """Failures, runs and days with a failure, added up from the first day that a profile can hold."""

    __slots__ = ("_failed", "_failing", "_first", "_runs")

    def __init__(self, profile: Profile, at_ms: int) -> None:
        self._first: Final = day_of(at_ms - 1) - _DAYS + 1
        failed, runs = [0] * _DAYS, [0] * _DAYS
        for day in profile.days:
            place = day_of(day.at_ms) - self._first
            if 0 <= place < _DAYS:
                failed[place] = day.failed
                runs[place] = day.failed + day.passed
        self._failed: Final = list(accumulate(failed, initial=0))
        self._runs: Final = list(accumulate(runs, initial=0))
        self._failing: Final = list(accumulate(map(bool, failed), initial=0))

    def between(self, start: int, end: int) -> tuple[int, int, int]:
        """Failures, runs, and days with a failure, from one day until before another."""
        return (
            self._failed[end] - self._failed[start],
            self._runs[end] - self._runs[start],
            self._failing[end] - self._failing[start],
        )

    def newest(self, end: int, least_runs: int, most_days: int) -> tuple[int, int]:
        """Failures and runs of as many of the last days as hold so many runs."""
        start = end - 1
        while self._runs[end] - self._runs[start] < least_runs and start > end - most_days:
            start -= 1
        failed, runs, _ = self.between(start, end)
        return failed, runs

    def first_failing(self, start: int) -> int:
        """The first day with a failure, from `start` on."""
        while self._failing[start + 1] == self._failing[start]:
            start += 1
        return self._first + start
