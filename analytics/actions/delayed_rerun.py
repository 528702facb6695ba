"""Once more, but not before what was away has had time to come back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.actions.action import FAILURE, Action, Case, Reach, reruns
from analytics.actions.examples import failed
from models.records.calls import Call

_NAME: Final = "delayed_rerun"


@dataclass(frozen=True, slots=True)
class DelayedRerun(Action):
    """Run what failed once more, as the platform takes it, after the wait for an outage.

    For causes that last for minutes: a registry, a package index or a name server that does not answer, a rate limit.
    Their signatures name it. A rerun a minute later meets the same outage and adds to it.
    """

    name = _NAME
    heals = {FAILURE: 2}  # noqa: RUF012 - of the class
    reach = Reach.RUN
    cooldown = timedelta(minutes=5)
    most_per_run = None
    most_per_day = None
    waits = True
    undone_by = "cancel"
    verified_by = "what failed passes on the same commit"

    def fits(self, case: Case) -> bool:
        """A signature names it."""
        return _NAME in case.asked

    def calls(self, case: Case) -> tuple[Call, ...]:
        """Those of a plain rerun; only the time is another."""
        return reruns(case)

    FIRES = (
        (failed("1", asked=frozenset({_NAME})), ("rerun_failed",)),
        (failed("1", platform="gitlab", asked=frozenset({_NAME, "none"})), ("rerun_job",)),
    )
    SILENT = (failed("1"), failed("1", asked=frozenset({"rerun_job"})))
