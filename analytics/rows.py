"""One batch prepared for the walk: everything that can be done by column is done here."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analytics.panes import MINUTE_MS, Ints, bucket_of
from models.records.columns import Batch
from models.records.event import FAILING, OPEN, Outcome

SEPARATOR: Final = "\x1f"

OTHER, JOB_STARTED, JOB_PASSED, JOB_ENDED, JOB_FAILED, RUN_ENDED, RUN_FAILED = range(7)
"""What a row is to the shard."""

_JOB: Final = {
    **dict.fromkeys(OPEN, JOB_STARTED),
    **dict.fromkeys(FAILING, JOB_FAILED),
    Outcome.PASSED: JOB_PASSED,
    Outcome.UNSTABLE: JOB_ENDED,
    Outcome.CANCELLED: JOB_ENDED,
    Outcome.SKIPPED: JOB_ENDED,
    Outcome.NEUTRAL: JOB_ENDED,
}
_RUN: Final = {
    **dict.fromkeys(FAILING, RUN_FAILED),
    **dict.fromkeys((Outcome.PASSED, Outcome.UNSTABLE, Outcome.CANCELLED, Outcome.SKIPPED, Outcome.NEUTRAL), RUN_ENDED),
}
_OUTCOMES: Final = pa.array([o.value for o in Outcome])
_JOB_CODES: Final = np.array([_JOB.get(o, OTHER) for o in Outcome], np.int8)
_RUN_CODES: Final = np.array([_RUN.get(o, OTHER) for o in Outcome], np.int8)
OUTCOMES: Final = tuple(Outcome)
"""What the numbers in `Rows.outcomes` stand for."""
_RUNNING: Final = list(Outcome).index(Outcome.RUNNING)
TEN_MINUTES_MS: Final = 600_000
MAX_DURATION_MS: Final = 366 * 24 * 3_600_000
"""What claims to have run for longer tells no duration: the sum of a minute stays far from 64 bits."""
_COUNTED: Final = (JOB_PASSED, JOB_ENDED, JOB_FAILED)


def split_job_run(job_run: str) -> tuple[str, str, str, str | None, int, str | None]:
    """Instance, repository, pipeline, workflow id, attempt and job id of a job-run key."""
    instance, repository, pipeline_id, workflow_id, attempt, job_id = job_run.split(SEPARATOR, 5)
    return instance, repository, pipeline_id, workflow_id or None, int(attempt), job_id or None


def case_key_of(job_run: str) -> str:
    """The run attempt that a job run belongs to."""
    return job_run.rpartition(SEPARATOR)[0]


class Detail(NamedTuple):
    """What a row that failed says of itself; the names are those of the columns."""

    id: str
    platform: str
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    job_id: str | None
    workflow: str | None
    job_name: str | None
    commit_sha: str | None
    branch: str | None
    author: str | None
    outcome: str
    received_ms: int
    duration_ms: int | None
    step: str | None
    url: str | None
    trigger: str | None
    is_default_branch: bool | None
    is_deploy: bool | None
    is_fork: bool | None
    allow_failure: bool | None
    native_retries: int | None
    rerun_after: str | None
    failure_reason: str | None
    failure_exit_code: int | None
    failure_excerpt: str | None
    runner: str | None
    environment: str | None
    runner_labels: list[str] | None


class Rows:
    """The rows of one batch as lists and arrays, in log order."""

    def __init__(self, batch: Batch, stream_ms: int, *, future_ms: int, lateness_ms: int) -> None:
        """Prepare `batch`, before which stream time stood at `stream_ms`."""
        events = self._events = batch.events
        self.count: Final = events.num_rows
        entry_ms, received_ms = _ints(events, "entry_ms"), _ints(events, "received_ms")
        self.positions: Final[list[int]] = events.column("position").to_pylist()
        self.received: Final[list[int]] = received_ms.tolist()
        told = np.minimum(entry_ms, received_ms)
        for mark in batch.marks:
            if mark.row < self.count:
                told[mark.row] = max(told[mark.row], min(mark.entry_ms, mark.received_ms))
        stream = np.maximum(np.maximum.accumulate(told), stream_ms) if self.count else told
        at = np.minimum(_ints(events, "timestamp") // 1000, stream + future_ms)
        self.stream: Final[list[int]] = stream.tolist()
        self.at: Final[list[int]] = at.tolist()
        self.ids: Final[list[str]] = events.column("id").to_pylist()
        self.commits: Final[list[str | None]] = events.column("commit_sha").to_pylist()
        self.instances: Final[list[str]] = events.column("instance").to_pylist()
        self.platforms: Final = events.column("platform")
        self.guards: Final = _guards(events)
        main = _on_main(events)
        self.mains: Final[list[bool]] = main.tolist()
        labels = pc.fill_null(pc.binary_join(events.column("runner_labels"), ","), "")
        self.label_keys: Final[list[str]] = _joined(events, "instance", "repository", labels).to_pylist()
        jobs = _joined(events, "instance", "repository", "workflow", "job_name")
        self.job_keys: Final[list[str]] = jobs.to_pylist()
        attempt = events.column("attempt").cast(pa.string())
        runs = _joined(events, "instance", "repository", "pipeline_id", "workflow_id", attempt, "job_id")
        self.job_runs: Final[list[str]] = runs.to_pylist()
        outcome = pc.index_in(events.column("outcome"), _OUTCOMES).to_numpy(zero_copy_only=False)
        named = [events.column(name).is_valid().to_numpy(zero_copy_only=False) for name in ("job_id", "job_name")]
        is_job = named[0] | named[1]
        codes = np.where(is_job, _JOB_CODES[outcome], _RUN_CODES[outcome]) if self.count else np.zeros(0, np.int8)
        self.codes: Final[list[int]] = codes.tolist()
        self.outcomes: Final[list[int]] = outcome.tolist()
        self.details: Final = _details(events, np.flatnonzero((codes == JOB_FAILED) | (codes == RUN_FAILED)))
        self._told = {
            "platform": events.column("platform"),
            "key": jobs,
            "attempt": events.column("attempt"),
            "duration_ms": events.column("duration_ms"),
            "queued_ms": events.column("queued_ms"),
            "at": at,
            "stream": stream,
            "code": codes,
            "main": main,
        }
        self.ten_minutes: Final[list[int]] = np.unique(np.concatenate((at, stream)) // TEN_MINUTES_MS).tolist()
        self._panes = _pane_columns(
            events, jobs, at=at, stream=stream, codes=codes, running=outcome == _RUNNING, lateness_ms=lateness_ms
        )
        self._counts: Final[npt.NDArray[np.bool_]] = self._panes.pop("counts")
        self.minutes: Final[list[int]] = np.unique(self._panes["minute"]).tolist()
        self.late: Final = int(self._panes["late"].sum())

    @cached_property
    def branches(self) -> list[str | None]:
        """The branch of each row; for those who watch one."""
        branches: list[str | None] = self._events.column("branch").to_pylist()
        return branches

    def duration_ms(self, row: int) -> int | None:
        """How long what ended in `row` had run."""
        if row in self.details:
            return self.details[row].duration_ms
        duration: int | None = self._events.column("duration_ms")[row].as_py()
        return duration

    def told(self, first: int, end: int, dropped: list[int]) -> pa.Table:
        """Rows `first` to `end` for the profiles, without those `dropped`."""
        part = pa.table({name: column[first:end] for name, column in self._told.items()})
        gone = [row - first for row in dropped if first <= row < end]
        if not gone:
            return part
        keep = np.ones(end - first, np.bool_)
        keep[gone] = False
        return part.filter(pa.array(keep))

    def pane_columns(self, first: int, end: int, dropped: list[int]) -> dict[str, pa.Array | Ints]:
        """Columns for the panes of rows `first` to `end`, without those `dropped` and those that count nothing."""
        keep = self._counts[first:end].copy()
        keep[[row - first for row in dropped if first <= row < end]] = False
        mask = None if keep.all() else pa.array(keep)
        columns: dict[str, pa.Array | Ints] = {}
        for name, column in self._panes.items():
            part = column[first:end]
            columns[name] = part if mask is None else part.filter(mask) if isinstance(part, pa.Array) else part[keep]
        return columns


def _details(events: pa.RecordBatch, rows: Ints) -> dict[int, Detail]:
    told = events.select(Detail._fields).take(pa.array(rows))
    columns = [column.to_pylist() for column in told.columns]
    return dict(zip(rows.tolist(), map(Detail._make, zip(*columns, strict=True)), strict=True))


_MAINS: Final = pa.array(["main", "master", "trunk"])


def _on_main(events: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Whether each row is on the default branch; where the platform does not say, its name does, but not in a fork."""
    own = pc.invert(pc.fill_null(events.column("is_fork"), False))
    named = pc.and_(pc.is_in(events.column("branch"), _MAINS), own)
    main: npt.NDArray[np.bool_] = pc.coalesce(events.column("is_default_branch"), named).to_numpy(zero_copy_only=False)
    return main.astype(np.bool_)


Guard: TypeAlias = tuple[bool, str | None]
"""Whether a job is a deployment, and the environment that it names."""


def _guards(events: pa.RecordBatch) -> dict[int, Guard]:
    """The rows that are deployments or name an environment."""
    deploys, environments = pc.fill_null(events.column("is_deploy"), False), events.column("environment")
    rows = np.flatnonzero(pc.or_(deploys, environments.is_valid()).to_numpy(zero_copy_only=False))
    told = (column.take(pa.array(rows)).to_pylist() for column in (deploys, environments))
    return dict(zip(rows.tolist(), zip(*told, strict=True), strict=True))


def _ints(events: pa.RecordBatch, name: str) -> Ints:
    column = events.column(name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return np.array(column, np.int64)


def _joined(events: pa.RecordBatch, *parts: str | pa.Array) -> pa.Array:
    columns = [events.column(p).fill_null("") if isinstance(p, str) else p for p in parts]
    return pc.binary_join_element_wise(*columns, SEPARATOR)


def _pane_columns(
    events: pa.RecordBatch,
    jobs: pa.Array,
    *,
    at: Ints,
    stream: Ints,
    codes: npt.NDArray[np.int8],
    running: npt.NDArray[np.bool_],
    lateness_ms: int,
) -> dict[str, Any]:
    started = (codes == JOB_STARTED) & running
    ended = np.isin(codes, _COUNTED)
    minute = at // MINUTE_MS
    late = (minute + 1) * MINUTE_MS + lateness_ms <= stream
    in_time = ~late
    duration = np.array(pc.fill_null(events.column("duration_ms"), -1), np.int64)
    failed = ended & (codes == JOB_FAILED)
    counted = ended & in_time
    known = counted & (duration >= 0) & (duration <= MAX_DURATION_MS)
    return {
        "minute": np.where(late, stream // MINUTE_MS, minute),
        "platform": events.column("platform"),
        "instance": events.column("instance"),
        "repository": events.column("repository"),
        "job_key": jobs,
        "bucket": np.where(known, bucket_of(duration), -1),
        "started": (started & in_time).astype(np.int64),
        "completed": (counted & ~failed).astype(np.int64),
        "failed": (failed & in_time).astype(np.int64),
        "late": ((started | ended) & late).astype(np.int64),
        "duration_ms": np.where(known, duration, 0),
        "counts": started | ended,
    }
