"""Failed, then passed on the same commit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import JOB, Detector, Finding, History, Seen
from analytics.examples import failed, passed
from models.records.event import FAILING, Outcome


@dataclass(frozen=True, slots=True)
class FlakyTest(Detector):
    """The same job failed and then passed on the same commit: the code did not change, the result did.

    It is the plainest sign of flakiness and a lower bound: what is never run again is never seen. It does not tell a
    flaky test from a runner that was unwell; the signature of the failure does. (Google's and Mozilla's definition;
    see also Luo et al., "An Empirical Analysis of Flaky Tests", FSE 2014.)
    """

    by = JOB
    sees = frozenset(FAILING | {Outcome.PASSED})
    changed_by = frozenset({Outcome.PASSED})
    within: timedelta = timedelta(hours=2)

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Look for a pass that came after a failure of the same commit."""
        failing: dict[str, list[Seen]] = {}
        proof: list[Seen] = []
        flips = 0
        for seen in history:
            if seen.commit_sha is None:
                continue
            if seen.outcome in FAILING:
                failing.setdefault(seen.commit_sha, []).append(seen)
            elif earlier := failing.pop(seen.commit_sha, None):
                proof += [*earlier, seen]
                flips += 1
        if not proof:
            return None
        proof.sort()
        times = "once" if flips == 1 else f"{flips} times"
        return Finding(
            first_ms=proof[0].at_ms,
            last_ms=proof[-1].at_ms,
            occurrences=flips,
            events=tuple(seen.id for seen in proof),
            message=f"failed and then passed on the same commit {times} within {self.within}",
        )

    FIRES = (
        (failed(0, run="1"), passed(10, run="1", attempt=2)),
        (failed(0), failed(5), passed(60)),
        (failed(0, commit="a"), failed(1, commit="b"), passed(2, commit="a")),
    )
    SILENT = (
        (failed(0, commit="a"), passed(10, commit="b")),
        (passed(0), failed(10)),
        (failed(0), failed(10)),
        (failed(0), passed(121)),
    )
