"""Entries as rows: nothing of an entry is lost, whatever it holds, and the columns are what was decoded."""

from __future__ import annotations

from itertools import pairwise

import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.parquet_rows import ENTRY_COLUMNS, SCHEMA, entries_of, rows, unbroken
from models.records.columns import BATCH_SCHEMA, decode
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import Outcome
from models.records.payload import to_json, to_packed
from models.records.raw import RawEntries
from tests.connectors.archives import raw_entries
from tests.events import make_event
from tests.faults.harness import story

PAIRS = st.lists(st.binary(max_size=60), min_size=2, max_size=6).filter(lambda parts: len(parts) % 2 == 0)


@pytest.fixture(scope="module")
def shards() -> list[RawEntries]:
    """A story of the fault tests, by shard: all encodings, heartbeats, evidence, and what nobody can read."""
    entries = story(4, hours=0.2)
    return [raw_entries([e for e in entries if e.shard == shard]) for shard in range(12)]


def test_what_was_read_is_what_stood_there(shards: list[RawEntries]) -> None:
    for raw in shards:
        table = rows(raw)
        assert table.schema == SCHEMA
        assert list(entries_of(table.select(ENTRY_COLUMNS))) == list(raw)


def test_the_rows_of_events_are_those_that_the_shard_sees(shards: list[RawEntries]) -> None:
    for raw in shards:
        table, events = rows(raw), decode(raw).events
        held = table.filter(pc.is_valid(table.column("id")))
        assert held.select(BATCH_SCHEMA.names).to_pylist() == events.to_pylist()


def test_each_entry_says_its_kind_when_it_was_received_and_why_it_cannot_be_read(shards: list[RawEntries]) -> None:
    for raw in shards:
        said = {row["position"]: row for row in rows(raw).to_pylist()}
        assert list(said) == list(raw.positions)
        for mark in decode(raw).marks:
            row = said[mark.position]
            assert (row["kind"], row["unreadable"]) == (mark.kind, mark.reason)
            assert row["received_ms"] == (mark.received_ms or None)


@given(st.lists(PAIRS, min_size=1, max_size=8), st.integers(1, 10**9))
def test_entries_of_others_are_kept_whatever_their_fields_are(fields: list[list[bytes]], first: int) -> None:
    count = len(fields)
    raw = RawEntries(range(first, first + count), [5] * count, range(count), [tuple(pairs) for pairs in fields])
    assert list(entries_of(rows(raw))) == list(raw)


def test_a_packed_entry_is_kept_once_however_many_events_it_holds() -> None:
    good, bad = make_event(Outcome.FAILED, 5), make_event(Outcome.FAILED, 5, repository="")
    values = [[good, bad, good], [bad, bad], [good]]
    fields = [encode(Entry(Kind.EVENT, Encoding.PACKED, 7, to_packed(events))) for events in values]
    raw = RawEntries([4, 5, 6], [1, 2, 3], [0, 0, 0], fields)
    table = rows(raw).to_pylist()
    assert [row["position"] for row in table] == [4, 4, 5, 6]
    assert [row["value"] is None for row in table] == [False, True, False, False]
    assert [row["kind"] for row in table] == ["event", "event", None, "event"]
    assert [row["unreadable"] for row in table] == ["malformed_payload"] * 3 + [None]
    assert [row["received_ms"] for row in table] == [7] * 4
    assert list(entries_of(rows(raw))) == list(raw)


def test_nothing_becomes_no_rows() -> None:
    assert rows(RawEntries()).num_rows == 0


@given(st.sets(st.integers(1, 40), min_size=1))
def test_parts_leave_no_position_out_and_together_are_the_whole(positions: set[int]) -> None:
    at = sorted(positions)
    field = encode(Entry(Kind.EVENT, Encoding.JSON, 1, to_json(make_event(Outcome.PASSED, 1))))
    raw = RawEntries(at, at, at, [field] * len(at))
    parts = list(unbroken(raw))
    assert [entry for part in parts for entry in part] == list(raw)
    assert all(two - one == 1 for part in parts for one, two in pairwise(part.positions))
    assert all(two.positions[0] - one.positions[-1] > 1 for one, two in pairwise(parts))
