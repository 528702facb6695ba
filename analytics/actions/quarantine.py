"""A flaky job set aside until somebody mends it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.actions.action import Action, Case, Reach
from analytics.actions.examples import found
from models.records import calls as asked
from models.records.calls import Call

_LEAST_FLIPS: Final = 2
_WITH_ISSUES: Final = frozenset({"github", "gitlab"})


@dataclass(frozen=True, slots=True)
class Quarantine(Action):
    """Set aside a job that is proven to be flaky, or the one test of it that its logs name, and say so in an issue.

    Until it expires, a person ends it, or the job has passed many times in a row, its failures are not run again and
    alarm nobody. It hides failures, so it has an owner and an end, and is never done without a person's yes. That a job
    passed once when it was run again is what reruns are for; FlakyTest must have seen it twice.
    """

    name = "quarantine"
    heals = {"FlakyTest": 1, "FlakyOnMain": 1, "Intermittent": 1}  # noqa: RUF012 - of the class
    reach = Reach.JOB
    cooldown = timedelta(hours=1)
    most_per_day = 1
    suggest_only = True
    undone_by = "guard quarantine release"
    verified_by = "the job passes many times in a row"

    def fits(self, case: Case) -> bool:
        """A job is known, and the proof is more than chance."""
        it = case.found
        if it is None or it.job_name is None:
            return False
        return it.detector != "FlakyTest" or it.occurrences >= _LEAST_FLIPS

    def calls(self, case: Case) -> tuple[Call, ...]:
        """The quarantine, and an issue for whoever is to end it, where the platform has issues."""
        it = case.found
        assert it is not None
        assert it.job_name is not None
        aside = asked.Quarantine(
            **case.run,
            workflow=it.workflow,
            job_name=it.job_name,
            test=it.test,
            owner=case.owner,
            hours=case.hours,
            why=f"{it.detector}: {it.message}",
        )
        if case.platform not in _WITH_ISSUES:
            return (aside,)
        days = timedelta(hours=case.hours)
        body = (
            f"`{aside.target}` {it.message}.\n\nIt is in quarantine for {days}: its failures are not run again and "
            f"alarm nobody. Owner: {case.owner or 'nobody yet'}."
        )
        issue = asked.OpenIssue(
            **case.run, title=f"CI: flaky: {aside.target}", body=body, marker=case.case_id, labels=("ci", "flaky")
        )
        return aside, issue

    FIRES = (
        (found("FlakyTest", occurrences=2), ("quarantine", "open_issue")),
        (found("FlakyOnMain", occurrences=1, test="tests/test_a.py::test_b"), ("quarantine", "open_issue")),
        (found("Intermittent", platform="jenkins"), ("quarantine",)),
    )
    SILENT = (found("FlakyTest", occurrences=1), found("Intermittent", job_name=None))
