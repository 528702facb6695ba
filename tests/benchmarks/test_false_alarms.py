"""The false alarms of the detectors over profiles, measured on a little load; benchmarks/false_alarms.py has much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics.detectors.detector import ProfileDetector
from analytics.detectors.duration_drift import DurationDrift
from analytics.detectors.failure_rate_shift import FailureRateShift
from analytics.detectors.intermittent import Intermittent
from analytics.detectors.queue_drift import QueueDrift
from benchmarks.false_alarms import Load, delay_hours, false_alarms

SEED = 20261126


@pytest.mark.parametrize(
    ("rule", "load", "keys"),
    [
        (FailureRateShift(), Load(runs_a_day=100, rate=0.05), 4),
        (FailureRateShift(), Load(runs_a_day=300, rate=0.3), 2),
        (DurationDrift(), Load(runs_a_day=60, swing=0.2), 6),
        (QueueDrift(), Load(runs_a_day=60, wait=30, swing=0.2), 6),
        (Intermittent(), Load(runs_a_day=60, rate=0.01), 10),
    ],
)
def test_where_nothing_changes_nothing_is_raised(rule: ProfileDetector, load: Load, keys: int) -> None:
    """At most one false alarm in a year is promised; these are three to ten months."""
    measured = [false_alarms(rule, load, (SEED, i)) for i in range(keys)]
    assert sum(raised for raised, _, _ in measured) == 0
    assert all(asked > 400 for _, asked, _ in measured)


@pytest.mark.parametrize(
    ("rule", "load", "hours"),
    [
        (FailureRateShift(), Load(300, to_rate=0.25), 24),
        (FailureRateShift(), Load(300, to_rate=1.0), 6),
        (DurationDrift(), Load(100, slower=2.0), 18),
        (QueueDrift(), Load(100, longer=30.0), 14),
    ],
)
def test_what_is_planted_is_found(rule: ProfileDetector, load: Load, hours: float) -> None:
    delays = [delay_hours(rule, load, (SEED, i)) for i in range(5)]
    assert all(delay is not None and delay <= hours for delay in delays), delays


def test_nothing_planted_is_not_found() -> None:
    assert delay_hours(FailureRateShift(), replace(Load(30), rate=0.02), (SEED, 0)) is None
