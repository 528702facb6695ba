"""Indexes of passing logs, and requests for logs that came to nothing: what a log reader keeps in PostgreSQL.

Both are written once in a while, and read where Redis has forgotten.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from connectors.postgres import Connection
from models.records.event import uuid5_text


class Index(NamedTuple):
    """What a passing log wrote, as bytes of analytics/logs, and when it was read."""

    lines: bytes
    at: datetime


def find_index(connection: Connection, job_key: str) -> Index | None:
    """The index that is kept for a job, if there is one."""
    query = "SELECT lines, written_at FROM guard.passing_logs WHERE job_key = %s"
    row = connection.execute(query, [job_key]).fetchone()
    return None if row is None else Index(bytes(row[0]), row[1])


def keep_index(connection: Connection, job_key: str, run: dict[str, object], index: Index) -> None:
    """Keep the index of the log of `run`, in place of an older one."""
    connection.execute(
        "INSERT INTO guard.passing_logs (job_key, run, lines, written_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (job_key) DO UPDATE SET run = excluded.run, lines = excluded.lines,"
        " written_at = excluded.written_at WHERE passing_logs.written_at < excluded.written_at",
        [job_key, Jsonb(run), index.lines, index.at],
    )


class Letter(NamedTuple):
    """A request for a log that came to nothing through no fault of the platform's."""

    shard: int
    entry_id: str
    reason: str
    detail: str
    payload: bytes
    received_at: datetime


def bury(connection: Connection, letter: Letter) -> UUID:
    """Put a letter among the dead, once however often it is said; its id."""
    letter_id = UUID(uuid5_text("log request", str(letter.shard), letter.entry_id))
    connection.execute(
        "INSERT INTO guard.dead_letters"
        " (dead_letter_id, shard, position, entry_id, part, reason, detail, payload, received_at)"
        " VALUES (%s, %s, 0, %s, 0, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [letter_id, letter.shard, letter.entry_id, letter.reason, letter.detail, letter.payload, letter.received_at],
    )
    return letter_id
