"""What a shard says of single stories."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.shard import CASE_KEPT_MS, FUTURE_MS, RUN_PATIENCE_MS, TURN_MS, Shard, TooManyRejectsError
from models.records import columns, event_pb2, payload
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import ConfigError
from models.records.event import Event, Outcome
from models.records.outputs import Diagnosis, ShardOutput
from models.scorers.rerun_passes import RerunPasses
from tests.analytics.log import (
    MINUTE,
    OTHER_RULEBOOK,
    RESOLVE,
    RULEBOOK,
    SCORER,
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


# --- cases and decisions


def test_a_transient_failure_waits_for_its_run_and_is_then_run_again() -> None:
    log = Log()
    failed = log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1000, **RUN)
    said, _ = play(log.entries)
    assert _decided(said) == [(0, "wait", "run_in_progress"), (1, "act", "transient_cause")]
    (failure,) = said.failures
    assert (failure.failure_id, failure.signature, failure.diagnosis) == (
        failed.id,
        "github_set_up_job",
        Diagnosis.MATCHED,
    )
    assert failure.score == pytest.approx(0.880797)
    act = said.decisions[1]
    assert (act.jobs, act.action, act.score, act.model) == ([failed.id], "rerun_failed", failure.score, failure.model)
    assert msgspec.json.decode(act.calls)[0]["pipeline_id"] == "run-1"
    explanation = msgspec.json.decode(act.explanation)
    assert explanation["run_ended"] == "failed"
    assert explanation["jobs"][0]["failure_id"] == failed.id


@pytest.mark.parametrize(
    ("given", "diagnosis"),
    [
        ({"step": "weird"}, Diagnosis.NO_PATTERN),
        ({"reason": "odd"}, Diagnosis.NO_PATTERN),
        ({"excerpt": "odd"}, Diagnosis.NO_PATTERN),
        ({}, Diagnosis.NO_TEXT),
    ],
)
def test_what_no_signature_knows_is_never_acted_on(given: dict[str, str], diagnosis: Diagnosis) -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **given)
    said, _ = play(log.entries)
    assert said.failures[0].diagnosis == diagnosis
    assert _decided(said) == [(0, "skip", "unknown_cause")]


def test_the_end_of_a_run_may_come_before_its_job() -> None:
    log = Log()
    log.say(Outcome.CANCELLED, T0 + 1000, received_ms=T0, **RUN)
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    said, _ = play(log.entries)
    assert _decided(said) == [(0, "skip", "run_cancelled")]
    assert said.decisions[0].occurred_ms == T0 + 1000


@pytest.mark.parametrize(("outcome", "reason"), [(Outcome.PASSED, "run_passed"), (Outcome.CANCELLED, "run_cancelled")])
def test_a_run_that_passed_or_was_called_off_is_left_alone(outcome: Outcome, reason: str) -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(outcome, T0 + 1000, **RUN)
    said, _ = play(log.entries)
    assert _decided(said)[-1] == (1, "skip", reason)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_the_later_of_two_ends_of_a_run_counts_whichever_came_first(order: tuple[int, ...]) -> None:
    events = [
        make_event(Outcome.FAILED, T0, **TRANSIENT),
        make_event(Outcome.CANCELLED, T0 + 1000, **RUN),
        make_event(Outcome.PASSED, T0 + 2000, **RUN),
    ]
    log = Log()
    for i in order:
        log.event(events[i], T0 + 3000)
    said, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert _decided(said)[-1][2] == "run_passed"


@pytest.mark.parametrize("first", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_the_later_of_two_reports_of_a_job_counts_whichever_came_first(first: Outcome) -> None:
    log = Log()
    second = Outcome.TIMED_OUT if first is Outcome.FAILED else Outcome.FAILED
    for outcome in (first, second):
        log.say(outcome, T0 + (1000 if outcome is Outcome.TIMED_OUT else 0), received_ms=T0 + 2000, **TRANSIENT)
    said, _ = play(log.entries)
    newest = make_event(Outcome.TIMED_OUT, T0 + 1000, **TRANSIENT)
    assert said.decisions[-1].jobs == [newest.id]
    assert len(said.failures) == 2


def test_a_run_without_known_jobs_stands_for_them_until_one_is_known() -> None:
    log = Log()
    run = log.say(Outcome.FAILED, T0, reason="startup_failure", **RUN)
    said, shard = play(log.entries)
    assert [f.failure_id for f in said.failures] == [run.id]
    assert said.decisions[0].jobs == [run.id]
    assert _decided(said) == [(0, "skip", "hard_stop")]
    job = log.say(Outcome.FAILED, T0 + 1000, **TRANSIENT)
    said, _ = play(log.entries[1:], shard)
    assert (_decided(said), said.decisions[0].jobs) == ([(1, "act", "transient_cause")], [job.id])


def test_what_a_run_says_of_itself_is_true_of_its_jobs() -> None:
    for told, reason in (({"is_deploy": True}, "deploy_job"), ({"is_fork": True}, "fork")):
        log = Log()
        log.say(Outcome.FAILED, T0, **TRANSIENT)
        log.say(Outcome.FAILED, T0 + 1, **RUN, **told)
        said, _ = play(log.entries)
        assert _decided(said)[-1] == (1, "skip", reason)


def test_a_run_end_that_never_comes_is_given_up_after_six_hours_and_may_still_come() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.heartbeats(T0, T0 + RUN_PATIENCE_MS - 1000, HOUR)
    said, shard = play(log.entries)
    assert _decided(said) == [(0, "wait", "run_in_progress")]
    late = Log()
    late.heartbeats(T0 + RUN_PATIENCE_MS, T0 + RUN_PATIENCE_MS)
    late.say(Outcome.FAILED, T0 + RUN_PATIENCE_MS + 1000, **RUN)
    said, _ = play(late.entries, shard)
    assert _decided(said) == [(1, "skip", "run_end_unseen"), (2, "act", "transient_cause")]
    assert said.decisions[0].at_ms == T0 + RUN_PATIENCE_MS


def test_a_case_is_let_go_half_an_hour_after_its_run_and_speaks_again_under_a_higher_revision() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1000, **RUN)
    log.heartbeats(T0, T0 + 1000 + CASE_KEPT_MS, MINUTE)
    said, shard = play(log.entries)
    assert [d.revision for d in said.decisions] == [0, 1]
    assert not shard._cases
    log.say(Outcome.TIMED_OUT, T0 + HOUR, job_id="job-2", **TRANSIENT)
    # All in one batch: the case is let go before what was said of it is decided.
    for sizes in (None, one_by_one()):
        again, _ = play(log.entries, sizes=sizes)
        assert _decided(again)[-1] == (2, "wait", "run_in_progress")
        assert len({d.decision_id for d in again.decisions}) == 3


def test_a_run_that_fails_long_after_its_case_was_decided_adds_nothing() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.heartbeats(T0, T0 + RUN_PATIENCE_MS + CASE_KEPT_MS, 10 * MINUTE)
    said, shard = play(log.entries)
    assert _decided(said)[-1] == (1, "skip", "run_end_unseen")
    assert not shard._cases
    late = Log()
    late.say(Outcome.FAILED, T0 + 7 * HOUR, **RUN)
    said, _ = play(late.entries, shard)
    assert (said.decisions, said.failures) == ([], [])


def test_a_run_that_is_one_with_its_job_is_a_case_of_its_own() -> None:
    log = Log()
    given = {
        "platform": "jenkins",
        "job_id": None,
        "rerun_after": "job",
        "excerpt": "Agent went offline during the build",
    }
    jenkins = rulebooks.compose(scorer=RerunPasses(intercept=0.0, weights={"signature=agent_lost": 1.0}).to_artefact())
    log.say(Outcome.FAILED, T0, **given)
    said, shard = play(log.entries, fresh(jenkins))
    assert _decided(said) == [(0, "act", "transient_cause")]
    assert [call["job_id"] for call in msgspec.json.decode(said.decisions[0].calls)] == [None]
    (case,) = shard._cases.values()
    assert case.ended is Outcome.FAILED


def test_a_platform_that_takes_no_rerun_is_not_asked_for_one_nor_is_one_in_new_words() -> None:
    for rerun_after in (None, "moon"):
        log = Log()
        log.say(Outcome.FAILED, T0, rerun_after=rerun_after, **TRANSIENT)
        said, _ = play(log.entries)
        assert _decided(said) == [(0, "skip", "not_rerunnable")]


def test_a_job_without_a_name_is_a_job_and_not_its_run() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, job_name=None, **TRANSIENT)
    said, shard = play(log.entries)
    assert _decided(said) == [(0, "wait", "run_in_progress")]
    assert [case.ended for case in shard._cases.values()] == [None]
    assert not shard._histories, "what has no name does not come again"


def test_each_attempt_is_a_case() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 1000, attempt=2, **TRANSIENT)
    said, _ = play(log.entries)
    assert len({d.case_id for d in said.decisions}) == 2
    assert said.decisions[1].reason == "not_first_attempt"


def test_a_failure_that_comes_late_changes_the_decisions_after_it() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, pipeline_id="1", **TRANSIENT)
    log.say(Outcome.FAILED, T0 + 2 * MINUTE, pipeline_id="3", **TRANSIENT)
    log.say(Outcome.FAILED, T0 + MINUTE, pipeline_id="2", received_ms=T0 + 2 * MINUTE, **TRANSIENT)
    said, _ = play(log.entries)
    last = {d.pipeline_id: d.reason for d in said.decisions}
    assert last == {"1": "run_in_progress", "2": "run_in_progress", "3": "repeated_failure"}


# --- findings


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
        (history,) = shard._histories.values()
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
    (history,) = shard._histories.values()
    assert len(history.seen) == 64
    assert len(more.failures) == 1
    assert _decided(more) == [(0, "skip", "unknown_cause")]
    assert standing(said)[0].occurrences == 64


def test_a_busy_job_whose_failures_are_pushed_out_is_judged_by_what_is_left() -> None:
    log = Log()
    for i in range(3):
        _fail(log, i / 10, f"f{i}", commit_sha=None)
    for i in range(64):
        _fail(log, 1 + i / 100, f"p{i}", outcome=Outcome.PASSED)
    whole, _ = play(log.entries)
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert standing(whole) == []
    assert restarted.findings == whole.findings


def test_what_comes_too_late_for_its_history_is_still_a_failure_and_decided_on() -> None:
    log = Log()
    log.heartbeats(T0, T0 + 3 * HOUR, HOUR)
    log.say(Outcome.FAILED, T0, received_ms=T0 + 3 * HOUR, **TRANSIENT)
    said, shard = play(log.entries)
    assert said.failures[0].late
    assert _decided(said) == [(0, "wait", "run_in_progress")]
    assert not shard._histories


# --- what is found by absence


def _alive(log: Log, since_ms: int, until_ms: int) -> None:
    """Heartbeats, and a source that speaks of another job every ten minutes."""
    for at in range(since_ms, until_ms, 10 * MINUTE):
        log.heartbeats(at, at + 9 * MINUTE)
        log.say(Outcome.PASSED, at + 10 * MINUTE, repository="org/other", pipeline_id=str(at), job_id=str(at))


def test_a_stuck_job_is_raised_and_cleared_by_its_end() -> None:
    log = Log()
    log.say(Outcome.QUEUED, T0)
    log.say(Outcome.RUNNING, T0 + 10 * MINUTE)
    _alive(log, T0 + 10 * MINUTE, T0 + 80 * MINUTE)
    log.say(Outcome.PASSED, T0 + 90 * MINUTE)
    said, shard = play(log.entries)
    assert _found(said, "StuckJob") == [(0, "raised", 70 * 60), (1, "cleared", 90 * 60)]
    assert said.findings[0].message == "running for 60 minutes and no end was seen"
    assert msgspec.json.decode(said.findings[0].subject)["job_id"] == "job-1"
    assert not shard._running


def test_a_job_that_waited_too_long_is_cleared_when_it_starts() -> None:
    log = Log()
    log.say(Outcome.QUEUED, T0)
    _alive(log, T0, T0 + 70 * MINUTE)
    log.say(Outcome.RUNNING, T0 + 75 * MINUTE)
    _alive(log, T0 + 75 * MINUTE, T0 + 145 * MINUTE)
    said, _ = play(log.entries)
    assert _found(said, "StuckJob") == [(0, "raised", 3600), (1, "cleared", 4500), (0, "raised", 135 * 60)]
    assert said.findings[0].message.startswith("queued for 60")


def test_a_job_that_never_ends_is_let_go_after_a_day() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    _alive(log, T0, T0 + 24 * HOUR)
    said, shard = play(log.entries)
    assert _found(said, "StuckJob") == [(0, "raised", 3600), (1, "cleared", 86400)]
    assert not shard._running


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_queued_started_and_ended_in_any_order_leave_nothing_running(order: tuple[int, ...]) -> None:
    events = [
        make_event(outcome, T0 + i) for i, outcome in enumerate((Outcome.QUEUED, Outcome.RUNNING, Outcome.PASSED))
    ]
    log = Log()
    for minute, i in enumerate(order):
        log.event(events[i], T0 + minute * 2 * MINUTE)
    said, shard = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert not shard._running
    assert said.findings == []


def test_absence_proves_nothing_while_the_source_is_silent() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    log.heartbeats(T0, T0 + 3 * HOUR)
    silent, shard = play(log.entries)
    assert silent.findings == []
    more = Log()
    more.say(Outcome.PASSED, T0 + 3 * HOUR, repository="org/other")
    more.heartbeats(T0 + 3 * HOUR, T0 + 3 * HOUR + 2 * MINUTE)
    said, _ = play(more.entries, shard)
    assert [row.state for row in said.findings] == ["raised"]


def test_a_job_that_usually_takes_long_is_let_alone() -> None:
    log = Log()
    for i in range(25):
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


# --- duplicates, time and panes


def test_a_second_copy_is_counted_and_changes_nothing() -> None:
    log = Log()
    event = log.say(Outcome.FAILED, T0, **TRANSIENT)
    log.event(event, T0 + 8000)
    shard = fresh()
    said = shard.process(columns.decode(log.entries))
    assert (len(said.failures), said.stats.events, said.stats.duplicates) == (1, 2, 1)


def test_event_times_are_capped_to_a_little_ahead_of_stream_time() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0 + 99 * HOUR, received_ms=T0, **TRANSIENT)
    said, shard = play(log.entries)
    assert said.failures[0].occurred_ms == T0 + FUTURE_MS
    assert shard.stream_ms == T0
    log.heartbeats(T0, T0 + FUTURE_MS + 2 * MINUTE)
    said, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert [(row.minute_ms, row.failed) for row in said.aggregates] == [(T0 + FUTURE_MS, 1)]


def test_stream_time_is_the_lesser_of_both_clocks_and_never_goes_back() -> None:
    log, shard = Log(), fresh()
    value = Entry(Kind.HEARTBEAT, Encoding.JSON, T0 + 5000, b"")
    log.put(value)
    log.entries[0] = log.entries[0]._replace(entry_ms=T0 + 1000)
    shard.process(columns.decode(log.entries))
    assert shard.stream_ms == T0 + 1000
    back = Log()
    back.say(Outcome.RUNNING, T0 - HOUR)
    shard.process(columns.decode(back.entries))
    assert shard.stream_ms == T0 + 1000


def _minutes(said: ShardOutput) -> list[tuple[int, int, int, int, int]]:
    return [
        ((row.minute_ms - T0) // MINUTE, row.started, row.completed, row.failed, row.late) for row in said.aggregates
    ]


def test_a_minute_is_written_once_a_minute_after_it_ended() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    log.say(Outcome.PASSED, T0 + 59_999, duration_ms=2000)
    log.heartbeats(T0 + 2 * MINUTE - 1, T0 + 2 * MINUTE - 1)
    said, shard = play(log.entries)
    assert said.aggregates == []
    more = Log()
    more.heartbeats(T0 + 2 * MINUTE, T0 + 2 * MINUTE)
    said, _ = play(more.entries, shard)
    assert _minutes(said) == [(0, 1, 1, 0, 0)]
    assert (said.aggregates[0].duration_ms_sum, said.aggregates[0].durations[2]) == (2000, 1)


def test_what_comes_after_its_minute_closed_is_late_in_the_minute_that_is_open() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0 + 1, received_ms=T0 + 2 * MINUTE - 1)
    log.say(Outcome.PASSED, T0 + 2, received_ms=T0 + 2 * MINUTE)
    log.heartbeats(T0 + 2 * MINUTE, T0 + 6 * MINUTE)
    said, _ = play(log.entries)
    assert _minutes(said) == [(0, 1, 0, 0, 0), (2, 0, 0, 0, 1)]


def test_minutes_of_which_a_part_was_counted_by_a_lost_state_are_not_written() -> None:
    log = Log()
    log.say(Outcome.RUNNING, T0)
    log.say(Outcome.PASSED, T0 + MINUTE)
    log.heartbeats(T0 + MINUTE, T0 + 6 * MINUTE)
    said, _ = play(log.entries, fresh(from_ms=T0 + 1), sizes=one_by_one(), restores=lambda: True)
    assert _minutes(said) == [(1, 0, 1, 0, 0)]


def test_an_absurd_duration_is_counted_as_unknown() -> None:
    log = Log()
    for i, duration in enumerate((2**62, 2**62, -5, 1000)):
        log.say(Outcome.PASSED, T0, job_id=str(i), duration_ms=duration)
    log.heartbeats(T0, T0 + 3 * MINUTE)
    said, _ = play(log.entries)
    (row,) = said.aggregates
    assert (row.completed, row.duration_ms_sum, sum(row.durations)) == (4, 1000, 1)


# --- dead letters and control


def test_rejects_go_to_the_dead_letters_with_what_the_receiver_said() -> None:
    log = Log()
    told = {"reason": "malformed_payload", "detail": "no `id`\0", "source": "gh", "body": "..."}
    log.put(Entry(Kind.REJECT, Encoding.JSON, T0, msgspec.json.encode(told)))
    log.put(Entry(Kind.REJECT, Encoding.JSON, T0, msgspec.json.encode({"reason": "r"})))
    said, _ = play(log.entries)
    first, second = said.dead_letters
    assert (first.reason, first.detail, first.source) == ("malformed_payload", "no `id`\N{REPLACEMENT CHARACTER}", "gh")
    assert first.payload == msgspec.json.encode(told)
    assert (first.position, first.entry_id, first.part, first.received_ms) == (1, f"{T0}-0", 0, T0)
    assert (second.reason, second.detail, second.source) == ("r", "", None)


BAD_JSON = [b"", b"garbage", b"[]", b"{}", b'{"rulebook":5,"reason":5}', b'"\xff"', b"[" * 100_000]


@pytest.mark.parametrize("value", BAD_JSON, ids=lambda v: repr(v[:20]))
@pytest.mark.parametrize(
    ("kind", "reason"), [(Kind.REJECT, "malformed_payload"), (Kind.CONTROL, "bad_control")], ids=["reject", "control"]
)
def test_what_cannot_be_read_is_a_dead_letter_and_never_a_crash(kind: Kind, reason: str, value: bytes) -> None:
    log = Log()
    log.put(Entry(kind, Encoding.JSON, T0, value))
    said, shard = play(log.entries)
    assert [(d.reason, d.payload) for d in said.dead_letters] == [(reason, value)]
    assert shard.rulebook is RULEBOOK


def test_a_rulebook_that_is_not_to_be_had_is_a_dead_letter() -> None:
    log = Log()
    log.put(Entry(Kind.CONTROL, Encoding.JSON, T0, b'{"rulebook":"moon"}'))
    said, shard = play(log.entries)
    assert [(d.reason, d.detail) for d in said.dead_letters] == [("bad_control", "no rulebook moon")]
    assert shard.rulebook is RULEBOOK


@pytest.mark.parametrize("kind", [Kind.EVIDENCE, Kind.OUTCOME])
def test_kinds_of_a_later_release_are_kept_in_the_dead_letters(kind: Kind) -> None:
    log = Log()
    log.put(Entry(kind, Encoding.JSON, T0, b"{}"))
    said, _ = play(log.entries)
    assert [d.reason for d in said.dead_letters] == ["not_read_yet"]


def test_each_bad_event_of_a_packed_entry_is_a_dead_letter_of_its_own() -> None:
    good = make_event(Outcome.FAILED, T0, **TRANSIENT)
    bad = event_pb2.Event.FromString(payload.to_protobuf(good))
    bad.repository = "a\0b"
    packed = event_pb2.EventBatch(events=[bad, event_pb2.Event.FromString(payload.to_protobuf(good)), bad])
    log = Log()
    log.put(Entry(Kind.EVENT, Encoding.PACKED, T0, packed.SerializeToString()))
    said, _ = play(log.entries)
    assert [d.part for d in said.dead_letters] == [0, 2]
    assert len({d.dead_letter_id for d in said.dead_letters}) == 2
    assert len(said.failures) == 1


def _unreadable(count: int, good: int = 0) -> Log:
    log = Log()
    for i in range(count):
        log.put(Entry(Kind.EVENT, Encoding.JSON, T0 + i, b"{garbage}"))
    log.heartbeats(T0 + count, T0 + count + good, 1)
    return log


def test_too_many_unreadable_entries_stop_the_flow_instead_of_draining_the_stream() -> None:
    said, _ = play(_unreadable(5).entries, fresh(most_bad=5))
    assert len(said.dead_letters) == 5
    with pytest.raises(TooManyRejectsError, match=r"shard 3: more than 5 of 1000 entries before entry .*JSON parse"):
        play(_unreadable(6).entries, fresh(most_bad=5))


def test_the_count_of_unreadable_entries_survives_a_restart_and_begins_anew_every_thousand() -> None:
    log, shard = _unreadable(6), fresh(most_bad=5)
    _, shard = play(log.entries[:5], shard)
    with pytest.raises(TooManyRejectsError):
        play(log.entries[5:], Shard.restore(shard.snapshot(), RESOLVE, most_bad=5))
    _, shard = play(log.entries[:5], fresh(most_bad=5))
    moved = [e._replace(position=e.position + 1000) for e in log.entries[:5]]
    said, _ = play(moved, shard)
    assert len(said.dead_letters) == 5


# --- rulebooks and snapshots


def test_a_rulebook_decides_from_its_control_entry_on() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, pipeline_id="1", job_name="a", **TRANSIENT)
    log.control(T0, OTHER_RULEBOOK)
    log.say(Outcome.FAILED, T0, pipeline_id="2", job_name="b", **TRANSIENT)
    said, shard = play(log.entries)
    assert [(d.reason, d.rulebook) for d in said.decisions] == [
        ("run_in_progress", RULEBOOK.digest),
        ("score_too_low", OTHER_RULEBOOK.digest),
    ]
    again = Shard.restore(shard.snapshot(), RESOLVE)
    assert again.rulebook is OTHER_RULEBOOK


def test_a_snapshot_of_another_version_or_without_its_rulebook_is_refused() -> None:
    snapshot = fresh().snapshot()
    other = msgspec.msgpack.encode({**msgspec.msgpack.decode(snapshot), "v": 99})
    with pytest.raises(ConfigError, match="a snapshot of version 99; this release reads 1"):
        Shard.restore(other, RESOLVE)
    with pytest.raises(ConfigError, match="no rulebook"):
        Shard.restore(fresh(rulebooks.compose()).snapshot(), RESOLVE)


def test_a_shard_that_saw_nothing_comes_back_as_it_was() -> None:
    shard = Shard.restore(fresh(from_ms=5).snapshot(), RESOLVE)
    assert shard.snapshot() == fresh(from_ms=5).snapshot()
    assert (shard.number, shard.position, shard.stream_ms) == (3, 0, 0)


def test_an_empty_batch_says_nothing() -> None:
    shard = fresh()
    said = shard.process(columns.decode([]))
    assert (said.failures, said.findings, said.decisions, said.aggregates, said.dead_letters) == ([], [], [], [], [])
    assert shard.position == 0


def test_a_finding_due_within_the_second_of_a_snapshot_is_still_cleared() -> None:
    log = Log()
    for ms in (300, 400, 500):
        log.say(Outcome.FAILED, T0 + ms, pipeline_id=str(ms), job_id=str(ms), commit_sha=None)
    log.heartbeats(T0 + 600, T0 + 30 * MINUTE + 350, 30 * MINUTE)  # the first has left the window, its second not come
    log.heartbeats(T0 + 30 * MINUTE + 2000, T0 + 40 * MINUTE)
    whole, _ = play(log.entries)
    restarted, _ = play(log.entries, sizes=one_by_one(), restores=lambda: True)
    assert [row.state for row in whole.findings] == ["raised", "cleared"]
    assert restarted.findings == whole.findings


def test_scores_are_those_of_the_rulebook_in_force() -> None:
    log = Log()
    log.say(Outcome.FAILED, T0, **TRANSIENT)
    said, _ = play(log.entries)
    assert said.failures[0].model == SCORER["version"]
