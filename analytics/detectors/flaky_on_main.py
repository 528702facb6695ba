"""Green, red, green over the commits of the default branch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from analytics.detectors.detector import JOB, Detector, Finding, History, Seen
from analytics.examples import failed, passed
from models.records.event import FAILING, Outcome

_PASSED: Final = Outcome.PASSED


@dataclass(frozen=True, slots=True)
class FlakyOnMain(Detector):
    """A job failed on single commits of the default branch, `threshold` times, and passed on the next one each time.

    Green, red, green once is what a mended mistake looks like too; twice within hours is more than chance allows,
    since whoever breaks a branch rarely mends it with the very next commit, twice. A commit on which the job passed
    when it was run again is FlakyTest's, and does not count here. (Luo et al., "An Empirical Analysis of Flaky Tests",
    FSE 2014, on telling flakes from mistakes by neighbouring revisions.)
    """

    by = JOB
    sees = frozenset(FAILING | {Outcome.PASSED})
    changed_by = frozenset({Outcome.PASSED})
    within: timedelta = timedelta(hours=6)
    threshold: int = 2

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Count the single red commits between green ones."""
        isolated = _isolated(history)
        if len(isolated) < self.threshold:
            return None
        proof = [seen for flip in isolated for seen in flip]
        return Finding(
            first_ms=proof[0].at_ms,
            last_ms=proof[-1].at_ms,
            occurrences=len(isolated),
            events=tuple(seen.id for seen in proof),
            message=f"{len(isolated)} commits of the default branch failed alone between commits that passed",
        )

    def cleared(self, history: History, at_ms: int) -> str:
        """Say that it is not seen any more."""
        return f"fewer than {self.threshold} commits failed alone within {self.within}, as far as is known now"

    FIRES = (
        (
            failed(0, commit="a", main=True),
            passed(10, commit="b", main=True),
            failed(20, commit="c", main=True),
            passed(30, commit="d", main=True),
        ),
    )
    SILENT = (
        (failed(0, commit="a", main=True), passed(10, commit="b", main=True)),
        (
            failed(0, commit="a", main=True),
            failed(5, commit="b", main=True),
            passed(10, commit="c", main=True),
            failed(20, commit="d", main=True),
            failed(25, commit="e", main=True),
            passed(30, commit="f", main=True),
        ),
        (failed(0, commit="a"), passed(10, commit="b"), failed(20, commit="c"), passed(30, commit="d")),
    )


def _isolated(history: History) -> list[list[Seen]]:
    """The failures of single commits, each with the pass of the next commit; not where that commit passed too."""
    passed: set[str | None] = {None}
    alone: list[list[Seen]] = []
    red: list[Seen] = []
    for seen in history:
        if seen.outcome is _PASSED:
            passed.add(seen.commit_sha)
            if red and seen.main:
                if len(red) == 1 or len({other.commit_sha for other in red}) == 1:
                    alone.append([*red, seen])
                red = []
        elif seen.main:
            red.append(seen)
    return [flip for flip in alone if flip[0].commit_sha not in passed]
