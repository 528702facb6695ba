"""An issue, or the one that is open brought up to date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.actions.action import Action, Case, Reach
from analytics.actions.examples import found
from models.records import calls as asked
from models.records.calls import Call


@dataclass(frozen=True, slots=True)
class OpenIssue(Action):
    """Open an issue about what somebody should look into, or bring the open one up to date.

    It is found again by the finding's id, which stands in it unseen. Brought up to date when what was found has
    happened twice as often as when it was last told, so that a bad day is a few calls and not hundreds.
    """

    name = "open_issue"
    heals = {"RepeatedFailure": 1, "BrokenMain": 2}  # noqa: RUF012 - of the class
    platforms = frozenset({"github", "gitlab"})
    reach = Reach.PEOPLE
    cooldown = timedelta(minutes=10)
    most_per_day = 10
    undone_by = "closing the issue"
    verified_by = "the platform names the issue"

    def fits(self, case: Case) -> bool:
        """There is something to tell."""
        return case.found is not None

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call."""
        it = case.found
        assert it is not None
        where = " / ".join(filter(None, (it.workflow, it.job_name))) or "a job"
        body = f"`{where}` {it.message}.\n\nFound by {it.detector}."
        return (
            asked.OpenIssue(
                **case.run,
                title=f"CI: {where}: {it.detector}",
                body=body if case.commit_sha is None else f"{body} Last seen on commit {case.commit_sha}.",
                marker=case.case_id,
                labels=("ci",),
            ),
        )

    FIRES = ((found("RepeatedFailure"), ("open_issue",)), (found("BrokenMain", platform="gitlab"), ("open_issue",)))
    SILENT = (found("BrokenMain")._replace(found=None),)
