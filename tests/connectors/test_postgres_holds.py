"""What waits for an incident to end, and for people, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from connectors import postgres_holds
from connectors.postgres import Connection, connect, connect_async
from connectors.postgres_holds import Tended
from connectors.postgres_ledger import Incident, Ledger
from models.records.event import uuid5_text
from models.records.ledger import HoldRules
from tests.connectors.healing import act, decide, standing

RULES = HoldRules(probe_seconds=60, passes=2, failures=3, drain_seconds=100)
INCIDENT = uuid5_text("incident", "1")
SIGNATURE = "connection-reset"


@pytest.fixture
def rows(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


def tend(database: str) -> Tended:
    async def run() -> Tended:
        async with await connect_async(database, application_name="a healer") as connection:
            return await postgres_holds.tend(connection, RULES)

    return asyncio.run(run())


def opened(rows: Connection, state: str = "open", revision: int = 1) -> None:
    """The fleet says that the incident is going on, or is closed."""
    columns = {
        "incident_id": f"'{INCIDENT}'", "revision": revision, "state": f"'{state}'", "symptom": f"'{SIGNATURE}'",
        "signature": f"'{SIGNATURE}'", "dimension": "'all'", "share": 1, "usual_share": 0, "repositories": 9,
        "failures": 9, "late": 0, "repositories_now": 9, "expected": 0, "most_affected": "'[]'", "message": "'m'",
        "began_at": "now()", "last_at": "now()", "minute": "now()", "at": "now()", "rulebook": "'d'",
    }  # fmt: skip
    rows.execute(f"INSERT INTO guard.incidents ({', '.join(columns)}) VALUES ({', '.join(map(str, columns.values()))})")


def held(database: str, rows: Connection, *numbers: int, kind: str = "incident") -> str:
    """Cases that wait in the incident, the last one the newest; the hold's id."""
    decide(database, *(act(number) for number in numbers))

    async def hold() -> str:
        async with await connect_async(database, application_name="a healer") as connection:
            incident = Incident(INCIDENT, SIGNATURE, "all", None, over=False, kind=kind)
            return await Ledger(connection).hold(incident, probe_seconds=RULES.probe_seconds)

    hold_id = asyncio.run(hold())
    for number in numbers:
        rows.execute(
            "UPDATE guard.healing SET reason = 'incident', due_at = 'infinity', incident_id = %s,"
            " queued_at = clock_timestamp() + %s * interval '1 ms' WHERE case_id = %s",
            [hold_id, number, act(number).case_id],
        )
    return hold_id


def came(rows: Connection, *outcomes: str, probe: bool = True) -> None:
    """Reruns in the name of the incident, and what came of them, the oldest first."""
    for outcome in outcomes:
        (number,) = rows.execute("SELECT count(*)::int FROM guard.acts").fetchone() or (0,)
        identity = uuid5_text("act", str(number))
        rows.execute(
            "INSERT INTO guard.acts (act_id, case_id, decision_id, platform, instance, repository, pipeline_id,"
            " workflow_id, attempt, target, action, call, state, probe, incident_id, jobs, origin, minutes, budgets,"
            " healer, fence, asked_at) VALUES (%s, %s, %s, 'github', 'i', 'r', %s, '', 1, 'run', 'rerun', '{}', 'done',"
            " %s, %s, '[]', 'o', 0, '[]', 'a', 1, clock_timestamp())",
            [identity, identity, identity, str(number), probe, INCIDENT],
        )
        rows.execute(
            "INSERT INTO guard.act_outcomes (act_id, revision, shard, position, case_id, platform, instance,"
            " repository, action, attempt, outcome, masked, asked_at, ended_at, ends, probe, passes, fails, at,"
            " rulebook) VALUES (%s, 0, 0, 0, %s, 'github', 'i', 'r', 'rerun', 1, %s, false, now(),"
            " clock_timestamp(), '[]', %s, 0, 0, now(), 'd')",
            [identity, identity, outcome, probe],
        )


def probes_due(rows: Connection) -> None:
    rows.execute("UPDATE guard.holds SET next_probe_at = clock_timestamp()")


def test_of_those_that_wait_the_newest_is_tried_and_one_at_a_time(database: str, rows: Connection) -> None:
    opened(rows)
    held(database, rows, 1, 2, 3)
    assert tend(database).probes == []
    probes_due(rows)
    assert tend(database).probes == [(act(3).case_id, INCIDENT)]
    assert tend(database).probes == []
    found = rows.execute("SELECT case_id::text FROM guard.healing WHERE probe AND due_at <= clock_timestamp()")
    assert found.fetchall() == [(act(3).case_id,)]


def test_healers_at_once_choose_one_probe(database: str, rows: Connection) -> None:
    opened(rows)
    held(database, rows, 1, 2, 3)
    probes_due(rows)

    async def all_at_once() -> list[Tended]:
        async def one() -> Tended:
            async with await connect_async(database, application_name="a healer") as connection:
                return await postgres_holds.tend(connection, RULES)

        return await asyncio.gather(*(one() for _ in range(8)))

    assert sum(len(tended.probes) for tended in asyncio.run(all_at_once())) == 1


def test_probes_that_pass_let_the_others_go_over_a_while(database: str, rows: Connection) -> None:
    opened(rows)
    held(database, rows, *range(1, 40))
    came(rows, "failed_same", "passed", "overtaken", "unseen")
    assert tend(database).released == []
    came(rows, "passed")
    assert tend(database).released == [(INCIDENT, "probes_passed", 39)]
    assert tend(database).released == []
    found = rows.execute(
        "SELECT bool_and(reason = 'released' AND due_at <= clock_timestamp() + interval '100 s'),"
        " max(due_at) - min(due_at) > interval '40 s' FROM guard.healing"
    ).fetchone()
    assert found == (True, True)


def test_an_incident_that_the_fleet_closes_lets_go_of_what_waited(database: str, rows: Connection) -> None:
    opened(rows)
    held(database, rows, 1, 2)
    opened(rows, "closed", 2)
    assert tend(database).released == [(INCIDENT, "incident_closed", 2)]
    assert standing(rows, 1) == ("waiting", "released")


def test_reruns_that_nearly_all_fail_after_the_end_mean_that_it_is_none(database: str, rows: Connection) -> None:
    opened(rows)
    held(database, rows, 1)
    came(rows, "passed", "passed")
    tend(database)
    came(rows, "failed_same", "passed", "failed_same", probe=False)
    assert tend(database).held_again == []
    came(rows, *["failed_same"] * 5, probe=False)
    assert tend(database).held_again == [INCIDENT]
    assert rows.execute("SELECT state, ended_at FROM guard.holds").fetchone() == ("held", None)
    assert tend(database).released == []  # what passed before does not count any more


def test_a_crowd_is_over_when_probes_pass_or_it_has_lasted_too_long(database: str, rows: Connection) -> None:
    held(database, rows, 1, kind="crowd")
    assert tend(database).released == []
    rows.execute("UPDATE guard.holds SET began_at = clock_timestamp() - interval '5 hours'")
    assert tend(database).released == [(INCIDENT, "too_long", 1)]


def test_a_crowd_that_only_seemed_over_is_held_again_unless_another_is(database: str, rows: Connection) -> None:
    held(database, rows, 1, kind="crowd")
    came(rows, "passed", "passed")
    tend(database)
    came(rows, "failed_same", "failed_same", "failed_same", probe=False)
    rows.execute(
        "INSERT INTO guard.holds (incident_id, signature, kind, state, next_probe_at)"
        " VALUES (gen_random_uuid(), %s, 'crowd', 'held', 'infinity')",
        [SIGNATURE],
    )
    assert tend(database).held_again == []
    rows.execute("DELETE FROM guard.holds WHERE incident_id <> %s", [INCIDENT])
    assert tend(database).held_again == [INCIDENT]


def test_a_cause_has_one_crowd_whoever_finds_it(database: str, rows: Connection) -> None:
    async def found() -> set[str]:
        async def one(number: int) -> str:
            async with await connect_async(database, application_name="a healer") as connection:
                incident = Incident(uuid5_text("crowd", str(number)), SIGNATURE, "all", None, over=False, kind="crowd")
                return await Ledger(connection).hold(incident, probe_seconds=60)

        return set(await asyncio.gather(*map(one, range(8))))

    assert len(asyncio.run(found())) == 1


def test_what_waits_for_a_hold_that_nobody_has_is_let_go(database: str, rows: Connection) -> None:
    held(database, rows, 1)
    rows.execute("DELETE FROM guard.holds")
    tend(database)
    assert standing(rows, 1) == ("waiting", "incident")  # it may only just have begun
    rows.execute("UPDATE guard.healing SET changed_at = clock_timestamp() - interval '11 s'")
    tend(database)
    assert standing(rows, 1) == ("waiting", "released")


def test_proposals_expire(database: str, rows: Connection) -> None:
    decide(database, act(1, mode="suggest"), act(2, mode="suggest"))
    rows.execute("UPDATE guard.healing SET state = 'proposed', expires_at = clock_timestamp() + interval '1 hour'")
    past = "UPDATE guard.healing SET expires_at = clock_timestamp() WHERE case_id = %s"
    rows.execute(past, [act(1).case_id])
    assert tend(database).expired == [(act(1).case_id, act(1).decision_id)]
    assert [standing(rows, number)[0] for number in (1, 2)] == ["refused", "proposed"]
