"""A small composite of drawn arrivals: what is put in is found, and nothing is raised beside it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.composite import live
from benchmarks.composite.arrivals import Arrival, drawn
from benchmarks.composite.judging import backtest, compose, summary, write
from benchmarks.composite.runs import Background, planned
from benchmarks.composite.troubles import put_in
from models.records.event import SHARDS, Outcome

SEED = 7
REPOSITORIES = 60


@pytest.fixture(scope="module")
def starts() -> list[Arrival]:
    """Some hours of job starts."""
    return drawn(SEED, each=60)


@pytest.fixture(scope="module")
def said(starts: list[Arrival], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a composite without other failures came to."""
    folder = tmp_path_factory.mktemp("composite")
    composite = compose(starts, Background.QUIET, seed=SEED, repositories=REPOSITORIES)
    events, truth = write(composite, folder)
    report = backtest(events, truth, folder / "out")
    return summary(composite, folder / "out", report) | {"truth": report["said"][0]["truth"]}


def test_every_trouble_is_found_in_time(said: dict[str, Any]) -> None:
    assert said["missed"] == []
    assert said["found"] == said["troubles"] == 20
    assert said["detector_faults"] == 0
    assert all(seconds > 0 for seconds in said["seconds_to_detect"].values())
    assert said["seconds_to_detect"]["outage-1"] < 15 * 60


def test_the_backtest_says_the_same_of_its_truth_file(said: dict[str, Any]) -> None:
    assert {kind: one["recall"] for kind, one in said["truth"].items()} == dict.fromkeys(said["truth"], 1.0)
    assert sum(one["found"] for one in said["truth"].values()) == said["found"]


def test_nothing_is_raised_that_no_trouble_explains(said: dict[str, Any]) -> None:
    kinds = {kind: {sort for sort in count if not sort.startswith("echo")} for kind, count in said["alarms"].items()}
    assert set().union(*kinds.values()) == {"found"}
    assert said["not_put_in"] == 0


def test_a_composite_is_a_function_of_arrivals_and_seed(starts: list[Arrival]) -> None:
    first, again = (compose(starts, Background.STREAM, seed=SEED, repositories=REPOSITORIES) for _ in range(2))
    other = compose(starts, Background.STREAM, seed=SEED + 1, repositories=REPOSITORIES)
    assert first == again
    assert first.events != other.events


def test_backgrounds_differ_only_in_what_fails_beside_the_troubles(starts: list[Arrival]) -> None:
    each = [put_in(planned(starts, b, seed=SEED, repositories=REPOSITORIES), seed=SEED) for b in Background]
    assert each[0][1] == each[1][1] == each[2][1]
    stream, mistakes, quiet = (
        Counter((r.outcome, r.main) for r in runs if r.trouble is None and r.ends) for runs, _ in each
    )
    assert quiet.keys() == {(Outcome.PASSED, True), (Outcome.PASSED, False)}
    assert stream[Outcome.FAILED, True] > 0
    assert mistakes[Outcome.FAILED, True] == 0
    assert stream.total() == mistakes.total() == quiet.total()


def test_jobs_are_dealt_out_to_all_repositories(starts: list[Arrival]) -> None:
    runs = planned(starts, Background.QUIET, seed=SEED, repositories=REPOSITORIES)
    assert len({run.job.repository for run in runs}) == REPOSITORIES
    assert {run.job.repository.platform for run in runs} == {"github", "gitlab", "jenkins", "circleci"}


def test_arrivals_with_no_place_for_a_trouble_are_refused() -> None:
    with pytest.raises(ValueError, match="no place among 4 runs"):
        compose(drawn(SEED, jobs=2, each=2), Background.QUIET, seed=SEED)


def test_entries_begin_with_the_rules_and_stand_in_order_of_time(starts: list[Arrival]) -> None:
    composite = compose(starts, Background.QUIET, seed=SEED, repositories=REPOSITORIES)
    due = live.entries(composite)
    assert [entry.shard for entry in due[:SHARDS]] == list(range(SHARDS))
    assert {entry.name for entry in due[:SHARDS]} == {b"control.json.1"}
    assert due == sorted(due, key=lambda entry: entry.at_ms)
    assert sum(entry.name == b"event.json.1" for entry in due) == len(composite.events)


def test_without_the_data_it_says_so_and_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_DATA", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.composite"], check=True, capture_output=True, text=True, timeout=60
    )
    assert "GUARD_DATA says where it is" in done.stderr
    assert done.stdout == ""
