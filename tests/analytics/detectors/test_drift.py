from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import structs

from analytics.detectors.detector import Profile
from analytics.detectors.duration_drift import DurationDrift
from analytics.detectors.queue_drift import QueueDrift
from analytics.drift import median_of
from analytics.examples import Ran, every
from tests.analytics.detectors.told import changes, last

RULE = DurationDrift()
QUEUE = QueueDrift()
TWO_DAYS = every(0.75, 0, 48)
SLOW = every(0.5, 168, 178, seconds=100)


def test_what_people_read_tells_numbers_times_and_the_kind_of_day() -> None:
    assert changes((*TWO_DAYS, *SLOW), RULE) == [
        (173.0, "takes 99 s (median of 10 runs since 00:00 UTC), 59 s on weekdays before (64 runs)")
    ]
    mondays = (*every(0.4, 0, 24), *SLOW)
    assert changes(mondays, RULE)[0][1].endswith("59 s on Mondays before (60 runs)")


def test_it_ends_when_the_job_is_as_fast_as_usual_and_says_so() -> None:
    said = changes((*TWO_DAYS, *SLOW, *every(0.5, 178, 184)), RULE)
    assert said[1:] == [(181.0, "takes 59 s (median of 6 runs since 10:00 UTC), as usual")]


def test_a_job_between_usual_and_slow_stays_what_it_was() -> None:
    between = every(0.5, 178, 190, seconds=84)
    assert len(changes((*TWO_DAYS, *SLOW, *between), RULE)) == 1
    assert changes((*TWO_DAYS, *(run._replace(hours=run.hours - 10) for run in between)), RULE) == []


def test_two_slow_hours_are_no_drift_however_many_runs_they_have() -> None:
    assert changes((*TWO_DAYS, *every(0.01, 168, 170, seconds=600)), RULE) == []


def test_a_weekend_is_compared_with_weekends() -> None:
    slow_week = tuple(run._replace(seconds=900) for run in TWO_DAYS)
    weekend = every(0.75, 120, 168)
    assert changes((*slow_week, *weekend, *every(0.5, 288, 298)), RULE) == []
    (raised,) = changes((*slow_week, *weekend, *every(0.5, 288, 298, seconds=120)), RULE)
    assert " at weekends before (64 runs)" in raised[1]


def test_days_of_which_too_little_is_known_are_not_judged() -> None:
    friday_night = (*TWO_DAYS, *every(0.5, 287, 288, seconds=100), *every(0.1, 288, 300, seconds=100))
    assert changes(friday_night, RULE) == []


def test_a_job_with_few_runs_an_hour_is_judged_over_days() -> None:
    few = (*every(1, 0, 72), *every(3, 168, 240, seconds=200))
    (raised,) = changes(few, RULE)
    assert " since 9 Nov), " in raised[1]


def test_what_takes_seconds_must_take_ten_more() -> None:
    short = tuple(run._replace(seconds=3) for run in TWO_DAYS)
    longer = every(0.5, 168, 180, seconds=11)
    assert changes((*short, *longer), RULE) == []
    assert changes((*short, *longer), replace(RULE, least_extra=timedelta(seconds=5))) != []


def test_what_waits_seconds_must_wait_a_minute_more() -> None:
    short = every(0.75, 0, 48, waited_seconds=4)
    assert changes((*short, *every(0.5, 168, 180, waited_seconds=50)), QUEUE) == []
    said = changes((*short, *every(0.5, 168, 178, waited_seconds=90), *every(0.5, 178, 186, waited_seconds=20)), QUEUE)
    assert [text for _, text in said] == [
        "waits 83 s for a runner (median of 10 runs since 00:00 UTC), 4.4 s on weekdays before (64 runs)",
        "waits 21 s (median of 6 runs since 10:00 UTC), as usual",
    ]


@pytest.mark.parametrize("rule", [RULE, QUEUE])
def test_what_was_cleared_for_want_of_evidence_says_so(rule: DurationDrift | QueueDrift) -> None:
    at, profile = last(TWO_DAYS, rule)
    assert rule.cleared(profile, at).startswith("too few runs of the last days")
    assert rule.cleared(Profile((), ()), at) == "no run has ended since"


def test_durations_that_are_not_known_say_nothing() -> None:
    at, profile = last((*TWO_DAYS, *SLOW), RULE)
    unknown = Profile([structs.replace(c, durations={}) for c in profile.recent], profile.days)
    assert RULE.judge(unknown, at) is None


def test_half_of_the_runs_may_be_monsters_of_any_size() -> None:
    def half(seconds: float) -> tuple[Ran, ...]:
        return tuple(r._replace(seconds=60 if i % 2 else seconds) for i, r in enumerate(every(0.5, 168, 178)))

    assert changes((*TWO_DAYS, *half(100_000)), RULE) == changes((*TWO_DAYS, *half(300)), RULE)


@pytest.mark.parametrize(
    ("counts", "median_ms"), [({-1: 3}, 500), ({0: 2, 4: 2}, 1189), ({8: 4}, 4362), ({-1: 1, 40: 9}, 1105981)]
)
def test_a_median_lies_within_its_bucket(counts: dict[int, int], median_ms: int) -> None:
    assert round(median_of(counts)) == median_ms
