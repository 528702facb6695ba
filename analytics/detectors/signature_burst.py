"""One cause fails many runs of a repository at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import SIGNATURE, Detector, Finding, History
from analytics.examples import failed
from models.records.event import FAILING

_CAUSE = "github_set_up_job"


@dataclass(frozen=True, slots=True)
class SignatureBurst(Detector):
    """One signature failed `threshold` jobs or more, in `runs` runs at the least, within a short time.

    Failures of one cause that come together have one reason outside of any single run: a registry that is down, a
    credential that expired, a runner image that broke. The jobs of one run fail together for reasons of that run, hence
    several runs. Whether other repositories have it too is for the fleet's incidents to say.
    """

    by = SIGNATURE
    sees = frozenset(FAILING)
    within: timedelta = timedelta(minutes=15)
    threshold: int = 5
    runs: int = 3

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Count the failures, and their runs, in the window."""
        runs = len({seen.pipeline_id for seen in history})
        if len(history) < self.threshold or runs < self.runs:
            return None
        return Finding(
            first_ms=history[0].at_ms,
            last_ms=history[-1].at_ms,
            occurrences=len(history),
            events=tuple(seen.id for seen in history),
            message=f"{history[-1].signature} failed {len(history)} jobs in {runs} runs within {self.within}",
        )

    def cleared(self, history: History, at_ms: int) -> str:
        """Say how many are left."""
        return f"{len(history)} such failures within {self.within}"

    FIRES = (tuple(failed(minute, signature=_CAUSE) for minute in range(5)),)
    SILENT = (
        tuple(failed(minute, signature=_CAUSE) for minute in range(4)),
        tuple(failed(minute, signature=_CAUSE, run=f"run-{minute % 2}") for minute in range(8)),
        tuple(failed(5 * minute, signature=_CAUSE) for minute in range(5)),
        tuple(failed(minute) for minute in range(5)),
    )
