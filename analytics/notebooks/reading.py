"""Events of the past from files, for a notebook: an archive, Parquet, JSON lines, or the sample where none is named.

`guard backtest` takes files of any size; what is read here stands in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
import pyarrow as pa

from analytics.notebooks import sample
from models.records import payload
from models.records.columns import EVENT_SCHEMA
from models.records.errors import InputError, MalformedPayload
from models.records.flat import KNOWN, ROW_SCHEMA, BadRow, checked, from_lines

_PARQUET: Final = b"PAR1"
_DAY_MS: Final = 86_400_000


class Read(NamedTuple):
    """Events in the order in which they were received, each once; and the rows that are none."""

    name: str
    events: pl.DataFrame
    bad: list[BadRow]


def read(path: str = "", *, last_days: int = 31) -> Read:
    """The events at `path`, no older than `last_days` before the newest; of the sample where `path` is empty.

    Raises:
        InputError: there is nothing, or it cannot be read; it says what and why.
    """
    rows, bad = _rows(Path(path).expanduser()) if path else _sample()
    if not rows.num_rows:
        raise InputError(f"no events in {path}" + (f"; the first row: {bad[0].detail}" if bad else ""))
    events = pl.DataFrame(pa.Table.from_batches([rows]))
    since_ms = int(events["received_ms"].max()) - last_days * _DAY_MS  # type: ignore[arg-type]  # there is one
    recent = events.filter(pl.col("received_ms") >= since_ms).sort("received_ms", "row")
    return Read(path or "the sample", recent.unique("id", keep="first", maintain_order=True).drop("row"), bad)


def _sample() -> tuple[pa.RecordBatch, list[BadRow]]:
    return from_lines([payload.to_json(event) for event in sample.events()])


def _rows(path: Path) -> tuple[pa.RecordBatch, list[BadRow]]:
    try:
        if (path / "entries").is_dir():
            return checked(_archive(path / "entries"))
        if path.is_dir() or path.read_bytes()[: len(_PARQUET)] == _PARQUET:
            return checked(_parquet(path))
        return from_lines(path.read_bytes().split(b"\n"))
    except MalformedPayload as error:
        raise InputError(f"{path}: {error.detail}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise InputError(f"{path}: {error}") from None


def _archive(entries: Path) -> pa.Table:
    """Rows of the archive that are events. Columns that came later are null in what was written before."""
    schema = pl.DataFrame(pa.Table.from_batches([], pa.schema([ROW_SCHEMA.field("received_ms"), *EVENT_SCHEMA]))).schema
    frame = pl.scan_parquet(
        entries / "**/*.parquet",
        schema=schema,
        hive_partitioning=False,
        missing_columns="insert",
        extra_columns="ignore",
    )
    return frame.filter(pl.col("id").is_not_null()).collect().to_arrow()


def _parquet(path: Path) -> pa.Table:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no Parquet files there")
    frames = [pl.scan_parquet(file) for file in files]
    known = [frame.select(name for name in frame.collect_schema() if name in KNOWN) for frame in frames]
    return pl.concat(known, how="diagonal_relaxed").collect().to_arrow()
