"""Decisions that are proposed to people, as a healer leaves them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from connectors.postgres import Connection
from connectors.postgres_rows import STATEMENT, Written, texts
from models.records.outputs import ShardOutput
from tests.connectors.outputs import decision, failure, progress


def propose(connection: Connection, number: int, *, expires: str = "1 hour", revision: int = 1, **changes: Any) -> UUID:
    """Put decision `number` before people, for so long; its id."""
    said = decision(number, revision, verdict="act", mode="suggest", **changes)
    failures = [failure(number)] if revision == 1 else []
    output = ShardOutput(failures, [], [said], [], [])
    for parameters in texts([Written(0, output, progress(number))]):
        connection.execute(STATEMENT, parameters)
    connection.execute(
        "UPDATE guard.healing SET state = 'proposed', reason = 'proposed',"
        " expires_at = clock_timestamp() + %s::interval WHERE decision_id = %s",
        [expires, said.decision_id],
    )
    return UUID(said.decision_id)
