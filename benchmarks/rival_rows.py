"""The rival's rows, and its transaction: COPY into a staging table, INSERT .. ON CONFLICT DO NOTHING, the position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg import sql

from models.records.event import uuid5_text
from models.records.outputs import Diagnosis

if TYPE_CHECKING:
    from analytics.policy.decide import Decision
    from analytics.rulebook import Rulebook
    from benchmarks.rival_state import Case, Minute

_COLUMNS: Final = {
    "failures": "failure_id case_id shard position platform instance repository pipeline_id workflow_id attempt job_id "
    "workflow job_name commit_sha branch author outcome occurred_at received_at duration_ms exit_code reason step "
    "excerpt diagnosis signature category transient cause score model late rulebook url",
    "findings": "finding_id revision shard position detector state instance repository subject first_at last_at "
    "occurrences events message at rulebook",
    "decisions": "decision_id case_id revision shard position platform instance repository pipeline_id workflow_id "
    "attempt commit_sha branch verdict reason mode action calls jobs signature score model explanation occurred_at "
    "received_at at rulebook",
    "aggregates": "shard position platform instance repository minute started completed failed duration_ms_sum "
    "durations late",
}
_PROGRESS: Final = """
INSERT INTO guard.progress (shard, entry_id, position, stream_at, rulebook, updated_at)
VALUES (%s, %s, %s, %s, %s, clock_timestamp())
ON CONFLICT (shard) DO UPDATE SET entry_id = excluded.entry_id, position = excluded.position,
    stream_at = excluded.stream_at, rulebook = excluded.rulebook, updated_at = excluded.updated_at
"""
_text: Final = msgspec.json.Encoder()


def at(ms: int) -> datetime:
    """Milliseconds as PostgreSQL takes them."""
    return datetime.fromtimestamp(ms / 1000, UTC)


class Store:
    """One connection and its staging tables."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url)
        self._copies: dict[str, tuple[sql.Composed, sql.Composed]] = {}
        for table, words in _COLUMNS.items():
            names = sql.SQL(", ").join(map(sql.Identifier, words.split()))
            staging, target = sql.Identifier(f"new_{table}"), sql.Identifier("guard", table)
            self._connection.execute(
                sql.SQL("CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} LIMIT 0").format(
                    staging, names, target
                )
            )
            self._copies[table] = (
                sql.SQL("COPY {} FROM STDIN").format(staging),
                sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
                    target, names, names, staging
                ),
            )
        self._connection.commit()

    def progress(self) -> dict[int, tuple[str, int, int]]:
        """Entry id, position and stream time of each shard that has come anywhere."""
        rows = self._connection.execute(
            "SELECT shard, entry_id, position, (extract(epoch FROM stream_at) * 1000)::bigint "
            "FROM guard.progress WHERE position > 0"
        ).fetchall()
        self._connection.commit()
        return {shard: (entry_id, position, stream_ms) for shard, entry_id, position, stream_ms in rows}

    def write(self, rows: Mapping[str, Sequence[Sequence[Any]]], progress: Sequence[Sequence[Any]]) -> None:
        """Everything of a batch and how far it came, in one transaction."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            for table, some in rows.items():
                if some:
                    into, insert = self._copies[table]
                    with cursor.copy(into) as copy:
                        for row in some:
                            copy.write_row(row)
                    cursor.execute(insert)
            cursor.executemany(_PROGRESS, [(*head, at(stream_ms), digest) for *head, stream_ms, digest in progress])

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def failure_row(known: Mapping[str, Any], rulebook: Rulebook) -> Sequence[Any]:
    """One failed job."""
    event, signature, trouble = known["event"], known["signature"], known["event"].failure_context
    told = event.metadata
    reason, excerpt = (trouble.reason, trouble.excerpt) if trouble else (None, None)
    unknown = Diagnosis.NO_PATTERN if reason or told.step or excerpt else Diagnosis.NO_TEXT
    return (
        *(event.id, known["case_id"], known["shard"], known["position"], event.platform, told.instance),
        *(event.repository, event.pipeline_id, told.workflow_id, told.attempt, event.job_id, told.workflow),
        *(told.job_name, told.commit_sha, told.branch, told.author, told.outcome, at(known["at_ms"])),
        *(at(known["received_ms"]), told.duration_ms, trouble.exit_code if trouble else None, reason, told.step),
        *(excerpt, (Diagnosis.MATCHED if signature else unknown).value, signature.name if signature else None),
        *((signature.category.value, signature.transient, signature.cause) if signature else (None, None, None)),
        *(known["score"], rulebook.scorer.version, known["late"], rulebook.digest, told.url),
    )


def finding_row(
    shard: int, position: int, subject: tuple[Any, ...], said: tuple[Any, ...], stream_ms: int, digest: str
) -> Sequence[Any]:
    """One answer about a job or a job run."""
    finding, revision, detector, state, first_ms, last_ms, count, events, message = said
    instance, repository, *rest = subject
    about = _text.encode({"repository": repository, "key": rest}).decode()
    return (
        *(finding, revision, shard, position, detector, state, instance, repository, about, at(first_ms), at(last_ms)),
        *(count, events, message, at(stream_ms), digest),
    )


def decision_row(
    case: Case, decision: Decision, shard: int, position: int, stream_ms: int, rulebook: Rulebook
) -> Sequence[Any]:
    """What is to be done about a run attempt. Its revision counts the news of the case: a replay has the same."""
    event, told = case.event, case.event.metadata
    top = min(case.jobs.values(), key=lambda known: (known["score"] is None, known["score"] or 0.0))["top"]
    explanation = {
        "jobs": [view._asdict() for view in case.views],
        "run_ended": case.ended,
        "rerun_after": told.rerun_after,
        "score_moved_by": top,
    }
    return (
        *(
            uuid5_text("decision", case.case_id, str(case.news)),
            case.case_id,
            case.news,
            shard,
            position,
            event.platform,
            told.instance,
        ),
        *(event.repository, event.pipeline_id, told.workflow_id, told.attempt, told.commit_sha, told.branch),
        *(decision.verdict.value, decision.reason.value, decision.mode, decision.action),
        *(_text.encode(decision.calls).decode(), [view.failure_id for view in case.views], decision.signature),
        *(decision.score, rulebook.scorer.version, _text.encode(explanation).decode(), at(case.newest_ms)),
        *(at(case.received_ms), at(stream_ms), rulebook.digest),
    )


def aggregate_row(shard: int, position: int, place: tuple[str, str], minute_ms: int, counts: Minute) -> Sequence[Any]:
    """One repository's minute."""
    return (
        *(shard, position, counts.platform, *place, at(minute_ms), counts.started, counts.completed, counts.failed),
        *(counts.total_ms, counts.durations, counts.late),
    )
