"""Cases: failed jobs explained one by one, scored together, and decided on by run attempt."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from analytics.case_rows import (
    Failed,
    LogRead,
    Touch,
    Touched,
    Unscored,
    decision_row,
    diagnosis_row,
    failure_row,
    features_of,
)
from analytics.cases import Case, Job, Told
from analytics.causes import Cause, facts
from analytics.desk import MOST_REMEMBERED, Desk
from analytics.detectors.detector import JOB, Seen
from analytics.errands import Errands
from analytics.failure_panes import FailurePanes, kind_in_log, kind_of
from analytics.journal import Journal
from analytics.memory import Generations
from analytics.outcomes import Outcomes
from analytics.policy.decide import CaseView, FailedJob, action_for, decide
from analytics.proof import prove
from analytics.rows import JOB_FAILED, OUTCOMES, RUN_ENDED, RUN_FAILED, Detail, Rows, case_key_of
from analytics.scopes import Place, Scopes
from models.records.columns import Mark
from models.records.event import Outcome, case_id
from models.records.evidence import Evidence
from models.records.outputs import Category, DecisionRow, DiagnosisRow, Failure, Reason
from models.scorers.rerun_passes import NONE

RUN_PATIENCE_MS: Final = 6 * 3_600_000
"""How long the end of a run is waited for after its last news."""
CASE_KEPT_MS: Final = 1_800_000
"""How long a case is kept after its last news once nothing more is waited for. Jobs of one attempt that fail further
apart are decided on without each other, so it must be longer than a job usually takes."""


class Cases:
    """The cases of one shard, and what a batch makes it say about them."""

    def __init__(self, desk: Desk, scopes: Scopes, panes: FailurePanes, outcomes: Outcomes, errands: Errands) -> None:
        """Begin with none; failures are counted in `panes`, may be what came of an act, and may need an errand."""
        self._desk: Final = desk
        self._scopes: Final = scopes
        self._panes: Final = panes
        self._outcomes: Final = outcomes
        self._errands: Final = errands
        scopes.jobs.overtaken = self._overtaken
        outcomes.conclude = errands.settle_cases = self.conclude
        self._cases: dict[str, Case] = {}
        self._journal: Final = Journal()
        self.run_ends: Final[Generations[list[Any]]] = Generations(MOST_REMEMBERED)
        self.retired: Final[Generations[int]] = Generations(MOST_REMEMBERED)
        self._unscored: list[Unscored] = []
        self._touches: list[Touch] = []
        self.failures: list[Failure] = []
        self.diagnoses: list[DiagnosisRow] = []
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
            self._outcomes.run_ended(rows, i, job_run)
            return
        if case is None:
            case = self._case(key, rows.details[i], at)
        if (code != JOB_FAILED or rows.details[i].job_id is None) and (
            case.ended is None or (at, outcome) > (case.ended_ms, case.ended)
        ):
            case.ended, case.ended_ms = outcome, at
        if code in {JOB_FAILED, RUN_FAILED}:
            case.branch = case.branch or rows.details[i].branch
        if code == RUN_FAILED:
            case.is_deploy = case.is_deploy or bool(rows.details[i].is_deploy)
            case.is_fork = case.is_fork or bool(rows.details[i].is_fork)
            case.speaks_of(rows.details[i].environment)
        if code == JOB_FAILED or (code == RUN_FAILED and not case.jobs):
            self._failed(case, rows, i, job_run)
        else:
            self._outcomes.run_ended(rows, i, job_run)
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

    def _failed(self, case: Case, rows: Rows, i: int, job_run: str) -> None:
        """Explain one failed job and put it into its case and its history."""
        detail, desk, position = rows.details[i], self._desk, rows.positions[i]
        cause = desk.causes.of(detail, desk.today)
        place = Place(rows.job_keys[i], rows.label_keys[i])
        job, known = _job(detail, cause, place, rows.at[i]), features_of(detail, cause)
        counted = self._panes.add(kind_of(detail, cause), detail.repository, job.at_ms, desk.stream_ms)
        if desk.await_log_ms and (detail.job_id is not None or detail.job_name is not None):
            job.awaits_second = desk.timers.at(desk.stream_ms + desk.await_log_ms, "log", case.key)
            job.told = Told(facts(detail), known, counted)
        name = detail.job_id or detail.job_name or ""
        before = case.jobs.get(name)
        if before is None or (before.at_ms, before.failure_id) < (job.at_ms, job.failure_id):
            case.jobs[name] = job
        late = job.at_ms <= desk.stream_ms - desk.scopes[JOB].kept_ms
        self._unscored.append(Unscored(Failed(detail, case.case_id, cause, late), job, desk.where(position), known))
        if detail.job_name is not None:
            self._errands.quarantines.failed(place.job)
            outcome, commit = OUTCOMES[rows.outcomes[i]], detail.commit_sha
            seen = Seen(
                job.at_ms,
                job.failure_id,
                outcome,
                commit,
                case.pipeline_id,
                case.attempt,
                case.key,
                rows.mains[i],
                cause.signature,
                cause.category,
                detail.runner,
            )
            self._scopes.failed(place, seen, position)
        self._outcomes.ended(rows, i, job_run, cause.signature)

    def evidence(self, evidence: Evidence, mark: Mark) -> None:
        """Explain a failure anew by what its log showed, and decide on its case again.

        A job is explained by its log once; what comes for it again, as after a crash of the reader, changes nothing.
        """
        self.conclude()  # a job has its score before another takes its place
        where, catalogue, today = self._desk.where(mark.position), self._desk.rulebook.catalogue, self._desk.today
        case = self._cases.get(evidence.case_key)
        name = case.place_of(evidence.event_id) if case is not None else None
        job = case.jobs[name] if case is not None and name is not None else None
        if case is None or name is None or job is None or job.told is None:
            if job is None or not job.explained:
                proof = prove(catalogue, "", (), evidence, on=today)
                about = LogRead(evidence, _case_of(evidence), proof, mark.received_ms)
                self.diagnoses.append(diagnosis_row(about, None, where))
            return
        told = job.told.with_exit_code(case.platform, evidence.exit_code)
        proof = prove(catalogue, case.platform, told.facts, evidence, on=today)
        if proof.match is not None and proof.cause.signature is not None:
            self._errands.quarantines.names(job.failure_id, proof.match.captures)
        case.jobs[name] = new = _explained(job, proof.cause)
        place, cause = Place(job.job_key, job.labels_key), (proof.cause.signature, proof.cause.category)
        self._scopes.explained(place, job.failure_id, cause, mark.position)
        if told.counted is not None:
            kind = kind_in_log(told.counted.kind, proof, evidence)
            self._panes.move(told.counted, kind, case.repository, self._desk.stream_ms)
        known = told.features | {"signature": proof.cause.signature or NONE, "category": proof.cause.category or NONE}
        self._unscored.append(Unscored(LogRead(evidence, case.case_id, proof, mark.received_ms), new, where, known))
        self._touch(case, mark.received_ms, mark.position)
        self._outcomes.explained(job.job_key, case.commit_sha, job.failure_id, proof.cause.signature, mark.position)

    def stop_waiting(self, key: str, second: int, position: int) -> None:
        """Decide without the logs that were waited for until `second`; they may still come."""
        case = self._cases.get(key)
        due = [name for name, job in case.jobs.items() if job.awaits_second == second] if case is not None else []
        if case is None or not due:
            return
        self.conclude()
        for name in due:
            case.jobs[name] = msgspec.structs.replace(case.jobs[name], awaits_second=0)
        self._touch(case, second * 1000, position)

    def _touch(self, case: Case, received_ms: int, position: int) -> None:
        """Note that something about `case` changed; it is decided on when the batch is scored."""
        desk, histories = self._desk, self._scopes.jobs
        self._journal.changed.append(case.key)
        wait = RUN_PATIENCE_MS if case.ended is None and not case.given_up else CASE_KEPT_MS
        case.due_second = desk.timers.at(desk.stream_ms + wait, "case", case.key)
        self._touches.append(
            Touch(
                case,
                [
                    Touched(
                        job,
                        histories.is_repeated(job.job_key, job.at_ms),
                        job.category == Category.TEST and histories.is_flaky(job.job_key, job.at_ms),
                    )
                    for job in case.failed_jobs()
                ],
                case.ended,
                case.given_up,
                case.is_deploy,
                case.is_fork,
                received_ms,
                case.newest_ms,
                desk.where(position),
                case.ended_ms,
                case.environments,
                case.branch,
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
            self._journal.changed.append(key)

    def conclude(self) -> None:
        """Score all failures of the batch at once, then decide, in the order of the walk."""
        if self._unscored:
            scores = self._desk.rulebook.scorer.score([unscored.features for unscored in self._unscored])
            for (about, job, where, _), score in zip(self._unscored, scores, strict=True):
                job.score, job.top = score.value, score.top
                if isinstance(about, Failed):
                    self.failures.append(failure_row(about, score, where, job.at_ms))
                else:
                    self.diagnoses.append(diagnosis_row(about, score, where))
        for touch in self._touches:
            self._decide(touch)
        self._unscored, self._touches = [], []

    def _decide(self, touch: Touch) -> None:
        """Decide on a case as it stood; say so if what is to be done, and when and how, is not what was said last."""
        case, quarantines = touch.case, self._errands.quarantines
        named = self._desk.rulebook.catalogue.named
        views = [
            job.view(
                in_deploy=touch.in_deploy,
                in_fork=touch.in_fork,
                repeated=repeated,
                flaky=flaky,
                run_environments=touch.environments,
                action=named[job.signature].action.value if job.signature in named else None,
                quarantined=quarantines.holds(job.job_key, job.failure_id),
            )
            for job, repeated, flaky in touch.jobs
        ]
        views.sort(key=_by_time)
        view = case.view(
            views, branch=touch.branch, ended=touch.ended, ended_ms=touch.ended_ms, given_up=touch.given_up
        )
        view, learnt = self._learnt(view, touch.where.at_ms) if self._outcomes.posteriors else (view, [])
        decision = decide(view, self._desk.rulebook.policy)
        calls = msgspec.json.encode(decision.calls).decode() if decision.calls else "[]"
        covered = sorted([view.failure_id for view in views])
        about = [decision.verdict.value, decision.reason.value, calls, covered]
        said = [*about, decision.mode, decision.not_before_ms]
        if said != case.last:
            case.last = said
            case.revision += 1
            self.decisions.append(
                decision_row(touch, decision, list(view.jobs), said, self._desk.rulebook, learnt=learnt)
            )
            if decision.reason is Reason.NOT_FIRST_ATTEMPT:
                self._errands.given_up(case, views, touch.where)

    def _learnt(self, view: CaseView, at_ms: int) -> tuple[CaseView, list[dict[str, Any]]]:
        """The case with the scores that its jobs have after what came of earlier acts, and what that changed."""
        action = action_for(view, [job for job in view.jobs if not job.allow_failure])
        jobs, learnt = [], []
        for job in view.jobs:
            counts = self._outcomes.posteriors.of(job.signature, action, view.attempt, at_ms)
            score = job.score if job.score is None else counts.mean(job.score)
            if score != job.score:
                learnt.append({"failure_id": job.failure_id, "before": job.score, "after": score, **counts._asdict()})
            jobs.append(job._replace(score=score))
        return view._replace(jobs=tuple(jobs)), learnt

    def set_timers(self) -> None:
        """Make due again what the cases say is due."""
        for case in self._cases.values():
            self._desk.timers.at(case.due_second * 1000, "case", case.key)
            for job in case.jobs.values():
                if job.awaits_second:
                    self._desk.timers.at(job.awaits_second * 1000, "log", case.key)

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._cases)
        self.run_ends.settle()

    def state(self) -> list[Any]:
        """All cases as plain data."""
        return [self._journal.written(self._cases), self.run_ends.state(), self.retired.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        cases, run_ends, retired = state
        self._cases = msgspec.convert(self._journal.read(cases), dict[str, Case])
        self.run_ends.load(run_ends)
        self.retired.load(retired)


def _job(detail: Detail, cause: Cause, place: Place, at_ms: int) -> Job:
    return Job(
        detail.id,
        detail.job_id,
        place.job,
        at_ms,
        cause.signature,
        bool(cause.transient),
        cause.hard_stop,
        bool(detail.is_deploy),
        bool(detail.is_fork),
        bool(detail.allow_failure),
        detail.native_retries or 0,
        labels_key=place.labels,
        category=cause.category,
        environment=detail.environment,
        url=detail.url,
    )


def _explained(job: Job, cause: Cause) -> Job:
    """The job as its log explains it; what was asked of it before stays as it was."""
    return msgspec.structs.replace(
        job,
        signature=cause.signature,
        transient=bool(cause.transient),
        hard_stop=cause.hard_stop,
        category=cause.category,
        awaits_second=0,
        told=None,
        explained=True,
    )


def _case_of(evidence: Evidence) -> str:
    return case_id(
        instance=evidence.instance,
        repository=evidence.repository,
        pipeline_id=evidence.pipeline_id,
        workflow_id=evidence.workflow_id,
        attempt=evidence.attempt,
    )


def _by_time(job: FailedJob) -> tuple[int, str]:
    return job.at_ms, job.failure_id
