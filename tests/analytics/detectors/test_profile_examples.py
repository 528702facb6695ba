"""FIRES and SILENT of the detectors over profiles, judged as pure functions; and what all of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from analytics.detectors.detector import Profile, ProfileDetector
from analytics.detectors.duration_drift import DurationDrift
from analytics.detectors.failure_rate_shift import FailureRateShift
from analytics.detectors.intermittent import Intermittent
from analytics.detectors.queue_drift import QueueDrift
from analytics.examples import Ran
from tests.analytics.detectors.told import answers, last, stretches
from tests.analytics.stretches import profile_of

DETECTORS: Sequence[type[ProfileDetector]] = (DurationDrift, FailureRateShift, Intermittent, QueueDrift)


def _examples(*kinds: str) -> list[Any]:
    return [
        pytest.param(cls(), example, id=f"{cls.__name__}-{kind}-{i}")
        for cls in DETECTORS
        for kind in kinds
        for i, example in enumerate(getattr(cls, kind))
    ]


@pytest.mark.parametrize(("rule", "runs"), _examples("FIRES"))
def test_what_must_fire_fires_and_stands_to_the_end(rule: ProfileDetector, runs: Sequence[Ran]) -> None:
    said = [finding for _, finding, _ in answers(runs, rule)]
    assert said[-1] is not None
    assert said[-1].first_ms <= said[-1].last_ms
    assert said[-1].events == ()


@pytest.mark.parametrize(("rule", "runs"), _examples("SILENT"))
def test_what_must_be_silent_is_silent_all_the_time(rule: ProfileDetector, runs: Sequence[Ran]) -> None:
    assert [finding for _, finding, _ in answers(runs, rule) if finding] == []


@pytest.mark.parametrize(("rule", "runs"), _examples("FIRES"))
def test_what_stands_never_turns_out_to_have_begun_earlier(rule: ProfileDetector, runs: Sequence[Ran]) -> None:
    begun = [finding.first_ms for _, finding, _ in answers(runs, rule) if finding]
    assert begun == sorted(begun)


@pytest.mark.parametrize(("rule", "runs"), _examples("FIRES", "SILENT"))
def test_a_profile_is_not_changed_and_gives_the_same_answer_again(rule: ProfileDetector, runs: Sequence[Ran]) -> None:
    at, profile = last(runs, rule)
    before = repr(profile)
    assert rule.judge(profile, at) == rule.judge(profile, at)
    assert repr(profile) == before


@pytest.mark.parametrize(("rule", "runs"), _examples("FIRES"))
def test_a_profile_of_one_stretch_and_no_day_is_survived(rule: ProfileDetector, runs: Sequence[Ran]) -> None:
    at, profile = last(runs, rule)
    assert rule.judge(Profile(profile.recent[-1:], ()), at) is None
    assert rule.judge(Profile(profile.recent[-1:], profile.days[-1:]), at) is None
    assert rule.cleared(Profile((), ()), at)


@pytest.mark.parametrize(("rule", "runs"), _examples("FIRES"))
def test_profiles_of_the_tests_are_those_of_a_shard(rule: ProfileDetector, runs: Sequence[Ran]) -> None:
    _, profile = last(runs, rule)
    assert profile == profile_of(((c.at_ms, c) for c in stretches(runs, rule)), rule.by)
