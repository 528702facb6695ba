"""Profiles: counts by hour and day, whatever the order, the batches and the restarts."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from analytics import profiles
from analytics import rulebook as rulebooks
from analytics.detectors.detector import JOB, REPOSITORY, Counts, Finding, Profile, ProfileDetector
from analytics.profiles import HOUR_MS, PANE_MS, SETTLED_MS
from analytics.shard import Shard
from models.records import columns
from models.records.event import Event, Outcome
from models.records.outputs import JobHour
from tests.analytics.log import MINUTE, RULEBOOK, SCORER, T0, Log, fresh, play, resolver, some_at_a_time
from tests.analytics.stretches import profile_of
from tests.events import make_event

ENDS = (Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.CANCELLED)


def ended(rng: random.Random, hours: int, count: int) -> list[Event]:
    """Job runs that end at random moments of so many hours, of a few jobs in a few repositories."""
    events = []
    for number in range(count):
        given: dict[str, Any] = {
            "repository": f"org/repo-{rng.randrange(3)}",
            "job_name": f"job {rng.randrange(4)}",
            "pipeline_id": str(number),
            "job_id": str(number),
            "attempt": rng.choice([1, 1, 2]),
            "duration_ms": rng.choice([None, 900, 61_000, 3_000_000]),
            "queued_ms": rng.choice([None, 0, 5_000]),
            "is_default_branch": rng.random() < 0.5,
        }
        events.append(make_event(rng.choice(ENDS), T0 + rng.randrange(hours * HOUR_MS), **given))
    return sorted(events, key=lambda e: (e.timestamp, e.id))


def at_ms(event: Event) -> int:
    return round(event.timestamp.timestamp() * 1000)


def log_of(arrivals: list[tuple[int, Event]]) -> Log:
    """The events as they arrive, with heartbeats until all is counted."""
    log, now = Log(), T0
    for arrives, event in arrivals:
        log.heartbeats(now, arrives)
        log.event(event, arrives)
        now = arrives
    log.heartbeats(now, now + HOUR_MS + SETTLED_MS + 2 * MINUTE, 1000)
    return log


def by_hand(events: list[Event]) -> Counter[tuple[str, int, str]]:
    """What there is to count of each job and hour."""
    counted: Counter[tuple[str, int, str]] = Counter()
    for event in events:
        meta, hour = event.metadata, at_ms(event) // HOUR_MS * HOUR_MS
        key = "\x1f".join((meta.instance, event.repository, meta.workflow or "", meta.job_name or ""))
        kind = {Outcome.PASSED: "passed", Outcome.FAILED: "failed"}.get(meta.outcome, "other")
        counted[key, hour, kind] += 1
        counted[key, hour, "reruns"] += meta.attempt > 1
        counted[key, hour, f"main_{kind}"] += bool(meta.is_default_branch) and kind != "other"
        counted[key, hour, "duration_ms"] += meta.duration_ms or 0
        counted[key, hour, "failed_ms"] += (meta.duration_ms or 0) * (kind == "failed")
        counted[key, hour, "rerun_ms"] += (meta.duration_ms or 0) * (kind != "failed" and meta.attempt > 1)
        counted[key, hour, "known"] += meta.duration_ms is not None
        counted[key, hour, "waited"] += meta.queued_ms is not None
        counted[key, hour, "queue_ms"] += meta.queued_ms or 0
    return +counted


NAMES = {
    "passed": "passed",
    "failed": "failed",
    "other": "other",
    "reruns": "reruns",
    "main_passed": "main_passed",
    "main_failed": "main_failed",
    "duration_ms_sum": "duration_ms",
    "duration_ms_failed_sum": "failed_ms",
    "duration_ms_rerun_sum": "rerun_ms",
    "queue_ms_sum": "queue_ms",
    "late": "late",
}


def told(hours: list[JobHour]) -> Counter[tuple[str, int, str]]:
    counted: Counter[tuple[str, int, str]] = Counter()
    for hour in hours:
        key = f"{hour.instance}\x1f{hour.repository}\x1f{hour.workflow}\x1f{hour.job_name}"
        for column, name in NAMES.items():
            counted[key, hour.hour_ms, name] += getattr(hour, column)
        counted[key, hour.hour_ms, "known"] += sum(hour.durations)
        counted[key, hour.hour_ms, "waited"] += sum(hour.queues)
    return +counted


def hours_of(log: Log, rng: random.Random, *, restores: bool = False) -> list[JobHour]:
    """The hours that a shard closes, in batches of all sizes."""
    shard, sizes, begin = fresh(), some_at_a_time(rng), 0
    hours: list[JobHour] = []
    while begin < len(log.entries):
        end = begin + next(sizes)
        hours += shard.process(columns.decode(log.entries[begin:end])).job_hours
        begin = end
        if restores and rng.random() < 0.3:
            shard = Shard.restore(shard.snapshot(), lambda _: RULEBOOK)
    return hours


def test_every_job_run_is_counted_once_in_its_hour(rng: random.Random) -> None:
    events = ended(rng, 5, 400)
    hours = hours_of(log_of([(at_ms(e), e) for e in events]), rng)
    assert told(hours) == by_hand(events)
    assert len({(h.repository, h.job_name, h.hour_ms) for h in hours}) == len(hours)
    assert {hour.platform for hour in hours} == {"github"}


def test_disorder_of_five_minutes_and_duplicates_and_restarts_change_no_count(rng: random.Random) -> None:
    events = ended(rng, 3, 300)
    late = sorted((min(at_ms(e) + rng.randrange(300_000), T0 + 4 * HOUR_MS), i, e) for i, e in enumerate(events))
    twice = sorted([*late, *((at + rng.randrange(100_000), i, e) for at, i, e in late)], key=lambda a: a[:2])
    hours = hours_of(log_of([(at, e) for at, _, e in twice]), rng, restores=True)
    assert told(hours) == by_hand(events)


def test_what_comes_later_than_that_is_counted_as_late_where_stream_time_stands(rng: random.Random) -> None:
    event = make_event(Outcome.PASSED, T0)
    hours = hours_of(log_of([(T0 + 3 * HOUR_MS, event)]), rng)
    assert [(hour.hour_ms, name, count) for (_, _, name), count in told(hours).items() for hour in hours] == [
        (T0 + 3 * HOUR_MS, "late", 1)
    ]


def test_many_keys_are_taken_in_portions_that_a_restart_may_cut(rng: random.Random, monkeypatch: Any) -> None:
    monkeypatch.setattr(profiles, "_LEAST_ROWS", 3)
    events = ended(rng, 2, 200)
    log = log_of([(at_ms(e), e) for e in events])
    whole = hours_of(log, random.Random(1))
    cut = hours_of(log, random.Random(2), restores=True)
    assert told(whole) == by_hand(events)
    assert whole == cut


def test_a_profile_keeps_a_day_by_the_hour_and_four_weeks_by_the_day() -> None:
    step = HOUR_MS // 2
    ends = [(T0 + i * step, Counts(0, passed=1, durations={20: 1})) for i in range(40 * 48)]
    profile = profile_of(ends, JOB)
    newest = ends[-1][0] // HOUR_MS * HOUR_MS
    assert [c.at_ms for c in profile.recent] == list(range(newest - 23 * HOUR_MS, newest + 1, HOUR_MS))
    assert {c.passed for c in profile.recent} == {2}
    assert len(profile.days) == 29
    assert {c.passed for c in profile.days} == {48}
    assert profile.days[0].durations == {20: 48}
    of_repository = profile_of(ends, REPOSITORY)
    assert [c.at_ms for c in of_repository.recent] == [at for at, _ in ends[-16:]]


@dataclasses.dataclass(frozen=True, slots=True)
class Watching(ProfileDetector):
    """Finds that something failed in the last stretch."""

    by = REPOSITORY
    within: timedelta = timedelta(hours=2)

    def judge(self, profile: Profile, at_ms: int) -> Finding | None:
        """Look at the last stretch."""
        last = profile.recent[-1]
        assert at_ms == last.at_ms + PANE_MS
        return Finding(last.at_ms, at_ms, last.failed, (), f"{last.failed} failed") if last.failed else None


def test_a_finding_on_a_profile_is_raised_changed_when_there_is_more_and_cleared_by_silence() -> None:
    rulebook = rulebooks.compose(scorer=SCORER, also={Watching: "digest"})
    resolve = resolver(rulebook)
    log = Log()
    for i in range(2):
        log.say(Outcome.FAILED, T0 + i, pipeline_id=str(i), job_id=str(i))
    log.heartbeats(T0 + MINUTE, T0 + 4 * HOUR_MS, 1000)
    said, _ = play(log.entries, fresh(rulebook, resolve), resolve=resolve)
    rows = [row for row in said.findings if row.detector == "Watching"]
    assert [(row.state, row.message, row.events) for row in rows] == [
        ("raised", "2 failed", []),
        ("cleared", "no longer holds", []),
    ]
    assert rows[0].at_ms - T0 - PANE_MS - SETTLED_MS == pytest.approx(1000, abs=1000)
    assert rows[1].at_ms == T0 + PANE_MS + 2 * HOUR_MS
