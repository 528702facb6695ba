"""What the reconciler remembers: how far each repository was looked at, how webhooks stand, what is asked for again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, cast

from connectors.platforms.past import Delivery, Hook
from connectors.postgres import Connection
from models.records.event import PlatformName


class Place(NamedTuple):
    """Where runs happen."""

    platform: PlatformName
    instance: str
    repository: str


class Reconciled(NamedTuple):
    """How far a place is known; `why` it could not be read the last time, if it could not."""

    read_until: datetime
    looked_at: datetime
    found: int = 0  # by this look
    missed_looks: int = 0
    why: str | None = None


class Redelivery(NamedTuple):
    """A delivery that nobody took, by its last attempt, and how often it was asked for again."""

    guid: str
    delivery_id: int
    tries: int


class HookName(NamedTuple):
    """A webhook as the settings name it."""

    platform: PlatformName
    instance: str
    hook: str


def seen(connection: Connection, since: datetime) -> set[Place]:
    """Where something ran since then, as far as we were told."""
    rows = connection.execute(_SEEN, {"since": since}).fetchall()
    return {Place(cast("PlatformName", platform), *rest) for platform, *rest in rows}


def reconciled(connection: Connection) -> dict[Place, Reconciled]:
    """All places that were ever looked at, and how far."""
    rows = connection.execute(
        "SELECT platform, instance, repository, read_until, looked_at, found, missed_looks, why FROM guard.reconciled"
    ).fetchall()
    return {Place(*row[:3]): Reconciled(*row[3:]) for row in rows}


def note(connection: Connection, place: Place, look: Reconciled) -> None:
    """Remember a look; what it found is added to what was found before."""
    connection.execute(_NOTE, [*place, *look])


def hook_read_until(connection: Connection, hook: HookName) -> datetime | None:
    """Up to when the deliveries of `hook` that failed are known."""
    where = "WHERE platform = %s AND instance = %s AND hook = %s"
    row = connection.execute(f"SELECT read_until FROM guard.hooks {where}".encode(), hook).fetchone()  # noqa: S608
    return None if row is None else row[0]


def note_hook(connection: Connection, hook: HookName, stands: Hook, read_until: datetime | None) -> None:
    """Remember how `hook` stands; a `read_until` of None leaves what is known of its deliveries."""
    connection.execute(_NOTE_HOOK, [*hook, *stands, read_until])


def note_deliveries(
    connection: Connection, hook: HookName, failed: Iterable[Delivery], taken: Iterable[str], at: datetime
) -> int:
    """Remember which deliveries nobody took, and forget those that were; how many of these had been asked for again."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_FAILED, [[*hook, one.guid, one.id, at] for one in failed])
        rows = cursor.execute(_TAKEN, [*hook, list(taken)]).fetchall()
    return sum(1 for (tries,) in rows if tries)


def redeliveries_due(connection: Connection, hook: HookName, at: datetime, *, most_tries: int) -> list[Redelivery]:
    """What may be asked for again at `at`, the oldest first."""
    rows = connection.execute(_DUE, [*hook, at, most_tries]).fetchall()
    return [Redelivery(guid, int(delivery_id), tries) for guid, delivery_id, tries in rows]


def claim_redelivery(connection: Connection, hook: HookName, one: Redelivery, *, tries: int, next_at: datetime) -> bool:
    """Write down that `one` is asked for again, before it is; False where somebody else has done so meanwhile."""
    done = connection.execute(_CLAIM, [tries, next_at, *hook, one.guid, one.tries])
    return done.rowcount == 1


_SEEN = """
SELECT DISTINCT platform, instance, repository FROM guard.aggregates WHERE written_at > %(since)s
UNION
SELECT DISTINCT platform, instance, repository FROM guard.failures WHERE written_at > %(since)s
"""
_NOTE = """
INSERT INTO guard.reconciled AS known (platform, instance, repository, read_until, looked_at, found, missed_looks, why)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (platform, instance, repository) DO UPDATE
SET read_until = greatest(known.read_until, EXCLUDED.read_until), looked_at = EXCLUDED.looked_at,
    found = known.found + EXCLUDED.found, missed_looks = EXCLUDED.missed_looks, why = EXCLUDED.why,
    written_at = clock_timestamp()
"""
_NOTE_HOOK = """
INSERT INTO guard.hooks AS known (platform, instance, hook, disabled, failing, why, read_until)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (platform, instance, hook) DO UPDATE
SET disabled = EXCLUDED.disabled, failing = EXCLUDED.failing, why = EXCLUDED.why,
    read_until = coalesce(EXCLUDED.read_until, known.read_until), written_at = clock_timestamp()
"""
_FAILED = """
INSERT INTO guard.redeliveries AS known (platform, instance, hook, guid, delivery_id, tries, next_at)
VALUES (%s, %s, %s, %s, %s, 0, %s)
ON CONFLICT (platform, instance, hook, guid) DO UPDATE
SET delivery_id = greatest(known.delivery_id, EXCLUDED.delivery_id), written_at = clock_timestamp()
"""
_TAKEN = """
DELETE FROM guard.redeliveries WHERE platform = %s AND instance = %s AND hook = %s AND guid = ANY (%s) RETURNING tries
"""
_DUE = """
SELECT guid, delivery_id, tries FROM guard.redeliveries
WHERE platform = %s AND instance = %s AND hook = %s AND next_at <= %s AND tries < %s ORDER BY delivery_id
"""
_CLAIM = """
UPDATE guard.redeliveries SET tries = %s, next_at = %s
WHERE platform = %s AND instance = %s AND hook = %s AND guid = %s AND tries = %s
"""
