"""Tell people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.actions.action import Action, Case, Reach
from analytics.actions.examples import found
from models.records import calls as asked
from models.records.calls import Call


@dataclass(frozen=True, slots=True)
class Notify(Action):
    """Tell people, on the channels that the settings name, what only they can mend and others wait for.

    A broken default branch stops everybody; a job that waits and is never let in needs a runner. What can wait for
    somebody to look becomes an issue; where the platform has none, it is told here.
    """

    name = "notify"
    heals = {"BrokenMain": 1, "StuckJob": 2, "RepeatedFailure": 2}  # noqa: RUF012 - of the class
    reach = Reach.PEOPLE
    cooldown = timedelta(hours=1)
    most_per_day = 10
    undone_by = "nothing"
    verified_by = "a channel takes it"

    def fits(self, case: Case) -> bool:
        """There is something to tell."""
        return case.found is not None

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call; what is about the same finding has the same subject."""
        assert case.found is not None
        title = f"{case.found.job_name or 'a job'} in {case.repository}: {case.found.detector}"
        return (asked.Notify(**case.run, title=title, body=case.found.message, subject=case.case_id),)

    FIRES = ((found("BrokenMain"), ("notify",)), (found("RepeatedFailure", platform="jenkins"), ("notify",)))
    SILENT = (found("BrokenMain")._replace(found=None),)
