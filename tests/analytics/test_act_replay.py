"""Healers and their rivals over a past that is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from analytics.act_replay import Healers, Said
from analytics.act_rivals import rival
from analytics.act_rows import ActRow
from analytics.acting import Acting
from analytics.backtest import batches_of, replay
from analytics.executions import Cost, Executions, ends_of
from analytics.guards import Limits
from analytics.past import SILENCE_MS
from analytics.rulebook import compose
from models.records.event import Event, Outcome
from models.records.flat import checked
from models.records.ledger import HoldRules
from models.records.outputs import DecisionRow
from tests.analytics.log import MINUTE, T0
from tests.analytics.past import at, table_of
from tests.events import make_event

RUN: dict[str, Any] = {"job_id": None, "job_name": None}
TRANSIENT = {"step": "Set up job"}
FAILED, PASSED = Outcome.FAILED, Outcome.PASSED
ACT = compose(policy={"mode": "act", "await_log_seconds": 0})
SEED = 1


def run(number: int, at_ms: int, outcome: Outcome, attempt: int = 1, **given: Any) -> Iterator[Event]:
    """Attempt `attempt` of run `number`, with one job, which took two minutes, ends at `at_ms`."""
    about = {"pipeline_id": str(number), "attempt": attempt, "commit_sha": f"{number:040x}", "duration_ms": 2 * MINUTE}
    about |= {"repository": f"org/{number}", "branch": f"topic-{number}", **given}
    job = TRANSIENT if outcome is FAILED else {}
    yield make_event(outcome, at_ms, **{**about, "job_id": f"{number}{attempt}", **job, **given})
    yield make_event(outcome, at_ms + 1000, **{**about, **RUN})


def known(events: Sequence[Event]) -> tuple[Said, Executions, pl.DataFrame]:
    """What a rulebook in mode act says to it, what is known of executions, and what failed."""
    events = sorted(events, key=lambda event: event.timestamp)
    rows, _ = checked(table_of(list(events)))
    tables = {name: pl.DataFrame(some) for name, some in replay(table_of(list(events)), ACT).tables.items()}
    ends = [pl.DataFrame(ends_of(batch)) for some in batches_of(rows).values() for batch in some]
    failures = tables["failures"].with_columns(occurred_ms=pl.col("occurred_at").dt.epoch("ms"))
    times = {"occurred_at": "occurred_ms", "received_at": "received_ms", "at": "at_ms", "not_before": "not_before_ms"}
    decisions = tables["decisions"].with_columns(pl.col(list(times)).dt.epoch("ms")).rename(times)
    said = Said([DecisionRow(**row) for row in decisions.iter_rows(named=True)], [], {}, at(events[-1]) + SILENCE_MS)
    return said, Executions(pl.concat(ends), failures, tables["diagnoses"]), failures


def price(costs: Sequence[Cost]) -> tuple[float, float]:
    """A dollar a minute."""
    minutes = sum(cost.minutes for cost in costs)
    return minutes, minutes


def healed(events: Sequence[Event], limits: Limits = Limits()) -> list[ActRow]:  # noqa: B008 - a constant
    said, executions, _ = known(events)
    return Healers("rulebook", Acting(limits, HoldRules(), seed=SEED), executions, price).run(said)


def rivals(events: Sequence[Event], strategy: str) -> list[tuple[int, str | None]]:
    _, executions, failures = known(events)
    rows = rival(strategy, failures, executions, price)
    return [(row.attempt, row.came) for row in sorted(rows, key=lambda row: row.asked_ms or 0)]


def test_what_passed_on_a_commit_that_fails_again_was_only_masked() -> None:
    events = [
        *run(1, T0, FAILED),
        *run(1, T0 + 20 * MINUTE, PASSED, 2),
        *run(1, T0 + 60 * MINUTE, FAILED, 3),
    ]
    (row, *_) = [row for row in healed(events) if row.state == "done" and row.reruns]
    assert (row.came, row.outcome, row.masked, row.minutes) == ("harmed", "passed", True, 2.0)


def test_a_rival_has_a_second_rerun_only_where_there_was_a_second_attempt() -> None:
    events = [*run(1, T0, FAILED), *run(1, T0 + 20 * MINUTE, FAILED, 2), *run(2, T0 + 30 * MINUTE, FAILED)]
    assert rivals(events, "never") == []
    assert rivals(events, "once") == [(1, "harmed"), (1, "unknown")]
    assert rivals(events, "twice") == [(1, "harmed"), (2, "unknown"), (1, "unknown")]


def test_gitlab_keeps_the_pipeline_and_counts_its_jobs() -> None:
    lab: dict[str, Any] = {"platform": "gitlab", "instance": "lab", "pipeline_id": "7"}
    events = [
        event
        for number, outcome in enumerate((FAILED, FAILED, PASSED))
        for event in run(1, T0 + number * 20 * MINUTE, outcome, **lab, job_id=str(8 + number))
        if event.job_id is not None
    ]
    assert rivals(events, "once") == [(1, "harmed")]
    assert rivals(events, "twice") == [(1, "harmed"), (1, "rescued")]


def test_a_build_of_the_commit_is_what_jenkins_makes_of_a_rerun() -> None:
    jenkins: dict[str, Any] = {"platform": "jenkins", "instance": "ci", "repository": "org/1", "commit_sha": "c" * 40}
    events = [*run(1, T0, FAILED, **jenkins), *run(2, T0 + 20 * MINUTE, PASSED, **jenkins)]
    assert rivals(events, "once") == [(1, "rescued")]


def test_in_an_outage_probes_go_and_what_came_of_them_lets_go_of_the_rest() -> None:
    """Each run was run again by somebody half an hour later, and passed."""
    events = [event for number in range(1, 9) for event in run(number, T0 + number * 1000, FAILED)]
    later = (run(number, T0 + 30 * MINUTE + number * MINUTE, PASSED, 2) for number in range(1, 9))
    rows = healed([*events, *(event for some in later for event in some)])
    done = sorted((row for row in rows if row.state == "done" and row.reruns), key=lambda row: row.asked_ms or 0)
    assert done
    assert all(row.probe for row in done)  # by the time that they have shown it the others had been run again
    gaps = [(b.asked_ms or 0) - (a.asked_ms or 0) for a, b in pairwise(done)]
    assert all(gap >= HoldRules().probe_seconds * 1000 for gap in gaps)
    assert {row.came for row in done} == {"rescued"}


def test_the_same_past_gives_the_same_rows_in_whatever_order_the_shards_were_judged() -> None:
    events = [event for number in range(1, 30) for event in run(number, T0 + number * MINUTE, FAILED)]
    said, executions, _ = known(events)
    both = [
        Healers("rulebook", Acting(Limits(), HoldRules(), seed=SEED), executions, price).run(one)
        for one in (said, said._replace(decisions=list(said.decisions)[::-1]))
    ]
    assert both[0] == both[1]
