"""What people say to proposals: heard once, told who was faster, and for good only where that is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.rows import dict_row

from connectors.postgres import Connection, connect
from connectors.postgres_proposals import (
    Always,
    Answered,
    Outcome,
    always_by,
    approve,
    proposals,
    reject,
    revoke,
    standing,
)
from models.records.event import uuid5_text
from tests.connectors.outputs import NOW_MS
from tests.connectors.proposed import propose

VIA = {"via": "test"}


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


def healing(connection: Connection, decision_id: UUID) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute("SELECT * FROM guard.healing WHERE decision_id = %s", [decision_id]).fetchone()
    assert row is not None
    return row


def audit(connection: Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT actor, what, subject FROM guard.audit ORDER BY audit_id").fetchall()


def test_what_is_proposed_is_listed_while_it_can_be_answered(connection: Connection) -> None:
    late = propose(connection, 1, expires="2 hours", signature="dns_failure", score=0.9, action="rerun_failed")
    soon = propose(connection, 2)
    propose(connection, 3, expires="-1 second")
    done = propose(connection, 4)
    approve(connection, done, "ann", "", VIA)
    found = proposals(connection)
    assert [each["decision_id"] for each in found] == [soon, late]
    names = ("repository", "job_name", "more_jobs", "action", "signature", "score", "url")
    assert [found[1][name] for name in names] == [
        *("org/repo", "test (3.11)", 0, "rerun_failed", "dns_failure", 0.9, "https://ci.example/1")
    ]
    assert found[0]["proposed_at"] <= datetime.now(UTC) < found[0]["expires_at"]


@pytest.mark.parametrize("about", ["decision", "case"])
def test_yes_puts_the_case_back_into_the_queue_and_wakes_healers(
    connection: Connection, database: str, about: str
) -> None:
    decision_id = propose(connection, 1)
    case_id = UUID(uuid5_text("case", "1"))
    with connect(database) as healer:
        healer.execute("LISTEN guard_healing")
        said = approve(connection, decision_id if about == "decision" else case_id, "ann", "it is the registry", VIA)
        assert said == Answered(Outcome.DONE, f"approved: decision {decision_id}")
        assert len(list(healer.notifies(timeout=5, stop_after=1))) == 1
    row = healing(connection, decision_id)
    assert (row["state"], row["reason"], row["approved_by"], row["expires_at"]) == ("waiting", "new", "ann", None)
    assert abs(row["due_at"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert audit(connection) == [("ann", "approve", str(decision_id))]


def test_no_is_the_end_of_it(connection: Connection) -> None:
    decision_id = propose(connection, 1)
    assert reject(connection, decision_id, "ann", "it is a bug", VIA).outcome is Outcome.DONE
    row = healing(connection, decision_id)
    assert (row["state"], row["reason"], row["approved_by"]) == ("refused", "rejected", None)
    assert audit(connection) == [("ann", "reject", str(decision_id))]
    said = approve(connection, decision_id, "ben", "", VIA)
    assert (said.outcome, said.by) == (Outcome.ANSWERED, "ann")


def test_what_cannot_be_answered_says_why_and_leaves_no_row_of_the_audit(connection: Connection) -> None:
    expired = propose(connection, 1, expires="-1 second")
    swept = propose(connection, 2)
    connection.execute("UPDATE guard.healing SET state = 'refused', reason = 'expired' WHERE decision_id = %s", [swept])
    replaced = propose(connection, 3)
    propose(connection, 3, revision=2)
    waits = propose(connection, 4)
    connection.execute("UPDATE guard.healing SET state = 'waiting', reason = 'new' WHERE decision_id = %s", [waits])
    unknown = uuid4()
    expected = {
        expired: Outcome.EXPIRED,
        swept: Outcome.EXPIRED,
        replaced: Outcome.REPLACED,
        waits: Outcome.NOT_PROPOSED,
        unknown: Outcome.NOT_FOUND,
    }
    for about, outcome in expected.items():
        for said in (approve(connection, about, "ann", "", VIA), reject(connection, about, "ann", "x", VIA)):
            assert (said.outcome, str(about) in said.said) == (outcome, True)
    assert audit(connection) == []


def test_of_two_at_once_one_is_heard_and_the_other_is_told_who_was_faster(database: str) -> None:
    """Twenty proposals, each answered by ten people at the same time, with yes and no."""
    with connect(database) as connection:
        asked = [propose(connection, number) for number in range(20)]

    def answer(number: int) -> list[Answered]:
        with connect(database) as connection:
            by = f"person {number}"
            if number % 2:
                return [approve(connection, decision_id, by, "", VIA) for decision_id in asked]
            return [reject(connection, decision_id, by, "x", VIA) for decision_id in asked]

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(answer, range(10)))
    with connect(database) as connection:
        for index, decision_id in enumerate(asked):
            said = [answers[number][index] for number in range(10)]
            (faster,) = (number for number in range(10) if said[number].outcome is Outcome.DONE)
            rest = [each for each in said if each.outcome is not Outcome.DONE]
            assert {(each.outcome, each.by) for each in rest} == {(Outcome.ANSWERED, f"person {faster}")}
            assert healing(connection, decision_id)["state"] == ("waiting" if faster % 2 else "refused")
        assert len(audit(connection)) == 20


def test_a_decision_that_came_meanwhile_is_not_approved_by_the_id_of_the_one_before(connection: Connection) -> None:
    first = propose(connection, 1)
    second = propose(connection, 1, revision=2, occurred_ms=NOW_MS + 1)
    assert approve(connection, first, "ann", "", VIA).outcome is Outcome.REPLACED
    assert healing(connection, second)["state"] == "proposed"
    assert approve(connection, second, "ann", "", VIA).outcome is Outcome.DONE


# --- for good


def test_yes_for_good_covers_that_signature_in_that_repository_until_it_is_revoked(connection: Connection) -> None:
    decision_id = propose(connection, 1, signature="dns_failure")
    assert always_by(connection, "dns_failure", "org/repo") is None
    assert approve(connection, decision_id, "ann", "as ever", VIA, Always()).outcome is Outcome.DONE
    assert always_by(connection, "dns_failure", "org/repo") == "ann"
    assert always_by(connection, "dns_failure", "org/repo", fork=True) is None
    assert always_by(connection, "dns_failure", "org/other") is None
    assert always_by(connection, "disk_full", "org/repo") is None
    (row,) = standing(connection)
    assert (row["signature"], row["repository"], row["said_by"], row["why"], row["until"]) == (
        *("dns_failure", "org/repo", "ann", "as ever"),
        None,
    )
    assert revoke(connection, row["always_id"], "ben", "no more", VIA)
    assert not revoke(connection, row["always_id"], "ben", "no more", VIA)
    assert always_by(connection, "dns_failure", "org/repo") is None
    assert standing(connection) == []
    assert audit(connection) == [
        ("ann", "approve", str(decision_id)),
        ("ann", "always", f"always {row['always_id']}"),
        ("ben", "revoke", f"always {row['always_id']}"),
    ]


def test_yes_for_good_may_end_by_itself_and_hold_everywhere(connection: Connection) -> None:
    decision_id = propose(connection, 1, signature="dns_failure")
    approve(connection, decision_id, "ann", "", VIA, Always(timedelta(hours=1), everywhere=True))
    assert always_by(connection, "dns_failure", "any/where") == "ann"
    connection.execute("UPDATE guard.always SET until = clock_timestamp()")
    assert always_by(connection, "dns_failure", "any/where") is None


@pytest.mark.parametrize(
    "changes", [{"signature": None}, {"signature": "dns_failure", "reason": "fork_needs_approval"}]
)
def test_forks_and_what_has_no_cause_are_never_approved_for_good(
    connection: Connection, changes: dict[str, Any]
) -> None:
    decision_id = propose(connection, 1, **changes)
    assert approve(connection, decision_id, "ann", "", VIA, Always()).outcome is Outcome.NEVER_ALWAYS
    assert healing(connection, decision_id)["state"] == "proposed"
    assert (standing(connection), audit(connection)) == ([], [])
    assert approve(connection, decision_id, "ann", "", VIA).outcome is Outcome.DONE


def test_who_was_too_late_has_approved_nothing_for_good(connection: Connection) -> None:
    decision_id = propose(connection, 1, signature="dns_failure")
    approve(connection, decision_id, "ann", "", VIA)
    assert approve(connection, decision_id, "ben", "", VIA, Always()).by == "ann"
    assert standing(connection) == []
