"""What is put into the runs, and what is thereby known to be true.

Each trouble but the outage has a repository to itself, in which nothing else fails. It begins with the start of the
first run that it hits: so the time to detect holds how long that run took.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, TypeAlias

from benchmarks.composite.runs import Job, JobRun, by_job, by_repository
from benchmarks.world import troubles as world
from models.records.event import Outcome

MINUTE_MS: Final = 60_000
OUTAGE_MS: Final = 30 * MINUTE_MS
_OUTAGE_SHARE: Final = 0.2  # of repositories, those that it reaches
_OUTAGE_FAILS: Final = 0.7  # of the runs that begin there meanwhile
_FAILS_WITHIN_MS: Final = 90_000  # what needs the registry fails soon
_BREAK_MS: Final = 60 * MINUTE_MS
_QUEUE_MS: Final = 45 * MINUTE_MS
_BURST_MS: Final = 10 * MINUTE_MS
_SHIFT_SHARE: Final = 0.5
_SHORT_MS: Final = 5 * MINUTE_MS
_RERUN_AFTER_MS: Final = 2 * MINUTE_MS
_BAD_RUNNER: Final = "builder-full"
_LINES: Final = {trouble.name: trouble.log for trouble in (*world.REAL, *world.FLAKY, *world.ALONE)}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What was put in: `kind` is the detector that should find it, or "incident"; `subject` as truth files have it."""

    name: str
    kind: str
    begins_ms: int
    ends_ms: int | None
    subject: Mapping[str, Any]


@dataclass(slots=True)
class Site:
    """The runs while troubles are put into them."""

    runs: list[JobRun]
    rng: random.Random
    begin_ms: int
    end_ms: int
    taken: set[str] = field(default_factory=set)
    troubles: list[Trouble] = field(default_factory=list)

    def at(self, share: float) -> int:
        """The moment when `share` of the time has passed."""
        return self.begin_ms + int((self.end_ms - self.begin_ms) * share)

    def jobs(self) -> Iterator[tuple[Job, list[JobRun]]]:
        """Jobs in repositories that are still free, and their runs by their end, in an order of chance."""
        free = [(job, runs) for job, runs in by_job(self.runs).items() if job.repository.name not in self.taken]
        self.rng.shuffle(free)
        yield from free

    def places(self) -> Iterator[tuple[str, list[JobRun]]]:
        """Repositories that are still free, and their runs by their start, those with most runs first."""
        free = [(name, runs) for name, runs in by_repository(self.runs).items() if name not in self.taken]
        yield from sorted(free, key=lambda place: (-len(place[1]), place[0]))

    def take(self, repository: str) -> None:
        """Let nothing else fail there."""
        self.taken.add(repository)
        for run in self.runs:
            if run.job.repository.name == repository:
                run.outcome, run.lines = Outcome.PASSED, ()

    def name(self, what: str) -> str:
        """A name for the next trouble of that kind: the kind and a number."""
        return f"{what}-{1 + sum(trouble.name.rpartition('-')[0] == what for trouble in self.troubles)}"

    def rerun(self, run: JobRun, after_ms: int) -> JobRun:
        """The same job on the same commit once more, where the platform has attempts as one of the same run."""
        attempts = run.job.repository.platform == "github"
        again = replace(
            run,
            number=run.number if attempts else run.number + 1_000_000_000,
            attempt=run.attempt + 1 if attempts else 1,
            start_ms=run.end_ms + after_ms,
            waited_ms=1000,
            outcome=Outcome.PASSED,
            lines=(),
        )
        self.runs.append(again)
        return again


Put: TypeAlias = Callable[[Site], bool]
"""Puts one trouble in; false where there is no place for it."""


def flaky(site: Site) -> bool:
    """A test that fails, and passes when the job is run again on the same commit."""
    for job, runs in site.jobs():
        run = next((r for r in runs if site.at(0.1) < r.start_ms < site.at(0.8) and r.takes_ms < _SHORT_MS), None)
        if run is not None:
            site.take(job.repository.name)
            name = site.name("flaky")
            run.fail(_LINES["flaky_timing"], name)
            again = site.rerun(run, _RERUN_AFTER_MS)
            _note(site, name, "FlakyTest", run.start_ms, again.end_ms, job)
            return True
    return False


def flaky_on_main(site: Site) -> bool:
    """A test that fails on single commits of the default branch, between commits that pass; nobody runs it again."""
    for job, runs in site.jobs():
        main = [run for run in runs if run.main and site.at(0.05) < run.start_ms]
        if len(main) > 5 and main[4].end_ms < site.end_ms:  # noqa: PLR2004 - green, red, green, red, green
            site.take(job.repository.name)
            name = site.name("flaky-on-main")
            for run in (main[1], main[3]):
                run.fail(_LINES["flaky_order"], name)
            _note(site, name, "FlakyOnMain", main[1].start_ms, main[4].end_ms, job)
            return True
    return False


def broken_main(site: Site) -> bool:
    """A job that fails on all commits of the default branch for an hour, and then on none."""
    since = site.at(0.3 + 0.25 * site.rng.random())
    for job, runs in site.jobs():
        main = [run for run in runs if run.main]
        red = [run for run in main if since <= run.start_ms < since + _BREAK_MS]
        green = next((run for run in main if red and run.end_ms > red[-1].end_ms), None)
        in_a_row = any(one in red and other in red for one, other in pairwise(main))
        if in_a_row and green is not None and green.end_ms < site.end_ms:
            site.take(job.repository.name)
            name = site.name("broken-main")
            for run in red:
                run.fail(_LINES["compile_error"], name)
            _note(site, name, "BrokenMain", min(run.start_ms for run in red), green.end_ms, job)
            return True
    return False


def repeated(site: Site) -> bool:
    """A job that fails on a change, and again each of three times that somebody runs it again."""
    for job, runs in site.jobs():
        run = next((r for r in runs if site.at(0.2) < r.start_ms < site.at(0.8) and r.takes_ms < _SHORT_MS), None)
        if run is not None and not run.main:
            site.take(job.repository.name)
            name, last = site.name("repeated"), run
            run.fail(_LINES["test_assertion"], name)
            for _ in range(3):
                last = site.rerun(last, MINUTE_MS)
                last.fail(_LINES["test_assertion"], name)
            _note(site, name, "RepeatedFailure", run.start_ms, last.end_ms, job)
            return True
    return False


def stuck_job(site: Site) -> bool:
    """A job that begins, and of which nothing more is heard."""
    for job, runs in site.jobs():
        tells = job.repository.platform != "circleci"  # which tells of no beginning
        run = next((r for r in runs if site.at(0.3) < r.start_ms < site.at(0.6) and r.takes_ms < _SHORT_MS), None)
        if tells and run is not None:
            site.take(job.repository.name)
            name = site.name("stuck-job")
            run.ends, run.trouble = False, name
            subject = {"repository": job.repository.name, "pipeline_id": str(run.number)}
            site.troubles.append(Trouble(name, "StuckJob", run.start_ms, None, subject))
            return True
    return False


def stuck_queue(site: Site) -> bool:
    """For three quarters of an hour no runner takes a job of a repository; then they come one after the other."""
    since = site.at(0.45)
    until = since + _QUEUE_MS
    for place, runs in site.places():
        waiting = [run for run in runs if since <= run.start_ms < until]
        tells = runs[0].job.repository.platform in {"github", "gitlab"}  # which tell of a queue
        if tells and len(waiting) > 2 and waiting[0].start_ms < since + 10 * MINUTE_MS:  # noqa: PLR2004 - several
            site.take(place)
            name = site.name("stuck-queue")
            begins = waiting[0].start_ms - waiting[0].waited_ms
            for number, run in enumerate(waiting):
                queued, run.start_ms = run.start_ms - run.waited_ms, until + number * 5000
                run.waited_ms, run.trouble = run.start_ms - queued, name
            site.troubles.append(Trouble(name, "StuckQueue", begins, until, {"repository": place}))
            return True
    return False


def rate_shift(site: Site) -> bool:
    """From one moment on half of the job runs of a busy repository fail, of whatever job, branch and commit."""
    place, runs = next(site.places())
    since = site.at(0.5)
    site.take(place)
    name = site.name("rate-shift")
    for run in runs:
        if run.start_ms >= since and site.rng.random() < _SHIFT_SHARE:
            run.fail(site.rng.choice(world.REAL).log, name)
    site.troubles.append(Trouble(name, "FailureRateShift", since, site.end_ms, {"repository": place}))
    return True


def burst(site: Site) -> bool:
    """A credential of one repository has expired: for ten minutes all that begins there fails for it."""
    for place, runs in site.places():
        for first in (run for run in runs if site.at(0.3) < run.start_ms < site.at(0.7)):
            hit = [run for run in runs if first.start_ms <= run.start_ms < first.start_ms + _BURST_MS]
            if len(hit) > 5:  # noqa: PLR2004 - the detector wants five
                site.take(place)
                name = site.name("burst")
                for run in hit:
                    run.takes_ms = min(run.takes_ms, _FAILS_WITHIN_MS)
                    run.fail(_LINES["credentials"], name)
                ends = max(run.end_ms for run in hit)
                site.troubles.append(Trouble(name, "SignatureBurst", first.start_ms, ends, {"repository": place}))
                return True
    return False


def full_disk(site: Site) -> bool:
    """A runner that is full, and on which three jobs of a repository fail within hours."""
    for place, runs in site.places():
        hit = [run for run in runs if site.at(0.2) < run.start_ms < site.at(0.8) and run.takes_ms < _SHORT_MS][::3][:3]
        if len(hit) == 3:  # noqa: PLR2004 - the detector wants three
            site.take(place)
            name = site.name("full-disk")
            for run in hit:
                run.runner = _BAD_RUNNER
                run.fail(_LINES["disk_full"], name)
            subject = {"repository": place}
            site.troubles.append(Trouble(name, "ResourceExhaustion", hit[0].start_ms, hit[-1].end_ms, subject))
            return True
    return False


def outage(site: Site) -> bool:
    """A registry is away for half an hour: most jobs that begin meanwhile fail, in a fifth of the repositories."""
    since = site.at(0.55)
    until = since + OUTAGE_MS
    free = [place for place, _ in site.places()]
    reached = set(site.rng.sample(sorted(free), max(1, round(len(free) * _OUTAGE_SHARE))))
    for run in site.runs:
        if run.job.repository.name in reached and since <= run.start_ms < until and site.rng.random() < _OUTAGE_FAILS:
            run.takes_ms = min(run.takes_ms, _FAILS_WITHIN_MS)
            run.fail(_LINES["registry_down"], "outage-1")
    site.taken |= reached
    site.troubles.append(Trouble("outage-1", "incident", since, until, {"signature": "registry_unavailable"}))
    return True


_ALL: Final[Sequence[tuple[Put, int]]] = (
    (rate_shift, 1),
    (burst, 1),
    (stuck_queue, 1),
    (broken_main, 3),
    (flaky_on_main, 2),
    (flaky, 6),
    (repeated, 2),
    (stuck_job, 2),
    (full_disk, 1),
    (outage, 1),
)
"""How many of each, those first that find fewest places."""


def put_in(runs: Sequence[JobRun], *, seed: int) -> tuple[list[JobRun], list[Trouble]]:
    """The runs with all troubles, and what these are; both depend on when runs are, not on which failed before.

    Raises:
        ValueError: there is no place for one of them.
    """
    starts = [run.start_ms for run in runs]
    site = Site(list(runs), random.Random(f"troubles {seed}"), min(starts), max(starts))
    for put, count in _ALL:
        for _ in range(count):
            if not put(site):
                raise ValueError(f"no place among {len(runs)} runs for {put.__name__}")
    return site.runs, site.troubles


def _note(site: Site, name: str, kind: str, begins_ms: int, ends_ms: int, job: Job) -> None:
    subject = {"repository": job.repository.name, "workflow": job.workflow, "job_name": job.name}
    site.troubles.append(Trouble(name, kind, begins_ms, ends_ms, subject))
