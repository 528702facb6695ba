"""All that failed in a run, once more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.actions.action import FAILURE, Action, Case, Reach, reruns
from analytics.actions.examples import failed
from models.records.calls import Call


@dataclass(frozen=True, slots=True)
class RerunFailed(Action):
    """Run the failed jobs of a run once more, and what depends on them, once the run has ended.

    What a platform takes that knows runs and not jobs: GitHub, a Jenkins, and a GitLab of which no job is known.
    """

    name = "rerun_failed"
    heals = {FAILURE: 5}  # noqa: RUF012 - of the class
    platforms = frozenset({"github", "gitlab", "jenkins"})
    reach = Reach.RUN
    cooldown = timedelta(minutes=1)
    most_per_run = None
    most_per_day = None
    undone_by = "cancel"
    verified_by = "what failed passes on the same commit"

    def fits(self, case: Case) -> bool:
        """The jobs cannot be run again by themselves."""
        return not case.alone

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call."""
        return reruns(case)

    FIRES = ((failed("1", "2"), ("rerun_failed",)), (failed(None, platform="jenkins"), ("rerun_failed",)))
    SILENT = (failed("1", platform="gitlab"),)
