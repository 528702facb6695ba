"""A case: what is known of one run attempt that has failed jobs, and the decision about it as it changes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from analytics.failure_panes import Counted
from analytics.policy.decide import CaseView, FailedJob
from analytics.rows import SEPARATOR
from models.records.event import Outcome
from models.scorers.rerun_passes import NONE

FLAKY_CHANCE: Final = 0.7
"""How likely the rerun of a test passes, at least, in a job known to be flaky: the scorer does not know the job.
What came of such reruns then moves it, as any score."""


class Told(msgspec.Struct, array_like=True):
    """What else a webhook told of a failed job, kept until its log is read: the job is explained and scored anew."""

    facts: tuple[str, ...]
    features: dict[str, float | str]
    counted: Counted | None = None  # for the fleet

    def with_exit_code(self, platform: str, exit_code: int | None) -> Told:
        """The same with the exit code that the log shows, where the webhook told none."""
        if exit_code is None or self.features["exit_code"] != NONE:
            return self
        fact = f"{platform} exit_code {exit_code}"
        return Told((*self.facts, fact), self.features | {"exit_code": str(exit_code)}, self.counted)


class Job(msgspec.Struct, array_like=True):
    """One failed job of a case. Snapshots hold it as an array: fields may be added at the end only."""

    failure_id: str
    job_id: str | None
    job_key: str
    at_ms: int
    signature: str | None
    transient: bool
    hard_stop: bool
    is_deploy: bool
    is_fork: bool
    allow_failure: bool
    native_retries: int
    score: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    awaits_second: int = 0  # of stream time, until which its log is waited for; 0: it is not
    told: Told | None = None
    explained: bool = False  # by its log
    labels_key: str = ""
    category: str | None = None
    environment: str | None = None
    url: str | None = None

    def view(
        self,
        *,
        in_deploy: bool,
        in_fork: bool,
        repeated: bool,
        flaky: bool = False,
        run_environments: tuple[str, ...] = (),
        action: str | None = None,
        quarantined: bool = False,
    ) -> FailedJob:
        """The job as the policy sees it; what is true of its run is true of it. Its signature names `action`."""
        workflow, job_name = self.job_key.split(SEPARATOR, 3)[2:]
        own = () if self.environment is None or self.environment in run_environments else (self.environment,)
        return FailedJob(
            self.failure_id,
            self.job_id,
            self.at_ms,
            self.signature,
            self.transient,
            self.hard_stop,
            self.is_deploy or in_deploy,
            self.is_fork or in_fork,
            self.allow_failure or quarantined,
            self.native_retries,
            max(self.score or 0.0, FLAKY_CHANCE) if flaky else self.score,
            repeated,
            self.awaits_second > 0,
            workflow or None,
            job_name or None,
            self.category,
            (*own, *run_environments),
            action,
            quarantined,
            flaky,
        )


class Case(msgspec.Struct, array_like=True, kw_only=True):
    """One run attempt, in snapshots an array as a job is.

    `due_second` is when it is to be looked at again; `revision` is -1 before the first decision.
    """

    key: str
    case_id: str
    platform: str
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    commit_sha: str | None
    branch: str | None
    rerun_after: str | None
    newest_ms: int
    is_deploy: bool = False  # what the run says of itself; its jobs need not know
    is_fork: bool = False
    jobs: dict[str, Job] = {}
    ended: Outcome | None = None
    ended_ms: int = 0
    given_up: bool = False
    revision: int = -1
    last: list[Any] | None = None
    due_second: int = 0
    environments: tuple[str, ...] = ()  # that the run speaks of, in order

    def failed_jobs(self) -> list[Job]:
        """The failed jobs; the run itself stands for them only while none is known."""
        if len(self.jobs) == 1:
            return list(self.jobs.values())
        return [job for key, job in self.jobs.items() if key]

    def place_of(self, failure_id: str) -> str | None:
        """Under which key the job stands that failed so, if it still does."""
        return next((name for name, job in self.jobs.items() if job.failure_id == failure_id), None)

    def speaks_of(self, environment: str | None) -> None:
        """Note that the run says so of itself."""
        if environment is not None and environment not in self.environments:
            self.environments = tuple(sorted((*self.environments, environment)))

    def view(
        self, jobs: list[FailedJob], *, branch: str | None, ended: Outcome | None, ended_ms: int, given_up: bool
    ) -> CaseView:
        """The case as the policy sees it, as it stood; `jobs` in order of time."""
        return CaseView(
            self.platform,
            self.instance,
            self.repository,
            self.pipeline_id,
            self.workflow_id,
            self.attempt,
            self.rerun_after,
            ended,
            given_up,
            tuple(jobs),
            branch,
            ended_ms,
        )
