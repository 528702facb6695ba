"""A cause that this repository did not know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import SIGNATURE, Detector, Finding, History, milliseconds
from analytics.examples import failed
from models.records.event import FAILING

_DAY = 24 * 60
_CAUSE = "github_set_up_job"


@dataclass(frozen=True, slots=True)
class NewSignature(Detector):
    """A signature fails a repository for the first time within `within`, and did so no longer than `fresh` ago.

    What is new is worth a look: it came with a change, here or around us. In a repository of which failures are known
    for less than `settled` everything is new, and nothing is said.
    """

    by = SIGNATURE
    sees = frozenset(FAILING)
    within: timedelta = timedelta(days=14)
    fresh: timedelta = timedelta(days=1)
    settled: timedelta = timedelta(days=3)

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """See whether all that is known of it is fresh."""
        first = history[0]
        known_ms = first.at_ms - history.known_since_ms
        if at_ms - first.at_ms >= milliseconds(self.fresh) or known_ms < milliseconds(self.settled):
            return None
        days = min(known_ms // 86_400_000, self.within.days)
        return Finding(
            first_ms=first.at_ms,
            last_ms=first.at_ms,
            occurrences=1,
            events=(first.id,),
            message=f"{first.signature} was not seen here in the {days} days before",
        )

    def until(self, history: History) -> int:
        """Nothing is new for ever."""
        return history[0].at_ms + milliseconds(self.fresh)

    def cleared(self, history: History, at_ms: int) -> str:
        """Say that time has passed, or that it was known after all."""
        if history and at_ms - history[0].at_ms >= milliseconds(self.fresh):
            return f"known for {self.fresh} now"
        return "explained otherwise, or known before, as came to light later"

    FIRES = ((failed(0, signature="gitlab_script_failure"), failed(4 * _DAY, signature=_CAUSE)),)
    SILENT = (
        (failed(0, signature="gitlab_script_failure"), failed(2 * _DAY, signature=_CAUSE)),
        (failed(0, signature=_CAUSE), failed(4 * _DAY, signature=_CAUSE)),
    )
