"""What the ledger and the shards know of what was run again, as `guard report` adds it up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg.rows import class_row

from connectors.postgres import Connection


class Rerun(msgspec.Struct, frozen=True):
    """An act that ran something again, and what came of it; `outcome` None: it is not known yet."""

    repository: str
    signature: str | None
    minutes: float  # that it was expected to cost
    outcome: str | None
    masked: bool | None
    ends: list[dict[str, Any]] | None  # how each of its jobs ended
    failed_at: datetime | None  # when the first job of its case failed
    ended_at: datetime | None


class Recovery(msgspec.Struct, frozen=True):
    """What nothing was done about, in one repository: jobs that failed on a commit, and how soon they were green."""

    repository: str
    episodes: int
    green: int
    seconds: float  # all of those that got green, together


class Refused(msgspec.Struct, frozen=True):
    """How many cases nothing was done about for the same reason."""

    reason: str
    cases: int


def reruns(connection: Connection, since: datetime, repositories: Sequence[str] = ()) -> list[Rerun]:
    """What was run again since then, of some repositories or of all, oldest first."""
    return _rows(connection, Rerun, _RERUNS, since, repositories)


def recoveries(connection: Connection, since: datetime, repositories: Sequence[str] = ()) -> list[Recovery]:
    """How soon commits got green on which we ran nothing again."""
    return _rows(connection, Recovery, _RECOVERIES, since, repositories)


def refusals(connection: Connection, since: datetime, repositories: Sequence[str] = ()) -> list[Refused]:
    """Why nothing was done where a decision was to act, most frequent first."""
    return _rows(connection, Refused, _REFUSED, since, repositories)


def _rows(
    connection: Connection, kind: type[Any], query: str, since: datetime, repositories: Sequence[str]
) -> list[Any]:
    given = {"since": since, "repositories": list(repositories) or None}
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query.encode(), given).fetchall()


_RERUNS: Final = """
SELECT a.repository, a.signature, a.minutes, o.outcome, o.masked, o.ends, o.ended_at,
       (SELECT min(occurred_at) FROM guard.failures f WHERE f.case_id = a.case_id) AS failed_at
FROM guard.acts a
LEFT JOIN guard.current_act_outcomes o USING (act_id)
WHERE a.asked_at > %(since)s
  AND (%(repositories)s::text[] IS NULL OR a.repository = ANY (%(repositories)s))
  AND a.action IN ('rerun', 'rerun_failed', 'rerun_job') AND a.state IN ('done', 'unknown')
ORDER BY a.asked_at, a.act_id
"""
_RECOVERIES: Final = """
SELECT r.repository, count(*) AS episodes, count(r.green_at) AS green,
       coalesce(sum(r.seconds), 0)::double precision AS seconds
FROM guard.recoveries r
WHERE r.scope = 'commit' AND r.day > %(since)s - interval '1 day' AND r.failed_at > %(since)s
  AND (%(repositories)s::text[] IS NULL OR r.repository = ANY (%(repositories)s))
  AND NOT EXISTS (
    SELECT FROM guard.acts a
    WHERE a.instance = r.instance AND a.repository = r.repository AND a.commit_sha = r.commit_sha
      AND a.action IN ('rerun', 'rerun_failed', 'rerun_job') AND a.state IN ('done', 'unknown'))
GROUP BY r.repository
ORDER BY r.repository
"""
_REFUSED: Final = """
SELECT h.reason, count(*) AS cases
FROM guard.healing h
JOIN guard.decisions d USING (decision_id)
WHERE h.state = 'refused' AND h.changed_at > %(since)s
  AND (%(repositories)s::text[] IS NULL OR d.repository = ANY (%(repositories)s))
GROUP BY h.reason
ORDER BY cases DESC, h.reason
"""
