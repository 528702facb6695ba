"""F1, and the half of F2 that is the flow's: its processes die at any moment, and no row shows it."""

from __future__ import annotations

import random
import statistics
import time

import pytest

from tests.faults.harness import SOON, Flow, Ground, changed, count_absorbed, pace, story

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

RESTART_SECONDS = 20.0
"""Far above what it takes (RELIABILITY: below 5 s): the machine may be busy with other tests."""


@pytest.mark.parametrize(("processes", "kills"), [(1, 10), (2, 5)])
def test_kills_at_random_moments_leave_exactly_the_rows_of_a_calm_run(
    ground: Ground, rng: random.Random, processes: int, kills: int
) -> None:
    entries = story(rng.randrange(1 << 30))
    ground.variables |= SOON
    absorbed = count_absorbed(ground)
    seconds: list[float] = []
    with Flow(ground, processes=processes, flow__snapshot_seconds=rng.uniform(0.5, 1.0)) as flow:
        with pace(ground, entries, seconds=3.5 * kills):
            flow.first_output()
            for kill in range(kills):
                wait_a_while(rng)
                if kill == kills // 2:  # from the next start on, the operator's settings are other ones
                    ground.variables |= changed(
                        RepeatedFailure={"threshold": 2}, StuckJob={"patience": "20m", "patience_unknown": "20m"}
                    )
                flow.kill(rng)
                if kill % 4 == 3:  # and again before it came to anything
                    flow.kill(rng)
                seconds.append(flow.first_output())
        ground.drain(flow)
    print("absorbed", absorbed(), "restart to first output, s:", [round(s, 2) for s in seconds])  # noqa: T201
    assert absorbed(), "no replayed row met itself: the kills tested nothing"
    report = ground.check()
    report.must_be_exact()
    assert all(count or table == "detector_faults" for table, count in report.rows.items())
    assert len(flow.births) >= (kills + 1) * processes
    assert statistics.median(seconds) < RESTART_SECONDS


def wait_a_while(rng: random.Random) -> None:
    """The moment of a kill is what is tested, and it is drawn; nothing is waited for here."""
    time.sleep(rng.uniform(0.0, 1.2))
