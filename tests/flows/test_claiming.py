"""Claims on a real PostgreSQL: what may be done is charged and written down, or nothing is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from analytics.guards import Limits
from analytics.policy.reading import read as policy_of
from analytics.policy.rules import Policy
from connectors.postgres import Connection, connect, connect_async
from connectors.postgres_ledger import Case, Ledger
from flows.claiming import Claimer, Ruled, Taken, ended, mode_now
from models.records.calls import Done, RerunJob
from models.records.event import uuid5_text
from models.records.ledger import ActState, Why
from tests.connectors.healing import act, acts, decide, rerun, spent, standing, withdrawn

ACT = Policy(mode="act")
ROOMY = Limits(repository_per_hour=1000, fleet_per_hour=1000, least_reruns_per_hour=1000, crowd_repositories=1000)


@pytest.fixture
def rows(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


def with_claimers(
    database: str, work: Callable[..., Awaitable[None]], *, count: int = 1, yes: str | None = None, **changes: Any
) -> None:
    """Run `work` with so many claimers, each with a connection of its own."""

    async def said_yes(_: Case) -> str | None:
        return yes

    async def run() -> None:
        async with AsyncExitStack() as stack:
            claimers = []
            for number in range(count):
                connection = await connect_async(database, application_name=f"healer {number}")
                await stack.enter_async_context(connection)
                given = {
                    "limits": ROOMY,
                    "policy": ACT,
                    "lease_seconds": 60.0,
                    "proposal_seconds": 60.0,
                    "probe_seconds": 60.0,
                }
                one = Claimer(Ledger(connection), healer=str(number), approver=said_yes, **{**given, **changes})
                claimers.append(one)
            await work(*claimers)

    asyncio.run(run())


def claimed(database: str, count: int = 1, **changes: Any) -> list[Taken | Ruled | None]:
    """What one healer gets when it claims so often."""
    got: list[Taken | Ruled | None] = []

    async def work(claimer: Claimer) -> None:
        for _ in range(count):
            got.append(await claimer.claim())  # noqa: PERF401 - one after another

    with_claimers(database, work, **changes)
    return got


def why(database: str, **changes: Any) -> Why:
    (ruled,) = claimed(database, **changes)
    assert isinstance(ruled, Ruled), ruled
    return ruled.why


def due(rows: Connection) -> None:
    rows.execute("UPDATE guard.healing SET due_at = clock_timestamp() - interval '1 ms' WHERE state <> 'proposed'")


def settle(database: str, taken: Taken | Ruled | None, state: ActState, made: Done | None = None) -> None:
    """Let all acts of a case end so, and the case with them."""
    assert isinstance(taken, Taken)

    async def run() -> None:
        async with await connect_async(database, application_name="a healer") as connection:
            ledger = Ledger(connection)
            for each in taken.acts:
                await ledger.asking(taken.case, each, None, lease_seconds=60)
                await ledger.settle(taken.case, each, state, None, made, healer="a")
            await ledger.end(taken.case, *ended(await ledger.acts(taken.case.case_id)))

    asyncio.run(run())


def test_a_case_that_may_be_healed_is_taken_charged_and_written_down(database: str, rows: Connection) -> None:
    decide(database, act(1))
    taken, nothing = claimed(database, 2)
    assert isinstance(taken, Taken)
    assert nothing is None
    assert [each.call for each in taken.acts] == [rerun(1)]
    assert acts(rows) == [("1", "intent", None)]
    assert spent(rows) == {"job": 1, "run": 1, "commit": 1, "repository": 1, "fleet": 1}
    assert rows.execute("SELECT minutes FROM guard.budgets WHERE scope = 'fleet'").fetchone() == (2.0,)


def test_twenty_healers_on_a_budget_of_ten_act_ten_times(database: str, rows: Connection) -> None:
    decide(database, *(act(number) for number in range(60)))
    ends: Counter[str] = Counter()

    async def work(*claimers: Claimer) -> None:
        async def all_there_is(claimer: Claimer) -> None:
            while (got := await claimer.claim()) is not None:
                ends["taken" if isinstance(got, Taken) else got.why] += 1

        await asyncio.gather(*map(all_there_is, claimers))

    with_claimers(database, work, count=20, limits=ROOMY._replace(fleet_per_hour=10))
    assert ends == {"taken": 10, "fleet_budget": 50}
    assert acts(rows) == [(run, "intent", None) for run, *_ in acts(rows)]
    assert len(acts(rows)) == spent(rows)["fleet"] == spent(rows)["run"] == 10


def test_twenty_healers_do_one_thing_to_a_run_at_a_time(database: str, rows: Connection) -> None:
    attempts = [
        act(number, 1, rerun(7, attempt=number), pipeline_id="7", attempt=number, commit_sha="c")
        for number in range(1, 21)
    ]
    decide(database, *attempts)
    got: list[Any] = []

    async def work(*claimers: Claimer) -> None:
        got.extend(await asyncio.gather(*(claimer.claim() for claimer in claimers)))

    with_claimers(
        database, work, count=20, limits=ROOMY._replace(run=99, commit=99, job_per_hour=99, cooldown_seconds=0)
    )
    assert sum(isinstance(one, Taken) for one in got) == 1
    assert {one.why for one in got if isinstance(one, Ruled)} == {Why.TARGET_BUSY}
    assert spent(rows)["fleet"] == 1


def test_a_case_that_has_begun_is_not_held_up_by_one_that_came_later(database: str, rows: Connection) -> None:
    decide(database, act(1))
    claimed(database)
    rows.execute("UPDATE guard.acts SET intended_at = intended_at + interval '1 hour'")
    rows.execute("UPDATE guard.healing SET state = 'waiting'")
    decide(database, act(2, 1, rerun(1, attempt=2), pipeline_id="1", attempt=2))
    due(rows)
    got = claimed(database, 2)
    assert sorted(type(one).__name__ for one in got) == ["Ruled", "Taken"]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ROOMY._replace(job_per_hour=0), Why.JOB_BUDGET),
        (ROOMY._replace(run=0), Why.RUN_BUDGET),
        (ROOMY._replace(commit=0), Why.COMMIT_BUDGET),
        (ROOMY._replace(repository_per_hour=0), Why.REPOSITORY_BUDGET),
        (ROOMY._replace(fleet_per_hour=0), Why.FLEET_BUDGET),
        (ROOMY._replace(repository_minutes_per_hour=1.9), Why.REPOSITORY_BUDGET),
        (ROOMY._replace(stale_seconds=-10.0), Why.STALE),
        (ROOMY._replace(least_reruns_per_hour=0), Why.RETRY_RATIO),
    ],
)
def test_where_a_budget_is_spent_nothing_is_taken_of_the_others(
    database: str, rows: Connection, limits: Limits, reason: Why
) -> None:
    decide(database, act(1))
    assert why(database, limits=limits) is reason
    assert (acts(rows), spent(rows)) == ([], {})
    state = "refused" if reason in {Why.JOB_BUDGET, Why.RUN_BUDGET, Why.COMMIT_BUDGET, Why.STALE} else "waiting"
    assert standing(rows, 1) == (state, reason)


def test_a_chain_of_reruns_is_charged_to_the_run_that_began_it(database: str, rows: Connection) -> None:
    limits = ROOMY._replace(cooldown_seconds=0, job_per_hour=99)
    decide(database, act(1, commit_sha=None))
    settle(database, claimed(database, limits=limits)[0], ActState.DONE, Done(attempt=2))
    for attempt in (2, 3):
        decide(
            database, act(10 + attempt, 1, rerun(1, attempt=attempt), pipeline_id="1", attempt=attempt, commit_sha=None)
        )
        (got,) = claimed(database, limits=limits)
        if attempt == 2:
            settle(database, got, ActState.DONE, Done(attempt=3))
    assert isinstance(got, Ruled)
    assert got.why is Why.RUN_BUDGET


def test_jobs_that_fail_one_after_another_in_a_case_are_one_chain(database: str, rows: Connection) -> None:
    """GitLab keeps the pipeline and makes new jobs: the case is the same all the time."""
    limits = ROOMY._replace(cooldown_seconds=0, job_per_hour=99)
    about: dict[str, Any] = {"platform": "gitlab", "instance": "lab", "repository": "org/repo", "pipeline_id": "1"}
    ends = []
    for revision in range(1, 5):
        calls = [RerunJob(**about, job_id=str(8 + number)) for number in range(revision)]
        decide(database, act(1, revision, *calls, platform="gitlab", instance="lab"))
        (got,) = claimed(database, limits=limits)
        if isinstance(got, Taken):
            assert len(got.acts) == 1
            settle(database, got, ActState.DONE, Done(job_id=str(9 + revision)))
        ends.append("taken" if isinstance(got, Taken) else got and got.why)
    assert ends == ["taken", "taken", "run_budget", "run_budget"]
    assert spent(rows)["run"] == 2


def test_the_same_job_is_not_run_again_by_us_within_moments(database: str, rows: Connection) -> None:
    decide(database, act(1))
    settle(database, claimed(database)[0], ActState.DONE, Done(attempt=2))
    decide(database, act(2, 1, rerun(1, attempt=2), pipeline_id="1", attempt=2))
    assert why(database) is Why.COOLDOWN


def test_what_was_not_done_has_no_cooldown(database: str, rows: Connection) -> None:
    decide(database, act(1))
    settle(database, claimed(database)[0], ActState.DROPPED)
    decide(database, act(2, 1, rerun(1, attempt=2), pipeline_id="1", attempt=2))
    assert isinstance(claimed(database)[0], Taken)


def test_what_is_not_to_be_done_before_a_time_is_not(database: str, rows: Connection) -> None:
    decide(database, act(1, not_before_ms=int(time.time() * 1000) + 60_000))
    due(rows)
    assert why(database) is Why.NOT_BEFORE


# --- people


def test_what_is_suggested_is_proposed_and_goes_on_when_somebody_said_yes(database: str, rows: Connection) -> None:
    decide(database, act(1, mode="suggest"))
    assert why(database, policy=Policy(mode="suggest")) is Why.PROPOSED
    assert (standing(rows, 1), acts(rows)) == (("proposed", "proposed"), [])
    rows.execute("UPDATE guard.healing SET state = 'waiting', approved_by = 'ada', due_at = clock_timestamp()")
    (taken,) = claimed(database, policy=Policy(mode="suggest"))
    assert isinstance(taken, Taken)
    assert rows.execute("SELECT approved_by FROM guard.acts").fetchone() == ("ada",)


def test_who_said_yes_to_all_of_the_kind_need_not_be_asked(database: str, rows: Connection) -> None:
    decide(database, act(1, mode="suggest"))
    (taken,) = claimed(database, policy=Policy(mode="suggest"), yes="always: ada")
    assert isinstance(taken, Taken)
    assert rows.execute("SELECT approved_by FROM guard.healing").fetchone() == ("always: ada",)


def test_a_yes_to_one_decision_is_none_to_the_next(database: str, rows: Connection) -> None:
    policy = Policy(mode="suggest")
    decide(database, act(1, mode="suggest"))
    rows.execute("UPDATE guard.healing SET approved_by = 'ada'")
    assert isinstance(claimed(database, policy=policy)[0], Taken)
    rows.execute("UPDATE guard.healing SET state = 'waiting'")
    decide(database, act(1, 2, mode="suggest"))
    assert why(database, policy=policy) is Why.PROPOSED
    assert (acts(rows), spent(rows)) == ([("1", "dropped", "proposed")], {})
    rows.execute("UPDATE guard.healing SET state = 'waiting', approved_by = 'bob', due_at = clock_timestamp()")
    assert isinstance(claimed(database, policy=policy)[0], Taken)
    assert acts(rows) == [("1", "intent", None)]


# --- changed decisions


def test_what_was_begun_and_is_withdrawn_gives_back_what_it_took(database: str, rows: Connection) -> None:
    decide(database, act(1))
    claimed(database)
    rows.execute("UPDATE guard.healing SET state = 'waiting'")
    decide(database, withdrawn(1))
    assert why(database) is Why.WITHDRAWN
    assert (standing(rows, 1), acts(rows), spent(rows)) == (
        ("refused", "withdrawn"),
        [("1", "dropped", "withdrawn")],
        {},
    )
    decide(database, act(1, 3))
    assert isinstance(claimed(database)[0], Taken)


def test_what_was_asked_for_and_is_withdrawn_is_found_out_all_the_same(database: str, rows: Connection) -> None:
    decide(database, act(1))
    claimed(database)
    rows.execute("UPDATE guard.acts SET asked_at = clock_timestamp(), tries = 1")
    rows.execute("UPDATE guard.healing SET state = 'waiting'")
    decide(database, withdrawn(1))
    (taken,) = claimed(database)
    assert isinstance(taken, Taken)
    assert taken.acts[0].asked is not None


def test_a_new_decision_that_asks_for_the_same_is_no_second_act(database: str, rows: Connection) -> None:
    decide(database, act(1))
    settle(database, claimed(database)[0], ActState.DONE, Done(attempt=2))
    assert standing(rows, 1) == ("finished", "done")
    decide(database, act(1, 2))
    assert why(database) is Why.DONE
    assert acts(rows) == [("1", "done", None)]


def test_a_healer_that_died_leaves_its_case_to_another(database: str, rows: Connection) -> None:
    decide(database, act(1))
    claimed(database, lease_seconds=0.0)
    (again,) = claimed(database)
    assert isinstance(again, Taken)
    assert again.case.fence == 2
    assert spent(rows)["fleet"] == 1


def test_a_call_that_no_platform_knows_is_refused(database: str) -> None:
    decide(database, act(1)._replace(calls='[{"call": "teleport"}]'))
    assert why(database) is Why.NO_ACTION


def test_what_a_later_release_began_is_left_to_it(database: str, rows: Connection) -> None:
    decide(database, act(1))
    claimed(database, lease_seconds=0.0)
    rows.execute('UPDATE guard.acts SET call = \'{"call": "teleport"}\'')
    assert why(database) is Why.NO_ACTION
    assert (standing(rows, 1), acts(rows)) == (("waiting", "no_action"), [("1", "intent", None)])


# --- incidents


def open_incident(rows: Connection, dimension: str = "all", value: str | None = None) -> str:
    identity = uuid5_text("incident", dimension, str(value))
    rows.execute(
        "INSERT INTO guard.incidents (incident_id, revision, state, symptom, signature, dimension, value, share,"
        " usual_share, repositories, failures, late, repositories_now, expected, most_affected, message, began_at,"
        " last_at, minute, at, rulebook) VALUES (%s, 1, 'open', 's', 'connection-reset', %s, %s, 1, 0, 9, 9, 0, 9, 0,"
        " '[]', 'm', now(), now(), now(), now(), 'd')",
        [identity, dimension, value],
    )
    return identity


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
    database: str, rows: Connection, dimension: str, value: str | None, waits: bool
) -> None:
    incident = open_incident(rows, dimension, value)
    decide(database, act(1), act(2, signature="another"))
    got = claimed(database, 2)
    assert sum(isinstance(one, Taken) for one in got) == 2 - waits
    held = [one.why for one in got if isinstance(one, Ruled)]
    assert held == [Why.INCIDENT] * waits
    found = rows.execute("SELECT incident_id::text, due_at = 'infinity' FROM guard.healing WHERE reason = 'incident'")
    assert found.fetchall() == [(incident, True)] * waits


def test_a_probe_goes_on(database: str, rows: Connection) -> None:
    incident = open_incident(rows)
    decide(database, act(1))
    assert why(database) is Why.INCIDENT
    rows.execute("UPDATE guard.healing SET probe = true, due_at = clock_timestamp()")
    (taken,) = claimed(database)
    assert isinstance(taken, Taken)
    assert rows.execute("SELECT probe, incident_id::text FROM guard.acts").fetchone() == (True, incident)


def test_what_is_run_again_while_an_incident_only_seems_over_still_counts_for_it(
    database: str, rows: Connection
) -> None:
    incident = open_incident(rows)
    decide(database, act(1))
    why(database)
    rows.execute("UPDATE guard.holds SET state = 'over', ended_at = clock_timestamp()")
    decide(database, act(2))
    assert isinstance(claimed(database)[0], Taken)
    assert rows.execute("SELECT incident_id::text FROM guard.acts").fetchone() == (incident,)


def test_a_crowd_waits_before_the_fleet_says_so(database: str, rows: Connection) -> None:
    decide(database, *(act(number, 1, repository=f"org/{number}") for number in range(8)))
    got = claimed(database, 8, limits=ROOMY._replace(crowd_repositories=5))
    assert {one.why for one in got if isinstance(one, Ruled)} == {Why.INCIDENT}
    assert len(got) == sum(isinstance(one, Ruled) for one in got)
    assert rows.execute("SELECT kind, state FROM guard.holds").fetchall() == [("crowd", "held")]


def test_what_fails_in_the_wake_of_a_crowd_makes_no_other(database: str, rows: Connection) -> None:
    limits = ROOMY._replace(crowd_repositories=5)
    decide(database, *(act(number, 1, repository=f"org/{number}") for number in range(8)))
    claimed(database, 8, limits=limits)
    rows.execute("UPDATE guard.holds SET state = 'over', ended_at = clock_timestamp()")
    decide(database, *(act(number, 1, repository=f"org/{number}") for number in range(10, 18)))
    assert all(isinstance(one, Taken) for one in claimed(database, 8, limits=limits))
    assert rows.execute("SELECT count(DISTINCT incident_id) FROM guard.acts").fetchone() == (
        1,
    )  # its reruns still tell
    rows.execute("UPDATE guard.holds SET ended_at = clock_timestamp() - interval '31 min'")
    decide(database, *(act(number, 1, repository=f"org/{number}") for number in range(20, 28)))
    got = claimed(database, 8, limits=limits)
    assert {one.why for one in got if isinstance(one, Ruled)} == {Why.INCIDENT}


# --- the mode


def case(**changes: Any) -> Case:
    job = {"workflow": "CI", "job_name": "test", "signature": "dns", "category": "network", "failure_id": "f"}
    fields: dict[str, Any] = dict.fromkeys(Case._fields)
    fields |= {"mode": "act", "platform": "github", "instance": "hub", "repository": "acme/shop", "branch": "main"}
    return Case(**{**fields, "action": "rerun_failed", "calls": (rerun(1),), "jobs": (job,), **changes})


@pytest.mark.parametrize(
    ("decided", "rules", "now"),
    [
        ("act", {"mode": "act"}, "act"),
        ("act", {"mode": "suggest"}, "suggest"),
        ("act", {"mode": "observe"}, "observe"),
        ("suggest", {"mode": "act"}, "suggest"),
        ("observe", {"mode": "act"}, "observe"),
        ("act", {"mode": "act", "rule": [{"when": {"job": "test"}, "mode": "suggest"}]}, "suggest"),
        ("act", {"mode": "act", "rule": [{"when": {"branch": "main"}, "never": True}]}, "observe"),
        ("act", {"mode": "observe", "rule": [{"when": {"repository": "acme/*"}, "mode": "act"}]}, "act"),
    ],
)
def test_the_stricter_counts_of_what_was_decided_and_what_holds_now(
    decided: str, rules: dict[str, Any], now: str
) -> None:
    assert mode_now(case(mode=decided), policy_of(rules)) == now


def test_of_several_jobs_the_strictest_counts_whichever_comes_first() -> None:
    policy = policy_of({"mode": "act", "rule": [{"when": {"job": "deploy"}, "mode": "suggest"}]})
    jobs = tuple({"job_name": name, "failure_id": name} for name in ("deploy", "test"))
    assert mode_now(case(jobs=jobs), policy) == mode_now(case(jobs=jobs[::-1]), policy) == "suggest"
    never = policy_of({"mode": "act", "rule": [{"when": {"job": "deploy"}, "never": True}]})
    assert mode_now(case(jobs=jobs), never) == mode_now(case(jobs=jobs[::-1]), never) == "observe"


def test_a_case_without_known_jobs_has_the_mode_of_its_repository() -> None:
    assert mode_now(case(jobs=()), Policy(mode="suggest")) == "suggest"
