"""The schema, its views, and what is read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.errors import QueryCanceled

from connectors import postgres
from connectors import postgres_people as people
from connectors.postgres import Connection, connect, migrate, prune, schema_version
from connectors.postgres_queries import dead_letter, dead_letters, explain, mark_replayed, status
from connectors.postgres_rows import STATEMENT, TABLES, Written, texts
from connectors.postgres_schema import document
from models.records.errors import ConfigError, Unavailable
from models.records.outputs import ShardOutput
from tests.connectors.outputs import (
    MINUTE_MS,
    NOW_MS,
    aggregate,
    decision,
    failure,
    finding,
    incident,
    letter,
    output,
    progress,
)

ROOT = Path(__file__).parents[2]
OWN_COLUMNS = {"dead_letters": {"written_at", "replayed_at"}}  # every other table adds only written_at
VIEWS = {
    "current_decisions",
    "explained_failures",
    "signature_hits",
    "open_findings",
    "current_incidents",
    "current_act_outcomes",
    "open_incidents",
    "open_quarantines",
    "recent_failures",
    "why_not_healed",
    "repository_minutes",
    "dead_letters_open",
    "proposals",
    *("platform_minutes", "counted_hours", "repository_hours", "repository_days", "platform_hours", "platform_days"),
    *("job_hour_rates", "job_days", "signature_minutes", "signature_hours", "signature_days"),
    *("recoveries", "time_to_green", "flakiest_jobs", "most_expensive_failures"),
}


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


def write(connection: Connection, said: ShardOutput) -> None:
    for parameters in texts([Written(0, said, progress(1))]):
        connection.execute(STATEMENT, parameters)


def test_migrations_are_applied_once_and_in_order(empty_database: str) -> None:
    assert schema_version(empty_database) == 0
    applied = migrate(empty_database)
    assert applied == sorted(applied)
    assert applied[0] == "0001_tables.sql"
    assert migrate(empty_database) == []
    assert schema_version(empty_database) == postgres.migrations()[-1].version


def test_processes_that_migrate_at_once_take_turns(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(migrate, [empty_database] * 4))
    assert sorted(map(len, results)) == [0, 0, 0, len(postgres.migrations())]


def test_an_applied_file_that_changed_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = postgres.migrations()
    monkeypatch.setattr(postgres, "migrations", lambda: [first._replace(sql=first.sql + b"\n"), *rest])
    with pytest.raises(ConfigError, match=r"0001_tables\.sql was changed"):
        migrate(database)


def test_a_migration_that_fails_leaves_nothing_of_itself(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = postgres.Migration(9999, "9999_broken.sql", b"CREATE TABLE guard.half (a int); SELECT 1 / 0;")
    before = schema_version(database)
    monkeypatch.setattr(postgres, "migrations", lambda: [broken])
    with pytest.raises(Exception, match="division by zero"):
        migrate(database)
    assert schema_version(database) == before
    with connect(database) as connection:
        assert connection.execute("SELECT to_regclass('guard.half')").fetchone() == (None,)


def test_a_newer_schema_is_left_as_it_is(connection: Connection, database: str) -> None:
    connection.execute("INSERT INTO guard.schema_migrations (version, name, checksum) VALUES (9999, 'newer', '')")
    assert migrate(database) == []
    assert schema_version(database) == 9999


def test_a_lock_held_by_others_stops_a_migration_instead_of_waiting_for_ever(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter = postgres.Migration(9999, "9999_x.sql", b"SET LOCAL lock_timeout = '10ms'; LOCK TABLE guard.failures;")
    monkeypatch.setattr(postgres, "migrations", lambda: [alter])
    with connect(database, autocommit=False) as other:
        other.execute("LOCK TABLE guard.failures")
        with pytest.raises(Unavailable, match="lock timeout"):
            migrate(database)


def test_no_server_is_unavailable_and_a_wrong_url_is_a_setting() -> None:
    with pytest.raises(Unavailable):
        connect("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(ConfigError):
        connect("postgresql://host/db?what=ever")


def test_commits_are_durable_and_waits_are_bounded_whatever_the_url_says(database: str) -> None:
    hasty = make_conninfo(database, options="-c synchronous_commit=off -c work_mem=8MB", connect_timeout=3)
    with connect(hasty) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("synchronous_commit", "statement_timeout", "lock_timeout", "work_mem", "TimeZone")
        }
        assert connection.info.get_parameters()["connect_timeout"] == "3"
        assert connection.info.get_parameters()["tcp_user_timeout"] == "15000"
    assert shown == {
        "synchronous_commit": ("on",),
        "statement_timeout": ("30s",),
        "lock_timeout": ("5s",),
        "work_mem": ("8MB",),
        "TimeZone": ("UTC",),
    }


def test_fields_and_columns_are_equal(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT relname, attname, format_type(atttypid, NULL), NOT attnotnull"
        " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relnamespace = 'guard'::regnamespace AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ).fetchall()
    names = {"timestamp with time zone": "timestamptz"}
    for table, columns in TABLES.items():
        own = OWN_COLUMNS.get(table, {"written_at"})
        there = {name: (names.get(kind, kind), optional) for found, name, kind, optional in rows if found == table}
        assert own <= there.keys(), table
        said = {column.name: (column.type, column.optional) for column in columns}
        assert {name: there[name] for name in there if name not in own} == said, table
        assert [name for name in there if name not in own] == list(said), table


def test_every_table_and_view_says_what_it_is(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT relname, relkind, obj_description(oid) FROM pg_class"
        " WHERE relnamespace = 'guard'::regnamespace AND relkind IN ('r', 'v')"
    ).fetchall()
    assert {name for name, kind, _ in rows if kind == "v"} == VIEWS
    assert [name for name, _, comment in rows if not comment] == []


def test_the_page_of_the_schema_is_current(connection: Connection) -> None:
    assert (ROOT / "docs/schema.md").read_text() == document(connection), (
        "write it with: .venv/bin/python -m connectors.postgres_schema URL > docs/schema.md"
    )


def as_record(table: str, row: dict[str, Any]) -> list[Any]:
    """The values of a row as its record has them."""
    values = []
    for column in TABLES[table]:
        value = row[column.name]
        if isinstance(value, datetime):
            value = round((value - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
        elif isinstance(value, UUID):
            value = str(value)
        elif column.type == "uuid[]":
            value = [str(one) for one in value]
        elif column.type == "jsonb":
            value = json.dumps(value)
        values.append(value)
    return values


def test_what_is_read_is_what_was_said(connection: Connection) -> None:
    said = output(1)._replace(findings=[finding(1, subject='{"a": [1, null, "\\u00e9"]}')])
    write(connection, said)
    for table in TABLES:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM guard.{table}".encode())
            assert cursor.description is not None
            names = [column.name for column in cursor.description]
            row = dict(zip(names, cursor.fetchone() or (), strict=True))
        expected = [
            json.dumps(json.loads(value)) if column.type == "jsonb" else value
            for column, value in zip(TABLES[table], getattr(said, table)[0], strict=True)
        ]
        assert as_record(table, row) == expected


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    number=st.integers(-(1 << 63), (1 << 63) - 1),
    score=st.floats(allow_nan=False, allow_infinity=False),
    at_ms=st.integers(0, 4_102_444_800_000),
    payload=st.binary(),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_comes_back_as_it_went_in(
    connection: Connection, text: str, number: int, score: float, at_ms: int, payload: bytes
) -> None:
    said = failure(1, excerpt=text, exit_code=number, score=score, occurred_ms=at_ms)
    with connection.transaction(force_rollback=True):
        write(connection, ShardOutput([said], [], [], [], [letter(1, payload=payload)]))
        row = connection.execute(
            "SELECT excerpt, exit_code, score, extract(epoch FROM occurred_at) * 1000 FROM guard.failures"
        ).fetchone()
        letters = connection.execute("SELECT payload FROM guard.dead_letters").fetchall()
    assert row == (text, number, score, at_ms)
    assert letters == [(payload,)]


def test_the_decision_in_force_is_the_highest_revision(connection: Connection) -> None:
    decisions = [decision(1, 2, verdict="skip", reason="hard_stop"), decision(1, 1), decision(2, 1)]
    write(connection, ShardOutput([failure(1)], [], decisions, [], []))
    rows = connection.execute("SELECT position, revision, verdict FROM guard.current_decisions ORDER BY 1").fetchall()
    assert rows == [(1, 2, "skip"), (2, 1, "wait")]
    assert connection.execute("SELECT verdict, decision_reason FROM guard.recent_failures").fetchall() == [
        ("skip", "hard_stop")
    ]


def test_a_case_counts_once_in_why_not_healed_and_not_at_all_when_acted_on(connection: Connection) -> None:
    acted = decision(3, verdict="act", reason="transient_cause", mode="act")
    would = decision(4, verdict="act", reason="transient_cause", mode="observe")
    decisions = [decision(1, 1), decision(1, 2, verdict="skip", reason="hard_stop"), acted, would]
    write(connection, ShardOutput([], [], decisions, [], []))
    rows = connection.execute("SELECT verdict, reason, mode, cases FROM guard.why_not_healed ORDER BY 1").fetchall()
    assert rows == [("act", "transient_cause", "observe", 1), ("skip", "hard_stop", "observe", 1)]


def test_a_cleared_finding_is_not_open(connection: Connection) -> None:
    findings = [finding(1, 1), finding(1, 2, state="cleared"), finding(2, 1), finding(2, 2, state="changed")]
    write(connection, ShardOutput([], findings, [], [], []))
    assert connection.execute("SELECT revision, state FROM guard.open_findings").fetchall() == [(2, "changed")]


def test_minutes_have_rates_and_quantiles(connection: Connection) -> None:
    empty = aggregate(2, completed=0, failed=0, durations=[0, 0, 0, 0], duration_ms_sum=0)
    write(connection, ShardOutput([], [], [], [aggregate(1), empty], []))
    rows = connection.execute(
        "SELECT failure_rate, duration_mean_s, duration_p50_s, duration_p95_s FROM guard.repository_minutes"
        " ORDER BY minute"
    ).fetchall()
    assert [tuple(None if value is None else float(value) for value in row) for row in rows] == [
        (0.25, 3.0, 3.0, 3.9),
        (None, None, None, None),
    ]


def test_a_quantile_lies_in_its_bucket(connection: Connection) -> None:
    cases: list[tuple[list[int], float, float | None]] = [
        ([4, 0, 0], 0.5, 0.5),
        ([2, 2, 0], 0.95, 1.9),
        ([0, 0, 4, 0], 0.5, 3.0),
        ([0, 0, 0, 3], 0.5, 4.0),  # the last bucket is open: its lower edge
        ([1, 0, 0, 1, 0], 1.0, 8.0),
        ([0, 0], 0.5, None),
        ([], 0.5, None),
    ]
    for counts, share, seconds in cases:
        row = connection.execute("SELECT guard.bucket_quantile(%s::bigint[], %s)", [counts, share]).fetchone()
        assert row is not None
        assert row[0] == (None if seconds is None else pytest.approx(seconds)), counts


def test_a_rulebook_is_kept_under_its_digest_and_never_replaced(connection: Connection) -> None:
    body = {"detectors": {"flaky": {"threshold": 3, "ratio": 0.1}}, "text": "\u00e9"}
    assert postgres.latest_rulebook(connection) is None
    assert postgres.put_rulebook(connection, "a" * 64, body, created_by="start")
    assert not postgres.put_rulebook(connection, "a" * 64, {"other": 1}, created_by="start")
    assert postgres.get_rulebook(connection, "a" * 64) == body
    assert postgres.get_rulebook(connection, "b" * 64) is None
    postgres.put_rulebook(connection, "b" * 64, {}, created_by="operator")
    assert postgres.latest_rulebook(connection) == ("b" * 64, {})


def test_progress_is_read_as_it_was_written(connection: Connection) -> None:
    assert postgres.read_progress(connection) == {}
    write(connection, ShardOutput([], [], [], [], []))
    assert postgres.read_progress(connection) == {0: progress(1)}


def test_pruning_deletes_old_rows_in_batches_and_keeps_new_ones(connection: Connection, database: str) -> None:
    many = ShardOutput([failure(n) for n in range(25)], [finding(1)], [decision(1)], [aggregate(1)], [letter(1)])
    write(connection, many)
    connection.execute("UPDATE guard.failures SET written_at = now() - interval '90 days' WHERE position < 23")
    pauses: list[None] = []
    deleted = prune(database, datetime.now(UTC) - timedelta(days=30), batch=10, pause=lambda: pauses.append(None))
    assert deleted == {
        "failures": 23,
        "diagnoses": 0,
        "findings": 0,
        "decisions": 0,
        "aggregates": 0,
        "job_hours": 0,
        "dead_letters": 0,
        "passing_logs": 0,
        "detector_faults": 0,
        "incidents": 0,
        "act_outcomes": 0,
        "reconciled": 0,
        "hooks": 0,
        "quarantines": 0,
        "redeliveries": 0,
        "acts": 0,
        "healing": 0,
        "budgets": 0,
        "holds": 0,
    }
    assert len(pauses) == 3
    assert connection.execute("SELECT count(*) FROM guard.failures").fetchone() == (2,)


@pytest.mark.parametrize("about", [failure(1).failure_id, failure(1).case_id, decision(1, 2).decision_id])
def test_an_id_explains_its_run_attempt(connection: Connection, about: str) -> None:
    near = finding(5, events=[failure(9).failure_id])
    whole_repository = finding(6, subject="{}", events=[])
    other_job = finding(7, subject='{"job_name": "lint"}', events=[])
    long_ago = finding(8, first_ms=NOW_MS - 200 * MINUTE_MS, last_ms=NOW_MS - 100 * MINUTE_MS, events=[])
    findings = [near, whole_repository, other_job, long_ago]
    decisions = [decision(1, 2), decision(1, 1), decision(2)]
    write(connection, ShardOutput([failure(1), failure(2)], findings, decisions, [], []))
    explanation = explain(connection, UUID(about))
    assert explanation is not None
    assert explanation.cases == [UUID(failure(1).case_id)]
    assert [row["pipeline_id"] for row in explanation.failures] == ["1"]
    assert [row["revision"] for row in explanation.decisions] == [1, 2]
    assert {row["position"] for row in explanation.findings} == {5, 6}


def test_a_finding_explains_the_run_attempts_that_prove_it(connection: Connection) -> None:
    both = finding(1, events=[failure(1).failure_id, failure(2).failure_id])
    write(connection, ShardOutput([failure(1), failure(2), failure(3)], [both], [decision(2)], [], []))
    explanation = explain(connection, UUID(both.finding_id))
    assert explanation is not None
    assert {row["position"] for row in explanation.failures} == {1, 2}
    assert len(explanation.decisions) == 1


def test_an_event_that_only_proves_a_finding_is_explained_by_it(connection: Connection) -> None:
    write(connection, ShardOutput([], [finding(1)], [], [], []))
    explanation = explain(connection, UUID(finding(1).events[0]))
    assert explanation is not None
    assert (explanation.cases, len(explanation.findings)) == ([], 1)
    assert explain(connection, UUID(int=1)) is None


def test_a_replayed_dead_letter_leaves_the_list_and_keeps_its_payload(connection: Connection) -> None:
    write(connection, ShardOutput([], [], [], [], [letter(1), letter(2)]))
    ids = [UUID(letter(1).dead_letter_id), UUID(int=7)]
    assert {row["size_bytes"] for row in dead_letters(connection)} == {256}
    assert mark_replayed(connection, ids) == 1
    assert mark_replayed(connection, ids) == 0
    assert [row["position"] for row in dead_letters(connection)] == [2]
    replayed = dead_letter(connection, ids[0])
    assert replayed is not None
    assert bytes(replayed["payload"]) == bytes(range(256))
    assert replayed["replayed_at"] is not None
    assert dead_letter(connection, ids[1]) is None


def test_an_incident_is_open_until_it_is_closed_or_nothing_is_heard_of_it(connection: Connection) -> None:
    def open_ones() -> list[tuple[str, int]]:
        return [(one.symptom, one.repositories) for one in people.incidents(connection)]

    said = [incident(1, symptom="a"), incident(1, 1, symptom="a", state="changed", repositories=30)]
    write(connection, ShardOutput([], [], [], [], [], incidents=[*said, incident(2, symptom="b", dimension="all")]))
    assert open_ones() == [("a", 30), ("b", 24)]
    write(connection, ShardOutput([], [], [], [], [], incidents=[incident(2, 1, state="closed", why="calm")]))
    assert open_ones() == [("a", 30)]
    later = progress(2)._replace(stream_ms=incident(1).at_ms + 2 * 3_600_000 + 1)
    for parameters in texts([Written(0, ShardOutput([], [], [], [], []), later)]):
        connection.execute(STATEMENT, parameters)
    assert open_ones() == [], "whoever would close it has lost its memory"


def test_status_counts_what_was_written_since(connection: Connection) -> None:
    unexplained = failure(2, signature=None)
    write(connection, output(1))
    write(connection, ShardOutput([unexplained], [], [], [], []))
    now = datetime.now(UTC)
    found = status(connection, now - timedelta(hours=1))
    assert found.rows == {
        "failures": 2,
        "findings": 1,
        "decisions": 1,
        "aggregates": 1,
        "dead_letters": 1,
        "diagnoses": 1,
        "detector_faults": 1,
        "job_hours": 1,
        "incidents": 1,
        "act_outcomes": 1,
    }
    assert found.decisions == {("wait", "run_in_progress"): 1}
    assert found.failures == {"connection-reset": 1, None: 1}
    assert (found.dead_letters_open, found.progress) == (1, {0: progress(1)})
    later = status(connection, now + timedelta(hours=1))
    assert (later.rows["failures"], later.decisions, later.dead_letters_open) == (0, {}, 1)


def test_a_statement_that_takes_too_long_is_ended_by_the_server(connection: Connection) -> None:
    connection.execute("SET statement_timeout = '10ms'")
    with pytest.raises(QueryCanceled):
        connection.execute("SELECT pg_sleep(10)")
