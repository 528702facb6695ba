"""Findings: what detectors said last, and what is said when they say something else.

A finding is named after detector, subject and the first event that proved it. While it stands, later answers change
it. When an event that came late shows that it began earlier, the old one is cleared and the one that began earlier is
raised: once all events are in, what stands does not depend on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from analytics.detectors.detector import Finding, Rule
from analytics.journal import Journal
from analytics.memory import Generations
from analytics.rows import SEPARATOR
from analytics.subjects import subject_of
from models.records.event import uuid5_text
from models.records.outputs import FindingRow, FindingState

_MOST_EVENTS: Final = 16
GONE: Final = "no longer holds"


class Context(NamedTuple):
    """Where the shard stands while it says something."""

    shard: int
    position: int
    at_ms: int
    rulebook: str


@dataclass(slots=True)
class Open:
    """A finding that stands. `began_ms` is the earliest beginning it had, `about` its subject as rows have it.

    `due_second` of stream time is when it is to be seen whether it still holds.
    """

    finding_id: str
    revision: int
    began_ms: int
    finding: Finding
    about: tuple[str, str, str]
    due_second: int = 0


class Findings:
    """All findings of one shard that stand, and the last revision of those that stood lately."""

    def __init__(self, most: int) -> None:
        """Begin with none; remember the revisions of at most `most` cleared ones a generation.

        `raised` is told of what is raised.
        """
        self._open: dict[str, Open] = {}
        self._journal: Final = Journal()
        self._cleared: Final[Generations[int]] = Generations(most)
        self.said: list[FindingRow] = []
        self.heard: Callable[[Rule, str, FindingRow], None] = _not_heard
        self.raised: Callable[[Rule, str, Finding, Context], None] = _nobody

    def stands(self, detector: Rule, key: str) -> Open | None:
        """The finding of `detector` on `key`, if one stands."""
        return self._open.get(_name(detector, key))

    def answer(self, detector: Rule, key: str, finding: Finding | None, where: Context, why: str = GONE) -> None:
        """Compare an answer with the last one and say what became of it; `why` what stood is cleared, if it is."""
        name = _name(detector, key)
        last = self._open.get(name)
        if finding is None:
            if last is not None:
                self._clear(detector, key, last, why, where)
        elif last is None:
            self._raise(detector, key, finding, where)
        elif finding.first_ms < last.began_ms:
            self._clear(detector, key, last, "began earlier than was known", where)
            self._raise(detector, key, finding, where)
        elif finding != last.finding:
            last.revision += 1
            last.finding = finding
            self._journal.changed.append(name)
            self._say(detector, key, last, FindingState.CHANGED, finding.message, where)

    def _raise(self, detector: Rule, key: str, finding: Finding, where: Context) -> None:
        name = _name(detector, key)
        finding_id = uuid5_text("finding", name, finding.events[0] if finding.events else str(finding.first_ms))
        before = self._cleared.get(finding_id)
        about = subject_of(detector, key)
        made = Open(finding_id, 0 if before is None else before + 1, finding.first_ms, finding, about)
        self._open[name] = made
        self._journal.changed.append(name)
        self._say(detector, key, made, FindingState.RAISED, finding.message, where)
        self.raised(detector, key, finding, where)

    def _clear(self, detector: Rule, key: str, last: Open, why: str, where: Context) -> None:
        last.revision += 1
        self._cleared.put(last.finding_id, last.revision)
        name = _name(detector, key)
        del self._open[name]
        self._journal.changed.append(name)
        self._say(detector, key, last, FindingState.CLEARED, why, where)

    def _say(self, detector: Rule, key: str, it: Open, state: FindingState, message: str, where: Context) -> None:
        instance, repository, subject = it.about
        row = FindingRow(
            finding_id=it.finding_id,
            revision=it.revision,
            shard=where.shard,
            position=where.position,
            detector=type(detector).__name__,
            state=state.value,
            instance=instance,
            repository=repository,
            subject=subject,
            first_ms=it.finding.first_ms,
            last_ms=it.finding.last_ms,
            occurrences=it.finding.occurrences,
            events=list(it.finding.events[-_MOST_EVENTS:]),
            message=message,
            at_ms=where.at_ms,
            rulebook=where.rulebook,
        )
        self.said.append(row)
        self.heard(detector, key, row)

    def withdraw(self, rules: Iterable[Rule], where: Context) -> None:
        """Clear all that stands of `rules`: nobody asks them any more."""
        by_name = {type(rule).__name__: rule for rule in rules}
        for name, last in sorted(self._open.items()):
            rule_name, key = name.split(SEPARATOR, 1)
            if rule_name in by_name:
                self._clear(by_name[rule_name], key, last, "its detector was turned off", where)

    def turn(self) -> None:
        """Forget the older half of the cleared."""
        self._cleared.turn()

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._open, _plain)
        self._cleared.settle()

    def state(self) -> list[Any]:
        """All that stands, as plain data."""
        return [self._journal.written(self._open, _plain), self._cleared.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        stands, cleared = state
        for name, (finding_id, revision, began_ms, told, about) in self._journal.read(stands).items():
            first, last, count, events, message = told
            finding = Finding(first, last, count, tuple(events), message)
            self._open[name] = Open(finding_id, revision, began_ms, finding, tuple(about))
        self._cleared.load(cleared)


def _plain(it: Open, /, *, whole: bool) -> list[Any]:  # noqa: ARG001 - there is no less to tell
    return [it.finding_id, it.revision, it.began_ms, it.finding, it.about]


def _not_heard(_detector: Rule, _key: str, _row: FindingRow) -> None:
    """Hear of a row and do nothing."""


def _nobody(_rule: Rule, _key: str, _finding: Finding, _where: Context) -> None:
    """Hear of a finding and do nothing."""


def _name(detector: Rule, key: str) -> str:
    return f"{type(detector).__name__}{SEPARATOR}{key}"
