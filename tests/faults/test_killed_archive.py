"""Archivers killed at random moments, while they write and while they merge: every entry is archived, and once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from connectors.parquet import events, files, gaps
from connectors.redis_streams import log_key, reader_ages
from flows.embedded import EmbeddedValkey, free_ports
from models.records.columns import decode
from models.records.event import SHARDS
from models.records.raw import RawEntries, RawEntry
from tests.connectors.archives import read
from tests.faults.harness import BEGINS, KEY, ROOT, story
from tests.helpers import wait_until

pytestmark = pytest.mark.fault

KILLS = 10
SLOWER = 30  # a story's hour and a half then lasts two days
EAGER = """
import os, flows.archive, connectors.parquet_writer as writer
from flows.settings import Settings
flows.archive._TIDY_SECONDS = flows.archive._REST_SECONDS = 0.01
writer.FEW = 3
flows.archive.run(Settings.load(os.environ), number={number}, of=2)
"""


class Archivers:
    """Two processes that share the shards, merge whenever they can, and are started again when they were killed."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        self._environ = os.environ | {
            "GUARD_REDIS__URL": redis_url,
            "GUARD_REDACTION__KEY": KEY,
            "GUARD_ARCHIVE__DIRECTORY": str(directory),
            "GUARD_ARCHIVE__FLUSH": "0.05",
            "GUARD_ARCHIVE__METRICS_PORT": str(free_ports(2)),
            "GUARD_LOGGING__LEVEL": "error",
        }
        self._running = [self._start(number) for number in range(2)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", EAGER.format(number=number)]
        return subprocess.Popen(command, env=self._environ, cwd=ROOT)

    def kill(self, number: int) -> None:
        """Kill one of them."""
        self._running[number].kill()
        self._running[number].wait()

    def start(self, number: int) -> None:
        """Start it again."""
        self._running[number] = self._start(number)

    def end(self) -> None:
        """Kill both."""
        for number in range(2):
            self.kill(number)


def standing(client: Any, shard: int) -> list[RawEntry]:
    """What stands in a stream, counted from 1."""
    found = []
    for position, (entry_id, fields) in enumerate(client.xrange(log_key(shard)), 1):
        ms, seq = entry_id.split(b"-")
        found.append(RawEntry(position, int(ms), int(seq), next(iter(fields.items()))))
    return found


def torn(directory: Path) -> list[Path]:
    """Files of which another one has entries too, as any reader of the directory would find them."""
    found = []
    for folder in directory.glob("entries/day=*/shard=*"):
        spans = sorted(tuple(map(int, path.stem.split("-"))) for path in folder.iterdir())
        found += [folder for one, two in pairwise(spans) if two[0] <= one[1]]
    return found


def test_archivers_killed_at_random_moments_keep_every_entry_once(
    own_valkey: EmbeddedValkey, tmp_path: Path, rng: random.Random, seed: int
) -> None:
    client: Any = redis.Redis.from_url(own_valkey.url, protocol=2)
    told = story(seed, hours=1.5)
    directory = tmp_path / "archive"
    archivers = Archivers(own_valkey.url, directory)
    try:
        for kill in range(KILLS):
            pipe = client.pipeline(transaction=False)
            for number in range(kill * len(told) // KILLS, (kill + 1) * len(told) // KILLS):
                one = told[number]
                at_ms = int(BEGINS * 1000) + (one.at_ms - int(BEGINS * 1000)) * SLOWER
                pipe.xadd(log_key(one.shard), {one.name: one.value}, id=f"{at_ms}-{number}")
            pipe.execute()
            wait_until(partial(more_than, directory, len(told) * kill // (2 * KILLS)), within=60, what="some archived")
            time.sleep(rng.uniform(0, 0.3))  # a moment that nothing tells: the test holds at any
            victim = rng.randrange(2)
            archivers.kill(victim)
            assert torn(directory) == []
            archivers.start(victim)
        wait_until(lambda: archived(directory) == len(told), within=60, what="all of it archived")
        wait_until(lambda: reader_ages(client, now_ms=2**43) == {"archive": 0}, within=60, what="all of it told")
    finally:
        archivers.end()
    for shard in range(SHARDS):
        wanted = standing(client, shard)
        assert read(directory, shard) == wanted
        assert gaps(directory, shard) == []
        decoded = decode(RawEntries.of(wanted)).events
        found = events(directory, shard).select(decoded.schema.names).collect()
        assert found.equals(pl.DataFrame(pl.from_arrow(decoded)))
    assert pl.read_parquet(directory / "entries").filter(pl.col("name").is_not_null()).height == len(told)
    assert len({file.day for file in files(directory)}) > 1
    client.close()


def more_than(directory: Path, entries: int) -> bool:
    """Whether the archive has more."""
    return archived(directory) > entries


def archived(directory: Path) -> int:
    """How many entries the archive has."""
    return sum(file.entries for file in files(directory))
