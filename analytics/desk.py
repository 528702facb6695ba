"""What all parts of a shard share: where it stands in time, what is due, the rules in force, and what was found."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import date
from operator import attrgetter
from typing import Any, Final, NamedTuple

from analytics.asking import Asking
from analytics.causes import Causes
from analytics.detectors.detector import (
    JOB,
    JOB_RUN,
    LABELS,
    REPOSITORY,
    SIGNATURE,
    AbsenceDetector,
    Detector,
    Field,
    Finding,
    History,
    ProfileDetector,
    Seen,
    milliseconds,
)
from analytics.findings import Context, Findings
from analytics.memory import Firsts, Timers
from analytics.rows import SEPARATOR
from analytics.rulebook import Rulebook
from models.records.event import FAILING, Outcome

MOST_REMEMBERED: Final = 200_000
"""How many keys one generation of what is remembered for a while may hold."""
TRUST_MS: Final = 3_600_000
"""A source that delivered nothing for so long is not known to deliver, and absence proves nothing."""
EVENT_SCOPES: Final = (JOB, REPOSITORY, SIGNATURE, LABELS)

_KEPT: Final = FAILING | {Outcome.PASSED}
"""What histories hold."""
_AT: Final = attrgetter("at_ms")
_EPOCH: Final = date(1970, 1, 1).toordinal()


class Scope(NamedTuple):
    """The detectors that judge one kind of history, each with its `within`, and for how long that history is kept."""

    rules: Sequence[tuple[Detector, int]]
    kept_ms: int
    categories: frozenset[str] | None  # of the failures that are kept; None: all

    def wants(self, category: str | None) -> bool:
        """Whether somebody judges failures of this category."""
        return bool(self.rules) and (self.categories is None or category in self.categories)


class Desk:
    """Stream time, timers, findings and the rulebook of one shard."""

    def __init__(self, number: int, rulebook: Rulebook) -> None:
        """Begin at the start of time with nothing due and nothing found."""
        self.number: Final = number
        self.stream_ms = 0
        self.timers = Timers()
        self.findings: Final = Findings(MOST_REMEMBERED)
        self.asking: Final = Asking()
        self.repositories: Final = Firsts(MOST_REMEMBERED)
        self.sources: dict[str, int] = {}  # instance -> stream time of its last event
        self.take(rulebook)

    def take(self, rulebook: Rulebook) -> None:
        """Make `rulebook` the one in force."""
        self.rulebook = rulebook
        self._here = Context(self.number, 0, 0, rulebook.digest)
        self.asking.anew()
        self.causes = Causes(rulebook.catalogue)
        self.await_log_ms = rulebook.policy.await_log_seconds * 1000
        enabled = [rule for rule in rulebook.detectors if rule.enabled]
        events = [(d, milliseconds(d.within)) for d in enabled if isinstance(d, Detector)]
        self.scopes = {by: _scope(by, events) for by in EVENT_SCOPES}
        self.repeated = [(d, ms) for d, ms in self.scopes[JOB].rules if type(d).__name__ == "RepeatedFailure"]
        self.on_main = [(d, ms) for d, ms in self.scopes[JOB].rules if type(d).__name__ == "FlakyOnMain"]
        absent = [(d, milliseconds(d.within)) for d in enabled if isinstance(d, AbsenceDetector)]
        self.by_absence = [(d, within) for d, within in absent if d.by == JOB_RUN]
        self.by_queue = [(d, within) for d, within in absent if d.by == LABELS]
        self.absent_ms = max((within for _, within in absent), default=0)
        profiles = [d for d in enabled if isinstance(d, ProfileDetector)]
        self.profiles = {by: [(d, milliseconds(d.within)) for d in profiles if d.by == by] for by in (JOB, REPOSITORY)}
        start = History([Seen(0, "", Outcome.RUNNING, None, "", 1)])
        # The earliest that absence can mean anything; a longer usual duration only puts it off.
        self.first_look_ms: int | None = min((_first_look(d, start) for d, _ in self.by_absence), default=None)

    def answer(
        self,
        rule: Detector | AbsenceDetector | ProfileDetector,
        key: str,
        finding: Finding | None,
        judged: Any,  # noqa: ANN401 - what this kind of rule judges
        where: Context,
        event: str | None = None,
    ) -> None:
        """Say what became of a finding; where one is cleared, the rule says why."""
        if finding is not None:
            self.findings.answer(rule, key, finding, where)
        elif self.findings.stands(rule, key):
            why = self.asking.cleared(rule, key, judged, where, event)
            self.findings.answer(rule, key, None, where, why or "its detector failed and was set aside")

    def delivers(self, instance: str, now_ms: int) -> bool:
        """Whether `instance` is known to deliver, so that absence means something."""
        return self.sources.get(instance, 0) > now_ms - TRUST_MS

    def known_since(self, key: str) -> int:
        """Since when failures of the repository of `key` are known, Unix ms."""
        instance, repository, *_ = key.split(SEPARATOR, 2)
        return self.repositories.get(f"{instance}{SEPARATOR}{repository}")

    def replace(self, rulebook: Rulebook, position: int) -> None:
        """Make `rulebook` the one in force, and clear what was found by detectors that it does not ask."""
        before = [rule for rule in self.rulebook.detectors if rule.enabled]
        self.take(rulebook)
        asked = {type(rule) for rule in rulebook.detectors if rule.enabled}
        self.findings.withdraw([rule for rule in before if type(rule) not in asked], self.where(position))

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


def _first_look(detector: AbsenceDetector, start: History) -> int:
    """How long after the start of a job `detector` wants to look; at once where it cannot say, to be named then."""
    try:
        return int(detector.due(start, 0))
    except Exception:  # noqa: BLE001 - whatever a detector raises is its own
        return 0


def _scope(by: tuple[Field, ...], events: Sequence[tuple[Detector, int]]) -> Scope:
    rules = [(d, within) for d, within in events if d.by == by]
    wanted = [detector.categories for detector, _ in rules]
    categories = None if None in wanted else frozenset[str]().union(*(some for some in wanted if some is not None))
    return Scope(rules, max((within for _, within in rules), default=0), categories)


def visible(detector: Detector, history: Sequence[Seen], since_ms: int) -> History:
    """The part of a history that `detector` sees, of what came after `since_ms`."""
    return view(detector, history, first_since(history, since_ms), 0)


def first_since(history: Sequence[Seen], since_ms: int) -> int:
    """The place of the first event that came after `since_ms`."""
    return bisect_right(history, since_ms, key=_AT) if history and history[0].at_ms <= since_ms else 0


def view(detector: Detector, history: Sequence[Seen], first: int, known_since_ms: int) -> History:
    """The part of a history that `detector` sees, from the place `first` on."""
    sees, wanted = detector.sees, detector.categories
    part = history[first:] if first else history
    if wanted is not None:
        part = [seen for seen in part if seen.outcome in sees and seen.category in wanted]
    elif not sees >= _KEPT:
        part = [seen for seen in part if seen.outcome in sees]
    return History(part, known_since_ms)
