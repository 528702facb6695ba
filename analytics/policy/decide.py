"""From a case to a decision: first refusal wins, and every refusal names its reason.

The order is the policy. What must never be run again stands first (a run that passed, deployments and protected
environments, hard stops, what a rule forbids), then what is not known or not transient, then what has had its chance,
then the score. WAIT stands where a log is still to be read, and where only the platform holds us back, so that a case
that will be refused anyway is refused at once. An operator's rules (rules.py) give the numbers and add prohibitions;
the order is not theirs to change.

The verdict says what is right to do, the mode what may come of it: ACT is carried out unasked in mode act alone. A fork
never has that mode: where a rule lets it be run again on approval, it is ACT, fork_needs_approval, in mode suggest at
most, with its calls ready for whoever approves.

What is done is one of analytics/actions: the one that the signature of a failed job names, where the platform can and
the policy has not turned it off, else a plain rerun, of the jobs where the platform takes jobs and of what failed of
the run where it does not. To rules it goes by its own name and by those of its calls, so that who forbids a rerun
forbids a delayed one too.

What is done may have to wait: `not_before_ms` is the end of what failed, and then `backoff_seconds`, longer with each
try, and up to a quarter more by the case's id, so that what failed together does not come back together. After what
lasts as outages do it is `outage_backoff_seconds`, if that is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from analytics.actions.action import FAILURE, Action, healing
from analytics.actions.action import Case as Asked
from analytics.policy.rules import Mode, Policy, Subject, Terms, least_mode, names_of, of_all
from models.records.calls import Call
from models.records.event import Outcome, PlatformName, case_id
from models.records.outputs import Reason, Verdict

__all__ = ["RERUN_FAILED", "RERUN_JOB", "CaseView", "Decision", "FailedJob", "Policy", "decide"]

RERUN_JOB: Final = "rerun_job"
RERUN_FAILED: Final = "rerun_failed"
_MOST_FACTORS: Final = 64
"""How often a wait grows at most; every cap was reached long before."""


class FailedJob(NamedTuple):
    """One failed job of a case, as it was understood. A case without known jobs has one without job_id: the run."""

    failure_id: str
    job_id: str | None
    at_ms: int
    signature: str | None
    transient: bool
    hard_stop: bool
    is_deploy: bool
    is_fork: bool
    allow_failure: bool
    native_retries: int
    score: float | None
    repeated: bool
    awaits_log: bool = False  # its log may still say what failed
    workflow: str | None = None
    job_name: str | None = None
    category: str | None = None
    environments: tuple[str, ...] = ()  # its own, and those that its run speaks of
    action: str | None = None  # that its signature names
    quarantined: bool = False  # it may fail, then
    flaky: bool = False  # a test of it failed, and tests of the job are known to fail for no reason


class CaseView(NamedTuple):
    """What is known of one run attempt. `ended` is how the run ended, or None while no end was seen."""

    platform: str
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    rerun_after: (
        str | None
    )  # "job" or "run": what must have ended before the platform takes a rerun; None: it never does
    ended: Outcome | None
    given_up: bool  # the end of the run was waited for in vain
    jobs: tuple[FailedJob, ...]
    branch: str | None = None
    ended_ms: int = 0


class Decision(NamedTuple):
    """What to do. `signature` and `score` are those that decided; `calls` are inert."""

    verdict: Verdict
    reason: Reason
    signature: str | None = None
    score: float | None = None
    action: str | None = None
    calls: tuple[dict[str, Any], ...] = ()
    mode: Mode = "observe"
    not_before_ms: int | None = None  # event time before which nothing is done; None where nothing is to be done
    rules: tuple[int, ...] = ()  # numbers, from 1, of the policy's rules that had a say


class _Weighed(NamedTuple):
    """A failed job that would be run again, and what the policy says of it."""

    job: FailedJob
    terms: Terms
    protected: bool


_CALLED_OFF: Final = frozenset({Outcome.CANCELLED, Outcome.SKIPPED, Outcome.NEUTRAL})
_Jobs = Sequence[FailedJob]

_NEVER: Final[tuple[tuple[Reason, Callable[[_Weighed], bool], bool], ...]] = (
    (Reason.DEPLOY_JOB, lambda weighed: weighed.job.is_deploy, True),
    (Reason.PROTECTED_ENVIRONMENT, lambda weighed: weighed.protected, True),
    (Reason.HARD_STOP, lambda weighed: weighed.job.hard_stop, True),
    (Reason.FORBIDDEN, lambda weighed: weighed.terms.never, True),
    (Reason.AWAITING_LOG, lambda weighed: weighed.job.awaits_log, True),
    (Reason.UNKNOWN_CAUSE, lambda weighed: weighed.job.signature is None, False),
    (Reason.NOT_TRANSIENT, lambda weighed: not (weighed.job.transient or weighed.job.flaky), False),
    (Reason.FORK, lambda weighed: weighed.job.is_fork and weighed.terms.forks == "never", False),
    (
        Reason.RETRIED_BY_PLATFORM,
        lambda weighed: weighed.job.native_retries > weighed.terms.most_native_retries,
        False,
    ),
    (Reason.REPEATED_FAILURE, lambda weighed: weighed.job.repeated, False),
    (Reason.SCORE_UNKNOWN, lambda weighed: weighed.job.score is None, False),
)
"""What forbids a rerun, and whether it does so in a job that may fail too. A log changes nothing of the first four, and
may bring a hard stop to light that forbids what all the rest would allow."""


class Chosen(NamedTuple):
    """What would be done about what was asked: None where the policy has turned all of it off."""

    action: Action | None
    asked: Asked

    @property
    def calls(self) -> tuple[Call, ...]:
        """Those that would be made."""
        return () if self.action is None else self.action.calls(self.asked)

    @property
    def names(self) -> str:
        """By which rules are asked about it."""
        if self.action is None:
            return _rerun(alone=self.asked.alone)
        return names_of(self.action.name, self.calls)


def decide(case: CaseView, policy: Policy) -> Decision:
    """What is to be done about `case`; jobs that were allowed to fail are left out of it."""
    jobs = [job for job in case.jobs if not job.allow_failure]
    chosen = choose(case, jobs, policy)
    rerun = jobs if chosen.asked.alone else case.jobs  # a rerun of the run takes every failed job with it
    names = chosen.names if policy.rules else ""
    weighed = [_weigh(case, job, policy, chosen, names) for job in sorted(rerun, key=_by_time)]
    terms = of_all([each.terms for each in weighed]) if weighed else policy.base
    of_fork = any(job.is_fork for job in jobs)
    said = _refusal(case, jobs, weighed, terms) or _go_ahead(case, jobs, chosen, weighed, terms)
    return Decision(
        *said[:6],
        mode=least_mode(terms.mode, "suggest") if of_fork else terms.mode,
        not_before_ms=said.not_before_ms,
        rules=terms.rules,
    )


def choose(case: CaseView, jobs: _Jobs, policy: Policy) -> Chosen:
    """The action that would heal `jobs`: one that a signature names where there is one, else a plain rerun."""
    wanted = frozenset([job.action for job in jobs if job.action is not None])
    asked = Asked(
        cast("PlatformName", case.platform),
        case.instance,
        case.repository,
        case.pipeline_id,
        case.workflow_id,
        case.attempt,
        case.rerun_after,
        tuple([job.job_id for job in jobs]),
        wanted,
    )
    able = (action for action in healing(FAILURE) if case.platform in action.platforms and action.fits(asked))
    action = next((action for action in able if policy.allows(action.name)), None)
    return Chosen(action, asked)


def _weigh(case: CaseView, job: FailedJob, policy: Policy, chosen: Chosen, names: str) -> _Weighed:
    terms = policy.terms_of(subject_of(case, job, names)) if policy.rules else policy.base
    if chosen.action is None:
        terms = terms._replace(never=True)
    return _Weighed(job, terms, bool(job.environments) and policy.protects(job.environments))


def subject_of(case: CaseView, job: FailedJob, action: str) -> Subject:
    """What rules look at; `action` are the names of what would be done.

    While the log of `job` is awaited, none is followed that asks for its cause.
    """
    cause = (None, None) if job.awaits_log else (job.signature, job.category)
    return Subject(
        case.platform, case.instance, case.repository, case.branch, job.workflow, job.job_name, *cause, action
    )


def _refusal(case: CaseView, jobs: _Jobs, weighed: Sequence[_Weighed], terms: Terms) -> Decision | None:
    """What speaks against running anything again, whether or not the platform would take it now."""
    if case.ended is Outcome.PASSED:
        return Decision(Verdict.SKIP, Reason.RUN_PASSED)
    if case.ended in _CALLED_OFF:
        return Decision(Verdict.SKIP, Reason.RUN_CANCELLED)
    if not jobs:
        aside = any(job.quarantined for job in case.jobs)
        return Decision(Verdict.SKIP, Reason.QUARANTINED if aside else Reason.ALLOWED_TO_FAIL)
    for reason, refuses, in_any in _NEVER:
        for each in weighed:
            if refuses(each) and (in_any or not each.job.allow_failure):
                verdict = Verdict.WAIT if reason is Reason.AWAITING_LOG else Verdict.SKIP
                return Decision(verdict, reason, each.job.signature, each.job.score)
    worst = _worst(jobs)
    of_all_jobs = Reason.NOT_RERUNNABLE if case.rerun_after is None else _about_all(case, jobs, worst, terms)
    return Decision(Verdict.SKIP, of_all_jobs, worst.signature, worst.score) if of_all_jobs else None


def _about_all(case: CaseView, jobs: _Jobs, worst: FailedJob, terms: Terms) -> Reason | None:
    if _tries(case, jobs) > terms.most_attempts:
        return Reason.NOT_FIRST_ATTEMPT
    if len(jobs) > terms.most_failed_jobs:
        return Reason.TOO_MANY_FAILURES
    if (worst.score or 0.0) < terms.least_score:
        return Reason.SCORE_TOO_LOW
    return None


def _go_ahead(case: CaseView, jobs: _Jobs, chosen: Chosen, weighed: Sequence[_Weighed], terms: Terms) -> Decision:
    """A rerun, or waiting until the platform takes it."""
    worst = _worst(jobs)
    if case.rerun_after == "run" and case.ended is None:
        if case.given_up:
            return Decision(Verdict.SKIP, Reason.RUN_END_UNSEEN, worst.signature, worst.score)
        return Decision(Verdict.WAIT, Reason.RUN_IN_PROGRESS, worst.signature, worst.score)
    assert chosen.action is not None
    return Decision(
        Verdict.ACT,
        _why(jobs),
        worst.signature,
        worst.score,
        chosen.action.name,
        tuple(msgspec.to_builtins(call) for call in chosen.calls),
        not_before_ms=_end_ms(case, weighed, alone=chosen.asked.alone)
        + _wait_ms(case, _tries(case, jobs), terms, outage=chosen.action.waits),
    )


def _why(jobs: _Jobs) -> Reason:
    if any(job.is_fork for job in jobs):
        return Reason.FORK_NEEDS_APPROVAL
    return Reason.TRANSIENT_CAUSE if all(job.transient for job in jobs) else Reason.KNOWN_FLAKY


def _by_time(job: FailedJob) -> tuple[int, str]:
    return job.at_ms, job.failure_id


def _worst(jobs: _Jobs) -> FailedJob:
    """The job whose rerun is least likely to pass."""
    return jobs[0] if len(jobs) == 1 else min(jobs, key=lambda job: (job.score or 0.0, job.failure_id))


def _tries(case: CaseView, jobs: _Jobs) -> int:
    """How often what failed has been tried, the platform's own retries included."""
    return case.attempt + max([job.native_retries for job in jobs])


def _end_ms(case: CaseView, weighed: Sequence[_Weighed], *, alone: bool) -> int:
    """When what would be run again had ended, in event time."""
    last_ms = max([each.job.at_ms for each in weighed])
    return last_ms if alone else max(last_ms, case.ended_ms)


def _wait_ms(case: CaseView, tries: int, terms: Terms, *, outage: bool) -> int:
    """For how long after that nothing is done: never random, and always the same for the same run attempt."""
    shortest_seconds = max(terms.backoff_seconds, terms.outage_backoff_seconds) if outage else terms.backoff_seconds
    shortest_ms = shortest_seconds * 1000
    if shortest_ms == 0:
        return 0
    longest_ms = max(terms.longest_backoff_seconds * 1000, shortest_ms)
    factors = min(max(tries - 1, 0), _MOST_FACTORS)
    wait_ms: int = min(shortest_ms * terms.backoff_factor**factors, longest_ms)
    return wait_ms + _lot(case) % (wait_ms // 4 + 1)


def _lot(case: CaseView) -> int:
    """A number, of 32 bits, that a case has drawn for ever."""
    drawn = case_id(
        instance=case.instance,
        repository=case.repository,
        pipeline_id=case.pipeline_id,
        workflow_id=case.workflow_id,
        attempt=case.attempt,
    )
    return int(drawn[:8], 16)


def action_for(case: CaseView, jobs: _Jobs) -> str:
    """The call that runs again what failed, whatever else is done: `jobs` alone where the platform can."""
    return _rerun(alone=case.rerun_after == "job" and bool(jobs) and all(job.job_id is not None for job in jobs))


def _rerun(*, alone: bool) -> str:
    return RERUN_JOB if alone else RERUN_FAILED
