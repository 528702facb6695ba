"""Jobs that wait for a runner, and none is let in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import LABELS, AbsenceDetector, Finding, History, milliseconds
from analytics.examples import passed, queued, running
from models.records.event import Outcome


@dataclass(frozen=True, slots=True)
class StuckQueue(AbsenceDetector):
    """Jobs wait for a runner with the same labels, and none was let in for `patience`.

    A long queue that moves is a matter of capacity (QueueDrift); one that does not move is a matter of runners that
    are gone or of labels that no runner has. So the clock starts anew with every job of these labels that begins. Found
    by absence, and only while the source delivers.
    """

    by = LABELS
    sees = frozenset({Outcome.QUEUED, Outcome.RUNNING})
    within: timedelta = timedelta(hours=24)
    patience: timedelta = timedelta(minutes=30)

    def due(self, history: History, usual_ms: int | None) -> int:
        """Ask when nobody was let in for so long, though somebody waited."""
        oldest = min(seen.at_ms for seen in history if seen.outcome is Outcome.QUEUED)
        last = max((seen.at_ms for seen in history if seen.outcome is Outcome.RUNNING), default=0)
        return max(oldest, last) + milliseconds(self.patience)

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Say how many wait, and for how long."""
        waiting = [seen for seen in history if seen.outcome is Outcome.QUEUED]
        still = (at_ms - self.due(history, None)) // 60_000 + milliseconds(self.patience) // 60_000
        longest = (at_ms - waiting[0].at_ms) // 60_000
        jobs = "a job waits" if len(waiting) == 1 else f"{len(waiting)} jobs wait"
        return Finding(
            first_ms=waiting[0].at_ms,
            last_ms=waiting[-1].at_ms,
            occurrences=len(waiting),
            events=tuple(seen.id for seen in waiting),
            message=f"{jobs} for a runner, the longest for {longest} minutes; none was let in for {still} minutes",
        )

    def cleared(self, history: History, at_ms: int) -> str:
        """Say whether somebody was let in, or all are gone."""
        if any(seen.outcome is Outcome.QUEUED for seen in history):
            return "a job of these labels was let in"
        return "nobody waits any more"

    FIRES = (
        (queued(0, run="a"),),
        (queued(0, run="a"), queued(1, run="b"), running(2, run="a")),
    )
    SILENT = (
        (queued(0, run="a"), running(29, run="a"), passed(40, run="a")),
        (queued(0, run="a"), passed(20, run="a")),
    )
