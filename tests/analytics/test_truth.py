"""How right alarms are, where it is known what happened."""

from __future__ import annotations

from typing import Any

import pytest

from analytics.past import Span
from analytics.truth import GRACE_MS, Alarm, Truth, judged

DAY = 86_400_000
SPAN = Span(0, 2 * DAY)
HERE = {"repository": "org/a"}


def _truth(begins: int = 1000, ends: int | None = 5000, **subject: Any) -> Truth:
    return Truth("Kind", {**HERE, **subject}, begins, ends)


def _alarm(at: int = 2000, **subject: Any) -> Alarm:
    return Alarm("Kind", {"instance": "i", **HERE, **subject}, at, "said")


def _judged(truths: list[Truth], alarms: list[Alarm]) -> dict[str, Any]:
    one: dict[str, Any] = judged(truths, alarms, SPAN)["Kind"]
    return one


def test_an_alarm_in_time_on_the_same_subject_is_true() -> None:
    one = _judged([_truth()], [_alarm()])
    assert (one["precision"], one["recall"], one["false_alarms_per_day"]) == (1.0, 1.0, 0.0)
    assert one["seconds_to_detect"] == {"p50": 1.0, "p95": 1.0, "max": 1.0}


@pytest.mark.parametrize("at", [999, 5000 + GRACE_MS + 1])
def test_an_alarm_at_another_time_is_false(at: int) -> None:
    one = _judged([_truth()], [_alarm(at)])
    assert (one["precision"], one["recall"], one["false_alarms_per_day"]) == (0.0, 0.0, 0.5)
    assert one["false"] == [{"subject": {"instance": "i", **HERE}, "at_ms": at, "message": "said"}]
    assert one["missed"] == [{"subject": HERE, "begins_ms": 1000}]


@pytest.mark.parametrize("at", [1000, 5000 + GRACE_MS])
def test_the_edges_of_its_time_count(at: int) -> None:
    assert _judged([_truth()], [_alarm(at)])["recall"] == 1.0


def test_what_never_ended_may_be_found_at_any_time() -> None:
    assert _judged([_truth(ends=None)], [_alarm(DAY)])["recall"] == 1.0


@pytest.mark.parametrize(
    ("known", "said", "true"),
    [
        ({"job_name": "test"}, {"job_name": "test"}, 1),
        ({"job_name": "test"}, {"job_name": "lint"}, 0),
        ({"job_name": "test"}, {"job_name": None}, 1),
        ({"job_name": "test"}, {}, 1),
        ({}, {"job_name": "lint"}, 1),
        ({"instance": "other"}, {}, 0),
        ({"repository": "org/b"}, {}, 0),
    ],
)
def test_only_what_both_say_of_a_subject_can_differ(known: dict[str, Any], said: dict[str, Any], true: int) -> None:
    assert _judged([_truth(**known)], [_alarm(**said)])["true"] == true


def test_a_truth_without_a_repository_is_met_by_an_alarm_of_any() -> None:
    assert _judged([Truth("Kind", {"signature": "s"}, 0, None)], [_alarm(signature="s")])["recall"] == 1.0


def test_kinds_of_which_nothing_is_known_are_not_judged() -> None:
    assert set(judged([_truth()], [_alarm()._replace(kind="Other")], SPAN)) == {"Kind"}


def test_the_first_alarm_counts_for_the_time_to_detect() -> None:
    one = _judged([_truth(), _truth(begins=0)], [_alarm(4000), _alarm(3000)])
    assert one["seconds_to_detect"] == {"p50": 2.0, "p95": 3.0, "max": 3.0}
    assert (one["true"], one["found"]) == (2, 2)


def test_nothing_found_has_no_precision() -> None:
    one = _judged([_truth()], [])
    assert (one["precision"], one["recall"], one["seconds_to_detect"]["p50"]) == (None, 0.0, None)


def test_of_less_than_an_hour_no_rate_per_day_is_said() -> None:
    assert judged([_truth()], [_alarm()], Span(0, 3_599_999))["Kind"]["false_alarms_per_day"] is None
