"""Hours of the past at random, as a table and as the shards' streams would have held them."""

from __future__ import annotations

import random

import pyarrow as pa

from analytics.past import HEARTBEAT_MS, SILENCE_MS
from models.records import payload
from models.records.columns import EVENT_SCHEMA
from models.records.event import SHARDS, Event, shard_of
from models.records.flat import from_lines
from tests.analytics.log import MINUTE, Log
from tests.analytics.workload import told


def events_of(rng: random.Random, runs: int = 60) -> list[Event]:
    """What platforms tell of some runs, in order of time."""
    return [t.event for t in told(rng, runs=runs, gap_ms=20 * MINUTE)]


def lines_of(events: list[Event]) -> list[bytes]:
    """Events as JSON lines."""
    return [payload.to_json(event) for event in events]


def table_of(events: list[Event]) -> pa.Table:
    """Events as a table, a row each."""
    rows, bad = from_lines(lines_of(events))
    assert bad == []
    return pa.Table.from_batches([rows]).select(EVENT_SCHEMA.names)


def at(event: Event) -> int:
    """When it happened, Unix milliseconds."""
    return round(event.timestamp.timestamp() * 1000)


def logs_of(events: list[Event], heartbeat_ms: int = HEARTBEAT_MS) -> dict[int, Log]:
    """The streams of all shards, had the events, which are in order of time, come as they happened."""
    first, last = at(events[0]), at(events[-1])
    end = last + SILENCE_MS
    beats = [*range(-(-first // heartbeat_ms) * heartbeat_ms, end, heartbeat_ms), end]
    logs = {}
    for shard in range(SHARDS):
        log, due = Log(), iter(beats)
        beat = next(due, None)
        for event in (e for e in events if shard_of(e.metadata.instance, e.repository) == shard):
            while beat is not None and beat <= at(event):
                log.heartbeats(beat, beat)
                beat = next(due, None)
            log.event(event)
        for rest in [] if beat is None else [beat, *due]:
            log.heartbeats(rest, rest)
        logs[shard] = log
    return logs
