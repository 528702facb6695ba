"""The fleet: minutes of all shards put together, and incidents that reach over many repositories.

Theory. A minute is judged once every shard has closed it, by what all of them counted in it, in order of symptom. What
a shard counts in a minute is final, so incidents are a function of the streams alone, however fast the shards are read
and by how many workers; minutes in which nothing fails and nothing is open are passed over alike. What is usual, and
when it is an incident, stands in analytics/surprise.py; what explains one, in analytics/incidents.py.

An incident opens when so many repositories show a symptom within the window as would be surprising, and at least
`least_repositories` of them and `least_failures`. It closes when for `calm_minutes` not even twice as many would have
opened it. So it neither flickers at the edge nor stays open for a few stragglers.

    fleet = Fleet()
    for output in outputs:
        for minutes in output.closed:
            incidents += fleet.process(minutes)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import chain
from typing import Any, Final, Self

import msgspec

from analytics.fleet_rules import FleetRules
from analytics.incidents import Elsewhere, Incident, Place, Ruling, Seen, elsewhere, place_of
from analytics.journal import packed, unpacked
from analytics.panes import LATENESS_MS, MINUTE_MS
from analytics.surprise import ONSET_MINUTES, Expected, Sighting, Usual, needed, surprise
from models.records.errors import ConfigError
from models.records.event import SHARDS
from models.records.outputs import ClosedMinutes, FailureGroup, IncidentRow, IncidentState, Over

SNAPSHOT_VERSION: Final = 1
_HOUR: Final = 60
_MOST_PLACES: Final = 10_000


class Minute(msgspec.Struct, array_like=True, frozen=True):
    """What failed in one minute with one symptom."""

    groups: tuple[FailureGroup, ...]
    repositories: frozenset[str]
    failures: int

    @property
    def places(self) -> list[tuple[Place, int]]:
        """Where they were, with the repositories at each place."""
        return [(place_of(group), len(group.repositories)) for group in self.groups]


class Lesson(msgspec.Struct, array_like=True, frozen=True):
    """What is to be learned of one minute, by symptom: how often it was seen, and where."""

    minute: int
    sightings: dict[str, Sighting]
    places: dict[str, list[tuple[Place, int]]]

    def unlearn(self, symptom: str, expected: Expected) -> None:
        """Learn what was expected in place of what turned out to be the onset of an incident."""
        if symptom in self.sightings:
            self.sightings[symptom] = expected.learned
        self.places.pop(symptom, None)


class State(msgspec.Struct, kw_only=True):
    """All that the fleet remembers."""

    until: list[int]  # by shard, the last minute that it closed
    rulings: list[Ruling] = []
    digest: str = ""
    waiting: dict[int, list[FailureGroup]] = {}  # by minute, until all shards have closed it
    at: int = 0  # the last minute judged
    began: int = 0  # the first one
    renamed: int = 0  # the last one at which other rules came into force: what a symptom is called may have changed
    window: dict[int, dict[str, Minute]] = {}
    open: dict[str, Incident] = {}
    places: dict[Place, float] = {}  # how often failures that belong to no incident were there, as memory has it
    lessons: list[Lesson] = []  # minutes that are not learned yet
    usual: list[Any] = []


_DECODER: Final = msgspec.msgpack.Decoder(State)


class Fleet:
    """The incidents of all shards. Not for use by two threads at once."""

    def __init__(self, shards: int = SHARDS) -> None:
        """Begin with nothing known. So many shards must have closed a minute before it is judged."""
        self._state = State(until=[-1] * shards)
        self._usual: Final = Usual()
        self._rulings: deque[Ruling] = deque()
        self._due: list[int] = []  # the minutes that wait, as a heap
        self._known_elsewhere: Elsewhere | None = None

    def process(self, message: ClosedMinutes) -> list[IncidentRow]:
        """What is to be said now that a shard has closed minutes. What it has told before is passed over."""
        self._take(message)
        rows: list[IncidentRow] = []
        while (minute := self._next()) is not None:
            rows += self._judge(minute)
        return rows

    def _take(self, message: ClosedMinutes) -> None:
        state = self._state
        known = state.until[message.shard]
        if message.until <= known:
            return
        state.until[message.shard] = message.until
        if message.shard == 0:
            self._rulings.append(Ruling(message.until, message.rulebook, FleetRules.of(message.rules)))
        for minute, groups in message.minutes:
            if minute > known:
                if minute not in state.waiting:
                    heappush(self._due, minute)
                    state.waiting[minute] = []
                state.waiting[minute].extend(groups)

    def _next(self) -> int | None:
        """The next minute to be judged, if all shards have closed it."""
        state = self._state
        busy = state.open or state.window
        minute = state.at + 1 if busy else self._due[0] if self._due else None
        return minute if minute is not None and minute <= min(state.until) else None

    def _judge(self, minute: int) -> list[IncidentRow]:
        """Put a minute to what is known, and say what changed."""
        state, usual = self._state, self._usual
        ruling = self._ruling(minute)
        rules = ruling.rules
        self._fade(minute, rules)
        self._learn(minute - ONSET_MINUTES, rules)
        state.at, self._known_elsewhere = minute, None
        window = self._window(minute, rules.window_minutes)
        outside = sum(len(seen.repositories) for symptom, seen in window.items() if symptom not in state.open)
        enough = needed(rules.false_alarms_per_day, usual.symptoms)
        rows: list[IncidentRow] = []
        sightings: dict[str, Sighting] = {}
        for symptom in sorted({*window, *state.open}):
            seen = window.get(symptom, _NOTHING)
            others = outside - (0 if symptom in state.open else len(seen.repositories))
            expected = usual.expect(symptom, others, least=rules.usual_repositories, window=rules.window_minutes)
            row = self._look(symptom, seen, expected, enough, ruling)
            rows += [row] if row is not None else []
            count = len(seen.repositories)
            known = Sighting(count, (count - expected.mean) ** 2)
            sightings[symptom] = expected.learned if symptom in state.open else known
        seen_at = {s: one.places for s, one in state.window.get(minute, {}).items() if s not in state.open}
        state.lessons.append(Lesson(minute, sightings, seen_at))
        return rows

    def _ruling(self, minute: int) -> Ruling:
        """The rules in force in a minute: those that the first shard told with it."""
        rulings, state = self._rulings, self._state
        while rulings[0].until < minute:
            rulings.popleft()
        if not state.began:
            state.began = state.renamed = minute
        elif rulings[0].digest != state.digest:
            state.renamed = minute
        state.digest = rulings[0].digest
        return rulings[0]

    def _window(self, minute: int, length: int) -> dict[str, Minute]:
        """What failed in the minutes up to this one, by symptom."""
        state = self._state
        if self._due and self._due[0] == minute:
            heappop(self._due)
            state.window[minute] = _by_symptom(state.waiting.pop(minute))
        for old in [known for known in state.window if known <= minute - length]:
            del state.window[old]
        together: dict[str, list[Minute]] = {}
        for _, symptoms in sorted(state.window.items()):
            for symptom, one in symptoms.items():
                together.setdefault(symptom, []).append(one)
        return {symptom: _joined(minutes) for symptom, minutes in together.items()}

    def _look(
        self, symptom: str, seen: Minute, expected: Expected, enough: float, ruling: Ruling
    ) -> IncidentRow | None:
        """Open, follow or close the incident of one symptom."""
        state, count = self._state, len(seen.repositories)
        here = Seen(state.at, (state.at + 1) * MINUTE_MS + LATENESS_MS, count, expected.mean, ruling)
        incident = state.open.get(symptom)
        if incident is None:
            opens = count >= ruling.rules.least_repositories and seen.failures >= ruling.rules.least_failures
            if not opens or surprise(count, expected) < enough or not self._is_learned(symptom, ruling.rules):
                return None
            incident = state.open[symptom] = self._opened(symptom, seen)
            for lesson in state.lessons:
                lesson.unlearn(symptom, expected)
            return incident.say(IncidentState.OPENED, here, incident.explain(self._elsewhere(), ruling.rules))
        incident.take(_at(state.window, state.at, symptom).groups)
        if 2 * count >= ruling.rules.least_repositories and surprise(2 * count, expected) >= enough:
            incident.restless, incident.last = state.at, max(self._minutes_of(symptom))
        return self._follow(incident, here)

    def _follow(self, incident: Incident, here: Seen) -> IncidentRow | None:
        """Close an incident, or say what changed."""
        why = self._why_over(incident, here.ruling.rules)
        if why is not None:
            del self._state.open[incident.symptom]
            if why is Over.USUAL:
                self._usual.accept(incident.symptom, here.repositories)
            return incident.say(IncidentState.CLOSED, here, incident.said, why=why)
        restless = incident.restless == here.minute
        explanation = incident.explain(self._elsewhere(), here.ruling.rules) if restless else incident.said
        if not incident.has_news(explanation, here.minute):
            return None
        return incident.say(IncidentState.CHANGED, here, explanation)

    def _elsewhere(self) -> Elsewhere:
        """Where failures usually are, put together once a minute at most."""
        if self._known_elsewhere is None:
            self._known_elsewhere = elsewhere(self._state.places)
        return self._known_elsewhere

    def _opened(self, symptom: str, seen: Minute) -> Incident:
        at, minutes = self._state.at, self._minutes_of(symptom)
        incident = Incident(symptom, seen.groups[0].category, at, min(minutes), at, max(minutes))
        incident.take(seen.groups)
        return incident

    def _minutes_of(self, symptom: str) -> list[int]:
        """The minutes of the window that show a symptom."""
        return [minute for minute, symptoms in self._state.window.items() if symptom in symptoms]

    def _why_over(self, incident: Incident, rules: FleetRules) -> Over | None:
        if self._state.at - incident.restless >= rules.calm_minutes:
            return Over.CALM
        return Over.USUAL if self._state.at - incident.opened >= rules.longest_hours * _HOUR else None

    def _is_learned(self, symptom: str, rules: FleetRules) -> bool:
        """Whether it is known how often a symptom is usual; a new name may be that of an old trouble."""
        state = self._state
        first = self._usual.first_seen(symptom)
        since = state.renamed if first is None or first >= state.renamed else state.began
        return state.at - ONSET_MINUTES - since >= rules.learning_minutes

    def _learn(self, until: int, rules: FleetRules) -> None:
        """Learn from the minutes that lie far enough back."""
        state = self._state
        while state.lessons and state.lessons[0].minute <= until:
            lesson = state.lessons.pop(0)
            self._usual.learn(lesson.minute, lesson.sightings, rules.memory_hours * 60)
            for place, count in chain.from_iterable(lesson.places.values()):
                state.places[place] = state.places.get(place, 0.0) + count
        if until >= state.began:
            self._usual.pass_to(until, rules.memory_hours * 60)

    def _fade(self, minute: int, rules: FleetRules) -> None:
        """Every hour, let go of what is long ago."""
        state = self._state
        hours = minute // _HOUR - state.at // _HOUR
        if hours and state.at:
            kept = 0.5 ** (hours / rules.memory_hours)
            faded = {place: weight * kept for place, weight in state.places.items()}
            common = sorted(faded, key=lambda place: (-faded[place], place))[:_MOST_PLACES]
            state.places = {place: faded[place] for place in common if faded[place] > _FORGOTTEN}
            self._usual.forget()

    def snapshot(self) -> bytes:
        """All that is remembered, as plain versioned bytes."""
        self._state.rulings, self._state.usual = list(self._rulings), self._usual.state()
        return msgspec.msgpack.encode([SNAPSHOT_VERSION, packed(msgspec.msgpack.encode(self._state))])

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """The fleet as it stood at `snapshot`.

        Raises:
            ConfigError: of a version that this release does not read.
        """
        try:
            version, rest = msgspec.msgpack.decode(data, type=tuple[int, bytes])
        except msgspec.DecodeError as error:
            raise ConfigError(f"a snapshot of the fleet that this release does not read: {error}") from None
        if version != SNAPSHOT_VERSION:
            raise ConfigError(f"a snapshot of the fleet of version {version}; this release reads {SNAPSHOT_VERSION}")
        state = _DECODER.decode(unpacked(rest))
        fleet = cls(len(state.until))
        fleet._state = state
        fleet._rulings.extend(state.rulings)
        fleet._due = sorted(state.waiting)
        fleet._usual.load(state.usual)
        return fleet


_NOTHING: Final = Minute((), frozenset(), 0)
_FORGOTTEN: Final = 0.05


def _by_symptom(groups: Iterable[FailureGroup]) -> dict[str, Minute]:
    found: dict[str, list[FailureGroup]] = {}
    for group in sorted(groups, key=_in_order):
        found.setdefault(group.symptom, []).append(group)
    return {symptom: _minute(tuple(those)) for symptom, those in found.items()}


def _in_order(group: FailureGroup) -> tuple[str, ...]:
    return (group.symptom, group.category or "", *place_of(group), group.repositories[0][0])


def _minute(groups: tuple[FailureGroup, ...]) -> Minute:
    repositories = frozenset(name for group in groups for name, _ in group.repositories)
    return Minute(groups, repositories, sum(count for group in groups for _, count in group.repositories))


def _joined(minutes: list[Minute]) -> Minute:
    if len(minutes) == 1:
        return minutes[0]
    return Minute(
        tuple(group for one in minutes for group in one.groups),
        frozenset().union(*(one.repositories for one in minutes)),
        sum(one.failures for one in minutes),
    )


def _at(window: dict[int, dict[str, Minute]], minute: int, symptom: str) -> Minute:
    return window.get(minute, {}).get(symptom, _NOTHING)
