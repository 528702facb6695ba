"""Failures by minute and by what they have in common: what a shard tells the fleet, so that an outage shows.

A failure is counted in the minute of its event time while that minute is open, else in the one that stream time stands
in, and marked late; one that is older than ten minutes says nothing of how things stand and is not counted. When its
log is read it moves to what the log shows: within its minute while that is open, else it is counted once more, in the
present one. A minute is open until stream time has passed its end by LATENESS_MS, whatever the batches.

What no signature knows is still an outage when it fails everywhere, so it goes by what it has in common with its like:
the masked line that stands for it in its log, else the platform's reason or the failed step, else its outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from analytics.causes import Cause
from analytics.panes import LATENESS_MS, MINUTE_MS
from analytics.proof import Proof
from analytics.rows import Detail
from analytics.rulebook import Rulebook
from models.records.evidence import Evidence
from models.records.outputs import ClosedMinutes, FailureGroup

RECALLED_MINUTES: Final = 10
"""What failed longer ago than this is not counted any more."""
_MOST_KINDS: Final = 10_000
"""Of one minute; further ones are not counted."""
_LENGTH: Final = 200
"""Characters of a symptom or of the labels of a runner."""


class Kind(NamedTuple):
    """What failures are counted by, beside their repository; the names are those of FailureGroup."""

    symptom: str
    category: str | None
    platform: str
    instance: str
    host: str
    labels: str


class Counted(msgspec.Struct, array_like=True, frozen=True):
    """Where a failure was counted, kept until its log is read."""

    minute: int
    kind: Kind
    late: bool


def kind_of(detail: Detail, cause: Cause) -> Kind:
    """What a failure is counted by as its webhook tells of it."""
    told = (("reason", detail.failure_reason), ("step", detail.step), ("outcome", detail.outcome))
    symptom = cause.signature or next(f"{name} {said}"[:_LENGTH] for name, said in told if said)
    labels = ",".join(sorted(set(detail.runner_labels or ())))[:_LENGTH]
    return Kind(symptom, cause.category, detail.platform, detail.instance, "", labels)


def kind_in_log(kind: Kind, proof: Proof, evidence: Evidence) -> Kind:
    """What a failure of `kind` is counted by once its log was read."""
    cause, host = proof.cause, host_of(proof.match.captures) if proof.match else ""
    if cause.signature is not None:
        return kind._replace(symptom=cause.signature, category=cause.category, host=host)
    if evidence.template and kind.category is None:
        return kind._replace(symptom=f"line {evidence.template}"[:_LENGTH])
    return kind


def host_of(captures: Iterable[tuple[str, str]]) -> str:
    """The server that a signature found in the log: a host, or the registry of an image; "" if there is none."""
    found = dict(captures)
    host, image = found.get("host", ""), found.get("image", "")
    registry = image.partition("/")[0] if "/" in image else ""
    return (host or (registry if "." in registry else ""))[:_LENGTH].strip(".").lower()


class FailurePanes:
    """The open minutes of one shard."""

    def __init__(self, shard: int, from_ms: int = 0) -> None:
        """Begin with none; minutes that began before `from_ms` are not counted, as a part of them is lost."""
        self._shard: Final = shard
        self._from_ms: Final = from_ms
        self._minutes: dict[int, dict[Kind, dict[str, list[int]]]] = {}
        self._until = -1
        self._closed: list[ClosedMinutes] = []

    def add(self, kind: Kind, repository: str, at_ms: int, stream_ms: int) -> Counted | None:
        """Count a failure that happened at `at_ms`; where it was counted, None if it was not."""
        minute, now = at_ms // MINUTE_MS, stream_ms // MINUTE_MS
        late = not _is_open(minute, stream_ms)
        if late and now - minute > RECALLED_MINUTES:
            return None
        counted = Counted(now if late else minute, kind, late)
        return counted if self._change(counted, repository, 1) else None

    def move(self, counted: Counted, kind: Kind, repository: str, stream_ms: int) -> None:
        """Count a failure as `kind`, now that its log was read."""
        if _is_open(counted.minute, stream_ms):
            self._change(counted, repository, -1)
            self._change(Counted(counted.minute, kind, counted.late), repository, 1)
        elif kind.symptom != counted.kind.symptom:
            self.add(kind, repository, counted.minute * MINUTE_MS, stream_ms)

    def _change(self, counted: Counted, repository: str, by: int) -> bool:
        if counted.minute * MINUTE_MS < self._from_ms:
            return False
        kinds = self._minutes.setdefault(counted.minute, {})
        repositories = kinds.get(counted.kind)
        if repositories is None:
            if len(kinds) >= _MOST_KINDS:
                return False
            repositories = kinds[counted.kind] = {}
        count = repositories.setdefault(repository, [0, 0])
        count[0] += by
        count[1] += by * counted.late
        if count[0] == 0:
            del repositories[repository]
        return True

    def close(self, stream_ms: int, rulebook: Rulebook) -> None:
        """Tell of the minutes that stream time has passed. To be called before other rules come into force too."""
        until = (stream_ms - LATENESS_MS) // MINUTE_MS - 1
        if until <= self._until:
            return
        self._until = until
        passed = sorted(minute for minute in self._minutes if minute <= until)
        told = ((minute, _groups(self._minutes.pop(minute))) for minute in passed)
        minutes = tuple((minute, groups) for minute, groups in told if groups)
        rules = rulebook.body.get("fleet", {})
        self._closed.append(ClosedMinutes(self._shard, until, rulebook.digest, rules, minutes))

    def take(self) -> list[ClosedMinutes]:
        """What was told since this was last asked."""
        closed, self._closed = self._closed, []
        return closed

    def state(self) -> list[Any]:
        """All that is counted, as plain data."""
        minutes = [
            [minute, [[list(kind), repositories] for kind, repositories in kinds.items()]]
            for minute, kinds in self._minutes.items()
        ]
        return [self._until, minutes]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        self._until, minutes = state
        self._minutes = {
            minute: {Kind(*kind): repositories for kind, repositories in kinds} for minute, kinds in minutes
        }


def _is_open(minute: int, stream_ms: int) -> bool:
    return (minute + 1) * MINUTE_MS + LATENESS_MS > stream_ms


def _groups(kinds: dict[Kind, dict[str, list[int]]]) -> tuple[FailureGroup, ...]:
    groups = (
        FailureGroup(
            *kind,
            tuple(sorted((name, count) for name, (count, _) in repositories.items())),
            sum(late for _, late in repositories.values()),
        )
        for kind, repositories in kinds.items()
        if repositories
    )
    return tuple(sorted(groups, key=_by_kind))


def _by_kind(group: FailureGroup) -> tuple[str, ...]:
    return (group.symptom, group.category or "", *group[2:6])
