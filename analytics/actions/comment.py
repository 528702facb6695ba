"""A word on the last attempt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.actions.action import GIVEN_UP, Action, Case, Given, Reach
from analytics.actions.examples import failed, given_up
from models.records import calls as asked
from models.records.calls import Call

_MOST_JOBS: Final = 5


@dataclass(frozen=True, slots=True)
class Comment(Action):
    """Say once, under the commit, that what we had run again failed again, what is known of why, and that we stop.

    Off until a rule says `comment = true`. Every try before the last is silent; a bot that comments on each is muted.
    """

    name = "comment"
    heals = {GIVEN_UP: 1}  # noqa: RUF012 - of the class
    platforms = frozenset({"github", "gitlab"})
    reach = Reach.PEOPLE
    cooldown = timedelta(hours=1)
    most_per_day = 10
    undone_by = "deleting the comment"
    verified_by = "the platform names the comment"

    def fits(self, case: Case) -> bool:
        """There is a commit to say it under."""
        return case.given is not None and case.commit_sha is not None

    def calls(self, case: Case) -> tuple[Call, ...]:
        """One call."""
        assert case.given is not None
        body = "\n\n".join(_words(case.given, case.signature))
        return (asked.Comment(**case.run, body=body, marker=case.case_id, commit_sha=case.commit_sha),)

    FIRES = ((given_up()._replace(commit_sha="c1"), ("comment",)),)
    SILENT = (given_up(), failed("1"))


def _words(it: Given, signature: str | None) -> Iterator[str]:
    jobs = ", ".join(f"`{job}`" for job in it.jobs[:_MOST_JOBS]) or "the run"
    more = len(it.jobs) - _MOST_JOBS
    jobs += f" and {more} more" if more > 0 else ""
    yield f"{jobs} failed again on attempt {it.attempt}; it is not run once more."
    if it.cause is not None:
        yield f"Cause: {it.cause} (`{signature}`)." + (f" {it.fix}" if it.fix else "")
    if it.url is not None:
        yield it.url
