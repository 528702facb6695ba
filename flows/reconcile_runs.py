"""One look at one repository: what its platform says happened of late, onto the streams as a webhook would bring it.

What the streams have already is a duplicate there and changes nothing. So it does not matter whether a webhook comes
after all, how often somebody looks, or what two reconcilers do at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from connectors import metrics
from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send, Stop, Talk
from connectors.platforms.past import Recent
from connectors.postgres_reconcile import Place, Reconciled
from connectors.redis_append import Appender
from flows.acting_apis import Way
from flows.doors import Door
from flows.log_reading import Clocks
from models.records.calls import Ambiguous, Unavailable
from models.records.event import Event, EventType

SILENT_LOOKS: Final = 3
"""So many looks in a row that find failures where no webhook told of anything: the webhook is silent."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """How far back is looked. `reach` is how long duplicates are known as such: what is older is left alone."""

    overlap: timedelta
    grace: timedelta
    lookback: timedelta
    reach: timedelta


class Look(NamedTuple):
    """What came of a look: what is remembered of the place, and what the platform said where it did not tell."""

    place: Place
    reconciled: Reconciled
    known: int = 0
    unreadable: int = 0
    stop: Stop | None = None


class Budget:
    """How many requests an instance is asked for; what is not spent is there later, up to an hour's worth."""

    def __init__(self, per_hour: int, now: float) -> None:
        self._per_hour = per_hour
        self._left = float(per_hour)
        self._at = now

    def spent(self, now: float) -> bool:
        """Whether nothing is left. `now` is in seconds and never goes back."""
        self._left = min(self._per_hour, self._left + (now - self._at) * self._per_hour / 3600)
        self._at = now
        return self._left < 1

    def counted(self, talk: Talk[T]) -> Talk[T]:
        """`talk`, each request of which is taken from what is left."""
        try:
            step = next(talk)
            while True:
                self._left -= isinstance(step, Send)
                step = talk.send((yield step))
        except StopIteration as ended:
            result: T | Stop = ended.value
            return result
        finally:
            talk.close()


class Looking:
    """Looks at repositories, by whatever door their platform is asked through."""

    def __init__(
        self, doors: Mapping[Way, Door], normaliser: Normaliser, appender: Appender, times: Times, clocks: Clocks
    ) -> None:
        self._doors = doors
        self._normaliser = normaliser
        self._appender = appender
        self._times = times
        self._clocks = clocks
        self._ours: dict[Place, frozenset[str]] = {}  # events that no webhook brought but we

    async def look(
        self, place: Place, before: Reconciled | None, budget: Budget, *, since: datetime | None, last_away: datetime
    ) -> Look:
        """Look at `place`, back to `since` or to where it was known until.

        What is missing from after `last_away`, when a receiver was there all the time, its webhook is blamed for.

        Raises:
            Unavailable: Redis did not take all of it; it is to be looked at again.
        """
        door = self._doors[place.platform, place.instance]
        now = datetime.fromtimestamp(self._clocks.now(), UTC)
        start = self._start(before, now, since)
        talk = PLATFORMS[place.platform].recent(place.repository, start, place.instance)
        told = await door.hold(budget.counted(talk))
        missed = before.missed_looks if before is not None else 0
        if not isinstance(told, Recent):
            outcome: metrics.Look = "unavailable" if isinstance(told, Unavailable | Ambiguous) else "refused"
            metrics.guard_reconcile_looks_total(api=door.name, outcome=outcome).inc()
            until = before.read_until if before is not None else start
            return Look(place, Reconciled(until, now, 0, missed, told.why), stop=told)
        ripe = now - self._times.grace
        events = {event.id: event for event in told.events if event.timestamp <= ripe}
        found = await self._append(list(events.values()))
        if start > last_away:
            missed = self._missed(place, missed, events, found)
        self._ours[place] = frozenset(found) | (self._ours.get(place, frozenset()) & events.keys())
        self._count(door.name, found=len(found), known=len(events) - len(found), unreadable=told.unreadable)
        why = "more happened than the platform lists" if told.cut else None
        done = Reconciled(max(ripe, start), now, len(found), missed, why)
        return Look(place, done, len(events) - len(found), told.unreadable)

    def _start(self, before: Reconciled | None, now: datetime, since: datetime | None) -> datetime:
        if since is None:
            since = now - self._times.lookback if before is None else before.read_until - self._times.overlap
        return max(since, now - self._times.reach)

    async def _append(self, events: Sequence[Event]) -> set[str]:
        """Put `events` onto their shards, each by itself; the ids of those that were not there."""
        at = self._clocks.now()
        # A run after its jobs: what failed is then known before it is known that something did.
        ordered = sorted(events, key=lambda event: (event.timestamp, event.job_id is None, event.id))
        tasks = [
            self._appender.append(delivery) for event in ordered for delivery in self._normaliser.entries([event], at)
        ]
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return {event.id for event, new in zip(ordered, replies, strict=True) if new}

    def _missed(self, place: Place, missed: int, events: Mapping[str, Event], found: Collection[str]) -> int:
        ours = self._ours.get(place, frozenset())
        if events.keys() - ours - set(found):
            return 0
        failed = any(events[one].event_type is EventType.FAILED for one in found)
        return missed + failed

    def _count(self, api: str, *, found: int, known: int, unreadable: int) -> None:
        metrics.guard_reconcile_looks_total(api=api, outcome="read").inc()
        metrics.guard_reconcile_events_total(api=api, outcome="found").inc(found)
        metrics.guard_reconcile_events_total(api=api, outcome="known").inc(known)
        metrics.guard_reconcile_events_total(api=api, outcome="unreadable").inc(unreadable)
