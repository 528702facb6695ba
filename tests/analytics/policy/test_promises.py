"""What no policy can change, held against any policy and any case."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from analytics.policy.decide import CaseView, decide
from analytics.policy.rules import MODES, Policy, Rule
from models.records.outputs import Reason, Verdict
from tests.analytics.policy.strategies import cases, forbidding, policies

many = settings(max_examples=500, deadline=None, derandomize=True)


def _run_again(case: CaseView, policy: Policy) -> list[int]:
    """Places of the jobs that a decision runs again; none unless it acts."""
    decision = decide(case, policy)
    event(decision.reason)
    if decision.verdict is not Verdict.ACT:
        assert (decision.calls, decision.action, decision.not_before_ms) == ((), None, None)
        return []
    asked = {call["job_id"] for call in decision.calls}
    return [i for i, job in enumerate(case.jobs) if asked == {None} or job.job_id in asked]


@many
@given(cases(), policies())
def test_unknown_never_acts(case: CaseView, policy: Policy) -> None:
    for i in _run_again(case, policy):
        job = case.jobs[i]
        assert job.allow_failure or (job.signature is not None and job.score is not None and job.transient)
        assert not job.awaits_log


@many
@given(cases(), policies())
def test_a_hard_stop_a_deployment_and_a_protected_environment_never_act(case: CaseView, policy: Policy) -> None:
    for i in _run_again(case, policy):
        job = case.jobs[i]
        assert not (job.hard_stop)
        assert not (job.is_deploy)
        assert not (policy.protects(job.environments))


@many
@given(cases(), policies(), forbidding(), st.integers(0, 5))
def test_a_rule_that_forbids_never_makes_anything_act(case: CaseView, policy: Policy, rule: Rule, place: int) -> None:
    with_rule = replace(policy, rules=(*policy.rules[:place], rule, *policy.rules[place:]))
    before, after = decide(case, policy), decide(case, with_rule)
    assert before.verdict is Verdict.ACT or after.verdict is not Verdict.ACT
    assert MODES.index(after.mode) <= MODES.index(before.mode)
    if after.verdict is Verdict.ACT:
        assert after._replace(mode=before.mode, rules=before.rules) == before


@many
@given(cases(), policies(), st.randoms(use_true_random=False))
def test_a_decision_does_not_depend_on_the_order_of_jobs(case: CaseView, policy: Policy, rng: st.DataObject) -> None:
    jobs = list(case.jobs)
    rng.shuffle(jobs)  # type: ignore[attr-defined] # a random.Random
    decision = decide(case, policy)
    assert decide(case._replace(jobs=tuple(jobs)), policy) == decision == decide(case, policy)
    assert decide(case, replace(policy)) == decision


@many
@given(cases(), policies())
def test_a_fork_never_acts_unasked(case: CaseView, policy: Policy) -> None:
    decision = decide(case, policy)
    if any(job.is_fork and not job.allow_failure for job in case.jobs):
        assert decision.mode != "act"
        assert decision.verdict is not Verdict.ACT or decision.reason is Reason.FORK_NEEDS_APPROVAL
    else:
        assert decision.reason is not Reason.FORK_NEEDS_APPROVAL


@many
@given(cases(), policies())
def test_nothing_is_done_before_what_failed_has_ended(case: CaseView, policy: Policy) -> None:
    again = _run_again(case, policy)
    if again:
        decision = decide(case, policy)
        assert decision.not_before_ms is not None
        assert decision.not_before_ms >= max(case.jobs[i].at_ms for i in again)
        assert decision.not_before_ms <= 3 + 1.25 * 3_600_000
