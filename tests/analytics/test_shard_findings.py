"""What a shard finds in histories and by absence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.shard import TURN_MS
from models.records.event import Event, Outcome
from models.records.outputs import ShardOutput
from tests.analytics.log import (
    MINUTE,
    OTHER_RULEBOOK,
    RULEBOOK,
    T0,
    Log,
    fresh,
    one_by_one,
    play,
    resolver,
    standing,
)
from tests.events import make_event

HOUR = 60 * MINUTE
RUN: dict[str, Any] = {"job_id": None, "job_name": None}
TRANSIENT = {"step": "Set up job"}


def _decided(said: ShardOutput) -> list[tuple[int, str, str]]:
    return [(row.revision, row.verdict, row.reason) for row in said.decisions]


def _found(said: ShardOutput, detector: str) -> list[tuple[int, str, int]]:
    return [(row.revision, row.state, (row.at_ms - T0) // 1000) for row in said.findings if row.detector == detector]


def _fail(log: Log, minute: float, run: str, received: float | None = None, **given: Any) -> Event:
    at = T0 + round(minute * MINUTE)
    return log.say(
        given.pop("outcome", Outcome.FAILED),
        at,
        pipeline_id=run,
        job_id=f"job-{run}",
        received_ms=at if received is None else T0 + round(received * MINUTE),
        **given,
    )


def test_a_repeated_failure_is_raised_changed_and_cleared() -> None:
    log = Log()
    for minute in range(4):
        _fail(log, minute, str(minute))
    log.heartbeats(T0 + 3 * MINUTE, T0 + 40 * MINUTE)
    said, _ = play(log.entries)
    # At 30 minutes three are left, at 31 two: time takes findings away and changes none.
    assert _found(said, "RepeatedFailure") == [(0, "raised", 120), (1, "changed", 180), (2, "cleared", 31 * 60)]
    assert len({row.finding_id for row in said.findings}) == 1


def test_a_finding_that_began_earlier_than_was_known_is_another_one() -> None:
    log = Log()
    events = {m: _fail(log, m, str(m), received=10) for m in (5, 6, 7, 4)}
    said, _ = play(log.entries)
    assert [(row.revision, row.state) for row in said.findings] == [(0, "raised"), (1, "cleared"), (0, "raised")]
    (stands,) = standing(said)
    assert stands.events == [events[m].id for m in (4, 5, 6, 7)]
    assert stands.first_ms == T0 + 4 * MINUTE


def test_a_finding_that_returns_under_its_id_has_a_higher_revision() -> None:
    log = Log()
    for minute in (10, 11, 12):
        _fail(log, minute, str(minute))
    log.control(T0 + 13 * MINUTE, four := rulebooks.compose(detectors={"RepeatedFailure": {"threshold": 4}}))
    log.control(T0 + 14 * MINUTE, RULEBOOK)
    _fail(log, 15, "15")
    resolve = resolver(four)
    said, _ = play(log.entries, fresh(resolve=resolve), sizes=one_by_one(), restores=lambda: True, resolve=resolve)
    assert [(row.revision, row.state) for row in said.findings] == [(0, "raised"), (1, "cleared"), (2, "raised")]
    assert len({row.finding_id for row in said.findings}) == 1


def test_a_pass_shortly_before_its_failure_was_told_counts() -> None:
    log = Log()
    log.heartbeats(T0, T0 + TURN_MS - 1)
    _fail(log, 4.9, "1", outcome=Outcome.PASSED, attempt=2)  # remembered at the end of a turn
    log.heartbeats(T0 + TURN_MS, T0 + TURN_MS)
    _fail(log, 5.5, "2", outcome=Outcome.PASSED, attempt=2)
    log.heartbeats(T0 + 9 * MINUTE, T0 + 10 * MINUTE)
    _fail(log, 5.4, "2", received=10.2)
    said, _ = play(log.entries)
    assert [row.detector for row in standing(said)] == ["FlakyTest"]


def test_of_very_many_passes_the_newest_are_kept_whatever_their_order() -> None:
    for order in (range(100), reversed(range(100))):
        log = Log()
        for i in order:
            _fail(log, i / 100, f"p{i}", received=2, outcome=Outcome.PASSED)
        _fail(log, 0.901, "f", received=2)
        said, shard = play(log.entries)
        (history,) = shard._scopes.jobs._histories.values()
        kept = [f"p{i}" for i in range(37, 100)]
        assert [s.pipeline_id for s in history.seen] == [*kept[:54], "f", *kept[54:]]
        assert standing(said)[0].detector == "FlakyTest"


def test_an_old_event_that_a_full_history_has_no_room_for_changes_nothing() -> None:
    log = Log()
    for i in range(64):
        _fail(log, 1 + i / 100, str(i))
    said, shard = play(log.entries)
    late = Log()
    _fail(late, 0.5, "late", received=2)
    more, shard = play(late.entries, shard)
    assert more.findings == []
    (history,) = shard._scopes.jobs._histories.values()
    assert len(history.seen) == 64
    assert len(more.failures) == 1
    assert _decided(more) == [(0, "skip", "unknown_cause")]
    assert standing(said)[0].occurrences == 64


def test_a_busy_job_whose_failures_are_pushed_out_is_judged_by_what_is_left() -> None:
    log = Log()
    for i in range(3):
        _fail(log, i / 10, f"f{i}", commit_sha=None)
    for i in range(64):
        _fail(log, 1 + i / 100, f"p{i}", outcome=Outcome.PASSED, commit_sha=None)
    whole, _ = play(log.entries)
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert standing(whole) == []
    assert restarted.findings == whole.findings


def test_what_comes_too_late_for_its_history_is_still_a_failure_and_decided_on() -> None:
    log = Log()
    log.heartbeats(T0, T0 + 13 * HOUR, HOUR)
    log.say(Outcome.FAILED, T0, received_ms=T0 + 13 * HOUR, **TRANSIENT)
    said, shard = play(log.entries)
    assert said.failures[0].late
    assert _decided(said) == [(0, "wait", "run_in_progress")]
    assert not shard._scopes.jobs._histories


def _alive(log: Log, since_ms: int, until_ms: int) -> None:
    """Heartbeats, and a source that speaks of another job every ten minutes."""
    for at in range(since_ms, until_ms, 10 * MINUTE):
        log.heartbeats(at, at + 9 * MINUTE)
        log.say(Outcome.PASSED, at + 10 * MINUTE, repository="org/other", pipeline_id=str(at), job_id=str(at))


IMPATIENT = rulebooks.compose(detectors={"StuckJob": {"patience_unknown": "1h"}})
"""Jobs that were never seen to end are given as long as others."""


def test_a_stuck_job_is_raised_and_cleared_by_its_end() -> None:
    log = Log()
    log.say(Outcome.QUEUED, T0)
    log.say(Outcome.RUNNING, T0 + 10 * MINUTE)
    _alive(log, T0 + 10 * MINUTE, T0 + 80 * MINUTE)
    log.say(Outcome.PASSED, T0 + 90 * MINUTE)
    said, shard = play(log.entries, fresh(IMPATIENT))
    assert _found(said, "StuckJob") == [(0, "raised", 70 * 60), (1, "cleared", 90 * 60)]
    assert said.findings[0].message == "running for 60 minutes and no end was seen"
    assert msgspec.json.decode(said.findings[0].subject)["job_id"] == "job-1"
    assert not shard._runs._running


def test_a_job_that_waited_too_long_is_cleared_when_it_starts() -> None:
    log = Log()
    log.say(Outcome.QUEUED, T0)
    _alive(log, T0, T0 + 70 * MINUTE)
    log.say(Outcome.RUNNING, T0 + 75 * MINUTE)
    _alive(log, T0 + 75 * MINUTE, T0 + 145 * MINUTE)
    said, _ = play(log.entries, fresh(IMPATIENT))
    assert _found(said, "StuckQueue") == [(0, "raised", 1800), (1, "cleared", 4500)]
    assert _found(said, "StuckJob") == [(0, "raised", 3600), (1, "cleared", 4500), (0, "raised", 135 * 60)]
    waited, let_in = (row for row in said.findings if row.detector == "StuckQueue")
    assert waited.message == "a job waits for a runner, the longest for 30 minutes; none was let in for 30 minutes"
    assert let_in.message == "nobody waits any more"


def test_a_queue_that_was_stuck_and_recovered_can_be_stuck_again() -> None:
    log = Log()
    for start, number in ((0, "1"), (2 * HOUR, "2")):
        log.say(Outcome.QUEUED, T0 + start, pipeline_id=number, job_id=number)
        _alive(log, T0 + start, T0 + start + 40 * MINUTE)
        log.say(Outcome.RUNNING, T0 + start + 45 * MINUTE, pipeline_id=number, job_id=number)
        log.say(Outcome.PASSED, T0 + start + 50 * MINUTE, pipeline_id=number, job_id=number)
        _alive(log, T0 + start + 50 * MINUTE, T0 + start + 100 * MINUTE)
    said, _ = play(log.entries)
    again, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert _found(said, "StuckQueue") == [
        (0, "raised", 30 * 60),
        (1, "cleared", 45 * 60),
        (0, "raised", 150 * 60),
        (1, "cleared", 165 * 60),
    ]
    assert again.findings == said.findings


def test_a_job_that_never_ends_is_let_go_after_a_day() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    _alive(log, T0, T0 + 24 * HOUR)
    said, shard = play(log.entries)
    assert _found(said, "StuckJob") == [(0, "raised", 6 * 3600), (1, "cleared", 86400)]
    assert not shard._runs._running


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_queued_started_and_ended_in_any_order_leave_nothing_running(order: tuple[int, ...]) -> None:
    events = [
        make_event(outcome, T0 + i) for i, outcome in enumerate((Outcome.QUEUED, Outcome.RUNNING, Outcome.PASSED))
    ]
    log = Log()
    for minute, i in enumerate(order):
        log.event(events[i], T0 + minute * 2 * MINUTE)
    said, shard = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert not shard._runs._running
    assert said.findings == []


def test_absence_proves_nothing_while_the_source_is_silent() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    log.heartbeats(T0, T0 + 7 * HOUR)
    silent, shard = play(log.entries)
    assert silent.findings == []
    more = Log()
    more.say(Outcome.PASSED, T0 + 7 * HOUR, repository="org/other")
    more.heartbeats(T0 + 7 * HOUR, T0 + 7 * HOUR + 2 * MINUTE)
    said, _ = play(more.entries, shard)
    assert [row.state for row in said.findings] == ["raised"]


@pytest.mark.parametrize("runs", [1, 25])
def test_a_job_that_usually_takes_long_is_let_alone(runs: int) -> None:
    log = Log()
    for i in range(runs):
        log.say(Outcome.PASSED, T0 + i, pipeline_id=f"p{i}", job_id=f"j{i}", duration_ms=2 * HOUR)
    log.heartbeats(T0, T0 + 3 * MINUTE)
    log.say(Outcome.RUNNING, T0 + 4 * MINUTE)
    _alive(log, T0 + 4 * MINUTE, T0 + 5 * HOUR)
    said, shard = play(log.entries)
    assert said.findings == []
    assert shard._durations.usual_ms("github.com\x1forg/repo\x1fCI\x1ftest") == 2**13 * 1000
    _alive(log, log.entries[-1].entry_ms, T0 + 8 * HOUR)
    said, _ = play(log.entries)
    assert [row.state for row in said.findings] == ["raised"]


def test_a_shorter_patience_counts_for_what_is_running_already_and_a_longer_one_too() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    _alive(log, T0, T0 + 20 * MINUTE)
    log.control(T0 + 21 * MINUTE, OTHER_RULEBOOK)
    log.heartbeats(T0 + 21 * MINUTE, T0 + 22 * MINUTE)
    log.control(T0 + 23 * MINUTE, RULEBOOK)
    _alive(log, T0 + 23 * MINUTE, T0 + 73 * MINUTE)
    expected = [(0, "raised", 21 * 60), (1, "cleared", 3600), (2, "raised", 3600)]
    said, _ = play(log.entries)
    assert _found(said, "StuckJob")[0] == expected[0]
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert restarted.findings == said.findings
