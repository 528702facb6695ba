"""A replay says what a shard says that reads the same events from its stream."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from analytics.backtest import Told, final, replay
from analytics.past import Span, batches, by_shard
from analytics.shard import Shard
from models.records.columns import decode
from models.records.event import SHARDS, Outcome
from models.records.flat import checked
from models.records.outputs import ShardOutput
from models.records.tables import RECORDS, table
from tests.analytics.log import MINUTE, OTHER_RULEBOOK, RESOLVE, RULEBOOK, T0, Log, play
from tests.analytics.past import events_of, logs_of, table_of
from tests.analytics.workload import full_log


def _tables(outputs: list[ShardOutput]) -> dict[str, pa.Table]:
    return {name: table(name, [row for o in outputs for row in getattr(o, name)]) for name in RECORDS}


def _without(tables: Any, *columns: str) -> dict[str, list[dict[str, Any]]]:
    return {name: pl.DataFrame(rows).drop(columns, strict=False).to_dicts() for name, rows in dict(tables).items()}


def test_a_table_of_events_says_what_their_streams_say(rng: random.Random) -> None:
    events = events_of(rng)
    outputs = []
    for shard, log in logs_of(events).items():
        outputs.append(Shard(shard, RULEBOOK, RESOLVE).process(decode(log.entries)))
    told = replay(table_of(events), RULEBOOK)
    expected = _tables(outputs)
    assert {name: rows.to_pylist() for name, rows in told.tables.items()} == {
        name: rows.to_pylist() for name, rows in expected.items()
    }
    assert told.tables["findings"].num_rows
    assert told.tables["decisions"].num_rows
    assert told.stats.events == len(events)


def test_polars_and_the_order_of_the_rows_change_nothing(rng: random.Random) -> None:
    events = list({(e.timestamp, e.repository): e for e in events_of(rng)}.values())
    plain = replay(table_of(events), RULEBOOK)
    rng.shuffle(events)
    frame = pl.from_arrow(table_of(events))
    assert isinstance(frame, pl.DataFrame)
    assert replay(frame, RULEBOOK) == plain


def test_duplicates_change_nothing_but_positions(rng: random.Random) -> None:
    events = events_of(rng)
    plain = replay(table_of(events), RULEBOOK)
    twice = replay(table_of(events + rng.sample(events, len(events) // 3)), RULEBOOK)
    assert twice.stats.duplicates == len(events) // 3
    assert _without(twice.tables, "position") == _without(plain.tables, "position")


@pytest.mark.parametrize("heartbeat_ms", [1000, 7000, 600_000])
def test_how_far_heartbeats_stand_apart_changes_nothing_but_positions(rng: random.Random, heartbeat_ms: int) -> None:
    rows, _ = checked(table_of(events_of(rng, 30)))
    received = rows.column("received_ms").to_pylist()
    parts, span = by_shard(pa.Table.from_batches([rows])), Span(min(received), max(received))
    told = replay({s: batches(parts[s].to_batches(), span, heartbeat_ms=heartbeat_ms) for s in range(SHARDS)}, RULEBOOK)
    plain = replay(rows_of(rows), RULEBOOK)
    assert _without(told.tables, "position") == _without(plain.tables, "position")


def rows_of(rows: pa.RecordBatch) -> pa.Table:
    """Checked rows as the table they came from."""
    return pa.Table.from_batches([rows]).drop_columns(["row"])


def test_batches_of_entries_are_replayed_with_the_rulebooks_that_they_name(rng: random.Random) -> None:
    log = full_log(rng)
    said, _ = play(log.entries)
    told: Told = replay({3: [decode(log.entries[:100]), decode(log.entries[100:])]}, RULEBOOK, resolve=RESOLVE)
    assert told.tables["decisions"] == table("decisions", said.decisions)
    letters = table("dead_letters", said.dead_letters)  # entries of a test's log may share an id
    assert told.tables["dead_letters"] == letters.filter(final("dead_letters", letters))
    assert OTHER_RULEBOOK.digest in told.tables["decisions"].column("rulebook").to_pylist()


def test_without_a_resolver_one_rulebook_stays_in_force(rng: random.Random) -> None:
    told = replay({3: [decode(full_log(rng).entries)]}, OTHER_RULEBOOK)
    assert set(told.tables["decisions"].column("rulebook").to_pylist()) == {OTHER_RULEBOOK.digest}


def test_a_row_that_is_no_event_is_left_out_and_told(rng: random.Random) -> None:
    events = table_of(events_of(rng))
    wrong = events.set_column(2, "platform", pa.array(["travis" if i == 7 else "github" for i in range(len(events))]))
    told = replay(wrong, RULEBOOK)
    assert told.bad[0].row == 7
    assert "`platform`" in told.bad[0].detail
    assert told.stats.events == len(events) - 1


def test_no_events_say_nothing() -> None:
    assert replay(table_of([]), RULEBOOK).stats.events == 0


def test_what_is_said_of_a_failure_again_when_it_was_forgotten_is_no_row() -> None:
    at = T0
    log = Log()
    for begins in (at, at + 24 * 60 * MINUTE):
        log.say(Outcome.FAILED, at, received_ms=begins)
        log.heartbeats(begins, begins + 60 * MINUTE)
    said, _ = play(log.entries)
    assert len(said.failures) == 2
    told = replay({3: [decode(log.entries)]}, RULEBOOK)
    assert told.tables["failures"] == table("failures", said.failures[:1])
