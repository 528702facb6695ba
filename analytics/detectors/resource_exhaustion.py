"""Memory or disk runs out on the same runner, or on runners of the same labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from analytics.detectors.detector import LABELS, Detector, Finding, History, Seen
from analytics.examples import failed
from models.records.event import FAILING
from models.records.outputs import Category

_RESOURCES = Category.RESOURCES.value
_DISK = "disk_full"


@dataclass(frozen=True, slots=True)
class ResourceExhaustion(Detector):
    """Failures for want of memory or disk: `on_runner` of them on one runner, or `on_labels` on runners of one kind.

    A runner that is kept between jobs fills up, and then fails whatever it is given: the machine wants cleaning, and a
    rerun helps only if it lands elsewhere. On runners that live for one job, the same count over all runners of a label
    says that jobs of this repository have outgrown that size.
    """

    by = LABELS
    sees = frozenset(FAILING)
    categories = frozenset({Category.RESOURCES.value})
    within: timedelta = timedelta(hours=6)
    on_runner: int = 3
    on_labels: int = 5

    def judge(self, history: History, at_ms: int) -> Finding | None:
        """Count what ran out, by runner."""
        runner, most = _fullest(history)
        if runner is not None and most >= self.on_runner:
            proof, where = History([seen for seen in history if seen.runner == runner]), f"on runner {runner[:100]}"
        elif len(history) >= self.on_labels:
            proof, where = history, "on runners of these labels"
        else:
            return None
        causes = ", ".join(sorted({seen.signature or "" for seen in proof}))
        return Finding(
            first_ms=proof[0].at_ms,
            last_ms=proof[-1].at_ms,
            occurrences=len(proof),
            events=tuple(seen.id for seen in proof),
            message=f"{len(proof)} failures within {self.within} {where}: {causes}"[:500],
        )

    FIRES = (
        tuple(failed(m, signature=_DISK, category=_RESOURCES, runner="builder-7") for m in (0, 50, 100)),
        tuple(failed(m, signature=_DISK, category=_RESOURCES, runner=f"cloud-{m}") for m in range(0, 50, 10)),
    )
    SILENT = (
        tuple(failed(m, signature=_DISK, category=_RESOURCES, runner=f"cloud-{m}") for m in range(0, 40, 10)),
        tuple(failed(m, runner="builder-7") for m in range(0, 50, 10)),
        tuple(failed(m, signature=_DISK, category=_RESOURCES, runner="builder-7") for m in (0, 50, 380)),
    )


def _fullest(ran_out: Sequence[Seen]) -> tuple[str | None, int]:
    """The runner on which most ran out, and how often."""
    counts = Counter(seen.runner for seen in ran_out if seen.runner)
    return min(counts.items(), key=lambda known: (-known[1], known[0])) if counts else (None, 0)
