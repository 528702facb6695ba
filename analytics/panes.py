"""Aggregates per repository and minute of event time, in panes that close behind stream time.

Rows are gathered as Arrow columns and folded by group-by whenever enough of them stand about, so that one event costs
next to nothing. Where a batch of the past spans many minutes with a few rows each, these are kept one by one instead: a
group-by costs as much as a hundred rows. All that is added are integers: the result does not depend on how rows were
grouped into batches. A row that comes after its minute was closed is counted as late in the minute that stream time
stands in.

Counted are jobs (and runs where run and job are one, as in Jenkins): started, completed without failing, failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics.journal import Chunks
from analytics.piles import Pile

MINUTE_MS: Final = 60_000
LATENESS_MS: Final = 60_000
"""How long a minute stays open behind stream time."""
BUCKETS: Final = 16
"""Bucket i counts durations below 2**i seconds, the last one all longer ones."""
_FOLD_ROWS: Final = 8192
_FOLD_TABLES: Final = 64
"""What costs is the number of tables more than that of rows, and the end of an epoch is no time to find many."""
_FEW_ROWS: Final = 64
"""Of a minute on average; batches that span more than _FEW_MINUTES and hold no more are kept row by row."""
_FEW_MINUTES: Final = 4
_SEPARATOR: Final = "\x1f"

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

    def __init__(self) -> None:
        """Begin with none."""
        self._told: list[pa.Table] = []
        self._rows = 0
        self._pile: Final = Pile(_summed)
        self._few: dict[int, list[tuple[Any, ...]]] = {}  # rows of those minutes that have few

    def add(self, columns: dict[str, pa.Array | Ints]) -> None:
        """Add rows by column: the keys and sums of this module."""
        table = pa.table({f.name: columns[f.name] for f in _SCHEMA}, schema=_SCHEMA)
        if _is_sparse(table):
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                self._few.setdefault(row[0], []).append(row)
            return
        self._told.append(table)
        self._rows += table.num_rows
        if self._rows > _FOLD_ROWS or len(self._told) > _FOLD_TABLES:
            self._fold()

    def _fold(self) -> None:
        if self._told:
            self._pile.put(pa.concat_tables(self._told))
            self._told, self._rows = [], 0

    def close(self, minute: int) -> tuple[list[Minute], dict[str, list[int]]]:
        """Take out `minute`; give its repositories in order, and the durations of each job by bucket."""
        few = self._few.pop(minute, [])
        self._fold()
        mine = self._pile.take("minute", minute)
        if mine is None:
            return _of_few(few)
        closing = pa.concat_tables([mine, _table(few)]).combine_chunks()
        return _minutes(closing), _by_job(closing)

    def settle(self) -> None:
        """Write down what is large."""
        self._pile.settle()

    def state(self) -> Chunks:
        """All open panes."""
        if self._few:
            self._told.append(_table([row for rows in self._few.values() for row in rows]))
            self._few = {}
        return self._pile.state(self._told)

    def load(self, state: list[bytes]) -> None:
        """Take what `state` gave."""
        self._pile.load(state)


def _summed(table: pa.Table) -> pa.Table:
    sums = table.combine_chunks().group_by(list(_KEYS), use_threads=False).aggregate([(name, "sum") for name in _SUMS])
    renamed = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    return renamed.select(_SCHEMA.names).cast(_SCHEMA)


def _is_sparse(table: pa.Table) -> bool:
    minutes = len(np.unique(np.asarray(table.column("minute"))))
    return minutes > _FEW_MINUTES and table.num_rows <= _FEW_ROWS * minutes


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(column, f.type) for column, f in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _of_few(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Minute], dict[str, list[int]]]:
    """What `_minutes` and `_by_job` give, of a few rows."""
    repositories: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
    jobs: dict[str, list[int]] = {}
    for _, platform, instance, repository, job, bucket, *numbers in rows:
        key = (platform, instance, repository)
        sums, durations = repositories.setdefault(key, ([0] * len(_SUMS), [0] * BUCKETS))
        sums[:] = map(add, sums, numbers)
        if bucket >= 0 and (ended := numbers[1] + numbers[2]):
            durations[bucket] += ended
            jobs.setdefault(job, [0] * BUCKETS)[bucket] += ended
    minutes = [
        Minute(*key, started, completed, failed, duration_ms, durations, late)
        for key, ((started, completed, failed, late, duration_ms), durations) in sorted(
            repositories.items(), key=lambda item: _SEPARATOR.join(item[0])
        )
    ]
    return minutes, dict(sorted(jobs.items()))


def _by_bucket(table: pa.Table, codes: Ints, groups: int) -> list[list[int]]:
    """How many ended in each duration bucket, by group."""
    bucket = np.asarray(table.column("bucket"))
    ended = np.asarray(table.column("completed")) + np.asarray(table.column("failed"))
    known = bucket >= 0
    counts = np.zeros((groups, BUCKETS), np.int64)
    np.add.at(counts, (codes[known], bucket[known]), ended[known])
    return counts.tolist()


def _coded(column: pa.Array) -> tuple[list[str], Ints]:
    """The values of `column` in order, and for each row which of them it has."""
    encoded = column.dictionary_encode()
    values: list[str] = encoded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=values.__getitem__)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    return [values[i] for i in order], rank[np.asarray(encoded.indices)]


def _minutes(table: pa.Table) -> list[Minute]:
    if not table.num_rows:
        return []
    keys = [table.column(name).chunk(0) for name in ("platform", "instance", "repository")]
    names, codes = _coded(pc.binary_join_element_wise(*keys, _SEPARATOR))
    groups = len(names)
    durations = _by_bucket(table, codes, groups)
    sums = {}
    for name in _SUMS:
        total = np.zeros(groups, np.int64)
        np.add.at(total, codes, np.asarray(table.column(name)))
        sums[name] = total.tolist()
    return [
        Minute(*key.split(_SEPARATOR, 2), *values)
        for key, *values in zip(
            names,
            sums["started"],
            sums["completed"],
            sums["failed"],
            sums["duration_ms"],
            durations,
            sums["late"],
            strict=True,
        )
    ]


def _by_job(table: pa.Table) -> dict[str, list[int]]:
    if not table.num_rows:
        return {}
    names, codes = _coded(table.column("job_key").chunk(0))
    counts = _by_bucket(table, codes, len(names))
    return {name: count for name, count in zip(names, counts, strict=True) if any(count)}
