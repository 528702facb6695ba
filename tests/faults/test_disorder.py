"""F16: the same deliveries three times and in any order within five minutes say in the end what a calm run says."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

import pytest

from analytics.rulebook import compose
from analytics.shard import Shard
from benchmarks import workload
from benchmarks.workload import Workload
from benchmarks.world.deliveries import Weather
from connectors.postgres import connect
from connectors.redaction import Redactor
from models.records.columns import decode
from models.records.entry import Encoding, Kind
from models.records.event import SHARDS, shard_of
from models.records.outputs import FindingRow
from models.records.payload import from_json, to_json
from models.records.raw import RawEntry
from tests.faults.harness import BEGINS, KEY, Flow, Ground, Told, happen, normalise, told

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

DISORDER_MS = 300_000
SILENCE_MS = 900_000
"""What comes after the last event, so that all minutes close and nothing waits any more."""


class Sent(NamedTuple):
    """An event as its platform sent it."""

    shard: int
    at_ms: int
    payload: bytes


def events(seed: int, *, hours: float) -> list[Sent]:
    """What happens in `hours` of the world and of the benchmarks' workload, each fact told once.

    Jenkins tells the end of a build twice, a second apart, and the telling that comes first stands: whose time that is
    depends on the order, and nothing else does.
    """
    redactor = Redactor(KEY.encode())
    sent = [
        Sent(said.shard, int(delivery.at * 1000), entry.payload)
        for delivery in happen(seed, seconds=hours * 3600, weather=Weather())
        for said in normalise(delivery, redactor).deliveries
        for entry, _ in said.items
        if entry.kind is Kind.EVENT
    ]
    start = datetime.fromtimestamp(BEGINS, UTC)
    for event in workload.events(Workload(int(hours * 800), seed=seed, repositories=40, rate=800 / 3600, start=start)):
        shard = shard_of(event.metadata.instance, event.repository)
        sent.append(Sent(shard, workload.milliseconds(event.timestamp), to_json(event)))
    return list({from_json(one.payload).id: one for one in reversed(sent)}.values())


def entries(sent: list[Sent], hours: float) -> list[Told]:
    """`sent` as it is received, with heartbeats until long after."""
    first = int(BEGINS * 1000)
    beats = range(first, first + int(hours * 3_600_000) + DISORDER_MS + SILENCE_MS, 60_000)
    made = [told(shard, at, Kind.HEARTBEAT, Encoding.JSON, b"{}") for shard in range(SHARDS) for at in beats]
    made += [told(one.shard, one.at_ms, Kind.EVENT, Encoding.JSON, one.payload) for one in sent]
    return sorted(made, key=lambda entry: entry.at_ms)


def stormy(sent: list[Sent], rng: random.Random) -> list[Sent]:
    """Every one of `sent` three times, each up to five minutes late."""
    return [one._replace(at_ms=one.at_ms + rng.randrange(DISORDER_MS)) for one in sent for _ in range(3)]


class Outcome(NamedTuple):
    """What stands in the end, whatever was said on the way."""

    decisions: dict[str, tuple[Any, ...]]
    findings: dict[tuple[str, str], tuple[Any, ...]]
    failures: set[str]
    late: int
    duplicates: int


SHIPPED: Final = compose()
BY_ABSENCE: Final = frozenset({"StuckJob", "StuckQueue"})
"""Whether its source still delivers and how long a job usually takes depend on when deliveries come, as they should."""


def outcome(log: list[Told]) -> Outcome:
    """What shards say of `log`, in batches of a hundred."""
    decisions: dict[str, tuple[Any, ...]] = {}
    findings: dict[tuple[str, str], tuple[Any, ...]] = {}
    failures: set[str] = set()
    late = duplicates = 0
    for number in range(SHARDS):
        shard = Shard(number, SHIPPED, {SHIPPED.digest: SHIPPED}.__getitem__)
        left = iter([one for one in log if one.shard == number])
        position = 0
        while some := list(islice(left, 100)):
            batch = [RawEntry(position + i, one.at_ms, i, (one.name, one.value)) for i, one in enumerate(some, 1)]
            position += len(some)
            output = shard.process(decode(batch))
            failures |= {row.failure_id for row in output.failures}
            decisions |= {
                d.case_id: (d.verdict, d.reason, d.calls, d.jobs)
                for d in output.decisions
                if d.because_of is None  # words and numbers of others are of the time when they were said
            }
            for row in output.findings:
                findings.pop((row.detector, row.subject), None)
                if row.state != "cleared" and row.detector not in BY_ABSENCE:
                    findings[row.detector, row.subject] = said_of(row)
            late += output.stats.late
            duplicates += output.stats.duplicates
    return Outcome(decisions, findings, failures, late, duplicates)


def said_of(row: FindingRow) -> tuple[Any, ...]:
    """What a finding comes down to.

    A repeated failure names what was in its window when the last failure came in; which of the oldest were still there
    depends on when that was.
    """
    if row.detector == "RepeatedFailure":
        return row.last_ms, row.events[-1]
    return row.first_ms, row.last_ms, row.occurrences, row.events


@pytest.mark.parametrize("number", range(4))
def test_three_copies_shuffled_within_five_minutes_decide_and_find_the_same(rng: random.Random, number: int) -> None:
    sent = events(rng.randrange(1 << 30), hours=1.2)
    calm, storm = outcome(entries(sent, 1.2)), outcome(entries(stormy(sent, rng), 1.2))
    assert len(calm.decisions) > 50
    assert calm.findings
    assert calm.failures <= storm.failures, "a run that failed before its jobs did is a failure of its own"
    assert differing(calm.decisions, storm.decisions) == {}
    assert differing(calm.findings, storm.findings) == {}
    assert (calm.duplicates, storm.duplicates) == (0, 2 * len(sent))
    assert storm.late > calm.late


def differing(calm: Mapping[Any, Any], storm: Mapping[Any, Any]) -> dict[Any, tuple[Any, Any]]:
    """What one of them says otherwise than the other."""
    both = calm.keys() | storm.keys()
    return {key: (calm.get(key), storm.get(key)) for key in both if calm.get(key) != storm.get(key)}


def test_the_storm_through_the_real_flow_is_exact_and_decides_as_the_calm_run_does(
    ground: Ground, rng: random.Random
) -> None:
    sent = events(rng.randrange(1 << 30), hours=0.5)
    calm = outcome(entries(sent, 0.5))
    ground.publish(entries(stormy(sent, rng), 0.5))
    with Flow(ground) as flow:
        ground.drain(flow)
        assert flow.metric("guard_late_events_total") > 0
        assert flow.metric("guard_duplicates_total") >= 2 * len(sent)
    ground.check().must_be_exact()
    with connect(ground.postgres_url) as connection:
        query = "SELECT case_id::text, verdict, reason, calls::text, jobs::text[] FROM guard.current_decisions"
        query += " WHERE because_of IS NULL"
        found = {
            case: (verdict, reason, calls, jobs) for case, verdict, reason, calls, jobs in connection.execute(query)
        }
    assert differing(read(calm.decisions), read(found)) == {}


def read(decisions: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """`decisions` with their calls as values: PostgreSQL writes JSON in its own way."""
    return {
        case: (verdict, reason, json.loads(calls), jobs) for case, (verdict, reason, calls, jobs) in decisions.items()
    }
