"""guard proposals, approve, reject, always: what is suggested is answered from the shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.postgres import Connection, connect
from flows.stopping import shell_user
from tests.connectors.proposed import propose
from tests.flows.conftest import Guard


@pytest.fixture
def connection(servers: None, database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


def state(connection: Connection, decision_id: UUID) -> tuple[Any, ...] | None:
    query = "SELECT state, approved_by FROM guard.healing WHERE decision_id = %s"
    return connection.execute(query, [decision_id]).fetchone()


def test_proposals_shows_what_can_be_answered_and_how_long(guard: Guard, connection: Connection) -> None:
    decision_id = propose(
        connection, 1, expires="90 minutes", signature="dns_failure", score=0.87, reason="transient_cause"
    )
    said = guard("proposals")
    (line,) = [line for line in said.lines if str(decision_id) in line]
    for shown in ("org/repo", "test (3.11)", "transient_cause", "dns_failure", "0.870", "1h"):
        assert shown in line
    (told,) = guard("proposals", "--json").json()
    assert (told["decision_id"], told["signature"]) == (str(decision_id), "dns_failure")


def test_approve_and_reject(guard: Guard, connection: Connection) -> None:
    first, second = propose(connection, 1), propose(connection, 2)
    said = guard("approve", str(first), "--by", "ann", "--why", "as ever")
    assert (said.status, said.out) == (0, f"approved: decision {first}\n")
    said = guard("approve", str(first))
    assert (said.status, said.err) == (1, f"guard: ann was faster: decision {first} is approved\n")
    assert guard("reject", str(second)).status == 2
    assert guard("reject", str(second), "--why", " ").status == 2
    said = guard("reject", str(second), "--why", "a bug")
    assert (said.status, said.out) == (0, f"rejected: decision {second}\n")
    assert [state(connection, each) for each in (first, second)] == [("waiting", "ann"), ("refused", None)]
    assert guard("approve", str(uuid4())).status == 1
    assert guard("approve", "x").status == 2
    rows = connection.execute("SELECT actor, what, detail ->> 'why' FROM guard.audit ORDER BY audit_id").fetchall()
    assert rows == [("ann", "approve", "as ever"), (shell_user(), "reject", "a bug")]


def test_always_is_said_listed_and_revoked(guard: Guard, connection: Connection) -> None:
    decision_id = propose(connection, 1, signature="dns_failure")
    assert guard("approve", str(decision_id), "--lasts", "30d").status == 2
    assert guard("approve", str(decision_id), "--always", "--lasts", "soon").status == 2
    assert guard("approve", str(decision_id), "--always", "--lasts", "30d", "--everywhere", "--by", "ann").status == 0
    (told,) = guard("always", "--json").json()
    assert (told["signature"], told["repository"], told["said_by"]) == ("dns_failure", "*", "ann")
    assert "dns_failure" in guard("always").out
    number = str(told["always_id"])
    assert guard("always", "--revoke", number).out == f"revoked: {number}\n"
    assert guard("always", "--revoke", number).status == 1
    assert guard("always", "--json").json() == []


def test_a_fork_is_never_approved_for_good(guard: Guard, connection: Connection) -> None:
    decision_id = propose(connection, 1, signature="dns_failure", reason="fork_needs_approval")
    said = guard("approve", str(decision_id), "--always")
    assert (said.status, "of a fork" in said.err) == (1, True)
    assert state(connection, decision_id) == ("proposed", None)


def test_what_others_wrote_moves_no_cursor(guard: Guard, connection: Connection) -> None:
    decision_id = propose(connection, 1, repository="org/\x1b[31mred")
    assert "\x1b" not in guard("proposals").out
    assert guard("reject", str(decision_id), "--why", "x", "--by", "\x1b[31m").status == 0
    assert "\x1b" not in guard("approve", str(decision_id)).err
