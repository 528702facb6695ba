"""The rival does what we do: the same failures, minutes and decisions in force, also after it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import psycopg
import pytest
import redis

from analytics.shard import Shard
from benchmarks import oracle
from benchmarks.rig import LIKE_RIVAL, in_force, preload
from benchmarks.rival import Rival
from benchmarks.workload import Workload, entries
from connectors.redis_streams import log_key
from flows import rulebooks
from flows.settings import Settings
from models.records.columns import decode
from models.records.entry import Encoding
from models.records.event import SHARDS
from models.records.outputs import Failure, ShardOutput
from models.records.raw import RawEntry

SMALL = Workload(events=6000, repositories=60, rate=20)
_SAME = set(Failure._fields) - {"occurred_ms", "received_ms"}


@pytest.fixture
def log(redis_url: str, database: str) -> str:
    preload(redis_url, entries(SMALL, Encoding.JSON), LIKE_RIVAL)
    in_force(database, LIKE_RIVAL)
    return redis_url


def _ours(redis_url: str, rules: Mapping[str, str] = MappingProxyType({})) -> Iterator[ShardOutput]:
    """What our shards say of the log."""
    rulebook = rulebooks.configured(Settings.load(rules))
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        for number in range(SHARDS):
            raw = []
            found: Any = client.xrange(log_key(number))
            for position, (entry_id, fields) in enumerate(found, 1):
                ms, _, seq = entry_id.decode().partition("-")
                raw.append(RawEntry(position, int(ms), int(seq), next(iter(fields.items()))))
            yield Shard(number, rulebook, lambda _: rulebook).process(decode(raw))


def _drain(rival: Rival, steps: int = 10_000) -> None:
    for _ in range(steps):
        if not rival.step():
            break
    rival.close()


def _table(database: str, statement: str) -> dict[Any, Any]:
    with psycopg.connect(database) as connection:
        return {key: tuple(rest) for key, *rest in connection.execute(statement.encode())}


_FAILURES = f"SELECT failure_id::text, {', '.join(sorted(_SAME))} FROM guard.failures"
_MINUTES = """
SELECT (instance, repository, minute)::text, platform, started, completed, failed, duration_ms_sum, durations, late
FROM guard.aggregates
"""
_DECISIONS = (
    "SELECT case_id::text, verdict, reason, action, jobs::text[], signature, score FROM guard.current_decisions"
)


def _texts(values: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in sorted(_SAME))


def test_its_failures_are_ours(log: str, database: str) -> None:
    _drain(Rival(log, database, range(SHARDS)))
    ours = {row.failure_id: _texts(row._asdict()) for output in _ours(log) for row in output.failures}
    theirs = {
        key: tuple(
            str(v) if name.endswith("_id") and v is not None else v for name, v in zip(sorted(_SAME), row, strict=True)
        )
        for key, row in _table(database, _FAILURES).items()
    }
    assert ours
    assert theirs == ours


def test_its_minutes_are_ours(log: str, database: str) -> None:
    _drain(Rival(log, database, range(SHARDS)))
    ours = sorted(
        (a.platform, a.started, a.completed, a.failed, a.duration_ms_sum, a.durations, a.late)
        for output in _ours(log)
        for a in output.aggregates
    )
    assert ours
    assert sorted(_table(database, _MINUTES).values()) == ours


def test_its_decisions_in_force_are_ours(log: str, database: str) -> None:
    _drain(Rival(log, database, range(SHARDS), count=7))
    ours = {
        d.case_id: (d.verdict, d.reason, d.action, sorted(d.jobs), d.signature, d.score)
        for output in _ours(log, LIKE_RIVAL)
        for d in sorted(output.decisions, key=lambda d: d.revision)
        if d.because_of is None
    }
    theirs = {key: (*row[:3], sorted(row[3]), *row[4:]) for key, row in _table(database, _DECISIONS).items()}
    assert ours
    assert theirs == ours


def test_what_it_writes_is_what_the_workload_must_give(log: str, database: str) -> None:
    _drain(Rival(log, database, range(0, SHARDS, 2)))
    _drain(Rival(log, database, range(1, SHARDS, 2)))
    assert oracle.found(database) == oracle.expected(SMALL)


def test_an_interruption_changes_nothing(log: str, database: str, empty_database: str) -> None:
    from connectors.postgres import migrate

    migrate(empty_database)
    in_force(empty_database, LIKE_RIVAL)
    _drain(Rival(log, database, range(SHARDS)))
    for _ in range(4):
        _drain(Rival(log, empty_database, range(SHARDS), count=50), steps=3)
    _drain(Rival(log, empty_database, range(SHARDS)))
    for statement in (_FAILURES, _MINUTES, _DECISIONS):
        assert _table(empty_database, statement) == _table(database, statement)
