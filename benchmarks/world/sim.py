"""The simulation: people push, runs queue, jobs pass or fail, and somebody impatient presses the rerun button.

A discrete-event simulation on a heap of simulated seconds. An attempt is planned to its end when it begins, so what
happens next never depends on who listens, and the same seed gives the same world.

Whoever has the platforms' APIs (api.py) can run things again, and stop them. What comes of that is drawn from the run
and its attempt alone: nothing else that happens is changed by it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from math import inf
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
_ASKED_FOR: Final = 5 * 10**8  # ids of what was asked for begin so far behind those of what happens anyway
_STOPPING_SECONDS: Final = 3.0
ALL: Final = "all"
FAILED: Final = "failed"


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


class Again(NamedTuple):
    """What of an attempt is run once more, by whom: ALL of it, what FAILED, or one job by its number."""

    what: str
    by: Person


class _Rerun(NamedTuple):
    attempt: Attempt


class _Dice(NamedTuple):
    """Where chance comes from, and the numbers of what is made."""

    rng: random.Random
    ids: Iterator[int]


class World:
    """One world. `salt` keeps the ids of two worlds of the same seed apart; `outages` come in place of chance ones.

    `attempts` has those of each run by its id, in order, and `current` each by its uid, as it has come to be; `runs`
    has those of each repository, the oldest first. They may be a moment ahead of what has been told.
    """

    def __init__(
        self,
        repositories: tuple[Repository, ...],
        habits: Habits,
        *,
        seed: int,
        salt: str = "",
        outages: Sequence[Outage] = (),
    ) -> None:
        self.attempts: dict[int, list[Attempt]] = {}
        self.current: dict[str, Attempt] = {}
        self.runs: dict[Repository, list[Run]] = {}
        self._repositories = repositories
        self._seed = seed
        self._habits = habits
        self._name = f"{seed} {salt}"
        self._rng = random.Random(f"world {seed}")
        self._skies = random.Random(f"outages {seed}")
        self._outages = [*outages, Outage(inf, inf, OUTAGES[0])] if outages else []
        base = random.Random(f"ids {self._name}").randrange(10**9, 9 * 10**9)
        self._dice = _Dice(self._rng, count(base))
        self._asked_ids = count(base + _ASKED_FOR)
        self._serials = count()
        self._order = count()
        self._heap: list[tuple[float, int, Happening | _Rerun | None]] = []  # None: somebody pushes
        self._broken: dict[tuple[int, str], dict[str, Trouble]] = {}
        self._heads: dict[tuple[int, str], str] = {}
        self._numbers: dict[int, int] = {}
        self._builds: dict[int, int] = {}

    def happenings(self, until: float) -> Iterator[Happening]:
        """All that happens before `until`, in order; what was asked for meanwhile may come a little late."""
        self._later(self._gap(), None)
        while self._heap:
            at, _, what = heappop(self._heap)
            if at >= until:
                return
            if what is None:
                self._push(at)
                self._later(at + self._gap(), None)
            elif isinstance(what, _Rerun):
                if self.attempts[what.attempt.run.id][-1] is what.attempt:
                    self._begin(what.attempt.run, at, what.attempt, self._dice)
            elif self.current[what.attempt.uid] is what.attempt:
                yield replace(what, serial=next(self._serials))

    def rerun(self, attempt: Attempt, at: float, again: Again) -> Attempt:
        """Run some of `attempt`, the newest one of its run, `again` from `at` on; the new attempt."""
        dice = _Dice(random.Random(f"asked {self._seed} {attempt.run.id} {attempt.number}"), self._asked_ids)
        new = self._begin(attempt.run, at, attempt, dice, again)
        if attempt.finished_at is None or attempt.finished_at > at:  # it is told on as part of the new one
            names = {job.job.name for job in new.jobs}
            jobs = tuple(job for job in attempt.jobs if job.ended(at) or job.job.name not in names)
            self._revise(attempt, replace(attempt, jobs=jobs, ending=None, finished_at=None), at)
        return new

    def cancel(self, attempt: Attempt, at: float, job: JobRun | None = None) -> Attempt:
        """Stop what goes on of `attempt`, the newest one of its run, or `job` of it, at `at`; what has become of it."""
        over = at + _STOPPING_SECONDS
        jobs = tuple(
            one if one.ended(at) or job not in (None, one) else _stopped(one, at, over) for one in attempt.jobs
        )
        ending, finished = _close([*attempt.kept, *jobs], over)
        changed = replace(attempt, jobs=jobs, ending=ending, finished_at=None if finished is None else finished + 1)
        self._revise(attempt, changed, at)
        return changed

    def _revise(self, old: Attempt, new: Attempt, at: float) -> None:
        """Let `new` be told in place of `old` from `at` on."""
        attempts = self.attempts[old.run.id]
        attempts[attempts.index(old)] = new
        self.current[new.uid] = new
        self._tell(new, at)

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
        sha = guid(self._name, "commit", next(self._dice.ids)).replace("-", "") + f"{rng.getrandbits(32):08x}"
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
            run_id = next(self._dice.ids)
            run = Run(repository, workflow, commit, number, run_id, self._uid("run", run_id))
            self.runs.setdefault(repository, []).append(run)
            self._begin(run, at + rng.uniform(1, 5), None, self._dice)

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

    def _begin(self, run: Run, at: float, before: Attempt | None, dice: _Dice, again: Again | None = None) -> Attempt:
        """Plan an attempt that is asked for at `at`, and all that will be told of it."""
        attempt = self._plan(run, at, before, dice, again)
        self.attempts.setdefault(run.id, []).append(attempt)
        self.current[attempt.uid] = attempt
        self._tell(attempt, -1.0)
        rng, habits = dice.rng, self._habits
        if (
            attempt.finished_at is not None
            and attempt.ending in _FAILING
            and rng.random() < habits.reruns / 2 ** (attempt.number - 1)
        ):
            self._later(attempt.finished_at + rng.uniform(60, 600), _Rerun(attempt))
        return attempt

    def _tell(self, attempt: Attempt, after: float) -> None:
        """Let be told what happens to `attempt` later than `after`."""
        told: list[tuple[What, float | None, JobRun | None]] = [
            (What.RUN_QUEUED, attempt.queued_at, None),
            (What.RUN_STARTED, attempt.started_at, None),
        ]
        for job in attempt.jobs:
            told.append((What.JOB_CREATED, attempt.queued_at, job))
            if job.ending is not Ending.SKIPPED:
                told += [(What.JOB_QUEUED, job.queued_at, job), (What.JOB_STARTED, job.started_at, job)]
            told.append((What.JOB_FINISHED, job.finished_at, job))
        told.append((What.RUN_FINISHED, attempt.finished_at, None))
        for what, moment, of in told:
            if moment is not None and moment > after:
                self._later(moment, Happening(moment, 0, what, attempt, of))

    def _plan(self, run: Run, at: float, before: Attempt | None, dice: _Dice, again: Again | None) -> Attempt:
        rng = dice.rng
        started = at + rng.uniform(1, 10)
        last = {j.job.name: j for j in (*before.kept, *before.jobs)} if before else {}
        jobs: list[JobRun] = []
        clock: float | None = started
        ending: Ending | None = Ending.PASSED
        cancelled = rng.random() < self._habits.cancels
        for stage in run.workflow.stages:
            due = [job for job in stage if _is_due(last.get(job.name), FAILED if again is None else again.what)]
            if ending is not Ending.PASSED:
                if again is None or again.what in (ALL, FAILED):
                    jobs += [self._skipped(job, clock, dice) for job in due if clock is not None]
                continue
            assert clock is not None
            ran = [self._execute(run, job, clock, last.get(job.name), dice, cancelled=cancelled) for job in due]
            jobs += ran
            ending, clock = _close([*ran, *(last[job.name] for job in stage if job not in due)], clock)
        build = self._builds[run.workflow.number] = self._builds.get(run.workflow.number, 0) + 1
        names = {j.job.name for j in jobs}
        return Attempt(
            run=run,
            number=before.number + 1 if before else 1,
            build=build,
            uid=self._uid("attempt", run.id, build),
            actor=self._actor(run, before, rng) if again is None else again.by,
            queued_at=at,
            started_at=started,
            finished_at=None if clock is None else clock + rng.uniform(0.5, 2),
            ending=ending,
            jobs=tuple(jobs),
            kept=tuple(j for name, j in last.items() if name not in names),
        )

    def _actor(self, run: Run, before: Attempt | None, rng: random.Random) -> Person:
        return rng.choice(run.repository.people) if before else run.commit.author

    def _skipped(self, job: Job, at: float, dice: _Dice) -> JobRun:
        number = next(dice.ids)
        return JobRun(job, number, self._uid("job", number), at, at, at, Ending.SKIPPED, None, 0)

    def _execute(self, run: Run, job: Job, at: float, before: JobRun | None, dice: _Dice, *, cancelled: bool) -> JobRun:
        rng = dice.rng
        number = next(dice.ids)
        started = at + rng.uniform(1, 15)
        seconds = min(job.seconds * rng.lognormvariate(0, 0.25), MAX_JOB_SECONDS)
        trouble = self._trouble(run, job, started, before, rng)
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

    def _trouble(self, run: Run, job: Job, at: float, before: JobRun | None, rng: random.Random) -> Trouble | None:
        """What will go wrong with a job begun at `at`, if anything."""
        habits, roles = self._habits, job.roles()
        last = before.trouble if before else None
        outage = self._outage(at)
        if last is not None and outage is not None and outage.trouble is last:
            return last  # it is not over
        if before is None:  # a rerun is of the same commit: what a later push broke or mended does not touch it
            stays = self._broken.get((run.repository.number, run.commit.branch), {}).get(job.name)
        else:
            stays = last if last is not None and rng.random() >= last.heals else None
        if stays is not None:
            return stays
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


def _is_due(last: JobRun | None, what: str) -> bool:
    """Whether a job is to run, where it ran as `last` before; what follows it runs where it passes this time."""
    if what == ALL or last is None:
        return True
    if what == FAILED:
        return last.ending is not Ending.PASSED
    return str(last.number) == what or last.ending is Ending.SKIPPED


def _stopped(job: JobRun, at: float, over: float) -> JobRun:
    """`job`, stopped at `at`: one that had not begun never will."""
    if job.started_at > at:
        return replace(job, started_at=over, finished_at=over, ending=Ending.SKIPPED, trouble=None)
    return replace(job, finished_at=over, ending=Ending.CANCELLED)


def _choose(rng: random.Random, troubles: list[Trouble] | tuple[Trouble, ...]) -> Trouble:
    return rng.choices(troubles, [t.weight for t in troubles])[0]


def _part_done(job: Job, trouble: Trouble) -> float:
    """How far a job comes before the step that `trouble` strikes ends it."""
    roles = [step.role for step in job.steps]
    return (roles.index(trouble.role) + 1) / len(roles)


def _close(jobs: list[JobRun], clock: float) -> tuple[Ending | None, float | None]:
    """How and when a stage ends: with its worst job; never, if one hangs for good."""
    if any(job.finished_at is None for job in jobs):
        return None, None
    endings = {job.ending for job in jobs}
    worst = (Ending.FAILED, Ending.TIMED_OUT, Ending.CANCELLED, Ending.PASSED)
    ending = next((e for e in worst if e in endings), Ending.PASSED)
    return ending, max([clock, *(job.finished_at for job in jobs if job.finished_at is not None)])
