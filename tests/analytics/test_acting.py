"""The ledger in memory: what tests/contracts/test_ledgers.py cannot ask of both, for it is only of replays."""

from __future__ import annotations

from typing import Any

import pytest

from analytics.acting import Acting, Due
from analytics.guards import Limits
from models.records.calls import Notify
from models.records.ledger import ActState, HoldRules, Standing, Why
from models.records.outputs import DecisionRow
from tests.connectors import healing
from tests.connectors.outputs import act_outcome

T0 = 1_763_900_700_000
ROOMY = Limits(repository_per_hour=1000, fleet_per_hour=1000, least_reruns_per_hour=1000, crowd_repositories=3)
RULES = HoldRules(probe_seconds=60.0, passes=1, drain_seconds=300.0)


def act(number: int, at_ms: int = T0, **changes: Any) -> DecisionRow:
    """The decision to run `number`, of a repository of its own, again."""
    given: dict[str, Any] = {"occurred_ms": at_ms, "at_ms": at_ms, "repository": f"org/{number}", **changes}
    return healing.act(number, **given)


def done(acting: Acting, now_ms: float) -> list[Due]:
    """Carry out all that is due."""
    told = []
    for due in acting.due(now_ms):
        acting.settled(due, ActState.DONE)
        told.append(due)
    return told


def lived(seed: int) -> list[tuple[float, str]]:
    """When each of some runs that wait in a crowd is run again, after a probe passed."""
    acting, told = Acting(ROOMY, RULES, seed=seed), list[tuple[float, str]]()
    for number in range(1, 9):
        acting.decided(act(number))
    while (now_ms := acting.next_ms()) < T0 + 1_000_000:
        for due in done(acting, now_ms):
            told.append((now_ms, due.decision.pipeline_id))
            known: dict[str, Any] = {"act_id": due.act_id, "outcome": "passed", "ended_ms": round(now_ms)}
            acting.came_of(act_outcome(1)._replace(**known))
    return told


def test_what_was_asked_in_the_past_needs_no_clock() -> None:
    acting = Acting(ROOMY, RULES)
    assert acting.next_ms() == float("inf")
    acting.decided(act(1, not_before_ms=T0 + 5000))
    assert acting.next_ms() == T0 + 5000
    assert [due.decision.pipeline_id for due in done(acting, acting.next_ms())] == ["1"]
    assert acting.next_ms() == float("inf")


def test_a_seed_is_one_course_of_things_and_another_seed_another() -> None:
    assert lived(1) == lived(1)
    assert lived(1) != lived(2)


def test_a_crowd_is_tried_by_one_and_then_let_go_over_minutes() -> None:
    told = lived(3)
    assert len(told) == 8
    assert told[0][1] == "8"
    assert told[0][0] == pytest.approx(T0 + 60_000)
    assert all(T0 + 120_000 <= at <= T0 + 420_000 for at, _ in told[1:])
    assert len({at for at, _ in told[1:]}) > 1


def test_one_that_waits_for_an_hour_counts_once() -> None:
    acting = Acting(ROOMY._replace(least_reruns_per_hour=0), RULES)
    acting.decided(act(1))
    for _ in range(60):
        done(acting, acting.next_ms())
    assert acting.held == {Why.RETRY_RATIO: 1}


def test_minutes_are_charged_where_something_is_run_again() -> None:
    acting = Acting(ROOMY, RULES)
    about: dict[str, Any] = {"platform": "github", "instance": "github.com", "repository": "org/2", "pipeline_id": "2"}
    note = Notify(**about, title="t", body="b", subject="s")
    acting.decided(act(1), minutes=7.5)
    acting.decided(healing.act(2, 1, note, occurred_ms=T0, at_ms=T0, repository="org/2"), minutes=3.0)
    assert len(done(acting, T0)) == 2
    assert acting.spent()["fleet", "", T0 // 3_600_000 * 3_600_000] == (1, 7.5)
    assert {budget[0] for budget in acting.spent()} == {"job", "run", "commit", "repository", "fleet"}


def test_cases_say_how_far_they_came() -> None:
    acting = Acting(ROOMY, RULES)
    acting.decided(act(1))
    acting.decided(act(2, mode="suggest"))
    acting.decided(act(3, not_before_ms=T0 + 5000, signature="another"))
    done(acting, T0)
    assert [(one.state, one.why) for one in acting.cases()] == [
        (Standing.FINISHED, Why.DONE),
        (Standing.PROPOSED, Why.PROPOSED),
        (Standing.WAITING, Why.NEW),
    ]


@pytest.mark.parametrize("attempt", [50, 51])
def test_a_platform_takes_so_many_reruns_of_a_run(attempt: int) -> None:
    acting = Acting(ROOMY, RULES, most_reruns={"github": 50})
    acting.decided(act(1, attempt=attempt))
    assert bool(done(acting, T0)) is (attempt <= 50)
