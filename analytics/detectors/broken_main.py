"""The default branch is broken, and when it recovers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import JOB, Detector, Finding, History, Seen
from analytics.examples import failed, passed
from models.records.event import FAILING, Outcome


@dataclass(frozen=True, slots=True)
class BrokenMain(Detector):
    """A job fails on the default branch on `threshold` commits in a row, and has not passed there since.

    One red commit may be flaky or may be mended by the next one. When the next commit is red too, whoever builds upon
    the branch inherits the failure, and running the job once more helps nobody. It ends with the first pass on the
    branch, of whichever commit. Where a platform does not name the default branch, main, master and trunk count.
    """

    by = JOB
    sees = frozenset(FAILING | {Outcome.PASSED})
    within: timedelta = timedelta(hours=12)
    threshold: int = 2

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Look at the failures on the default branch since the last pass there."""
        red = _red(history)
        commits = len({seen.commit_sha or seen.pipeline_id for seen in red})
        if commits < self.threshold:
            return None
        return Finding(
            first_ms=red[0].at_ms,
            last_ms=red[-1].at_ms,
            occurrences=len(red),
            events=tuple(seen.id for seen in red),
            message=f"failed on {commits} commits of the default branch in a row, and has not passed there since",
        )

    def cleared(self, history: History, at_ms: int) -> str:
        """Say on which commit it passed again."""
        newest = next((seen for seen in reversed(history) if seen.main), None)
        if newest is None or newest.outcome is not Outcome.PASSED:
            return f"nothing failed there within {self.within}"
        return f"passed again on commit {(newest.commit_sha or 'unknown')[:40]}"

    FIRES = (
        (failed(0, commit="a", main=True), failed(30, commit="b", main=True)),
        (
            passed(0, commit="a", main=True),
            failed(10, commit="b", main=True),
            failed(20, commit="c", main=True),
            failed(25, commit="pr"),
        ),
    )
    SILENT = (
        (failed(0, commit="a"), failed(30, commit="b")),
        (failed(0, commit="a", main=True), failed(10, commit="a", attempt=2, run="run-0", main=True)),
        (failed(0, commit="a", main=True), passed(10, commit="b", main=True), failed(20, commit="c", main=True)),
    )


def _red(history: History) -> list[Seen]:
    """The failures on the default branch since the last pass there, oldest first."""
    red: list[Seen] = []
    for seen in reversed(history):
        if seen.main:
            if seen.outcome is Outcome.PASSED:
                break
            red.append(seen)
    return red[::-1]
