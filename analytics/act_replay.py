"""Healers over the past: what they would have done about the decisions of one set of rules, in stream time.

Decisions, incidents and counts of jobs of all shards go to one ledger in memory (analytics/acting.py) in the order of
their stream time. What it says is due is carried out as far as the past shows what a healer would have found: that
somebody had run the job again by then, or that the branch had moved on, drops an act. What came of the others is told
by the next execution of the same job on the same commit, at the moment when that ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import groupby
from typing import Any, Final, NamedTuple

from analytics.act_rows import ActRow, Price, came, row_of
from analytics.acting import Acting, Due
from analytics.acting_calls import jobs_about
from analytics.executions import Executions
from analytics.guards import RERUNS
from analytics.reruns import End, Judged
from models.records.acted import Acted, ActedJob, ActResult
from models.records.ledger import ActState, Standing, Why
from models.records.outputs import ActEnd, ActOutcome, DecisionRow, IncidentRow, Verdict

_MINUTE_MS: Final = 60_000
_CLOSED_MS: Final = 2 * _MINUTE_MS
"""A minute's jobs are counted when it has closed."""


class Said(NamedTuple):
    """What one set of rules said, and until when stream time went."""

    decisions: Sequence[DecisionRow]
    incidents: Sequence[IncidentRow]
    completed: Mapping[int, int]  # jobs that ended, by minute, Unix milliseconds
    until_ms: int

    def moments(self) -> list[tuple[int, Any]]:
        """All of it in one order, whatever order the shards were judged in."""
        told: list[tuple[tuple[Any, ...], Any]] = [
            *(((at + _CLOSED_MS, 0, at, 0), (at + _CLOSED_MS, jobs)) for at, jobs in self.completed.items()),
            *(((row.at_ms, 1, row.incident_id, row.revision), row) for row in self.incidents),
            *(((row.at_ms, 2, row.case_id, row.revision), row) for row in self.decisions),
        ]
        return [(key[0], row) for key, row in sorted(told, key=lambda one: one[0])]


class Healers:
    """What healers would have done, under one name."""

    def __init__(self, strategy: str, acting: Acting, executions: Executions, price: Price) -> None:
        """Begin with nothing done."""
        self.acting: Final = acting
        self._strategy: Final = strategy
        self._executions: Final = executions
        self._price: Final = price
        self._rows: Final[list[ActRow]] = []
        self._later: Final[list[tuple[int, str, ActOutcome]]] = []

    def run(self, said: Said) -> list[ActRow]:
        """Live through it; a row for each act, and for each case of which nothing came."""
        for at_ms, some in groupby(said.moments(), key=lambda one: one[0]):
            self._until(at_ms)
            for _, what in some:
                self._hear(what)
            self._carry_out(at_ms)
        self._until(said.until_ms + 1)
        return [*self._rows, *self._left(said.decisions)]

    def _hear(self, what: Any) -> None:  # noqa: ANN401 - one of three
        if isinstance(what, DecisionRow):
            self.acting.decided(what, self._price(self._executions.cost(what.jobs))[0])
        elif isinstance(what, IncidentRow):
            self.acting.incident(what)
        else:
            self.acting.ended(*what)

    def _until(self, at_ms: float) -> None:
        """Do all that is due before then, each at its time."""
        while (now_ms := min(self.acting.next_ms(), self._later[0][0] if self._later else float("inf"))) < at_ms:
            while self._later and self._later[0][0] <= now_ms:
                self.acting.came_of(heappop(self._later)[2])
            self._carry_out(now_ms)

    def _carry_out(self, now_ms: float) -> None:
        for due in self.acting.due(now_ms):
            if isinstance(due.call, RERUNS):
                self._run_again(due, round(now_ms))
            else:
                self.acting.settled(due, ActState.DONE)
                self._note(due, round(now_ms), "done")

    def _run_again(self, due: Due, now_ms: int) -> None:
        acted = acted_of(due, now_ms)
        ends, judged = self._executions.came_of(acted)
        why = self._moved_on(acted, ends)
        if why is not None:
            self.acting.settled(due, ActState.DROPPED, why)
            self._note(due, now_ms, "dropped", why=why.value)
            return
        self.acting.settled(due, ActState.DONE, made=_made(acted, ends))
        minutes, money = self._price(self._executions.cost(job.failure_id for job in acted.jobs))
        told = {"came": came(judged).value, "outcome": judged.outcome, "masked": judged.masked}
        self._note(due, now_ms, "done", ended_ms=judged.ended_ms, minutes=minutes, money=money, **told)
        if judged.outcome not in (None, ActEnd.UNSEEN) and judged.ended_ms is not None:
            outcome = _outcome(due, judged, now_ms)
            heappush(self._later, (max(judged.ended_ms, now_ms), due.act_id, outcome))

    def _moved_on(self, acted: Acted, ends: Sequence[End]) -> Why | None:
        """What a look at the run would have shown."""
        if any(end.began_ms <= acted.asked_ms for end in ends):
            return Why.ALREADY_RUN
        return Why.OVERTAKEN if self._executions.overtaken(acted) else None

    def _note(self, due: Due, now_ms: int, state: str, **known: Any) -> None:  # noqa: ANN401 - fields of the row
        about: dict[str, Any] = {
            "act_id": due.act_id,
            "action": due.call.name,
            "target": due.call.target,
            "asked_ms": now_ms,
        }
        row = row_of(self._strategy, due.decision, state, None)
        self._rows.append(row._replace(**about, probe=due.probe, reruns=isinstance(due.call, RERUNS), **known))

    def _left(self, decisions: Sequence[DecisionRow]) -> Iterator[ActRow]:
        """The cases of which nothing came, and those that the mode does not even queue."""
        for decision, state, why in self.acting.cases():
            if state is not Standing.FINISHED:
                yield row_of(self._strategy, decision, state.value, why.value)
        last = {row.case_id: row for row in sorted(decisions, key=lambda row: row.revision)}
        for row in sorted(last.values(), key=lambda row: (row.at_ms, row.case_id)):
            if row.verdict == Verdict.ACT and row.mode == "observe":
                yield row_of(self._strategy, row, "observed", Why.MODE.value)


def acted_of(due: Due, now_ms: int) -> Acted:
    """What its shard is told of an act that was carried out at `now_ms`."""
    row, call = due.decision, due.call
    return Acted(
        act_id=due.act_id,
        decision_id=row.decision_id,
        case_id=row.case_id,
        platform=call.platform,
        instance=row.instance,
        repository=row.repository,
        pipeline_id=row.pipeline_id,
        workflow_id=row.workflow_id,
        attempt=row.attempt,
        action=call.name,
        target=call.target,
        result=ActResult.DONE,
        signature=row.signature,
        commit_sha=row.commit_sha,
        branch=row.branch,
        jobs=tuple(
            ActedJob(job["failure_id"], job.get("workflow") or "", job.get("job_name") or "", job.get("signature"))
            for job in jobs_about(row, call)
        ),
        asked_ms=now_ms,
        probe=due.probe,
    )


def _made(acted: Acted, ends: Sequence[End]) -> dict[str, Any]:
    """What the platform would have said that it made, as far as the past shows it."""
    if acted.platform == "github":
        return {"attempt": acted.attempt + 1}
    first = min(ends, key=lambda end: end.at_ms, default=None)
    if first is None or acted.platform == "jenkins":
        return {}
    return {"job_id": first.job_id} if acted.platform == "gitlab" else {"workflow_id": first.workflow_id}


def _outcome(due: Due, judged: Judged, now_ms: int) -> ActOutcome:
    row = due.decision
    assert judged.outcome is not None
    return ActOutcome(
        act_id=due.act_id,
        revision=0,
        shard=row.shard,
        position=row.position,
        case_id=row.case_id,
        platform=row.platform,
        instance=row.instance,
        repository=row.repository,
        action=due.call.name,
        attempt=row.attempt,
        signature=row.signature,
        outcome=judged.outcome.value,
        masked=judged.masked,
        event_id=judged.event_id,
        asked_ms=now_ms,
        ended_ms=judged.ended_ms,
        duration_ms=judged.duration_ms,
        ends=judged.ends,
        probe=due.probe,
        passes=0.0,
        fails=0.0,
        at_ms=now_ms,
        rulebook=row.rulebook,
    )
