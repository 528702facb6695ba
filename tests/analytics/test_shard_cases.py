"""How a shard decides on single cases."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.judgement import CASE_KEPT_MS, RUN_PATIENCE_MS
from models.records.event import Outcome
from models.records.outputs import Diagnosis, ShardOutput
from models.scorers.rerun_passes import RerunPasses
from tests.analytics.log import (
    MINUTE,
    T0,
    Log,
    fresh,
    one_by_one,
    play,
)
from tests.events import make_event

HOUR = 60 * MINUTE
RUN: dict[str, Any] = {"job_id": None, "job_name": None}
TRANSIENT = {"step": "Set up job"}


def _decided(said: ShardOutput) -> list[tuple[int, str, str]]:
    return [(row.revision, row.verdict, row.reason) for row in said.decisions]


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
    assert not shard._cases._cases
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
    assert not shard._cases._cases
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
    (case,) = shard._cases._cases.values()
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
    assert [case.ended for case in shard._cases._cases.values()] == [None]
    assert not shard._scopes.jobs._histories, "what has no name does not come again"


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
    last = {d.pipeline_id: d.reason for d in said.decisions if d.because_of is None}
    assert last == {"1": "run_in_progress", "2": "run_in_progress", "3": "repeated_failure"}
