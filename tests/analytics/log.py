"""A shard's log, written by hand or at random, and what a shard says to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from analytics import rulebook as rulebooks
from analytics.rulebook import Rulebook
from analytics.shard import Shard
from models.records import columns, payload
from models.records.acted import Acted, ActedJob, ActResult
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.errors import ConfigError
from models.records.event import Event, Outcome, case_id
from models.records.evidence import Evidence, Line, Reading
from models.records.ledger import act_id
from models.records.outputs import FindingRow, FindingState, ShardOutput
from models.records.raw import RawEntry
from models.scorers.rerun_passes import RerunPasses
from tests.events import make_event

T0 = 1_790_000_000_000 // 86_400_000 * 86_400_000
MINUTE = 60_000
SCORER = RerunPasses(
    intercept=0.0,
    weights={"signature=github_set_up_job": 2.0, "signature=gitlab_runner_interrupted": 2.0, "step=cache": -2.0},
).to_artefact()
RULEBOOK = rulebooks.compose(scorer=SCORER)
OTHER_RULEBOOK = rulebooks.compose(
    scorer=SCORER,
    policy={"least_score": 0.95, "await_log_seconds": 10},
    detectors={"RepeatedFailure": {"threshold": 2}, "StuckJob": {"patience": "10m", "patience_unknown": "10m"}},
)


def resolver(*known: Rulebook) -> Callable[[str], Rulebook]:
    """What gives the rulebooks `known`, and no other."""
    by_digest = {r.digest: r for r in (RULEBOOK, OTHER_RULEBOOK, *known)}

    def resolve(digest: str) -> Rulebook:
        if digest not in by_digest:
            raise ConfigError(f"no rulebook {digest}")
        return by_digest[digest]

    return resolve


RESOLVE = resolver()


class Log:
    """Entries of one shard in the order in which they are written."""

    def __init__(self) -> None:
        self.entries: list[RawEntry] = []

    def put(self, entry: Entry) -> None:
        """Append `entry`, received and entered at the same time."""
        self.entries.append(RawEntry(len(self.entries) + 1, entry.received_ms, 0, encode(entry)))

    def take(self, entries: Iterable[RawEntry]) -> None:
        """Append `entries` of another log."""
        self.entries += [e._replace(position=i) for i, e in enumerate(entries, len(self.entries) + 1)]

    def event(self, event: Event, received_ms: int | None = None, encoding: Encoding = Encoding.JSON) -> Event:
        """Append an event, received when it happened unless told otherwise."""
        at = event.timestamp.timestamp() * 1000 if received_ms is None else received_ms
        self.put(Entry(Kind.EVENT, encoding, round(at), payload.to_bytes(event, encoding)))
        return event

    def say(self, outcome: Outcome, at_ms: int, **given: Any) -> Event:
        """Append the event that `make_event` makes."""
        received_ms = given.pop("received_ms", None)
        return self.event(make_event(outcome, at_ms, **given), received_ms)

    def evidence(self, of: Event, at_ms: int, **given: Any) -> Evidence:
        """Append what the log of a failed job showed; READ unless `given` says otherwise, lines as pairs or triples."""
        lines = tuple(Line(line[0], line[1], *(line[2:] or (True,))) for line in given.pop("lines", ()))
        known: dict[str, Any] = {"reading": Reading.READ, "lines": lines, "log_lines": 100, "normaliser": 1, **given}
        said = Evidence(
            event_id=of.id,
            instance=of.metadata.instance,
            repository=of.repository,
            pipeline_id=of.pipeline_id,
            workflow_id=of.metadata.workflow_id,
            job_id=of.job_id,
            attempt=of.metadata.attempt,
            **known,
        )
        self.put(Entry(Kind.EVIDENCE, Encoding.JSON, at_ms, msgspec.json.encode(said)))
        return said

    def acted(self, of: Event | Sequence[Event], at_ms: int, **given: Any) -> Acted:
        """Append that failed jobs of one run were run again; DONE unless `given` says otherwise."""
        said = acted_on([of] if isinstance(of, Event) else of, at_ms, **given)
        self.put(Entry(Kind.OUTCOME, Encoding.JSON, at_ms, msgspec.json.encode(said)))
        return said

    def heartbeats(self, since_ms: int, until_ms: int, step_ms: int = MINUTE) -> None:
        """Append a heartbeat every `step_ms`, the last at `until_ms`."""
        for at in (*range(since_ms, until_ms, step_ms), until_ms):
            self.put(Entry(Kind.HEARTBEAT, Encoding.JSON, at, b""))

    def control(self, at_ms: int, rulebook: Rulebook) -> None:
        """Bring `rulebook` into force."""
        self.put(Entry(Kind.CONTROL, Encoding.JSON, at_ms, msgspec.json.encode({"rulebook": rulebook.digest})))


def acted_on(failed: Sequence[Event], asked_ms: int, **given: Any) -> Acted:
    """The record of a rerun of `failed`, jobs of one run attempt."""
    run, meta = failed[0], failed[0].metadata
    one = meta.rerun_after == "job"
    known: dict[str, Any] = {
        "action": "rerun_job" if one else "rerun_failed",
        "target": run.job_id if one and run.job_id else "run",
        "result": ActResult.DONE,
        "signature": "github_set_up_job",
        **given,
    }
    where: dict[str, Any] = {"instance": meta.instance, "repository": run.repository, "pipeline_id": run.pipeline_id}
    where |= {"workflow_id": meta.workflow_id, "attempt": meta.attempt}
    jobs = tuple(
        ActedJob(event.id, event.metadata.workflow or "", event.metadata.job_name or "", known["signature"])
        for event in failed
    )
    case, act = case_id(**where), act_id(**where, target=known["target"], action=known["action"])
    known = {"jobs": jobs, "commit_sha": meta.commit_sha, "branch": meta.branch, "asked_ms": asked_ms, **known}
    return Acted(act_id=act, decision_id=case, case_id=case, platform=run.platform, **where, **known)


def rerun_of(failed: Event, outcome: Outcome, at_ms: int, number: int, **given: Any) -> Event:
    """How rerun `number` of a failed job ends, as its platform counts reruns."""
    meta = failed.metadata
    again: dict[str, dict[str, Any]] = {
        "github": {"attempt": meta.attempt + 1},
        "gitlab": {},
        "circleci": {"workflow_id": f"{meta.workflow_id}+{number}"},
        "jenkins": {"pipeline_id": f"{failed.pipeline_id}+{number}"},
    }
    same = ("instance", "workflow", "workflow_id", "job_name", "attempt", "commit_sha", "branch", "rerun_after")
    known = {name: getattr(meta, name) for name in (*same, "runner_labels")}
    known |= {name: getattr(failed, name) for name in ("platform", "repository", "pipeline_id")}
    job_id = None if failed.job_id is None else f"{failed.job_id}+{number}"
    return make_event(outcome, at_ms, **known | {"job_id": job_id} | again[failed.platform] | given)


_SAID = ("failures", "findings", "decisions", "aggregates", "dead_letters", "diagnoses")
ROWS = (*_SAID, "detector_faults", "job_hours", "act_outcomes", "closed")


def nothing() -> ShardOutput:
    """No rows yet."""
    return ShardOutput([], [], [], [], [], [], [], [], act_outcomes=[], closed=[])


def add(said: ShardOutput, more: ShardOutput) -> None:
    """Append the rows of `more` to `said`."""
    for name in ROWS:
        getattr(said, name).extend(getattr(more, name))


def fresh(rulebook: Rulebook = RULEBOOK, resolve: Callable[[str], Rulebook] = RESOLVE, **given: Any) -> Shard:
    """A shard that remembers nothing."""
    return Shard(3, rulebook, resolve, **given)


def play(
    entries: Sequence[RawEntry],
    shard: Shard | None = None,
    *,
    sizes: Iterator[int] | None = None,
    restores: Callable[[], bool] = lambda: False,
    resolve: Callable[[str], Rulebook] = RESOLVE,
) -> tuple[ShardOutput, Shard]:
    """All that a shard says to `entries`, in batches of `sizes`, restored from a snapshot wherever `restores` says."""
    shard, said, begin = shard or fresh(), nothing(), 0
    while begin < len(entries):
        end = begin + (next(sizes) if sizes else len(entries))
        add(said, shard.process(columns.decode(entries[begin:end])))
        begin = end
        if restores():
            shard = Shard.restore(shard.snapshot(), resolve)
    return said, shard


def one_by_one() -> Iterator[int]:
    """Batches of one entry."""
    while True:
        yield 1


def some_at_a_time(rng: random.Random) -> Iterator[int]:
    """Batches of all sizes."""
    while True:
        yield rng.choice([1, 1, 2, 3, 7, 30, 200, 1000])


def as_bytes(said: ShardOutput) -> list[bytes]:
    """Every row as bytes, sorted, and every minute that was closed."""
    minutes = [(m.shard, m.rulebook, m.rules, *minute) for m in said.closed for minute in m.minutes]
    rows = [(name, row) for name in ROWS[:-1] for row in getattr(said, name)]
    return sorted(msgspec.json.encode(row) for row in (*rows, *minutes))


def standing(said: ShardOutput) -> list[FindingRow]:
    """The findings that were raised and not cleared since."""
    last: dict[str, FindingRow] = {}
    for row in said.findings:
        assert row.revision > last[row.finding_id].revision if row.finding_id in last else True
        last[row.finding_id] = row
    return [row for row in last.values() if row.state != FindingState.CLEARED]
