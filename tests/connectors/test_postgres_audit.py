"""The audit: rows are only ever added, and what is done to them behind its back is found and named."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connectors import postgres_audit
from connectors.audit_chain import NOUGHTS, read_line
from connectors.postgres import Connection, connect, connect_async
from connectors.postgres_audit import Sealed, Verified, record, record_async, rows_since, seal, verify
from models.records.errors import MalformedPayload, Refused, Unavailable

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
OFF = "ALTER TABLE guard.audit DISABLE TRIGGER ALL; ALTER TABLE guard.audit_seals DISABLE TRIGGER ALL;"
ON = """
ALTER TABLE guard.audit ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER enter_audit;
ALTER TABLE guard.audit_seals ENABLE ALWAYS TRIGGER append_only;
"""


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "seals" / "audit.seals"


@pytest.fixture
def tamper(database: str) -> Callable[[str], None]:
    """Does what only a superuser can who has switched the triggers off."""

    def tamper(query: str) -> None:
        with connect(database) as connection:
            connection.execute(f"{OFF} {query}; {ON}".encode())

    return tamper


@pytest.fixture
def ten(connection: Connection, file: Path) -> None:
    """Ten rows in two seals; row 4 was given up."""
    for number in range(1, 11):
        if number == 4:
            with suppress(ZeroDivisionError), connection.transaction():
                add(connection, number)
                raise ZeroDivisionError
        else:
            add(connection, number)
        if number == 6:
            seal(connection, file, NOW)
    seal(connection, file, NOW + timedelta(minutes=1))


def add(connection: Connection, number: int) -> None:
    record(connection, f"healer {number}", "act", f"subject {number}", {"n": number, "why": 'é "quoted"\n'})


def faults(connection: Connection, file: Path | None) -> list[str]:
    return [fault.said for fault in verify(connection, file).faults]


@pytest.mark.parametrize("table", ["audit", "audit_seals"])
@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize("query", ["UPDATE guard.{} SET {} = {}", "DELETE FROM guard.{0}", "TRUNCATE guard.{0}"])
def test_rows_are_only_ever_added(
    connection: Connection, ten: None, file: Path, table: str, role: str, query: str
) -> None:
    column = {"audit": "actor", "audit_seals": "digest"}[table]
    connection.execute(f"SET session_replication_role = {role}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        connection.execute(query.format(table, column, column).encode())
    assert verify(connection, file) == Verified(seals=2, rows=9, unsealed=0, faults=())


async def both(database: str) -> None:
    async with await connect_async(database, application_name="test") as connection:
        await record_async(connection, "ann", "approve", "b", {"why": "b"})


def test_both_kinds_of_connection_record(connection: Connection, database: str) -> None:
    record(connection, "healer 1", "act", "a", {"why": "a"})
    asyncio.run(both(database))
    since = datetime.now(UTC) - timedelta(minutes=1)
    rows = rows_since(connection, since)
    assert [(row["actor"], row["what"], row["subject"], row["detail"]) for row in rows] == [
        ("healer 1", "act", "a", {"why": "a"}),
        ("ann", "approve", "b", {"why": "b"}),
    ]
    assert rows_since(connection, since, actor="ann") == rows[1:]
    assert rows_since(connection, datetime.now(UTC) + timedelta(minutes=1)) == []


def test_what_is_recorded_in_a_transaction_that_fails_is_not_recorded(connection: Connection) -> None:
    with suppress(ZeroDivisionError), connection.transaction():
        add(connection, 1)
        raise ZeroDivisionError
    assert rows_since(connection, NOW - timedelta(days=365)) == []


def test_nothing_new_makes_no_seal(connection: Connection, file: Path) -> None:
    assert seal(connection, file, NOW) == Sealed(0, 0, 0)
    add(connection, 1)
    assert verify(connection, file) == Verified(0, 0, 1, ())
    assert seal(connection, file, NOW) == Sealed(1, 1, 1)
    assert seal(connection, file, NOW) == Sealed(0, 0, 0)
    assert verify(connection, file) == Verified(1, 1, 0, ())


def test_many_rows_are_sealed_in_portions(connection: Connection, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_audit, "MOST_ROWS", 3)
    for number in range(10):
        add(connection, number)
    assert seal(connection, file, NOW) == Sealed(4, 10, 4)
    assert verify(connection, file) == Verified(4, 10, 0, ())


def test_anybody_can_work_out_a_digest(connection: Connection, ten: None, file: Path) -> None:
    """With nothing but the description on top of connectors/audit_chain.py."""
    first, second = map(json.loads, file.read_text("utf-8").splitlines())
    rows = connection.execute(
        "SELECT audit_id, extract(epoch FROM at)::text, actor, what, subject, detail::text FROM guard.audit"
        " WHERE audit_id <= 6 ORDER BY audit_id"
    ).fetchall()
    prints = [hashlib.sha256(compact(list(row))).digest() for row in rows]
    whole = bytes(32) + compact([1, "2026-11-26T12:00:00.000+00:00", 5]) + b"".join(prints)
    assert first["digest"] == hashlib.sha256(whole).hexdigest()
    assert first["ids"] == [[1, 3], [5, 6]]
    assert (first["previous"], second["previous"]) == (NOUGHTS, first["digest"])


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("UPDATE guard.audit SET actor = 'nobody' WHERE audit_id = 3", "row 3 was changed"),
        ("UPDATE guard.audit SET what = 'approve' WHERE audit_id = 9", "row 9 was changed"),
        ("UPDATE guard.audit SET subject = subject || ' ' WHERE audit_id = 5", "row 5 was changed"),
        ("UPDATE guard.audit SET at = at + interval '1 microsecond' WHERE audit_id = 1", "row 1 was changed"),
        ("UPDATE guard.audit SET at = 'infinity' WHERE audit_id = 2", "row 2 was changed"),
        ("UPDATE guard.audit SET detail = detail || '{\"n\": 1}' WHERE audit_id >= 7", "row 7 was changed"),
        ("UPDATE guard.audit SET detail = 'null' WHERE audit_id = 10", "row 10 was changed"),
        ("DELETE FROM guard.audit WHERE audit_id = 1", "row 1 was removed"),
        ("DELETE FROM guard.audit WHERE audit_id = 6", "row 6 was removed"),
        ("DELETE FROM guard.audit WHERE audit_id = 10", "row 10 was removed"),
        ("DELETE FROM guard.audit WHERE audit_id > 6", "row 7 was removed"),
        ("TRUNCATE guard.audit", "row 1 was removed"),
        (
            "INSERT INTO guard.audit OVERRIDING SYSTEM VALUE VALUES (4, now(), 'a', 'b', 'c', '{}')",
            "row 4 was inserted later than others around it",
        ),
        (
            "INSERT INTO guard.audit OVERRIDING SYSTEM VALUE VALUES (-4, now(), 'a', 'b', 'c', '{}')",
            "row -4 was inserted later than others around it",
        ),
        (
            """UPDATE guard.audit AS a SET actor = b.actor, what = b.what, subject = b.subject, detail = b.detail,
            at = b.at FROM guard.audit b WHERE (a.audit_id, b.audit_id) IN ((2, 3), (3, 2))""",
            "row 2 was changed",
        ),
        (
            """DELETE FROM guard.audit WHERE audit_id = 8;
            INSERT INTO guard.audit OVERRIDING SYSTEM VALUE SELECT 8, at, actor, what, subject, detail
            FROM guard.audit WHERE audit_id = 7""",
            "row 8 was changed",
        ),
    ],
)
def test_the_first_row_that_was_touched_is_named(
    connection: Connection, ten: None, file: Path, tamper: Callable[[str], None], query: str, said: str
) -> None:
    tamper(query)
    assert faults(connection, file) == [said]
    assert faults(connection, None) == [said]


def test_one_who_seals_anew_what_they_changed_is_found_by_the_file_alone(
    connection: Connection, ten: None, file: Path, tamper: Callable[[str], None]
) -> None:
    tamper("UPDATE guard.audit SET actor = 'nobody' WHERE audit_id = 3; TRUNCATE guard.audit_seals")
    seal(connection, None, NOW)
    assert faults(connection, None) == []
    assert faults(connection, file) == ["row 3 was changed", f"seal 1 of {file} is another one in the table"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("UPDATE guard.audit_seals SET line = replace(line, 'T12:00', 'T12:01') WHERE seal_id = 1", "another one in"),
        ("UPDATE guard.audit_seals SET line = 'rubbish' WHERE seal_id = 2", "another one in"),
        ("DELETE FROM guard.audit_seals WHERE seal_id = 2", "is not in the table"),
        ("DELETE FROM guard.audit_seals WHERE seal_id = 1", "another one in"),
    ],
)
def test_a_seal_of_the_table_that_was_touched_is_named(
    connection: Connection, ten: None, file: Path, tamper: Callable[[str], None], query: str, said: str
) -> None:
    tamper(query)
    (fault,) = faults(connection, file)
    assert said in fault
    assert faults(connection, None) or "seal_id = 2" in query


def test_nothing_is_added_to_a_file_that_the_table_contradicts(
    connection: Connection, ten: None, file: Path, tamper: Callable[[str], None]
) -> None:
    tamper("UPDATE guard.audit_seals SET line = replace(line, 'T12:01', 'T12:02') WHERE seal_id = 2")
    before = file.read_bytes()
    add(connection, 11)
    with pytest.raises(Refused, match="guard audit verify"):
        seal(connection, file, NOW)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "query",
    [
        "UPDATE guard.audit_seals SET seal_id = 9 WHERE seal_id = 2",
        "UPDATE guard.audit_seals SET line = '' WHERE seal_id = 2",
        "DROP TABLE guard.audit_seals CASCADE; CREATE TABLE guard.audit_seals ()",
    ],
)
def test_a_table_of_seals_that_makes_no_sense_is_refused_and_is_no_crash(
    connection: Connection, ten: None, database: str, query: str
) -> None:
    with connect(database) as other:
        other.execute(f"{OFF} {query}".encode())
    add(connection, 11)
    with pytest.raises(Refused):
        seal(connection, None, NOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0].replace("T12:00", "T12:01"), lines[1]], "seal 1"),
        (lambda lines: ["{}", lines[1]], "seal 1"),
        (lambda lines: ["\udcff", lines[1]], "seal 1"),
        (lambda lines: lines[1:], "seal 2 is not one that follows on seal 0"),
        (lambda lines: [lines[1], lines[0]], "seal 2 is not one that follows on seal 0"),
        (lambda lines: [*lines, lines[1]], "seal 3"),
        (lambda _lines: [], "holds no seal, and the table has some"),
    ],
)
def test_a_file_that_was_touched_is_noticed(
    connection: Connection, ten: None, file: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    lines = file.read_text("utf-8").splitlines()
    file.write_bytes("".join(f"{line}\n" for line in change(lines)).encode("utf-8", "surrogateescape"))
    assert said in "; ".join(faults(connection, file))


def test_what_a_crash_tore_off_is_added_again(connection: Connection, ten: None, file: Path) -> None:
    whole = file.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 40, whole.index(b"\n"), 10, 0):
        file.write_bytes(whole[:kept])
        if kept > whole.index(b"\n"):
            assert faults(connection, file) == []
        assert seal(connection, file, NOW).lines == (1 if kept > whole.index(b"\n") else 2)
        assert file.read_bytes() == whole


def test_the_file_of_each_machine_gets_the_seals_of_all(connection: Connection, ten: None, tmp_path: Path) -> None:
    other = tmp_path / "other.seals"
    add(connection, 11)
    assert seal(connection, other, NOW) == Sealed(1, 1, 3)
    assert seal(connection, tmp_path / "seals" / "audit.seals", NOW) == Sealed(0, 0, 1)
    assert other.read_bytes() == (tmp_path / "seals" / "audit.seals").read_bytes()


def test_a_file_that_cannot_be_written_loses_no_seal(connection: Connection, tmp_path: Path) -> None:
    add(connection, 1)
    with pytest.raises(Unavailable, match="cannot be written"):
        seal(connection, tmp_path, NOW)  # a directory
    assert seal(connection, tmp_path / "f", NOW) == Sealed(1, 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE guard.audit DISABLE TRIGGER append_only", "guard.audit is not guarded: append_only is off"),
        ("ALTER TABLE guard.audit ENABLE TRIGGER enter_audit", "guard.audit is not guarded: enter_audit is off"),
        ("DROP TRIGGER append_only ON guard.audit_seals", "guard.audit_seals is not guarded: append_only is off"),
    ],
)
def test_a_trigger_that_is_off_is_noticed(connection: Connection, file: Path, change: str, said: str) -> None:
    connection.execute(change.encode())
    assert faults(connection, file) == [said]


# --- rows that come late


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_row_that_is_not_to_be_seen_yet_is_waited_for(database: str, file: Path, isolation: str) -> None:
    own = make_conninfo(database, options=f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}")
    with connect(own) as sealer, connect(database, autocommit=False) as slow, connect(database) as quick:
        add(slow, 1)
        add(quick, 2)
        with pytest.raises(Unavailable):
            seal(sealer, file, NOW)
        add(quick, 3)  # nobody else is held up by that
        slow.commit()
        assert seal(sealer, file, NOW) == Sealed(1, 3, 1)
        assert verify(sealer, file) == Verified(1, 3, 0, ())


def test_a_row_that_commits_while_the_sealer_waits_is_sealed(database: str, file: Path) -> None:
    with connect(database, autocommit=False) as slow, connect(database) as sealer, connect(database) as watcher:
        add(slow, 1)
        add(watcher, 2)
        with ThreadPoolExecutor(1) as pool:
            sealed = pool.submit(seal, sealer, file, NOW)
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while watcher.execute(waiting).fetchone() == (0,) and not sealed.done():
                pass
            slow.commit()
            try:
                assert sealed.result() == Sealed(1, 2, 1)
            except Unavailable:  # a quarter of a second had passed: then nothing is sealed
                assert seal(sealer, file, NOW) == Sealed(1, 2, 1)
        assert verify(sealer, file).faults == ()


def test_sealing_beside_many_writers_covers_every_row_once(database: str, tmp_path: Path, seed: int) -> None:
    """Eight writers, some of whom give up or dawdle, and two machines that seal and verify all the time."""
    running = threading.Event()
    running.set()

    def write(number: int) -> int:
        rng, kept = random.Random(seed + number), 0
        with connect(database, autocommit=False) as connection:
            for _ in range(150):
                for _ in range(rng.randrange(1, 4)):
                    add(connection, number)
                connection.execute("SELECT pg_sleep(%s)", [rng.random() / 200])
                if rng.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    kept += 1
        return kept

    def guard(machine: int) -> list[str]:
        found: list[str] = []
        with connect(database) as connection:
            while running.is_set():
                try:
                    seal(connection, tmp_path / f"{machine}.seals", NOW)
                except Unavailable:
                    continue
                found += faults(connection, tmp_path / f"{machine}.seals")
        return found

    with ThreadPoolExecutor(10) as pool:
        guards = [pool.submit(guard, machine) for machine in range(2)]
        writers = [pool.submit(write, number) for number in range(8)]
        assert sum(writer.result() for writer in writers) > 0
        running.clear()
        assert [each.result() for each in guards] == [[], []]
    with connect(database) as connection:
        for machine in range(2):
            seal(connection, tmp_path / f"{machine}.seals", NOW)
            verified = verify(connection, tmp_path / f"{machine}.seals")
            assert (verified.faults, verified.unsealed) == ((), 0)
            assert connection.execute("SELECT count(*) FROM guard.audit").fetchone() == (verified.rows,)
    assert verified.seals > 5


# --- lines


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 4},
        {"rows": 0, "ids": [], "marks": ""},
        {"ids": [[6, 5], [1, 3]]},
        {"ids": [[1, 5]], "marks": "AAAA"},
        {"ids": [[1, 1 << 70]]},
        {"digest": "0"},
        {"previous": "z" * 64},
        {"marks": "*"},
        {"number": "1"},
    ],
)
def test_a_line_that_makes_no_sense_is_none(
    connection: Connection, ten: None, file: Path, change: dict[str, object]
) -> None:
    line = json.loads(file.read_text("utf-8").splitlines()[0])
    read_line(json.dumps(line))
    with pytest.raises(MalformedPayload):
        read_line(json.dumps({**line, **change}))
