"""What the row of a decision says is to be asked, and about which jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from models.records.calls import Call, from_row
from models.records.errors import UnknownSchema
from models.records.ledger import act_id
from models.records.outputs import DecisionRow


def calls_of(row: DecisionRow) -> tuple[Call, ...]:
    """The calls of a decision; none where this release does not know one of them."""
    try:
        return tuple(
            from_row({name: value for name, value in call.items() if value is not None})
            for call in msgspec.json.decode(row.calls)
        )
    except UnknownSchema:
        return ()


def identity_of(row: DecisionRow, call: Call) -> str:
    """The id of the act that `call` comes to."""
    return act_id(
        instance=row.instance,
        repository=row.repository,
        pipeline_id=row.pipeline_id,
        workflow_id=row.workflow_id,
        attempt=row.attempt,
        target=call.target,
        action=call.name,
    )


def names_of(jobs: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Workflow and name of `jobs`, in order."""
    return tuple(sorted({(job.get("workflow") or "", job.get("job_name") or "") for job in jobs}))


def jobs_of(row: DecisionRow) -> list[Mapping[str, Any]]:
    """The failed jobs of a decision, as the policy saw them."""
    return list(msgspec.json.decode(row.explanation).get("jobs") or ())


def jobs_about(row: DecisionRow, call: Call) -> list[Mapping[str, Any]]:
    """The failed jobs that `call` is about."""
    return [job for job in jobs_of(row) if call.job_id is None or job.get("job_id") == call.job_id]
