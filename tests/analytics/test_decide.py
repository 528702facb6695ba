"""The policy as a table: every reason is reached, and the first refusal wins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from analytics.policy.decide import CaseView, Decision, FailedJob, Policy, decide
from models.records.event import Outcome
from models.records.outputs import Reason, Verdict

POLICY = Policy()


def _job(failure_id: str = "f1", **given: Any) -> FailedJob:
    """A job that nothing speaks against."""
    good = FailedJob(
        failure_id=failure_id,
        job_id=failure_id.replace("f", "j"),
        at_ms=1,
        signature="s",
        transient=True,
        hard_stop=False,
        is_deploy=False,
        is_fork=False,
        allow_failure=False,
        native_retries=0,
        score=0.9,
        repeated=False,
    )
    return good._replace(**given)


def _case(*jobs: FailedJob, **given: Any) -> CaseView:
    """An ended run about which nothing speaks against a rerun."""
    good = CaseView(
        platform="github",
        instance="github.com",
        repository="org/repo",
        pipeline_id="1",
        workflow_id=None,
        attempt=1,
        rerun_after="run",
        ended=Outcome.FAILED,
        given_up=False,
        jobs=jobs or (_job(),),
    )
    return good._replace(**given)


REFUSALS: list[tuple[Reason, dict[str, Any], dict[str, Any]]] = [
    (Reason.RUN_PASSED, {"ended": Outcome.PASSED}, {}),
    (Reason.RUN_CANCELLED, {"ended": Outcome.CANCELLED}, {}),
    (Reason.ALLOWED_TO_FAIL, {}, {"allow_failure": True}),
    (Reason.DEPLOY_JOB, {}, {"is_deploy": True}),
    (Reason.HARD_STOP, {}, {"hard_stop": True}),
    (Reason.AWAITING_LOG, {}, {"awaits_log": True}),
    (Reason.UNKNOWN_CAUSE, {}, {"signature": None}),
    (Reason.NOT_TRANSIENT, {}, {"transient": False}),
    (Reason.FORK, {}, {"is_fork": True}),
    (Reason.RETRIED_BY_PLATFORM, {}, {"native_retries": 1}),
    (Reason.REPEATED_FAILURE, {}, {"repeated": True}),
    (Reason.SCORE_UNKNOWN, {}, {"score": None}),
    (Reason.NOT_RERUNNABLE, {"rerun_after": None}, {}),
    (Reason.NOT_FIRST_ATTEMPT, {"attempt": 2}, {}),
    (Reason.SCORE_TOO_LOW, {}, {"score": 0.499999}),
    (Reason.RUN_END_UNSEEN, {"ended": None, "given_up": True}, {}),
    (Reason.RUN_IN_PROGRESS, {"ended": None}, {}),
]
"""Each refusal with the least that causes it, in the order in which they are looked at."""


@pytest.mark.parametrize(("reason", "case", "job"), REFUSALS, ids=lambda value: getattr(value, "value", ""))
def test_each_refusal_has_its_reason(reason: Reason, case: dict[str, Any], job: dict[str, Any]) -> None:
    decision = decide(_case(_job(**job), **case), POLICY)
    assert (decision.verdict, decision.reason) == (
        Verdict.WAIT if reason in {Reason.RUN_IN_PROGRESS, Reason.AWAITING_LOG} else Verdict.SKIP,
        reason,
    )
    assert (decision.action, decision.calls) == (None, ())


def test_every_reason_is_reached() -> None:
    reached = {reason for reason, _, _ in REFUSALS} | {Reason.TOO_MANY_FAILURES, Reason.TRANSIENT_CAUSE}
    assert reached == set(Reason)


def _pairs() -> Iterator[Any]:
    for (reason, case, job), (other, other_case, other_job) in itertools.combinations(REFUSALS, 2):
        if not set(case) & set(other_case) and not set(job) & set(other_job):
            both = _case(_job(**job, **other_job), **case, **other_case)
            yield pytest.param(reason, both, id=f"{reason}-{other}")


@pytest.mark.parametrize(("reason", "case"), list(_pairs()))
def test_the_first_refusal_wins(reason: Reason, case: CaseView) -> None:
    assert decide(case, POLICY).reason is reason


def test_nothing_against_it_is_a_rerun() -> None:
    decision = decide(_case(), POLICY)
    run = {
        "platform": "github",
        "instance": "github.com",
        "repository": "org/repo",
        "pipeline_id": "1",
        "workflow_id": None,
        "attempt": 1,
    }
    assert decision == Decision(
        Verdict.ACT,
        Reason.TRANSIENT_CAUSE,
        "s",
        0.9,
        "rerun_failed",
        ({"call": "rerun_failed", **run, "job_id": None},),
    )
    assert msgspec.json.decode(msgspec.json.encode(decision.calls)) == list(decision.calls)


@pytest.mark.parametrize("ended", [None, Outcome.FAILED])
def test_jobs_are_run_alone_where_the_platform_can_whether_or_not_the_run_has_ended(ended: Outcome | None) -> None:
    decision = decide(_case(_job("f2"), _job("f1"), rerun_after="job", ended=ended), POLICY)
    assert decision.action == "rerun_job"
    assert [(call["call"], call["job_id"]) for call in decision.calls] == [("rerun_job", "j1"), ("rerun_job", "j2")]


def test_a_job_without_an_id_takes_its_whole_run() -> None:
    decision = decide(_case(_job("f1"), _job("f2", job_id=None), rerun_after="job"), POLICY)
    assert [(call["call"], call["job_id"]) for call in decision.calls] == [("rerun_failed", None)]


def test_at_most_five_jobs_are_run_again() -> None:
    jobs = [_job(f"f{i}") for i in range(6)]
    assert decide(_case(*jobs[:5]), POLICY).reason is Reason.TRANSIENT_CAUSE
    assert decide(_case(*jobs), POLICY).reason is Reason.TOO_MANY_FAILURES
    assert decide(_case(*jobs), Policy(most_failed_jobs=6)).reason is Reason.TRANSIENT_CAUSE
    allowed = [job._replace(allow_failure=i > 4) for i, job in enumerate(jobs)]
    assert decide(_case(*allowed), POLICY).reason is Reason.TRANSIENT_CAUSE
    low = [job._replace(score=0.1) for job in jobs]
    assert decide(_case(*low), POLICY).reason is Reason.TOO_MANY_FAILURES
    assert decide(_case(*low, attempt=2), POLICY).reason is Reason.NOT_FIRST_ATTEMPT


def test_one_bad_job_refuses_all_and_is_named() -> None:
    decision = decide(_case(_job("f1"), _job("f2", signature="t", transient=False, score=0.8)), POLICY)
    assert (decision.reason, decision.signature, decision.score) == (Reason.NOT_TRANSIENT, "t", 0.8)


def test_the_lowest_score_decides_and_equals_go_by_id() -> None:
    jobs = (_job("f3", score=0.7, signature="c"), _job("f1", score=0.6, signature="a"), _job("f2", score=0.6))
    decision = decide(_case(*jobs), POLICY)
    assert (decision.score, decision.signature) == (0.6, "a")
    assert decide(_case(*jobs), Policy(least_score=0.65)).reason is Reason.SCORE_TOO_LOW
    assert decide(_case(_job(score=0.5)), POLICY).reason is Reason.TRANSIENT_CAUSE


@pytest.mark.parametrize("ended", [Outcome.CANCELLED, Outcome.SKIPPED, Outcome.NEUTRAL])
def test_a_run_that_was_called_off_is_left_alone(ended: Outcome) -> None:
    assert decide(_case(ended=ended), POLICY).reason is Reason.RUN_CANCELLED


@pytest.mark.parametrize("ended", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.ERRORED, Outcome.UNSTABLE])
def test_a_run_that_ended_badly_may_be_run_again(ended: Outcome) -> None:
    assert decide(_case(ended=ended), POLICY).reason is Reason.TRANSIENT_CAUSE


def test_a_job_that_may_fail_speaks_against_nothing_where_it_is_left_out_of_the_rerun() -> None:
    for against in ({"hard_stop": True}, {"is_deploy": True}, {"transient": False}, {"score": None}):
        allowed = _job("f2", allow_failure=True, **against)
        assert decide(_case(_job(), allowed, rerun_after="job"), POLICY).action == "rerun_job"


@pytest.mark.parametrize(
    ("against", "reason"), [({"hard_stop": True}, Reason.HARD_STOP), ({"is_deploy": True}, Reason.DEPLOY_JOB)]
)
def test_a_deployment_that_may_fail_is_not_run_again_along_with_its_run(
    against: dict[str, Any], reason: Reason
) -> None:
    allowed = _job("f2", allow_failure=True, **against)
    assert decide(_case(_job(), allowed), POLICY).reason is reason
    assert decide(_case(_job(job_id=None), allowed, rerun_after="job"), POLICY).reason is reason


def test_more_attempts_are_allowed_where_the_policy_says_so() -> None:
    assert decide(_case(attempt=3), Policy(most_attempts=3)).reason is Reason.TRANSIENT_CAUSE
    assert decide(_case(attempt=4), Policy(most_attempts=3)).reason is Reason.NOT_FIRST_ATTEMPT
