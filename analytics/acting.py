"""What healers would have done about decisions of the past: the queue, the guards and the budgets in stream time.

The judgement is that of the healer, the pure functions of analytics/guards.py; only the ledger is in memory, and
tests/contracts/test_ledgers.py holds it to what the one in PostgreSQL does. Whoever replays says what time it is,
carries out what is due, and says what came of it. Nobody says yes here: what is suggested stays a proposal.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import takewhile
from typing import Any, Final, NamedTuple

from analytics.acting_budgets import Budget, Budgets
from analytics.acting_calls import calls_of, identity_of, jobs_about, jobs_of, names_of
from analytics.acting_holds import Asked, Belongs, Holds
from analytics.guards import (
    RERUNS,
    Doing,
    Facts,
    Hold,
    Limits,
    Refuse,
    Ruling,
    charges,
    origin_of,
    rule,
)
from analytics.policy.rules import Mode
from models.records.calls import Call
from models.records.ledger import NOT_TRIED, ActState, Charge, Earlier, HoldRules, Standing, Why
from models.records.outputs import ActOutcome, DecisionRow, IncidentRow, Verdict

_HOUR_MS: Final = 3_600_000
_VAIN: Final = (ActState.DROPPED, ActState.REFUSED)


class Due(NamedTuple):
    """One act that may be carried out now."""

    act_id: str
    call: Call
    decision: DecisionRow
    minutes: float  # CI minutes that what failed took
    probe: bool
    incident_id: str | None  # the one it belongs to
    waited: bool  # for it to end


class Stand(NamedTuple):
    """How far a case came, and why it stands there."""

    decision: DecisionRow
    state: Standing
    why: Why


@dataclass(slots=True)
class _Act:
    due: Due
    earlier: Earlier
    asked_ms: float
    order: int
    reason: Why | None = None


@dataclass(slots=True)
class _Case:
    decision: DecisionRow
    minutes: float
    order: int  # in which cases came
    due_ms: float = 0.0
    state: Standing = Standing.WAITING
    why: Why = Why.NEW
    incident: str | None = None  # in which it is held, or was
    probe: bool = False
    revision: int = 0  # of the decision that is being carried out
    acts: dict[str, _Act] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)


class Acting:
    """A ledger in memory. `most_reruns`: how many a platform takes of one run, where it says so."""

    def __init__(
        self, limits: Limits, rules: HoldRules, *, most_reruns: Mapping[str, int | None] | None = None, seed: int = 0
    ) -> None:
        """Begin with nothing spent."""
        self.refused: Counter[Why] = Counter()
        """Cases that were refused, by reason; of one that is refused anew, each time."""
        self.held: Counter[Why] = Counter()
        """Cases that had to wait, each reason once."""
        self.acts: dict[str, _Act] = {}
        self._limits: Final = limits
        self._rules: Final = rules
        self._most_reruns: Final = most_reruns or {}
        self._rng: Final = random.Random(f"acting {seed}")  # noqa: S311 - jitter, not a secret
        self._holds: Final = Holds(limits, rules)
        self._cases: dict[str, _Case] = {}
        self._held: set[tuple[str, Why]] = set()
        self._queue: list[tuple[float, int, str]] = []
        self._order = 0
        self._by_repository: dict[tuple[str, str], list[_Act]] = defaultdict(list)
        self._by_run: dict[tuple[str, str, str], list[_Act]] = defaultdict(list)
        self._budgets: Final = Budgets(limits)
        self._runs: deque[tuple[float, int]] = deque()

    # --- what is said to it

    def decided(self, row: DecisionRow, minutes: float = 0.0) -> None:
        """Queue a decision that is to be acted on, or withdraw one that is not any more.

        `minutes` is how long what failed took.
        """
        case = self._cases.get(row.case_id)
        if case is not None and row.revision <= case.decision.revision:
            return
        if row.verdict == Verdict.ACT and row.mode != "observe":
            self._queued(row, minutes, case)
        elif case is not None:
            case.decision = row
            if case.state in (Standing.WAITING, Standing.PROPOSED):
                self._refuse(case, Why.WITHDRAWN)

    def _queued(self, row: DecisionRow, minutes: float, case: _Case | None) -> None:
        if case is None:
            self._order += 1
            case = self._cases[row.case_id] = _Case(row, minutes, self._order)
            self._holds.queued(row, row.at_ms)
        elif case.decision.signature != row.signature:
            self._holds.queued(row, row.at_ms)
        case.decision, case.minutes = row, minutes
        if case.state is not Standing.TAKEN:
            case.state, case.why = Standing.WAITING, Why.NEW
            self._wait(case, float(row.not_before_ms or row.at_ms))

    def incident(self, row: IncidentRow) -> None:
        """Note how an incident stands."""
        self._holds.incident(row)

    def ended(self, at_ms: float, jobs: int) -> None:
        """Count jobs that ended."""
        self._runs.append((at_ms, jobs))

    def came_of(self, row: ActOutcome) -> None:
        """Note what came of an act; of a probe it says whether the incident is over."""
        self._holds.came_of(row)

    def settled(
        self, act: Due, state: ActState, reason: Why | None = None, made: Mapping[str, Any] | None = None
    ) -> None:
        """Say what came of asking. What nothing came of is given back, and a case ends with the last of its acts."""
        case, kept = self._cases[act.decision.case_id], self.acts[act.act_id]
        kept.earlier = kept.earlier._replace(state=state, made=dict(made or {}))
        kept.reason = reason
        if state in _VAIN:
            self._holds.nothing_of(act.act_id)
        states = [one.earlier.state for one in case.acts.values()]
        if all(one in _VAIN for one in states):
            self._budgets.give_back(case.charges)
            case.charges.clear()
        if ActState.INTENT not in states:
            self._end(case)

    # --- what it says

    def due(self, now_ms: float) -> Iterator[Due]:
        """What may be carried out by `now_ms`, in order; each is to be answered by `settled`."""
        self._tend(now_ms)
        while self._queue and self._queue[0][0] <= now_ms:
            due_ms, _, case_id = heappop(self._queue)
            case = self._cases[case_id]
            if case.state is Standing.WAITING and case.due_ms == due_ms:
                yield from self._claimed(case, now_ms)

    def next_ms(self) -> float:
        """When something is due next, if nothing more is said until then."""
        return min(self._queue[0][0] if self._queue else float("inf"), self._holds.next_ms())

    def cases(self) -> Iterator[Stand]:
        """How all cases stand, in the order in which they came."""
        for case in self._cases.values():
            yield Stand(case.decision, case.state, case.why)

    def spent(self) -> dict[Budget, tuple[int, float]]:
        """Acts and minutes that were taken of budgets."""
        return self._budgets.spent()

    # --- a claim

    def _claimed(self, case: _Case, now_ms: float) -> Iterator[Due]:
        calls = calls_of(case.decision)
        belongs = None
        if any(isinstance(call, RERUNS) for call in calls):
            belongs = self._holds.belongs(case.decision, now_ms, probe=case.probe)
        ruling = self._ruling(case, calls, belongs, now_ms) if calls else Refuse(Why.NO_ACTION)
        if isinstance(ruling, (Hold, Refuse)):
            self._obey(case, ruling, now_ms, belongs)
        else:
            yield from self._intended(case, calls, belongs, now_ms)

    def _ruling(self, case: _Case, calls: Sequence[Call], belongs: Belongs | None, now_ms: float) -> Ruling:
        row, reruns = case.decision, any(isinstance(call, RERUNS) for call in calls)
        earlier = self._earlier(case, now_ms)
        names = set(names_of(job for call in calls for job in jobs_about(row, call)))
        same = [act.asked for act in earlier if act.asked is not None and _ran(act) and names & set(act.jobs)]
        mode: Mode = row.mode  # type: ignore[assignment]  # a column that holds nothing else
        facts = Facts(
            now=now_ms / 1000,
            failed=row.occurred_ms / 1000,
            not_before=None if row.not_before_ms is None else row.not_before_ms / 1000,
            mode=mode,
            approved=False,
            reruns=reruns,
            attempt=row.attempt,
            most_reruns=self._most_reruns.get(row.platform),
            held=belongs is not None and not belongs.over and not case.probe,
            busy=any(act.pipeline_id == row.pipeline_id and act.state is ActState.INTENT for act in earlier),
            last_same=max(same, default=None) if reruns else None,
            fleet_reruns=self._budgets.fleet(now_ms) if reruns else 0,
            fleet_runs=self._fleet_runs(now_ms),
        )
        return rule(facts, self._limits)

    def _obey(self, case: _Case, ruling: Hold | Refuse, now_ms: float, belongs: Belongs | None = None) -> None:
        if isinstance(ruling, Refuse):
            self._refuse(case, ruling.why)
            return
        case.why = ruling.why
        if (case.decision.case_id, ruling.why) not in self._held:
            self._held.add((case.decision.case_id, ruling.why))
            self.held[ruling.why] += 1
        if ruling.why is Why.PROPOSED:
            case.state = Standing.PROPOSED
        elif ruling.why is Why.INCIDENT and belongs is not None:
            self._holds.begin(belongs, case.decision.signature or "", now_ms)
            case.incident = belongs.incident_id
        if ruling.until is not None:
            self._wait(case, max(ruling.until * 1000, now_ms + 1))

    def _intended(self, case: _Case, calls: Sequence[Call], belongs: Belongs | None, now_ms: float) -> Iterator[Due]:
        """Charge and write down what is not written down yet; what is, is not asked for twice."""
        missing = {
            identity: call
            for call in calls
            if (identity := identity_of(case.decision, call)) not in case.acts or self._is_anew(case, identity)
        }
        if not missing:
            self._end(case)
            return
        doing = self._doing(case, list(missing.values()), now_ms)
        objection = self._charged(case, doing, missing, now_ms)
        if objection is not None:
            self._obey(case, objection, now_ms)
            return
        incident_id = belongs.incident_id if belongs is not None else case.incident
        acts = [self._intend(case, identity, call, doing, incident_id, now_ms) for identity, call in missing.items()]
        case.state, case.revision = Standing.TAKEN, case.decision.revision
        yield from [act.due for act in acts]

    def _is_anew(self, case: _Case, identity: str) -> bool:
        """Whether an act that was dropped may be intended once more: the case was decided on again."""
        act = case.acts[identity]
        return act.earlier.state is ActState.DROPPED and act.due.decision.revision != case.decision.revision

    def _charged(self, case: _Case, doing: Doing, missing: Iterable[str], now_ms: float) -> Hold | Refuse | None:
        """Take what `doing` costs, for the acts `missing`; what objects, with nothing taken."""
        taken = charges(doing, now_ms / 1000)
        objection = self._budgets.charge(taken, now_ms / 1000, self._rng.random())
        if objection is None and any(identity in self.acts and identity not in case.acts for identity in missing):
            self._budgets.give_back(taken)
            return Refuse(Why.ALREADY_ASKED)
        if objection is None:
            case.charges += taken
        return objection

    def _intend(
        self, case: _Case, identity: str, call: Call, doing: Doing, incident_id: str | None, now_ms: float
    ) -> _Act:
        row = case.decision
        due = Due(identity, call, row, doing.minutes, case.probe, incident_id, waited=case.incident is not None)
        about = names_of(jobs_about(row, call))
        earlier = Earlier(
            row.pipeline_id, row.workflow_id or "", row.attempt, call.name, ActState.INTENT, now_ms / 1000, about, {},
            doing.origin,
        )  # fmt: skip
        self._order += 1
        act = case.acts[identity] = self.acts[identity] = _Act(due, earlier, now_ms, self._order)
        self._by_repository[row.instance, row.repository].append(act)
        self._by_run[row.instance, row.repository, row.pipeline_id].append(act)
        if incident_id is not None:
            self._holds.asked(incident_id, Asked(identity, now_ms, case.probe))
        return act

    def _doing(self, case: _Case, calls: Sequence[Call], now_ms: float) -> Doing:
        row = case.decision
        again = [call for call in calls if isinstance(call, RERUNS)]
        return Doing(
            instance=row.instance,
            repository=row.repository,
            commit_sha=row.commit_sha,
            origin=self._origin(case, now_ms),
            jobs=names_of(job for call in again for job in jobs_about(row, call)),
            minutes=case.minutes if again else 0.0,
            calls=tuple(calls),
            action=row.action,
            about=names_of(jobs_of(row)),
        )

    def _origin(self, case: _Case, now_ms: float) -> str:
        """The run that began the chain. What GitLab runs again stays in its case, and so does the case in its chain."""
        row = case.decision
        if case.acts:
            return next(iter(case.acts.values())).earlier.origin
        return origin_of(
            pipeline_id=row.pipeline_id,
            workflow_id=row.workflow_id,
            attempt=row.attempt,
            job_ids=[call.job_id for call in calls_of(row) if call.job_id],
            earlier=self._earlier(case, now_ms),
        )

    def _earlier(self, case: _Case, now_ms: float) -> list[Earlier]:
        """The acts of other cases about the same run, and those on the repository of late."""
        row, since_ms = case.decision, now_ms - self._limits.cooldown_seconds * 1000
        here = reversed(self._by_repository[row.instance, row.repository])
        late = takewhile(lambda act: act.asked_ms > since_ms, here)
        about = {a.due.act_id: a for a in (*self._by_run[row.instance, row.repository, row.pipeline_id], *late)}
        others = [act for act in about.values() if act.due.decision.case_id != row.case_id]
        return [act.earlier for act in sorted(others, key=lambda act: act.order)]

    def _fleet_runs(self, now_ms: float) -> int:
        while self._runs and self._runs[0][0] <= now_ms - _HOUR_MS:
            self._runs.popleft()
        return sum(jobs for _, jobs in self._runs)

    # --- what becomes of cases

    def _tend(self, now_ms: float) -> None:
        """Let go of what waited for incidents that are over, and choose probes in others."""
        tended = self._holds.tend(now_ms)
        for incident_id in tended.released:
            for case in self._waiting(incident_id):
                case.why, case.probe = Why.RELEASED, False
                self._wait(case, now_ms + self._rng.random() * self._rules.drain_seconds * 1000)
        for incident_id in tended.probes:
            chosen = max(self._waiting(incident_id), key=lambda case: case.order, default=None)
            if chosen is not None:
                chosen.probe = True
                self._wait(chosen, now_ms)

    def _waiting(self, incident_id: str) -> list[_Case]:
        return [
            case
            for case in self._cases.values()
            if case.incident == incident_id and case.state is Standing.WAITING and case.why is Why.INCIDENT
        ]

    def _wait(self, case: _Case, due_ms: float) -> None:
        self._order += 1
        case.due_ms = due_ms
        heappush(self._queue, (due_ms, self._order, case.decision.case_id))

    def _refuse(self, case: _Case, why: Why) -> None:
        case.state, case.why = Standing.REFUSED, why
        self.refused[why] += 1
        if case.probe and case.incident is not None and why in NOT_TRIED:
            self._holds.not_tried(case.incident, case.due_ms)

    def _end(self, case: _Case) -> None:
        """How a case ends whose acts are all settled; one that was decided on again meanwhile is looked at anew."""
        row = case.decision
        if case.state is Standing.TAKEN and row.revision > case.revision and row.verdict == Verdict.ACT:
            case.state, case.why = Standing.WAITING, Why.NEW
            self._wait(case, float(row.not_before_ms or row.at_ms))
            return
        acts = [(act.earlier.state, act.reason) for act in case.acts.values()]
        states = {state for state, _ in acts}
        for state, why in ((ActState.DONE, Why.DONE), (ActState.UNKNOWN, Why.UNKNOWN)):
            if state in states:
                case.state, case.why = Standing.FINISHED, why
                return
        dropped = [reason for state, reason in acts if state is ActState.DROPPED and reason is not None]
        refused = ActState.REFUSED in states or not dropped
        self._refuse(case, Why.PLATFORM_REFUSED if refused else dropped[0])


def _ran(act: Earlier) -> bool:
    """Whether it ran something again, as far as is known."""
    return act.action.startswith("rerun") and act.state not in _VAIN
