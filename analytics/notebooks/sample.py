"""Six working days of an organisation that does not exist, with troubles of which we know: something to begin with.

    python -m analytics.notebooks.sample > sample.jsonl

The same seed gives the same events. Rates and durations are invented; nothing may be concluded from them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from models.records import payload
from models.records.event import FAILING, Event, EventType, FailureContext, Metadata, Outcome, event_id

MONDAY: Final = datetime(2026, 11, 2, tzinfo=UTC)
DAYS: Final = (0, 1, 2, 3, 4, 7)
REPOSITORIES: Final = tuple(
    f"acme/{name}"
    for name in (
        *("accounts", "api", "billing", "checkout", "data", "docs", "gateway", "ledger"),
        *("mobile", "orders", "payments", "search", "shipping", "stock", "support", "web"),
    )
)
_WORK_HOURS: Final = (9, 17)
_MINUTES_BETWEEN_RUNS: Final = 12.0
_JOBS: Final = {"build": 240.0, "test": 420.0}
"""What each run runs, and how long it takes as a rule, in seconds."""

_REGISTRY: Final = "Error response from daemon: received unexpected HTTP status: 503 Service Unavailable"
_ASSERTION: Final = "FAILED tests/test_cart.py::test_total - AssertionError: assert 3 == 4"
_COMPILER: Final = "src/main.c:12:5: error: expected ';' before 'return'"
_ORDINARY: Final = (
    *(_ASSERTION,) * 5,
    *(_COMPILER,) * 3,
    "curl: (6) Could not resolve host: packages.example.org",
    "cp: error writing 'app.bin': No space left on device",
    "make: *** [Makefile:7: all] Error 2",
)
_ON_SICK_RUNNER: Final = ("Segmentation fault (core dumped)", "xz: Compressed data is corrupt", *_ORDINARY)


class _Trouble(NamedTuple):
    """What goes wrong in [begins, ends) of the sample, at one repository or at all, with so many of its runs."""

    begins: timedelta
    ends: timedelta
    repository: str | None
    job: str
    share: float
    texts: tuple[str, ...]
    runner: str | None = None


def _at(day: int, hour: float) -> timedelta:
    return timedelta(days=day, hours=hour)


_TROUBLES: Final = (
    _Trouble(_at(3, 14), _at(3, 14.5), None, "build", 0.9, (_REGISTRY,)),  # an outage
    _Trouble(_at(1, 9), _at(1, 13), "acme/api", "build", 1.0, (_COMPILER,)),  # a broken main branch
    _Trouble(_at(2, 9), _at(2, 17), "acme/mobile", "test", 1.0, _ON_SICK_RUNNER, "runner-3"),  # a sick machine
    _Trouble(_at(0, 0), _at(8, 0), "acme/web", "test", 0.12, (_ASSERTION,)),  # a flaky test
)
_FLAKY: Final = "acme/web"
_SLOWER: Final = ("acme/search", "test", _at(7, 8), 2.5)
"""Which job takes how many times as long from when on."""
_STUCK: Final = ("acme/data", _at(2, 10))
"""Where, and when, a job starts of which no end is seen."""
_INSTANCE: Final = "github.com"
_CHANCE: Final = 0.01  # of any other job to fail


class _Job(NamedTuple):
    """One job of one run attempt."""

    repository: str
    run: str
    name: str
    attempt: int
    runner: str


def events(seed: int = 0) -> list[Event]:
    """What the platform tells, in order of time."""
    told = [event for repository in REPOSITORIES for event in _told(repository, random.Random(f"{seed} {repository}"))]
    return sorted(told, key=lambda event: (event.timestamp, event.id))


def _told(repository: str, rng: random.Random) -> Iterator[Event]:
    number = 0
    for day in DAYS:
        at, end = (_at(day, hour) for hour in _WORK_HOURS)
        while (at := at + timedelta(minutes=rng.expovariate(1 / _MINUTES_BETWEEN_RUNS))) < end:
            number += 1
            yield from _run(repository, f"{number}", at, rng)
    if repository == _STUCK[0]:
        yield _event(_Job(repository, "stuck", "test", 1, "runner-1"), Outcome.RUNNING, _STUCK[1])


def _run(repository: str, run: str, at: timedelta, rng: random.Random) -> Iterator[Event]:
    """The attempts of one run: what fails at a flaky test is run again by its people."""
    for attempt in (1, 2):
        runner = f"runner-{rng.randrange(1, 6)}"
        seconds, texts = 0.0, []
        for name, usual in _JOBS.items():
            took = usual * rng.lognormvariate(0, 0.2) * _slower(repository, name, at)
            seconds = max(seconds, took)
            job = _Job(repository, run, name, attempt, runner)
            texts.append(text := _goes_wrong(job, at, rng))
            yield _event(job, Outcome.FAILED if text else Outcome.PASSED, at, took, text)
        failed = any(texts)
        whole = _Job(repository, run, "", attempt, runner)
        yield _event(whole, Outcome.FAILED if failed else Outcome.PASSED, at, seconds + 1)
        if not failed or repository != _FLAKY:
            return
        at += timedelta(seconds=seconds + rng.uniform(60, 600))


def _slower(repository: str, name: str, at: timedelta) -> float:
    slow, job, since, times = _SLOWER
    return times if (repository, name) == (slow, job) and at >= since else 1.0


def _goes_wrong(job: _Job, at: timedelta, rng: random.Random) -> str | None:
    """What a job that fails says, if it does."""
    luck = rng.random()
    for trouble in _TROUBLES:
        here = trouble.repository in {None, job.repository} and trouble.runner in {None, job.runner}
        if here and trouble.job == job.name and trouble.begins <= at < trouble.ends and luck < trouble.share:
            return rng.choice(trouble.texts)
    return rng.choice(_ORDINARY) if luck > 1 - _CHANCE else None


def _event(job: _Job, outcome: Outcome, begins: timedelta, seconds: float = 0.0, text: str | None = None) -> Event:
    """What ended, or began, of a job; or of its whole run where it has no name."""
    job_id = f"{job.run}-{job.name}" if job.name else None
    kind = EventType.STARTED if outcome is Outcome.RUNNING else EventType.COMPLETED
    return Event(
        id=event_id(
            instance=_INSTANCE,
            repository=job.repository,
            pipeline_id=job.run,
            workflow_id=None,
            attempt=job.attempt,
            job_id=job_id,
            outcome=outcome,
            vendor_status=None,
        ),
        timestamp=MONDAY + begins + timedelta(milliseconds=round(seconds * 1000)),
        platform="github",
        event_type=EventType.FAILED if outcome in FAILING else kind,
        repository=job.repository,
        pipeline_id=job.run,
        job_id=job_id,
        metadata=Metadata(
            instance=_INSTANCE,
            outcome=outcome,
            commit_sha=f"c{job.run}",
            branch="main",
            is_default_branch=True,
            workflow="CI",
            job_name=job.name or None,
            attempt=job.attempt,
            runner=job.runner if job.name else None,
            runner_labels=["linux"] if job.name else [],
            duration_ms=round(seconds * 1000) or None,
            rerun_after="run",
        ),
        failure_context=FailureContext(excerpt=text) if outcome in FAILING else None,
    )


if __name__ == "__main__":
    sys.stdout.buffer.writelines(payload.to_json(event) + b"\n" for event in events())
