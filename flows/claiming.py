"""From a case that is due to acts that may be carried out: everything that is decided in one transaction.

The case is locked, the guards are asked (analytics/guards.py), the budgets charged and the acts written down as
intended. Either all of that stands when the transaction ends, or nothing.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Rollback

from analytics.guards import (
    RERUNS,
    Doing,
    Facts,
    Hold,
    Limits,
    Refuse,
    Ruling,
    busy,
    charges,
    crowded,
    most,
    origin_of,
    rule,
    short,
)
from analytics.policy.rules import Mode, Policy, Subject, least_mode, names_of
from connectors.platforms import PLATFORMS
from connectors.postgres_ledger import Act, Case, Incident, Ledger, intents
from models.records.calls import Call
from models.records.event import uuid5_text
from models.records.ledger import ActState, Earlier, Standing, Why
from models.records.outputs import Verdict

_RATIO_KEPT_SECONDS: Final = 10.0


class Taken(NamedTuple):
    """A case that is ours for the length of a lease, and what is to be carried out, in order."""

    case: Case
    acts: tuple[Act, ...]


class Ruled(NamedTuple):
    """A case that was due, and what became of it at once."""

    case: Case
    why: Why


Approver = Callable[[Case], Awaitable[str | None]]
"""Who has said yes to all cases like this one."""


class Claimer:
    """Claims for one healer; not for use by two tasks at once."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        healer: str,
        limits: Limits,
        policy: Policy,
        approver: Approver,
        lease_seconds: float,
        proposal_seconds: float,
        probe_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._healer = healer
        self._limits = limits
        self._policy = policy
        self._approver = approver
        self._lease_seconds = lease_seconds
        self._proposal_seconds = proposal_seconds
        self._probe_seconds = probe_seconds
        self._fleet: tuple[float, tuple[int, int]] = (0.0, (0, 0))

    async def claim(self) -> Taken | Ruled | None:
        """The next case that is due, as far as it can be brought; None where nothing is."""
        async with self._ledger.connection.transaction():
            case = await self._ledger.take()
            if case is None:
                return None
            acts = await self._ledger.acts(case.case_id)
            if any(act.state is ActState.INTENT and act.asked is not None for act in acts):
                return await self._ours(case, acts)  # somebody died over it: it is found out, whatever else holds
            return await self._judged(case, acts)

    async def _judged(self, case: Case, acts: Sequence[Act]) -> Taken | Ruled:
        earlier = await self._ledger.earlier(case, within_seconds=self._limits.cooldown_seconds)
        incident = await self._incident(case)
        if incident is not None:
            case = case._replace(incident_id=incident.incident_id)
        begun = any(act.state is ActState.INTENT for act in acts)
        held = incident is not None and not incident.over
        ruling, case = await self._ruling(case, earlier, held=held, begun=begun)
        match ruling:
            case Hold():
                return await self._held(case, acts, ruling, incident)
            case Refuse(why):
                return await self._refused(case, acts, why)
        return await self._intended(case, acts, earlier)

    async def _held(self, case: Case, acts: Iterable[Act], hold: Hold, incident: Incident | None = None) -> Ruled:
        """Let it wait; what a person is to say yes to first is not begun."""
        if hold.why is Why.PROPOSED:
            await self._drop(case, acts, Why.PROPOSED)
            await self._ledger.propose(case, expires_seconds=self._proposal_seconds)
            return Ruled(case, Why.PROPOSED)
        held_by = None
        if hold.why is Why.INCIDENT and incident is not None:
            held_by = await self._ledger.hold(incident, probe_seconds=self._probe_seconds)
        await self._ledger.put_off(case, hold.why, hold.until, incident_id=held_by, probe=case.probe)
        return Ruled(case, hold.why)

    async def _intended(self, case: Case, acts: Sequence[Act], earlier: Sequence[Earlier]) -> Taken | Ruled:
        """Charge and write down what is not written down yet."""
        wanted = {act.act_id for act in intents(case)}
        await self._drop(case, [act for act in acts if act.act_id not in wanted], Why.WITHDRAWN)
        known = {act.act_id for act in acts if not _is_anew(act, case)}
        missing = [act for act in intents(case) if act.act_id not in known]
        if missing:
            objection = await self._charged(case, missing, _origin(case, acts, earlier))
            if isinstance(objection, Hold):
                return await self._held(case, acts, objection)
            if isinstance(objection, Refuse):
                return await self._refused(case, acts, objection.why)
        now = [act for act in await self._ledger.acts(case.case_id) if act.act_id in wanted]
        if not any(act.state is ActState.INTENT for act in now):
            standing, why = ended(now)
            await self._ledger.end(case, standing, why)
            return Ruled(case, why)
        return await self._ours(case, now)

    async def _charged(self, case: Case, missing: Sequence[Act], origin: str) -> Ruling | None:
        """Take what `missing` costs and write it down; what objects, with nothing taken."""
        doing = _doing(case, [act.call for act in missing], origin)
        taken = charges(doing, case.now)
        first = missing[0]._replace(charges=tuple(taken))
        objections: list[Ruling] = []
        async with self._ledger.connection.transaction() as attempt:
            spent = await self._ledger.charge((one, most(one, self._limits)) for one in taken)
            if spent is not None:
                objections.append(short(spent, case.now, random.random()))  # noqa: S311 - jitter, not a secret
            elif await self._ledger.busy(case):
                objections.append(busy(case.now))
            elif not await self._ledger.intend(
                case,
                [first, *missing[1:]],
                jobs={act.target: _named(case, act.call) for act in missing},
                origin=origin,
                minutes=doing.minutes,
                healer=self._healer,
            ):
                objections.append(Refuse(Why.ALREADY_ASKED))
            if objections:
                raise Rollback(attempt)
        return objections[0] if objections else None

    async def _ours(self, case: Case, acts: Sequence[Act]) -> Taken:
        await self._ledger.taken(case, healer=self._healer, lease_seconds=self._lease_seconds)
        order = {act.act_id: i for i, act in enumerate(intents(case))}
        waiting = [act for act in acts if act.state is ActState.INTENT]
        return Taken(case, tuple(sorted(waiting, key=lambda act: order.get(act.act_id, -1))))

    async def _refused(self, case: Case, acts: Iterable[Act], why: Why) -> Ruled:
        await self._drop(case, acts, why)
        await self._ledger.end(case, Standing.REFUSED, why)
        await self._ledger.audit(
            f"healer {self._healer}", "refuse", case.case_id, {"decision": case.decision_id, "why": why}
        )
        return Ruled(case, why)

    async def _drop(self, case: Case, acts: Iterable[Act], why: Why) -> None:
        """Let go of those that were intended and not asked for."""
        begun = [act for act in acts if act.state is ActState.INTENT]
        if begun:
            await self._ledger.taken(case, healer=self._healer, lease_seconds=self._lease_seconds)
        for act in begun:
            await self._ledger.settle(case, act, ActState.DROPPED, why, None, healer=self._healer)

    async def _ruling(self, case: Case, earlier: Sequence[Earlier], *, held: bool, begun: bool) -> tuple[Ruling, Case]:
        if case.verdict != Verdict.ACT:
            return Refuse(Why.WITHDRAWN), case
        if not case.calls:
            return Refuse(Why.NO_ACTION), case
        if case.mode == "suggest" and case.approved_by is None:
            by = await self._approver(case)
            if by is not None:
                await self._ledger.approved(case, by)
                case = case._replace(approved_by=by)
        mode = mode_now(case, self._policy)
        return rule(await self._facts(case, earlier, mode, held=held, begun=begun), self._limits), case

    async def _facts(self, case: Case, earlier: Sequence[Earlier], mode: Mode, *, held: bool, begun: bool) -> Facts:
        reruns = any(isinstance(call, RERUNS) for call in case.calls)
        names = {(job[1], job[2]) for call in case.calls for job in _named(case, call)}
        same = [act.asked for act in earlier if act.asked and _ran(act) and names & set(act.jobs)]
        fleet = await self._fleet_now(case.now) if reruns else (0, 0)
        return Facts(
            now=case.now,
            failed=case.occurred,
            not_before=case.not_before,
            mode=mode,
            approved=case.approved_by is not None,
            reruns=reruns,
            attempt=case.attempt,
            most_reruns=PLATFORMS[case.platform].most_reruns,
            held=held and not case.probe,
            busy=not begun
            and any(act.pipeline_id == case.pipeline_id and act.state == ActState.INTENT for act in earlier),
            last_same=max(same, default=None) if reruns else None,
            fleet_reruns=fleet[0],
            fleet_runs=fleet[1],
        )

    async def _fleet_now(self, now: float) -> tuple[int, int]:
        read, counts = self._fleet
        if now - read > _RATIO_KEPT_SECONDS:
            counts = await self._ledger.fleet()
            self._fleet = now, counts
        return counts

    async def _incident(self, case: Case) -> Incident | None:
        """The incident that this case belongs to, if there is one: one in which reruns wait before one that is over."""
        if case.signature is None or not any(isinstance(call, RERUNS) for call in case.calls):
            return None
        there = {"instance": case.instance, "platform": case.platform}
        known = await self._ledger.incidents(case.signature)
        ours = [one for one in known if there.get(one.dimension, one.value) == one.value]
        found = min(ours, key=lambda incident: incident.over, default=None)
        if (found is not None and not found.over) or case.probe:
            return found
        crowd = await self._ledger.crowd(case.signature, within_seconds=self._limits.crowd_seconds)
        if crowded(crowd, self._limits):
            identity = uuid5_text("crowd", case.signature, str(case.now))
            return Incident(identity, case.signature, "all", None, over=False, kind="crowd")
        return found


def mode_now(case: Case, policy: Policy) -> Mode:
    """What the decision was allowed, and what the policy allows by now: the stricter of both."""
    mode: Mode = case.mode  # type: ignore[assignment]  # a column that holds nothing else
    for job in case.jobs or ({},):
        terms = policy.terms_of(
            Subject(
                case.platform,
                case.instance,
                case.repository,
                case.branch,
                job.get("workflow"),
                job.get("job_name"),
                job.get("signature"),
                job.get("category"),
                names_of(case.action or "", case.calls or ()),
            )
        )
        mode = "observe" if terms.never else least_mode(mode, terms.mode)
    return mode


def ended(acts: Sequence[Act]) -> tuple[Standing, Why]:
    """How a case ends whose acts are all settled."""
    states = {act.state for act in acts}
    if ActState.DONE in states:
        return Standing.FINISHED, Why.DONE
    if ActState.UNKNOWN in states:
        return Standing.FINISHED, Why.UNKNOWN
    dropped = [act.reason for act in acts if act.state is ActState.DROPPED and act.reason]
    refused = ActState.REFUSED in states or not dropped
    return Standing.REFUSED, Why.PLATFORM_REFUSED if refused else Why(dropped[0])


def _is_anew(act: Act, case: Case) -> bool:
    """Whether an act that was dropped may be intended once more: the case was decided on again, or approved."""
    return act.state is ActState.DROPPED and (act.decision_id != case.decision_id or act.reason == Why.PROPOSED)


def _ran(act: Earlier) -> bool:
    """Whether it ran something again, as far as is known."""
    return act.action.startswith("rerun") and act.state not in (ActState.DROPPED, ActState.REFUSED)


def _named(case: Case, call: Call) -> list[Any]:
    """The failed jobs that `call` is about: id of the failure, workflow, name and signature of each."""
    jobs = [job for job in case.jobs if job.get("job_id") == call.job_id] if call.job_id else case.jobs
    return [
        [job["failure_id"], job.get("workflow") or "", job.get("job_name") or "", job.get("signature")] for job in jobs
    ]


def _doing(case: Case, calls: Sequence[Call], origin: str) -> Doing:
    again = [call for call in calls if isinstance(call, RERUNS)]
    names = {(job[1], job[2]) for call in again for job in _named(case, call)}
    return Doing(
        instance=case.instance,
        repository=case.repository,
        commit_sha=case.commit_sha,
        origin=origin,
        jobs=tuple(sorted(names)),
        minutes=case.minutes if again else 0.0,
        calls=tuple(calls),
        action=case.action,
        about=tuple(sorted({(job.get("workflow") or "", job.get("job_name") or "") for job in case.jobs})),
    )


def _origin(case: Case, acts: Sequence[Act], earlier: Sequence[Earlier]) -> str:
    """The run that began the chain. What GitLab runs again stays in its case, and so does the case in its chain."""
    return (
        acts[0].origin
        if acts
        else origin_of(
            pipeline_id=case.pipeline_id,
            workflow_id=case.workflow_id,
            attempt=case.attempt,
            job_ids=[call.job_id for call in case.calls if call.job_id],
            earlier=earlier,
        )
    )
