"""One incident of the fleet: what it reached, what explains it, and what is said of it.

What explains it is what its repositories have in common and the rest of the fleet has not: a host that the logs name, a
runner's label, an instance or a platform. It must hold for most of them (`explaining_share`), and so many in common
must be no accident: where a share u of all other failures has it, the chance that a share s of n has it is at most
exp(-n KL(s, u)) (Chernoff), and that must be below one in a thousand. Of several the one that is rarest elsewhere is
taken, and of those that are about as rare the most special: a host before a label, before an instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import log
from typing import Final, NamedTuple

import msgspec

from analytics.fleet_rules import FleetRules
from analytics.panes import MINUTE_MS
from analytics.surprise import out_of_proportion
from models.records.event import uuid5_text
from models.records.outputs import Dimension, FailureGroup, IncidentRow, IncidentState, Over

_NO_ACCIDENT: Final = log(1000)
_NAMED: Final = 8
_MOST_PLACES: Final = 2000
_REMINDER_MINUTES: Final = 60
"""An incident that is open says so at least this often, so that one whose end nobody saw is known for such."""
_RANK: Final = {dimension: rank for rank, dimension in enumerate(Dimension)}


class Place(NamedTuple):
    """Where failures were."""

    platform: str
    instance: str
    host: str
    labels: str

    @property
    def values(self) -> Iterator[tuple[Dimension, str]]:
        """What might explain them."""
        yield Dimension.PLATFORM, self.platform
        yield Dimension.INSTANCE, self.instance
        if self.host:
            yield Dimension.HOST, self.host
        if self.labels:
            yield from ((Dimension.LABEL, label) for label in self.labels.split(","))


def place_of(group: FailureGroup) -> Place:
    """Where the failures of a group were."""
    return Place(group.platform, group.instance, group.host, group.labels)


class Explanation(msgspec.Struct, array_like=True, frozen=True):
    """What the repositories of an incident have in common."""

    dimension: Dimension = Dimension.ALL
    value: str | None = None
    share: float = 1.0
    usual_share: float = 1.0


class Elsewhere(NamedTuple):
    """How often each value of each dimension is found in failures that belong to no incident, and each dimension."""

    by_value: Mapping[tuple[Dimension, str], float]
    by_dimension: Mapping[Dimension, float]

    def share(self, dimension: Dimension, value: str) -> float:
        """Of the failures for which the dimension is known, those with `value`."""
        known = self.by_dimension.get(dimension, 0.0)
        return self.by_value.get((dimension, value), 0.0) / known if known else 0.0


def elsewhere(places: Mapping[Place, float]) -> Elsewhere:
    """What is usual, from how often failures were at each place."""
    by_value: dict[tuple[Dimension, str], float] = {}
    by_dimension: dict[Dimension, float] = {}
    for place, weight in sorted(places.items()):
        values = list(place.values)
        for value in values:
            by_value[value] = by_value.get(value, 0.0) + weight
        for dimension in {dimension for dimension, _ in values}:
            by_dimension[dimension] = by_dimension.get(dimension, 0.0) + weight
    return Elsewhere(by_value, by_dimension)


class Ruling(NamedTuple):
    """Which rules are in force up to a minute."""

    until: int
    digest: str
    rules: FleetRules


class Seen(NamedTuple):
    """What the window that ends with `minute` shows of an incident's symptom."""

    minute: int
    at_ms: int
    repositories: int
    expected: float
    ruling: Ruling


class Incident(msgspec.Struct, array_like=True):
    """An incident that is open, in snapshots an array: fields may be added at the end only."""

    symptom: str
    category: str | None
    opened: int  # the minute that opened it
    began: int  # the first minute of its failures
    restless: int  # the last minute in which it was not calm
    last: int  # the last minute of its failures, up to then
    failures: int = 0
    late: int = 0
    repositories: dict[str, int] = {}  # with the failures of each
    places: dict[Place, set[str]] = {}  # the repositories at each
    revision: int = -1
    said_minute: int = 0
    said_failures: int = 0
    said: Explanation = Explanation()

    def take(self, groups: Iterable[FailureGroup]) -> None:
        """Add failures of one minute."""
        for group in groups:
            self.late += group.late
            for repository, count in group.repositories:
                self.failures += count
                self.repositories[repository] = self.repositories.get(repository, 0) + count
            place = place_of(group)
            if place in self.places or len(self.places) < _MOST_PLACES:
                self.places.setdefault(place, set()).update(name for name, _ in group.repositories)

    def explain(self, usual: Elsewhere, rules: FleetRules) -> Explanation:
        """What its repositories have in common and others have not."""
        found: dict[tuple[Dimension, str], set[str]] = {}
        known: dict[Dimension, set[str]] = {}
        for place, repositories in self.places.items():
            for dimension, value in place.values:
                found.setdefault((dimension, value), set()).update(repositories)
                known.setdefault(dimension, set()).update(repositories)
        reached = len(self.repositories)
        likely: list[tuple[float, int, float, float, str, Dimension]] = []
        for (dimension, value), repositories in found.items():
            of = len(known[dimension])
            share, other = len(repositories) / of, usual.share(dimension, value)
            enough = 2 * of >= reached and share >= rules.explaining_share
            if enough and out_of_proportion(share, other, of) >= _NO_ACCIDENT:
                likely.append((round(other, 1), _RANK[dimension], other, -share, value, dimension))
        if not likely:
            return Explanation()
        *_, other, share, value, dimension = min(likely)
        return Explanation(dimension, value, round(-share, 3), round(other, 3))

    def has_news(self, explanation: Explanation, minute: int) -> bool:
        """Whether something changed that people would want to know."""
        return (
            (explanation.dimension, explanation.value) != (self.said.dimension, self.said.value)
            or self.failures >= 2 * self.said_failures
            or minute - self.said_minute >= _REMINDER_MINUTES
        )

    def say(
        self, state: IncidentState, seen: Seen, explanation: Explanation, *, why: Over | None = None
    ) -> IncidentRow:
        """The next revision."""
        self.revision += 1
        self.said_minute, self.said_failures, self.said = seen.minute, self.failures, explanation
        affected = sorted(self.repositories.items(), key=lambda each: (-each[1], each[0]))
        return IncidentRow(
            incident_id=uuid5_text("incident", self.symptom, str(self.opened)),
            revision=self.revision,
            state=state.value,
            symptom=self.symptom,
            signature=self.symptom if self.category else None,
            category=self.category,
            dimension=explanation.dimension.value,
            value=explanation.value,
            share=explanation.share,
            usual_share=explanation.usual_share,
            repositories=len(self.repositories),
            failures=self.failures,
            late=self.late,
            repositories_now=seen.repositories,
            expected=round(seen.expected, 3),
            most_affected=msgspec.json.encode(affected[:_NAMED]).decode(),
            message=self._message(state, seen, explanation),
            began_ms=self.began * MINUTE_MS,
            last_ms=(self.last + 1) * MINUTE_MS,
            minute_ms=seen.minute * MINUTE_MS,
            at_ms=seen.at_ms,
            why=why.value if why is not None else None,
            rulebook=seen.ruling.digest,
        )

    def _message(self, state: IncidentState, seen: Seen, explanation: Explanation) -> str:
        if state is IncidentState.CLOSED:
            minutes = self.last + 1 - self.began
            return f"{self.symptom}: over after {minutes} minutes, {self._reached()}"
        common = (
            f"; {explanation.dimension.value} {explanation.value} in {explanation.share:.0%} of them, "
            f"{explanation.usual_share:.0%} elsewhere"
            if explanation.value is not None
            else ""
        )
        return (
            f"{self.symptom}: {seen.repositories} repositories within {seen.ruling.rules.window_minutes} minutes, "
            f"{seen.expected:.2g} are usual; so far {self._reached()}{common}"
        )

    def _reached(self) -> str:
        return f"{self.failures} failures in {len(self.repositories)} repositories"
