"""A job that started and does not end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import JOB_RUN, Detector, Finding, Seen, milliseconds
from analytics.examples import passed, running
from models.records.event import OPEN


@dataclass(frozen=True, slots=True)
class StuckJob(Detector):
    """A job has been running for much longer than this job ever takes.

    Found by absence: nobody reports that nothing happens. The limit is `patience`, or `factor` times the usual 95th
    percentile of this job where that is longer, so that slow jobs are let alone. Absence counts only while the
    source of the job delivers anything at all; the shard sees to that.
    """

    by = JOB_RUN
    sees = frozenset(OPEN)
    within: timedelta = timedelta(hours=24)
    patience: timedelta = timedelta(minutes=60)
    factor: int = 3

    def due(self, history: Sequence[Seen], usual_ms: int | None) -> int | None:
        """Ask again when the limit has passed."""
        return history[-1].at_ms + max(milliseconds(self.patience), self.factor * (usual_ms or 0))

    def judge(self, history: Sequence[Seen], at_ms: int) -> Finding | None:
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

    FIRES = ((running(0),),)
    SILENT = ((running(0), passed(30, run="run-0")),)
