"""Promise 1: the tables are a function of the log alone, whatever the workers and the crashes.

Whatever the batches is tests/analytics/test_determinism.py.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analytics.rulebook import Rulebook, compose
from connectors.postgres import connect, put_rulebook
from connectors.postgres_rows import TABLES
from flows.embedded import EmbeddedValkey
from flows.rulebooks import control
from models.records.entry import encode
from models.records.event import SHARDS
from models.records.raw import RawEntry
from tests.contracts import oracle
from tests.faults.harness import Flow, Ground, Told, changed, count_absorbed, story

pytestmark = [pytest.mark.fault, pytest.mark.timeout(420)]

OTHER: Mapping[str, Mapping[str, Any]] = {
    "RepeatedFailure": {"threshold": 2},
    "StuckJob": {"patience": "20m", "patience_unknown": "20m"},
}


FLEET: Mapping[str, Any] = {"learning_minutes": 1, "calm_minutes": 4}


def with_change(entries: list[Told], rulebook: Rulebook) -> list[Told]:
    """`entries` with `rulebook` coming into force in the middle."""
    middle = len(entries) // 2
    at_ms = entries[middle].at_ms
    name_and_value = encode(control(rulebook, at_ms))
    return [*entries[:middle], *(Told(shard, at_ms, *name_and_value) for shard in range(SHARDS)), *entries[middle:]]


def of_shards(entries: list[Told]) -> dict[int, list[RawEntry]]:
    log: dict[int, list[RawEntry]] = {shard: [] for shard in range(SHARDS)}
    for told in entries:
        there = log[told.shard]
        there.append(RawEntry(len(there) + 1, told.at_ms, len(there), (told.name, told.value)))
    return log


def test_one_two_and_three_workers_with_kills_give_the_same_bytes(
    own_valkey: EmbeddedValkey, databases: list[str], rng: random.Random, tmp_path: Path
) -> None:
    rulebook = compose(detectors=OTHER, policy={"await_log_seconds": 10}, fleet=FLEET)
    entries = with_change(story(rng.randrange(1 << 30), hours=0.9), rulebook)
    tables: list[bytes] = []
    for processes, kills, database in zip((1, 2, 3), (1, 1, 2), databases, strict=True):
        with told(own_valkey, database, tmp_path / f"{len(tables)}", entries, rulebook) as ground:
            absorbed = count_absorbed(ground)
            with Flow(ground, processes=processes, flow__snapshot_seconds=0.3) as flow:
                for _ in range(kills):
                    flow.first_output()
                    flow.kill(rng)
                ground.drain(flow)
            tables.append(dump(ground, entries))
            print(processes, "workers", kills, "kills", absorbed(), "absorbed", len(tables[-1]), "bytes")  # noqa: T201
            if processes == 3:
                ground.check().must_be_exact()
    assert len(tables[0]) > 100_000
    assert re.search(rb"\tclosed\tgithub_containers\t.+\t(label\tpool-7|instance\thub)\t", tables[0])
    assert tables[1:] == [tables[0]] * 2


@contextmanager
def told(
    server: EmbeddedValkey, database: str, directory: Path, entries: list[Told], rulebook: Rulebook
) -> Iterator[Ground]:
    """A ground where `entries` stand in the streams, and the settings are those of `rulebook`, which it knows."""
    directory.mkdir()
    settings = changed(**OTHER) | {"GUARD_RULEBOOK__POLICY__AWAIT_LOG_SECONDS": "10"}
    settings |= {f"GUARD_RULEBOOK__FLEET__{name.upper()}": str(value) for name, value in FLEET.items()}
    ground = Ground(server.url, database, directory, settings)
    with connect(database) as connection:
        put_rulebook(connection, rulebook.digest, rulebook.body, created_by="test")
    ground.client.flushall()
    ground.publish(entries)
    yield ground
    ground.client.close()


def dump(ground: Ground, entries: list[Told]) -> bytes:
    """All tables as text, all columns but written_at; not what the test's own heartbeats said."""
    counts = {shard: len(there) for shard, there in of_shards(entries).items()}
    parts: list[bytes] = []
    with connect(ground.postgres_url) as connection, connection.cursor() as cursor:
        for table, columns in TABLES.items():
            names, keys = ", ".join(c.name for c in columns), ", ".join(oracle.KEYS[table])
            told = " OR ".join(f"(shard = {shard} AND position <= {count})" for shard, count in counts.items())
            where = "" if table == "incidents" else f"WHERE {told}"  # those of the fleet have no position
            query = f"COPY (SELECT {names} FROM guard.{table} {where} ORDER BY {keys}) TO STDOUT"
            with cursor.copy(query.encode()) as copy:
                parts += [bytes(block) for block in copy]
    return b"".join(parts)
