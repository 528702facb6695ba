"""The ledger as a healer uses it: cases are taken one by one, charged, acted on and settled.

    take      the case that has been due for longest, locked, while nobody else has it (FOR UPDATE SKIP LOCKED)
    charge    each budget in one order by a conditional update: the first that is spent undoes the others
    intend    a row for each act, before anything is asked; a second one for the same thing cannot be
    asking    just before the request goes out, and only while the fence is still ours
    settle    what came of it

A case that is taken has a lease, and a fence that rises each time it is taken. A healer that was thought dead, and
wakes up, has an old one: nothing that it says is heard, and it may ask for nothing.

All times are the server's: healers need not agree on theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from connectors.postgres import AsyncConnection
from models.records.calls import Call, Result, RunState, from_row
from models.records.errors import UnknownSchema
from models.records.ledger import ActState, Charge, Earlier, Standing, Why, act_id


class Case(NamedTuple):
    """A case that is due: how it stands in the queue, and the decision about it. Times are Unix seconds."""

    case_id: str
    decision_id: str
    revision: int
    mode: str
    approved_by: str | None
    probe: bool
    incident_id: str | None
    fence: int
    queued: float
    due: float
    now: float
    platform: str
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    commit_sha: str | None
    branch: str | None
    verdict: str
    action: str | None
    calls: tuple[Call, ...]
    jobs: tuple[Mapping[str, Any], ...]  # as the policy saw them
    signature: str | None
    occurred: float
    minutes: float  # that what failed took


class Act(NamedTuple):
    """One row of the ledger as a healer has it in hand."""

    act_id: str
    call: Call
    target: str
    action: str
    state: ActState
    asked: float | None
    tries: int
    before: RunState | None
    charges: tuple[Charge, ...]


class Incident(NamedTuple):
    """One that is going on, as far as a case is to be compared with it."""

    incident_id: str
    signature: str
    dimension: str
    value: str | None
    over: bool  # its hold: probes have passed


_TAKE: Final = """
WITH due AS (
    SELECT * FROM guard.healing
    WHERE state IN ('waiting', 'taken') AND due_at <= clock_timestamp()
    ORDER BY due_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED)
SELECT due.case_id, due.decision_id, due.revision, due.mode, due.approved_by, due.probe, due.incident_id,
       due.fence + 1 AS fence, extract(epoch FROM due.queued_at)::float8 AS queued,
       extract(epoch FROM due.due_at)::float8 AS due, extract(epoch FROM clock_timestamp())::float8 AS now,
       d.platform, d.instance, d.repository, d.pipeline_id, d.workflow_id, d.attempt, d.commit_sha, d.branch,
       d.verdict, d.action, d.calls, d.explanation -> 'jobs' AS jobs, d.signature,
       extract(epoch FROM d.occurred_at)::float8 AS occurred,
       (SELECT coalesce(sum(f.duration_ms), 0)::float8 / 60000 FROM guard.failures f WHERE f.failure_id = ANY (d.jobs))
           AS minutes
FROM due JOIN guard.decisions d ON d.decision_id = due.decision_id
"""

_ACTS: Final = """
SELECT act_id, call, target, action, state, extract(epoch FROM asked_at)::float8 AS asked, tries, before, budgets
FROM guard.acts WHERE case_id = %s
"""

_EARLIER: Final = """
SELECT pipeline_id, workflow_id, attempt, action, state, extract(epoch FROM coalesce(asked_at, intended_at))::float8,
       jobs, coalesce(result, '{}'), origin
FROM guard.acts
WHERE instance = %(instance)s AND repository = %(repository)s AND case_id <> %(case_id)s
  AND (pipeline_id = %(pipeline_id)s OR intended_at > clock_timestamp() - %(within)s * interval '1 s')
ORDER BY intended_at
"""

_INCIDENTS: Final = """
SELECT i.incident_id, i.signature, i.dimension, i.value, coalesce(h.state = 'over', false)
FROM guard.open_incidents i LEFT JOIN guard.holds h USING (incident_id)
WHERE i.signature = %s
"""

_CHARGE: Final = """
INSERT INTO guard.budgets AS known (scope, key, period, acts, minutes)
VALUES (%(scope)s, %(key)s, timestamptz 'epoch' + %(period)s * interval '1 ms', %(acts)s, %(minutes)s)
ON CONFLICT (scope, key, period) DO UPDATE
SET acts = known.acts + EXCLUDED.acts, minutes = known.minutes + EXCLUDED.minutes
WHERE known.acts + EXCLUDED.acts <= %(most_acts)s AND known.minutes + EXCLUDED.minutes <= %(most_minutes)s
RETURNING 1
"""

_GIVE_BACK: Final = """
UPDATE guard.budgets SET acts = acts - %(acts)s, minutes = minutes - %(minutes)s
WHERE scope = %(scope)s AND key = %(key)s AND period = timestamptz 'epoch' + %(period)s * interval '1 ms'
"""

_INTEND: Final = """
INSERT INTO guard.acts (act_id, case_id, decision_id, platform, instance, repository, pipeline_id, workflow_id, attempt,
    target, action, call, state, probe, incident_id, signature, commit_sha, branch, jobs, origin, minutes, budgets,
    approved_by, healer, fence)
VALUES (%(act_id)s, %(case_id)s, %(decision_id)s, %(platform)s, %(instance)s, %(repository)s, %(pipeline_id)s,
    %(workflow_id)s, %(attempt)s, %(target)s, %(action)s, %(call)s, 'intent', %(probe)s, %(incident_id)s, %(signature)s,
    %(commit_sha)s, %(branch)s, %(jobs)s, %(origin)s, %(minutes)s, %(budgets)s, %(approved_by)s, %(healer)s,
    %(fence)s)
ON CONFLICT DO NOTHING
"""

_TAKEN: Final = """
UPDATE guard.healing
SET state = 'taken', healer = %s, fence = %s, due_at = clock_timestamp() + %s * interval '1 s',
    changed_at = clock_timestamp()
WHERE case_id = %s
"""

_RENEW: Final = """
UPDATE guard.healing SET due_at = clock_timestamp() + %s * interval '1 s'
WHERE case_id = %s AND fence = %s AND state = 'taken'
"""

_ASKING: Final = """
UPDATE guard.acts a SET asked_at = clock_timestamp(), before = %s, tries = tries + 1
FROM guard.healing h
WHERE a.act_id = %s AND a.state = 'intent' AND a.fence = %s AND h.case_id = a.case_id AND h.fence = a.fence
  AND h.state = 'taken' AND h.due_at > clock_timestamp()
RETURNING extract(epoch FROM a.asked_at)::float8
"""

_SETTLE: Final = """
UPDATE guard.acts SET state = %s, reason = %s, result = %s, answered_at = clock_timestamp()
WHERE act_id = %s AND fence = %s AND state = 'intent'
RETURNING extract(epoch FROM coalesce(asked_at, answered_at))::float8
"""

_PUT_OFF: Final = """
UPDATE guard.healing
SET state = 'waiting', reason = %s, due_at = coalesce(timestamptz 'epoch' + %s * interval '1 s', 'infinity'),
    incident_id = coalesce(%s, incident_id), probe = %s, fence = %s, changed_at = clock_timestamp()
WHERE case_id = %s AND fence IN (%s - 1, %s)
"""

_END: Final = """
UPDATE guard.healing h
SET state = CASE WHEN again THEN 'waiting' ELSE %(state)s END, reason = CASE WHEN again THEN 'new' ELSE %(why)s END,
    due_at = clock_timestamp(), fence = %(fence)s, changed_at = clock_timestamp()
FROM (SELECT k.case_id, k.revision > %(revision)s AND d.verdict = 'act' AS again
      FROM guard.healing k JOIN guard.decisions d USING (decision_id) WHERE k.case_id = %(case_id)s) known
WHERE h.case_id = known.case_id AND h.fence IN (%(fence)s - 1, %(fence)s)
"""

_PROPOSE: Final = """
UPDATE guard.healing
SET state = 'proposed', reason = 'proposed', expires_at = clock_timestamp() + %s * interval '1 s',
    changed_at = clock_timestamp()
WHERE case_id = %s
"""

_UNTOLD: Final = """
SELECT act_id, decision_id::text, case_id::text, platform, instance, repository, pipeline_id,
       nullif(workflow_id, '') AS workflow_id, attempt, action, target, state, signature, commit_sha, branch, jobs,
       (extract(epoch FROM coalesce(asked_at, answered_at)) * 1000)::bigint AS asked_ms, probe
FROM guard.acts
WHERE told_at IS NULL AND state <> 'intent'
ORDER BY answered_at
LIMIT 100
"""

_AUDIT: Final = "INSERT INTO guard.audit (actor, what, subject, detail) VALUES (%s, %s, %s, %s)"


class Ledger:
    """One connection's view of it. Each method is one statement, or says that it wants a transaction around it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection: Final = connection

    async def take(self) -> Case | None:
        """The case that has been due for longest, locked until the transaction ends.

        One with a call that this release does not know has no calls.
        """
        cursor = self.connection.cursor(row_factory=dict_row)
        row = await (await cursor.execute(_TAKE)).fetchone()
        if row is None:
            return None
        ids = {name: str(row[name]) for name in ("case_id", "decision_id")}
        incident_id = str(row["incident_id"]) if row["incident_id"] else None
        jobs = tuple(row["jobs"] or ())
        return Case(**{**row, **ids, "incident_id": incident_id, "calls": _calls(row["calls"]), "jobs": jobs})

    async def acts(self, case_id: str) -> list[Act]:
        """What was intended or done about a case."""
        return [_act(row) for row in await self._rows(_ACTS, [case_id])]

    async def earlier(self, case: Case, *, within_seconds: float) -> list[Earlier]:
        """The acts about the same run, and those on the repository of late."""
        given = {
            "instance": case.instance,
            "repository": case.repository,
            "case_id": case.case_id,
            "pipeline_id": case.pipeline_id,
            "within": within_seconds,
        }
        return [_earlier(row) for row in await self._rows(_EARLIER, given)]

    async def incidents(self, signature: str) -> list[Incident]:
        """Those that are going on with that signature."""
        return [Incident(str(row[0]), *row[1:]) for row in await self._rows(_INCIDENTS, [signature])]

    async def hold(self, incident: Incident, *, probe_seconds: float) -> None:
        """Note that its reruns wait, if nobody has."""
        await self.connection.execute(
            "INSERT INTO guard.holds (incident_id, signature, state, next_probe_at) "
            "VALUES (%s, %s, 'held', clock_timestamp() + %s * interval '1 s') ON CONFLICT DO NOTHING",
            [incident.incident_id, incident.signature, probe_seconds],
        )

    async def charge(self, taken: Iterable[tuple[Charge, tuple[int, float]]]) -> Charge | None:
        """Take from every budget, in their order, so much as leaves no more than all its acts and minutes spent.

        The first that is spent is returned, and then what was taken of the others is to be rolled back.
        """
        for charge, (most_acts, most_minutes) in taken:
            if charge.acts > most_acts or charge.minutes > most_minutes:
                return charge
            given = {**_budget(charge), "most_acts": most_acts, "most_minutes": most_minutes}
            if not await self._rows(_CHARGE, given):
                return charge
        return None

    async def intend(
        self,
        case: Case,
        acts: Sequence[Act],
        *,
        jobs: Mapping[str, list[Any]],
        origin: str,
        minutes: float,
        healer: str,
    ) -> bool:
        """A row for each act; False where the ledger has one of them from another case."""
        for act in acts:
            given = _intent(case, act) | {
                "jobs": Jsonb(jobs[act.target]),
                "origin": origin,
                "minutes": minutes,
                "healer": healer,
            }
            if (await self.connection.execute(_INTEND, given)).rowcount == 0:
                return False
        return True

    async def taken(self, case: Case, *, healer: str, lease_seconds: float) -> None:
        """Note that `healer` is at it; acts that somebody else began are its own from here on."""
        await self.connection.execute(_TAKEN, [healer, case.fence, lease_seconds, case.case_id])
        await self.connection.execute(
            "UPDATE guard.acts SET fence = %s, healer = %s WHERE case_id = %s AND state = 'intent'",
            [case.fence, healer, case.case_id],
        )

    async def renew(self, case: Case, *, lease_seconds: float) -> bool:
        """Have the lease for so long from now; False: somebody else has it."""
        return (await self.connection.execute(_RENEW, [lease_seconds, case.case_id, case.fence])).rowcount == 1

    async def asking(self, case: Case, act: Act, before: RunState | None) -> float | None:
        """Note that the request goes out now; when. None: it must not, for the case is not ours any more."""
        stood = None if before is None else Jsonb(msgspec.to_builtins(before))
        row = await self._rows(_ASKING, [stood, act.act_id, case.fence])
        return row[0][0] if row else None

    async def not_asked(self, case: Case, act: Act) -> None:
        """Note that nothing came of asking, so that it may be asked for again."""
        await self.connection.execute(
            "UPDATE guard.acts SET asked_at = NULL WHERE act_id = %s AND fence = %s AND state = 'intent'",
            [act.act_id, case.fence],
        )

    async def settle(
        self, case: Case, act: Act, state: ActState, reason: str | None, result: Result | None, *, healer: str
    ) -> float | None:
        """Write what came of an act, and give back what it did not use; when it was asked. None: it is not ours."""
        told = None if result is None else Jsonb(msgspec.to_builtins(result))
        async with self.connection.transaction():
            rows = await self._rows(_SETTLE, [state, reason, told, act.act_id, case.fence])
            if not rows:
                return None
            if state in (ActState.DROPPED, ActState.REFUSED):
                for charge in act.charges:
                    await self.connection.execute(_GIVE_BACK, _budget(charge))
            detail = {"decision": case.decision_id, "state": state, "reason": reason, "approved_by": case.approved_by}
            await self.audit(f"healer {healer}", act.action, act.act_id, detail)
            asked: float = rows[0][0]
            return asked

    async def put_off(
        self, case: Case, why: Why, until: float | None, *, incident_id: str | None = None, probe: bool = False
    ) -> None:
        """Let it wait until then (Unix seconds), or, with None, until somebody sets a time."""
        fence = case.fence
        given = [why, until, incident_id, probe, fence, case.case_id, fence, fence]
        await self.connection.execute(_PUT_OFF, given)

    async def propose(self, case: Case, *, expires_seconds: float) -> None:
        """Lay it before people."""
        await self.connection.execute(_PROPOSE, [expires_seconds, case.case_id])

    async def end(self, case: Case, standing: Standing, why: Why) -> None:
        """It is finished, or refused; a decision that changed meanwhile is looked at anew."""
        given = {"state": standing, "why": why, "fence": case.fence, "revision": case.revision, "case_id": case.case_id}
        await self.connection.execute(_END, given)

    async def approved(self, case: Case, by: str) -> None:
        """Note who said yes."""
        await self.connection.execute(
            "UPDATE guard.healing SET approved_by = %s WHERE case_id = %s", [by, case.case_id]
        )

    async def audit(self, actor: str, what: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Add a row to the audit."""
        await self.connection.execute(_AUDIT, [actor, what, subject, Jsonb(dict(detail))])

    async def due_in(self) -> float:
        """In how many seconds the next case is due; a day where none is."""
        rows = await self._rows(
            "SELECT least(86400, greatest(0, extract(epoch FROM min(due_at) - clock_timestamp())))::float8 "
            "FROM guard.healing WHERE state IN ('waiting', 'taken') AND due_at < 'infinity'",
            [],
        )
        return 86_400.0 if rows[0][0] is None else float(rows[0][0])

    async def waiting(self) -> dict[str, int]:
        """How many cases wait, by state."""
        query = "SELECT state, count(*) FROM guard.healing WHERE state IN ('waiting', 'proposed', 'taken') GROUP BY 1"
        return dict(await self._rows(query, []))

    async def now(self) -> float:
        """The server's clock, Unix seconds."""
        rows = await self._rows("SELECT extract(epoch FROM clock_timestamp())::float8", [])
        return float(rows[0][0])

    async def untold(self) -> list[dict[str, Any]]:
        """Acts that are settled and that their shards were not told of, as models.records.acted has them."""
        cursor = self.connection.cursor(row_factory=dict_row)
        return await (await cursor.execute(_UNTOLD)).fetchall()

    async def told(self, act_ids: Sequence[object]) -> None:
        """Note that they were."""
        await self.connection.execute(
            "UPDATE guard.acts SET told_at = clock_timestamp() WHERE act_id = ANY (%s)", [list(act_ids)]
        )

    async def fleet(self) -> tuple[int, int]:
        """How many acts were charged to the fleet within the last hour, about, and how many jobs ended in it."""
        rows = await self._rows(
            "SELECT coalesce((SELECT sum(acts * least(1, extract(epoch FROM period + interval '2 hours' - "
            "clock_timestamp()) / 3600)) FROM guard.budgets WHERE scope = 'fleet' "
            "AND period > clock_timestamp() - interval '2 hours'), 0)::float8, "
            "coalesce((SELECT sum(completed) FROM guard.aggregates "
            "WHERE minute > clock_timestamp() - interval '1 hour'), 0)::bigint",
            [],
        )
        return round(rows[0][0]), rows[0][1]

    async def _rows(self, query: str, given: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        cursor = await self.connection.execute(query.encode(), given)
        return await cursor.fetchall()


def _calls(rows: Iterable[Mapping[str, Any]]) -> tuple[Call, ...]:
    try:
        return tuple(from_row({name: value for name, value in row.items() if value is not None}) for row in rows)
    except UnknownSchema:
        return ()


def target_of(call: Call) -> str:
    """What of its run a call is about."""
    return call.target


def intents(case: Case) -> list[Act]:
    """The acts that the calls of a case come to, in their order."""
    acts: list[Act] = []
    for call in case.calls:
        action = call.name
        target = target_of(call)
        identity = act_id(
            instance=case.instance,
            repository=case.repository,
            pipeline_id=case.pipeline_id,
            workflow_id=case.workflow_id,
            attempt=case.attempt,
            target=target,
            action=action,
        )
        acts.append(Act(identity, call, target, action, ActState.INTENT, None, 0, None, ()))
    return acts


def _intent(case: Case, act: Act) -> dict[str, Any]:
    return {
        "act_id": act.act_id,
        "case_id": case.case_id,
        "decision_id": case.decision_id,
        "platform": case.platform,
        "instance": case.instance,
        "repository": case.repository,
        "pipeline_id": case.pipeline_id,
        "workflow_id": case.workflow_id or "",
        "attempt": case.attempt,
        "target": act.target,
        "action": act.action,
        "call": Jsonb(msgspec.to_builtins(act.call)),
        "probe": case.probe,
        "incident_id": case.incident_id,
        "signature": case.signature,
        "commit_sha": case.commit_sha,
        "branch": case.branch,
        "budgets": Jsonb([list(charge) for charge in act.charges]),
        "approved_by": case.approved_by,
        "fence": case.fence,
    }


def _budget(charge: Charge) -> dict[str, Any]:
    return {
        "scope": charge.scope,
        "key": charge.key,
        "period": charge.period_ms,
        "acts": charge.acts,
        "minutes": charge.minutes,
    }


def _act(row: Sequence[Any]) -> Act:
    identity, call, target, action, state, asked, tries, before, budgets = row
    stood = None if before is None else msgspec.convert(before, RunState)
    charged = tuple(Charge(*budget) for budget in budgets)
    return Act(str(identity), from_row(call), target, action, ActState(state), asked, tries, stood, charged)


def _earlier(row: Sequence[Any]) -> Earlier:
    pipeline_id, workflow_id, attempt, action, state, asked, jobs, made, origin = row
    names = tuple((job[1], job[2]) for job in jobs)
    return Earlier(pipeline_id, workflow_id, attempt, action, state, asked, names, made, origin)
