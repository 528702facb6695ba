"""What the live flow would have said: events of the past through the shards that judge the present.

    from analytics.backtest import replay
    from analytics.rulebook import compose

    told = replay(events, compose())        # a polars or pyarrow table of events, a row each
    told.tables["decisions"]

No file, server or clock is touched. `guard backtest` does the same with files of any size, on all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from analytics.fleet import Fleet
from analytics.past import MOST_AT_ONCE, Span, batches, by_shard
from analytics.rulebook import Rulebook
from analytics.shard import REJECT_WINDOW, Shard
from models.records.columns import Batch
from models.records.event import SHARDS
from models.records.flat import BadRow, checked
from models.records.outputs import ShardOutput, ShardStats
from models.records.tables import KEYS, RECORDS, table

Resolve: TypeAlias = Callable[[str], Rulebook]
Past: TypeAlias = pa.Table | pl.DataFrame | Mapping[int, Iterable[Batch]]
NOTHING: Final = ShardStats(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Told:
    """All that was said: a table of each kind of row, what was counted, and the rows that are no events."""

    tables: Mapping[str, pa.Table]
    stats: ShardStats
    bad: tuple[BadRow, ...] = ()


def replay(events: Past, rulebook: Rulebook, *, resolve: Resolve | None = None) -> Told:
    """What shards with `rulebook` say to `events`: a table, a row each (models/records/flat.py), or batches by shard.

    `resolve` gives the rulebook that a control entry names; without it `rulebook` stays in force.

    Raises:
        MalformedPayload: the table lacks a column, or one holds values of another kind; it is named.
    """
    bad: list[BadRow] = []
    if not isinstance(events, Mapping):
        rows, bad = checked(_arrow(events))
        events = batches_of(rows)
    said: dict[str, list[Any]] = {name: [] for name in RECORDS}
    stats, fleet = NOTHING, Fleet()
    for shard, each in sorted(events.items()):
        for output in judged(shard, each, rulebook, resolve):
            for name, rows_of in said.items():
                rows_of.extend(getattr(output, name))
            said["incidents"] += [row for message in output.closed for row in fleet.process(message)]
            stats = added(stats, output.stats)
    tables = {name: table(name, rows) for name, rows in said.items()}
    return Told({name: rows.filter(final(name, rows)) for name, rows in tables.items()}, stats, tuple(bad))


def judged(
    shard: int, entries: Iterable[Batch], rulebook: Rulebook, resolve: Resolve | None = None
) -> Iterator[ShardOutput]:
    """What one shard says to its batches, one after the other. Entries that cannot be read never stop it."""
    judge = Shard(shard, rulebook, resolve or (lambda _digest: rulebook), most_bad=REJECT_WINDOW)
    return map(judge.process, entries)


def batches_of(rows: pa.RecordBatch) -> dict[int, Iterable[Batch]]:
    """What each shard reads of `rows`, which have ROW_SCHEMA."""
    if not rows.num_rows:
        return {}
    first, last = pc.min_max(rows.column("received_ms")).values()
    span = Span(first.as_py(), last.as_py())
    parts = by_shard(pa.Table.from_batches([rows]))
    return {shard: batches(parts[shard].to_batches(MOST_AT_ONCE), span) for shard in range(SHARDS)}


def final(name: str, rows: pa.Table) -> pa.Array:
    """Which rows of the table `name`, in the order in which they were said, PostgreSQL would keep.

    A shard that has forgotten a failure says the same of it again when it is told a second time.
    """
    keys = pl.DataFrame(rows.select(KEYS[name]))
    return keys.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_arrow()


def added(one: ShardStats, other: ShardStats) -> ShardStats:
    """The sum of both."""
    return ShardStats(*map(sum, zip(one, other, strict=True)))


def _arrow(events: pa.Table | pl.DataFrame) -> pa.Table:
    return events.to_arrow() if isinstance(events, pl.DataFrame) else events
