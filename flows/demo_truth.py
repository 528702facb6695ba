"""Was it right? What the world made fail and what it left hanging, held against what was found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Final, Literal, NamedTuple

import msgspec

from connectors.postgres_live import Job

_LEEWAY: Final = timedelta(seconds=2)
"""By how much a job may have been silent for longer than its limit before it counts as missed."""
_ACCEPTED: Final = range(200, 300)


class _Says(msgspec.Struct, frozen=True):
    what: str
    repository: str
    pipeline: str
    workflow: str | None
    attempt: int
    job: str | None
    ending: str | None


class _Delivery(msgspec.Struct, frozen=True):
    """A line of the world's ledger; of lines about other things only `record` matters."""

    record: Literal["delivery", "truth"]
    source: str
    status: int = 0
    copy: int = 0
    posted: float = 0.0
    says: _Says | None = None


class Truth(NamedTuple):
    """The world's word against ours."""

    deliveries: int
    copies: int  # of them were posted a second time
    refused: int  # were not answered 2xx
    failed: int  # jobs of which the world told that they failed
    recorded: int  # of them have a failure row
    silent: int  # jobs that were begun or queued and not heard of again for longer than is allowed
    stuck: int  # of them were found stuck


def compared(
    lines: Iterable[bytes], *, failed: AbstractSet[Job], stuck: AbstractSet[Job], patience: timedelta, at: float
) -> Truth:
    """Hold the lines of the world's ledger against the jobs with a failure row and those found stuck.

    `at` is when those were asked for, in Unix seconds. A Jenkins build that runs into its time limit says ABORTED, as
    one does that somebody stopped; no row is expected for it.
    """
    deliveries = list(_deliveries(lines))
    failing: set[Job] = set()
    opened: dict[Job, float] = {}
    ended: dict[Job, float] = {}
    for delivery in deliveries:
        job = _job(delivery)
        if job is None or delivery.status not in _ACCEPTED:
            continue
        assert delivery.says is not None
        if not delivery.says.what.endswith("finished"):
            opened[job] = max(opened.get(job, 0.0), delivery.posted)
            continue
        ended[job] = min(ended.get(job, at), delivery.posted)
        if delivery.says.ending == "failed" or (delivery.says.ending == "timed_out" and delivery.source != "jenkins"):
            failing.add(job)
    limit = (patience + _LEEWAY).total_seconds()
    silent = {job for job, last in opened.items() if ended.get(job, at) - last > limit}
    return Truth(
        deliveries=len(deliveries),
        copies=sum(delivery.copy > 0 for delivery in deliveries),
        refused=sum(delivery.status not in _ACCEPTED for delivery in deliveries),
        failed=len(failing),
        recorded=len(failing & failed),
        silent=len(silent),
        stuck=len(silent & stuck),
    )


def _deliveries(lines: Iterable[bytes]) -> Iterator[_Delivery]:
    decode = msgspec.json.Decoder(_Delivery).decode
    for line in lines:
        try:
            delivery = decode(line)
        except msgspec.DecodeError:  # the last line of a world that was killed
            continue
        if delivery.record == "delivery":
            yield delivery


def _job(delivery: _Delivery) -> Job | None:
    """The job that a delivery is about; None if it is about a run."""
    says = delivery.says
    assert says is not None
    run_is_job = delivery.source == "jenkins"
    if not run_is_job and not says.what.startswith("job"):
        return None
    return Job(says.repository, says.pipeline, says.workflow, says.attempt, None if run_is_job else says.job)
