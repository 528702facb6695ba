"""`guard reconcile`: finds what no webhook brought, by asking the platforms.

    every few seconds   is a receiver there? once it is back from having been away, everything is looked at at once
    every interval      each repository, least recently looked at first, as far as the budget of requests goes
                        each webhook that the settings name: how it stands, and what it could not deliver

How far each repository is known stands in PostgreSQL, so that nothing is left out however long nobody looked. Several
may run at once: they ask twice, and append once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import redis
import structlog

from connectors import metrics
from connectors.deliveries import Normaliser
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Credential
from connectors.postgres_reconcile import HookName, Place, Reconciled, note, reconciled, seen
from connectors.redaction import Redactor
from connectors.redis_append import Appender
from connectors.redis_heartbeats import last_heartbeat_ms
from flows.acting_apis import Hands, Way, actable, opened_door
from flows.doors import Door
from flows.log_apis import readable
from flows.log_passing import Archive
from flows.log_reading import Clocks
from flows.reconcile_hooks import Hooks, visit_all
from flows.reconcile_runs import SILENT_LOOKS, Budget, Look, Looking, Times
from flows.settings import Settings
from flows.signalled import until_signalled
from models.records.calls import Refusal, Refused
from models.records.errors import ConfigError, Unavailable

_SEEN_OF_LATE: Final = timedelta(days=14)
_HEAR_EVERY: Final = timedelta(minutes=1)
_ROUNDS: Final = 20  # in an interval: what is due is spread over it
_NOW: Final = timedelta()
_NEVER: Final = datetime.fromtimestamp(0, UTC)
_WATCH_SECONDS: Final = 5.0
_AWAY_SECONDS: Final = 30.0  # without a heartbeat
_MARGIN: Final = timedelta(hours=1)  # within which duplicates may be forgotten while we look
_CLOCKS: Final = Clocks(time.time, time.monotonic)

_log = structlog.get_logger()


class Round(NamedTuple):
    """What a round brought. `left` places were due and not looked at: their instance was asked enough for now."""

    looks: Sequence[Look]
    left: int = 0

    @property
    def unread(self) -> list[Look]:
        """Looks to which the platform did not tell, or not all."""
        return [look for look in self.looks if look.reconciled.why is not None]


def run(settings: Settings) -> None:
    """Reconcile until SIGTERM or SIGINT.

    Raises:
        ConfigError: a setting is missing or cannot be used.
        Unavailable: the metrics port cannot be had.
    """
    until_signalled(partial(serve, settings))


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Reconcile until `stop` is set.

    Raises:
        ConfigError, Unavailable: as `run` does.
    """
    metrics.expose("reconcile", version=version("pipeline-guard"))
    reconciler = open_reconciler(settings)
    try:
        served = metrics.serve(settings.reconcile.metrics_host, settings.reconcile.metrics_port)
        try:
            _log.info("reconciling", apis=sorted(door.name for door in reconciler.doors.values()))
            await reconciler.run(stop, settings.reconcile.interval.total_seconds())
        finally:
            served.close()
    finally:
        await reconciler.close()
    _log.info("stopped")


def once(settings: Settings, *, since: timedelta | None) -> Round:
    """Look at everything once, back to `since` ago or to where it was known until.

    Raises:
        ConfigError: a setting is missing or cannot be used.
        Unavailable: Redis or PostgreSQL is away.
    """
    return asyncio.run(_once(settings, since))


async def _once(settings: Settings, since: timedelta | None) -> Round:
    reconciler = open_reconciler(settings)
    try:
        await reconciler.watch()
        done = await reconciler.round(since=since)
        await reconciler.visit_hooks()
        return done
    finally:
        await reconciler.close()


def open_reconciler(settings: Settings, clocks: Clocks = _CLOCKS) -> Reconciler:
    """The reconciler as it is set up; it must be closed.

    Raises:
        ConfigError: a setting is missing or cannot be used.
    """
    settings.require("redaction.key")
    assert settings.redaction.key is not None
    redactor = Redactor(settings.redaction.key.get_secret_value().encode())
    hooks = _hooks(settings)
    hands = actable(settings, clocks=clocks) if hooks else {}
    url, window = settings.redis.url.get_secret_value(), settings.redis.duplicate_window
    appender = Appender(url, ttl_ms=window // timedelta(milliseconds=1))
    memory = Archive(settings.postgres.url.get_secret_value(), clock=clocks.monotonic, name="guard reconcile")
    doors = reading_doors(settings, clocks)
    chosen = settings.reconcile
    times = Times(chosen.overlap, chosen.grace, chosen.lookback, max(window - _MARGIN, window / 2))
    return Reconciler(
        doors=doors,
        hands=hands,
        looking=Looking(doors, Normaliser(redactor, os.urandom), appender, times, clocks),
        hooks=Hooks(hands, memory, clocks),
        hook_names=hooks,
        named=frozenset(
            Place(api.platform, api.instance, name) for api in settings.platforms.values() for name in api.repositories
        ),
        memory=memory,
        appender=appender,
        client=redis.Redis.from_url(url, socket_timeout=_WATCH_SECONDS, socket_connect_timeout=_WATCH_SECONDS),
        budgets={way: Budget(chosen.requests_per_hour, clocks.monotonic()) for way in doors},
        clocks=clocks,
    )


def _hooks(settings: Settings) -> list[HookName]:
    for name, api in settings.platforms.items():
        if api.hooks and api.act_credential is None:
            raise ConfigError(f"platforms.{name}.hooks: needs an act_credential, which alone may see to webhooks")
    return [HookName(api.platform, api.instance, hook) for api in settings.platforms.values() for hook in api.hooks]


def reading_doors(settings: Settings, clocks: Clocks) -> dict[Way, Door]:
    """A door to each instance that can be read, opened with what reads; each must be closed."""
    doors: dict[Way, Door] = {}
    for name, api in readable(settings):
        headers: Mapping[str, str] = {}
        if api.read_credential is not None:
            credential = Credential(api.read_credential.kind, api.read_credential.value.get_secret_value())
            headers = PLATFORMS[api.platform].login(credential)
        doors[api.platform, api.instance] = opened_door(name, api, headers, clocks)
    return doors


@dataclass(kw_only=True)
class Reconciler:
    """Looks at everything that is due, as often as it is."""

    doors: Mapping[Way, Door]
    hands: Mapping[Way, Hands]
    looking: Looking
    hooks: Hooks
    hook_names: list[HookName]
    named: frozenset[Place]
    memory: Archive
    appender: Appender
    client: redis.Redis
    budgets: Mapping[Way, Budget]
    clocks: Clocks
    at_once: int = 4  # repositories of an instance
    away: bool = False  # no receiver was heard of when last listened for
    last_away: datetime = field(init=False)  # nobody's webhook is blamed for what was missing before
    _places: set[Place] = field(default_factory=set, init=False)  # heard of late
    _heard_at: datetime | None = field(default=None, init=False)
    _gone: frozenset[Place] = field(default=frozenset(), init=False)  # of which their platform knows nothing

    def __post_init__(self) -> None:
        self.last_away = self._now()  # who knows what was before

    async def run(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """Reconcile until `stop` is set; what is under way then is given up, and done again later."""
        tasks = [asyncio.create_task(stop.wait()), asyncio.create_task(self._work(interval_seconds))]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            task.result()

    async def _work(self, interval_seconds: float) -> None:
        everything, visited, looked = True, float("-inf"), float("-inf")
        while True:
            now = self.clocks.monotonic()
            try:
                everything |= await self.watch()
                if everything or now - visited >= interval_seconds:
                    visited = now
                    await self.visit_hooks()
                if everything or now - looked >= interval_seconds / _ROUNDS:
                    looked = now
                    await self.round(interval_seconds=None if everything else interval_seconds)
                    everything = False
            except Unavailable as error:
                _log.warning("the reconciler waits", error=str(error))
            await asyncio.sleep(min(_WATCH_SECONDS, interval_seconds))

    async def watch(self) -> bool:
        """Listen for receivers; whether one is back from having been away.

        Raises:
            Unavailable: Redis is away.
        """
        last_ms = await asyncio.to_thread(last_heartbeat_ms, self.client)
        before, age = self.away, self.clocks.now() - (last_ms or 0) / 1000
        self.away = age > _AWAY_SECONDS
        if self.away:
            self.last_away = self._now()
        if self.away and not before:
            _log.warning("no receiver is heard of", for_seconds=round(age) if last_ms else None)
        if before and not self.away:
            _log.info("a receiver is back: everything is looked at")
        return before and not self.away

    async def round(self, *, since: timedelta | None = None, interval_seconds: float | None = None) -> Round:
        """Look at what was not looked at for `interval_seconds`, or at everything.

        Raises:
            Unavailable: Redis or PostgreSQL is away; what was not looked at is still due.
        """
        now = self._now()
        known = await self.memory.do(reconciled)
        places = {place for place in await self._heard(now) | self.named if place[:2] in self.doors}
        due = [place for place in places if _is_due(known.get(place), now, interval_seconds)]
        due.sort(key=lambda place: (known[place].looked_at if place in known else _NEVER, place))
        start = now - since if since is not None else None
        asking = (self._look_at(way, [p for p in due if p[:2] == way], known, since=start) for way in self.doors)
        looks = await _all_of(asking)
        known |= {look.place: look.reconciled for look in looks}
        self._tell({place: look for place, look in known.items() if place in places}, now)
        return Round(looks, len(due) - len(looks))

    async def _heard(self, now: datetime) -> set[Place]:
        """Where something ran of late."""
        if self._heard_at is None or now - self._heard_at >= _HEAR_EVERY:
            since = self._heard_at - _HEAR_EVERY if self._heard_at is not None else now - _SEEN_OF_LATE
            self._places |= await self.memory.do(partial(seen, since=since))
            self._heard_at = now
        return self._places

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clocks.now(), UTC)

    async def _look_at(
        self, way: Way, due: Sequence[Place], known: Mapping[Place, Reconciled], *, since: datetime | None
    ) -> list[Look]:
        """Look at the places of one instance, a few at once, until it wants to be left alone."""
        looks: list[Look] = []
        budget, door, waiting = self.budgets[way], self.doors[way], iter(due)

        async def one_after_the_other() -> None:
            for place in waiting:
                if door.is_shut() or budget.spent(self.clocks.monotonic()):
                    return
                look = await self.looking.look(place, known.get(place), budget, since=since, last_away=self.last_away)
                await self.memory.do(partial(note, place=place, look=look.reconciled))
                looks.append(look)
                self._note(look)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.at_once):
                group.create_task(one_after_the_other())
        return looks

    def _note(self, look: Look) -> None:
        repository, found, why = look.place.repository, look.reconciled.found, look.reconciled.why
        if found:
            _log.warning("events were missing", repository=repository, found=found)
        if why is not None:
            _log.warning("a platform does not tell what happened", repository=repository, why=why)
        gone = isinstance(look.stop, Refused) and look.stop.refusal is Refusal.NOT_FOUND
        self._gone = self._gone | {look.place} if gone else self._gone - {look.place}

    def _tell(self, known: Mapping[Place, Reconciled], now: datetime) -> None:
        for way, door in self.doors.items():
            own = {place: look for place, look in known.items() if place[:2] == way}
            behind = max(
                (now - look.read_until for place, look in own.items() if place not in self._gone), default=_NOW
            )
            metrics.guard_reconcile_behind_seconds(api=door.name).set(behind.total_seconds())
            silent = sum(look.missed_looks >= SILENT_LOOKS for look in own.values())
            metrics.guard_hooks_silent(api=door.name).set(silent)

    async def visit_hooks(self) -> None:
        """See to the webhooks that the settings name."""
        await visit_all(self.hooks, self.hook_names, listening=not self.away)

    async def close(self) -> None:
        """Close all connections."""
        for door in self.doors.values():
            await door.close()
        for one in self.hands.values():
            await one.close()
        await self.appender.close()
        self.memory.close()
        self.client.close()


async def _all_of(asking: Iterable[Coroutine[Any, Any, list[Look]]]) -> list[Look]:
    """All looks, once all have ended; the first of what was raised."""
    looks: list[Look] = []
    for result in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(result, BaseExceptionGroup):
            raise result.exceptions[0]
        if isinstance(result, BaseException):
            raise result
        looks += result
    return looks


def _is_due(known: Reconciled | None, now: datetime, interval_seconds: float | None) -> bool:
    return known is None or interval_seconds is None or now - known.looked_at >= timedelta(seconds=interval_seconds)
