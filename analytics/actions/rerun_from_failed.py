"""A workflow of CircleCI once more, from what failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.actions.action import FAILURE, Action, Case, Reach, reruns
from analytics.actions.examples import failed
from models.records.calls import Call


@dataclass(frozen=True, slots=True)
class RerunFromFailed(Action):
    """Run a workflow once more from its failed jobs: CircleCI makes a new workflow in which what passed is kept.

    Apart from RerunFailed because the new workflow has an id of its own, and runs as whoever owns the token.
    """

    name = "rerun_from_failed"
    heals = {FAILURE: 4}  # noqa: RUF012 - of the class
    platforms = frozenset({"circleci"})
    reach = Reach.RUN
    cooldown = timedelta(minutes=1)
    most_per_run = None
    most_per_day = None
    undone_by = "cancel"
    verified_by = "the new workflow passes on the same commit"

    def fits(self, case: Case) -> bool:
        """The jobs cannot be run again by themselves."""
        return not case.alone

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call."""
        return reruns(case)

    FIRES = ((failed("1", platform="circleci"), ("rerun_failed",)),)
    SILENT = (failed("1", platform="circleci", rerun_after="job"),)
