"""What must stand in PostgreSQL after a workload, counted from its events alone, without any of the product's code."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from benchmarks.workload import Workload, events, milliseconds

_VERSION: Final = 1
_ENDED_WELL: Final = frozenset({"passed", "unstable", "cancelled", "skipped", "neutral"})
_FAILED: Final = frozenset({"failed", "timed_out", "errored"})


@dataclass(frozen=True, slots=True)
class Expected:
    """Rows and sums. `minutes` are pairs of repository and minute in which anything was counted."""

    failures: int
    cases: int
    minutes: int
    started: int
    completed: int
    failed: int
    duration_ms: int


def expected(workload: Workload) -> Expected:
    """Count the jobs of `workload`; kept in a file beside the cached entries."""
    key = msgspec.json.encode([_VERSION, asdict(workload)])
    folder = Path(tempfile.gettempdir()) / "pipeline-guard-workloads"
    path = folder / f"{hashlib.sha256(key).hexdigest()[:16]}.expected.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Expected)
    counted = _count(workload)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(counted))
    return counted


def _count(workload: Workload) -> Expected:
    cases: set[str] = set()
    minutes: set[tuple[str, int]] = set()
    started = completed = failed = duration_ms = 0
    for event in events(workload):
        told = event.metadata
        if told.job_name is None:
            continue
        minutes.add((event.repository, milliseconds(event.timestamp) // 60_000))
        if told.outcome == "running":
            started += 1
            continue
        duration_ms += told.duration_ms or 0
        if told.outcome in _FAILED:
            failed += 1
            cases.add(event.pipeline_id)
        elif told.outcome in _ENDED_WELL:
            completed += 1
    return Expected(failed, len(cases), len(minutes), started, completed, failed, duration_ms)


_FOUND: Final = """
SELECT (SELECT count(*) FROM guard.failures),
       (SELECT count(DISTINCT case_id) FROM guard.decisions WHERE because_of IS NULL),
       count(*), sum(started), sum(completed), sum(failed), sum(duration_ms_sum)
FROM guard.aggregates
"""


def found(database: str) -> Expected:
    """What stands there."""
    with psycopg.connect(database) as connection:
        row = connection.execute(_FOUND).fetchone()
    assert row is not None
    return Expected(*(int(value or 0) for value in row))


_DIGESTS: Final = {
    "failures": "failure_id",
    "decisions": "decision_id",
    "findings": "finding_id, revision",
    "aggregates": "instance, repository, minute",
}


def digest(database: str) -> str:
    """One digest of every judged row, but for when PostgreSQL took it: equal for equal rows, whoever wrote them."""
    parts = []
    with psycopg.connect(database) as connection:
        for table, order in _DIGESTS.items():
            statement = (
                f"SELECT md5(coalesce(string_agg(md5((to_jsonb(t) - 'written_at')::text), '' ORDER BY {order}), '')) "  # noqa: S608
                f"FROM guard.{table} t"
            )
            row = connection.execute(statement.encode()).fetchone()
            assert row is not None
            parts.append(row[0])
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
