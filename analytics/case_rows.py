"""The rows that cases make the shard say."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from analytics.cases import Case, Job
from analytics.causes import Cause
from analytics.findings import Context
from analytics.policy.decide import Decision, FailedJob
from analytics.proof import Proof
from analytics.rows import Detail
from analytics.rulebook import Rulebook
from models.records.event import Outcome, uuid5_text
from models.records.evidence import Evidence
from models.records.outputs import DecisionRow, DiagnosisRow, Failure
from models.scorers.rerun_passes import features
from models.scorers.scorer import Features, Score


class Touched(NamedTuple):
    """A failed job of a case, and what its history said when the case was touched."""

    job: Job
    repeated: bool  # it had failed again and again
    flaky: bool  # a test of it had failed and then passed on the same commit


class Touch(NamedTuple):
    """A case as it stood when something about it changed; decided on once the batch is scored."""

    case: Case
    jobs: list[Touched]
    ended: Outcome | None
    given_up: bool
    in_deploy: bool
    in_fork: bool
    received_ms: int
    newest_ms: int
    where: Context
    ended_ms: int
    environments: tuple[str, ...]
    branch: str | None


class Failed(NamedTuple):
    """A failure as its webhook tells of it."""

    detail: Detail
    case_id: str
    cause: Cause
    late: bool


class LogRead(NamedTuple):
    """A failure whose log was read, or cannot be."""

    evidence: Evidence
    case_id: str
    proof: Proof
    received_ms: int


class Unscored(NamedTuple):
    """A failure that waits for its score; `job` takes it up."""

    about: Failed | LogRead
    job: Job
    where: Context
    features: Features


def features_of(detail: Detail, cause: Cause) -> dict[str, float | str]:
    """What the scorer weighs of a failure as its webhook tells of it."""
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


def failure_row(about: Failed, score: Score, where: Context, at_ms: int) -> Failure:
    """How a failure was understood when it came."""
    detail, case_id, cause, late = about
    return Failure(
        failure_id=detail.id,
        case_id=case_id,
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
        occurred_ms=at_ms,
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
        score=score.value,
        model=score.version,
        late=late,
        rulebook=where.rulebook,
        url=detail.url,
    )


def diagnosis_row(about: LogRead, score: Score | None, where: Context) -> DiagnosisRow:
    """How a failure is understood by its log."""
    evidence, case_id, (cause, match, seen_passing, discarded), received_ms = about
    return DiagnosisRow(
        failure_id=evidence.event_id,
        case_id=case_id,
        shard=where.shard,
        position=where.position,
        reading=evidence.reading.value,
        why=evidence.why,
        diagnosis=cause.diagnosis,
        signature=cause.signature,
        category=cause.category,
        transient=cause.transient,
        cause=cause.words,
        line=match.number if match else None,
        matched=match.line if match else None,
        seen_passing=seen_passing,
        captures=_json(dict(match.captures) if match else {}),
        exit_code=evidence.exit_code,
        lines=_json(evidence.lines),
        log_lines=evidence.log_lines,
        log_bytes=evidence.log_bytes,
        cut=evidence.cut,
        compared=evidence.compared,
        template=evidence.template,
        normaliser=evidence.normaliser,
        score=score.value if score else None,
        model=score.version if score else None,
        received_ms=received_ms,
        at_ms=where.at_ms,
        rulebook=where.rulebook,
        discarded=discarded,
    )


def decision_row(
    touch: Touch,
    decision: Decision,
    views: list[FailedJob],
    said: list[Any],
    rulebook: Rulebook,
    *,
    learnt: list[dict[str, Any]],
) -> DecisionRow:
    """What is to be done about a case; `said` is verdict, reason, calls, failures covered, mode and not_before_ms.

    `learnt` says which scores are others than the scorer's, because of what came of earlier acts.
    """
    case, where = touch.case, touch.where
    verdict, reason, calls, covered, mode, not_before_ms = said
    explanation = {
        "jobs": [view._asdict() for view in views],
        "run_ended": touch.ended,
        "rerun_after": case.rerun_after,
        "score_moved_by": _worst(touch.jobs).top,
        "rules": decision.rules,
        **({"learnt": learnt} if learnt else {}),
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
        branch=touch.branch,
        verdict=verdict,
        reason=reason,
        mode=mode,
        action=decision.action,
        calls=calls,
        jobs=covered,
        signature=decision.signature,
        score=decision.score,
        model=rulebook.scorer.version,
        explanation=_json(explanation),
        occurred_ms=touch.newest_ms,
        received_ms=touch.received_ms,
        at_ms=where.at_ms,
        rulebook=where.rulebook,
        not_before_ms=not_before_ms,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _worst(jobs: list[Touched]) -> Job:
    """The job whose rerun is least likely to pass."""
    if len(jobs) == 1:
        return jobs[0].job
    return min((touched.job for touched in jobs), key=lambda job: (job.score is None, job.score or 0.0, job.failure_id))
