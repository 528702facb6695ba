"""What the dataflow tells Prometheus of how things stand."""

from __future__ import annotations

from redis import Redis

from connectors.metric_kinds import REGISTRY
from flows import observe
from models.records.outputs import ShardOutput
from tests.connectors.outputs import act_outcome, incident, progress
from tests.flows.conftest import write


def incidents_open(category: str) -> float | None:
    return REGISTRY.get_sample_value("guard_incidents_open", {"category": category})


def test_incidents_are_counted_by_category_while_they_are_open(database: str) -> None:
    backlog = observe.Backlog(Redis(), database)
    said = [incident(1), incident(2), incident(3, signature=None, category=None)]
    write(database, [(0, ShardOutput([], [], [], [], [], incidents=said), progress(1))])
    backlog._standing()
    assert [incidents_open(category) for category in ("network", "unknown", "test")] == [2, 1, 0]
    over = [incident(n, 1, state="closed", why="calm") for n in (1, 2, 3)]
    write(database, [(0, ShardOutput([], [], [], [], [], incidents=over), progress(2))])
    backlog._standing()
    assert [incidents_open(category) for category in ("network", "unknown", "test")] == [0, 0, 0]


def test_what_came_of_acts_is_counted() -> None:
    def counted(outcome: str, masked: str) -> float:
        return REGISTRY.get_sample_value("guard_act_outcomes_total", {"outcome": outcome, "masked": masked}) or 0

    before = [counted("passed", "no"), counted("passed", "yes"), counted("failed_same", "no")]
    rows = [act_outcome(1), act_outcome(2), act_outcome(1, 1, masked=True), act_outcome(3, outcome="failed_same")]
    observe.judged(ShardOutput([], [], [], [], [], act_outcomes=rows))
    after = [counted("passed", "no"), counted("passed", "yes"), counted("failed_same", "no")]
    assert [a - b for a, b in zip(after, before, strict=True)] == [2, 1, 1]
