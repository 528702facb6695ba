"""What was written since an instant, at a glance: for eyes that watch it happen, and cheap enough to ask for often."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from connectors.postgres import Connection


class Landed(NamedTuple):
    """One decision, with the first of the jobs that it covers."""

    decision_id: UUID
    written_at: datetime
    platform: str
    repository: str
    job: str | None
    more_jobs: int
    signature: str | None
    score: float | None
    verdict: str
    reason: str


class Latency(NamedTuple):
    """Milliseconds from the receiver's clock to PostgreSQL's, over all failures."""

    p50: float
    p95: float
    p99: float


class Healing(NamedTuple):
    """What was done about it. Counts are of acts and of cases."""

    acts: tuple[tuple[str, str, int], ...] = ()  # action, state, count
    outcomes: tuple[tuple[str, int], ...] = ()  # what came of reruns, as far as it is known
    held: int = 0  # cases that wait for an incident to end
    released: int = 0  # that waited for one, and do no more
    holds: tuple[tuple[str, str], ...] = ()  # signature and state of each, the newest last

    def done(self, *actions: str) -> int:
        """How often one of these was done."""
        return sum(count for action, state, count in self.acts if action in actions and state == "done")


class Live(NamedTuple):
    """All of it. Counts are of rows."""

    failures: int = 0
    dead_letters: int = 0
    first_decision: datetime | None = None
    latency: Latency | None = None
    causes: tuple[tuple[str | None, str, int], ...] = ()  # signature, diagnosis, count; most frequent first
    decisions: tuple[tuple[str, str, int], ...] = ()  # verdict, reason, count; most frequent first
    findings: tuple[tuple[str, str, int], ...] = ()  # detector, state, count
    landed: tuple[Landed, ...] = ()  # newest first
    healing: Healing = Healing()


def live(connection: Connection, since: datetime, *, most_landed: int) -> Live:
    """What was written since then, with the `most_landed` newest decisions."""
    at = {"since": since, "most": most_landed}
    failures, dead_letters, first = connection.execute(_TOTALS, at).fetchone() or (0, 0, None)
    quantiles = connection.execute(_LATENCY, at).fetchone()
    return Live(
        failures=failures,
        dead_letters=dead_letters,
        first_decision=first,
        latency=Latency(*quantiles[0]) if quantiles and quantiles[0] else None,
        causes=tuple(connection.execute(_CAUSES, at).fetchall()),
        decisions=tuple(connection.execute(_DECISIONS, at).fetchall()),
        findings=tuple(connection.execute(_FINDINGS, at).fetchall()),
        landed=tuple(Landed(*row) for row in connection.execute(_LANDED, at)),
        healing=_healing(connection, at),
    )


def _healing(connection: Connection, at: Mapping[str, Any]) -> Healing:
    held, released = connection.execute(_HELD, at).fetchone() or (0, 0)
    return Healing(
        acts=tuple(connection.execute(_ACTS, at).fetchall()),
        outcomes=tuple(connection.execute(_OUTCOMES, at).fetchall()),
        held=held,
        released=released,
        holds=tuple(connection.execute(_HOLDS, at).fetchall()),
    )


class Job(NamedTuple):
    """One execution of a job, as the platform names it."""

    repository: str
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    job_id: str | None  # None where run and job are one


def failed_jobs(connection: Connection, since: datetime) -> set[Job]:
    """The jobs that have a failure written since then; runs whose job is not known are left out."""
    return {Job(*row) for row in connection.execute(_FAILED_JOBS, [since])}


def stuck_jobs(connection: Connection, since: datetime) -> set[Job]:
    """The jobs that were found stuck since then, whether they still are or not."""
    return {Job(*row) for row in connection.execute(_STUCK_JOBS, [since])}


_TOTALS: Final = """
SELECT (SELECT count(*) FROM guard.failures WHERE written_at >= %(since)s),
       (SELECT count(*) FROM guard.dead_letters WHERE written_at >= %(since)s),
       (SELECT min(written_at) FROM guard.decisions WHERE written_at >= %(since)s)
"""
_LATENCY: Final = """
SELECT percentile_disc(ARRAY[0.5, 0.95, 0.99])
       WITHIN GROUP (ORDER BY (extract(epoch FROM written_at - received_at) * 1000)::double precision)
FROM guard.failures WHERE written_at >= %(since)s
"""
_CAUSES: Final = """
SELECT signature, diagnosis, count(*) FROM guard.explained_failures WHERE written_at >= %(since)s
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_DECISIONS: Final = """
SELECT verdict, reason, count(*) FROM guard.decisions WHERE written_at >= %(since)s GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_FINDINGS: Final = """
SELECT detector, state, count(*) FROM guard.findings WHERE written_at >= %(since)s GROUP BY 1, 2 ORDER BY 1, 2
"""
_LANDED: Final = """
SELECT d.decision_id, d.written_at, d.platform, d.repository,
       coalesce(f.job_name, d.explanation #>> '{jobs,0,job_name}'), greatest(cardinality(d.jobs) - 1, 0),
       coalesce(d.signature, f.signature), d.score, d.verdict, d.reason
FROM guard.decisions d LEFT JOIN guard.explained_failures f ON f.failure_id = d.jobs[1]
WHERE d.written_at >= %(since)s ORDER BY d.written_at DESC, d.decision_id LIMIT %(most)s
"""
_ACTS: Final = """
SELECT action, state, count(*) FROM guard.acts WHERE intended_at >= %(since)s GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_OUTCOMES: Final = """
SELECT outcome, count(*) FROM guard.current_act_outcomes WHERE asked_at >= %(since)s GROUP BY 1 ORDER BY 2 DESC, 1
"""
_HELD: Final = """
SELECT count(*) FILTER (WHERE state = 'waiting' AND reason = 'incident'),
       count(*) FILTER (WHERE NOT (state = 'waiting' AND reason = 'incident'))
FROM guard.healing WHERE incident_id IS NOT NULL AND queued_at >= %(since)s
"""
_HOLDS: Final = """
SELECT signature, state FROM guard.holds WHERE began_at >= %(since)s ORDER BY began_at
"""
_FAILED_JOBS: Final = """
SELECT repository, pipeline_id, workflow_id, attempt, job_id FROM guard.failures
WHERE written_at >= %s AND (job_id IS NOT NULL OR platform = 'jenkins')
"""
_STUCK_JOBS: Final = """
SELECT subject ->> 'repository', subject ->> 'pipeline_id', subject ->> 'workflow_id', (subject ->> 'attempt')::bigint,
       subject ->> 'job_id'
FROM guard.findings WHERE written_at >= %s AND detector = 'StuckJob' AND state = 'raised'
"""
