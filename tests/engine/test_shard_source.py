"""The source over the shards, driven by the engine itself."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
import redis
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, cluster_main

from connectors.delivery import Delivery
from connectors.redis_reader import GapKind
from connectors.redis_source import PART_OF, ShardSource
from connectors.redis_streams import GROUP, backlog, log_key, publish
from models.records.entry import Encoding, Entry, Kind, decode
from models.records.event import SHARDS
from models.records.raw import RawEntry


class Enough(Exception):
    """All that was waited for has come."""


class Silent:
    """Hooks that fail the run on a gap or trouble, and count what was proven durable."""

    def __init__(self) -> None:
        self.proven: dict[int, int] = {}
        self.workers: set[int] = set()

    def durable(self, shard: int, entry_id: str, position: int) -> None:
        """Keep it."""
        self.proven[shard] = position
        self.workers.add(threading.get_ident())

    def gap(self, shard: int, kind: GapKind, count: int) -> None:
        """There is none."""
        raise AssertionError((shard, kind, count))

    def trouble(self, error: Exception) -> None:
        """There is none."""
        raise AssertionError(error)

    def epoch(self, shard: int, batches: int) -> None:
        """Nothing to do."""


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def put(client: Any, first: int, count: int) -> None:
    numbers = range(first, first + count)
    publish(
        client, [Delivery(s, ((Entry(Kind.EVENT, Encoding.JSON, n, b"{}"), None),)) for n in numbers for s in range(12)]
    )


def run(url: str, store: Path, workers: int, enough: Callable[[dict[int, list[RawEntry]], Silent], bool]) -> Any:
    """Run until there is enough; what was read by shard, and the hooks."""
    hooks = Silent()
    read: dict[int, list[RawEntry]] = defaultdict(list)
    source = ShardSource(
        url,
        start=lambda _: ("0-0", 0),
        durable=True,
        retention=timedelta(hours=1),
        now_ms=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
        hooks=hooks,
    )
    deadline = time.monotonic() + 20
    ended = threading.Event()

    def keep(item: tuple[str, list[RawEntry]]) -> None:
        assert time.monotonic() < deadline
        read[PART_OF[item[0]]] += item[1]
        if enough(read, hooks):
            ended.set()
            raise Enough

    flow = Dataflow("flow")
    stream = op.map("keep", op.input("source", flow, source), keep)
    op.output("out", stream, TestingSink([]))
    try:
        cluster_main(
            flow,
            [],
            0,
            epoch_interval=timedelta(milliseconds=50),
            recovery_config=RecoveryConfig(str(store)),
            worker_count_per_proc=workers,
        )
    except BaseException as error:  # a worker that panics is told of in several ways, not all of them an Exception
        if not ended.is_set() or type(error).__name__ not in {"BytewaxRuntimeError", "Enough", "PanicException"}:
            raise
    return read, hooks


def test_reading_goes_on_exactly_through_crashes_and_other_numbers_of_workers(
    redis_url: str, client: Any, tmp_path: Path
) -> None:
    init_db_dir(tmp_path, 2)
    seen: dict[int, int] = dict.fromkeys(range(SHARDS), 0)
    for turn, workers in enumerate((1, 2, 3)):
        put(client, turn * 40, 40)
        last = (turn + 1) * 40

        def enough(read: dict[int, list[RawEntry]], _: Silent, last: int = last) -> bool:
            return len(read) == SHARDS and all(entries[-1].position == last for entries in read.values())

        read, _hooks = run(redis_url, tmp_path, workers, enough)
        for shard, entries in read.items():
            positions = [entry.position for entry in entries]
            assert positions == list(range(positions[0], last + 1))
            assert positions[0] <= seen[shard] + 1
            assert [decode(*entry.fields).received_ms + 1 for entry in entries] == positions
            seen[shard] = last


def test_what_is_proven_durable_is_where_the_cursor_stands_and_the_next_run_begins(
    redis_url: str, client: Any, tmp_path: Path
) -> None:
    init_db_dir(tmp_path, 1)
    over = threading.Event()

    def beat() -> None:
        number = 0
        while not over.wait(0.01):
            put(client, number, 1)
            number += 1

    beats = threading.Thread(target=beat)
    beats.start()

    def all_proven(_: dict[int, list[RawEntry]], hooks: Silent) -> bool:
        return len(hooks.proven) == SHARDS and min(hooks.proven.values()) > 20

    try:
        before, hooks = run(redis_url, tmp_path, 2, all_proven)
    finally:
        over.set()
        beats.join()
    assert len(hooks.workers) == 2
    unread = 0
    for shard in range(SHARDS):
        group = client.xinfo_groups(log_key(shard))[0]
        assert group["name"] == GROUP.encode()
        assert 0 < group["entries-read"] <= hooks.proven[shard]
        assert group["entries-read"] + group["lag"] == client.xlen(log_key(shard))
        unread += group["lag"]
    assert sum(shard.depth for shard in backlog(client, now_ms=0)) == unread

    put(client, 10_000, 1)
    read, _ = run(redis_url, tmp_path, 1, lambda read, _: len(read) == SHARDS)
    for shard, entries in read.items():  # the last epoch may have been committed without having been proven yet
        assert hooks.proven[shard] < entries[0].position <= before[shard][-1].position + 1
