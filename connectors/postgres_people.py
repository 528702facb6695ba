"""What people look at all day, read from the views that are made for it: rates, durations, what hurts most."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from psycopg.rows import class_row

from connectors.postgres import Connection

By = Literal["repository", "job", "signature", "platform"]
Period = Literal["minute", "hour", "day"]
"""The views that a window is added up from: short ones take minutes, long ones days."""

_DAY: Final = timedelta(days=1)
_T = TypeVar("_T")


class Window(NamedTuple):
    """What lies after an instant, added up from minutes, hours or days that begin after it."""

    since: datetime
    period: Period


class Totals(msgspec.Struct, frozen=True):
    """All jobs together. Reruns are known once an hour has closed, and not by the minute."""

    started: int
    ended: int
    failed: int
    failure_rate: float | None
    duration_p50_s: float | None
    duration_p95_s: float | None
    rerun_share: float | None


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One repository, job, signature or platform. What does not apply to it is None."""

    failed: int
    platform: str | None = None
    instance: str | None = None
    repository: str | None = None
    workflow: str | None = None
    job_name: str | None = None
    signature: str | None = None
    category: str | None = None
    ended: int | None = None
    failure_rate: float | None = None
    share: float | None = None  # of all failures
    repositories: int | None = None
    duration_p50_s: float | None = None
    duration_p95_s: float | None = None
    rerun_share: float | None = None
    failed_minutes: float | None = None


class FlakyJob(msgspec.Struct, frozen=True):
    """A row of guard.flakiest_jobs."""

    instance: str
    repository: str
    workflow: str
    job_name: str
    flips: int
    last_flip_at: datetime
    runs: int
    failed: int
    failure_rate: float | None
    reruns: int
    rerun_share: float | None


class Cost(msgspec.Struct, frozen=True):
    """A row of guard.most_expensive_failures."""

    signature: str | None
    category: str | None
    instance: str
    repository: str
    workflow: str
    job_name: str
    failures: int
    reruns: int
    failed_minutes: float
    rerun_minutes: float
    minutes: float
    last_failed_at: datetime


class Green(msgspec.Struct, frozen=True):
    """How long it took to be green again, on one commit or on the default branch."""

    scope: str
    episodes: int
    green: int
    never_green: int
    mean_s: float | None
    p50_s: float | None


class Decided(msgspec.Struct, frozen=True):
    """How many run attempts have the same verdict for the same reason in force."""

    verdict: str
    reason: str
    cases: int


class Standing(msgspec.Struct, frozen=True):
    """How many findings of a detector stand."""

    detector: str
    findings: int


class Incident(msgspec.Struct, frozen=True):
    """An incident of the whole fleet that is going on."""

    symptom: str
    category: str | None
    began_at: datetime
    repositories: int
    failures: int
    dimension: str
    value: str | None
    message: str


def totals(connection: Connection, window: Window) -> Totals:
    """All that happened in the window."""
    (found,) = _rows(connection, Totals, _TOTALS[window.period], {"since": window.since})
    return found


def lines(connection: Connection, by: By, window: Window, *, most: int) -> list[Line]:
    """What failed most in the window, at most `most` of it."""
    query = _LINES[by] if by in ("job", "signature") else _counted(by, window.period)
    return _rows(connection, Line, query, {"since": window.since, "most": most})


def flakiest(connection: Connection, *, most: int) -> list[FlakyJob]:
    """The jobs that flip most, of the last seven days."""
    return _rows(connection, FlakyJob, _FLAKIEST, {"most": most})


def most_expensive(connection: Connection, *, most: int) -> list[Cost]:
    """What costs most minutes, of the last seven days."""
    return _rows(connection, Cost, _EXPENSIVE, {"most": most})


def green(connection: Connection, since: datetime) -> list[Green]:
    """How long it took to be green again after failures since then."""
    return _rows(connection, Green, _GREEN, {"since": since, "day": since - _DAY})


def decided(connection: Connection, since: datetime) -> list[Decided]:
    """What the decisions in force that were written since then say, the most frequent first."""
    return _rows(connection, Decided, _DECIDED, {"since": since})


def standing(connection: Connection) -> list[Standing]:
    """The findings that stand now, by detector."""
    return _rows(connection, Standing, _STANDING, {})


def incidents(connection: Connection) -> list[Incident]:
    """The incidents that are going on, the widest first."""
    return _rows(connection, Incident, _INCIDENTS, {})


def _rows(connection: Connection, record: type[_T], query: str, parameters: Mapping[str, Any]) -> list[_T]:
    with connection.cursor(row_factory=class_row(record)) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()


_SUMS: Final = """
       coalesce(sum(completed + failed), 0)::bigint AS ended, coalesce(sum(failed), 0)::bigint AS failed,
       sum(failed)::double precision / nullif(sum(completed + failed), 0) AS failure_rate,
       guard.duration_quantile(guard.sum_buckets(durations), 0.5) / 1000 AS duration_p50_s,
       guard.duration_quantile(guard.sum_buckets(durations), 0.95) / 1000 AS duration_p95_s"""
_RERUN_SHARE: Final = ", sum(reruns)::double precision / nullif(sum(runs), 0) AS rerun_share"
_NO_RERUN_SHARE: Final = ", NULL::double precision AS rerun_share"


def _summed(of: str, period: Period) -> str:
    reruns = _NO_RERUN_SHARE if period == "minute" else _RERUN_SHARE
    return f"{_SUMS}{reruns} FROM guard.{of}_{period}s WHERE {period} > %(since)s"


_TOTALS: Final[dict[Period, str]] = {
    period: f"SELECT coalesce(sum(started), 0)::bigint AS started, {_summed('platform', period)}"
    for period in ("minute", "hour", "day")
}


def _counted(by: By, period: Period) -> str:
    keys = "platform, instance" if by == "platform" else "platform, instance, repository"
    order = f"ORDER BY failed DESC, ended DESC, {keys} LIMIT %(most)s"
    return f"SELECT {keys}, {_summed(by, period)} GROUP BY {keys} {order}"


# Failures are found by the minute of their event time: so they are indexed.
_LINES: Final[dict[By, str]] = {
    "job": """
WITH failed AS (
    SELECT platform, instance, repository, coalesce(workflow, '') AS workflow, coalesce(job_name, '') AS job_name,
           count(*) AS failed, (coalesce(sum(duration_ms), 0) / 60000.0)::double precision AS failed_minutes
    FROM guard.explained_failures
    WHERE date_bin('1 minute', occurred_at, timestamptz 'epoch') > %(since)s
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY failed DESC, failed_minutes DESC, 1, 2, 3, 4, 5
    LIMIT %(most)s
)
SELECT failed.*, ended, failure_rate, duration_p50_s, duration_p95_s, rerun_share
FROM failed
CROSS JOIN LATERAL (
    SELECT sum(runs)::bigint AS ended,
           sum(h.failed)::double precision / nullif(sum(passed + h.failed), 0) AS failure_rate,
           guard.duration_quantile(guard.sum_buckets(durations), 0.5) / 1000 AS duration_p50_s,
           guard.duration_quantile(guard.sum_buckets(durations), 0.95) / 1000 AS duration_p95_s,
           sum(reruns)::double precision / nullif(sum(runs), 0) AS rerun_share
    FROM guard.job_hour_rates h
    WHERE (h.instance, h.repository, h.workflow, h.job_name)
        = (failed.instance, failed.repository, failed.workflow, failed.job_name)
      AND hour > %(since)s - interval '1 hour'
) hours
ORDER BY failed DESC, failed_minutes DESC, platform, instance, repository, workflow, job_name
""",
    "signature": """
SELECT signature, max(category) AS category, count(*) AS failed,
       count(*) / sum(count(*)) OVER ()::double precision AS share,
       count(DISTINCT (instance, repository)) AS repositories,
       count(*) FILTER (WHERE attempt > 1) / count(*)::double precision AS rerun_share,
       (coalesce(sum(duration_ms), 0) / 60000.0)::double precision AS failed_minutes,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) / 1000 AS duration_p95_s
FROM guard.explained_failures
WHERE date_bin('1 minute', occurred_at, timestamptz 'epoch') > %(since)s
GROUP BY signature
ORDER BY failed DESC, signature
LIMIT %(most)s
""",
}
_FLAKIEST: Final = """
SELECT * FROM guard.flakiest_jobs
ORDER BY flips DESC, failed DESC, last_flip_at DESC, instance, repository, workflow, job_name LIMIT %(most)s
"""
_EXPENSIVE: Final = """
SELECT * FROM guard.most_expensive_failures
ORDER BY minutes DESC, failures DESC, signature, instance, repository, workflow, job_name LIMIT %(most)s
"""
_GREEN: Final = """
SELECT scope, count(*) AS episodes, count(green_at) AS green, count(*) - count(green_at) AS never_green,
       avg(seconds) AS mean_s, percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS p50_s
FROM guard.recoveries WHERE day > %(day)s AND failed_at > %(since)s GROUP BY scope ORDER BY scope
"""
_DECIDED: Final = """
SELECT verdict, reason, count(*) AS cases FROM guard.current_decisions WHERE written_at > %(since)s
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_INCIDENTS: Final = """
SELECT symptom, category, began_at, repositories, failures, dimension, value, message FROM guard.open_incidents
ORDER BY repositories DESC, symptom
"""
_STANDING: Final = """
SELECT detector, count(*) AS findings FROM guard.open_findings GROUP BY 1 ORDER BY 2 DESC, 1
"""
