from __future__ import annotations

import random
from dataclasses import replace

import pytest

from analytics.detectors.detector import Counts, Profile
from analytics.detectors.failure_rate_shift import FailureRateShift
from analytics.examples import Ran, every
from models.records.event import Outcome
from tests.analytics.detectors.told import HOUR, MONDAY, changes, last, profiles

RULE = FailureRateShift()
DAY = 24 * HOUR
CALM = every(0.5, 0, 120, fails=1, of=24)
BROKEN = every(0.1, 120, 122, fails=1)


def test_what_people_read_tells_numbers_and_times() -> None:
    assert changes((*CALM, *BROKEN), RULE) == [
        (121.67, "fails 17 of 17 job runs since 00:00 UTC, 10 of 240 in the 5 days before")
    ]


def test_it_ends_when_the_rate_is_back_and_says_so() -> None:
    said = changes((*CALM, *BROKEN, *every(0.1, 122, 126)), RULE)
    assert [text for _, text in said[1:]] == ["fails 0 of 14 job runs since 02:00 UTC, as usual"]


def test_a_few_that_pass_do_not_end_it() -> None:
    mixed = (*CALM, *BROKEN, *every(0.1, 122, 122.5), *every(0.1, 122.5, 125, fails=1, of=2))
    assert len(changes(mixed, RULE)) == 1


def test_a_rate_that_is_only_half_back_stands() -> None:
    assert len(changes((*CALM, *BROKEN, *every(0.1, 122, 128, fails=1, of=3)), RULE)) == 1


def test_it_can_be_raised_again_after_it_ended() -> None:
    again = (*CALM, *BROKEN, *every(0.1, 122, 126), *every(0.1, 126, 128, fails=1))
    assert [text.partition(" since ")[2][:5] for _, text in changes(again, RULE)] == ["00:00", "02:00", "06:00"]


def test_ten_times_the_volume_at_the_same_rate_is_no_shift() -> None:
    assert changes((*CALM, *every(0.01, 120, 126, fails=1, of=24)), RULE) == []


def test_a_rate_that_falls_is_no_shift() -> None:
    assert changes((*every(0.25, 0, 120, fails=1, of=2), *every(0.1, 120, 126)), RULE) == []


def test_one_run_with_many_jobs_is_no_shift() -> None:
    at_once = tuple(run._replace(hours=120.0) for run in every(0.01, 120, 121, fails=1))
    assert changes((*CALM, *at_once), RULE) == []
    assert changes((*CALM, *at_once), replace(RULE, least_stretches=1)) != []


def test_clumps_among_the_days_make_it_ask_for_more() -> None:
    def days(failed: list[int]) -> list[Counts]:
        return [Counts(MONDAY + i * DAY, 100 - f, f) for i, f in enumerate(failed)]

    recent = [Counts(MONDAY + 20 * DAY + i * HOUR // 6, 5, 5) for i in range(4)]
    end = recent[-1].at_ms + HOUR // 6
    assert RULE.judge(Profile(recent, days([5] * 20)), end) is not None
    assert RULE.judge(Profile(recent, days([0, 0, 0, 20] * 5)), end) is None


def test_a_day_that_was_an_outage_does_not_deafen_it() -> None:
    days = [Counts(MONDAY + i * DAY, 285 - 270 * (i == 9), 15 + 270 * (i == 9)) for i in range(20)]
    recent = [Counts(MONDAY + 20 * DAY + i * HOUR // 6, 5, 15) for i in range(8)]
    assert RULE.judge(Profile(recent, days), recent[-1].at_ms + HOUR // 6) is not None


def test_a_slow_repository_is_judged_over_days() -> None:
    slow = (*every(1, 0, 240, fails=1, of=24), *every(1, 240, 300, fails=2, of=3))
    assert [" since 12 Nov, " in text for _, text in changes(slow, RULE)] == [True]


def test_nothing_is_counted_twice() -> None:
    runs = (*CALM, *BROKEN)
    at, profile = last(runs, RULE)
    finding = RULE.judge(profile, at)
    assert finding is not None
    assert finding.occurrences == len(BROKEN)
    assert f"{len(BROKEN)} of {len(BROKEN)} job runs" in finding.message
    assert f"of {len(CALM)} in" in finding.message


def test_what_was_cleared_for_want_of_evidence_says_so() -> None:
    at, profile = last(CALM, RULE)
    assert RULE.cleared(profile, at) == "usual are 10 of 240 job runs: the last days do not fail clearly more often"
    assert RULE.cleared(Profile((), ()), at) == "no job has ended since"


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_the_beginning_is_near_the_true_one(rng: random.Random, share: float) -> None:
    """The shift begins five hours after midnight; the example has so many random failures from then on."""
    shifted = [Outcome.FAILED if rng.random() < share else Outcome.PASSED for _ in range(80)]
    runs = [*every(0.5, 0, 120, fails=1, of=20), *(Ran(125 + i * 0.05, outcome) for i, outcome in enumerate(shifted))]
    found = [finding for at, p in profiles(runs, RULE) if (finding := RULE.judge(p, at))]
    assert found
    assert abs(found[0].first_ms - (MONDAY + 125 * HOUR)) <= 2 * HOUR
