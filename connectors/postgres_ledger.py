"""The ledger as a healer uses it: cases are taken one by one, charged, acted on and settled.

    take      the case that has been due for longest, locked, while nobody else has it (FOR UPDATE SKIP LOCKED)
    charge    each budget in one order by a conditional update: the first that is spent undoes the others
    intend    a row for each act, before anything is asked; a second one for the same thing cannot be
    asking    just before the request goes out, and only while the fence is still ours and the decision the same
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

from connectors import postgres_ledger_queries as queries
from connectors.postgres import AsyncConnection
from models.records.calls import Call, Result, RunState, from_row
from models.records.errors import UnknownSchema
from models.records.ledger import NOT_TRIED, ActState, Charge, Crowd, Earlier, Standing, Why, act_id

_DAY_SECONDS: Final = 86_400.0


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
    not_before: float | None
    minutes: float  # that what failed took


class Act(NamedTuple):
    """One row of the ledger as a healer has it in hand."""

    act_id: str
    call: Call
    target: str
    action: str
    state: ActState
    reason: str | None
    decision_id: str
    origin: str
    intended: float
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
    kind: str  # incident, or crowd: nobody but us has noticed yet


class Ledger:
    """One connection's view of it. Each method is one statement, or says that it wants a transaction around it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection: Final = connection

    async def take(self) -> Case | None:
        """The case that has been due for longest, locked until the transaction ends.

        One with a call that this release does not know has no calls.
        """
        cursor = self.connection.cursor(row_factory=dict_row)
        row = await (await cursor.execute(queries.TAKE)).fetchone()
        if row is None:
            return None
        ids = {name: str(row[name]) for name in ("case_id", "decision_id")}
        incident_id = str(row["incident_id"]) if row["incident_id"] else None
        jobs = tuple(row["jobs"] or ())
        return Case(**{**row, **ids, "incident_id": incident_id, "calls": _calls(row["calls"]), "jobs": jobs})

    async def acts(self, case_id: str) -> list[Act]:
        """What was intended or done about a case."""
        return [_act(row) for row in await self._rows(queries.ACTS, [case_id])]

    async def earlier(self, case: Case, *, within_seconds: float) -> list[Earlier]:
        """The acts about the same run, and those on the repository of late."""
        given = {
            "instance": case.instance,
            "repository": case.repository,
            "case_id": case.case_id,
            "pipeline_id": case.pipeline_id,
            "within": within_seconds,
        }
        return [_earlier(row) for row in await self._rows(queries.EARLIER, given)]

    async def incidents(self, signature: str, *, crowd_over_seconds: float) -> list[Incident]:
        """Those that are going on with that signature, and crowds that are over no longer than that."""
        given = {"signature": signature, "over": crowd_over_seconds}
        return [Incident(str(row[0]), *row[1:]) for row in await self._rows(queries.INCIDENTS, given)]

    async def crowd(self, signature: str, *, within_seconds: float) -> Crowd:
        """How many repositories had that cause of late, since it was last said to be over."""
        given = {"signature": signature, "within": within_seconds}
        recent, before = (await self._rows(queries.CROWD, given))[0]
        return Crowd(recent, before * within_seconds / (_DAY_SECONDS - within_seconds))

    async def hold(self, incident: Incident, *, probe_seconds: float) -> str:
        """Note that its reruns wait, if nobody has; the incident in whose name they do."""
        given = {**incident._asdict(), "probe": probe_seconds}
        while not (rows := await self._rows(queries.HOLD, given)):
            pass  # another healer noted it in the same moment: the next look sees that
        return str(rows[0][0])

    async def busy(self, case: Case) -> bool:
        """Whether something else is being done to its run. Once its repository is charged nothing else can begin."""
        return bool(await self._rows(queries.BUSY, [case.instance, case.repository, case.pipeline_id, case.case_id]))

    async def charge(self, taken: Iterable[tuple[Charge, tuple[int, float]]]) -> Charge | None:
        """Take from every budget, in their order, so much as leaves no more than all its acts and minutes spent.

        The first that is spent is returned, and then what was taken of the others is to be rolled back.
        """
        for charge, (most_acts, most_minutes) in taken:
            if charge.acts > most_acts or charge.minutes > most_minutes:
                return charge
            given = {**_budget(charge), "most_acts": most_acts, "most_minutes": most_minutes}
            if not await self._rows(queries.CHARGE, given):
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
        """A row for each act, or the one of an act that was dropped; False where the ledger has more of one of them."""
        for act in acts:
            given = _intent(case, act) | {
                "jobs": Jsonb(jobs[act.target]),
                "origin": origin,
                "minutes": minutes,
                "healer": healer,
            }
            if (await self.connection.execute(queries.INTEND, given)).rowcount == 0:
                return False
        return True

    async def taken(self, case: Case, *, healer: str, lease_seconds: float) -> None:
        """Note that `healer` is at it; acts that somebody else began are its own from here on."""
        await self.connection.execute(queries.TAKEN, [healer, case.fence, lease_seconds, case.case_id])
        await self.connection.execute(
            "UPDATE guard.acts SET fence = %s, healer = %s WHERE case_id = %s AND state = 'intent'",
            [case.fence, healer, case.case_id],
        )

    async def renew(self, case: Case, *, lease_seconds: float) -> bool:
        """Have the lease for so long from now; False: somebody else has it."""
        return (await self.connection.execute(queries.RENEW, [lease_seconds, case.case_id, case.fence])).rowcount == 1

    async def asking(self, case: Case, act: Act, before: RunState | None, *, lease_seconds: float) -> float | None:
        """Note that the request goes out now, with a lease from now on; when.

        None: it must not, for the case is not ours any more, or the decision is another one by now.
        """
        given = {"before": _stood(before), "act_id": act.act_id, "case_id": case.case_id, "lease": lease_seconds}
        row = await self._rows(queries.ASKING, {**given, "fence": case.fence, "revision": case.revision})
        return row[0][0] if row else None

    async def not_asked(self, case: Case, act: Act, before: RunState | None) -> None:
        """Note that nothing came of asking, so that it may be asked for again.

        `before` is how the run stood before a request of which something may still come; None where there is none.
        """
        await self.connection.execute(queries.NOT_ASKED, [_stood(before), act.act_id, case.fence])

    async def let_go(self, case: Case) -> None:
        """Let it be taken anew at once, if it is still ours."""
        await self.connection.execute(queries.LET_GO, [case.case_id, case.fence])

    async def settle(
        self, case: Case, act: Act, state: ActState, reason: str | None, result: Result | None, *, healer: str
    ) -> float | None:
        """Write what came of an act; when it was asked for, or let go. None: it is not ours any more.

        What the case was charged is given back where nothing came of any of its acts.
        """
        told = None if result is None else Jsonb(msgspec.to_builtins(result))
        async with self.connection.transaction():
            rows = await self._rows(queries.SETTLE, [state, reason, told, act.act_id, case.fence])
            if not rows:
                return None
            if state in (ActState.DROPPED, ActState.REFUSED):
                await self._give_back(case)
            detail = {"decision": case.decision_id, "state": state, "reason": reason, "approved_by": case.approved_by}
            await self.audit(f"healer {healer}", act.action, act.act_id, detail)
            asked: float = rows[0][0]
            return asked

    async def _give_back(self, case: Case) -> None:
        rows = await self._rows(queries.IN_VAIN, {"case_id": case.case_id})
        for charge in [Charge(*budget) for (budgets,) in rows for budget in budgets]:
            await self.connection.execute(queries.GIVE_BACK, _budget(charge))
        if rows:
            await self.connection.execute("UPDATE guard.acts SET budgets = '[]' WHERE case_id = %s", [case.case_id])

    async def put_off(
        self, case: Case, why: Why, until: float | None, *, incident_id: str | None = None, probe: bool = False
    ) -> None:
        """Let it wait until then (Unix seconds), or, with None, until somebody sets a time."""
        fence = case.fence
        given = [why, until, incident_id, probe, fence, case.case_id, fence, fence]
        await self.connection.execute(queries.PUT_OFF, given)

    async def propose(self, case: Case, *, expires_seconds: float) -> None:
        """Lay it before people."""
        await self.connection.execute(queries.PROPOSE, [expires_seconds, case.fence, case.case_id])

    async def end(self, case: Case, standing: Standing, why: Why) -> None:
        """It is finished, or refused; a decision that changed meanwhile is looked at anew."""
        given = {"state": standing, "why": why, "fence": case.fence, "revision": case.revision, "case_id": case.case_id}
        await self.connection.execute(queries.END, given | {"not_tried": list(NOT_TRIED)})

    async def approved(self, case: Case, by: str) -> None:
        """Note who said yes."""
        await self.connection.execute(
            "UPDATE guard.healing SET approved_by = %s WHERE case_id = %s", [by, case.case_id]
        )

    async def audit(self, actor: str, what: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Add a row to the audit."""
        await self.connection.execute(queries.AUDIT, [actor, what, subject, Jsonb(dict(detail))])

    async def due_in(self) -> float:
        """In how many seconds the next case is due; a day where none is."""
        rows = await self._rows(
            queries.DUE_IN,
            [],
        )
        return float(rows[0][0])

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
        return await (await cursor.execute(queries.UNTOLD)).fetchall()

    async def told(self, acts: Sequence[tuple[object, str]]) -> None:
        """Note that they were told of these, by id and state."""
        ids, states = zip(*acts, strict=True)
        await self.connection.execute(queries.TOLD, [list(ids), list(states)])

    async def fleet(self) -> tuple[int, int]:
        """How many acts were charged to the fleet within the last hour, about, and how many jobs ended in it."""
        rows = await self._rows(
            queries.FLEET,
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
        state, decision_id = ActState.INTENT, case.decision_id
        acts.append(Act(identity, call, target, action, state, None, decision_id, "", case.now, None, 0, None, ()))
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
    identity, call, target, action, state, *known, before, budgets = row
    reason, decision_id, origin, intended, asked, tries = known
    stood = None if before is None else msgspec.convert(before, RunState)
    charged = tuple(Charge(*budget) for budget in budgets)
    what = (str(identity), from_row(call), target, action, ActState(state), reason)
    return Act(*what, decision_id, origin, intended, asked, tries, stood, charged)


def _stood(before: RunState | None) -> Jsonb | None:
    return None if before is None else Jsonb(msgspec.to_builtins(before))


def _earlier(row: Sequence[Any]) -> Earlier:
    pipeline_id, workflow_id, attempt, action, state, asked, jobs, made, origin = row
    names = tuple((job[1], job[2]) for job in jobs)
    return Earlier(pipeline_id, workflow_id, attempt, action, state, asked, names, made, origin)
