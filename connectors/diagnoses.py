"""What is asked of PostgreSQL about what logs showed: of one failure, of unknown ones, of signatures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import class_row, dict_row

from connectors.postgres import Connection

MOST_TEMPLATES: Final = 100_000
_FETCHED: Final = 200  # excerpts at a time


def diagnoses_of(connection: Connection, failure_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """The rows of guard.diagnoses, by failure; failures of whose log nothing came yet are absent."""
    with connection.cursor(row_factory=dict_row) as cursor:
        query = "SELECT * FROM guard.diagnoses WHERE failure_id = ANY (%s)"
        return {row["failure_id"]: row for row in cursor.execute(query, [list(failure_ids)])}


def cases_of_job(connection: Connection, job_id: str) -> list[UUID]:
    """The run attempts in which a job of that id, as its platform counts, failed; the latest first."""
    query = "SELECT case_id FROM guard.failures WHERE job_id = %s GROUP BY 1 ORDER BY max(occurred_at) DESC, 1"
    return [case for (case,) in connection.execute(query, [job_id])]


class UnknownLine(NamedTuple):
    """A masked line for which failures stand that no signature explains."""

    template: str
    failures: int
    repositories: list[str]


def unknown_lines(connection: Connection, since: datetime) -> list[UnknownLine]:
    """The masked lines of unknown failures received since then, the most frequent first; at most MOST_TEMPLATES."""
    with connection.cursor(row_factory=class_row(UnknownLine)) as cursor:
        return cursor.execute(_UNKNOWN_LINES, {"since": since, "most": MOST_TEMPLATES}).fetchall()


_UNKNOWN_LINES: Final = """
SELECT d.template, count(*) AS failures, array_agg(DISTINCT f.repository ORDER BY f.repository) AS repositories
FROM guard.diagnoses d JOIN guard.failures f USING (failure_id)
WHERE d.received_at >= %(since)s AND d.written_at >= %(since)s
  AND d.diagnosis = 'no_pattern' AND d.template IS NOT NULL
GROUP BY d.template ORDER BY count(*) DESC, d.template LIMIT %(most)s
"""


class Excerpt(NamedTuple):
    """The lines kept of one failed log, and the signature that explains it."""

    signature: str | None
    lines: list[tuple[int, str, bool]]


def excerpts(connection: Connection, since: datetime, *, most: int) -> Iterator[Excerpt]:
    """The newest logs read since then, a few at a time."""
    with connection.transaction(), connection.cursor("excerpts", row_factory=class_row(Excerpt)) as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(_EXCERPTS, {"since": since, "most": most})
        yield from cursor


_EXCERPTS: Final = """
SELECT signature, lines FROM guard.diagnoses
WHERE written_at >= %(since)s AND reading = 'read' ORDER BY written_at DESC LIMIT %(most)s
"""


def passing_indexes(connection: Connection, *, most: int) -> Iterator[bytes]:
    """The indexes of the passing logs read last, as bytes of analytics/logs."""
    with connection.transaction(), connection.cursor("passing") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute("SELECT lines FROM guard.passing_logs ORDER BY written_at DESC LIMIT %s", [most])
        for (lines,) in cursor:
            yield bytes(lines)


class SignatureHits(NamedTuple):
    """A row of the view guard.signature_hits."""

    signature: str
    category: str | None
    hits: int
    hits_by_log: int
    passing_hits: int
    repositories: int
    last_hit: datetime | None


def signature_hits(connection: Connection) -> list[SignatureHits]:
    """How often each signature explained a failure in the last 30 days, the most frequent first."""
    query = "SELECT * FROM guard.signature_hits ORDER BY hits DESC, signature"
    with connection.cursor(row_factory=class_row(SignatureHits)) as cursor:
        return cursor.execute(query).fetchall()


def oldest_failure(connection: Connection) -> datetime | None:
    """When the oldest failure that is kept was written."""
    row = connection.execute("SELECT min(written_at) FROM guard.failures").fetchone()
    return row[0] if row else None
