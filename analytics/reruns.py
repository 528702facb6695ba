"""Reruns: what was seen of the jobs that an act ran again, and what is to be said of the act.

`judge` is a function of the set of ends that were seen, not of their order.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from analytics.rows import SEPARATOR, split_job_run
from models.records.acted import Acted, ActedJob
from models.records.event import FAILING, Outcome
from models.records.outputs import ActEnd

LEEWAY_MS: Final = 60_000
"""How far the clock of who acted may be ahead of the platform's."""
_MOST_ENDS: Final = 16
_NO_END: Final = frozenset({Outcome.SKIPPED, Outcome.NEUTRAL})
"""A job that was skipped was not run again: something before it failed, and that is another job."""


class End(msgspec.Struct, array_like=True):
    """How one execution of a job ended; snapshots hold it as an array."""

    at_ms: int
    event: str
    outcome: Outcome
    pipeline_id: str
    workflow_id: str | None
    attempt: int
    job_id: str | None
    duration_ms: int | None = None
    signature: str | None = None
    labels: str | None = None  # of its runner, with commas between

    @property
    def began_ms(self) -> int:
        """When it began, or ended where its duration is not known."""
        return self.at_ms - (self.duration_ms or 0)


class Watch(msgspec.Struct, array_like=True):
    """An act whose jobs are watched. `seen` holds the ends of each of its jobs, first ones first."""

    acted: Acted
    seen: list[list[End]]
    due_second: int
    revision: int = -1
    said: list[Any] | None = None
    counted: dict[str, tuple[bool, float, int]] = {}  # what was learnt, by signature: passed, weight, when
    newer_ms: int | None = None  # when the first run of another commit of its branch began
    broken: list[Any] | None = None  # when and in which event its commit began to break the default branch


class Judged(NamedTuple):
    """What is to be said of an act, `outcome` None: nothing yet."""

    outcome: ActEnd | None
    masked: bool = False
    event_id: str | None = None
    ended_ms: int | None = None
    duration_ms: int | None = None
    ends: str = "[]"  # JSON
    learnt: dict[str, bool] = {}  # noqa: RUF012 - never added to in place


def key_of(job_key: str, commit: str | None) -> str:
    """A job on a commit."""
    return f"{job_key}{SEPARATOR}{commit or ''}"


def keys_of(acted: Acted) -> list[str]:
    """The jobs of an act on its commit, in its order."""
    place = f"{acted.instance}{SEPARATOR}{acted.repository}"
    return [
        key_of(SEPARATOR.join((place, job.workflow, job.job_name)), acted.commit_sha) for job in acted.jobs or _THE_RUN
    ]


_THE_RUN: Final = (ActedJob("", "", "", None),)
"""Stands for the run where the act names no job at all."""


def end_of(
    job_run: str,
    *,
    at_ms: int,
    event: str,
    outcome: Outcome,
    duration_ms: int | None = None,
    signature: str | None = None,
    labels: str | None = None,
) -> End:
    """The end of a job run."""
    _, _, pipeline_id, workflow_id, attempt, job_id = split_job_run(job_run)
    return End(at_ms, event, outcome, pipeline_id, workflow_id, attempt, job_id, duration_ms, signature, labels or None)


def take(watch: Watch, place: int, end: End) -> bool:
    """Note an end of the job at `place` of the act; whether it is news."""
    seen = watch.seen[place]
    if end.outcome in _NO_END or end.at_ms <= watch.acted.asked_ms - LEEWAY_MS:
        return False
    if any(known.event == end.event for known in seen) or any(job.failure_id == end.event for job in watch.acted.jobs):
        return False
    insort(seen, end, key=_when)
    del seen[_MOST_ENDS:]
    return end in seen


def explain(ends: list[End], event: str, signature: str | None) -> bool:
    """Note what a log showed of the failure `event`; whether it stands among `ends` and that is news."""
    for i, end in enumerate(ends):
        if end.event == event and end.signature != signature:
            ends[i] = msgspec.structs.replace(end, signature=signature)
            return True
    return False


def firsts(watch: Watch) -> list[End | None]:
    """The end of each job's rerun, as far as it was seen."""
    return [next((end for end in seen if _is_rerun(watch.acted, end)), None) for seen in watch.seen]


def _is_rerun(acted: Acted, end: End) -> bool:
    """Whether `end` is of the execution that an act caused, as each platform counts executions."""
    same_run = end.pipeline_id == acted.pipeline_id
    match acted.platform:
        case "github":  # the run keeps its id
            return same_run and end.attempt > acted.attempt
        case "gitlab":  # the job gets a new one
            return same_run and end.job_id != acted.target
        case "circleci":  # the workflow does
            return same_run and end.workflow_id != acted.workflow_id
        case "jenkins":  # there is a new build
            return not same_run


def judge(watch: Watch, ours: Collection[str], *, over: bool) -> Judged:
    """What is to be said of an act; `ours` are the events of executions that other acts caused.

    `over`: nothing more is waited for.
    """
    ends = firsts(watch)
    known = [end for end in ends if end is not None]
    outcome, decided = _came_of(watch, ends, known, over=over)
    if outcome is None:
        return Judged(None)
    spoilt = _spoilt(watch, ends, ours) if outcome is ActEnd.PASSED else None
    durations = [end.duration_ms for end in known if end.duration_ms is not None]
    return Judged(
        outcome,
        spoilt is not None,
        spoilt or (decided.event if decided else None),
        max((end.at_ms for end in known), default=None),
        sum(durations) if durations else None,
        msgspec.json.encode(list(_told(watch.acted, ends))).decode(),
        {} if spoilt or watch.acted.probe else _learnt(watch.acted, ends),
    )


def _came_of(watch: Watch, ends: list[End | None], known: list[End], *, over: bool) -> tuple[ActEnd | None, End | None]:
    """The outcome, and the end that decides it."""
    red = [end for end in known if end.outcome in FAILING or end.outcome is Outcome.UNSTABLE]
    before = [job.signature for job in watch.acted.jobs] or [watch.acted.signature]
    same = [
        end for end, was in zip(ends, before, strict=True) if end and end in red and was in {end.signature} - {None}
    ]
    if same:
        return ActEnd.FAILED_SAME, min(same, key=_when)
    if red:
        return ActEnd.FAILED_OTHERWISE, min(red, key=_when)
    if len(known) < len(ends) and not over:
        return None, None
    if len(known) == len(ends) and all(end.outcome is Outcome.PASSED for end in known):
        return ActEnd.PASSED, max(known, key=_when)
    called_off = max((end for end in known if end.outcome is Outcome.CANCELLED), key=_when, default=None)
    if watch.newer_ms is not None and (called_off is None or watch.newer_ms <= called_off.at_ms + LEEWAY_MS):
        return ActEnd.OVERTAKEN, called_off
    return (ActEnd.CANCELLED, called_off) if called_off else (ActEnd.UNSEEN, None)


def _spoilt(watch: Watch, ends: list[End | None], ours: Collection[str]) -> str | None:
    """The first event by which a commit whose rerun passed proves broken all the same."""
    later = [
        end
        for seen, passed in zip(watch.seen, ends, strict=True)
        for end in seen
        if passed and end.outcome in FAILING and end.began_ms > passed.at_ms and end.event not in ours
    ]
    if later:
        return min(later, key=_when).event
    if watch.broken is not None and watch.broken[0] > max(end.at_ms for end in ends if end):
        return str(watch.broken[1])
    return None


def _learnt(acted: Acted, ends: list[End | None]) -> dict[str, bool]:
    """Whether all jobs of a signature passed, for each whose jobs have all passed or of which one failed.

    The jobs of one run fail and pass together, so that they count once.
    """
    learnt: dict[str, bool] = {}
    open_ones = set()
    for job, end in zip(acted.jobs, ends, strict=False):
        if job.signature is None:
            continue
        if end is not None and (end.outcome in FAILING or end.outcome is Outcome.UNSTABLE):
            learnt[job.signature] = False
        elif end is not None and end.outcome is Outcome.PASSED:
            learnt.setdefault(job.signature, True)
        else:
            open_ones.add(job.signature)
    return {name: passed for name, passed in sorted(learnt.items()) if not (passed and name in open_ones)}


def _told(acted: Acted, ends: list[End | None]) -> Iterator[dict[str, Any]]:
    for job, end in zip(acted.jobs or _THE_RUN, ends, strict=True):
        if end is not None:
            yield {
                "failure_id": job.failure_id or None,
                "event_id": end.event,
                "outcome": end.outcome.value,
                "signature": end.signature,
                "labels": end.labels,
                "duration_ms": end.duration_ms,
            }


def _when(end: End) -> tuple[int, str]:
    return end.at_ms, end.event
