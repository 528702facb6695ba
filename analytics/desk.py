"""What all parts of a shard share: where it stands in time, what is due, the rules in force, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from analytics.causes import Causes
from analytics.detectors.detector import JOB, JOB_RUN, Detector, Seen, milliseconds
from analytics.findings import Context, Findings
from analytics.memory import Timers
from analytics.rulebook import Rulebook
from models.records.event import Outcome

MOST_REMEMBERED: Final = 200_000
"""How many keys one generation of what is remembered for a while may hold."""


_EPOCH: Final = date(1970, 1, 1).toordinal()


class Desk:
    """Stream time, timers, findings and the rulebook of one shard."""

    def __init__(self, number: int, rulebook: Rulebook) -> None:
        """Begin at the start of time with nothing due and nothing found."""
        self.number: Final = number
        self.stream_ms = 0
        self.timers = Timers()
        self.findings: Final = Findings(MOST_REMEMBERED)
        self.take(rulebook)

    def take(self, rulebook: Rulebook) -> None:
        """Make `rulebook` the one in force."""
        self.rulebook = rulebook
        self._here = Context(self.number, 0, 0, rulebook.digest)
        self.causes = Causes(rulebook.catalogue)
        self.await_log_ms = rulebook.policy.await_log_seconds * 1000
        self.by_job = [(d, milliseconds(d.within)) for d in rulebook.detectors if d.by == JOB]
        self.by_absence = [d for d in rulebook.detectors if d.by == JOB_RUN]
        self.repeated = [(d, within) for d, within in self.by_job if type(d).__name__ == "RepeatedFailure"]
        self.kept_ms = max((within for _, within in self.by_job), default=0)
        self.absent_ms = max((milliseconds(d.within) for d in self.by_absence), default=0)
        start = (Seen(0, "", Outcome.RUNNING, None, "", 1),)
        looks = [due for d in self.by_absence if (due := d.due(start, None)) is not None]
        # The earliest that absence can mean anything; a longer usual duration only puts it off.
        self.first_look_ms: int | None = min(looks, default=None)

    @property
    def today(self) -> date:
        """The day, UTC, in stream time."""
        return date.fromordinal(_EPOCH + self.stream_ms // 86_400_000)

    def where(self, position: int, at_ms: int | None = None) -> Context:
        """Where the shard stands at the entry of `position`, or at `at_ms` if that is another time."""
        at_ms = self.stream_ms if at_ms is None else at_ms
        here = self._here
        if here.position != position or here.at_ms != at_ms:
            here = self._here = Context(self.number, position, at_ms, self.rulebook.digest)
        return here


def visible(detector: Detector, history: Sequence[Seen], since_ms: int) -> list[Seen]:
    """The part of a history that `detector` sees, of what came after `since_ms`."""
    sees = detector.sees
    return [seen for seen in history if seen.at_ms > since_ms and seen.outcome in sees]
