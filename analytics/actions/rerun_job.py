"""The failed jobs once more, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.actions.action import FAILURE, Action, Case, Reach, reruns
from analytics.actions.examples import failed
from models.records.calls import Call


@dataclass(frozen=True, slots=True)
class RerunJob(Action):
    """Run each failed job once more, where the platform takes jobs one by one and need not have ended the run.

    Cheaper than a rerun of all that failed, and sooner: nothing else is waited for.
    """

    name = "rerun_job"
    heals = {FAILURE: 3}  # noqa: RUF012 - of the class
    reach = Reach.JOB
    cooldown = timedelta(minutes=1)
    most_per_run = None
    most_per_day = None
    undone_by = "cancel"
    verified_by = "the job passes on the same commit"

    def fits(self, case: Case) -> bool:
        """All failed jobs are known by their ids, and can be run again by themselves."""
        return case.alone

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call a job."""
        return reruns(case)

    FIRES = (
        (failed("1", platform="gitlab"), ("rerun_job",)),
        (failed("1", "2", platform="gitlab"), ("rerun_job", "rerun_job")),
    )
    SILENT = (failed("1"), failed("1", None, platform="gitlab"))
