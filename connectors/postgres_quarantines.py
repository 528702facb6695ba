"""Quarantines as they stand in PostgreSQL: begun by a healer, ended by the decision in which the shard says so."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from connectors.postgres import Connection
from connectors.postgres_audit import record
from models.records.calls import Quarantine
from models.records.event import PlatformName


class Lasting(NamedTuple):
    """A quarantine that nobody has ended yet, and the decision that brought it about."""

    decision_id: UUID
    case_id: UUID
    platform: PlatformName
    instance: str
    repository: str
    workflow: str | None
    job_name: str
    test: str | None
    owner: str
    why: str
    begun_by: str
    begun_at: datetime
    expires_at: datetime


async def begin(
    connection: AsyncConnection[Any], call: Quarantine, *, decision_id: str, case_id: str, begun_by: str
) -> None:
    """Write down that a quarantine begins; said twice it is there once."""
    await connection.execute(
        _BEGIN.encode(),
        {
            "decision": decision_id,
            "case": case_id,
            "platform": call.platform,
            "instance": call.instance,
            "repository": call.repository,
            "workflow": call.workflow,
            "job": call.job_name,
            "test": call.test,
            "owner": call.owner,
            "why": call.why,
            "by": begun_by,
            "hours": call.hours,
        },
    )


def lasting(connection: Connection, *, over: bool = False) -> list[dict[str, Any]]:
    """What is in quarantine now, or with `over` what ever was and is still remembered; the newest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute((_ALL if over else _OPEN).encode()).fetchall()


def find(connection: Connection, decision_id: UUID) -> Lasting | None:
    """The quarantine that this decision brought about, if nobody has ended it."""
    row = connection.execute(_FIND.encode(), [decision_id]).fetchone()
    return None if row is None else Lasting(*row)


def released(connection: Connection, decision_id: UUID, *, by: str) -> None:
    """Write down that a person ended a quarantine, and who; the shard was told before."""
    with connection.transaction():
        if connection.execute(_RELEASED.encode(), {"by": by, "decision": decision_id}).rowcount:
            record(connection, by, "release", str(decision_id), {"quarantine": True})


_BEGIN: Final = """
INSERT INTO guard.quarantines (decision_id, case_id, platform, instance, repository, workflow, job_name, test, owner,
                               why, begun_by, begun_at, expires_at)
VALUES (%(decision)s, %(case)s, %(platform)s, %(instance)s, %(repository)s, %(workflow)s, %(job)s, %(test)s, %(owner)s,
        %(why)s, %(by)s, clock_timestamp(), clock_timestamp() + %(hours)s * interval '1 hour')
ON CONFLICT DO NOTHING
"""
_OPEN: Final = "SELECT * FROM guard.open_quarantines ORDER BY begun_at DESC, decision_id"
_ALL: Final = "SELECT * FROM guard.quarantines ORDER BY begun_at DESC, decision_id"
_RELEASED: Final = """
UPDATE guard.quarantines
SET released_at = clock_timestamp(), why_released = 'quarantine_released', released_by = %(by)s
WHERE decision_id = %(decision)s AND released_at IS NULL
"""
_FIND: Final = """
SELECT decision_id, case_id, platform, instance, repository, workflow, job_name, test, owner, why, begun_by, begun_at,
       expires_at
FROM guard.quarantines WHERE decision_id = %s AND released_at IS NULL
"""
