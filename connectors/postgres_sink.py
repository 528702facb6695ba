"""The end of the dataflow: a Bytewax sink with a partition for each shard and one for the fleet, over the one writer of
the process.

An epoch is not durable before the sink's snapshots are stored, so snapshot() waits until all that its partition wrote
is durable. After a crash the engine replays from the last snapshot, and rows that were written since meet themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.postgres import Progress
from connectors.postgres_writer import Writer
from models.records.event import SHARDS
from models.records.outputs import ShardOutput

Item: TypeAlias = tuple[ShardOutput, Progress | None]
State: TypeAlias = dict[str, Any]

FLEET: Final = SHARDS
"""The partition behind those of the shards."""


class PostgresSink(FixedPartitionedSink[Item, State]):  # type: ignore[misc]  # bytewax is not typed
    """Takes (key of a shard, (what it said, how far it came)).

    `part_of` gives the shard of each of the salted keys, and FLEET for that of the fleet. `open_writer` is called once
    in each process, when the first item comes, and the writer is closed with the last partition.
    """

    def __init__(self, part_of: Mapping[str, int], open_writer: Callable[[], Writer]) -> None:
        self._part_of = dict(part_of)
        self._shared = _SharedWriter(open_writer)

    def list_parts(self) -> list[str]:
        """One partition for each shard, "00" to "11", and "12" for the fleet."""
        return [f"{part:02d}" for part in (*range(SHARDS), FLEET)]

    def part_fn(self, item_key: str) -> int:
        """The partition of the shard whose key this is, or of the fleet."""
        return self._part_of[item_key]

    def build_part(
        self,
        step_id: str,  # noqa: ARG002 -- Bytewax's signature
        for_part: str,
        resume_state: State | None,  # noqa: ARG002 -- what is in PostgreSQL needs no undoing
    ) -> PostgresSinkPartition:
        """The partition of one shard, or of the fleet."""
        return PostgresSinkPartition(int(for_part), self._shared)


class PostgresSinkPartition(StatefulSinkPartition[Item, State]):  # type: ignore[misc]  # bytewax is not typed
    """The way of one shard, or of the fleet, to PostgreSQL."""

    def __init__(self, shard: int, shared: _SharedWriter) -> None:
        self._shard = shard
        self._shared = shared
        self._writer = shared.acquire()
        self._ticket = 0
        self._position = 0

    def write_batch(self, values: list[Item]) -> None:
        """Queue what was said; it is on its way before the next batch is computed."""
        for output, progress in values:
            self._ticket = self._writer.submit(self._shard, output, progress)
            if progress is not None:
                self._position = progress.position

    def snapshot(self) -> State:
        """Wait until all of this partition is durable, then say so."""
        self._writer.wait(self._ticket)
        return {"version": 1, "position": self._position}

    def close(self) -> None:
        """Let go of the writer. Bytewax closes after errors too, so nothing is waited for or committed here."""
        self._shared.release()


class _SharedWriter:
    """One writer for all partitions of a process, opened with the first and closed with the last."""

    def __init__(self, open_writer: Callable[[], Writer]) -> None:
        self._open = open_writer
        self._lock = threading.Lock()
        self._users = 0
        self._writer: Writer | None = None

    def acquire(self) -> Writer:
        with self._lock:
            if self._writer is None:
                self._writer = self._open()
            self._users += 1
            return self._writer

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._writer is not None:
                self._writer.close()
                self._writer = None
