"""guard audit: listed, sealed and verified from the shell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.postgres import Connection, connect
from connectors.postgres_audit import record
from tests.flows.conftest import Guard


@pytest.fixture
def connection(servers: None, database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "audit.seals"
    monkeypatch.setenv("GUARD_ACT__AUDIT_SEALS", str(path))
    return path


def test_what_was_done_is_listed(guard: Guard, connection: Connection) -> None:
    record(connection, "healer one", "act", "act 1", {"why": "x\x1b[31m", "n": None})
    record(connection, "ann", "approve", "decision 1", {})
    said = guard("audit", "--json").json()
    assert [(row["actor"], row["what"], row["detail"]) for row in said] == [
        ("healer one", "act", {"why": "x\x1b[31m", "n": None}),
        ("ann", "approve", {}),
    ]
    assert [row["actor"] for row in guard("audit", "--json", "--actor", "ann", "--since", "12h").json()] == ["ann"]
    shown = guard("audit").out
    assert "healer one" in shown
    assert "\x1b" not in shown
    assert guard("audit", "--since", "soon").status == 2


def test_it_is_sealed_and_verified(guard: Guard, connection: Connection, file: Path) -> None:
    record(connection, "ann", "stop", "stop 1", {})
    said = guard("audit", "verify")
    assert (said.status, said.out) == (0, "0 rows are as they were sealed, by 0 seals; 1 came since\n")
    assert guard("audit", "seal").out == f"1 rows in 1 new seals; 1 lines added to {file}\n"
    said = guard("audit", "verify")
    assert (said.status, said.out) == (0, "1 rows are as they were sealed, by 1 seals; 0 came since\n")


def test_a_row_that_was_changed_is_named(guard: Guard, connection: Connection, file: Path, tmp_path: Path) -> None:
    for number in range(3):
        record(connection, "ann", "stop", f"stop {number}", {})
    guard("audit", "seal")
    connection.execute("ALTER TABLE guard.audit DISABLE TRIGGER append_only")
    connection.execute("UPDATE guard.audit SET actor = 'b' WHERE audit_id = 2")
    connection.execute("ALTER TABLE guard.audit ENABLE ALWAYS TRIGGER append_only")
    said = guard("audit", "verify")
    assert (said.status, said.complaints) == (1, ["guard: row 2 was changed"])
    copy = tmp_path / "copy"
    file.rename(copy)
    assert guard("audit", "verify", "--file", copy).complaints == ["guard: row 2 was changed"]


def test_without_a_file_it_says_what_that_is_worth(guard: Guard, connection: Connection) -> None:
    said = guard("audit", "verify")
    assert (said.status, "act.audit_seals is not set" in said.err) == (0, True)
    assert guard("audit", "seal").status == 2
