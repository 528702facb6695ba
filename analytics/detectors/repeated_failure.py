"""The same job failing again and again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import JOB, Detector, Finding, History
from analytics.examples import failed, seen
from models.records.event import FAILING, Outcome


@dataclass(frozen=True, slots=True)
class RepeatedFailure(Detector):
    """The same job failed `threshold` times or more within a short time.

    One failure may be chance; the third within half an hour is the state of the job or of what it stands on, and
    running it once more is unlikely to help. Attempts of one run count: they are what a rerun gave.
    """

    by = JOB
    sees = frozenset(FAILING)
    within: timedelta = timedelta(minutes=30)
    threshold: int = 3

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Count the failures in the window."""
        if len(history) < self.threshold:
            return None
        runs = len({seen.pipeline_id for seen in history})
        return Finding(
            first_ms=history[0].at_ms,
            last_ms=history[-1].at_ms,
            occurrences=len(history),
            events=tuple(seen.id for seen in history),
            message=f"failed {len(history)} times in {runs} runs within {self.within}",
        )

    FIRES = (
        (failed(0), failed(5), failed(29)),
        (failed(0, run="1"), failed(1, run="1", attempt=2), failed(2, run="1", attempt=3)),
    )
    SILENT = (
        (failed(0), failed(5)),
        (failed(0), failed(20), failed(40)),
        (failed(0), failed(5), seen(Outcome.CANCELLED, 10)),
    )
