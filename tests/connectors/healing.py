"""Decisions that are to be acted on, as the flow writes them; and what a test looks at of the ledger."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from connectors.postgres import Connection, connect
from connectors.postgres_rows import STATEMENT, Written, texts
from models.records.calls import Call, RerunFailed
from models.records.outputs import DecisionRow, ShardOutput
from tests.connectors.outputs import decision, failure, progress


def rerun(number: int, **changes: Any) -> Call:
    """The call that heals run `number`."""
    about = {"platform": "github", "instance": "github.com", "repository": "org/repo", "pipeline_id": str(number)}
    return RerunFailed(**{**about, **changes})


def act(number: int, revision: int = 1, *calls: Call, **changes: Any) -> DecisionRow:
    """The decision to act on run `number`, just failed, unless `changes` say otherwise."""
    now_ms = int(time.time() * 1000)
    row = decision(number, revision, verdict="act", reason="transient_cause", mode="act", action="rerun_failed")
    row = row._replace(signature="connection-reset", commit_sha=f"{number:040x}", occurred_ms=now_ms, at_ms=now_ms - 1)
    row = row._replace(**changes)
    asked = calls or (rerun(number, repository=row.repository, instance=row.instance, pipeline_id=row.pipeline_id),)
    return row._replace(calls=msgspec.json.encode(asked).decode(), explanation=_explanation(row, asked))


def withdrawn(number: int, revision: int = 2, **changes: Any) -> DecisionRow:
    """The decision to leave run `number` alone."""
    row = act(number, revision, **changes)
    return row._replace(verdict="skip", reason="hard_stop", action=None, calls="[]")


def decide(database: str | Connection, *rows: DecisionRow) -> None:
    """Write decisions, all in one transaction."""
    failures = [failure(row.position)._replace(duration_ms=120_000) for row in rows if row.revision == 1]
    for parameters in texts([Written(0, ShardOutput(failures, [], list(rows), [], []), progress(rows[0].position))]):
        if isinstance(database, str):
            with connect(database) as connection:
                connection.execute(STATEMENT, parameters)
        else:
            database.execute(STATEMENT, parameters)


def _explanation(row: DecisionRow, calls: tuple[Call, ...]) -> str:
    ids: list[str | None] = [call.job_id for call in calls if call.job_id] or [None]
    jobs = [
        {
            "failure_id": row.jobs[0],
            "job_id": job_id,
            "workflow": "CI",
            "job_name": f"test {job_id or row.pipeline_id}",
            "signature": row.signature,
            "category": "network",
        }
        for job_id in ids
    ]
    return msgspec.json.encode({"jobs": jobs}).decode()


def standing(connection: Connection, number: int) -> tuple[str, str]:
    """State and reason of the case about run `number`."""
    query = "SELECT state, reason FROM guard.healing WHERE case_id = %s"
    row = connection.execute(query, [act(number).case_id]).fetchone()
    assert row is not None
    return row


def acts(connection: Connection) -> list[tuple[str, str, str | None]]:
    """Run, state and reason of all acts."""
    return connection.execute("SELECT pipeline_id, state, reason FROM guard.acts ORDER BY intended_at").fetchall()


def spent(connection: Connection) -> dict[str, int]:
    """Acts charged, by scope."""
    query = "SELECT scope, sum(acts)::int FROM guard.budgets GROUP BY 1 HAVING sum(acts) > 0"
    return dict(connection.execute(query).fetchall())
