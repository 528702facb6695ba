"""The outage benchmark's own judgement, and what its decisions ask for."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec
import pytest

from benchmarks.outage import Sky, _case_of, _decision, _judged
from benchmarks.world.records import Ending
from models.records.calls import from_row

ARGS = argparse.Namespace(repositories=40, outage=600.0, pushes=0.5, speed=20.0, seed=7, healers=1)


@pytest.fixture(scope="module")
def sky() -> Sky:
    """A world at the end of its outage, every failure of which was decided on."""
    sky = Sky(ARGS)
    for _ in sky.world.happenings(sky.ends):
        pass
    for attempts in sky.world.attempts.values():
        failed = [job for job in attempts[0].jobs if job.ending is Ending.FAILED]
        if failed and all(job.flaky for job in failed) and attempts[0].ended(sky.ends):
            sky.cases[attempts[0].uid] = attempts[0]
    return sky


def test_what_is_decided_names_its_run_on_every_platform(sky: Sky) -> None:
    platforms = set()
    for attempt in sky.cases.values():
        row = _decision(attempt, [job for job in attempt.jobs if job.ending is Ending.FAILED])
        calls = [from_row(call) for call in msgspec.json.decode(row["calls"])]
        assert {call.pipeline_id for call in calls} == {row["pipeline_id"]}
        assert row["case_id"] == _case_of(attempt)
        platforms.add(row["platform"])
    assert platforms == {"github", "gitlab", "jenkins", "circleci"}


def test_what_waits_still_and_what_is_nowhere_is_lost(sky: Sky) -> None:
    struck = list(sky.struck())
    assert len(struck) > 10
    ends = [(case, "finished", "done") for case in struck]
    asked: list[Any] = [(case, sky.clock.seconds(sky.ends + 100), False) for case in struck]
    asked[0] = (struck[0], sky.clock.seconds(sky.ends - 100), True)
    judged = _judged(sky, ends, asked, ARGS)
    assert (judged["lost"], judged["during"], judged["probes"], judged["drained_seconds"]) == (0, 1, 1, 100.0)
    assert 0 < judged["of_twice"] == round(1 / sky.twice(), 4) < 1
    assert _judged(sky, [*ends[2:], (struck[0], "waiting", "incident")], asked, ARGS)["lost"] == 2
