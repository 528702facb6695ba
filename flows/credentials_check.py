"""Whether the credentials that the settings name may do what they are for, as far as the platforms tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog

from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Stop
from connectors.platforms.rights import Rights
from connectors.postgres_reconcile import Place, seen
from flows import servers
from flows.acting_apis import HEALING, Hands, Way, actable, check_rights, lacked
from flows.checking import Checked
from flows.log_reading import Clocks
from flows.reconcile import reading_doors
from flows.settings import Settings
from models.records.errors import GuardError

_MOST_REPOSITORIES: Final = 3  # of an instance: a credential is as a rule good for all of them or for none
_SEEN_OF_LATE: Final = timedelta(days=14)
_log = structlog.get_logger()
_CLOCKS: Final = Clocks(time.time, time.monotonic)


def check(settings: Settings) -> Iterator[Checked]:
    """Ask each platform what the credentials for it lack, in repositories that are known.

    Raises:
        ConfigError: one that nothing could be asked by as it is set up.
    """
    yield from asyncio.run(_checked(settings, _places(settings)))


async def warn(settings: Settings, hands: Mapping[Way, Hands]) -> None:
    """Log what the credentials that act lack, in some repositories that are known: once, when a healer starts."""
    places = await asyncio.to_thread(_places, settings)
    some = [place for way in hands for place in [one for one in places if one[:2] == way][:_MOST_REPOSITORIES]]
    for line in await check_rights(hands, some):
        _log.warning("a credential lacks something", what=line)


def _places(settings: Settings) -> list[Place]:
    """Repositories to ask about: those that the settings name, and those that were heard of."""
    places = [
        Place(api.platform, api.instance, name) for api in settings.platforms.values() for name in api.repositories
    ]
    with suppress(GuardError), servers.database(settings) as connection:
        places += sorted(seen(connection, servers.ago(_SEEN_OF_LATE)))
    return list(dict.fromkeys(places))


async def _checked(settings: Settings, places: Iterable[Place]) -> list[Checked]:
    hands, doors = actable(settings), reading_doors(settings, _CLOCKS)
    told: list[Checked] = []
    try:
        for name, api in settings.platforms.items():
            way = api.platform, api.instance
            own = [place.repository for place in places if place[:2] == way][:_MOST_REPOSITORIES]
            for repository in own:
                if api.read_credential is not None:
                    talk = PLATFORMS[api.platform].rights(repository, ())
                    told.append(_said(name, "read_credential", repository, await doors[way].hold(talk)))
                if way in hands:
                    told.append(_said(name, "act_credential", repository, await hands[way].rights(repository, HEALING)))
            if not own:
                told.append(Checked("credentials", ok=True, said=f"platforms.{name}: no repository to ask about"))
            if api.act_credential is None:
                said = f"platforms.{name}: no act_credential: nothing is ever done there"
                told.append(Checked("credentials", ok=True, said=said))
    finally:
        for hand in hands.values():
            await hand.close()
        for door in doors.values():
            await door.close()
    return told


def _said(name: str, which: str, repository: str, rights: Rights | Stop) -> Checked:
    lines = lacked(f"platforms.{name}.{which}", repository, rights)
    if lines or not isinstance(rights, Rights):
        return Checked("credentials", ok=False, said="; ".join(lines))
    who = f", as {rights.who}" if rights.who else ""
    until = f", until {rights.expires_at}" if rights.expires_at else ""
    unproven = f"; nobody knows of {', '.join(rights.unproven)} before it is tried" if rights.unproven else ""
    return Checked(
        "credentials", ok=True, said=f"platforms.{name}.{which}: will do in {repository}{who}{until}{unproven}"
    )
