"""Hours of pipelines at random: what platforms tell of them, with everything that a shard must take in its stride."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import msgspec

from models.records import payload
from models.records.acted import Acted
from models.records.entry import Encoding, Entry, Kind
from models.records.event import Event, Outcome
from models.records.evidence import Reading
from tests.analytics.log import MINUTE, OTHER_RULEBOOK, T0, Log, acted_on, rerun_of
from tests.events import make_event

STEPS = ("Set up job", "Set up job", "Run tests", "Compile", "weird", None)
ENDS = (Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED)
GAP = 8 * 60 * MINUTE


@dataclass(frozen=True)
class Told:
    """An event and when it arrives."""

    arrives_ms: int
    event: Event


def _run(rng: random.Random, number: int, at: int) -> list[Told]:
    """All that is told of one run, in order and at once."""
    gitlab = number % 5 == 0
    run: dict[str, Any] = {
        "platform": "gitlab" if gitlab else "github",
        "instance": "gitlab.example.org" if gitlab else "github.com",
        "repository": f"org/repo-{rng.randrange(4)}",
        "pipeline_id": str(number),
        "commit_sha": f"c{rng.randrange(6)}",
        "attempt": rng.choice([1, 1, 1, 2]),
        "rerun_after": "job" if gitlab else "run",
        "is_fork": rng.random() < 0.05,
    }
    events, ends, outcomes = [], [at], []
    for job in range(rng.randint(1, 3)):
        own = {**run, "job_id": f"{number}-{job}", "job_name": f"job {rng.randrange(2)}"}
        started, took = at + rng.randrange(20_000), rng.choice([900, 20_000, 90_000, 400_000, 2_000_000])
        if rng.random() < 0.7:
            events.append(make_event(Outcome.QUEUED, started, **own))
        events.append(make_event(Outcome.RUNNING, started + 5, **own))
        if rng.random() < 0.03:
            continue
        outcome = rng.choice(ENDS)
        step = rng.choice(STEPS)
        reason = {"reason": "runner_interrupted"} if gitlab and rng.random() < 0.5 else {"step": step}
        rare = {"is_deploy": rng.random() < 0.05, "allow_failure": rng.random() < 0.05}
        end = started + took
        events.append(make_event(outcome, end, duration_ms=took, **own, **reason, **rare))
        outcomes.append(outcome)
        ends.append(end)
    if rng.random() < 0.9:
        bad = next((o for o in outcomes if o is not Outcome.PASSED), Outcome.PASSED)
        events.append(make_event(bad, max(ends) + 500, job_id=None, job_name=None, **_without(run, "workflow_id")))
    return [Told(round(e.timestamp.timestamp() * 1000), e) for e in events]


def _without(run: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in run.items() if k != name}


def told(rng: random.Random, *, runs: int = 160, gap_ms: int = GAP) -> list[Told]:
    """What is told of `runs` runs, in order of time, with a silence of `gap_ms` in the middle."""
    everything, at = [], T0
    for number in range(runs):
        at += rng.randrange(90_000) + (gap_ms if number == runs // 2 else 0)
        everything += _run(rng, number, at)
    return sorted(everything, key=lambda t: (t.arrives_ms, t.event.id))


def shuffled(rng: random.Random, events: list[Told], most_ms: int) -> list[Told]:
    """The same, each up to `most_ms` late."""
    late = [Told(t.arrives_ms + rng.randrange(most_ms), t.event) for t in events]
    return sorted(late, key=lambda t: (t.arrives_ms, t.event.id))


def log_of(events: list[Told], *, until_ms: int | None = None) -> Log:
    """A log of `events` alone with a heartbeat every ten seconds of the time in which they stand close together."""
    log, now = Log(), T0
    for t in events:
        if t.arrives_ms > now:
            log.heartbeats(now, t.arrives_ms, 60_000)
            now = t.arrives_ms
        log.event(t.event, t.arrives_ms)
    if until_ms is not None:
        log.heartbeats(now, until_ms, 60_000)
    return log


BAD_KINDS = (Kind.REJECT, Kind.CONTROL, Kind.EVIDENCE, Kind.OUTCOME)
READINGS: tuple[dict[str, Any], ...] = (
    {},
    {"compared": True, "exit_code": 137},
    {"reading": Reading.NO_LOG, "why": "HTTP 404", "lines": ()},
    {"reading": Reading.NOT_READ, "why": "HTTP 403", "lines": ()},
)
LINES = ("E   assert 1 == 2", "No space left on device", *("nothing that is known",) * 4)


def _shown(rng: random.Random, events: list[Told]) -> list[tuple[int, Event, list[tuple[int, str, bool]]]]:
    """When the logs of some of the failed jobs are read: soon, late, or twice."""
    failed = [t for t in events if t.event.failure_context is not None and t.event.job_id is not None]
    some = [t for t in failed if rng.random() < 0.6]
    some += [t for t in some if rng.random() < 0.2]
    at = [t.arrives_ms + rng.choice([500, 3000, 30_000, 3_600_000]) for t in some]
    lines = [[(n, rng.choice(LINES), rng.random() < 0.8) for n in range(1, 4)] for _ in some]
    return sorted(zip(at, (t.event for t in some), lines, strict=True), key=lambda s: (s[0], s[1].id))


def _rerun(rng: random.Random, failed: Event, asked_ms: int, number: int) -> Told:
    took, outcome = rng.choice([900, 90_000, 900_000]), rng.choice([*ENDS, Outcome.SKIPPED])
    why = {"reason": "runner_interrupted"} if failed.platform == "gitlab" else {"step": rng.choice(STEPS)}
    end = rerun_of(failed, outcome, asked_ms + took, number, duration_ms=took, **why)
    return Told(asked_ms + took + 5000, end)


def _healed(rng: random.Random, events: list[Told]) -> tuple[list[tuple[int, Acted]], list[Told]]:
    """Acts on some of the failed jobs, told before or after what they cause; and the reruns, and some of nobody's."""
    acts, reruns = [], []
    for number, t in enumerate(events):
        if t.event.failure_context is None or t.event.job_id is None or rng.random() < 0.4:
            continue
        asked = t.arrives_ms + rng.choice([1000, 60_000])
        signature = rng.choice(["github_set_up_job", "gitlab_runner_interrupted"])
        act = acted_on([t.event], asked, signature=signature, probe=rng.random() < 0.1)
        acts += [(asked + rng.choice([0, 100, 200_000]), act)] * rng.choice([1, 1, 1, 2])
        reruns += [_rerun(rng, t.event, asked, number)] * (rng.random() < 0.9)
        reruns += [_rerun(rng, t.event, asked + 7_200_000, -number)] * (rng.random() < 0.2)
    return sorted(acts, key=lambda act: (act[0], act[1].act_id)), reruns


def full_log(rng: random.Random) -> Log:
    """A log with duplicates, disorder, all encodings, every kind, what cannot be read, and a change of the rulebook."""
    log, events = Log(), told(rng)
    acts, reruns = _healed(rng, events)
    events = shuffled(rng, [*events, *reruns], 40_000)
    half = len(events) // 3
    shown = _shown(rng, events)
    for i, t in enumerate(events):
        while shown and shown[0][0] <= t.arrives_ms:
            at, event, lines = shown.pop(0)
            log.evidence(event, at, **{"lines": lines, **rng.choice(READINGS)})
        while acts and acts[0][0] <= t.arrives_ms:
            at, act = acts.pop(0)
            log.put(Entry(Kind.OUTCOME, Encoding.JSON, at, msgspec.json.encode(act)))
        if i == half:
            log.control(t.arrives_ms, OTHER_RULEBOOK)
        if rng.random() < 0.2:
            kind = rng.choice([Kind.HEARTBEAT, Kind.HEARTBEAT, *BAD_KINDS])
            said = msgspec.json.encode({"reason": "malformed_payload", "detail": "d", "source": "gh", "rulebook": "x"})
            log.put(Entry(kind, Encoding.JSON, t.arrives_ms, said))
        if rng.random() < 0.02:
            log.put(Entry(Kind.EVENT, rng.choice(list(Encoding)), t.arrives_ms, b"{garbage"))
        if rng.random() < 0.1:
            packed = payload.to_packed([t.event, rng.choice(events[max(0, i - 20) : i + 1]).event])
            log.put(Entry(Kind.EVENT, Encoding.PACKED, t.arrives_ms, packed))
        log.event(t.event, t.arrives_ms - rng.choice([0, 0, 1000]), rng.choice(list(Encoding)))
    log.heartbeats(events[-1].arrives_ms, events[-1].arrives_ms + 30 * 60 * MINUTE, 600_000)
    return log
