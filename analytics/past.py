"""Events of the past as the batches that a shard would have read, had they come one by one into its stream.

Each event is an entry of its own, received when it was received, and a heartbeat stands in every shard each minute as
long as the events of all shards last and half an hour beyond: minutes and stretches of ten close, and no job is called
stuck because a file ended. What is due is done to the second whatever the heartbeats' distance, so that one each
second, as receivers put them, would change nothing but positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.records.columns import BATCH_SCHEMA, EVENT_SCHEMA, Batch, Mark
from models.records.entry import Kind
from models.records.event import SHARDS, shard_of

HEARTBEAT_MS: Final = 60_000
SILENCE_MS: Final = 1_800_000
"""How long stream time runs on behind the last event."""
MOST_AT_ONCE: Final = 8192
"""Rows of a batch. Batches of other sizes give the same rows."""

Ints = npt.NDArray[np.int64]
_EMPTY: Final = pa.RecordBatch.from_pylist([], schema=BATCH_SCHEMA)


class Span(NamedTuple):
    """When the first and the last of all events were received, Unix milliseconds."""

    first_ms: int
    last_ms: int


def shards_of(events: pa.RecordBatch) -> Ints:
    """The shard of each row."""
    place = pa.StructArray.from_arrays([events.column("instance"), events.column("repository")], ["i", "r"])
    known: dict[tuple[str, str], int] = {}
    shards = np.empty(len(place), np.int64)
    names = zip(*(column.to_pylist() for column in place.flatten()), strict=True)
    for row, name in enumerate(names):
        shard = known.get(name)
        if shard is None:
            shard = known[name] = shard_of(*name)
        shards[row] = shard
    return shards


def in_order(rows: pa.Table) -> pa.Table:
    """`rows`, with ROW_SCHEMA, as they were received; what came in the same millisecond as it stood."""
    received, row = (rows.column(name).to_numpy() for name in ("received_ms", "row"))
    if np.all((received[1:] > received[:-1]) | ((received[1:] == received[:-1]) & (row[1:] > row[:-1]))):
        return rows
    return rows.take(pa.array(np.lexsort((row, received))))


def by_shard(rows: pa.Table) -> dict[int, pa.Table]:
    """`rows`, with ROW_SCHEMA, by shard, each in order."""
    shards = np.concatenate([shards_of(part) for part in rows.to_batches()] or [np.zeros(0, np.int64)])
    return {shard: in_order(rows.filter(pa.array(shards == shard))) for shard in range(SHARDS)}


def batches(rows: Iterable[pa.RecordBatch], span: Span, *, heartbeat_ms: int = HEARTBEAT_MS) -> Iterator[Batch]:
    """What one shard reads: `rows`, its own, with ROW_SCHEMA, in order; `span` is that of all shards."""
    position, beat = 0, -(-span.first_ms // heartbeat_ms) * heartbeat_ms
    for part in rows:
        received = part.column("received_ms").to_numpy()
        beats = np.arange(beat, received[-1] + 1, heartbeat_ms)
        batch = _batch(part, received, beats, position)
        position, beat = batch.last, beat + len(beats) * heartbeat_ms
        yield batch
    for beats in _quiet(beat, span.last_ms + SILENCE_MS, heartbeat_ms):
        batch = Batch(_EMPTY, _marks(np.zeros_like(beats), beats, position), position + len(beats), len(beats))
        position = batch.last
        yield batch


def _quiet(since_ms: int, until_ms: int, heartbeat_ms: int) -> Iterator[Ints]:
    """Heartbeats of a time in which nothing comes, the last at its end."""
    for first in range(since_ms, until_ms, MOST_AT_ONCE * heartbeat_ms):
        yield np.arange(first, min(until_ms, first + MOST_AT_ONCE * heartbeat_ms), heartbeat_ms)
    yield np.array([until_ms])


def _batch(part: pa.RecordBatch, received: Ints, beats: Ints, position: int) -> Batch:
    """Events with the heartbeats that stand between them, behind the entry of `position`."""
    before = np.searchsorted(received, beats)  # a heartbeat stands before what came in its millisecond
    positions = np.arange(1, len(received) + 1) + np.searchsorted(beats, received, side="right") + position
    columns = [pa.array(positions), part.column("received_ms"), part.column("received_ms")]
    events = pa.RecordBatch.from_arrays(
        [*columns, *(part.column(name) for name in EVENT_SCHEMA.names)], schema=BATCH_SCHEMA
    )
    entries = len(received) + len(beats)
    return Batch(events, _marks(before, beats, position), position + entries, entries)


def _marks(rows: Ints, beats: Ints, position: int) -> tuple[Mark, ...]:
    return tuple(
        Mark(row, position + row + i, at, 0, at, Kind.HEARTBEAT, b"")
        for i, (row, at) in enumerate(zip(rows.tolist(), beats.tolist(), strict=True), 1)
    )
