"""From a case to a decision: first refusal wins, and every refusal names its reason.

The order is the policy. What must never be run again stands first (a run that passed, deployments, hard stops), then
what is not known or not transient, then what has had its chance, then the score. WAIT stands where a log is still to be
read, and where only the platform holds us back, so that a case that will be refused anyway is refused at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

import msgspec

from models.records.event import Outcome
from models.records.outputs import Reason, Verdict

Mode = Literal["observe", "suggest", "act"]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one fixed policy's numbers."""

    mode: Mode = "observe"
    await_log_seconds: int = 0  # how long the log of a failed job is waited for, in stream time; 0 where none is read
    most_attempts: int = 1  # the attempt after which nothing is run again
    most_failed_jobs: int = 5  # more at once is real, or an outage (PyTorch test-infra's rule)
    least_score: float = 0.5  # least chance that a rerun passes


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


class Decision(NamedTuple):
    """What to do. `signature` and `score` are those that decided; `calls` are inert."""

    verdict: Verdict
    reason: Reason
    signature: str | None = None
    score: float | None = None
    action: str | None = None
    calls: tuple[dict[str, Any], ...] = ()


_CALLED_OFF: Final = frozenset({Outcome.CANCELLED, Outcome.SKIPPED, Outcome.NEUTRAL})
_Jobs = Sequence[FailedJob]

_NEVER: Final[tuple[tuple[Reason, Callable[[FailedJob], bool], bool], ...]] = (
    (Reason.DEPLOY_JOB, attrgetter("is_deploy"), True),
    (Reason.HARD_STOP, attrgetter("hard_stop"), True),
    (Reason.AWAITING_LOG, attrgetter("awaits_log"), True),
    (Reason.UNKNOWN_CAUSE, lambda job: job.signature is None, False),
    (Reason.NOT_TRANSIENT, lambda job: not job.transient, False),
    (Reason.FORK, attrgetter("is_fork"), False),
    (Reason.RETRIED_BY_PLATFORM, lambda job: job.native_retries > 0, False),
    (Reason.REPEATED_FAILURE, attrgetter("repeated"), False),
    (Reason.SCORE_UNKNOWN, lambda job: job.score is None, False),
)
"""What forbids a rerun, and whether it does so in a job that may fail too. A log changes nothing of the first two, and
may bring a hard stop to light that forbids what all the rest would allow."""


def decide(case: CaseView, policy: Policy) -> Decision:
    """What is to be done about `case`; jobs that were allowed to fail are left out of it."""
    jobs = [job for job in case.jobs if not job.allow_failure]
    if case.ended is Outcome.PASSED:
        return Decision(Verdict.SKIP, Reason.RUN_PASSED)
    if case.ended in _CALLED_OFF:
        return Decision(Verdict.SKIP, Reason.RUN_CANCELLED)
    if not jobs:
        return Decision(Verdict.SKIP, Reason.ALLOWED_TO_FAIL)
    rerun = jobs if _alone(case, jobs) else case.jobs  # a rerun of the run takes every failed job with it
    for reason, refuses, in_any in _NEVER:
        for job in rerun if in_any else jobs:
            if refuses(job):
                verdict = Verdict.WAIT if reason is Reason.AWAITING_LOG else Verdict.SKIP
                return Decision(verdict, reason, job.signature, job.score)
    worst = min(jobs, key=lambda job: (job.score or 0.0, job.failure_id))
    refusal = Reason.NOT_RERUNNABLE if case.rerun_after is None else _about_all(case, policy, jobs, worst)
    if refusal is not None:
        return Decision(Verdict.SKIP, refusal, worst.signature, worst.score)
    if case.rerun_after == "run" and case.ended is None:
        if case.given_up:
            return Decision(Verdict.SKIP, Reason.RUN_END_UNSEEN, worst.signature, worst.score)
        return Decision(Verdict.WAIT, Reason.RUN_IN_PROGRESS, worst.signature, worst.score)
    action, calls = _rerun(case, jobs)
    return Decision(Verdict.ACT, Reason.TRANSIENT_CAUSE, worst.signature, worst.score, action, calls)


def _about_all(case: CaseView, policy: Policy, jobs: _Jobs, worst: FailedJob) -> Reason | None:
    if case.attempt > policy.most_attempts:
        return Reason.NOT_FIRST_ATTEMPT
    if len(jobs) > policy.most_failed_jobs:
        return Reason.TOO_MANY_FAILURES
    if (worst.score or 0.0) < policy.least_score:
        return Reason.SCORE_TOO_LOW
    return None


def _alone(case: CaseView, jobs: _Jobs) -> bool:
    """Whether the platform can run `jobs` once more and nothing else."""
    return case.rerun_after == "job" and all(job.job_id is not None for job in jobs)


def _rerun(case: CaseView, jobs: _Jobs) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The call that runs what failed once more, for the job alone where the platform can."""
    run = {
        "platform": case.platform,
        "instance": case.instance,
        "repository": case.repository,
        "pipeline_id": case.pipeline_id,
        "workflow_id": case.workflow_id,
        "attempt": case.attempt,
    }
    if _alone(case, jobs):
        ids = sorted(job.job_id for job in jobs if job.job_id is not None)
        return "rerun_job", tuple({"call": "rerun_job", **run, "job_id": job_id} for job_id in ids)
    return "rerun_failed", ({"call": "rerun_failed", **run, "job_id": None},)
