"""Stop what is stuck."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.actions.action import Action, Case, Reach
from analytics.actions.examples import found
from models.records import calls as asked
from models.records.calls import Call
from models.records.event import Outcome

_BY_JOB: Final = frozenset({"gitlab", "circleci"})


@dataclass(frozen=True, slots=True)
class Cancel(Action):
    """Stop a job that runs for far longer than it ever does: alone where the platform can, else its run.

    It holds a runner, and often a lock, that others wait for. That no end was heard of proves nothing: whoever carries
    it out reads the run first, and leaves alone what has ended meanwhile. A job that only waits is let alone too;
    stopping it frees nobody, and it is people who must bring runners. Deployments and what a protected environment
    names are never stopped, nor is a run of which such a job is going on.
    """

    name = "cancel"
    heals = {"StuckJob": 1}  # noqa: RUF012 - of the class
    reach = Reach.RUN
    cooldown = timedelta(minutes=10)
    most_per_run = 2
    most_per_day = 10
    undone_by = "a rerun"
    verified_by = "the platform says that it was cancelled"

    def fits(self, case: Case) -> bool:
        """It runs, and a run is known."""
        return case.found is not None and case.found.outcome is Outcome.RUNNING and bool(case.pipeline_id)

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call."""
        job_id = next(iter(case.job_ids), None) if case.platform in _BY_JOB else None
        return (asked.Cancel(**case.run, job_id=job_id),)

    FIRES = (
        (found("StuckJob", outcome=Outcome.RUNNING), ("cancel",)),
        (found("StuckJob", outcome=Outcome.RUNNING, platform="gitlab"), ("cancel",)),
    )
    SILENT = (found("StuckJob", outcome=Outcome.QUEUED), found("StuckJob"))
