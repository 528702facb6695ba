"""Rows as Arrow tables have the columns that PostgreSQL has, and lose nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from connectors.postgres_rows import TABLES
from models.records.outputs import DeadLetter
from models.records.tables import RECORDS, SCHEMAS, table


@pytest.mark.parametrize("name", RECORDS)
def test_the_columns_are_those_of_postgresql(name: str) -> None:
    assert SCHEMAS[name].names == [column.name for column in TABLES[name]]
    assert [field.nullable for field in SCHEMAS[name]] == [column.optional for column in TABLES[name]]


@pytest.mark.parametrize("name", RECORDS)
def test_no_rows_make_an_empty_table(name: str) -> None:
    assert table(name, []).schema == SCHEMAS[name]


def test_times_become_times_and_bytes_stay_bytes() -> None:
    letter = DeadLetter("id", 3, 7, "1-0", 0, "unreadable", "why", None, b"\xff", 1_790_000_000_000)
    row = table("dead_letters", [letter]).to_pylist()[0]
    assert row["received_at"] == datetime.fromtimestamp(1_790_000_000, UTC)
    assert (row["payload"], row["source"], row["position"]) == (b"\xff", None, 7)
    assert SCHEMAS["dead_letters"].field("received_at").type == pa.timestamp("ms", "UTC")
