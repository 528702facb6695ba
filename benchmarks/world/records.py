"""What the world is made of. Times are simulated seconds since its beginning; `Clock` makes wall time of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal
from uuid import NAMESPACE_URL, uuid5

from models.records.event import PlatformName

Role = Literal["setup", "checkout", "deps", "build", "lint", "test", "image", "deploy", "end"]


class Ending(StrEnum):
    """How a job or a run truly ended. What hangs for good has none."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a job fails, and what of it can be seen on each platform."""

    name: str
    kind: Literal["real", "flaky", "infrastructure", "resources", "hang"]
    role: Role  # the step that it strikes
    heals: float  # chance that it is gone when the job runs again on the same commit
    log: tuple[str, ...]  # what Jenkins' log shows
    gitlab: str = "script_failure"  # GitLab's failure_reason
    weight: float = 1.0  # how common it is among those of its kind
    lost: bool = False  # the machine is gone: its step never reports an end
    tests_failed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a workflow, as its repository defines it."""

    name: str
    stage: str
    steps: tuple[Step, ...]
    seconds: float  # typical duration
    flakiness: float  # chance that its tests fail for no reason
    labels: tuple[str, ...] = ()
    environment: str | None = None

    def roles(self) -> frozenset[Role]:
        """What its steps do."""
        return frozenset(step.role for step in self.steps)


@dataclass(frozen=True, slots=True)
class Workflow:
    """Jobs in stages; a stage begins when all jobs of the one before have passed."""

    number: int
    name: str
    stages: tuple[tuple[Job, ...], ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who commits, or presses the rerun button."""

    number: int
    login: str
    name: str
    email: str


@dataclass(frozen=True, slots=True, eq=False)
class Repository:
    """One repository, on the platform that builds it. There is one object of each, so it is its own key."""

    source: str
    platform: PlatformName
    owner: str
    name: str
    number: int
    uid: str
    default_branch: str
    language: str
    workflows: tuple[Workflow, ...]
    people: tuple[Person, ...]

    @property
    def full_name(self) -> str:
        """Owner and name as one path."""
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Commit:
    """What was pushed."""

    sha: str
    before: str
    branch: str
    message: str
    author: Person
    at: float
    trigger: Literal["push", "pull_request"]


@dataclass(frozen=True, slots=True)
class JobRun:
    """One execution of a job, planned to its end; `finished_at` is None where it hangs for good."""

    job: Job
    number: int
    uid: str
    queued_at: float
    started_at: float
    finished_at: float | None
    ending: Ending | None
    trouble: Trouble | None
    retries: int  # how often this job of this run was executed before

    @property
    def flaky(self) -> bool:
        """Whether it failed though nothing was wrong with the commit's own code or configuration."""
        return self.trouble is not None and self.trouble.kind != "real"

    def ended(self, at: float) -> bool:
        """Whether it has ended by `at`."""
        return self.finished_at is not None and self.finished_at <= at

    def began(self, at: float) -> bool:
        """Whether it had begun by `at`; one that was skipped never does."""
        return self.started_at <= at and self.ending is not Ending.SKIPPED


@dataclass(frozen=True, slots=True)
class Run:
    """One workflow on one commit, through all its attempts."""

    repository: Repository
    workflow: Workflow
    commit: Commit
    number: int  # counts the runs of the workflow
    id: int
    uid: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a run: the jobs that it executes, and those that it keeps from attempts before."""

    run: Run
    number: int
    build: int  # Jenkins' build number
    uid: str  # CircleCI's workflow id
    actor: Person
    queued_at: float
    started_at: float
    finished_at: float | None
    ending: Ending | None
    jobs: tuple[JobRun, ...]
    kept: tuple[JobRun, ...]

    def ended(self, at: float) -> bool:
        """Whether it has ended by `at`."""
        return self.finished_at is not None and self.finished_at <= at


class What(StrEnum):
    """What can happen to an attempt or to one of its jobs."""

    RUN_QUEUED = "run_queued"
    RUN_STARTED = "run_started"
    JOB_CREATED = "job_created"
    JOB_QUEUED = "job_queued"
    JOB_STARTED = "job_started"
    JOB_FINISHED = "job_finished"
    RUN_FINISHED = "run_finished"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that a platform would tell of. `serial` counts them all, from 0."""

    at: float
    serial: int
    what: What
    attempt: Attempt
    job: JobRun | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook as its platform writes it, not yet signed. `id` is what stays the same when it is sent again."""

    id: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall time of simulated time: it began at `epoch` (Unix seconds) and runs `speed` times as fast."""

    epoch: float
    speed: float = 1.0

    def seconds(self, at: float) -> float:
        """Unix seconds of `at`."""
        return self.epoch + at / self.speed

    def at(self, seconds: float) -> float:
        """The simulated time at `seconds` Unix seconds."""
        return (seconds - self.epoch) * self.speed

    def milliseconds(self, at: float) -> int:
        """Unix milliseconds of `at`."""
        return round(self.seconds(at) * 1000)

    def moment(self, at: float) -> datetime:
        """`at` as a date, in whole milliseconds."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self.milliseconds(at))

    def iso(self, at: float) -> str:
        """`at` as GitHub writes it: RFC 3339 in whole seconds."""
        return self.moment(at).strftime("%Y-%m-%dT%H:%M:%SZ")

    def spaced(self, at: float) -> str:
        """`at` as GitLab's webhooks write it."""
        return self.moment(at).strftime("%Y-%m-%d %H:%M:%S UTC")

    def iso_ms(self, at: float) -> str:
        """`at` as CircleCI writes it: RFC 3339 with milliseconds."""
        return self.moment(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def length(self, seconds: float) -> float:
        """How long `seconds` of simulated time last, in wall seconds."""
        return seconds / self.speed


def guid(*parts: object) -> str:
    """A UUID that is a function of `parts`."""
    return str(uuid5(NAMESPACE_URL, "\x1f".join(map(str, parts))))
