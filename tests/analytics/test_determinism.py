"""What a shard says is a pure function of its entries, whatever the batches, restarts, duplicates and disorder."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.shard import Shard
from models.records import columns
from models.records.event import FAILING, Outcome
from models.records.outputs import DecisionRow, ShardOutput
from tests.analytics.log import (
    MINUTE,
    OTHER_RULEBOOK,
    RESOLVE,
    RULEBOOK,
    SCORER,
    as_bytes,
    fresh,
    play,
    some_at_a_time,
    standing,
)
from tests.analytics.workload import Told, full_log, log_of, shuffled, told

SEEDS = (1, 2, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_twenty_batchings_with_restores_and_a_new_rulebook_give_the_same_bytes(seed: int) -> None:
    entries = full_log(random.Random(seed)).entries
    whole, _ = play(entries)
    expected = as_bytes(whole)
    assert {row.rulebook for row in whole.decisions} == {RULEBOOK.digest, OTHER_RULEBOOK.digest}
    for batching in range(20):
        rng = random.Random(f"{seed}/{batching}")
        often = rng.choice([0.0, 0.1, 1.0])
        said, _ = play(
            entries,
            sizes=some_at_a_time(rng),
            restores=lambda rng=rng, often=often: rng.random() < often,  # type: ignore[misc]  # bound on purpose
        )
        assert as_bytes(said) == expected, f"seed {seed}, batching {batching}"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_workload_shows_all_that_it_is_there_for(seed: int) -> None:
    said, shard = play(full_log(random.Random(seed)).entries)
    assert {row.state for row in said.findings} == {"raised", "changed", "cleared"}
    assert {row.detector for row in said.findings} >= {"FlakyTest", "RepeatedFailure", "StuckJob"}
    assert {row.verdict for row in said.decisions} == {"act", "wait", "skip"}
    assert {row.reason for row in said.decisions} >= {"repeated_failure", "run_cancelled", "awaiting_log"}
    assert {row.diagnosis for row in said.diagnoses} == {"matched", "no_pattern", "no_log", "not_read"}
    assert {row.reason for row in said.dead_letters} >= {
        "malformed_payload",
        "bad_control",
    }
    assert {row.outcome for row in said.act_outcomes} >= {"passed", "failed_same", "failed_otherwise", "unseen"}
    assert {row.masked for row in said.act_outcomes} == {True, False}
    assert max(row.revision for row in said.act_outcomes) > 0
    assert any("learnt" in json.loads(row.explanation) for row in said.decisions)
    assert max(row.revision for row in said.decisions) > 1
    assert not shard._runs._running
    assert not shard._cases._cases
    assert not shard._outcomes._watches
    assert not shard._outcomes.watched
    assert not shard._outcomes.branches
    assert not shard._scopes.jobs._histories
    assert standing(said) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_snapshot_of_what_was_restored_is_the_same_snapshot(seed: int) -> None:
    entries, rng = full_log(random.Random(seed)).entries, random.Random(seed)
    shard = Shard(3, RULEBOOK, RESOLVE)
    sizes, begin = some_at_a_time(rng), 0
    while begin < len(entries):
        end = begin + next(sizes)
        shard.process(columns.decode(entries[begin:end]))
        begin = end
        snapshot = shard.snapshot()
        again = Shard.restore(snapshot, RESOLVE)
        assert again.snapshot() == snapshot
        assert (again.position, again.stream_ms) == (shard.position, shard.stream_ms)
        mine, other = (
            {(s, kind, str(key)) for s, due in x._desk.timers._due.items() for kind, key in due} for x in (shard, again)
        )
        assert other <= mine, "a restored shard waits for nothing that the living one does not wait for"


def _judged(said: ShardOutput) -> list[Any]:
    """What must not depend on duplicates: all rows without their places in the stream."""
    return sorted(
        msgspec.json.encode([name, row._replace(position=0), row._replace(position=0) == row])
        for name in ("failures", "findings", "decisions", "aggregates")
        for row in getattr(said, name)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_duplicates_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    events = told(rng)
    twice: list[Told] = []
    for i, t in enumerate(events):
        twice.append(t)
        for earlier in rng.sample(events[max(0, i - 15) : i + 1], k=min(i, rng.choice([0, 1, 3]))):
            near = t.arrives_ms - earlier.arrives_ms < 5 * MINUTE
            twice += [Told(t.arrives_ms, earlier.event)] * near
    assert len(twice) > len(events) * 1.5
    once, _ = play(log_of(events).entries)
    more, _ = play(log_of(twice).entries, sizes=some_at_a_time(rng))
    assert _judged(more) == _judged(once)


def _last(said: ShardOutput) -> dict[str, DecisionRow]:
    return {row.case_id: row for row in sorted(said.decisions, key=lambda row: row.revision)}


def _attempts(said: ShardOutput) -> dict[str, tuple[str, str, str]]:
    """What is in force about run attempts."""
    return {c: (r.verdict, r.reason, r.calls) for c, r in _last(said).items() if r.because_of is None}


def _asked(said: ShardOutput) -> set[tuple[str, str, str | None]]:
    """What is in force about findings and to be done; words and numbers in it are of the time when it was said."""
    stands = {row.finding_id for row in standing(said)}
    return {(r.repository, r.reason, r.action) for r in _last(said).values() if r.because_of in stands}


@pytest.mark.parametrize("seed", SEEDS)
def test_disorder_of_five_minutes_leaves_the_same_findings_and_decisions(seed: int) -> None:
    rng = random.Random(seed)
    events = told(rng, gap_ms=0)
    end = events[-1].arrives_ms + 6 * MINUTE
    # What is usual for a job is known from minutes that closed in time; here only patience counts.
    impatient = rulebooks.compose(scorer=SCORER, detectors={"StuckJob": {"factor": 0, "patience_unknown": "1h"}})
    in_order, _ = play(log_of(events, until_ms=end).entries, fresh(impatient))
    expected, asked = _attempts(in_order), _asked(in_order)
    stand = {(row.detector, row.subject) for row in standing(in_order)}
    assert stand
    for _ in range(3):
        said, _ = play(log_of(shuffled(rng, events, 5 * MINUTE), until_ms=end).entries, fresh(impatient))
        assert {(row.detector, row.subject) for row in standing(said)} == stand
        assert _attempts(said) == expected
        assert _asked(said) == asked


@pytest.mark.parametrize("seed", SEEDS)
def test_the_aggregates_are_what_one_counts_by_hand(seed: int) -> None:
    events = told(random.Random(seed))
    said, _ = play(log_of(events, until_ms=events[-1].arrives_ms + 3 * MINUTE).entries)
    counted: Counter[tuple[str, str, str, int, str]] = Counter()
    for t in events:
        meta = t.event.metadata
        if t.event.job_id is None:
            continue
        key = (t.event.platform, meta.instance, t.event.repository, t.arrives_ms // MINUTE * MINUTE)
        if meta.outcome is Outcome.RUNNING:
            counted[*key, "started"] += 1
        elif meta.outcome in FAILING:
            counted[*key, "failed"] += 1
        elif meta.outcome is not Outcome.QUEUED:
            counted[*key, "completed"] += 1
        if meta.duration_ms is not None:
            counted[*key, "sum"] += meta.duration_ms
            counted[*key, f"bucket {max((meta.duration_ms // 1000).bit_length(), 0)}"] += 1
    told_rows: Counter[tuple[str, str, str, int, str]] = Counter()
    for row in said.aggregates:
        row_key = (row.platform, row.instance, row.repository, row.minute_ms)
        assert (*row_key, "seen") not in told_rows, "a minute is written once"
        told_rows[*row_key, "seen"] += 1
        for name in ("started", "completed", "failed"):
            told_rows[*row_key, name] += getattr(row, name)
        told_rows[*row_key, "sum"] += row.duration_ms_sum
        for bucket, count in enumerate(row.durations):
            told_rows[*row_key, f"bucket {bucket}"] += count
        assert row.late == 0
    assert {k: v for k, v in told_rows.items() if v and k[4] != "seen"} == {k: v for k, v in counted.items() if v}
