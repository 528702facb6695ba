"""The kill switch in PostgreSQL: the newest row of guard.stops, which every healer is told of (LISTEN guard_stops).

One statement says stop or go and writes the row of the audit, so that neither is there without the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg.types.json import Jsonb

from connectors.postgres import AsyncConnection, Connection
from connectors.stop_file import Note

CHANNEL: Final = "guard_stops"


class Said(NamedTuple):
    """The newest word."""

    stopped: bool
    by: str
    why: str
    at: datetime


_NEWEST: Final = "SELECT stopped, said_by, why, said_at FROM guard.stops ORDER BY stop_id DESC LIMIT 1"
_SAY: Final = """
WITH said AS (
    INSERT INTO guard.stops (stopped, said_by, why, note_id) VALUES (%(stopped)s, %(by)s, %(why)s, %(note_id)s)
    ON CONFLICT (note_id) DO NOTHING
    RETURNING stop_id)
INSERT INTO guard.audit (actor, what, subject, detail)
SELECT %(by)s, %(what)s, 'stop ' || stop_id, %(detail)s FROM said
"""


def say_stop(connection: Connection, note: Note, via: Mapping[str, Any]) -> None:
    """Stop all healers, unless this very note was written down already. `via` tells the audit how it was said."""
    connection.execute(_SAY, _stop(note, via))


async def note_down(connection: AsyncConnection, note: Note, via: Mapping[str, Any]) -> None:
    """The same for a healer, which found the note elsewhere."""
    await connection.execute(_SAY, _stop(note, via))


def say_go(connection: Connection, *, by: str, why: str, via: Mapping[str, Any]) -> None:
    """Let all healers go on, as far as this table goes."""
    detail = Jsonb({"why": why, **via})
    said = {"stopped": False, "what": "go", "by": by, "why": why, "note_id": None, "detail": detail}
    connection.execute(_SAY, said)


def newest(connection: Connection) -> Said | None:
    """The newest word; None where nothing was ever said, which means go."""
    row = connection.execute(_NEWEST).fetchone()
    return Said(*row) if row else None


async def newest_async(connection: AsyncConnection) -> Said | None:
    """The same, over a connection that is waited for."""
    row = await (await connection.execute(_NEWEST)).fetchone()
    return Said(*row) if row else None


def _stop(note: Note, via: Mapping[str, Any]) -> dict[str, Any]:
    detail = Jsonb({"why": note.why, "stopped_at": note.stopped_at.isoformat(), **via})
    return {
        "stopped": True,
        "what": "stop",
        "by": note.by,
        "why": note.why,
        "note_id": note.note_id,
        "detail": detail,
    }
