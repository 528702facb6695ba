"""Findings: what detectors said last, and what is said when they say something else.

A finding is named after detector, subject and the first event that proved it. While it stands, later answers change
it. When an event that came late shows that it began earlier, the old one is cleared and the one that began earlier is
raised: once all events are in, what stands does not depend on the order in which they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from analytics.detectors.detector import JOB, Detector, Finding
from analytics.memory import Generations
from analytics.rows import SEPARATOR, split_job_run
from models.records.event import uuid5_text
from models.records.outputs import FindingRow, FindingState

_MOST_EVENTS: Final = 32


class Context(NamedTuple):
    """Where the shard stands while it says something."""

    shard: int
    position: int
    at_ms: int
    rulebook: str


@dataclass(slots=True)
class Open:
    """A finding that stands. `began_ms` is the earliest beginning it had."""

    finding_id: str
    revision: int
    began_ms: int
    finding: Finding


def subject_of(detector: Detector, key: str) -> tuple[str, str, str]:
    """Instance, repository and the named parts of a history's key as JSON."""
    if detector.by == JOB:
        instance, repository, workflow, job_name = key.split(SEPARATOR, 3)
        parts: dict[str, Any] = {"workflow": workflow or None, "job_name": job_name or None}
    else:
        instance, repository, pipeline_id, workflow_id, attempt, job_id = split_job_run(key)
        parts = {"pipeline_id": pipeline_id, "workflow_id": workflow_id, "attempt": attempt, "job_id": job_id}
    return instance, repository, msgspec.json.encode({"repository": repository, **parts}).decode()


class Findings:
    """All findings of one shard that stand, and the last revision of those that stood lately."""

    def __init__(self, most: int) -> None:
        """Begin with none; remember the revisions of at most `most` cleared ones a generation."""
        self._open: dict[str, Open] = {}
        self._cleared: Final[Generations[int]] = Generations(most)
        self.said: list[FindingRow] = []

    def stands(self, detector: Detector, key: str) -> Open | None:
        """The finding of `detector` on `key`, if one stands."""
        return self._open.get(_name(detector, key))

    def answer(self, detector: Detector, key: str, finding: Finding | None, where: Context) -> None:
        """Compare an answer with the last one and say what became of it."""
        name = _name(detector, key)
        last = self._open.get(name)
        if finding is None:
            if last is not None:
                self._clear(detector, key, last, "no longer holds", where)
        elif last is None:
            self._raise(detector, key, finding, where)
        elif finding.first_ms < last.began_ms:
            self._clear(detector, key, last, "began earlier than was known", where)
            self._raise(detector, key, finding, where)
        elif finding != last.finding:
            last.revision += 1
            last.finding = finding
            self._say(detector, key, last, FindingState.CHANGED, finding.message, where)

    def _raise(self, detector: Detector, key: str, finding: Finding, where: Context) -> None:
        name = _name(detector, key)
        finding_id = uuid5_text("finding", name, finding.events[0])
        before = self._cleared.get(finding_id)
        made = Open(finding_id, 0 if before is None else before + 1, finding.first_ms, finding)
        self._open[name] = made
        self._say(detector, key, made, FindingState.RAISED, finding.message, where)

    def _clear(self, detector: Detector, key: str, last: Open, why: str, where: Context) -> None:
        last.revision += 1
        self._cleared.put(last.finding_id, last.revision)
        del self._open[_name(detector, key)]
        self._say(detector, key, last, FindingState.CLEARED, why, where)

    def _say(self, detector: Detector, key: str, it: Open, state: FindingState, message: str, where: Context) -> None:
        instance, repository, subject = subject_of(detector, key)
        self.said.append(
            FindingRow(
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
        )

    def turn(self) -> None:
        """Forget the older half of the cleared."""
        self._cleared.turn()

    def state(self) -> list[Any]:
        """All that stands, as plain data."""
        stands = [[name, o.finding_id, o.revision, o.began_ms, list(o.finding)] for name, o in self._open.items()]
        return [stands, self._cleared.state()]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        stands, cleared = state
        for name, finding_id, revision, began_ms, (first, last, count, events, message) in stands:
            finding = Finding(first, last, count, tuple(events), message)
            self._open[name] = Open(finding_id, revision, began_ms, finding)
        self._cleared.load(cleared)


def _name(detector: Detector, key: str) -> str:
    return f"{type(detector).__name__}{SEPARATOR}{key}"
