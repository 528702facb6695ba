"""Executions of the past: who ran what again, when, and what came of it.

What would have come of a rerun that nobody asked for cannot be known, except where somebody did run the same job again
on the same commit. That execution is told here as the live flow tells what came of its own acts (analytics/reruns.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from analytics.reruns import End, Judged, Watch, firsts, judge, keys_of, take
from analytics.rows import SEPARATOR
from models.records.acted import Acted
from models.records.columns import Batch
from models.records.event import OPEN, Outcome

_PLAIN: Final = (
    "id", "instance", "repository", "workflow", "job_name", "commit_sha", "branch", "pipeline_id", "workflow_id",
    "attempt", "job_id", "outcome", "duration_ms",
)  # fmt: skip
ENDS_SCHEMA: Final = pa.schema(
    [
        *((name, pa.int64() if name in {"attempt", "duration_ms"} else pa.string()) for name in _PLAIN),
        ("at_ms", pa.int64()),
        ("labels", pa.string()),
    ]
)
_OPEN: Final = pa.array([outcome.value for outcome in OPEN])
_KEY: Final = ("instance", "repository", "workflow", "job_name", "commit_sha")


def ends_of(batch: Batch) -> pa.Table:
    """How executions ended, of one batch: a row each, of jobs and of runs."""
    ended = batch.events.filter(pc.invert(pc.is_in(batch.events.column("outcome"), _OPEN)))
    at_ms = pc.divide(ended.column("timestamp").cast(pa.int64()), 1000)
    labels = pc.binary_join(ended.column("runner_labels"), ",")
    return pa.Table.from_arrays([*(ended.column(name) for name in _PLAIN), at_ms, labels], schema=ENDS_SCHEMA)


class Cost(NamedTuple):
    """What a failed job took: how long, on which runner."""

    minutes: float
    labels: str | None


class Executions:
    """What is known of executions, of jobs that failed on some commit at least once."""

    def __init__(self, ends: pl.DataFrame, failures: pl.DataFrame, diagnoses: pl.DataFrame) -> None:
        """`ends` has ENDS_SCHEMA; the others are what one set of rules said, and name the causes."""
        named = ends.unique("id", keep="first", maintain_order=True).with_columns(pl.col(_KEY).fill_null(""))
        failed = named.join(failures.select(id="failure_id"), on="id", how="semi").select(_KEY).unique()
        causes = _causes(failures, diagnoses)
        self.costs: Final = _costs(named, failures)
        """What failed jobs took, by the id of their failure."""
        self._failed_ms: Final = dict(failures.select("failure_id", pl.col("occurred_at").dt.epoch("ms")).iter_rows())
        self._ends: dict[str, list[End]] = {}
        for row in named.join(failed, on=_KEY, how="semi").sort("at_ms", "id").iter_rows(named=True):
            key = SEPARATOR.join(row[name] for name in _KEY)
            self._ends.setdefault(key, []).append(_end(row, causes.get(row["id"])))
        self._heads: Final = _heads(named)

    def came_of(self, acted: Acted) -> tuple[list[End], Judged]:
        """The ends of the executions which ran the jobs of `acted` again since they failed, and what is said of it."""
        failed = [self._failed_ms[job.failure_id] for job in acted.jobs if job.failure_id in self._failed_ms]
        watch = Watch(_asked_at(acted, min(failed, default=acted.asked_ms)), [[] for _ in keys_of(acted)], 0)
        for place, key in enumerate(keys_of(acted)):
            for end in self._ends.get(key, ()):
                take(watch, place, end)
        return [end for end in firsts(watch) if end is not None], judge(watch, (), over=True)

    def overtaken(self, acted: Acted) -> bool:
        """Whether another commit had begun on its branch, after its own and before it was asked for."""
        began = self._heads.get((acted.instance, acted.repository, acted.branch or ""), {})
        own = began.get(acted.commit_sha or "")
        return own is not None and any(own < at_ms <= acted.asked_ms for at_ms in began.values())

    def cost(self, failures: Iterable[str]) -> list[Cost]:
        """What these failed jobs took."""
        return [self.costs[failure] for failure in failures if failure in self.costs]


def _asked_at(acted: Acted, at_ms: int) -> Acted:
    return Acted(**{**{name: getattr(acted, name) for name in acted.__struct_fields__}, "asked_ms": at_ms})


def _end(row: Mapping[str, Any], signature: str | None) -> End:
    return End(
        row["at_ms"],
        row["id"],
        Outcome(row["outcome"]),
        row["pipeline_id"],
        row["workflow_id"],
        row["attempt"],
        row["job_id"],
        row["duration_ms"],
        signature,
        row["labels"] or None,
    )


def _causes(failures: pl.DataFrame, diagnoses: pl.DataFrame) -> dict[str, str | None]:
    """The signature of each failure, as its log told in the end."""
    told = (dict(frame.select("failure_id", "signature").iter_rows()) for frame in (failures, diagnoses))
    return {failure: signature for each in told for failure, signature in each.items()}


def _costs(ends: pl.DataFrame, failures: pl.DataFrame) -> dict[str, Cost]:
    durations = failures.select("failure_id", "duration_ms").join(
        ends.select("labels", failure_id="id"), on="failure_id", how="left", maintain_order="left"
    )
    return {failure: Cost((ms or 0) / 60_000, labels or None) for failure, ms, labels in durations.iter_rows()}


def _heads(ends: pl.DataFrame) -> dict[tuple[str, str, str], dict[str, int]]:
    """When each commit of a branch first ran."""
    began = pl.col("at_ms") - pl.col("duration_ms").fill_null(0)
    places = ["instance", "repository", "branch", "commit_sha"]
    first = ends.filter(pl.col("branch").is_not_null(), pl.col("commit_sha") != "").group_by(places).agg(began.min())
    heads: dict[tuple[str, str, str], dict[str, int]] = {}
    for instance, repository, branch, commit, at_ms in first.sort(places).iter_rows():
        heads.setdefault((instance, repository, branch), {})[commit] = at_ms
    return heads
