"""The ledger on a real PostgreSQL: queueing, taking, fencing, and acts of which there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from connectors.postgres import Connection, connect, connect_async
from connectors.postgres_ledger import Act, Case, Ledger, intents
from models.records.calls import ClearCaches, Done, Refusal, Refused, RerunJob, RunState
from models.records.event import Outcome
from models.records.ledger import ActState, Charge, Standing, Why
from tests.connectors.healing import act, acts, decide, rerun, spent, standing, withdrawn

FLEET = Charge("fleet", "", 0, 1, 2.0)
REPOSITORY = Charge("repository", "github.com\torg/repo", 0, 1, 2.0)
SEEN = RunState(outcome=Outcome.FAILED, attempt=1)


@pytest.fixture
def rows(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


@asynccontextmanager
async def ledger(database: str) -> AsyncIterator[Ledger]:
    async with await connect_async(database, application_name="a healer") as connection:
        yield Ledger(connection)


def with_ledgers(database: str, work: Callable[..., Awaitable[None]], count: int = 1) -> None:
    """Run `work` with so many ledgers, each with a connection of its own."""

    async def run(opened: list[Ledger]) -> None:
        if len(opened) == count:
            await work(*opened)
            return
        async with ledger(database) as one:
            await run([*opened, one])

    asyncio.run(run([]))


async def taken(one: Ledger, *, lease_seconds: float = 60.0, healer: str = "a") -> tuple[Case, list[Act]]:
    """Take the next case and intend what it asks for."""
    async with one.connection.transaction():
        case = await one.take()
        assert case is not None
        if not await one.acts(case.case_id):
            await intended(one, case)
        await one.taken(case, healer=healer, lease_seconds=lease_seconds)
    return case, await one.acts(case.case_id)


async def intended(one: Ledger, case: Case, *charges: Charge) -> bool:
    planned = [each._replace(charges=charges if i == 0 else ()) for i, each in enumerate(intents(case))]
    jobs = {each.target: [["f", "CI", "test", None]] for each in planned}
    return await one.intend(case, planned, jobs=jobs, origin="o", minutes=2.0, healer="a")


# --- the queue


def test_a_decision_to_act_is_queued_for_when_it_may_be_made(database: str, rows: Connection) -> None:
    later = int(time.time() * 1000) + 3_600_000
    decide(database, act(1), act(2, not_before_ms=later), act(3, mode="suggest"))
    found = rows.execute("SELECT mode, state, reason, due_at <= clock_timestamp() FROM guard.healing ORDER BY case_id")
    assert sorted(found.fetchall()) == sorted(
        [("act", "waiting", "new", True), ("act", "waiting", "new", False), ("suggest", "waiting", "new", True)]
    )


def test_what_is_observed_or_left_alone_is_not_queued(database: str, rows: Connection) -> None:
    decide(database, act(1, mode="observe"), withdrawn(2, 1))
    assert rows.execute("SELECT count(*) FROM guard.healing").fetchone() == (0,)


def test_of_two_revisions_in_one_transaction_the_later_one_counts(database: str, rows: Connection) -> None:
    decide(database, act(1), withdrawn(1), withdrawn(2, 1), act(2, 2))
    assert standing(rows, 1) == ("refused", "withdrawn")
    assert standing(rows, 2) == ("waiting", "new")


def test_a_new_decision_takes_the_place_of_the_one_before(database: str, rows: Connection) -> None:
    decide(database, act(1, mode="suggest"))
    rows.execute("UPDATE guard.healing SET state = 'proposed', approved_by = 'ada', expires_at = clock_timestamp()")
    decide(database, act(1, 2))
    found = rows.execute("SELECT revision, mode, state, approved_by, expires_at FROM guard.healing").fetchone()
    assert found == (2, "act", "waiting", None, None)


def test_an_old_decision_changes_nothing(database: str, rows: Connection) -> None:
    decide(database, act(1, 3))
    decide(database, withdrawn(1, 2), act(1, 1))
    assert rows.execute("SELECT revision, state FROM guard.healing").fetchone() == (3, "waiting")


def test_a_case_that_is_taken_stays_so_whatever_is_decided(database: str, rows: Connection) -> None:
    decide(database, act(1))
    rows.execute("UPDATE guard.healing SET state = 'taken', due_at = clock_timestamp() + interval '1 minute'")
    decide(database, act(1, 2))
    decide(database, withdrawn(1, 3))
    found = rows.execute("SELECT state, revision, due_at > clock_timestamp() FROM guard.healing").fetchone()
    assert found == ("taken", 3, True)


def test_what_was_begun_and_is_withdrawn_is_left_to_a_healer(database: str, rows: Connection) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, _ = await taken(one)
        await one.put_off(case, Why.PLATFORM_AWAY, case.now + 3600)
        await asyncio.to_thread(decide, database, withdrawn(1))
        again = await one.take()
        assert again is not None
        assert again.verdict == "skip"

    with_ledgers(database, work)
    assert standing(rows, 1)[0] == "waiting"


def test_new_decisions_are_told_of(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as listening:
        listening.execute("LISTEN guard_healing")
        decide(database, withdrawn(1, 1))
        decide(database, act(2))
        assert len(list(listening.notifies(timeout=5, stop_after=1))) == 1


# --- taking


def test_the_case_that_has_been_due_for_longest_is_taken_first_and_only_once(database: str, rows: Connection) -> None:
    decide(database, act(1), act(2), act(3))
    for number, seconds in ((1, 10), (2, 30), (3, -60)):
        rows.execute(
            "UPDATE guard.healing SET due_at = clock_timestamp() - %s * interval '1 s' WHERE case_id = %s",
            [seconds, act(number).case_id],
        )

    async def work(first: Ledger, second: Ledger) -> None:
        async with first.connection.transaction(), second.connection.transaction():
            found = [await first.take(), await second.take()]
            assert [case.pipeline_id for case in found if case is not None] == ["2", "1"]

    with_ledgers(database, work, 2)


def test_a_case_says_all_that_is_known_of_its_decision(database: str) -> None:
    later = int(time.time() * 1000)
    decide(database, act(1, not_before_ms=later))

    async def work(one: Ledger) -> None:
        case = await one.take()
        assert case is not None
        assert (case.platform, case.pipeline_id, case.calls) == ("github", "1", (rerun(1),))
        assert case.minutes == 2.0
        assert case.not_before == pytest.approx(later / 1000)
        assert case.jobs[0]["job_name"] == "test 1"

    with_ledgers(database, work)


def test_a_call_of_a_later_release_makes_a_case_without_calls(database: str) -> None:
    decide(database, act(1)._replace(calls='[{"call": "teleport"}]'))

    async def work(one: Ledger) -> None:
        case = await one.take()
        assert case is not None
        assert case.calls == ()

    with_ledgers(database, work)


def test_a_case_whose_decision_was_pruned_holds_up_no_other(database: str, rows: Connection) -> None:
    decide(database, act(1))
    rows.execute("DELETE FROM guard.decisions")
    decide(database, act(2))

    async def work(one: Ledger) -> None:
        case = await one.take()
        assert case is not None
        assert case.pipeline_id == "2"

    with_ledgers(database, work)


# --- fence and lease


def test_nothing_that_a_healer_says_is_heard_once_another_has_its_case(database: str, rows: Connection) -> None:
    decide(database, act(1))

    async def work(dead: Ledger, alive: Ledger) -> None:
        case, [one] = await taken(dead, lease_seconds=0.0)
        again, [other] = await taken(alive, healer="b")
        assert again.fence == case.fence + 1
        assert await dead.asking(case, one, SEEN, lease_seconds=60) is None
        assert await dead.settle(case, one, ActState.DONE, None, Done(), healer="a") is None
        assert not await dead.renew(case, lease_seconds=60)
        await dead.not_asked(case, one, None)
        await dead.put_off(case, Why.STOPPED, None)
        await dead.let_go(case)
        await dead.end(case, Standing.REFUSED, Why.STALE)
        assert await alive.asking(again, other, SEEN, lease_seconds=60) is not None
        await dead.not_asked(case, one, None)
        assert (await alive.acts(case.case_id))[0].asked is not None

    with_ledgers(database, work, 2)
    assert standing(rows, 1)[0] == "taken"


def test_who_has_let_the_lease_run_out_may_ask_for_nothing(database: str) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, [each] = await taken(one, lease_seconds=0.0)
        assert await one.asking(case, each, SEEN, lease_seconds=60) is None

    with_ledgers(database, work)


def test_asking_is_a_lease_anew(database: str, rows: Connection) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, [each] = await taken(one, lease_seconds=5.0)
        assert await one.asking(case, each, SEEN, lease_seconds=600) is not None

    with_ledgers(database, work)
    assert rows.execute("SELECT due_at > clock_timestamp() + interval '5 min' FROM guard.healing").fetchone() == (True,)


@pytest.mark.parametrize("later", [act(1, 2), withdrawn(1, 2)], ids=["changed", "withdrawn"])
def test_a_decision_that_changed_meanwhile_is_not_carried_out(database: str, rows: Connection, later: Any) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, [each] = await taken(one)
        await asyncio.to_thread(decide, database, later)
        assert await one.asking(case, each, SEEN, lease_seconds=60) is None
        await one.let_go(case)
        again = await one.take()
        assert again is not None
        assert again.revision == 2

    with_ledgers(database, work)


def test_an_act_that_is_under_way_is_renewed_by_its_healer_alone(database: str) -> None:
    decide(database, act(1))

    async def work(one: Ledger, other: Ledger) -> None:
        case, _ = await taken(one)
        assert await one.renew(case, lease_seconds=60)
        assert await other.take() is None

    with_ledgers(database, work, 2)


# --- acts


def test_there_is_one_act_of_each_kind_for_a_target(database: str, rows: Connection) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, _ = await taken(one)
        assert not await intended(one, case)

    with_ledgers(database, work)
    assert acts(rows) == [("1", "intent", None)]


def test_an_act_that_was_dropped_can_be_intended_anew(database: str, rows: Connection) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, [each] = await taken(one)
        await one.settle(case, each, ActState.DROPPED, Why.WITHDRAWN, None, healer="a")
        assert await intended(one, case)
        (anew,) = await one.acts(case.case_id)
        assert (anew.state, anew.tries, anew.asked) == (ActState.INTENT, 0, None)
        assert await one.settle(case, anew, ActState.DONE, None, Done(attempt=2), healer="a") is not None
        assert not await intended(one, case)

    with_ledgers(database, work)
    assert acts(rows) == [("1", "done", None)]


def test_two_targets_are_two_acts(database: str) -> None:
    about: dict[str, Any] = {"platform": "gitlab", "instance": "lab", "repository": "org/repo", "pipeline_id": "1"}
    calls = [RerunJob(**about, job_id=number) for number in ("7", "8")]
    decide(database, act(1, 1, *calls, platform="gitlab", instance="lab"))

    async def work(one: Ledger) -> None:
        _, found = await taken(one)
        assert [(each.target, each.action) for each in found] in (
            [("7", "rerun_job"), ("8", "rerun_job")],
            [("8", "rerun_job"), ("7", "rerun_job")],
        )

    with_ledgers(database, work)


def test_what_the_run_looked_like_is_kept_while_something_may_still_come(database: str) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, [each] = await taken(one)
        await one.asking(case, each, SEEN, lease_seconds=60)
        (asked,) = await one.acts(case.case_id)
        assert (asked.before, asked.tries) == (SEEN, 1)
        assert asked.asked is not None
        await one.not_asked(case, each, SEEN)
        (kept,) = await one.acts(case.case_id)
        assert (kept.before, kept.tries, kept.asked) == (SEEN, 1, None)
        await one.not_asked(case, each, None)
        assert (await one.acts(case.case_id))[0].before is None

    with_ledgers(database, work)


def test_every_act_that_is_settled_is_audited_and_told(database: str, rows: Connection) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        case, [each] = await taken(one)
        assert await one.untold() == []
        await one.asking(case, each, SEEN, lease_seconds=60)
        await one.settle(case, each, ActState.REFUSED, "login", Refused(Refusal.LOGIN, "no"), healer="a")
        (row,) = await one.untold()
        assert (str(row["act_id"]), row["state"], row["workflow_id"]) == (each.act_id, "refused", None)
        await one.told([(row["act_id"], "done")])  # of another state: it changed since
        assert len(await one.untold()) == 1
        await one.told([(row["act_id"], row["state"])])
        assert await one.untold() == []

    with_ledgers(database, work)
    assert rows.execute("SELECT actor, what FROM guard.audit").fetchall() == [("healer a", "rerun_failed")]


# --- budgets


def _charge(charges: list[Charge], most: int) -> list[tuple[Charge, tuple[int, float]]]:
    return [(charge, (most, 1e9)) for charge in charges]


def test_a_budget_is_taken_up_to_its_last_act_and_minute(database: str, rows: Connection) -> None:
    async def work(one: Ledger) -> None:
        for _ in range(3):
            assert await one.charge(_charge([FLEET], 3)) is None
        assert await one.charge(_charge([FLEET], 3)) == FLEET
        assert await one.charge([(REPOSITORY, (9, 1.9))]) == REPOSITORY
        assert await one.charge([(REPOSITORY, (9, 2.0))]) is None
        assert await one.charge([(REPOSITORY, (9, 3.9))]) == REPOSITORY

    with_ledgers(database, work)
    assert spent(rows) == {"fleet": 3, "repository": 1}


def test_no_race_overdraws_a_budget(database: str, rows: Connection) -> None:
    """Twenty healers at once on a budget of ten."""

    async def work(*all_of_them: Ledger) -> None:
        async def one_by_one(one: Ledger) -> int:
            got = 0
            for _ in range(5):
                async with one.connection.transaction():
                    got += await one.charge(_charge([REPOSITORY, FLEET], 10)) is None
            return got

        assert sum(await asyncio.gather(*map(one_by_one, all_of_them))) == 10

    with_ledgers(database, work, 20)
    assert spent(rows)["fleet"] == 10


@pytest.mark.parametrize("state", [ActState.DROPPED, ActState.REFUSED])
def test_what_nothing_came_of_is_given_back(database: str, rows: Connection, state: ActState) -> None:
    decide(database, act(1))

    async def work(one: Ledger) -> None:
        async with one.connection.transaction():
            case = await one.take()
            assert case is not None
            await one.charge(_charge([REPOSITORY, FLEET], 10))
            await intended(one, case, REPOSITORY, FLEET)
            await one.taken(case, healer="a", lease_seconds=60)
        (each,) = await one.acts(case.case_id)
        await one.settle(case, each, state, None, None, healer="a")
        await one.settle(case, each, state, None, None, healer="a")

    with_ledgers(database, work)
    assert spent(rows) == {}


@pytest.mark.parametrize("states", [("dropped", "done"), ("done", "dropped"), ("refused", "unknown")])
def test_nothing_is_given_back_while_anything_came_of_it(
    database: str, rows: Connection, states: tuple[str, str]
) -> None:
    about: dict[str, Any] = {"platform": "github", "instance": "github.com", "repository": "org/repo"}
    decide(database, act(1, 1, ClearCaches(**about, pipeline_id="1"), rerun(1)))

    async def work(one: Ledger) -> None:
        async with one.connection.transaction():
            case = await one.take()
            assert case is not None
            await one.charge(_charge([REPOSITORY, FLEET], 10))
            await intended(one, case, REPOSITORY, FLEET)
            await one.taken(case, healer="a", lease_seconds=60)
        for each, state in zip(await one.acts(case.case_id), states, strict=True):
            await one.settle(case, each, ActState(state), None, None, healer="a")

    with_ledgers(database, work)
    assert spent(rows) == {"repository": 1, "fleet": 1}


# --- the end


def test_a_case_that_was_decided_on_anew_meanwhile_is_looked_at_again(database: str, rows: Connection) -> None:
    later = int(time.time() * 1000) + 3_600_000
    decide(database, act(1), act(2), act(3))

    async def work(one: Ledger) -> None:
        cases = [(await taken(one))[0] for _ in range(3)]
        await asyncio.to_thread(decide, database, act(2, 2, not_before_ms=later), withdrawn(3))
        for case in cases:
            await one.end(case, Standing.FINISHED, Why.DONE)

    with_ledgers(database, work)
    assert [standing(rows, number) for number in (1, 2, 3)] == [
        ("finished", "done"),
        ("waiting", "new"),
        ("finished", "done"),
    ]
    query = "SELECT due_at > clock_timestamp() FROM guard.healing WHERE state = 'waiting'"
    assert rows.execute(query).fetchone() == (True,)  # not before its time


def test_the_clock_is_set_for_the_next_case(database: str, rows: Connection) -> None:
    async def work(one: Ledger) -> None:
        assert await one.due_in() == 86_400.0
        await asyncio.to_thread(decide, database, act(1))
        assert await one.due_in() == 0.0
        await asyncio.to_thread(rows.execute, "UPDATE guard.healing SET due_at = clock_timestamp() + interval '9 s'")
        assert 8 < await one.due_in() <= 9
        await asyncio.to_thread(rows.execute, "UPDATE guard.healing SET due_at = 'infinity'")
        assert await one.due_in() == 86_400.0
        assert await one.waiting() == {"waiting": 1}

    with_ledgers(database, work)
