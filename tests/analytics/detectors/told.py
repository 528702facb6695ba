"""Profiles as a shard would have them, made of the examples of a detector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from analytics.buckets import fine_bucket_of
from analytics.days import DAY_MS
from analytics.detectors.detector import REPOSITORY, Counts, Finding, Profile, ProfileDetector
from analytics.examples import Ran
from analytics.profiles import STRETCH_MS
from models.records.event import FAILING, Outcome

MONDAY = 20_759 * DAY_MS
HOUR = 3_600_000


def profiles(runs: Sequence[Ran], rule: ProfileDetector) -> Iterator[tuple[int, Profile]]:
    """The profile at the end of each stretch in which anything ended, and that end."""
    width, kept = STRETCH_MS[rule.by], (8 if rule.by == REPOSITORY else 24) * HOUR
    told = stretches(runs, rule)
    for i, newest in enumerate(told):
        end = newest.at_ms + width
        recent = [c for c in told[: i + 1] if c.at_ms > newest.at_ms - kept]
        days = _counted([run for run in runs if _at(run) < end], DAY_MS)
        yield end, Profile(recent, [c for c in days if c.at_ms >= end - 29 * DAY_MS])


def stretches(runs: Sequence[Ran], rule: ProfileDetector) -> list[Counts]:
    """What ended, by the stretches in which `rule` is asked."""
    return _counted(runs, STRETCH_MS[rule.by])


def answers(runs: Sequence[Ran], rule: ProfileDetector) -> list[tuple[int, Finding | None, str]]:
    """What is said stretch by stretch: when, what was found, and why nothing was."""
    return [(at, rule.judge(p, at), rule.cleared(p, at)) for at, p in profiles(runs, rule)]


def changes(runs: Sequence[Ran], rule: ProfileDetector) -> list[tuple[float, str]]:
    """What people read: hours since the example's Monday, and what was raised, or why it was cleared."""
    said, stands = [], False
    for at, finding, why in answers(runs, rule):
        if stands != (finding is not None):
            said.append((round((at - MONDAY) / HOUR, 2), why if finding is None else finding.message))
        stands = finding is not None
    return said


def last(runs: Sequence[Ran], rule: ProfileDetector) -> tuple[int, Profile]:
    """The profile after all of them."""
    return list(profiles(runs, rule))[-1]


def _at(run: Ran) -> int:
    return MONDAY + round(run.hours * HOUR)


def _counted(runs: Iterable[Ran], width: int) -> list[Counts]:
    def start(run: Ran) -> int:
        return _at(run) // width * width

    return [_counts(at, list(some)) for at, some in groupby(sorted(runs, key=start), start)]


def _counts(at: int, runs: Sequence[Ran]) -> Counts:
    passed = sum(run.outcome == Outcome.PASSED for run in runs)
    failed = sum(run.outcome in FAILING for run in runs)
    waited = [run.waited_seconds for run in runs if run.waited_seconds is not None]
    reruns = sum(run.attempt > 1 for run in runs)
    durations, queues = _buckets([run.seconds for run in runs]), _buckets(waited)
    return Counts(at, passed, failed, len(runs) - passed - failed, reruns, durations, queues)


def _buckets(seconds: Sequence[float]) -> dict[int, int]:
    buckets = fine_bucket_of((np.array(seconds, float) * 1000).astype(np.int64))
    return dict(sorted(Counter(buckets.tolist()).items()))
