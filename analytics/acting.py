"""What healers would have done about decisions of the past: the queue, the guards and the budgets in stream time.

The judgement is that of the healer, the pure functions of analytics/guards.py; only the ledger is in memory. Whoever
replays says what time it is, carries out what is due, and says what came of it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

import msgspec

from analytics.guards import (
    RERUNS,
    Doing,
    Facts,
    Go,
    Hold,
    Limits,
    Refuse,
    Ruling,
    charges,
    crowd_over_seconds,
    crowded,
    fits,
    origin_of,
    rule,
    short,
)
from models.records.calls import Call, from_row
from models.records.event import uuid5_text
from models.records.ledger import ActState, Charge, Crowd, Earlier, HoldRules, Why, act_id, goes_on
from models.records.outputs import ActOutcome, DecisionRow, IncidentRow, Verdict

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_LONGEST_MS: Final = 4 * _HOUR_MS


class Due(NamedTuple):
    """One act that may be carried out now."""

    act_id: str
    call: Call
    decision: DecisionRow
    probe: bool
    waited: bool  # for an incident to end


@dataclass(slots=True)
class _Case:
    decision: DecisionRow
    jobs: tuple[Mapping[str, Any], ...]
    due_ms: float
    state: str = "waiting"
    why: Why = Why.NEW
    incident: str | None = None
    probe: bool = False
    queued: int = 0


@dataclass(slots=True)
class _Act:
    due: Due
    earlier: Earlier
    charges: tuple[Charge, ...]
    asked_ms: float
    incident: str | None


@dataclass(slots=True)
class _Hold:
    signature: str
    crowd: bool  # nobody but us has noticed
    next_probe_ms: float
    since_ms: float
    held: bool = True
    ended_ms: float = 0.0
    results: list[bool] = field(default_factory=list)  # of its probes, and once it is over of all


class Acting:
    """A ledger in memory. `minutes` is what a job takes that nobody has seen to end."""

    def __init__(self, limits: Limits, rules: HoldRules, *, seed: int = 0) -> None:
        self.refused: Counter[Why] = Counter()
        self.held: Counter[Why] = Counter()
        self.acts: dict[str, _Act] = {}
        self._limits = limits
        self._rules = rules
        self._rng = random.Random(f"acting {seed}")  # noqa: S311 - jitter, not a secret
        self._cases: dict[str, _Case] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._order = 0
        self._by_repository: dict[tuple[str, str], list[_Act]] = defaultdict(list)
        self._spent: dict[tuple[str, str, int], tuple[int, float]] = {}
        self._incidents: dict[str, IncidentRow] = {}
        self._holds: dict[str, _Hold] = {}
        self._queued: dict[str, deque[tuple[float, str]]] = defaultdict(deque)  # by signature
        self._runs: deque[tuple[float, int]] = deque()
        self._reruns: deque[float] = deque()

    def decided(self, row: DecisionRow) -> None:
        """Queue a decision that is to be acted on, or withdraw one that is not any more."""
        case = self._cases.get(row.case_id)
        if row.verdict == Verdict.ACT and row.mode == "act":
            jobs = tuple(msgspec.json.decode(row.explanation).get("jobs", ()))
            due_ms = float(row.not_before_ms or row.at_ms)
            if row.signature is not None and case is None:
                self._queued[row.signature].append((row.at_ms, row.repository))
            self._cases[row.case_id] = _Case(row, jobs, due_ms, queued=self._order)
            self._wait(row.case_id, due_ms)
        elif case is not None and case.state == "waiting":
            self._refuse(case, Why.WITHDRAWN)

    def incident(self, row: IncidentRow) -> None:
        """Note how an incident stands."""
        if row.state == "closed":
            self._incidents.pop(row.incident_id, None)
        else:
            self._incidents[row.incident_id] = row

    def ended(self, at_ms: float, jobs: int) -> None:
        """Count jobs that ended."""
        self._runs.append((at_ms, jobs))

    def came_of(self, row: ActOutcome) -> None:
        """Note what came of an act; of a probe it says whether the incident is over."""
        act = self.acts.get(row.act_id)
        hold = self._holds.get(act.incident) if act is not None and act.incident is not None else None
        if act is None or hold is None or row.outcome not in ("passed", "failed_same") or act.asked_ms < hold.since_ms:
            return
        if act.due.probe or not hold.held:
            hold.results.append(row.outcome == "passed")

    def due(self, now_ms: float) -> Iterator[Due]:
        """What may be carried out by `now_ms`, in order; each is to be answered by `settled`."""
        self._tend(now_ms)
        while self._queue and self._queue[0][0] <= now_ms:
            due_ms, _, case_id = heappop(self._queue)
            case = self._cases[case_id]
            if case.state == "waiting" and case.due_ms == due_ms:
                yield from self._claimed(case, now_ms)

    def settled(self, act: Due, *, happened: bool, made: Mapping[str, Any] | None = None) -> None:
        """Say what came of asking; what did not happen is given back."""
        kept = self.acts[act.act_id]
        state = ActState.DONE if happened else ActState.DROPPED
        kept.earlier = kept.earlier._replace(state=state, made=dict(made or {}))
        if not happened:
            for charge in kept.charges:
                acts, minutes = self._spent[charge.scope, charge.key, charge.period_ms]
                left = acts - charge.acts, minutes - charge.minutes
                self._spent[charge.scope, charge.key, charge.period_ms] = left

    def _claimed(self, case: _Case, now_ms: float) -> Iterator[Due]:
        calls = tuple(from_row({k: v for k, v in call.items() if v is not None}) for call in _calls(case.decision))
        ruling = self._ruling(case, calls, now_ms)
        if isinstance(ruling, Go):
            yield from self._charged(case, calls, now_ms)
        else:
            self._obey(case, ruling, now_ms)

    def _obey(self, case: _Case, ruling: Ruling, now_ms: float) -> None:
        match ruling:
            case Hold(why, until):
                self.held[why] += 1
                case.why = why
                if until is not None:
                    self._wait(case.decision.case_id, max(until * 1000, now_ms + 1))
            case Refuse(why):
                self._refuse(case, why)

    def _charged(self, case: _Case, calls: tuple[Call, ...], now_ms: float) -> Iterator[Due]:
        decision, earlier = case.decision, self._earlier(case)
        doing = self._doing(case, calls, earlier)
        taken = charges(doing, now_ms / 1000)
        for charge in taken:
            spent = self._spent.get((charge.scope, charge.key, charge.period_ms), (0, 0.0))
            if not fits(charge, spent, self._limits):
                self._obey(case, short(charge, now_ms / 1000, self._rng.random()), now_ms)
                return
        acts = [self._act(case, call, doing, now_ms) for call in calls]
        if any(act.due.act_id in self.acts for act in acts):
            self._refuse(case, Why.ALREADY_ASKED)
            return
        for charge in taken:
            acts_spent, minutes = self._spent.get((charge.scope, charge.key, charge.period_ms), (0, 0.0))
            spent = acts_spent + charge.acts, minutes + charge.minutes
            self._spent[charge.scope, charge.key, charge.period_ms] = spent
        acts[0].charges = tuple(taken)
        case.state = "finished"
        for act in acts:
            self.acts[act.due.act_id] = act
            self._by_repository[decision.instance, decision.repository].append(act)
            if isinstance(act.due.call, RERUNS):
                self._reruns.append(now_ms)
            yield act.due

    def _act(self, case: _Case, call: Call, doing: Doing, now_ms: float) -> _Act:
        row, target = case.decision, call.job_id or "run"
        identity = act_id(
            instance=row.instance,
            repository=row.repository,
            pipeline_id=row.pipeline_id,
            workflow_id=row.workflow_id,
            attempt=row.attempt,
            target=target,
            action=call.name,
        )
        names = tuple((job.get("workflow") or "", job.get("job_name") or "") for job in _jobs(case, call))
        earlier = Earlier(
            row.pipeline_id,
            row.workflow_id or "",
            row.attempt,
            call.name,
            ActState.INTENT,
            now_ms / 1000,
            names,
            {},
            doing.origin,
        )
        return _Act(Due(identity, call, row, case.probe, case.incident is not None), earlier, (), now_ms, case.incident)

    def _ruling(self, case: _Case, calls: tuple[Call, ...], now_ms: float) -> Ruling:
        row, reruns = case.decision, any(isinstance(call, RERUNS) for call in calls)
        earlier = self._earlier(case)
        names = {(job.get("workflow") or "", job.get("job_name") or "") for job in case.jobs}
        same = [act.asked for act in earlier if act.asked and act.action.startswith("rerun") and names & set(act.jobs)]
        incident_id = self._holding(row, now_ms) if reruns and not case.probe else None
        case.incident = incident_id or case.incident
        facts = Facts(
            now=now_ms / 1000,
            failed=row.occurred_ms / 1000,
            not_before=None if row.not_before_ms is None else row.not_before_ms / 1000,
            mode="act",
            approved=False,
            reruns=reruns,
            attempt=row.attempt,
            most_reruns=None,
            held=incident_id is not None,
            busy=False,
            last_same=max(same, default=None) if reruns else None,
            fleet_reruns=_within(self._reruns, now_ms),
            fleet_runs=self._ended_within(now_ms),
        )
        return rule(facts, self._limits)

    def _earlier(self, case: _Case) -> list[Earlier]:
        row = case.decision
        since = row.at_ms - _HOUR_MS
        acts = self._by_repository[row.instance, row.repository]
        return [a.earlier for a in acts if a.asked_ms > since or a.earlier.pipeline_id == row.pipeline_id]

    def _doing(self, case: _Case, calls: tuple[Call, ...], earlier: list[Earlier]) -> Doing:
        row = case.decision
        again = [call for call in calls if isinstance(call, RERUNS)]
        jobs = {job["failure_id"]: job for call in again for job in _jobs(case, call)}
        return Doing(
            instance=row.instance,
            repository=row.repository,
            commit_sha=row.commit_sha,
            origin=origin_of(
                pipeline_id=row.pipeline_id,
                workflow_id=row.workflow_id,
                attempt=row.attempt,
                job_ids=[call.job_id for call in calls if call.job_id],
                earlier=earlier,
            ),
            jobs=_names(jobs.values()),
            minutes=0.0,
            calls=calls,
            action=row.action,
            about=_names(job for call in calls for job in _jobs(case, call)),
        )

    def _holding(self, row: DecisionRow, now_ms: float) -> str | None:
        """The hold in which reruns of `row` wait; one begins where there is reason to."""
        there = {"instance": row.instance, "platform": row.platform}
        if row.signature is None:
            return None
        for incident in self._incidents.values():
            same = (
                incident.signature == row.signature and there.get(incident.dimension, incident.value) == incident.value
            )
            if same and self._hold(incident.incident_id, row.signature, now_ms, crowd=False).held:
                return incident.incident_id
        crowds = [i for i, hold in self._holds.items() if hold.crowd and hold.held and hold.signature == row.signature]
        if crowds:
            return crowds[0]
        if self._just_over(row, now_ms) or not crowded(self._crowd(row.signature, now_ms), self._limits):
            return None
        identity = uuid5_text("crowd", row.signature, str(now_ms))
        self._hold(identity, row.signature, now_ms, crowd=True)
        return identity

    def _just_over(self, row: DecisionRow, now_ms: float) -> str | None:
        """The crowd whose last failures those of `row` are."""
        since_ms = now_ms - crowd_over_seconds(self._limits) * 1000
        known = self._holds.items()
        return next(
            (i for i, one in known if one.crowd and one.signature == row.signature and one.ended_ms > since_ms), None
        )

    def _hold(self, incident_id: str, signature: str, now_ms: float, *, crowd: bool) -> _Hold:
        made = _Hold(signature, crowd, now_ms + self._rules.probe_seconds * 1000, now_ms)
        return self._holds.setdefault(incident_id, made)

    def _crowd(self, signature: str, now_ms: float) -> Crowd:
        queued, window_ms = self._queued[signature], self._limits.crowd_seconds * 1000
        while queued and queued[0][0] <= now_ms - _DAY_MS:
            queued.popleft()
        ended = [hold.ended_ms for hold in self._holds.values() if hold.signature == signature and not hold.held]
        since = max([now_ms - window_ms, *ended])
        recent = {repository for at_ms, repository in queued if at_ms > since}
        before = sum(at_ms <= now_ms - window_ms for at_ms, _ in queued)
        return Crowd(len(recent), before * window_ms / (_DAY_MS - window_ms))

    def _tend(self, now_ms: float) -> None:
        """Choose probes, and let go of what waited for incidents that are over."""
        for incident_id, hold in self._holds.items():
            longest = now_ms - hold.since_ms > _LONGEST_MS
            going_on = not longest if hold.crowd else incident_id in self._incidents
            tail = hold.results[-self._rules.passes :]
            if hold.held and (not going_on or (len(tail) == self._rules.passes and all(tail))):
                self._release(incident_id, hold, now_ms)
            elif not hold.held and going_on and goes_on(hold.results[::-1], self._rules):
                hold.held, hold.results, hold.since_ms = True, [], now_ms
                hold.next_probe_ms = now_ms + self._rules.probe_seconds * 1000
            if hold.held and hold.next_probe_ms <= now_ms:
                self._probe(incident_id, hold, now_ms)

    def _release(self, incident_id: str, hold: _Hold, now_ms: float) -> None:
        hold.held, hold.results, hold.ended_ms = False, [], now_ms
        for case in self._waiting(incident_id):
            case.why = Why.RELEASED
            self._wait(case.decision.case_id, now_ms + self._rng.random() * self._rules.drain_seconds * 1000)

    def _probe(self, incident_id: str, hold: _Hold, now_ms: float) -> None:
        hold.next_probe_ms = now_ms + self._rules.probe_seconds * 1000
        waiting = self._waiting(incident_id)
        if waiting:
            chosen = max(waiting, key=lambda case: case.queued)
            chosen.probe = True
            self._wait(chosen.decision.case_id, now_ms)

    def _waiting(self, incident_id: str) -> list[_Case]:
        return [
            case
            for case in self._cases.values()
            if case.state == "waiting" and case.why is Why.INCIDENT and case.incident == incident_id
        ]

    def _wait(self, case_id: str, due_ms: float) -> None:
        self._order += 1
        self._cases[case_id].due_ms = due_ms
        heappush(self._queue, (due_ms, self._order, case_id))

    def _refuse(self, case: _Case, why: Why) -> None:
        case.state, case.why = "refused", why
        self.refused[why] += 1

    def _ended_within(self, now_ms: float) -> int:
        while self._runs and self._runs[0][0] <= now_ms - _HOUR_MS:
            self._runs.popleft()
        return sum(jobs for _, jobs in self._runs)


def _within(moments: deque[float], now_ms: float) -> int:
    while moments and moments[0] <= now_ms - _HOUR_MS:
        moments.popleft()
    return len(moments)


def _calls(row: DecisionRow) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = msgspec.json.decode(row.calls)
    return calls


def _names(jobs: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Workflow and name of `jobs`, in order."""
    return tuple(sorted({(job.get("workflow") or "", job.get("job_name") or "") for job in jobs}))


def _jobs(case: _Case, call: Call) -> list[Mapping[str, Any]]:
    return [job for job in case.jobs if call.job_id is None or job.get("job_id") == call.job_id]
