"""Aggregates per repository and minute of event time, in panes that close behind stream time.

Rows are gathered as Arrow columns and folded by group-by whenever enough of them stand about, so that one event costs
next to nothing. All that is added are integers: the result does not depend on how rows were grouped into batches. A
row that comes after its minute was closed is counted as late in the minute that stream time stands in.

Counted are jobs (and runs where run and job are one, as in Jenkins): started, completed without failing, failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MINUTE_MS: Final = 60_000
BUCKETS: Final = 16
"""Bucket i counts durations below 2**i seconds, the last one all longer ones."""
_FOLD_ROWS: Final = 8192

_KEYS: Final = ("minute", "platform", "instance", "repository", "job_key", "bucket")
_SUMS: Final = ("started", "completed", "failed", "late", "duration_ms")
_SCHEMA: Final = pa.schema(
    [
        ("minute", pa.int64()),
        ("platform", pa.string()),
        ("instance", pa.string()),
        ("repository", pa.string()),
        ("job_key", pa.string()),
        ("bucket", pa.int64()),
        *((name, pa.int64()) for name in _SUMS),
    ]
)

Ints = npt.NDArray[np.int64]


class Minute(NamedTuple):
    """One repository's minute, added up."""

    platform: str
    instance: str
    repository: str
    started: int
    completed: int
    failed: int
    duration_ms: int
    durations: list[int]
    late: int


def bucket_of(duration_ms: Ints) -> Ints:
    """The duration bucket of each; -1 where no duration is known (negative)."""
    seconds = np.maximum(duration_ms, 0) / 1000
    buckets = np.minimum(np.ceil(np.log2(np.maximum(seconds, 0.5) + 1e-9)), BUCKETS - 1).astype(np.int64)
    return np.where(duration_ms < 0, -1, np.maximum(buckets, 0))


class Panes:
    """The open minutes of one shard."""

    def __init__(self, tables: list[pa.Table] | None = None) -> None:
        """Begin with what `tables` hold, in the form that `state` gives."""
        self._tables: list[pa.Table] = tables or []
        self._rows = sum(t.num_rows for t in self._tables)

    def add(self, columns: dict[str, pa.Array | Ints]) -> None:
        """Add rows by column: the keys and sums of this module."""
        table = pa.table({f.name: columns[f.name] for f in _SCHEMA}, schema=_SCHEMA)
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows > _FOLD_ROWS:
            self._fold()

    def _fold(self) -> None:
        whole = _summed(pa.concat_tables(self._tables), _KEYS)
        self._tables = [whole]
        # What stands after folding is no reason to fold again at the next row.
        self._rows = 0

    def close(self, minute: int) -> tuple[list[Minute], dict[str, list[int]]]:
        """Take out `minute`; give its repositories in order, and the durations of each job by bucket."""
        if not self._tables:
            return [], {}
        self._fold()
        whole = self._tables[0]
        mine = np.asarray(whole.column("minute")) == minute
        self._tables = [whole.filter(pa.array(~mine))]
        closing = whole.filter(pa.array(mine))
        return list(_minutes(closing)), _by_job(closing)

    def state(self) -> bytes:
        """All open panes as an Arrow IPC stream."""
        if self._tables:
            self._fold()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _SCHEMA) as writer:
            for table in self._tables:
                writer.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def of(cls, state: bytes) -> Panes:
        """The panes that `state` holds."""
        table = pa.ipc.open_stream(pa.BufferReader(state)).read_all()
        return cls([table] if table.num_rows else [])


def _summed(table: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    sums = table.group_by(list(keys), use_threads=False).aggregate([(name, "sum") for name in _SUMS])
    renamed = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    return renamed.select(_SCHEMA.names).cast(_SCHEMA) if keys == _KEYS else renamed


def _minutes(table: pa.Table) -> Iterator[Minute]:
    keys = ("platform", "instance", "repository", "bucket")
    rows = sorted(_summed(table, keys).to_pylist(), key=lambda r: tuple(r[k] for k in keys))
    for start, row in enumerate(rows):
        same = [r for r in rows[start : start + BUCKETS + 1] if all(r[k] == row[k] for k in keys[:3])]
        if start and all(rows[start - 1][k] == row[k] for k in keys[:3]):
            continue
        durations = [0] * BUCKETS
        for r in same:
            if r["bucket"] >= 0:
                durations[r["bucket"]] = r["completed"] + r["failed"]
        total = {name: sum(r[name] for r in same) for name in _SUMS}
        yield Minute(
            platform=row["platform"],
            instance=row["instance"],
            repository=row["repository"],
            started=total["started"],
            completed=total["completed"],
            failed=total["failed"],
            duration_ms=total["duration_ms"],
            durations=durations,
            late=total["late"],
        )


def _by_job(table: pa.Table) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = {}
    rows = _summed(table, ("job_key", "bucket"))
    for row in sorted(rows.to_pylist(), key=lambda r: (r["job_key"], r["bucket"])):
        if row["bucket"] >= 0:
            counts.setdefault(row["job_key"], [0] * BUCKETS)[row["bucket"]] += row["completed"] + row["failed"]
    return counts
