"""Both ledgers behind one face: the one in PostgreSQL as a healer uses it, and the one in memory of a backtest.

Times are relative to now. In memory now moves; in PostgreSQL what is written moves into the past.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from analytics.acting import Acting, Due
from analytics.guards import Limits
from analytics.policy.rules import Policy
from connectors.platforms import PLATFORMS
from connectors.postgres import Connection, connect_async
from connectors.postgres_holds import tend
from connectors.postgres_ledger import Act, Case, Ledger
from connectors.postgres_rows import STATEMENT, Written, texts
from flows.claiming import Claimer, Taken, ended
from models.records.calls import Done
from models.records.event import uuid5_text
from models.records.ledger import ActState, HoldRules, Standing, Why
from models.records.outputs import ActOutcome, DecisionRow, IncidentRow, ShardOutput
from tests.connectors.healing import decide
from tests.connectors.outputs import failure, progress

ROOMY: Final = Limits(
    repository_per_hour=1000, fleet_per_hour=1000, least_reruns_per_hour=1000, crowd_repositories=1000
)
RULES: Final = HoldRules()
_MINUTES: Final = 2.0
"""That the failed job of every case took, as `decide` has it."""
_SHARES: Final = (1.0, 0.0, 9, 9, 0, 9, 0.0)
_INCIDENT: Final = IncidentRow(
    "", 0, "opened", "s", "connection-reset", None, "all", None, *_SHARES, "[]", "m", 0, 0, 0, 0, None, "d"
)


class Twin(ABC):
    """One of both ledgers."""

    limits: Limits = ROOMY
    now_ms: int

    @abstractmethod
    def decided(self, *rows: DecisionRow) -> None:
        """Tell it of decisions."""

    @abstractmethod
    def claimed(self) -> list[str]:
        """Claim all that is due: the targets of what is to be carried out, as run:target, and why the rest is not."""

    @abstractmethod
    def settled(self, what: str, state: ActState, made: Done | None = None, reason: Why | None = None) -> None:
        """Say what came of asking for `what`, as `claimed` named it."""

    @abstractmethod
    def goes_by(self, seconds: float) -> None:
        """Let time go by."""

    @abstractmethod
    def incident(self, row: IncidentRow) -> None:
        """Tell it how an incident stands."""

    @abstractmethod
    def came_of(self, what: str, outcome: str) -> None:
        """Tell it what came of an act, now."""

    @abstractmethod
    def jobs_ended(self, jobs: int) -> None:
        """Tell it that so many jobs ended, now."""

    @abstractmethod
    def stands(self, case_id: str) -> tuple[Standing, Why]:
        """How a case stands."""

    @abstractmethod
    def spent(self) -> dict[str, tuple[int, float]]:
        """Acts and minutes that are taken of budgets, by scope."""

    def opened(self, dimension: str = "all", value: str | None = None) -> IncidentRow:
        """Tell it of an incident that begins."""
        identity = uuid5_text("incident", dimension, str(value))
        row = _INCIDENT._replace(
            incident_id=identity, dimension=dimension, value=value, began_ms=self.now_ms, last_ms=self.now_ms,
            minute_ms=self.now_ms, at_ms=self.now_ms,
        )  # fmt: skip
        self.incident(row)
        return row

    def closed(self, row: IncidentRow) -> None:
        """Tell it that an incident is over."""
        self.incident(row._replace(revision=row.revision + 1, state="closed"))


@dataclass
class _InMemory(Twin):
    """analytics/acting.py."""

    now_ms: int = 1_763_900_700_000  # a quarter past an hour, far from where one ends
    _dues: dict[str, Due] = field(default_factory=dict)
    _acting: Acting | None = None

    @property
    def acting(self) -> Acting:
        """It, with the limits of the test."""
        if self._acting is None:
            caps = {name: platform.most_reruns for name, platform in PLATFORMS.items()}
            self._acting = Acting(self.limits, RULES, most_reruns=caps)
        return self._acting

    def decided(self, *rows: DecisionRow) -> None:
        for row in rows:
            self.acting.decided(row, _MINUTES)

    def claimed(self) -> list[str]:
        before = {one.decision.case_id: (one.state, one.why) for one in self.acting.cases()}
        asked = dict(self._dues)
        for due in self.acting.due(self.now_ms):
            self._dues[f"{due.call.pipeline_id}:{due.call.target}"] = due
        whys = [
            str(one.why)
            for one in self.acting.cases()
            if one.state is not Standing.TAKEN and before.get(one.decision.case_id) != (one.state, one.why)
        ]
        return sorted([*(what for what, due in self._dues.items() if asked.get(what) is not due), *whys])

    def settled(self, what: str, state: ActState, made: Done | None = None, reason: Why | None = None) -> None:
        self.acting.settled(self._dues[what], state, reason, None if made is None else msgspec.to_builtins(made))

    def goes_by(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)

    def incident(self, row: IncidentRow) -> None:
        self.acting.incident(row)

    def came_of(self, what: str, outcome: str) -> None:
        self.acting.came_of(_outcome(self._dues[what].act_id, outcome, self.now_ms))

    def jobs_ended(self, jobs: int) -> None:
        self.acting.ended(self.now_ms, jobs)

    def stands(self, case_id: str) -> tuple[Standing, Why]:
        return next((one.state, one.why) for one in self.acting.cases() if one.decision.case_id == case_id)

    def spent(self) -> dict[str, tuple[int, float]]:
        sums: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        for (scope, _, _), (acts, minutes) in self.acting.spent().items():
            sums[scope] = sums[scope][0] + acts, sums[scope][1] + minutes
        return dict(sums)


_MOVED: Final = {
    "healing": ("due_at", "queued_at", "changed_at"),
    "acts": ("intended_at", "asked_at", "answered_at"),
    "holds": ("next_probe_at", "began_at", "ended_at"),
    "decisions": ("occurred_at", "not_before"),
    "act_outcomes": ("ended_at",),
    "aggregates": ("minute",),
}


@dataclass
class _InPostgres(Twin):
    """connectors/postgres_ledger.py with flows/claiming.py and connectors/postgres_holds.py."""

    url: str
    rows: Connection
    _taken: dict[str, tuple[Case, Act]] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:  # type: ignore[override]
        """The clock's."""
        return time.time_ns() // 1_000_000

    def decided(self, *rows: DecisionRow) -> None:
        for row in rows:
            decide(self.rows, row)

    def claimed(self) -> list[str]:
        return asyncio.run(self._claimed())

    async def _claimed(self) -> list[str]:
        got: list[str] = []
        async with await connect_async(self.url, application_name="a healer") as connection:
            await tend(connection, RULES)
            claimer = Claimer(
                Ledger(connection),
                healer="a",
                limits=self.limits,
                policy=Policy(mode="act"),
                approver=_nobody,
                lease_seconds=60.0,
                proposal_seconds=60.0,
                probe_seconds=RULES.probe_seconds,
            )
            while (one := await claimer.claim()) is not None:
                if isinstance(one, Taken):
                    named = {f"{act.call.pipeline_id}:{act.target}": (one.case, act) for act in one.acts}
                    self._taken |= named
                    got += named
                else:
                    got.append(str(one.why))
        return sorted(got)

    def settled(self, what: str, state: ActState, made: Done | None = None, reason: Why | None = None) -> None:
        asyncio.run(self._settled(*self._taken[what], state, made, reason))

    async def _settled(self, case: Case, act: Act, state: ActState, made: Done | None, reason: Why | None) -> None:
        async with await connect_async(self.url, application_name="a healer") as connection:
            ledger = Ledger(connection)
            if state is not ActState.DROPPED:
                await ledger.asking(case, act, None, lease_seconds=60)
            await ledger.settle(case, act, state, reason, made, healer="a")
            acts = await ledger.acts(case.case_id)
            if all(one.state is not ActState.INTENT for one in acts):
                await ledger.end(case, *ended(acts))

    def goes_by(self, seconds: float) -> None:
        for table, columns in _MOVED.items():
            moved = ", ".join(f"{name} = {name} - {seconds} * interval '1 s'" for name in columns)
            self.rows.execute(f"UPDATE guard.{table} SET {moved}".encode())
        hours = f"{seconds // 3600} * interval '1 hour'"
        self.rows.execute(f"UPDATE guard.budgets SET period = period - {hours} WHERE period > 'epoch'".encode())

    def incident(self, row: IncidentRow) -> None:
        self._write(incidents=[row])

    def came_of(self, what: str, outcome: str) -> None:
        self._write(act_outcomes=[_outcome(self._taken[what][1].act_id, outcome, self.now_ms)])

    def jobs_ended(self, jobs: int) -> None:
        self.rows.execute(
            "INSERT INTO guard.aggregates (shard, position, platform, instance, repository, minute, started, completed,"
            " failed, duration_ms_sum, durations, late)"
            " VALUES (0, 1, 'github', 'github.com', 'org/repo', clock_timestamp(), 0, %s, 0, 0, '{}', 0)",
            [jobs],
        )

    def _write(self, **said: Any) -> None:
        output = ShardOutput([], [], [], [], [], **said)
        for parameters in texts([Written(0, output, progress(1))]):
            self.rows.execute(STATEMENT, parameters)

    def stands(self, case_id: str) -> tuple[Standing, Why]:
        query = "SELECT state, reason FROM guard.healing WHERE case_id = %s"
        row = self.rows.execute(query, [case_id]).fetchone()
        assert row is not None
        return Standing(row[0]), Why(row[1])

    def spent(self) -> dict[str, tuple[int, float]]:
        query = "SELECT scope, sum(acts)::int, sum(minutes) FROM guard.budgets GROUP BY 1 HAVING sum(acts) > 0"
        return {scope: (acts, minutes) for scope, acts, minutes in self.rows.execute(query)}


async def _nobody(_: Case) -> str | None:
    return None


def _outcome(act_id: str, outcome: str, at_ms: int) -> ActOutcome:
    known = failure(1)
    return ActOutcome(
        act_id=act_id,
        revision=0,
        shard=0,
        position=1,
        case_id=known.case_id,
        platform="github",
        instance="github.com",
        repository="org/repo",
        action="rerun_failed",
        attempt=1,
        signature="connection-reset",
        outcome=outcome,
        masked=False,
        event_id=None,
        asked_ms=at_ms,
        ended_ms=at_ms,
        duration_ms=None,
        ends="[]",
        probe=False,
        passes=0.0,
        fails=0.0,
        at_ms=at_ms,
        rulebook="d",
    )


def in_memory() -> Twin:
    """analytics/acting.py, with nothing in it."""
    return _InMemory()


def in_postgres(url: str, rows: Connection) -> Twin:
    """The ledger of a database, with `rows` to look at it."""
    return _InPostgres(url, rows)
