"""Runs as events, as their platforms would have told them: who tells of a queue, of a beginning, of a run apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from benchmarks.composite.runs import JobRun
from models.records.event import FAILING, OPEN, Event, EventType, FailureContext, Metadata, Outcome, event_id

AFTER_MS: Final = 1_800_000
"""So long after the last start what happens is still told, and stream time runs on."""
_RUN_ENDS_AFTER_MS: Final = 2000
_TELLS_OF_QUEUES: Final = frozenset({"github", "gitlab"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def told(runs: Iterable[JobRun], until_ms: int) -> list[tuple[Event, JobRun]]:
    """All events up to `until_ms` in order of their time, each with its run."""
    pairs = [(event, run) for run in runs for event in _of(run)]
    until = _at(until_ms)
    return sorted((pair for pair in pairs if pair[0].timestamp <= until), key=lambda p: (p[0].timestamp, p[0].id))


def _of(run: JobRun) -> Iterator[Event]:
    platform = run.job.repository.platform
    queued_ms = run.start_ms - run.waited_ms
    apart = platform != "jenkins"  # there, run and job are one
    if apart:
        yield _event(run, queued_ms, Outcome.RUNNING, whole=True)
    if platform in _TELLS_OF_QUEUES:
        yield _event(run, queued_ms, Outcome.QUEUED)
    if platform != "circleci":
        yield _event(run, run.start_ms, Outcome.RUNNING)
    if run.ends:
        yield _event(run, run.end_ms, run.outcome)
        if apart:
            yield _event(run, run.end_ms + _RUN_ENDS_AFTER_MS, run.outcome, whole=True)


def _event(run: JobRun, at_ms: int, outcome: Outcome, *, whole: bool = False) -> Event:
    place, number = run.job.repository, str(run.number)
    job_id = None if whole or place.platform == "jenkins" else f"{number}{run.attempt}"
    workflow_id = f"workflow-{number}" if place.platform == "circleci" else None
    failed = outcome in FAILING
    ended = outcome not in OPEN
    return Event(
        id=event_id(
            instance=place.instance,
            repository=place.name,
            pipeline_id=number,
            workflow_id=workflow_id,
            attempt=run.attempt,
            job_id=job_id,
            outcome=outcome,
            vendor_status=None,
        ),
        timestamp=_at(at_ms),
        platform=place.platform,
        event_type=EventType.FAILED if failed else EventType.COMPLETED if ended else EventType.STARTED,
        repository=place.name,
        pipeline_id=number,
        job_id=job_id,
        metadata=Metadata(
            instance=place.instance,
            outcome=outcome,
            commit_sha=run.commit,
            branch=run.branch,
            is_default_branch=run.main,
            workflow=run.job.workflow,
            workflow_id=workflow_id,
            attempt=run.attempt,
            rerun_after="run" if place.platform in {"github", "circleci"} else "job",
            queued_ms=run.waited_ms if ended and not whole else None,
            duration_ms=run.takes_ms if ended else None,
            job_name=None if whole else run.job.name,
            runner=None if whole else run.runner,
            runner_labels=[] if whole else list(place.labels),
        ),
        failure_context=_failure(run, whole=whole) if failed else None,
    )


def _failure(run: JobRun, *, whole: bool) -> FailureContext:
    return FailureContext(duration_ms=run.takes_ms, excerpt=None if whole else "\n".join(run.lines))


def _at(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
