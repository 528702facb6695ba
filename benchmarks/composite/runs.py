"""Each start of a job as one run of one job, in one of the repositories to which the jobs are dealt out."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log
from typing import Final, NamedTuple

from benchmarks.composite.arrivals import Arrival
from benchmarks.world.troubles import REAL
from models.records.event import Outcome, PlatformName

_PLATFORMS: Final[tuple[PlatformName, ...]] = ("github", "gitlab", "jenkins", "circleci")
_LABELS: Final = (("ubuntu-latest",), ("linux", "docker"), ("linux",), ("medium",))
MAIN_SHARE: Final = 0.3
"""Of runs, those on the default branch."""
_WAIT_SECONDS: Final = (6.0, 1.0)
"""Median of the time in a queue, and its spread as a standard deviation of the logarithm; at most ten minutes."""
_MOST_WAIT_SECONDS: Final = 600.0
_TAKES_SECONDS: Final = (652.0, 1.78, 0.3)
"""How long a run takes: the median and 90th percentile of 17,034 sequences of reruns (652 s and 6,612 s, GHALogs 2023;
../shared/data/README.md), most of it between jobs, and some of it between the runs of one job."""
_MOST_TAKES_SECONDS: Final = 5 * 3600.0


class Background(StrEnum):
    """What fails beside the troubles that are put in."""

    STREAM = "stream"  # the jobs that failed in the real project: something may be behind it
    MISTAKES = "mistakes"  # as many, each a mistake of a single commit of some change: nothing is behind them
    QUIET = "quiet"  # nothing


class Repository(NamedTuple):
    """One of the repositories to which jobs are dealt out."""

    name: str
    instance: str
    platform: PlatformName
    labels: tuple[str, ...]


class Job(NamedTuple):
    """A job as it comes again in every run."""

    repository: Repository
    workflow: str
    name: str


@dataclass(slots=True, eq=False)
class JobRun:
    """One run of one job. `trouble` is what was put in here, if anything was."""

    job: Job
    number: int
    start_ms: int
    waited_ms: int
    takes_ms: int
    commit: str
    branch: str
    main: bool
    runner: str
    outcome: Outcome = Outcome.PASSED
    lines: Sequence[str] = ()
    attempt: int = 1
    ends: bool = True
    trouble: str | None = None

    @property
    def end_ms(self) -> int:
        """When it ended, or would have."""
        return self.start_ms + self.takes_ms

    def fail(self, lines: Sequence[str], trouble: str | None = None) -> None:
        """Let it fail, and say so with `lines`."""
        self.outcome, self.lines, self.trouble = Outcome.FAILED, lines, trouble


def planned(arrivals: Sequence[Arrival], background: Background, *, seed: int, repositories: int = 500) -> list[JobRun]:
    """The runs, in order of their start; with the same seed they differ between backgrounds only in what fails."""
    jobs = _dealt({arrival.job for arrival in arrivals}, seed, repositories)
    usual = {name: _TAKES_SECONDS[0] * exp(_rng(seed, "takes", name).gauss(0, _TAKES_SECONDS[1])) for name in jobs}
    rng = _rng(seed, "runs")
    starts: Counter[str] = Counter()
    runs = []
    for number, arrival in enumerate(arrivals):
        name, job = arrival.job, jobs[arrival.job]
        starts[name] += 1
        push = _digest(seed, job.repository.name, starts[name])  # the nth start of a job is of the nth push
        runs.append(_run(arrival.at_ms, number, job, push, usual[name], rng))
    _fail(runs, arrivals, background, _rng(seed, "failures"))
    return runs


def _rng(seed: int, *about: str) -> random.Random:
    return random.Random(" ".join(("composite", str(seed), *about)))


def _digest(*parts: object) -> str:
    return hashlib.sha1("\x1f".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _dealt(names: Iterable[str], seed: int, repositories: int) -> dict[str, Job]:
    """Where each job is: in the order of a hash they go to one repository after another, so that none is left out."""
    jobs = {}
    for number, name in enumerate(sorted(names, key=lambda name: _digest(seed, name))):
        i = number % repositories
        platform = _PLATFORMS[i % len(_PLATFORMS)]
        place = Repository(f"org-{i % 41}/service-{i:03}", f"{platform}-{i % 3}", platform, _LABELS[i % len(_LABELS)])
        workflow, _, job = name.partition(" / ")
        jobs[name] = Job(place, workflow, job or workflow)
    return jobs


def _run(at_ms: int, number: int, job: Job, push: str, usual_seconds: float, rng: random.Random) -> JobRun:
    main = int(push[:8], 16) / 2**32 < MAIN_SHARE
    median, spread = _WAIT_SECONDS
    wait = min(_MOST_WAIT_SECONDS, exp(rng.gauss(log(median), spread)))
    takes = min(_MOST_TAKES_SECONDS, max(2.0, usual_seconds * exp(rng.gauss(0, _TAKES_SECONDS[2]))))
    return JobRun(
        job=job,
        number=10_000_000_000 + number,
        start_ms=at_ms,
        waited_ms=round(wait * 1000),
        takes_ms=round(takes * 1000),
        commit=push,
        branch="main" if main else f"change-{push[:8]}",
        main=main,
        runner=f"builder-{rng.randrange(40)}",
    )


def _fail(runs: Sequence[JobRun], arrivals: Sequence[Arrival], background: Background, rng: random.Random) -> None:
    failing = [run for run, arrival in zip(runs, arrivals, strict=True) if arrival.failed]
    if background is Background.QUIET:
        return
    if background is Background.MISTAKES:
        failing = rng.sample([run for run in runs if not run.main], len(failing))
    for run in failing:
        run.fail(rng.choices(REAL, [trouble.weight for trouble in REAL])[0].log)


def by_job(runs: Iterable[JobRun]) -> dict[Job, list[JobRun]]:
    """The runs of each job, by their end."""
    jobs: dict[Job, list[JobRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.end_ms, run.number)):
        jobs[run.job].append(run)
    return dict(sorted(jobs.items()))


def by_repository(runs: Iterable[JobRun]) -> dict[str, list[JobRun]]:
    """The runs of each repository, by their start."""
    places: dict[str, list[JobRun]] = defaultdict(list)
    for run in runs:
        places[run.job.repository.name].append(run)
    return dict(sorted(places.items()))
