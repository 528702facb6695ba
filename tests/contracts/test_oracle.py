"""The checker is itself checked: what is right passes, and each planted fault is found and named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import pytest

from analytics.fleet import Fleet
from analytics.rulebook import Rulebook, compose
from analytics.shard import Shard
from connectors.postgres import Connection, Progress, connect, put_rulebook
from connectors.postgres_writer import Writer
from flows.rulebooks import control, resolver
from models.records.columns import decode
from models.records.entry import encode
from models.records.errors import ConfigError
from models.records.event import SHARDS
from models.records.raw import RawEntry
from tests.contracts import oracle
from tests.faults.harness import BEGINS, Told, story

RULEBOOK = compose(fleet={"learning_minutes": 5})


@pytest.fixture(scope="module")
def log() -> dict[int, list[RawEntry]]:
    """Half an hour of a story, as it would be read back, with rules that let the fleet say something so soon."""
    entries: dict[int, list[RawEntry]] = {shard: [] for shard in range(SHARDS)}
    first_ms = int(BEGINS * 1000)
    rules = encode(control(RULEBOOK, first_ms))
    for told in (*(Told(shard, first_ms, *rules) for shard in range(SHARDS)), *story(11, hours=0.5)):
        of_shard = entries[told.shard]
        of_shard.append(RawEntry(len(of_shard) + 1, told.at_ms, len(of_shard), (told.name, told.value)))
    return entries


@pytest.fixture(scope="module")
def expected(log: dict[int, list[RawEntry]]) -> oracle.Expected:
    """What the oracle says of it."""

    def resolve(digest: str) -> Rulebook:
        if digest != RULEBOOK.digest:
            raise ConfigError(f"rulebook {digest}: not in PostgreSQL")
        return RULEBOOK

    return oracle.replay(log, resolve)


@pytest.fixture
def judged(log: dict[int, list[RawEntry]], database: str) -> Iterator[Connection]:
    """What shards, fleet and writer made of it, in batches of 37."""
    with connect(database) as connection:
        put_rulebook(connection, RULEBOOK.digest, RULEBOOK.body, created_by="test")
    fleet = Fleet()
    resolve = resolver(database)
    writer = Writer(database, clock=time.time, monotonic=time.monotonic)
    for number, entries in log.items():
        shard, left = Shard(number, compose(), resolve), iter(entries)
        while some := list(islice(left, 37)):
            output = shard.process(decode(some))
            at = Progress(f"{some[-1].entry_ms}-0", shard.position, shard.stream_ms, shard.rulebook.digest)
            incidents = [row for minutes in output.closed for row in fleet.process(minutes)]
            writer.wait(writer.submit(number, output._replace(incidents=incidents), at))
    writer.close()
    with connect(database) as connection:
        yield connection


def faults(
    log: oracle.Log, connection: Connection, expected: oracle.Expected | None = None, **more: object
) -> list[str]:
    found = oracle.check(log, connection, resolver(connection.info.dsn), expected=expected, **more).faults  # type: ignore[arg-type]  # as given
    print(*found[:5], sep="\n")  # noqa: T201 - pytest shows it beside a failure
    return found


def test_a_faultless_run_has_no_faults_and_says_something(log: dict[int, list[RawEntry]], judged: Connection) -> None:
    assert faults(log, judged) == []
    stored = oracle.stored(judged)
    assert all(rows or table in {"detector_faults", "job_hours"} for table, rows in stored.items())


def lost(table: str, which: str = "true") -> str:
    return f"DELETE FROM guard.{table} WHERE ctid = (SELECT min(ctid) FROM guard.{table} WHERE {which})"


def altered(table: str, how: str) -> str:
    return f"UPDATE guard.{table} SET {how} WHERE ctid = (SELECT min(ctid) FROM guard.{table})"


def twin(table: str, but: str, without: str | None = None) -> str:
    drop = f"ALTER TABLE guard.{table} DROP CONSTRAINT {without}; " if without else ""
    return (
        f"CREATE TEMP TABLE twin AS SELECT * FROM guard.{table} LIMIT 1; UPDATE twin SET {but}; "
        f"{drop}INSERT INTO guard.{table} SELECT * FROM twin"
    )


ANOTHER = "decision_id = gen_random_uuid()"
PLANTS = {
    "a lost failure": (lost("failures"), "I4 failures", "is missing"),
    "a lost finding": (lost("findings"), "I4 findings", "is missing"),
    "a lost minute": (lost("aggregates"), "I4 aggregates", "is missing"),
    "a lost incident": (lost("incidents"), "I4 incidents", "is missing"),
    "a lost dead letter": (lost("dead_letters"), "I5", "dead letters"),
    "a lost decision": (lost("decisions"), "I5 failure", "nothing was decided"),
    "a failure nobody explained": (lost("failures", "job_id IS NOT NULL"), "I5 event", "there is no failure of it"),
    "a case decided twice": (
        twin("decisions", ANOTHER, "decisions_case_id_revision_key"),
        "I2 case",
        "2 decisions of revision",
    ),
    "a decision made anew": (twin("decisions", f"{ANOTHER}, revision = revision + 7"), "I2 case", "its revisions are"),
    "a row twice": (twin("aggregates", "late = late", "aggregates_pkey"), "I4 aggregates", "stands twice"),
    "a row from nowhere": (twin("failures", "failure_id = gen_random_uuid()"), "I4 failures", "should not be there"),
    "an altered score": (altered("decisions", "score = coalesce(score, 0) + 1e-12"), "I4 decisions", "score is"),
    "an altered explanation": (
        altered("decisions", """explanation = explanation || '{"run_ended": "never"}'"""),
        "I4 decisions",
        "explanation is",
    ),
    "an altered count": (altered("aggregates", "durations[1] = durations[1] + 1"), "I4 aggregates", "durations is"),
    "a millisecond": (
        altered("failures", "occurred_at = occurred_at + interval '1 ms'"),
        "I4 failures",
        "occurred_at is",
    ),
    "an altered byte": (altered("dead_letters", r"payload = payload || '\x00'"), "I4 dead_letters", "payload is"),
    "entries never read": (altered("progress", "position = position - 1"), "I5 shard", "read"),
}


@pytest.mark.parametrize("planted", PLANTS)
def test_it_finds(planted: str, log: dict[int, list[RawEntry]], expected: oracle.Expected, judged: Connection) -> None:
    damage, where, what = PLANTS[planted]
    for statement in damage.split("; "):
        assert judged.execute(statement.encode()).rowcount
    found = faults(log, judged, expected)
    assert any(fault.startswith(where) and what in fault for fault in found)
    assert len(found) <= 3, "one fault is told of once from each side"


def test_it_finds_a_delivery_that_was_answered_and_is_nowhere(
    log: dict[int, list[RawEntry]], expected: oracle.Expected, judged: Connection
) -> None:
    some = [entry for entry in log[3] if oracle.tokens(entry.fields)][:3]
    promised = {f"delivery {entry.position}": oracle.tokens(entry.fields) for entry in some}
    assert faults(log, judged, expected, promised=promised) == []
    promised["delivery lost"] = {"event 6f1c1e0a-0b7e-5d0e-9c55-0a7f3f8f0001"}
    (found,) = faults(log, judged, expected, promised=promised)
    assert found.startswith("I1 delivery lost")


def test_what_waits_in_the_spool_is_not_lost(log: dict[int, list[RawEntry]], judged: Connection) -> None:
    last = next(entry for entry in reversed(log[3]) if oracle.tokens(entry.fields))
    shorter = log | {3: [entry for entry in log[3] if entry is not last]}
    promised = {"last": oracle.tokens(last.fields)}
    assert any(fault.startswith("I1 last") for fault in faults(shorter, judged, promised=promised))
    spooled = [last.fields]
    assert not any(fault.startswith("I1") for fault in faults(shorter, judged, promised=promised, spooled=spooled))
