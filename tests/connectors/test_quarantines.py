"""Quarantines in PostgreSQL: begun once, ended by the shard's decision or by a person, and seen by people."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from psycopg.rows import dict_row

from connectors.postgres import Connection, connect, connect_async, prune
from connectors.postgres_quarantines import begin, find, lasting, released
from connectors.postgres_rows import STATEMENT, Written, texts
from models.records.calls import Quarantine
from models.records.event import uuid5_text
from models.records.outputs import DecisionRow, ShardOutput
from tests.connectors.outputs import NOW_MS, decision, progress

CALL = Quarantine(
    platform="github",
    instance="github.com",
    repository="org/repo",
    pipeline_id="1",
    workflow="CI",
    job_name="test",
    test="tests/test_a.py::test_b",
    owner="team-a",
    hours=24,
    why="FlakyTest: it flips",
)
PROPOSED = decision(
    1,
    0,
    verdict="act",
    reason="job_flaky",
    mode="suggest",
    action="quarantine",
    jobs=[],
    because_of=uuid5_text("finding", "1"),
    explanation='{"jobs": [{"workflow": "CI", "job_name": "test"}]}',
)
ID = UUID(PROPOSED.decision_id)


def _write(connection: Connection, *rows: DecisionRow) -> None:
    for row in rows:
        said = ShardOutput([], [], [row], [], [])
        for parameters in texts([Written(row.shard, said, progress(row.position))]):
            connection.execute(STATEMENT, parameters)


def _begin(database: str, *, times: int = 1) -> None:
    async def work() -> None:
        async with await connect_async(database, application_name="test") as connection:
            for _ in range(times):
                await begin(connection, CALL, decision_id=str(ID), case_id=PROPOSED.case_id, begun_by="ann")

    asyncio.run(work())


def test_a_quarantine_that_is_begun_twice_is_there_once(database: str) -> None:
    _begin(database, times=2)
    with connect(database) as connection:
        (row,) = lasting(connection)
        assert (row["job_name"], row["test"], row["owner"], row["begun_by"]) == (
            "test",
            CALL.test,
            "team-a",
            "ann",
        )
        assert (row["expires_at"] - row["begun_at"]).total_seconds() == pytest.approx(24 * 3600, abs=1)


@pytest.mark.parametrize("why", ["quarantine_expired", "quarantine_passed", "quarantine_released"])
def test_the_decision_that_says_that_it_is_over_closes_it(database: str, why: str) -> None:
    _begin(database)
    with connect(database) as connection:
        _write(connection, PROPOSED, decision(1, 1, verdict="skip", reason="quarantined"))
        assert len(lasting(connection)) == 1
        _write(connection, decision(1, 2, verdict="skip", reason=why))
        assert lasting(connection) == []
        (row,) = lasting(connection, over=True)
        assert (row["why_released"], row["released_by"]) == (why, None)
        assert row["released_at"].timestamp() * 1000 == NOW_MS + 300


def test_a_person_ends_it_once_and_the_audit_says_who(database: str) -> None:
    _begin(database)
    with connect(database) as connection:
        found = find(connection, ID)
        assert found is not None
        assert (found.case_id, found.job_name) == (UUID(PROPOSED.case_id), "test")
        released(connection, ID, by="ann")
        released(connection, ID, by="bob")
        assert find(connection, ID) is None
        (row,) = lasting(connection, over=True)
        assert (row["why_released"], row["released_by"]) == ("quarantine_released", "ann")
        audit = connection.execute("SELECT actor, what, subject FROM guard.audit").fetchall()
        assert audit == [("ann", "release", str(ID))]


def test_what_nobody_ended_is_not_shown_when_its_time_is_over(database: str) -> None:
    _begin(database)
    with connect(database) as connection:
        connection.execute("UPDATE guard.quarantines SET expires_at = now() - interval '1 second'")
        assert lasting(connection) == []
        assert len(lasting(connection, over=True)) == 1


def test_old_ones_are_forgotten(database: str) -> None:
    _begin(database)
    with connect(database) as connection:
        (row,) = connection.execute("SELECT written_at FROM guard.quarantines").fetchall()
    assert prune(database, row[0], tables=["quarantines"]) == {"quarantines": 0}
    with connect(database) as connection:
        connection.execute("UPDATE guard.quarantines SET written_at = written_at - interval '1 second'")
    assert prune(database, row[0], tables=["quarantines"]) == {"quarantines": 1}


def test_a_proposal_about_a_finding_names_its_job(database: str) -> None:
    with connect(database) as connection:
        _write(connection, PROPOSED)
        connection.execute("UPDATE guard.healing SET state = 'proposed'")
        with connection.cursor(row_factory=dict_row) as cursor:
            (row,) = cursor.execute("SELECT * FROM guard.proposals").fetchall()
        assert (row["workflow"], row["job_name"], row["action"], row["more_jobs"]) == ("CI", "test", "quarantine", 0)


def test_what_is_about_a_finding_is_no_run_attempt_that_was_left_alone(database: str) -> None:
    with connect(database) as connection:
        _write(connection, PROPOSED, decision(2, 0, verdict="skip", reason="hard_stop"))
        rows = connection.execute("SELECT reason, cases FROM guard.why_not_healed").fetchall()
        assert rows == [("hard_stop", 1)]
        assert connection.execute("SELECT count(*) FROM guard.current_decisions").fetchone() == (2,)
