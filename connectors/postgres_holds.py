"""What waits for an incident to end, and for people: looked after by whichever healer comes first."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, NamedTuple

import psycopg

from connectors.postgres import AsyncConnection
from models.records.ledger import HoldRules, ahead, goes_on

_LONGEST_SECONDS: Final = 4 * 3600.0
"""For so long what nobody but healers has noticed is waited for at most: by then the fleet has an opinion."""

_EXPIRE: Final = """
UPDATE guard.healing SET state = 'refused', reason = 'expired', changed_at = clock_timestamp()
WHERE state = 'proposed' AND expires_at <= clock_timestamp()
RETURNING case_id, decision_id
"""

# Of each hold: what came of its probes, or of what was run again after it was over, the last to be asked for first;
# null is what goes on still.
_STANDING: Final = """
SELECT h.incident_id, h.state,
       CASE WHEN h.kind = 'crowd' THEN h.began_at > clock_timestamp() - %(longest)s * interval '1 s'
            ELSE EXISTS (SELECT FROM guard.open_incidents i WHERE i.incident_id = h.incident_id) END AS going_on,
       h.kind,
       ARRAY(
           SELECT o.outcome
           FROM guard.acts a LEFT JOIN guard.current_act_outcomes o USING (act_id)
           WHERE a.incident_id = h.incident_id AND a.asked_at >= coalesce(h.ended_at, h.began_at)
             AND (o.outcome IN ('passed', 'failed_same') AND (a.probe OR h.state = 'over')
                  OR o.outcome IS NULL AND h.state = 'over' AND a.state IN ('intent', 'done'))
           ORDER BY a.asked_at DESC, a.act_id  -- a rerun from before the end may fail long after it
           LIMIT CASE WHEN h.state = 'over' THEN %(most)s ELSE %(most_probes)s END) AS outcomes
FROM guard.holds h
WHERE h.state = 'held' OR h.ended_at > clock_timestamp() - interval '2 hours'
"""

_RELEASE: Final = """
WITH over AS (
    UPDATE guard.holds SET state = 'over', ended_at = clock_timestamp(), why = %(why)s
    WHERE incident_id = %(incident_id)s AND state = 'held'
    RETURNING incident_id)
UPDATE guard.healing h
SET reason = 'released', probe = false, due_at = clock_timestamp() + random() * %(drain)s * interval '1 s',
    changed_at = clock_timestamp()
FROM over
WHERE h.incident_id = over.incident_id AND h.state = 'waiting' AND h.reason = 'incident'
RETURNING h.case_id
"""

_HOLD_AGAIN: Final = """
UPDATE guard.holds
SET state = 'held', began_at = clock_timestamp(), ended_at = NULL, why = NULL,
    next_probe_at = clock_timestamp() + %(probe)s * interval '1 s'
WHERE incident_id = %(incident_id)s AND state = 'over'
"""

_PROBE: Final = """
WITH due AS (
    UPDATE guard.holds SET next_probe_at = clock_timestamp() + %(probe)s * interval '1 s', probes = probes + 1
    WHERE state = 'held' AND next_probe_at <= clock_timestamp()
          + CASE WHEN incident_id = ANY (%(hopeful)s::uuid[]) THEN %(sooner)s ELSE 0 END * interval '1 s'
    RETURNING incident_id),
chosen AS (
    SELECT DISTINCT ON (h.incident_id) h.case_id
    FROM guard.healing h JOIN due USING (incident_id)
    WHERE h.state = 'waiting' AND h.reason = 'incident'
    ORDER BY h.incident_id, h.queued_at DESC)
UPDATE guard.healing h
SET probe = true, due_at = clock_timestamp(), changed_at = clock_timestamp()
FROM chosen WHERE h.case_id = chosen.case_id AND h.state = 'waiting' AND h.reason = 'incident'
RETURNING h.case_id, h.incident_id
"""

_ORPHANS: Final = """
UPDATE guard.healing h
SET reason = 'released', due_at = clock_timestamp() + random() * %(drain)s * interval '1 s',
    changed_at = clock_timestamp()
WHERE h.state = 'waiting' AND h.reason = 'incident' AND h.changed_at < clock_timestamp() - interval '10 s'
  AND NOT EXISTS (SELECT FROM guard.holds o WHERE o.incident_id = h.incident_id AND o.state = 'held')
RETURNING h.case_id
"""


_MOST_PROBES: Final = 100
"""Of those that were tried, so many of the newest."""
_MOST_AFTER: Final = 1000
"""Of what is run again after the end."""


class Tended(NamedTuple):
    """What was done: ids of cases, and of incidents with why."""

    expired: list[tuple[str, str]]  # case and decision
    probes: list[tuple[str, str]]  # case and incident
    released: list[tuple[str, str, int]]  # incident, why, how many cases
    held_again: list[str]


async def tend(connection: AsyncConnection, rules: HoldRules) -> Tended:
    """Let proposals expire, choose probes, release what waited for incidents that are over; each thing once."""
    given: dict[str, Any] = {
        "probe": rules.probe_seconds,
        "drain": rules.drain_seconds,
        "longest": _LONGEST_SECONDS,
    }
    expired = await (await connection.execute(_EXPIRE)).fetchall()
    released: list[tuple[str, str, int]] = []
    held_again: list[str] = []
    hopeful: list[Any] = []
    standing = await connection.execute(_STANDING, given | {"most": _MOST_AFTER, "most_probes": _MOST_PROBES})
    for incident_id, state, going_on, kind, outcomes in await standing.fetchall():
        about = given | {"incident_id": incident_id}
        ended = "incident_closed" if kind == "incident" else "too_long"
        passed = ahead(outcome == "passed" for outcome in outcomes if outcome is not None)
        if passed:
            hopeful.append(incident_id)
        over = ended if not going_on else "probes_passed" if passed >= rules.passes else None
        failed_again = goes_on([None if outcome is None else outcome == "passed" for outcome in outcomes], rules)
        if state == "held" and over is not None:
            cursor = await connection.execute(_RELEASE, about | {"why": over})
            released.append((str(incident_id), over, cursor.rowcount))
        elif state == "over" and going_on and failed_again:
            with suppress(psycopg.errors.UniqueViolation):  # another crowd of its cause is held already
                await connection.execute(_HOLD_AGAIN, about)
                held_again.append(str(incident_id))
    await connection.execute(_ORPHANS, given)
    sooner = {"hopeful": hopeful, "sooner": rules.sooner_seconds}
    probes = await (await connection.execute(_PROBE, given | sooner)).fetchall()
    return Tended(
        [(str(case), str(decision)) for case, decision in expired],
        [(str(case), str(incident)) for case, incident in probes],
        released,
        held_again,
    )
