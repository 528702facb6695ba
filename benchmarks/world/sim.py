"""The simulation: people push, runs queue, jobs pass or fail, and somebody impatient presses the rerun button.

A discrete-event simulation on a heap of simulated seconds. An attempt is planned to its end when it begins, so what
happens next never depends on who listens, and the same seed gives the same world.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple

from benchmarks.world.records import (
    Attempt,
    Commit,
    Ending,
    Happening,
    Job,
    JobRun,
    Person,
    Repository,
    Run,
    Trouble,
    What,
    guid,
)
from benchmarks.world.troubles import ALONE, FLAKY, HANG, OUTAGES, REAL

MAX_JOB_SECONDS: Final = 300.0  # of a job that does not hang
_FAILING: Final = (Ending.FAILED, Ending.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class Habits:
    """How often what happens. Chances are per push, job or failed attempt; the rest is in simulated seconds."""

    pushes_per_second: float
    breaks: float = 0.10  # a push breaks a job that worked
    mends: float = 0.55  # a push mends what was broken
    strikes: float = 0.02  # infrastructure or resources fail a job, outages aside
    hangs: float = 0.03  # a job with tests
    cancels: float = 0.01
    reruns: float = 0.5  # somebody runs a failed attempt again; halved for every attempt before
    outage_gap: float = 1500.0
    outage_length: tuple[float, float] = (120.0, 480.0)
    outage_strikes: float = 0.5  # share of the jobs begun in an outage that it fails


class Outage(NamedTuple):
    """A trouble that many repositories have at once."""

    begins: float
    ends: float
    trouble: Trouble


class _Rerun(NamedTuple):
    attempt: Attempt


class World:
    """One world. `salt` keeps the ids of two worlds of the same seed apart."""

    def __init__(self, repositories: tuple[Repository, ...], habits: Habits, *, seed: int, salt: str = "") -> None:
        self._repositories = repositories
        self._habits = habits
        self._name = f"{seed} {salt}"
        self._rng = random.Random(f"world {seed}")
        self._skies = random.Random(f"outages {seed}")
        self._outages: list[Outage] = []
        base = random.Random(f"ids {self._name}").randrange(10**9, 9 * 10**9)
        self._ids = count(base)
        self._serials = count()
        self._order = count()
        self._heap: list[tuple[float, int, Happening | _Rerun | None]] = []  # None: somebody pushes
        self._broken: dict[tuple[int, str], dict[str, Trouble]] = {}
        self._heads: dict[tuple[int, str], str] = {}
        self._numbers: dict[int, int] = {}
        self._builds: dict[int, int] = {}

    def happenings(self, until: float) -> Iterator[Happening]:
        """All that happens before `until`, in order."""
        self._later(self._gap(), None)
        while self._heap:
            at, _, what = heappop(self._heap)
            if at >= until:
                return
            if what is None:
                self._push(at)
                self._later(at + self._gap(), None)
            elif isinstance(what, _Rerun):
                self._begin(what.attempt.run, at, what.attempt)
            else:
                yield replace(what, serial=next(self._serials))

    def _gap(self) -> float:
        return self._rng.expovariate(self._habits.pushes_per_second)

    def _later(self, at: float, what: Happening | _Rerun | None) -> None:
        heappush(self._heap, (at, next(self._order), what))

    def _uid(self, *parts: object) -> str:
        return guid(self._name, *parts)

    def _push(self, at: float) -> None:
        rng = self._rng
        repository = self._repositories[int(len(self._repositories) * rng.random() ** 1.5)]
        branch = repository.default_branch
        trigger = rng.choice(("push", "push", "pull_request"))
        if trigger == "pull_request":
            branch = f"{rng.choice(('fix', 'feature', 'chore'))}/{rng.randint(1, 6)}"
        key = (repository.number, branch)
        sha = guid(self._name, "commit", next(self._ids)).replace("-", "") + f"{rng.getrandbits(32):08x}"
        mended = self._change(repository, branch)
        commit = Commit(
            sha=sha,
            before=self._heads.get(key, "0" * 40),
            branch=branch,
            message=f"Fix {mended}" if mended else rng.choice(("Tidy up", "Add endpoint", "Bump versions", "Refactor")),
            author=rng.choice(repository.people),
            at=at,
            trigger="pull_request" if trigger == "pull_request" else "push",
        )
        self._heads[key] = sha
        for workflow in repository.workflows:
            number = self._numbers[workflow.number] = self._numbers.get(workflow.number, 0) + 1
            run_id = next(self._ids)
            run = Run(repository, workflow, commit, number, run_id, self._uid("run", run_id))
            self._begin(run, at + rng.uniform(1, 5), None)

    def _change(self, repository: Repository, branch: str) -> str | None:
        """What a push does to a branch: breaks a job, mends what was broken, or neither; the name of what it mends."""
        rng, habits = self._rng, self._habits
        broken = self._broken.setdefault((repository.number, branch), {})
        if broken:
            if rng.random() < habits.mends:
                name = next(iter(broken))
                broken.clear()
                return name
        elif rng.random() < habits.breaks * (1 if branch == repository.default_branch else 2):
            job = rng.choice([j for w in repository.workflows for stage in w.stages for j in stage])
            fitting = [t for t in REAL if t.role in job.roles()]
            broken[job.name] = _choose(rng, fitting)
        return None

    def _begin(self, run: Run, at: float, before: Attempt | None) -> None:
        """Plan an attempt that is asked for at `at`, and all that will be told of it."""
        attempt = self._plan(run, at, before)
        self._later(at, Happening(at, 0, What.RUN_QUEUED, attempt))
        self._later(attempt.started_at, Happening(attempt.started_at, 0, What.RUN_STARTED, attempt))
        for job in attempt.jobs:
            moments: tuple[tuple[What, float | None], ...] = (
                (What.JOB_CREATED, at),
                (What.JOB_QUEUED, job.queued_at),
                (What.JOB_STARTED, job.started_at),
                (What.JOB_FINISHED, job.finished_at),
            )
            for what, moment in moments if job.ending is not Ending.SKIPPED else (moments[0], moments[3]):
                if moment is not None:
                    self._later(moment, Happening(moment, 0, what, attempt, job))
        if attempt.finished_at is not None:
            self._later(attempt.finished_at, Happening(attempt.finished_at, 0, What.RUN_FINISHED, attempt))
            rng, habits = self._rng, self._habits
            if attempt.ending in _FAILING and rng.random() < habits.reruns / 2 ** (attempt.number - 1):
                self._later(attempt.finished_at + rng.uniform(60, 600), _Rerun(attempt))

    def _plan(self, run: Run, at: float, before: Attempt | None) -> Attempt:
        rng = self._rng
        started = at + rng.uniform(1, 10)
        last = {j.job.name: j for j in (*before.kept, *before.jobs)} if before else {}
        jobs: list[JobRun] = []
        clock: float | None = started
        ending: Ending | None = Ending.PASSED
        cancelled = rng.random() < self._habits.cancels
        for stage in run.workflow.stages:
            due = [job for job in stage if job.name not in last or last[job.name].ending is not Ending.PASSED]
            if ending is not Ending.PASSED:
                jobs += [self._skipped(job, clock) for job in due if clock is not None]
                continue
            assert clock is not None
            ran = [self._execute(run, job, clock, last.get(job.name), cancelled=cancelled) for job in due]
            jobs += ran
            ending, clock = _close(ran, clock)
        build = self._builds[run.workflow.number] = self._builds.get(run.workflow.number, 0) + 1
        again = {j.job.name for j in jobs}
        return Attempt(
            run=run,
            number=before.number + 1 if before else 1,
            build=build,
            uid=self._uid("attempt", run.id, build),
            actor=self._actor(run, before),
            queued_at=at,
            started_at=started,
            finished_at=None if clock is None else clock + rng.uniform(0.5, 2),
            ending=ending,
            jobs=tuple(jobs),
            kept=tuple(j for name, j in last.items() if name not in again),
        )

    def _actor(self, run: Run, before: Attempt | None) -> Person:
        return self._rng.choice(run.repository.people) if before else run.commit.author

    def _skipped(self, job: Job, at: float) -> JobRun:
        number = next(self._ids)
        return JobRun(job, number, self._uid("job", number), at, at, at, Ending.SKIPPED, None, 0)

    def _execute(self, run: Run, job: Job, at: float, before: JobRun | None, *, cancelled: bool) -> JobRun:
        rng = self._rng
        number = next(self._ids)
        started = at + rng.uniform(1, 15)
        seconds = min(job.seconds * rng.lognormvariate(0, 0.25), MAX_JOB_SECONDS)
        trouble = self._trouble(run, job, started, before)
        ending: Ending | None = Ending.PASSED
        finished: float | None = started + seconds
        if trouble is HANG:
            late = rng.random() < 0.5  # noqa: PLR2004 - half of them are ended by the platform, much too late
            ending, finished = (Ending.TIMED_OUT, started + rng.uniform(1800, 3600)) if late else (None, None)
        elif trouble is not None:
            ending, finished = Ending.FAILED, started + seconds * _part_done(job, trouble) * rng.uniform(0.8, 1)
        elif cancelled:
            ending, finished = Ending.CANCELLED, started + seconds * rng.random()
        retries = before.retries + 1 if before and before.ending is not Ending.SKIPPED else 0
        return JobRun(job, number, self._uid("job", number), at, started, finished, ending, trouble, retries)

    def _trouble(self, run: Run, job: Job, at: float, before: JobRun | None) -> Trouble | None:
        """What will go wrong with a job begun at `at`, if anything."""
        rng, habits, roles = self._rng, self._habits, job.roles()
        last = before.trouble if before else None
        if before is None:  # a rerun is of the same commit: what a later push broke or mended does not touch it
            stays = self._broken.get((run.repository.number, run.commit.branch), {}).get(job.name)
        else:
            stays = last if last is not None and rng.random() >= last.heals else None
        if stays is not None:
            return stays
        outage = self._outage(at)
        if outage and outage.trouble.role in roles and rng.random() < habits.outage_strikes:
            return outage.trouble
        if rng.random() < habits.strikes:
            return _choose(rng, [t for t in ALONE if t.role in roles])
        if rng.random() < habits.hangs and "test" in roles:
            return HANG
        if rng.random() < job.flakiness:
            return _choose(rng, FLAKY)
        return None

    def _outage(self, at: float) -> Outage | None:
        """The outage under way at `at`; they follow each other with gaps, whatever else happens."""
        skies, habits = self._skies, self._habits
        while not self._outages or self._outages[-1].ends < at:
            begins = (self._outages[-1].ends if self._outages else 0) + skies.expovariate(1 / habits.outage_gap)
            self._outages.append(Outage(begins, begins + skies.uniform(*habits.outage_length), _choose(skies, OUTAGES)))
        return next((o for o in reversed(self._outages) if o.begins <= at < o.ends), None)


def _choose(rng: random.Random, troubles: list[Trouble] | tuple[Trouble, ...]) -> Trouble:
    return rng.choices(troubles, [t.weight for t in troubles])[0]


def _part_done(job: Job, trouble: Trouble) -> float:
    """How far a job comes before the step that `trouble` strikes ends it."""
    roles = [step.role for step in job.steps]
    return (roles.index(trouble.role) + 1) / len(roles)


def _close(ran: list[JobRun], clock: float) -> tuple[Ending | None, float | None]:
    """How and when a stage ends: with its worst job; never, if one hangs for good."""
    if any(job.finished_at is None for job in ran):
        return None, None
    endings = {job.ending for job in ran}
    worst = (Ending.FAILED, Ending.TIMED_OUT, Ending.CANCELLED, Ending.PASSED)
    ending = next((e for e in worst if e in endings), Ending.PASSED)
    return ending, max((job.finished_at for job in ran if job.finished_at is not None), default=clock)
