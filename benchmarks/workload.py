"""A seeded stream of events for benchmarks: runs that begin, execute jobs and end, interleaved as real ones are.

The mix is fixed so that figures can be compared: two to four jobs a run (one on Jenkins, where run and job are one),
every run and every job told twice (started, ended), one ended job in five failed. Texts are those that the shipped
signatures know, and some that they do not.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import (
    SHARDS,
    Event,
    EventType,
    FailureContext,
    Metadata,
    Outcome,
    PlatformName,
    event_id,
    shard_of,
)
from models.records.payload import to_bytes, to_packed

FAILED_SHARE: Final = 0.2  # of ended jobs: a bad day
_PLATFORMS: Final[tuple[PlatformName, ...]] = ("github", "gitlab", "jenkins", "circleci")
_JOBS: Final = ("lint", "test", "build", "integration", "image", "deploy")
_LOG: Final = "\n".join(f"[Pipeline] sh\n+ make step-{i}\nstep-{i}: 0 errors, 0 warnings" for i in range(12))


class _Words(NamedTuple):
    """What a failed job says on one platform."""

    outcome: Outcome
    reason: str
    step: str | None = None
    line: str | None = None


_FAILURES: Final[dict[PlatformName, tuple[_Words, ...]]] = {
    "github": (
        _Words(Outcome.FAILED, "failure", "Run pytest -q"),
        _Words(Outcome.FAILED, "failure", "Set up job"),
        _Words(Outcome.FAILED, "failure", "Run ruff check ."),
        _Words(Outcome.FAILED, "failure", "Verify the moon"),
        _Words(Outcome.TIMED_OUT, "timed_out", "Run tests"),
    ),
    "gitlab": (
        _Words(Outcome.FAILED, "script_failure"),
        _Words(Outcome.ERRORED, "runner_system_failure"),
        _Words(Outcome.TIMED_OUT, "job_execution_timeout"),
    ),
    "jenkins": (
        _Words(Outcome.FAILED, "FAILURE", None, "E       AssertionError: assert 41 == 42"),
        _Words(Outcome.FAILED, "FAILURE", None, "cp: error writing 'app.bin': No space left on device"),
        _Words(Outcome.FAILED, "FAILURE", None, "toomanyrequests: You have reached your pull rate limit."),
        _Words(Outcome.FAILED, "FAILURE", None, "something that nobody has seen before"),
    ),
    "circleci": (_Words(Outcome.FAILED, "failed"),),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """How much of what. `rate` is events per second of event time, from `start` on; `open_runs` go on at a time.

    `failed_share` is that of the jobs that end.
    """

    events: int
    seed: int = 7
    repositories: int = 1000
    rate: float = 1000.0
    open_runs: int = 256
    start: datetime = field(default=datetime(2026, 11, 1, tzinfo=UTC))
    failed_share: float = FAILED_SHARE


class Planned(NamedTuple):
    """One stream entry to append: `name` and `value` are its field, `events` how many it holds."""

    shard: int
    received_ms: int
    name: bytes
    value: bytes
    events: int


class _Repository(NamedTuple):
    name: str
    instance: str
    platform: PlatformName


def events(workload: Workload) -> Iterator[Event]:
    """The events, in order of their time; each is received when it happens."""
    rng = random.Random(f"workload {workload.seed}")
    repositories = [
        _Repository(f"org-{i % 97}/repo-{i}", f"{platform}-{i % 3}", platform)
        for i in range(workload.repositories)
        for platform in (_PLATFORMS[i % len(_PLATFORMS)],)
    ]
    runs = _Runs(rng, repositories, workload)
    step = timedelta(seconds=1 / workload.rate)
    for i in range(workload.events):
        yield runs.tell(workload.start + i * step)


class _Runs:
    """The runs under way; each call tells the next thing of one of them."""

    def __init__(self, rng: random.Random, repositories: Sequence[_Repository], workload: Workload) -> None:
        self._rng = rng
        self._repositories = repositories
        self._failed_share = workload.failed_share
        self._count = 0
        self._open = [self._begin() for _ in range(workload.open_runs)]

    def tell(self, at: datetime) -> Event:
        slot = int(self._rng.random() * len(self._open))
        run = self._open[slot]
        event = run.tell(at)
        if not run.due:
            self._open[slot] = self._begin()
        return event

    def _begin(self) -> _Run:
        self._count += 1
        repository = self._repositories[int(len(self._repositories) * self._rng.random() ** 2)]
        return _Run(repository, self._count, self._rng, self._failed_share)


class _Run:
    """One run with its jobs, and what is still to be told of it."""

    __slots__ = (
        "_common",
        "_failed",
        "_failed_share",
        "_jobs",
        "_number",
        "_repository",
        "_rng",
        "_workflow_id",
        "due",
    )

    def __init__(self, repository: _Repository, number: int, rng: random.Random, failed_share: float) -> None:
        self._repository = repository
        self._failed_share = failed_share
        self._number = str(10_000_000_000 + number)
        self._rng = rng
        self._failed = False
        whole = repository.platform == "jenkins"  # run and job are one there
        self._jobs = rng.sample(_JOBS, 1 if whole else rng.randint(2, 4))
        jobs: list[tuple[int | None, bool]] = [(i, ended) for ended in (False, True) for i in range(len(self._jobs))]
        self.due = jobs if whole else [(None, False), *jobs, (None, True)]
        self._workflow_id = f"workflow-{number}" if repository.platform == "circleci" else None
        self._common: dict[str, Any] = {
            "instance": repository.instance,
            "commit_sha": f"{rng.getrandbits(160):040x}",
            "branch": "main",
            "author": "someone",
            "workflow": "CI",
            "workflow_id": self._workflow_id,
            "is_default_branch": True,
            "url": f"https://ci.example.com/{repository.name}/runs/{self._number}",
            "rerun_after": "run" if repository.platform in ("github", "circleci") else "job",
        }

    def tell(self, at: datetime) -> Event:
        """The next event of the run, at `at`."""
        index, ended = self.due.pop(0)
        if index is None:
            outcome = Outcome.RUNNING if not ended else Outcome.FAILED if self._failed else Outcome.PASSED
            return self._event(at, None, None, outcome, None)
        words = None
        if ended and self._rng.random() < self._failed_share:
            words, self._failed = self._rng.choice(_FAILURES[self._repository.platform]), True
        outcome = words.outcome if words else Outcome.PASSED if ended else Outcome.RUNNING
        job_id = None if self._repository.platform == "jenkins" else f"{self._number}{index}"
        return self._event(at, job_id, self._jobs[index], outcome, words)

    def _event(self, at: datetime, job: str | None, name: str | None, outcome: Outcome, words: _Words | None) -> Event:
        place, failed = self._repository, outcome not in (Outcome.RUNNING, Outcome.PASSED)
        duration = None if outcome is Outcome.RUNNING else 1000 + int(self._rng.random() * 600_000)
        failure = None
        if failed:
            excerpt = f"{_LOG}\n{words.line}" if words and words.line else None
            reason = words.reason if words else None
            failure = FailureContext(duration_ms=duration, reason=reason, excerpt=excerpt)
        return Event(
            id=event_id(
                instance=place.instance,
                repository=place.name,
                pipeline_id=self._number,
                workflow_id=self._workflow_id,
                attempt=1,
                job_id=job,
                outcome=outcome,
                vendor_status=None,
            ),
            timestamp=at,
            platform=place.platform,
            event_type=_TYPES.get(outcome, EventType.FAILED),
            repository=place.name,
            pipeline_id=self._number,
            job_id=job,
            metadata=Metadata(
                **self._common,
                outcome=outcome,
                job_name=name,
                step=words.step if words else None,
                is_deploy=name == "deploy",
                duration_ms=duration,
            ),
            failure_context=failure,
        )


_TYPES: Final = {Outcome.RUNNING: EventType.STARTED, Outcome.PASSED: EventType.COMPLETED}


def milliseconds(at: datetime) -> int:
    """`at` as Unix milliseconds."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def entries(workload: Workload, encoding: Encoding, *, per_entry: int = 100, skip: int = 0) -> Iterator[Planned]:
    """The events as stream entries, in order of their time, without the first `skip`.

    Packed entries hold `per_entry` events of one shard.
    """
    if encoding is not Encoding.PACKED:
        for event in islice(events(workload), skip, None):
            yield _planned(shard_of(event.metadata.instance, event.repository), [event], encoding)
        return
    waiting: list[list[Event]] = [[] for _ in range(SHARDS)]
    for event in islice(events(workload), skip, None):
        shard = shard_of(event.metadata.instance, event.repository)
        waiting[shard].append(event)
        if len(waiting[shard]) == per_entry:
            yield _planned(shard, waiting[shard], encoding)
            waiting[shard] = []
    for shard, rest in enumerate(waiting):
        if rest:
            yield _planned(shard, rest, encoding)


def _planned(shard: int, held: Sequence[Event], encoding: Encoding) -> Planned:
    received_ms = milliseconds(held[-1].timestamp)
    payload = to_packed(held) if encoding is Encoding.PACKED else to_bytes(held[0], encoding)
    name, value = encode(Entry(Kind.EVENT, encoding, received_ms, payload))
    return Planned(shard, received_ms, name, value, len(held))


_VERSION: Final = 1  # of the generator: a change of what it makes must not meet a file from before
_FILE_BLOCK: Final = 10_000


def cached(
    workload: Workload, encoding: Encoding, *, per_entry: int = 100, folder: Path | None = None
) -> Iterator[Planned]:
    """`entries`, read from a file once they have been written there; what is timed is then not their making."""
    folder = folder or Path(tempfile.gettempdir()) / "pipeline-guard-workloads"
    key = msgspec.json.encode([_VERSION, asdict(workload), encoding, per_entry])
    path = folder / f"{hashlib.sha256(key).hexdigest()[:16]}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as new:
            made = entries(workload, encoding, per_entry=per_entry)
            while block := list(islice(made, _FILE_BLOCK)):
                data = msgspec.msgpack.encode(block)
                new.write(len(data).to_bytes(4, "little") + data)
        Path(new.name).replace(path)
    with path.open("rb") as file:
        while size := file.read(4):
            yield from msgspec.msgpack.decode(file.read(int.from_bytes(size, "little")), type=list[Planned])
