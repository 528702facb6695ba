"""How it stands: what waits on the streams, how far each shard has come, and what was found and decided of late."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from rich.console import RenderableType

from connectors import postgres_people as people
from connectors.postgres import Connection
from connectors.postgres_queries import Status, status
from connectors.redis_streams import ShardBacklog, backlog
from flows.servers import database, streams
from flows.settings import Settings
from flows.stopping import Stopped, stands
from flows.tables import facts, lasted, one_line, table
from flows.top_view import brief, percent
from models.records.errors import GuardError
from models.records.event import SHARDS

SINCE: Final = timedelta(hours=1)
_DIGITS: Final = 12  # of a rulebook's digest
_WORST: Final = 3  # jobs and failures named


class ShardStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard. What only an unreachable server knows is None."""

    shard: int
    depth: int | None = None  # events that the flow has not durably read
    oldest_age_ms: int | None = None
    position: int | None = None
    stream_lag_ms: int | None = None  # by how much stream time is behind the wall clock
    rulebook: str | None = None


class Count(msgspec.Struct, frozen=True):
    """How many of one kind there were; failures that no signature explains have no name."""

    name: str | None
    count: int


class DecisionCount(msgspec.Struct, frozen=True):
    """How many decisions said the same."""

    verdict: str
    reason: str
    count: int


class Essentials(msgspec.Struct, frozen=True):
    """What people would ask first. Jobs are of the last hour; what is flaky or expensive, of the last seven days."""

    incidents: list[people.Incident]  # that are going on
    jobs: people.Totals
    green: list[people.Green]
    flakiest: list[people.FlakyJob]
    most_expensive: list[people.Cost]


class Standing(msgspec.Struct, frozen=True):
    """Everything. `unreachable` says what could not be asked, `stopped` what the kill switch says; counts are of the
    last hour.
    """

    unreachable: list[str]
    stopped: list[Stopped]
    shards: list[ShardStatus]
    rows: list[Count]
    decisions: list[DecisionCount]
    failures: list[Count]
    dead_letters_open: int | None
    essentials: Essentials | None


def look(settings: Settings, *, at_ms: int) -> Standing:
    """Ask Redis and PostgreSQL; the one that does not answer is named and the other one's part is there."""
    unreachable: list[str] = []
    waiting: list[ShardBacklog] | None = None
    stored: Status | None = None
    essentials: Essentials | None = None
    stopped = stands(settings.act.stop_file, None)
    since = datetime.fromtimestamp(at_ms / 1000, UTC) - SINCE
    try:
        with streams(settings) as client:
            waiting = backlog(client, now_ms=at_ms)
    except GuardError as error:
        unreachable.append(one_line(str(error)))
    try:
        with database(settings) as connection:
            stored = status(connection, since)
            essentials = _essentials(connection, since)
            stopped += stands(None, connection)
    except GuardError as error:
        unreachable.append(one_line(str(error)))
    return Standing(
        unreachable=unreachable,
        stopped=stopped,
        shards=[_shard(number, waiting, stored, at_ms) for number in range(SHARDS)],
        rows=[Count(table, count) for table, count in stored.rows.items()] if stored else [],
        decisions=[DecisionCount(*said, count) for said, count in stored.decisions.items()] if stored else [],
        failures=[Count(name, count) for name, count in stored.failures.items()] if stored else [],
        dead_letters_open=stored.dead_letters_open if stored else None,
        essentials=essentials,
    )


def _essentials(connection: Connection, since: datetime) -> Essentials:
    return Essentials(
        incidents=people.incidents(connection),
        jobs=people.totals(connection, people.Window(since, "minute")),
        green=people.green(connection, since),
        flakiest=people.flakiest(connection, most=_WORST),
        most_expensive=people.most_expensive(connection, most=_WORST),
    )


def _shard(number: int, waiting: list[ShardBacklog] | None, stored: Status | None, at_ms: int) -> ShardStatus:
    progress = stored.progress.get(number) if stored else None
    return ShardStatus(
        shard=number,
        depth=waiting[number].depth if waiting else None,
        oldest_age_ms=waiting[number].oldest_age_ms if waiting else None,
        position=progress.position if progress else None,
        stream_lag_ms=max(at_ms - progress.stream_ms, 0) if progress else None,
        rulebook=progress.rulebook if progress else None,
    )


def shown(standing: Standing) -> list[RenderableType]:
    """`standing` for a terminal."""
    shards = [
        (
            f"{s.shard:02d}",
            s.depth,
            None if s.oldest_age_ms is None else lasted(s.oldest_age_ms),
            s.position,
            None if s.stream_lag_ms is None else lasted(s.stream_lag_ms),
            s.rulebook and s.rulebook[:_DIGITS],
        )
        for s in standing.shards
    ]
    tables: list[RenderableType] = []
    if standing.stopped:
        words = [(stopped.at, stopped.by, stopped.why, stopped.where) for stopped in standing.stopped]
        tables.append(table("healers are stopped", ("since", "by", "why", "where"), words))
    if any(s.depth is not None or s.position is not None for s in standing.shards):
        tables.append(table("shards", ("shard", "#depth", "#oldest", "#position", "#stream lag", "rulebook"), shards))
    if standing.dead_letters_open is not None:
        rows = [(c.name, c.count) for c in standing.rows]
        decisions = [(d.verdict, d.reason, d.count) for d in standing.decisions]
        failures = [(c.name or "no signature", c.count) for c in standing.failures]
        tables += [
            table("written in the last hour", ("table", "#rows"), rows),
            table("decisions", ("verdict", "reason", "#count"), decisions),
            table("failures", ("signature", "#count"), failures),
            facts("dead letters", [("open", standing.dead_letters_open)]),
        ]
    if standing.essentials is not None:
        tables += _people(standing.essentials)
    return tables


def _people(it: Essentials) -> Iterator[RenderableType]:
    jobs = it.jobs
    if it.incidents:
        yield table(
            "incidents", ("since", "what"), [(incident.began_at, incident.message) for incident in it.incidents]
        )
    yield facts(
        "jobs in the last hour",
        [
            ("started", jobs.started),
            ("ended", jobs.ended),
            ("failed", f"{jobs.failed} ({percent(jobs.failure_rate)})"),
            ("median duration", brief(jobs.duration_p50_s)),
            ("95th percentile", brief(jobs.duration_p95_s)),
            *((f"{g.scope}: green after", f"{brief(g.mean_s)}, not yet {g.never_green}") for g in it.green),
        ],
    )
    if it.flakiest:
        flaky = [(job.repository, job.job_name or job.workflow, job.flips, job.runs) for job in it.flakiest]
        yield table("flakiest jobs in 7 days", ("repository", "job", "#flips", "#runs"), flaky)
    if it.most_expensive:
        costs = [
            (cost.signature or "no signature", cost.repository, cost.job_name or cost.workflow, f"{cost.minutes:.0f}")
            for cost in it.most_expensive
        ]
        yield table("most expensive failures in 7 days", ("signature", "repository", "job", "#minutes"), costs)
