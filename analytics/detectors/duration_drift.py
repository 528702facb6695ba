"""A job that takes much longer than it used to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter

from analytics.days import known_from, length_of, since
from analytics.detectors.detector import JOB, Finding, Profile, ProfileDetector, milliseconds
from analytics.drift import Drift, Rules
from analytics.examples import every


@dataclass(frozen=True, slots=True)
class DurationDrift(ProfileDetector):
    """The job takes longer than it used to on such days: a cache is lost, a runner is slow, or the work has grown.

    The theory stands in analytics/drift.py: a cumulative sum over the ranks of the last day's runs among those of the
    same weekday, or of working days or weekends, before. It counts every run that ended, failed ones too, whose
    durations are known; only slower runs raise it. Found are medians `ratio` times the usual, and by `least_extra`.

    `ratio`                  of the median since then to the usual one, at least
    `least_extra`            that the median is longer, at least: of a job of three seconds, five are no news
    `least_runs`, `least_hours`  since then, at least
    `least_before`           runs on the days that are compared, at least
    `false_alarms_per_year`  the bound for one job whose durations did not change

    A drift must show within some three days, so a job that runs a few times a day is not judged. After
    some weeks what is slow is usual.
    """

    by = JOB
    within: timedelta = timedelta(days=3)
    ratio: float = 1.5
    least_extra: timedelta = timedelta(seconds=10)
    least_runs: int = 10
    least_hours: int = 3
    least_before: int = 50
    false_alarms_per_year: float = 0.1

    def judge(self, profile: Profile, at_ms: int) -> Finding | None:
        """Say how slow it has become, and since when."""
        drift = self._drift(profile)
        now, usual = drift.now, drift.usual
        if not drift.slower or usual is None:
            return None
        first_ms = known_from(now.since_ms, profile)
        return Finding(
            first_ms=first_ms,
            last_ms=max(first_ms, now.last_ms),
            occurrences=now.runs,
            events=(),
            message=f"takes {length_of(now.median_ms)} (median of {now.runs} runs "
            f"since {since(now.since_ms, profile)}), "
            f"{length_of(usual.median_ms)} {usual.days} before ({usual.runs} runs)",
        )

    def cleared(self, profile: Profile, at_ms: int) -> str:
        """Say what it takes again."""
        if not profile.recent:
            return "no run has ended since"
        back = self._drift(profile).back
        if back is None:
            return "too few runs of the last days are slower"
        began = since(back.since_ms, profile)
        return f"takes {length_of(back.median_ms)} (median of {back.runs} runs since {began}), as usual"

    def _drift(self, profile: Profile) -> Drift:
        extra_ms = milliseconds(self.least_extra)
        rules = Rules(
            self.ratio, extra_ms, self.least_runs, self.least_hours, self.least_before, self.false_alarms_per_year
        )
        return Drift(profile, attrgetter("durations"), rules)

    FIRES = (
        (*every(0.75, 0, 48), *every(0.5, 168, 178, seconds=100)),
        (*every(0.4, 0, 24, seconds=600), *every(0.2, 168, 173, seconds=1200)),
        (*every(0.75, 0, 48, seconds=900), *every(0.75, 120, 168), *every(0.5, 288, 298, seconds=200)),
    )
    SILENT = (
        (*every(0.75, 0, 48), *every(0.5, 168, 178)),
        (*every(0.75, 0, 48), *every(0.5, 168, 178, seconds=75)),
        (*every(0.75, 0, 48), *every(0.1, 168, 170, seconds=120)),
        (*every(0.75, 0, 48, seconds=3), *every(0.5, 168, 178, seconds=6)),
        (*every(0.75, 0, 48), *every(0.5, 168, 178, seconds=30)),
        (*every(0.75, 0, 48, seconds=900), *every(0.75, 120, 168), *every(0.5, 168, 178, seconds=900)),
        (*every(1, 0, 24), *every(0.5, 168, 178, seconds=100)),
    )
