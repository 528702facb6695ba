"""What is remembered of an errand, and the rows that errands make the shard say."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from analytics.findings import Context
from analytics.policy.rules import Mode
from models.records.event import uuid5_text
from models.records.outputs import DecisionRow, Reason, Verdict


class Errand(msgspec.Struct, array_like=True):
    """What was last said about one finding, and where it belongs. Snapshots hold it as an array."""

    case_id: str
    finding_id: str
    job_key: str  # empty where it is about no job that comes again
    platform: str
    instance: str
    repository: str
    pipeline_id: str = ""
    workflow_id: str | None = None
    attempt: int = 1
    commit_sha: str | None = None
    branch: str | None = None
    revision: int = -1
    last: list[Any] | None = None
    often: int = 0  # bits of how often it had happened when it was decided on
    cleared: bool = False  # it is remembered for its quarantine only
    quiet_until_ms: int = 0  # the action's cooldown


class Said(NamedTuple):
    """What is to be done about it."""

    verdict: Verdict
    reason: Reason
    mode: Mode = "observe"
    action: str | None = None
    calls: tuple[dict[str, Any], ...] = ()
    rules: tuple[int, ...] = ()


def job_told(finding_id: str, job_id: str | None, workflow: str | None, job_name: str | None) -> dict[str, Any]:
    """The job of a finding as a decision explains it, in the terms of a failed one: the finding is its failure."""
    return {
        "failure_id": finding_id,
        "job_id": job_id,
        "workflow": workflow,
        "job_name": job_name,
        "signature": None,
        "category": None,
    }


def errand_row(
    errand: Errand, said: Said, where: Context, occurred_ms: int, told: dict[str, Any], jobs: list[str]
) -> DecisionRow:
    """What is to be done about a finding, or about what was given up, as `errand` stands; `told` is why."""
    return DecisionRow(
        decision_id=uuid5_text("decision", errand.case_id, str(errand.revision)),
        case_id=errand.case_id,
        revision=errand.revision,
        shard=where.shard,
        position=where.position,
        platform=errand.platform,
        instance=errand.instance,
        repository=errand.repository,
        pipeline_id=errand.pipeline_id,
        workflow_id=errand.workflow_id,
        attempt=errand.attempt,
        commit_sha=errand.commit_sha,
        branch=errand.branch,
        verdict=said.verdict.value,
        reason=said.reason.value,
        mode=said.mode,
        action=said.action,
        calls=_json(said.calls),
        jobs=sorted(jobs),
        signature=None,
        score=None,
        model=None,
        explanation=_json(told),
        occurred_ms=occurred_ms,
        received_ms=where.at_ms,
        at_ms=where.at_ms,
        rulebook=where.rulebook,
        not_before_ms=where.at_ms if said.verdict is Verdict.ACT else None,
        because_of=errand.finding_id,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
