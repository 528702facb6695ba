"""What every sink promises. A sink is named in SINKS with how to open it and how to read back what it holds."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, run_main

from connectors.postgres import connect, migrate, read_progress
from connectors.postgres_rows import TABLES
from connectors.postgres_sink import FLEET, Item, PostgresSink, PostgresSinkPartition
from connectors.postgres_writer import BadRow, Limits, Writer
from flows.embedded import EmbeddedPostgres
from models.records.event import SHARDS
from models.records.outputs import ShardOutput
from tests.connectors.outputs import (
    act_outcome,
    aggregate,
    decision,
    diagnosis,
    failure,
    fault,
    finding,
    incident,
    job_hour,
    letter,
    progress,
)

KEYS = {f"salted-{shard}-{shard * 7}": shard for shard in range(SHARDS)}
PARTS = {**KEYS, "fleet": FLEET}
BATCHES = 40


@dataclass(frozen=True)
class Case:
    """A sink under test."""

    open: Callable[[], PostgresSink]
    rows: Callable[[], dict[str, Counter[tuple[Any, ...]]]]  # by table, without when they were written
    positions: Callable[[], dict[int, int]]
    retries: list[str]


def postgres_case(url: str) -> Case:
    """The PostgreSQL sink on the database at `url`."""
    limits = Limits(backoff_s=0.01, backoff_cap_s=0.1)
    retries: list[str] = []

    def open_writer() -> Writer:
        return Writer(url, clock=lambda: 0.0, monotonic=time.monotonic, on_retry=retries.append, limits=limits)

    def rows() -> dict[str, Counter[tuple[Any, ...]]]:
        found = {}
        with connect(url) as connection:
            for table, columns in TABLES.items():
                names = ", ".join(f"{column.name}::text" for column in columns)
                found[table] = Counter(connection.execute(f"SELECT {names} FROM guard.{table}".encode()).fetchall())
        return found

    def positions() -> dict[int, int]:
        with connect(url) as connection:
            return {shard: reached.position for shard, reached in read_progress(connection).items()}

    return Case(lambda: PostgresSink(PARTS, open_writer), rows, positions, retries)


@pytest.fixture(params=["postgres"])
def sink(database: str) -> Case:
    """Each sink, empty."""
    return postgres_case(database)


@pytest.fixture
def parts(sink: Case) -> Iterator[Callable[[int], PostgresSinkPartition]]:
    """Opens partitions of one sink, and closes them."""
    opened: list[PostgresSinkPartition] = []
    target = sink.open()

    def build(shard: int) -> PostgresSinkPartition:
        opened.append(target.build_part("flow.sink", f"{shard:02d}", None))
        return opened[-1]

    yield build
    for part in opened:
        part.close()


def item(number: int) -> Item:
    """What one batch makes a shard say: some rows of each kind, all told apart by `number`."""
    own = range(number * 10, number * 10 + 10)
    said = ShardOutput(
        [failure(n) for n in own],
        [finding(n) for n in own[:2]],
        [decision(n) for n in own[:3]],
        [aggregate(n) for n in own[:2]],
        [letter(number)],
        [diagnosis(n) for n in own[:5]],
        [fault(number)],
        [job_hour(n) for n in own[:4]],
        [incident(n) for n in own[:1]],
        [act_outcome(n) for n in own[:2]],
    )
    return said, progress(number)


def test_parts_are_the_shards_and_the_fleet_and_keys_find_theirs(sink: Case) -> None:
    target = sink.open()
    parts = target.list_parts()
    assert parts == sorted(parts)
    assert len(parts) == SHARDS + 1
    assert [parts[target.part_fn(key)] for key in PARTS] == [f"{part:02d}" for part in PARTS.values()]


def test_what_a_snapshot_covers_is_there(sink: Case, parts: Callable[[int], PostgresSinkPartition]) -> None:
    part = parts(3)
    part.write_batch([item(1), item(2)])
    part.write_batch([item(3)])
    assert part.snapshot() == {"version": 1, "position": 3}
    found = sink.rows()
    assert {table: rows.total() for table, rows in found.items()} == {
        "failures": 30,
        "findings": 6,
        "decisions": 9,
        "aggregates": 6,
        "dead_letters": 3,
        "diagnoses": 15,
        "detector_faults": 3,
        "job_hours": 12,
        "incidents": 3,
        "act_outcomes": 6,
    }
    assert sink.positions() == {3: 3}


def test_a_snapshot_of_nothing_waits_for_nothing(parts: Callable[[int], PostgresSinkPartition]) -> None:
    assert parts(0).snapshot() == {"version": 1, "position": 0}


def test_a_replay_under_other_batch_bounds_changes_no_row(
    sink: Case, parts: Callable[[int], PostgresSinkPartition], rng: random.Random
) -> None:
    items = [item(number) for number in range(1, 9)]
    first = parts(0)
    first.write_batch(items)
    first.snapshot()
    once = sink.rows()
    for _ in range(5):
        again = parts(0)
        start = rng.randrange(len(items))
        while start < len(items):
            end = rng.randint(start + 1, len(items))
            again.write_batch(items[start:end])
            start = end
        again.snapshot()
    assert sink.rows() == once
    assert max(rows.most_common(1)[0][1] for rows in once.values()) == 1
    assert sink.positions() == {0: 8}


def test_a_row_that_came_twice_in_one_batch_is_there_once(
    sink: Case, parts: Callable[[int], PostgresSinkPartition]
) -> None:
    said, reached = item(1)
    part = parts(0)
    twice = said._replace(failures=said.failures * 2, decisions=said.decisions * 2, aggregates=said.aggregates * 2)
    part.write_batch([(twice, reached), (said, reached)])
    part.snapshot()
    assert {table: rows.total() for table, rows in sink.rows().items()} == {
        table: len(getattr(said, table)) for table in TABLES
    }


def test_what_one_batch_said_is_seen_whole_or_not_at_all(
    sink: Case, parts: Callable[[int], PostgresSinkPartition]
) -> None:
    part = parts(0)
    done = threading.Event()

    def write() -> None:
        for number in range(1, 31):
            part.write_batch([item(number)])
        part.snapshot()
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        before = sink.positions().get(0, 0)
        failures = sink.rows()["failures"].total()
        assert failures % 10 == 0
        assert failures >= before * 10
    thread.join()
    assert sink.rows()["failures"].total() == 300


def test_shards_do_not_wait_for_each_others_items(sink: Case, parts: Callable[[int], PostgresSinkPartition]) -> None:
    all_parts = [parts(shard) for shard in range(SHARDS)]
    for number in range(1, 4):
        for shard, part in enumerate(all_parts):
            part.write_batch([item(number * SHARDS + shard)])
    for part in all_parts:
        part.snapshot()
    assert sink.positions() == {shard: 3 * SHARDS + shard for shard in range(SHARDS)}
    assert sink.rows()["failures"].total() == 3 * SHARDS * 10


def test_a_value_that_cannot_be_held_stops_the_flow_and_is_named(
    parts: Callable[[int], PostgresSinkPartition],
) -> None:
    part = parts(0)
    part.write_batch([(ShardOutput([failure(1, excerpt="\0")], [], [], [], []), progress(1))])
    with pytest.raises(BadRow, match=r"guard\.failures\.excerpt"):
        part.snapshot()


def test_a_dataflow_writes_through_it(sink: Case) -> None:
    said = [(key, item(number * SHARDS + shard)) for number in range(1, 4) for key, shard in KEYS.items()]
    told = ShardOutput([], [], [], [], [], incidents=[incident(1), incident(1, 1)]), None
    said += [("fleet", told)] * 2
    flow = Dataflow("sinks")
    op.output("sink", op.input("source", flow, TestingSource(said, batch_size=5)), sink.open())
    run_main(flow)
    assert sink.rows()["failures"].total() == 3 * SHARDS * 10
    assert sink.rows()["incidents"].total() == 3 * SHARDS + 2
    assert sink.positions() == {shard: 3 * SHARDS + shard for shard in range(SHARDS)}


@pytest.mark.fault
def test_a_server_that_is_killed_while_it_writes_has_every_snapshot_exactly_once(
    own_postgres: EmbeddedPostgres, rng: random.Random
) -> None:
    migrate(own_postgres.url)
    sink = postgres_case(own_postgres.url)
    target = sink.open()
    parts = [target.build_part("flow.sink", f"{shard:02d}", None) for shard in range(2)]
    kills = sorted(rng.sample(range(1, BATCHES), 3))
    covered = 0
    for number in range(1, BATCHES + 1):
        for shard, part in enumerate(parts):
            part.write_batch([item(number * 2 + shard)])
        if number == 1:
            parts[0].snapshot()  # from here on there is a connection to break
        if number in kills:
            own_postgres.kill()
            own_postgres.start()
            found = sink.rows()["failures"]
            assert found.total() >= covered * 20
            assert max(found.values(), default=1) == 1
        if number % 5 == 0:
            for part in parts:
                part.snapshot()
            covered = number
    for part in parts:
        part.close()
    assert sink.retries
    assert {table: (rows.total(), len(rows)) for table, rows in sink.rows().items()} == {
        "failures": (BATCHES * 20,) * 2,
        "findings": (BATCHES * 4,) * 2,
        "decisions": (BATCHES * 6,) * 2,
        "aggregates": (BATCHES * 4,) * 2,
        "dead_letters": (BATCHES * 2,) * 2,
        "diagnoses": (BATCHES * 10,) * 2,
        "detector_faults": (BATCHES * 2,) * 2,
        "job_hours": (BATCHES * 8,) * 2,
        "incidents": (BATCHES * 2,) * 2,
        "act_outcomes": (BATCHES * 4,) * 2,
    }
    assert sink.positions() == {0: BATCHES * 2, 1: BATCHES * 2 + 1}
