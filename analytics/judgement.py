"""Cases: failed jobs explained one by one, scored together, and decided on by run attempt."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from analytics.cases import Case, Job
from analytics.causes import Cause
from analytics.desk import MOST_REMEMBERED, Desk
from analytics.detectors.detector import Seen
from analytics.findings import Context
from analytics.histories import Histories
from analytics.memory import Generations
from analytics.policy.decide import Decision, FailedJob, decide
from analytics.rows import JOB_FAILED, OUTCOMES, RUN_ENDED, RUN_FAILED, Detail, Rows, case_key_of
from models.records.event import Outcome, case_id, uuid5_text
from models.records.outputs import DecisionRow, Failure
from models.scorers.rerun_passes import features
from models.scorers.scorer import Features

RUN_PATIENCE_MS: Final = 6 * 3_600_000
"""How long the end of a run is waited for after its last news."""
CASE_KEPT_MS: Final = 1_800_000
"""How long a case is kept after its last news once nothing more is waited for. Jobs of one attempt that fail further
apart are decided on without each other, so it must be longer than a job usually takes."""


class _Touch(NamedTuple):
    """A case as it stood when something about it changed; decided on once the batch is scored."""

    case: Case
    jobs: list[tuple[Job, bool]]
    ended: Outcome | None
    given_up: bool
    in_deploy: bool
    in_fork: bool
    received_ms: int
    newest_ms: int
    where: Context


class _Diagnosed(NamedTuple):
    """A failure that waits for its score."""

    detail: Detail
    job: Job
    case: Case
    cause: Cause
    late: bool
    where: Context


class Cases:
    """The cases of one shard, and what a batch makes it say about them."""

    def __init__(self, desk: Desk, histories: Histories) -> None:
        """Begin with none."""
        self._desk: Final = desk
        self._histories: Final = histories
        histories.overtaken = self._overtaken
        self._cases: dict[str, Case] = {}
        self.run_ends: Final[Generations[list[Any]]] = Generations(MOST_REMEMBERED)
        self.retired: Final[Generations[int]] = Generations(MOST_REMEMBERED)
        self._diagnosed: list[_Diagnosed] = []
        self._touches: list[_Touch] = []
        self.failures: list[Failure] = []
        self.decisions: list[DecisionRow] = []

    def trouble(self, rows: Rows, i: int, job_run: str, code: int) -> None:
        """Take a failed job, a failed run, or the end of a run."""
        key = case_key_of(job_run)
        at, outcome = rows.at[i], OUTCOMES[rows.outcomes[i]]
        case = self._cases.get(key)
        if case is None and (code == RUN_ENDED or (code == RUN_FAILED and self.retired.get(key) is not None)):
            # Nothing is known to have failed, or it was decided on long ago: the run itself has nothing to add.
            known = self.run_ends.get(key)
            if known is None or [at, outcome.value] > known:
                self.run_ends.put(key, [at, outcome.value])
            return
        if case is None:
            case = self._case(key, rows.details[i], at)
        if (code != JOB_FAILED or rows.details[i].job_id is None) and (
            case.ended is None or (at, outcome) > (case.ended_ms, case.ended)
        ):
            case.ended, case.ended_ms = outcome, at
        if code == RUN_FAILED:
            case.is_deploy = case.is_deploy or bool(rows.details[i].is_deploy)
            case.is_fork = case.is_fork or bool(rows.details[i].is_fork)
        if code == JOB_FAILED or (code == RUN_FAILED and not case.jobs):
            self._failed(case, rows, i)
        case.newest_ms = max(case.newest_ms, at)
        self._touch(case, rows.received[i], rows.positions[i])

    def _case(self, key: str, detail: Detail, at: int) -> Case:
        case = Case(
            key=key,
            case_id=case_id(
                instance=detail.instance,
                repository=detail.repository,
                pipeline_id=detail.pipeline_id,
                workflow_id=detail.workflow_id,
                attempt=detail.attempt,
            ),
            platform=detail.platform,
            instance=detail.instance,
            repository=detail.repository,
            pipeline_id=detail.pipeline_id,
            workflow_id=detail.workflow_id,
            attempt=detail.attempt,
            commit_sha=detail.commit_sha,
            branch=detail.branch,
            rerun_after=detail.rerun_after if detail.rerun_after in {"job", "run"} else None,
            newest_ms=at,
        )
        case.revision = before if (before := self.retired.get(key)) is not None else -1
        ended = self.run_ends.get(key)
        if ended is not None:
            case.ended, case.ended_ms, case.newest_ms = Outcome(ended[1]), ended[0], max(at, ended[0])
        self._cases[key] = case
        return case

    def _failed(self, case: Case, rows: Rows, i: int) -> None:
        """Explain one failed job and put it into its case and its history."""
        detail, desk, position = rows.details[i], self._desk, rows.positions[i]
        cause = desk.causes.of(detail)
        job = _job(detail, cause, rows.job_keys[i], rows.at[i])
        name = detail.job_id or detail.job_name or ""
        known = case.jobs.get(name)
        if known is None or (known.at_ms, known.failure_id) < (job.at_ms, job.failure_id):
            case.jobs[name] = job
        late = job.at_ms <= desk.stream_ms - desk.kept_ms
        self._diagnosed.append(_Diagnosed(detail, job, case, cause, late, desk.where(position)))
        if detail.job_name is not None:
            outcome, commit = OUTCOMES[rows.outcomes[i]], detail.commit_sha
            seen = Seen(job.at_ms, job.failure_id, outcome, commit, case.pipeline_id, case.attempt, case.key)
            self._histories.remember(job.job_key, seen, position)

    def _touch(self, case: Case, received_ms: int, position: int) -> None:
        """Note that something about `case` changed; it is decided on when the batch is scored."""
        desk, repeated = self._desk, self._histories.is_repeated
        wait = RUN_PATIENCE_MS if case.ended is None and not case.given_up else CASE_KEPT_MS
        case.due_second = desk.timers.at(desk.stream_ms + wait, "case", case.key)
        self._touches.append(
            _Touch(
                case,
                [(job, repeated(job.job_key, job.at_ms)) for job in case.failed_jobs()],
                case.ended,
                case.given_up,
                case.is_deploy,
                case.is_fork,
                received_ms,
                case.newest_ms,
                desk.where(position),
            )
        )

    def _overtaken(self, key: str, position: int) -> None:
        """Decide again on a case of which an earlier event of its job came after it."""
        case = self._cases.get(key)
        if case is not None:
            self._touch(case, self._desk.stream_ms, position)

    def review(self, key: str, second: int, position: int) -> None:
        """Give up waiting for the end of a run, or let go of a case about which nothing more was heard."""
        case = self._cases.get(key)
        if case is None or case.due_second != second:
            return
        if case.ended is None and not case.given_up:
            case.given_up = True
            self._touch(case, second * 1000, position)
        else:
            self.conclude()  # what this batch still has to say of the case has its revision
            self.retired.put(key, case.revision)
            del self._cases[key]

    def conclude(self) -> None:
        """Score all failures of the batch at once, then decide, in the order of the walk."""
        if self._diagnosed:
            scores = self._desk.rulebook.scorer.score([_features(d) for d in self._diagnosed])
            for diagnosed, score in zip(self._diagnosed, scores, strict=True):
                diagnosed.job.score, diagnosed.job.top = score.value, score.top
                self.failures.append(_failure_row(diagnosed, score.version))
        for touch in self._touches:
            self._decide(touch)
        self._diagnosed, self._touches = [], []

    def _decide(self, touch: _Touch) -> None:
        """Decide on a case as it stood; say so if verdict, reason, calls or jobs are not what was said last."""
        case = touch.case
        views = [
            job.view(in_deploy=touch.in_deploy, in_fork=touch.in_fork, repeated=repeated)
            for job, repeated in touch.jobs
        ]
        views.sort(key=_by_time)
        decision = decide(case.view(views, ended=touch.ended, given_up=touch.given_up), self._desk.rulebook.policy)
        calls = msgspec.json.encode(decision.calls).decode() if decision.calls else "[]"
        covered = sorted([view.failure_id for view in views])
        said = [decision.verdict.value, decision.reason.value, calls, covered]
        if said != case.last:
            case.last = said
            case.revision += 1
            self.decisions.append(self._decision_row(touch, decision, views, said))

    def _decision_row(self, touch: _Touch, decision: Decision, views: list[FailedJob], said: list[Any]) -> DecisionRow:
        case, rulebook, where = touch.case, self._desk.rulebook, touch.where
        verdict, reason, calls, covered = said
        explanation = {
            "jobs": [view._asdict() for view in views],
            "run_ended": touch.ended,
            "rerun_after": case.rerun_after,
            "score_moved_by": _worst(touch.jobs).top,
        }
        return DecisionRow(
            decision_id=uuid5_text("decision", case.case_id, str(case.revision)),
            case_id=case.case_id,
            revision=case.revision,
            shard=where.shard,
            position=where.position,
            platform=case.platform,
            instance=case.instance,
            repository=case.repository,
            pipeline_id=case.pipeline_id,
            workflow_id=case.workflow_id,
            attempt=case.attempt,
            commit_sha=case.commit_sha,
            branch=case.branch,
            verdict=verdict,
            reason=reason,
            mode=rulebook.policy.mode,
            action=decision.action,
            calls=calls,
            jobs=covered,
            signature=decision.signature,
            score=decision.score,
            model=rulebook.scorer.version,
            explanation=msgspec.json.encode(explanation).decode(),
            occurred_ms=touch.newest_ms,
            received_ms=touch.received_ms,
            at_ms=where.at_ms,
            rulebook=where.rulebook,
        )

    def set_timers(self) -> None:
        """Make due again what the cases say is due."""
        for case in self._cases.values():
            self._desk.timers.at(case.due_second * 1000, "case", case.key)

    def state(self) -> list[Any]:
        """All cases as plain data."""
        return [list(self._cases.values()), self.run_ends.state(), self.retired.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        cases, run_ends, retired = state
        self._cases = {case.key: case for case in msgspec.convert(cases, list[Case])}
        self.run_ends.load(run_ends)
        self.retired.load(retired)


def _job(detail: Detail, cause: Cause, job_key: str, at_ms: int) -> Job:
    return Job(
        detail.id,
        detail.job_id,
        job_key,
        at_ms,
        cause.signature,
        bool(cause.transient),
        cause.hard_stop,
        bool(detail.is_deploy),
        bool(detail.is_fork),
        bool(detail.allow_failure),
        detail.native_retries or 0,
    )


def _features(diagnosed: _Diagnosed) -> Features:
    detail, cause = diagnosed.detail, diagnosed.cause
    return features(
        platform=detail.platform,
        outcome=detail.outcome,
        attempt=detail.attempt,
        failed_jobs=1,
        signature=cause.signature,
        category=cause.category,
        reason=detail.failure_reason,
        step=detail.step,
        trigger=detail.trigger,
        is_default_branch=detail.is_default_branch,
        duration_ms=detail.duration_ms,
        exit_code=detail.failure_exit_code,
    )


def _failure_row(diagnosed: _Diagnosed, model: str) -> Failure:
    detail, job, case, cause, late, where = diagnosed
    return Failure(
        failure_id=job.failure_id,
        case_id=case.case_id,
        shard=where.shard,
        position=where.position,
        platform=detail.platform,
        instance=detail.instance,
        repository=detail.repository,
        pipeline_id=detail.pipeline_id,
        workflow_id=detail.workflow_id,
        attempt=detail.attempt,
        job_id=detail.job_id,
        workflow=detail.workflow,
        job_name=detail.job_name,
        commit_sha=detail.commit_sha,
        branch=detail.branch,
        author=detail.author,
        outcome=detail.outcome,
        occurred_ms=job.at_ms,
        received_ms=detail.received_ms,
        duration_ms=detail.duration_ms,
        exit_code=detail.failure_exit_code,
        reason=detail.failure_reason,
        step=detail.step,
        excerpt=detail.failure_excerpt,
        diagnosis=cause.diagnosis,
        signature=cause.signature,
        category=cause.category,
        transient=cause.transient,
        cause=cause.words,
        score=job.score,
        model=model,
        late=late,
        rulebook=where.rulebook,
        url=detail.url,
    )


def _by_time(job: FailedJob) -> tuple[int, str]:
    return job.at_ms, job.failure_id


def _worst(jobs: list[tuple[Job, bool]]) -> Job:
    """The job whose rerun is least likely to pass."""
    if len(jobs) == 1:
        return jobs[0][0]
    return min((job for job, _ in jobs), key=lambda job: (job.score is None, job.score or 0.0, job.failure_id))
