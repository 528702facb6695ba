"""Throw the caches away, then once more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.actions.action import FAILURE, Action, Case, Reach, reruns
from analytics.actions.examples import failed
from models.records.calls import Call, ClearCaches

_NAME: Final = "clear_cache_and_rerun"


@dataclass(frozen=True, slots=True)
class ClearCacheAndRerun(Action):
    """Throw away the repository's caches, and then run what failed once more: it would read the broken cache again.

    All caches of the repository, since no log tells which one is broken, and a branch reads those of the default
    branch. The next builds are slower, and nothing is lost. CircleCI cannot do it; a plain rerun is left.
    """

    name = _NAME
    heals = {FAILURE: 1}  # noqa: RUF012 - of the class
    platforms = frozenset({"github", "gitlab", "jenkins"})
    reach = Reach.REPOSITORY
    cooldown = timedelta(hours=1)
    most_per_day = 4
    undone_by = "the next builds, which fill the caches anew"
    verified_by = "what failed passes on the same commit"

    def fits(self, case: Case) -> bool:
        """A signature names it."""
        return _NAME in case.asked

    def calls(self, case: Case) -> tuple[Call, ...]:
        """The caches first."""
        return (ClearCaches(**case.run), *reruns(case))

    FIRES = (
        (failed("1", asked=frozenset({_NAME})), ("clear_caches", "rerun_failed")),
        (failed("1", platform="gitlab", asked=frozenset({_NAME, "delayed_rerun"})), ("clear_caches", "rerun_job")),
    )
    SILENT = (failed("1"),)
