"""What people ask of PostgreSQL: why was it decided so, what is dead, how does it stand. Rows are dicts by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, TypeAlias
from uuid import UUID

from psycopg.rows import dict_row

from connectors.postgres import Connection, Progress, read_progress
from connectors.postgres_rows import TABLES

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything behind an id: the run attempts it belongs to, what failed in them, was decided, and was found."""

    cases: list[UUID]
    failures: list[Row]  # by event time
    decisions: list[Row]  # by case and revision
    findings: list[Row]  # by stream time


@dataclass(frozen=True, slots=True)
class Status:
    """How it stands: rows by table, decisions by (verdict, reason) and failures by signature, all since an instant."""

    rows: dict[str, int]
    decisions: dict[tuple[str, str], int]
    failures: dict[str | None, int]
    dead_letters_open: int
    progress: dict[int, Progress]


def explain(connection: Connection, about: UUID, *, around: timedelta = timedelta(hours=1)) -> Explanation | None:
    """Everything behind the id of an event, case, decision or finding; None if nothing is known of it.

    Findings are those about the same job, or about its whole repository, that held within `around` of a failure.
    """
    found = connection.execute(_CASES, {"id": about})
    cases = [case for (case,) in found]
    parameters = {"id": about, "cases": cases, "around": around}
    explanation = Explanation(
        cases,
        failures=_rows(connection, _FAILURES, parameters),
        decisions=_rows(connection, _DECISIONS, parameters),
        findings=_rows(connection, _FINDINGS, parameters),
    )
    return explanation if cases or explanation.findings else None


_CASES = """
SELECT case_id FROM guard.decisions WHERE %(id)s IN (decision_id, case_id, because_of)
UNION
SELECT case_id FROM guard.failures WHERE %(id)s IN (failure_id, case_id)
UNION
SELECT failure.case_id
FROM guard.findings finding JOIN guard.failures failure ON failure.failure_id = ANY (finding.events)
WHERE finding.finding_id = %(id)s
ORDER BY 1
"""
_FAILURES = "SELECT * FROM guard.failures WHERE case_id = ANY (%(cases)s) ORDER BY occurred_at, failure_id"
_DECISIONS = "SELECT * FROM guard.decisions WHERE case_id = ANY (%(cases)s) ORDER BY case_id, revision"
_FINDINGS = """
SELECT finding.*
FROM guard.findings finding
WHERE finding.finding_id = %(id)s
   OR finding.finding_id IN (SELECT because_of FROM guard.decisions WHERE case_id = ANY (%(cases)s))
   OR %(id)s = ANY (finding.events)
   OR EXISTS (
       SELECT FROM guard.failures failure
       WHERE failure.case_id = ANY (%(cases)s)
         AND failure.instance = finding.instance
         AND failure.repository = finding.repository
         AND coalesce(finding.subject ->> 'job_name' = failure.job_name, true)
         AND finding.first_at <= failure.occurred_at + %(around)s
         AND finding.last_at >= failure.occurred_at - %(around)s)
ORDER BY finding.at, finding.finding_id, finding.revision
"""


def dead_letters(connection: Connection, *, limit: int = 100) -> list[Row]:
    """The dead letters that were not replayed yet, newest first, without their payloads."""
    return _rows(connection, "SELECT * FROM guard.dead_letters_open ORDER BY written_at DESC LIMIT %(n)s", {"n": limit})


def open_dead_letters(connection: Connection, *, reason: str | None = None) -> list[UUID]:
    """The ids of the dead letters that were not replayed yet, of one reason or of all, as they stood on the shards."""
    rows = connection.execute(_OPEN_IDS, {"reason": reason})
    return [letter for (letter,) in rows]


_OPEN_IDS = """
SELECT dead_letter_id FROM guard.dead_letters
WHERE replayed_at IS NULL AND (%(reason)s::text IS NULL OR reason = %(reason)s)
ORDER BY shard, position, part
"""


def dead_letter(connection: Connection, dead_letter_id: UUID, *, lock: bool = False) -> Row | None:
    """One dead letter, whole, with the bytes of its payload; `lock` keeps others off until the transaction ends."""
    query: LiteralString = "SELECT * FROM guard.dead_letters WHERE dead_letter_id = %(id)s"
    rows = _rows(connection, f"{query} FOR UPDATE" if lock else query, {"id": dead_letter_id})
    return rows[0] if rows else None


def rulebook_digests(connection: Connection, beginning: str) -> list[str]:
    """The digests of the rulebooks kept that begin so."""
    query = "SELECT digest FROM guard.rulebooks WHERE starts_with(digest, %s) ORDER BY digest"
    return [digest for (digest,) in connection.execute(query, [beginning])]


def mark_replayed(connection: Connection, dead_letter_ids: Sequence[UUID]) -> int:
    """Say that these were put back onto their streams; return how many had not been before."""
    cursor = connection.execute(
        "UPDATE guard.dead_letters SET replayed_at = clock_timestamp()"
        " WHERE dead_letter_id = ANY (%s) AND replayed_at IS NULL",
        [list(dead_letter_ids)],
    )
    return cursor.rowcount


def status(connection: Connection, since: datetime) -> Status:
    """How it stands, counting what was written since then."""
    counts = {table: _count(connection, table, since) for table in TABLES}
    decisions = connection.execute(_BY_REASON, [since])
    failures = connection.execute(_BY_SIGNATURE, [since])
    dead = connection.execute("SELECT count(*) FROM guard.dead_letters WHERE replayed_at IS NULL").fetchone()
    return Status(
        rows=counts,
        decisions={(verdict, reason): count for verdict, reason, count in decisions},
        failures=dict(failures.fetchall()),
        dead_letters_open=dead[0] if dead else 0,
        progress=read_progress(connection),
    )


_BY_REASON = """
SELECT verdict, reason, count(*) FROM guard.decisions WHERE written_at >= %s GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_BY_SIGNATURE = """
SELECT signature, count(*) FROM guard.explained_failures WHERE written_at >= %s GROUP BY 1 ORDER BY 2 DESC, 1
"""


def _count(connection: Connection, table: str, since: datetime) -> int:
    query = f"SELECT count(*) FROM guard.{table} WHERE written_at >= %s".encode()  # noqa: S608 -- one of TABLES
    row = connection.execute(query, [since]).fetchone()
    return row[0] if row else 0


def _rows(connection: Connection, query: LiteralString, parameters: Mapping[str, Any]) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()
