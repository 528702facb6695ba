"""Reading the archive: every entry as it stood in its stream, for a replay; or events as a table, for questions.

    for raw in entries(Path("archive"), 3): batch = decode(raw)
    failed = events(Path("archive")).filter(pl.col("outcome") == "failed").collect()

Any other reader of Parquet takes `archive/entries` as one hive-partitioned directory; rows with an `id` are events.
Files may be merged, and old ones deleted, while they are read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from connectors.parquet_files import ArchiveFile, Damaged, batches, files
from connectors.parquet_rows import ENTRY_COLUMNS, SCHEMA, entries_of
from models.records.raw import RawEntries

__all__ = ["ArchiveFile", "Damaged", "Gap", "entries", "events", "files", "gaps", "shards"]

MOST: Final = 2000
_BYTES_COLUMNS: Final = ("name", "value", "more")
_HIVE: Final = {"day": pl.Date(), "shard": pl.Int64()}


class Gap(NamedTuple):
    """Positions that are not in the archive, `first` and `last` among them."""

    first: int
    last: int


def shards(directory: Path) -> list[int]:
    """The shards of which the archive has anything."""
    return sorted({file.shard for file in files(directory)})


def gaps(directory: Path, shard: int) -> list[Gap]:
    """What the archive has not of a shard, up to its last entry."""
    found: list[Gap] = []
    expected = 1
    for file in files(directory, shard):
        if file.first > expected:
            found.append(Gap(expected, file.first - 1))
        expected = file.last + 1
    return found


def entries(directory: Path, shard: int, *, most: int = MOST) -> Iterator[RawEntries]:
    """Every entry of a shard in the order of its position, exactly as it stood; at most `most` at once.

    Positions within one part leave none out. Entries archived meanwhile come too.

    Raises:
        Damaged: a file cannot be read; the message names it.
    """
    done = 0
    while more := [file for file in files(directory, shard) if file.last > done]:
        try:
            for raw in (part for file in more for part in _parts(file, most)):
                if raw.positions[-1] > done:
                    yield raw[max(0, done + 1 - raw.positions[0]) :]
                    done = raw.positions[-1]
        except FileNotFoundError:
            continue  # one was merged or deleted since; what stands in its place is found


def _parts(file: ArchiveFile, most: int) -> Iterator[RawEntries]:
    for batch in batches(file, rows=most, columns=ENTRY_COLUMNS):
        raw = entries_of(batch)
        if raw:
            yield raw


def _polars_schema() -> dict[str, pl.DataType]:
    empty = pl.from_arrow(SCHEMA.empty_table())
    assert isinstance(empty, pl.DataFrame)
    return dict(empty.schema)


def events(directory: Path, shard: int | None = None) -> pl.LazyFrame:
    """One row per event, by shard and position: `day`, `shard`, and the columns that do not hold the entry's bytes."""
    found = [file.path for file in files(directory, shard)]
    schema = _polars_schema()
    frame = pl.LazyFrame(schema=schema | _HIVE)
    if found:
        frame = pl.scan_parquet(
            found,
            schema=schema,
            hive_partitioning=True,
            hive_schema=_HIVE,
            missing_columns="insert",
            extra_columns="ignore",
        )
    return frame.filter(pl.col("id").is_not_null()).drop(*_BYTES_COLUMNS)
