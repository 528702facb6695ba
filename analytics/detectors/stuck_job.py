"""A job that was queued or began, and does not go on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import JOB_RUN, AbsenceDetector, Finding, History, milliseconds
from analytics.examples import passed, queued, running
from models.records.event import OPEN


@dataclass(frozen=True, slots=True)
class StuckJob(AbsenceDetector):
    """A job has been running, or waiting, for much longer than this job ever takes.

    Found by absence: nobody reports that nothing happens. The limit is `patience`, or `factor` times the usual 95th
    percentile of this job where that is longer, so that slow jobs are let alone. Of a job that was never seen to end
    nobody knows what is usual: it has `patience_unknown`, GitHub's own limit, for what is stuck may be cancelled, and
    a job that is cancelled each time would never be known. Absence counts only while the
    source of the job delivers anything at all; the shard sees to that. One job that waits while others are let in, or
    whose start was never told, is found here; StuckQueue is for queues in which nobody is.
    """

    by = JOB_RUN
    sees = OPEN
    within: timedelta = timedelta(hours=24)
    patience: timedelta = timedelta(minutes=60)
    patience_unknown: timedelta = timedelta(hours=6)
    factor: int = 3

    def due(self, history: History, usual_ms: int | None) -> int:
        """Ask when the limit has passed."""
        if usual_ms is None:
            return history[-1].at_ms + milliseconds(max(self.patience, self.patience_unknown))
        return history[-1].at_ms + max(milliseconds(self.patience), self.factor * usual_ms)

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Say how long it has run; the shard asks only while no end was seen."""
        since = history[-1]
        minutes = (at_ms - since.at_ms) // 60_000
        return Finding(
            first_ms=since.at_ms,
            last_ms=since.at_ms,
            occurrences=1,
            events=(since.id,),
            message=f"{since.outcome} for {minutes} minutes and no end was seen",
        )

    FIRES = ((running(0),), (queued(0),), (queued(0, run="1"), running(5, run="1")))
    SILENT = ((running(0), passed(30, run="run-0")), (queued(0), passed(30, run="run-0")))
