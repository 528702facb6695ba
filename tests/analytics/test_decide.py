"""The policy as a table: every reason is reached, and the first refusal wins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from analytics.policy.decide import CaseView, Decision, FailedJob, Policy, decide
from analytics.policy.rules import Rule, When
from models.records.event import Outcome
from models.records.outputs import Reason, Verdict

POLICY = Policy(rules=(Rule(when=When(job="forbidden"), never=True),))
APPROVAL = Policy(forks="approval", mode="act")


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
        workflow="ci",
        job_name="test",
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
        branch="main",
    )
    return good._replace(**given)


REFUSALS: list[tuple[Reason, dict[str, Any], dict[str, Any]]] = [
    (Reason.RUN_PASSED, {"ended": Outcome.PASSED}, {}),
    (Reason.RUN_CANCELLED, {"ended": Outcome.CANCELLED}, {}),
    (Reason.ALLOWED_TO_FAIL, {}, {"allow_failure": True}),
    (Reason.QUARANTINED, {}, {"allow_failure": True, "quarantined": True}),
    (Reason.DEPLOY_JOB, {}, {"is_deploy": True}),
    (Reason.PROTECTED_ENVIRONMENT, {}, {"environments": ("Production",)}),
    (Reason.HARD_STOP, {}, {"hard_stop": True}),
    (Reason.FORBIDDEN, {}, {"job_name": "forbidden"}),
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


REACHED: dict[Reason, tuple[CaseView, Policy]] = {
    **{reason: (_case(_job(**job), **case), POLICY) for reason, case, job in REFUSALS},
    Reason.TOO_MANY_FAILURES: (_case(*[_job(f"f{i}") for i in range(6)]), POLICY),
    Reason.TRANSIENT_CAUSE: (_case(), POLICY),
    Reason.KNOWN_FLAKY: (_case(_job(transient=False, flaky=True)), POLICY),
    Reason.FORK_NEEDS_APPROVAL: (_case(_job(is_fork=True)), APPROVAL),
}
"""A case for every reason that there is."""


OF_ERRANDS = {
    Reason.JOB_STUCK,
    Reason.JOB_BROKEN,
    Reason.JOB_FLAKY,
    Reason.FOUND,
    Reason.GIVEN_UP,
    Reason.FINDING_CLEARED,
    Reason.QUARANTINE_EXPIRED,
    Reason.QUARANTINE_PASSED,
    Reason.QUARANTINE_RELEASED,
}
"""These are said about findings: tests/analytics/test_errands.py."""


@pytest.mark.parametrize("reason", sorted(set(Reason) - OF_ERRANDS))
def test_every_reason_is_reached(reason: Reason) -> None:
    assert decide(*REACHED[reason]).reason is reason


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
        mode="observe",
        not_before_ms=decision.not_before_ms,
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


@pytest.mark.parametrize("environment", ["Production", "prod", "eu-prod-1", "live", "release/2", "PRD"])
def test_where_people_depend_on_it_nothing_is_run_again(environment: str) -> None:
    case = _case(_job("f1"), _job("f2", environments=("staging", environment)))
    assert decide(case, POLICY).reason is Reason.PROTECTED_ENVIRONMENT


def test_which_environments_are_protected_is_the_policys() -> None:
    case = _case(_job(environments=("staging",)))
    assert decide(case, POLICY).reason is Reason.TRANSIENT_CAUSE
    assert decide(case, Policy(protected_environments=("stag*",))).reason is Reason.PROTECTED_ENVIRONMENT


@pytest.mark.parametrize(("mode", "said"), [("observe", "observe"), ("suggest", "suggest"), ("act", "suggest")])
def test_a_fork_is_at_most_suggested_with_its_calls_ready(mode: Any, said: str) -> None:
    fork, own = _case(_job(is_fork=True), _job("f2")), _case(_job(), _job("f2"))
    decision = decide(fork, Policy(forks="approval", mode=mode))
    assert (decision.verdict, decision.reason, decision.mode) == (Verdict.ACT, Reason.FORK_NEEDS_APPROVAL, said)
    assert decision.calls == decide(own, Policy(mode=mode)).calls
    assert decide(fork, Policy(mode=mode)).reason is Reason.FORK


def test_retries_of_the_platform_are_counted_as_tries() -> None:
    twice = _case(_job(native_retries=2), rerun_after="job")
    assert decide(twice, Policy(most_attempts=9)).reason is Reason.RETRIED_BY_PLATFORM
    assert decide(twice, Policy(most_attempts=9, most_native_retries=1)).reason is Reason.RETRIED_BY_PLATFORM
    assert decide(twice, Policy(most_attempts=2, most_native_retries=2)).reason is Reason.NOT_FIRST_ATTEMPT
    assert decide(twice, Policy(most_attempts=3, most_native_retries=2)).reason is Reason.TRANSIENT_CAUSE


def _wait_s(case: CaseView, policy: Policy) -> float:
    not_before_ms = decide(case, policy).not_before_ms
    assert not_before_ms is not None
    return (not_before_ms - case.ended_ms) / 1000


def test_each_try_waits_longer_up_to_a_bound_and_a_quarter_more_by_lot() -> None:
    policy = Policy(most_attempts=50, backoff_seconds=60, backoff_factor=3, longest_backoff_seconds=1000)
    waits = [_wait_s(_case(ended_ms=10**12, attempt=attempt), policy) for attempt in (1, 2, 3, 4, 50)]
    for wait, least in zip(waits, (60, 180, 540, 1000, 1000), strict=True):
        assert least <= wait <= least * 1.25
    retried = _case(_job(native_retries=2), ended_ms=10**12)
    assert 540 <= _wait_s(retried, msgspec.structs.replace(policy, most_native_retries=2)) <= 675


def test_what_failed_together_does_not_come_back_together() -> None:
    cases = [_case(ended_ms=10**12, pipeline_id=str(i)) for i in range(200)]
    waits = [_wait_s(case, Policy(backoff_seconds=3600)) for case in cases]
    assert waits == [_wait_s(case, Policy(backoff_seconds=3600)) for case in cases]
    assert len(set(waits)) > 190
    assert max(waits) - min(waits) > 800


def test_a_wait_is_counted_from_the_end_of_what_failed() -> None:
    at_once = Policy(backoff_seconds=0)
    jobs = (_job("f1", at_ms=5), _job("f2", at_ms=7))
    assert decide(_case(*jobs, ended_ms=9), at_once).not_before_ms == 9
    assert decide(_case(*jobs, ended_ms=9, rerun_after="job"), at_once).not_before_ms == 7
    assert decide(_case(*jobs, ended_ms=0, ended=None, rerun_after="job"), at_once).not_before_ms == 7


def test_a_longest_wait_below_the_first_one_does_not_shorten_it() -> None:
    assert _wait_s(_case(ended_ms=10**12), Policy(backoff_seconds=100, longest_backoff_seconds=10)) >= 100


def test_while_a_log_is_awaited_no_rule_is_followed_that_asks_for_the_cause() -> None:
    by_cause = Policy(rules=(Rule(when=When(signature="s"), never=True), Rule(when=When(category="*"), mode="act")))
    by_place = Policy(rules=(Rule(when=When(branch="main"), never=True),))
    waiting = _case(_job(awaits_log=True, category="network"))
    assert decide(waiting, by_cause)[:2] == (Verdict.WAIT, Reason.AWAITING_LOG)
    assert decide(waiting, by_cause).mode == "observe"
    assert decide(waiting, by_place).reason is Reason.FORBIDDEN
    assert decide(_case(_job(category="network")), by_cause)[:2] == (Verdict.SKIP, Reason.FORBIDDEN)


def test_each_job_has_its_own_rules_and_the_strictest_count() -> None:
    policy = Policy(
        rules=(
            Rule(when=When(job="unit"), mode="act", most_attempts=3, least_score=0.3),
            Rule(when=When(job="e2e"), mode="suggest", most_attempts=2, least_score=0.6),
        )
    )
    unit, e2e = _job("f1", job_name="unit", score=0.5), _job("f2", job_name="e2e", score=0.9)
    assert decide(_case(unit), policy).mode == "act"
    assert decide(_case(unit, e2e), policy).reason is Reason.SCORE_TOO_LOW
    both = decide(_case(unit._replace(score=0.7), e2e, attempt=2), policy)
    assert (both.verdict, both.mode, both.rules) == (Verdict.ACT, "suggest", (1, 2))
    assert decide(_case(unit._replace(score=0.7), e2e, attempt=3), policy).reason is Reason.NOT_FIRST_ATTEMPT


def test_what_a_rule_forbids_is_not_run_again_along_with_its_run() -> None:
    policy = Policy(rules=(Rule(when=When(job="smoke"), never=True),))
    jobs = (_job("f1"), _job("f2", job_name="smoke", allow_failure=True))
    assert decide(_case(*jobs), policy).reason is Reason.FORBIDDEN
    assert decide(_case(*jobs, rerun_after="job"), policy).action == "rerun_job"


def test_a_rule_can_ask_for_the_action() -> None:
    policy = Policy(rules=(Rule(when=When(action="rerun_job"), mode="act"),))
    assert decide(_case(rerun_after="job"), policy).mode == "act"
    assert decide(_case(), policy).mode == "observe"
