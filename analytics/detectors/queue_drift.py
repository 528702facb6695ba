"""A job that waits much longer for a runner than it used to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter

from analytics.days import known_from, length_of, since
from analytics.detectors.detector import JOB, Finding, Profile, ProfileDetector, milliseconds
from analytics.drift import Drift, Rules
from analytics.examples import every


@dataclass(frozen=True, slots=True)
class QueueDrift(ProfileDetector):
    """The job waits longer in the queue than it used to on such days: runners are too few, or some have gone.

    The theory stands in analytics/drift.py: a cumulative sum over the ranks of the last day's waits among those of the
    same weekday, or of working days or weekends, before. A wait counts when its run has ended, and where the platform
    tells it; what still waits is the matter of the detector of stuck queues.

    `ratio`                  of the median since then to the usual one, at least
    `least_extra`            that the median is longer, at least: runners often come within seconds, and any number of
                             times that is nothing
    `least_runs`, `least_hours`  since then, at least
    `least_before`           runs on the days that are compared, at least
    `false_alarms_per_year`  the bound for one job whose waits did not change

    A drift must show within some three days, so a job that runs a few times a day is not judged. After
    some weeks a long queue is usual.
    """

    by = JOB
    within: timedelta = timedelta(days=3)
    ratio: float = 1.5
    least_extra: timedelta = timedelta(seconds=60)
    least_runs: int = 10
    least_hours: int = 3
    least_before: int = 50
    false_alarms_per_year: float = 0.1

    def judge(self, profile: Profile, at_ms: int) -> Finding | None:
        """Say how long it waits, and since when."""
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
            message=f"waits {length_of(now.median_ms)} for a runner (median of {now.runs} runs since "
            f"{since(now.since_ms, profile)}), {length_of(usual.median_ms)} {usual.days} before ({usual.runs} runs)",
        )

    def cleared(self, profile: Profile, at_ms: int) -> str:
        """Say what it waits again."""
        if not profile.recent:
            return "no run has ended since"
        back = self._drift(profile).back
        if back is None:
            return "too few runs of the last days wait longer"
        began = since(back.since_ms, profile)
        return f"waits {length_of(back.median_ms)} (median of {back.runs} runs since {began}), as usual"

    def _drift(self, profile: Profile) -> Drift:
        extra_ms = milliseconds(self.least_extra)
        rules = Rules(
            self.ratio, extra_ms, self.least_runs, self.least_hours, self.least_before, self.false_alarms_per_year
        )
        return Drift(profile, attrgetter("queues"), rules)

    FIRES = (
        (*every(0.75, 0, 48, waited_seconds=5), *every(0.5, 168, 178, waited_seconds=300)),
        (*every(0.75, 0, 48, waited_seconds=0), *every(0.5, 168, 178, waited_seconds=90)),
        (*every(0.75, 0, 48, waited_seconds=600), *every(0.5, 168, 178, waited_seconds=1200)),
    )
    SILENT = (
        (*every(0.75, 0, 48, waited_seconds=5), *every(0.5, 168, 178, waited_seconds=5)),
        (*every(0.75, 0, 48, waited_seconds=1), *every(0.5, 168, 178, waited_seconds=25)),
        (*every(0.75, 0, 48, waited_seconds=600), *every(0.5, 168, 178, waited_seconds=750)),
        (*every(0.75, 0, 48, waited_seconds=5), *every(0.1, 168, 170, waited_seconds=300)),
        (*every(0.75, 0, 48), *every(0.5, 168, 178, waited_seconds=300)),
    )
