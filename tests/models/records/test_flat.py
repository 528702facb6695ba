"""Tables and lines of events: what is taken, what is left out, and how it is said."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from models.records import payload
from models.records.columns import EVENT_SCHEMA
from models.records.errors import MalformedPayload
from models.records.event import Outcome
from models.records.flat import ROW_SCHEMA, checked, from_lines
from tests.events import make_event

T0 = 1_790_000_000_000
EVENTS = [make_event(Outcome.FAILED, T0 + i * 1000, pipeline_id=str(i), reason="r") for i in range(5)]
LINES = [payload.to_json(event) for event in EVENTS]


def _table() -> pa.Table:
    rows, _ = from_lines(LINES)
    return pa.Table.from_batches([rows]).select(EVENT_SCHEMA.names)


def _with(name: str, values: Any) -> pa.Table:
    table = _table()
    return table.set_column(table.column_names.index(name), name, values)


def test_lines_and_the_table_made_of_them_are_the_same_events() -> None:
    rows, bad = from_lines(LINES, 10)
    assert bad == []
    assert rows.schema == ROW_SCHEMA
    assert rows.column("row").to_pylist() == [10, 11, 12, 13, 14]
    assert rows.column("received_ms").to_pylist() == [T0 + i * 1000 for i in range(5)]
    assert checked(_table(), 10) == (rows, [])


def test_what_polars_writes_is_taken() -> None:
    frame = pl.from_arrow(_table())
    assert isinstance(frame, pl.DataFrame)
    categories = frame.with_columns(pl.col("platform", "outcome").cast(pl.Categorical))
    assert checked(categories.to_arrow())[0] == from_lines(LINES)[0]


def test_what_is_optional_may_be_missing() -> None:
    needed = ["id", "timestamp", "platform", "event_type", "repository", "pipeline_id", "instance", "outcome"]
    rows, bad = checked(_table().select(needed))
    assert bad == []
    assert rows.column("attempt").to_pylist() == [1] * 5
    assert rows.column("has_failure").to_pylist() == [True] * 5
    assert rows.column("job_id").null_count == 5


def test_columns_that_nobody_knows_are_passed_over() -> None:
    assert checked(_table().append_column("weather", pa.array(["fine"] * 5))) == checked(_table())


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("received_ms", pa.array([T0 + 5, None, T0 + 5, T0 + 5, T0 + 5])),
        ("received_at", pa.array([T0 + 5, None, T0 + 5, T0 + 5, T0 + 5], pa.timestamp("ms", "UTC"))),
    ],
)
def test_when_it_was_received_is_taken_where_it_is_told(name: str, column: pa.Array) -> None:
    rows, bad = checked(_table().append_column(name, column))
    assert bad == []
    assert rows.column("received_ms").to_pylist() == [T0 + 5, T0 + 1000, T0 + 5, T0 + 5, T0 + 5]


def test_a_line_may_say_when_it_was_received() -> None:
    line = LINES[0][:-1] + b',"received_at":"2026-11-01T00:00:00Z"}'
    rows, bad = from_lines([line, LINES[1]])
    assert bad == []
    at = datetime(2026, 11, 1, tzinfo=UTC)
    assert rows.column("received_ms").to_pylist() == [round(at.timestamp() * 1000), T0 + 1000]


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        ("platform", ["github", "travis", "github", "github", "github"], "`platform`"),
        ("repository", ["a", None, "a", "a", "a"], "`repository`"),
        ("id", [e.id if i != 1 else "no uuid" for i, e in enumerate(EVENTS)], "`id`"),
        ("attempt", ["1", "many", "2", None, "1"], "`attempt`"),
        ("job_id", ["a", "x" * 513, "b", "c", "d"], "`job_id`"),
        ("branch", ["a", "x\0", "b", "c", "d"], "`branch`"),
        ("timestamp", [None if i == 1 else e.timestamp for i, e in enumerate(EVENTS)], "`timestamp`"),
        ("timestamp", ["soon" if i == 1 else e.timestamp.isoformat() for i, e in enumerate(EVENTS)], "`timestamp`"),
    ],
)
def test_one_bad_value_costs_its_row_alone_and_is_named(name: str, values: list[Any], word: str) -> None:
    rows, bad = checked(_with(name, pa.array(values)), 100)
    assert [row for row, _ in bad] == [101]
    assert word in bad[0].detail
    assert rows.column("row").to_pylist() == [100, 102, 103, 104]


def test_an_outcome_that_nobody_knows_is_unknown() -> None:
    rows, bad = checked(_with("outcome", pa.array(["odd", "failed", "failed", "failed", "failed"])))
    assert bad == []
    assert rows.column("outcome").to_pylist()[:2] == ["unknown", "failed"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (_table().drop_columns(["id", "repository"]), "'id', 'repository'"),
        (_with("timestamp", pa.array([datetime(2026, 1, 1)] * 5)), "'timestamp' holds times without a time zone"),  # noqa: DTZ001 - that is the point
        (_with("timestamp", pa.array([1] * 5)), "'timestamp' holds int64"),
        (_with("job_name", pa.array([["a"]] * 5)), "'job_name' holds list"),
        (_with("runner_labels", pa.array(["a"] * 5)), "'runner_labels' holds string"),
    ],
)
def test_a_column_of_another_kind_is_an_error_that_names_it(table: pa.Table, words: str) -> None:
    with pytest.raises(MalformedPayload, match=words):
        checked(table)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"nothing",
        b'{"id": 3}',
        LINES[1].replace(b"github", b"travis"),
        LINES[1] + LINES[1],
        LINES[1].replace(b"org/repo", b"\xff"),
        LINES[1][:-1] + b',"received_at":"yesterday"}',
        LINES[1][:-1] + b',"received_at":"2026-11-01T00:00:00"}',
    ],
)
def test_a_line_that_is_no_event_costs_nobody_else(line: bytes) -> None:
    rows, bad = from_lines([LINES[0], b"", line, LINES[2], b" "], 20)
    assert [row for row, _ in bad] == [22]
    assert bad[0].detail
    assert rows.column("row").to_pylist() == [20, 23]
