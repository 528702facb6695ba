"""What a large state costs: 10^5 repositories in the twelve shards of one process, their snapshots and restores.

    python -m benchmarks.snapshots --repositories 100000 --minutes 30

Fills the shards with stream time at 1,000 events a second (40,000 runs under way, so that jobs are running as they
would be), then measures each snapshot and restore. After that, in a fresh process for each epoch length, the filled
shards run as stateful steps in Bytewax with a recovery store on disk, fed in real time at the same rate: what an epoch
costs in CPU, how long the source is held up at its end, against the same flow with an epoch that never ends.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import bytewax.operators as op
import msgspec
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from analytics.rulebook import compose
from analytics.shard import Shard
from benchmarks.workload import Planned, Workload, cached, entries
from connectors.redis_source import KEYS, PART_OF
from flows.garbage import look_once
from flows.journal_files import JournalFiles
from flows.recovery import PARTITIONS
from models.records.columns import Batch, decode
from models.records.entry import Encoding
from models.records.event import SHARDS
from models.records.raw import RawEntry

_RATE: Final = 1000.0
_OPEN_RUNS: Final = 40_000
_PER_ENTRY: Final = 100
_BLOCK: Final = 240  # packed entries: two in a batch of each shard
_TICK_SECONDS: Final = 0.1
_NEVER: Final = 3600.0

_RULEBOOK: Final = compose()


def batches(planned: Iterator[Planned], positions: list[int], block: int) -> Iterator[tuple[int, Batch]]:
    """The entries as batches of one shard each, as they would be read: `block` entries of all shards at a time."""
    while some := list(islice(planned, block)):
        by_shard: dict[int, list[RawEntry]] = {}
        for entry in some:
            positions[entry.shard] += 1
            raw = RawEntry(positions[entry.shard], entry.received_ms, 0, (entry.name, entry.value))
            by_shard.setdefault(entry.shard, []).append(raw)
        for shard, read in sorted(by_shard.items()):
            yield shard, decode(read)


def fill(workload: Workload) -> list[Shard]:
    """Twelve shards that have seen `workload`."""
    shards = [Shard(number, _RULEBOOK, lambda _: _RULEBOOK) for number in range(SHARDS)]
    planned = cached(workload, Encoding.PACKED, per_entry=_PER_ENTRY)
    for shard, batch in batches(planned, [0] * SHARDS, _BLOCK):
        shards[shard].process(batch)
    return shards


def costs(shards: list[Shard]) -> dict[str, Any]:
    """Bytes and milliseconds of each snapshot, and of each restore."""
    sizes, snapshot_ms, restore_ms = [], [], []
    for shard in shards:
        shard.snapshot()  # the first one also writes the ids of the whole past
        began = time.perf_counter()
        state = shard.snapshot()
        snapshot_ms.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        Shard.restore(state, lambda _: _RULEBOOK)
        restore_ms.append((time.perf_counter() - began) * 1000)
        sizes.append(len(state))
    return {
        "bytes": _spread(sizes),
        "total_bytes": sum(sizes),
        "snapshot_ms": _spread(snapshot_ms),
        "total_snapshot_ms": round(sum(snapshot_ms), 1),
        "restore_ms": _spread(restore_ms),
        "total_restore_ms": round(sum(restore_ms), 1),
    }


def _spread(values: list[float] | list[int]) -> dict[str, float]:
    return {"least": round(min(values), 1), "median": round(float(np.median(values)), 1), "most": round(max(values), 1)}


def parts(state: bytes) -> dict[str, int]:
    """What the largest parts of a snapshot are, in bytes."""
    said = msgspec.msgpack.decode(state)
    sizes = {name: len(msgspec.msgpack.encode(value)) for name, value in {**said, **said["journals"]}.items()}
    del sizes["journals"]
    return dict(sorted(sizes.items(), key=lambda item: -item[1])[:6])


# --- in Bytewax, in a process of its own


class _Feed(StatefulSourcePartition[tuple[str, Batch], None]):  # type: ignore[misc]  # bytewax is not typed
    """The batches of one shard, one each tick of real time; notes how long it is held up after a snapshot."""

    def __init__(self, key: str, left: list[Batch], ends: float, held: list[float]) -> None:
        self._key = key
        self._left = left
        self._due = time.monotonic()
        self._ends = ends
        self._held = held
        self._snapshot_at: float | None = None

    def next_batch(self) -> list[tuple[str, Batch]]:
        now = time.monotonic()
        if self._snapshot_at is not None:
            self._held.append(now - self._snapshot_at)
            self._snapshot_at = None
        if now >= self._ends or not self._left:
            raise StopIteration
        due: list[tuple[str, Batch]] = []
        while self._left and self._due <= now:
            due.append((self._key, self._left.pop()))
            self._due += _TICK_SECONDS
        return due

    def next_awake(self) -> datetime:
        return datetime.now().astimezone() + timedelta(seconds=max(0.0, self._due - time.monotonic()))

    def snapshot(self) -> None:
        self._snapshot_at = time.monotonic()


class _Source(FixedPartitionedSource[tuple[str, Batch], None]):  # type: ignore[misc]  # bytewax is not typed
    def __init__(self, feeds: dict[int, list[Batch]], seconds: float) -> None:
        self._feeds = feeds
        self._seconds = seconds
        self.held: list[float] = []

    def list_parts(self) -> list[str]:
        return [f"{shard:02d}" for shard in range(SHARDS)]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Feed:  # noqa: ARG002 - the engine's
        shard = int(for_part)
        return _Feed(KEYS[shard], self._feeds[shard][::-1], time.monotonic() + self._seconds, self.held)


class _Logic(StatefulBatchLogic[Batch, int, bytes]):  # type: ignore[misc]  # bytewax is not typed
    """One filled shard."""

    def __init__(self, shards: dict[int, Shard], files: JournalFiles, snapshots: list[float]) -> None:
        self._shards = shards
        self._files = files
        self._snapshots = snapshots
        self._shard: Shard | None = None

    def on_batch(self, values: list[tuple[int, Batch]]) -> tuple[list[int], bool]:
        said = []
        for number, batch in values:
            if self._shard is None:
                self._files.begin(number)
            self._shard = self._shards[number]
            said.append(len(self._shard.process(batch).failures))
        return said, StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[int], bool]:
        return [], StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[list[int], bool]:
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> None: ...

    def snapshot(self) -> bytes:
        assert self._shard is not None
        began = time.perf_counter()
        state = self._shard.snapshot(self._files.keep)
        self._files.seal()
        self._snapshots.append(time.perf_counter() - began)
        return state


class _Nowhere(DynamicSink[int]):  # type: ignore[misc]  # bytewax is not typed
    class _Part(StatelessSinkPartition[int]):  # type: ignore[misc]  # bytewax is not typed
        def write_batch(self, items: list[int]) -> None: ...

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nowhere._Part:  # noqa: ARG002 - the engine's
        return self._Part()


def epochs(directory: Path, *, epoch: float, seconds: float) -> dict[str, Any]:
    """Run the filled shards for `seconds` with epochs of `epoch` seconds."""
    states, feeds = pickle.loads((directory / "filled.pickle").read_bytes())  # noqa: S301 - written by our own parent
    shards = {shard: Shard.restore(state, lambda _: _RULEBOOK) for shard, state in enumerate(states)}
    for shard in shards.values():
        shard.snapshot()
    decoded = {shard: [decode(read) for read in some] for shard, some in feeds.items()}
    source, snapshots = _Source(decoded, seconds), list[float]()
    flow = Dataflow("snapshots")
    numbered: Any = op.map(
        "number", op.input("source", flow, source), lambda item: (item[0], (PART_OF[item[0]], item[1]))
    )
    store = directory / f"recovery-{epoch}"
    store.mkdir()

    def build(_: bytes | None) -> _Logic:
        return _Logic(shards, JournalFiles(store / "journals"), snapshots)

    op.output("nowhere", op.stateful_batch("shard", numbered, build), _Nowhere())
    init_db_dir(store, PARTITIONS)
    look_once()
    began, cpu = time.monotonic(), time.process_time()
    cli_main(flow, epoch_interval=timedelta(seconds=epoch), recovery_config=RecoveryConfig(str(store)))
    took, spent = time.monotonic() - began, time.process_time() - cpu
    # The last epoch is the one that the end of the input closes: it is no barrier to anything.
    held = np.array(source.held) * 1000
    return {
        "epoch_seconds": epoch,
        "seconds": round(took, 2),
        "cpu_seconds": round(spent, 3),
        "cpu_share": round(spent / took, 4),
        "epochs": len(held) // SHARDS,
        "snapshot_ms_an_epoch": round(sum(snapshots) * 1000 / max(len(snapshots) / SHARDS, 1), 1),
        "stall_ms": {"median": round(float(np.median(held)), 1), "most": round(float(held.max()), 1)}
        if len(held)
        else None,
        "stored_bytes": sum(file.stat().st_size for file in store.rglob("*") if file.is_file()),
    }


def _feeds(planned: Iterator[Planned], shards: list[Shard], seconds: float) -> dict[int, list[list[RawEntry]]]:
    """What each shard reads in each tick."""
    feeds: dict[int, list[list[RawEntry]]] = {shard: [] for shard in range(SHARDS)}
    positions = [shard.position for shard in shards]
    for _ in range(round(seconds / _TICK_SECONDS)):
        tick: dict[int, list[RawEntry]] = {}
        for entry in islice(planned, round(_RATE * _TICK_SECONDS)):
            positions[entry.shard] += 1
            raw = RawEntry(positions[entry.shard], entry.received_ms, 0, (entry.name, entry.value))
            tick.setdefault(entry.shard, []).append(raw)
        for shard, read in tick.items():
            feeds[shard].append(read)
    return feeds


def _in_bytewax(directory: Path, epoch: float, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.snapshots", "--directory", str(directory)]
    done = subprocess.run(
        [*command, "--epoch", str(epoch), "--seconds", str(seconds)], check=True, stdout=subprocess.PIPE
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repositories", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--epoch", type=float)
    args = parser.parse_args()
    if args.directory is not None:
        print(json.dumps(epochs(args.directory, epoch=args.epoch, seconds=args.seconds)))
        return
    events = round(args.minutes * 60 * _RATE)
    filling = Workload(
        events, seed=args.seed, repositories=args.repositories, rate=_RATE, open_runs=min(_OPEN_RUNS, events // 16)
    )
    shards = fill(filling)
    look_once()
    said = costs(shards)
    states = [shard.snapshot() for shard in shards]
    with tempfile.TemporaryDirectory(prefix="guard-bench-") as name:
        longer = replace(filling, events=events + round(args.seconds * _RATE))
        feeds = _feeds(entries(longer, Encoding.PROTOBUF, skip=events), shards, args.seconds)
        (Path(name) / "filled.pickle").write_bytes(pickle.dumps((states, feeds)))
        del shards
        runs = [_in_bytewax(Path(name), epoch, args.seconds) for epoch in (_NEVER, 10.0, 5.0)]
    still = runs[0]["cpu_share"]
    for run in runs[1:]:
        run["cpu_share_of_snapshots"] = round(run["cpu_share"] - still, 4)
    case = {"case": "snapshots", "seed": args.seed, "repositories": args.repositories, "events": events}
    print(json.dumps(case | said | {"largest_parts": parts(states[0]), "bytewax": runs}))


if __name__ == "__main__":
    main()
