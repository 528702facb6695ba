"""One suite for both ledgers: what is decided in memory over the past is what a healer decides on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from analytics.guards import Limits
from connectors.postgres import connect
from models.records.calls import Call, Comment, Done, RerunJob
from models.records.ledger import ActState, Standing, Why
from models.records.outputs import DecisionRow
from tests.connectors import healing
from tests.connectors.healing import rerun
from tests.contracts.ledgers import ROOMY, Twin, in_memory, in_postgres

DONE = (Standing.FINISHED, Why.DONE)


@pytest.fixture(params=["memory", "postgres"])
def twin(request: pytest.FixtureRequest) -> Iterator[Twin]:
    """Each of both."""
    if request.param == "memory":
        yield in_memory()
        return
    url = request.getfixturevalue("database")
    with connect(url) as connection:
        yield in_postgres(url, connection)


def act(twin: Twin, number: int, revision: int = 1, *calls: Call, **changes: Any) -> DecisionRow:
    """The decision to act on run `number`, which failed a moment ago; a higher number is due later."""
    now_ms = twin.now_ms
    at_ms = now_ms - 1000 + number
    return healing.act(number, revision, *calls, **{"occurred_ms": now_ms, "at_ms": at_ms, **changes})


def attempt(twin: Twin, number: int, tried: int, **changes: Any) -> DecisionRow:
    """A later attempt of run 1 failed."""
    call = rerun(1, attempt=tried)
    return act(twin, number, 1, call, pipeline_id="1", attempt=tried, **{"commit_sha": f"{1:040x}", **changes})


def case(number: int) -> str:
    return healing.act(number).case_id


def test_what_may_be_done_is_taken_and_charged_and_then_finished(twin: Twin) -> None:
    twin.decided(act(twin, 1))
    assert twin.claimed() == ["1:run"]
    assert twin.spent() == dict.fromkeys(("job", "run", "commit", "repository", "fleet"), (1, 2.0))
    assert twin.claimed() == []
    twin.settled("1:run", ActState.DONE, Done(attempt=2))
    assert twin.stands(case(1)) == DONE


@pytest.mark.parametrize(
    ("limits", "changes", "why"),
    [
        (ROOMY._replace(job_per_hour=0), {}, Why.JOB_BUDGET),
        (ROOMY._replace(run=0), {}, Why.RUN_BUDGET),
        (ROOMY._replace(commit=0), {}, Why.COMMIT_BUDGET),
        (ROOMY._replace(repository_per_hour=0), {}, Why.REPOSITORY_BUDGET),
        (ROOMY._replace(fleet_per_hour=0), {}, Why.FLEET_BUDGET),
        (ROOMY._replace(repository_minutes_per_hour=1.9), {}, Why.REPOSITORY_BUDGET),
        (ROOMY._replace(fleet_minutes_per_hour=1.9), {}, Why.FLEET_BUDGET),
        (ROOMY._replace(stale_seconds=-10.0), {}, Why.STALE),
        (ROOMY._replace(least_reruns_per_hour=0), {}, Why.RETRY_RATIO),
        (ROOMY, {"attempt": 51}, Why.PLATFORM_CAP),
        (ROOMY, {"mode": "suggest"}, Why.PROPOSED),
        # of several that object the first in this order counts
        (ROOMY._replace(stale_seconds=-10.0), {"attempt": 51}, Why.STALE),
        (ROOMY, {"attempt": 51, "mode": "suggest"}, Why.PLATFORM_CAP),
        (ROOMY._replace(least_reruns_per_hour=0), {"mode": "suggest"}, Why.PROPOSED),
        (ROOMY._replace(least_reruns_per_hour=0, job_per_hour=0), {}, Why.RETRY_RATIO),
        (ROOMY._replace(job_per_hour=0, run=0, fleet_per_hour=0), {}, Why.JOB_BUDGET),
        (ROOMY._replace(run=0, commit=0), {}, Why.RUN_BUDGET),
        (ROOMY._replace(repository_per_hour=0, fleet_per_hour=0), {}, Why.REPOSITORY_BUDGET),
    ],
)
def test_what_objects_first_is_the_reason_and_nothing_is_charged(
    twin: Twin, limits: Limits, changes: dict[str, Any], why: Why
) -> None:
    twin.limits = limits
    twin.decided(act(twin, 1, **changes))
    assert twin.claimed() == [why]
    refused = {Why.JOB_BUDGET, Why.RUN_BUDGET, Why.COMMIT_BUDGET, Why.STALE, Why.PLATFORM_CAP}
    state = Standing.REFUSED if why in refused else Standing.PROPOSED if why is Why.PROPOSED else Standing.WAITING
    assert (twin.stands(case(1)), twin.spent()) == ((state, why), {})


def test_a_decision_says_before_when_nothing_is_done(twin: Twin) -> None:
    twin.decided(act(twin, 1, not_before_ms=twin.now_ms + 60_000))
    assert twin.claimed() == []
    twin.goes_by(61)
    assert twin.claimed() == ["1:run"]


@pytest.mark.parametrize("calls", ["[]", '[{"call": "teleport"}]'])
def test_what_no_platform_can_do_is_refused(twin: Twin, calls: str) -> None:
    twin.decided(act(twin, 1)._replace(calls=calls))
    assert twin.claimed() == [Why.NO_ACTION]


def test_so_much_of_what_runs_may_be_reruns(twin: Twin) -> None:
    twin.limits = ROOMY._replace(least_reruns_per_hour=2, most_rerun_share=0.1)
    for number in (1, 2):
        twin.decided(act(twin, number))
        assert twin.claimed() == [f"{number}:run"]
        twin.settled(f"{number}:run", ActState.DONE)
    twin.decided(act(twin, 3))
    assert twin.claimed() == [Why.RETRY_RATIO]
    twin.jobs_ended(25)
    twin.goes_by(61)
    assert twin.claimed() == ["3:run"]
    twin.decided(act(twin, 4))
    assert twin.claimed() == [Why.RETRY_RATIO]


# --- budgets


def test_an_hour_gives_new_budgets_but_runs_and_commits_have_no_second_chance(twin: Twin) -> None:
    twin.limits = ROOMY._replace(repository_per_hour=1, run=1, cooldown_seconds=0)
    twin.decided(act(twin, 1), act(twin, 2))
    assert twin.claimed() == ["1:run", Why.REPOSITORY_BUDGET]
    twin.settled("1:run", ActState.DONE, Done(attempt=2))
    twin.goes_by(2 * 3600)
    twin.decided(attempt(twin, 3, 2))
    assert twin.claimed() == ["2:run", Why.RUN_BUDGET]


@pytest.mark.parametrize(
    ("ends", "left"),
    [
        ((ActState.DROPPED, ActState.DROPPED), 0),
        ((ActState.DROPPED, ActState.REFUSED), 0),
        ((ActState.DROPPED, ActState.DONE), 2),
        ((ActState.UNKNOWN, ActState.DROPPED), 2),
    ],
)
def test_what_nothing_came_of_is_given_back(twin: Twin, ends: tuple[ActState, ActState], left: int) -> None:
    about: dict[str, Any] = {"platform": "gitlab", "instance": "lab", "repository": "org/repo", "pipeline_id": "1"}
    calls = [RerunJob(**about, job_id=str(job)) for job in (8, 9)]
    twin.decided(act(twin, 1, 1, *calls, platform="gitlab", instance="lab"))
    assert twin.claimed() == ["1:8", "1:9"]
    for job, state in zip((8, 9), ends, strict=True):
        twin.settled(f"1:{job}", state, reason=Why.ALREADY_RUN if state is ActState.DROPPED else None)
    assert twin.spent().get("fleet", (0, 0.0))[0] == left
    done = ActState.DONE in ends or ActState.UNKNOWN in ends
    assert twin.stands(case(1))[0] is (Standing.FINISHED if done else Standing.REFUSED)


def test_a_chain_of_reruns_is_charged_to_the_run_that_began_it(twin: Twin) -> None:
    twin.limits = ROOMY._replace(cooldown_seconds=0, job_per_hour=99)
    twin.decided(act(twin, 1))
    for tried in (2, 3):
        assert twin.claimed() == ["1:run"]
        twin.settled("1:run", ActState.DONE, Done(attempt=tried))
        twin.decided(attempt(twin, tried, tried))
    assert twin.claimed() == [Why.RUN_BUDGET]


def test_jobs_that_fail_one_after_another_in_a_case_are_one_chain(twin: Twin) -> None:
    twin.limits = ROOMY._replace(cooldown_seconds=0, job_per_hour=99)
    about: dict[str, Any] = {"platform": "gitlab", "instance": "lab", "repository": "org/repo", "pipeline_id": "1"}
    ends = []
    for revision in range(1, 4):
        calls = [RerunJob(**about, job_id=str(8 + job)) for job in range(revision)]
        twin.decided(act(twin, 1, revision, *calls, platform="gitlab", instance="lab"))
        ends += twin.claimed()
        if revision < 3:
            twin.settled(f"1:{7 + revision}", ActState.DONE, Done(job_id=str(8 + revision)))
    assert ends == ["1:8", "1:9", Why.RUN_BUDGET]
    assert twin.spent()["run"][0] == 2


def test_notes_have_a_budget_of_their_own_and_no_guard_of_reruns(twin: Twin) -> None:
    twin.limits = ROOMY._replace(least_reruns_per_hour=0, notes_per_hour=1)
    twin.opened()
    for number in (1, 2):
        about: dict[str, Any] = {"platform": "github", "instance": "github.com", "repository": "org/repo"}
        note = Comment(**about, pipeline_id=str(number), commit_sha="c" * 40, body="b", marker="m")
        twin.decided(act(twin, number, 1, note, action="comment"))
    first, second = twin.claimed()
    assert (first[:2], second) == ("1:", Why.REPOSITORY_BUDGET)


# --- one thing at a time, and nothing twice


def test_one_thing_is_done_to_a_run_at_a_time(twin: Twin) -> None:
    twin.limits = ROOMY._replace(cooldown_seconds=0)
    twin.decided(act(twin, 1), attempt(twin, 2, 2))
    assert twin.claimed() == ["1:run", Why.TARGET_BUSY]
    twin.settled("1:run", ActState.DONE)
    twin.goes_by(6)
    assert twin.claimed() == ["1:run"]


def test_the_same_job_is_not_run_again_within_moments(twin: Twin) -> None:
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.settled("1:run", ActState.DONE, Done(attempt=2))
    twin.decided(attempt(twin, 2, 2))
    assert twin.claimed() == [Why.COOLDOWN]
    twin.goes_by(31)
    assert twin.claimed() == ["1:run"]


@pytest.mark.parametrize("state", [ActState.DROPPED, ActState.REFUSED])
def test_what_was_not_done_has_no_cooldown(twin: Twin, state: ActState) -> None:
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.settled("1:run", state)
    twin.decided(attempt(twin, 2, 2))
    assert twin.claimed() == ["1:run"]


def test_a_new_decision_that_asks_for_the_same_is_no_second_act(twin: Twin) -> None:
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.settled("1:run", ActState.DONE, Done(attempt=2))
    twin.decided(act(twin, 1, 2))
    twin.claimed()
    assert (twin.stands(case(1)), twin.spent()["fleet"][0]) == (DONE, 1)


def test_another_case_cannot_ask_for_the_same(twin: Twin) -> None:
    twin.limits = ROOMY._replace(cooldown_seconds=0)
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.settled("1:run", ActState.DONE)
    twin.decided(attempt(twin, 2, 1))
    assert (twin.claimed(), twin.spent()["fleet"][0]) == ([Why.ALREADY_ASKED], 1)


def test_what_was_dropped_may_be_asked_for_when_it_is_decided_on_again(twin: Twin) -> None:
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.settled("1:run", ActState.DROPPED, reason=Why.RUN_IN_PROGRESS)
    assert twin.stands(case(1)) == (Standing.REFUSED, Why.RUN_IN_PROGRESS)
    twin.decided(act(twin, 1, 2))
    assert twin.claimed() == ["1:run"]


# --- changed decisions


def test_what_is_withdrawn_is_refused_until_it_is_decided_on_again(twin: Twin) -> None:
    twin.decided(act(twin, 1, not_before_ms=twin.now_ms + 60_000))
    twin.decided(healing.withdrawn(1))
    assert twin.stands(case(1)) == (Standing.REFUSED, Why.WITHDRAWN)
    twin.decided(act(twin, 1, 3))
    assert twin.claimed() == ["1:run"]


def test_what_is_only_observed_by_now_is_withdrawn(twin: Twin) -> None:
    twin.decided(act(twin, 1, mode="suggest"))
    twin.claimed()
    twin.decided(act(twin, 1, 2, mode="observe"))
    assert twin.stands(case(1)) == (Standing.REFUSED, Why.WITHDRAWN)


def test_an_older_decision_changes_nothing(twin: Twin) -> None:
    twin.decided(act(twin, 1, 3))
    twin.decided(healing.withdrawn(1, 2))
    assert twin.claimed() == ["1:run"]


def test_what_is_decided_on_again_meanwhile_is_looked_at_anew(twin: Twin) -> None:
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.decided(act(twin, 1, 2))
    assert twin.stands(case(1))[0] is Standing.TAKEN
    twin.settled("1:run", ActState.DROPPED, reason=Why.RUN_IN_PROGRESS)
    assert twin.stands(case(1)) == (Standing.WAITING, Why.NEW)
    assert twin.claimed() == ["1:run"]


def test_what_is_withdrawn_while_it_is_asked_for_ends_as_it_ends(twin: Twin) -> None:
    twin.decided(act(twin, 1))
    twin.claimed()
    twin.decided(healing.withdrawn(1))
    twin.settled("1:run", ActState.DROPPED, reason=Why.ALREADY_RUN)
    assert (twin.stands(case(1)), twin.spent()) == ((Standing.REFUSED, Why.ALREADY_RUN), {})


# --- incidents


@pytest.mark.parametrize(
    ("dimension", "value", "waits"),
    [
        ("all", None, True),
        ("host", "registry.example.com", True),
        ("platform", "github", True),
        ("platform", "gitlab", False),
        ("instance", "github.com", True),
        ("instance", "another", False),
    ],
)
def test_in_an_incident_reruns_of_its_cause_wait_where_it_is(
    twin: Twin, dimension: str, value: str | None, waits: bool
) -> None:
    twin.opened(dimension, value)
    twin.decided(act(twin, 1), act(twin, 2, signature="another"))
    assert twin.claimed() == ["1:run", "2:run"] if not waits else ["2:run", Why.INCIDENT]


def test_what_is_stale_begins_no_hold(twin: Twin) -> None:
    """Nor has it a probe, then."""
    twin.limits = ROOMY._replace(stale_seconds=3600.0)
    twin.opened()
    twin.decided(act(twin, 1, occurred_ms=twin.now_ms - 3_700_000))
    assert twin.claimed() == [Why.STALE]
    twin.decided(act(twin, 2))
    assert twin.claimed() == [Why.INCIDENT]


def held(twin: Twin, count: int = 3) -> None:
    """An incident opens, and so many runs wait in it."""
    twin.opened()
    for number in range(1, count + 1):
        twin.decided(act(twin, number))
        assert twin.claimed() == [Why.INCIDENT]


def probe(twin: Twin, outcome: str) -> list[str]:
    """A minute later one is tried, and that comes of it; what was tried."""
    twin.goes_by(61)
    tried = twin.claimed()
    for what in tried:
        twin.settled(what, ActState.DONE)
        twin.came_of(what, outcome)
    return tried


def test_the_newest_that_waits_is_tried_once_a_minute(twin: Twin) -> None:
    held(twin)
    assert probe(twin, "failed_same") == ["3:run"]
    assert twin.claimed() == []
    assert probe(twin, "failed_same") == ["2:run"]


def test_a_case_that_is_decided_on_again_keeps_its_place_among_those_that_wait(twin: Twin) -> None:
    held(twin)
    twin.decided(act(twin, 1, 2))
    twin.claimed()
    assert probe(twin, "failed_same") == ["3:run"]


def test_two_probes_that_pass_let_all_go_within_minutes(twin: Twin) -> None:
    held(twin, 4)
    assert probe(twin, "passed") == ["4:run"]
    assert probe(twin, "passed") == ["3:run"]
    twin.claimed()
    assert {twin.stands(case(number))[1] for number in (1, 2)} <= {Why.RELEASED, Why.NEW, Why.DONE}
    twin.goes_by(301)
    twin.claimed()
    assert [twin.stands(case(number))[0] for number in (1, 2)] == [Standing.TAKEN] * 2


def test_after_a_probe_that_passed_the_next_comes_sooner(twin: Twin) -> None:
    held(twin, 5)
    probe(twin, "passed")
    assert twin.claimed() == []
    twin.goes_by(16)
    (tried,) = twin.claimed()
    twin.settled(tried, ActState.DONE)
    twin.came_of(tried, "failed_same")
    twin.goes_by(16)
    assert twin.claimed() == []


@pytest.mark.parametrize(("why", "sooner"), [(Why.OVERTAKEN, True), (Why.GIVEN_UP, False)])
def test_a_probe_that_was_not_tried_after_all_is_followed_by_another(twin: Twin, why: Why, *, sooner: bool) -> None:
    held(twin)
    twin.goes_by(61)
    assert twin.claimed() == ["3:run"]
    twin.settled("3:run", ActState.DROPPED, reason=why)
    assert twin.claimed() == (["2:run"] if sooner else [])


@pytest.mark.parametrize("between", ["failed_same", "failed_otherwise", "overtaken"])
def test_only_a_probe_that_fails_as_before_breaks_the_row(twin: Twin, between: str) -> None:
    held(twin, 5)
    for outcome in ("passed", between, "passed"):
        assert len(probe(twin, outcome)) == 1
    twin.claimed()
    released = twin.stands(case(1))[1] is not Why.INCIDENT
    assert released is (between != "failed_same")


def test_a_probe_that_was_asked_for_earlier_and_ends_later_is_the_earlier_one(twin: Twin) -> None:
    held(twin, 5)
    twin.goes_by(61)
    (slow,) = twin.claimed()
    twin.settled(slow, ActState.DONE)
    assert len(probe(twin, "passed")) == 1
    twin.goes_by(1)
    twin.came_of(slow, "failed_same")
    assert len(probe(twin, "passed")) == 1
    twin.claimed()
    assert twin.stands(case(1))[1] is not Why.INCIDENT


def over(twin: Twin) -> None:
    """Two probes passed, and all that waited has been run again."""
    held(twin, 3)
    probe(twin, "passed")
    probe(twin, "passed")
    twin.claimed()
    twin.goes_by(301)
    twin.claimed()
    twin.settled("1:run", ActState.DONE)


def test_what_fails_again_and_again_after_it_seemed_over_says_that_it_is_not(twin: Twin) -> None:
    over(twin)
    twin.came_of("1:run", "failed_same")
    for number in (10, 11):
        twin.decided(act(twin, number))
        assert twin.claimed() == [f"{number}:run"]
        twin.settled(f"{number}:run", ActState.DONE)
        twin.came_of(f"{number}:run", "failed_same")
        twin.claimed()
    twin.decided(act(twin, 12))
    assert twin.claimed() == [Why.INCIDENT]


def test_what_passes_after_it_seemed_over_leaves_it_over(twin: Twin) -> None:
    over(twin)
    twin.came_of("1:run", "passed")
    twin.decided(act(twin, 10))
    assert twin.claimed() == ["10:run"]


def test_an_incident_that_is_closed_lets_go(twin: Twin) -> None:
    incident = twin.opened()
    twin.decided(act(twin, 1))
    assert twin.claimed() == [Why.INCIDENT]
    twin.closed(incident)
    twin.claimed()
    twin.goes_by(301)
    twin.claimed()
    assert twin.stands(case(1))[0] is Standing.TAKEN


def crowd(twin: Twin, *numbers: int) -> list[DecisionRow]:
    return [act(twin, number, repository=f"org/{number}") for number in numbers]


def test_a_crowd_waits_before_the_fleet_says_so(twin: Twin) -> None:
    twin.limits = ROOMY._replace(crowd_repositories=5)
    twin.decided(*crowd(twin, 1, 2, 3, 4))
    assert len(twin.claimed()) == 4
    twin.decided(*crowd(twin, 5, 6))
    assert twin.claimed() == [Why.INCIDENT] * 2
    twin.decided(act(twin, 7, signature="another"))
    assert twin.claimed() == ["7:run"]


def test_runs_of_one_repository_are_no_crowd(twin: Twin) -> None:
    twin.limits = ROOMY._replace(crowd_repositories=5)
    twin.decided(*(act(twin, number) for number in range(1, 8)))
    assert len([what for what in twin.claimed() if ":" in what]) == 7


def test_a_crowd_that_came_longer_ago_is_none(twin: Twin) -> None:
    twin.limits = ROOMY._replace(crowd_repositories=5)
    twin.decided(*crowd(twin, 1, 2, 3, 4))
    twin.claimed()
    for number in range(1, 5):
        twin.settled(f"{number}:run", ActState.DONE)
    twin.goes_by(301)
    twin.decided(*crowd(twin, 5, 6))
    assert twin.claimed() == ["5:run", "6:run"]


def test_a_case_is_counted_by_the_cause_that_it_has_by_now(twin: Twin) -> None:
    twin.limits = ROOMY._replace(crowd_repositories=3)
    twin.decided(*crowd(twin, 1, 2))
    twin.decided(act(twin, 3, signature=None, repository="org/3", not_before_ms=twin.now_ms + 60_000))
    assert len(twin.claimed()) == 2
    twin.decided(act(twin, 3, 2, repository="org/3"))
    assert twin.claimed() == [Why.INCIDENT]


def test_a_crowd_is_waited_for_four_hours_at_most(twin: Twin) -> None:
    twin.limits = ROOMY._replace(crowd_repositories=2)
    twin.decided(*crowd(twin, 1, 2))
    assert twin.claimed() == [Why.INCIDENT] * 2
    twin.goes_by(4 * 3600 + 1)
    twin.claimed()
    twin.goes_by(301)
    twin.claimed()
    assert [twin.stands(case(number))[0] for number in (1, 2)] == [Standing.TAKEN] * 2
