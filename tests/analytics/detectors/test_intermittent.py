from __future__ import annotations

from analytics.detectors.detector import Counts, Profile
from analytics.detectors.intermittent import Intermittent
from analytics.examples import every
from tests.analytics.detectors.told import HOUR, MONDAY, changes, last

RULE = Intermittent()
DAY = 24 * HOUR
FLAKY = every(2, 0, 96, fails=1, of=6)


def _days(*told: tuple[int, int]) -> tuple[Profile, int]:
    """Failed of so many, day by day, and a first hour of the day after."""
    days = [Counts(MONDAY + i * DAY, runs - failed, failed) for i, (failed, runs) in enumerate(told) if runs]
    hour = Counts(MONDAY + len(told) * DAY, 1)
    return Profile([hour], [*days, hour]), hour.at_ms + HOUR


def test_what_people_read_tells_numbers_and_days() -> None:
    assert changes(FLAKY, RULE) == [(73.0, "fails now and then: 7 of 37 runs since 2 Nov, on 4 of 4 days")]


def test_it_ends_when_a_week_has_hardly_a_failure_and_says_so() -> None:
    (_, raised), (hours, cleared) = changes((*FLAKY, *every(2, 96, 300)), RULE)
    assert "7 of 37 runs" in raised
    assert (hours, cleared) == (265.0, "fails 0 of 84 runs in the last 7 days")


def test_it_ends_when_the_job_is_broken_and_says_so() -> None:
    _, (hours, cleared) = changes((*FLAKY, *every(1, 96, 144, fails=1)), RULE)
    assert (hours, cleared) == (121.0, "fails 24 of the last 24 runs: broken, not intermittent")


def test_between_the_thresholds_it_stays_what_it_was() -> None:
    rare = [(1, 30)] * 8
    profile, at = _days(*[(0, 30)] * 6, *rare)
    assert RULE.judge(profile, at) is None
    profile, at = _days(*[(4, 30)] * 6, *rare)
    assert RULE.judge(profile, at) is not None


def test_failures_of_one_day_are_no_habit() -> None:
    assert RULE.judge(*_days((0, 20), (0, 20), (9, 20), (0, 20))) is None


def test_a_job_that_always_fails_half_of_the_time_or_more_is_not_intermittent() -> None:
    assert RULE.judge(*_days(*[(11, 20)] * 10)) is None
    assert RULE.judge(*_days(*[(9, 20)] * 10)) is not None


def test_three_failures_that_chance_explains_are_not_enough() -> None:
    assert RULE.judge(*_days((1, 20), (1, 20), (1, 20))) is None
    assert RULE.judge(*_days((2, 20), (2, 20), (2, 20))) is not None


def test_days_without_runs_count_as_days() -> None:
    assert RULE.judge(*_days((3, 20), *[(0, 0)] * 4, (3, 20), (0, 0), (3, 20))) is None
    assert RULE.judge(*_days((3, 20), (0, 0), (3, 20), (0, 0), (3, 20))) is not None


def test_today_changes_nothing_before_it_is_over() -> None:
    at, profile = last((*every(2, 0, 72), *every(0.5, 72, 80, fails=1, of=3)), RULE)
    assert RULE.judge(profile, at) is None
    assert RULE.cleared(profile, at) == "fails too seldom to say in the last days"


def test_what_has_left_the_profile_is_forgotten() -> None:
    old = [(4, 20)] * 4
    assert RULE.judge(*_days(*old, *[(1, 22)] * 24)) is not None
    assert RULE.judge(*_days(*old, *[(1, 22)] * 30)) is None
