"""Whom something may be asked of that changes something: a table under [platforms] with an act_credential, no other.

    hands = actable(settings)                                        # by (platform, instance)
    ended = await hands["github", "github.com/acme"].hold(PLATFORMS["github"].ask(call), call.repository)

What acts is not what reads: the two have credentials, connections and breakers of their own, and logs are never read
with this one. A GitHub App is given a token for the one repository and for what the call at hand needs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeAlias, TypeVar

from connectors.holding import MOST_BYTES
from connectors.http import Api, Client, Limits
from connectors.platforms import PLATFORMS, github_app
from connectors.platforms.acting import Stop, Talk
from connectors.platforms.github_app import App, Token
from connectors.platforms.platform import Credential, Platform
from connectors.platforms.rights import Rights
from flows import settings as configured
from flows.doors import Door
from flows.log_reading import Clocks
from flows.settings import Settings
from models.records.calls import Refusal, Refused, Unavailable
from models.records.errors import ConfigError
from models.records.event import PlatformName

HEALING: Final = ("rerun", "rerun_failed", "rerun_job", "cancel")
"""Calls that heal, by the names that they have as JSON."""

_RERUN: Final = ("rerun",)
_LIMITS: Final = Limits(total_seconds=30.0, most_bytes=MOST_BYTES)
_SPARE: Final = timedelta(minutes=5)  # so long before its end a token is used no more
_CLOCKS: Final = Clocks(time.time, time.monotonic)

Way: TypeAlias = tuple[PlatformName, str]
T = TypeVar("T")


class Hands:
    """How one instance of a platform is asked to do something."""

    def __init__(self, name: str, platform: Platform, door: Door, *, app: App | None, clocks: Clocks) -> None:
        self.name = name  # of its table under [platforms]
        self.platform = platform
        self._door = door
        self._app = app
        self._clocks = clocks
        self._tokens: dict[tuple[str, frozenset[str]], Token] = {}

    async def hold(self, talk: Talk[T], repository: str, *, calls: Collection[str] = _RERUN) -> T | Stop:
        """How `talk`, which is about `repository`, ended. `calls` names all that it does, as those calls are as JSON.

        Unavailable, and nothing was asked, where the platform is not asked for now; `retry_after` then says when to
        come again. It has no patience of its own: nothing is tried twice.
        """
        if self._app is None:
            return await self._door.hold(talk)
        key = repository, frozenset(calls)
        known = self._known(key)
        token = known or await self._given(self._app, key)
        if not isinstance(token, Token):
            talk.close()
            return token
        ended = await self._door.hold(talk, {"authorization": f"Bearer {token.value}"})
        if isinstance(ended, Refused) and ended.refusal is Refusal.LOGIN:
            self._tokens.pop(key, None)
            return Unavailable(f"{ended.why}: the token was withdrawn") if known else ended
        return ended

    async def hold_hook(self, talk: Talk[T], hook: str) -> T | Stop:
        """How `talk`, which is about the webhook `hook` (by its address in the API), ended.

        An App sees to its own webhook as itself, and to others with a token for where they are.
        """
        if self._app is None:
            return await self._door.hold(talk)
        where, _, rest = hook.partition("/")
        if where == "app":
            return await self._door.hold(talk, github_app.itself(self._app, self._clocks.now()))
        if where == "orgs":
            return await self.hold(talk, rest.partition("/")[0], calls=("reconcile_organisation",))
        return await self.hold(talk, rest.partition("/hooks/")[0], calls=("reconcile",))

    async def rights(self, repository: str, calls: Collection[str]) -> Rights | Stop:
        """What the credential lacks to do `calls` in `repository`, as far as the platform tells."""
        if self._app is None:
            return await self._door.hold(self.platform.rights(repository, calls))
        return await self._door.hold(github_app.rights(self._app, repository, self._clocks.now(), calls))

    async def close(self) -> None:
        """Close its connections."""
        await self._door.close()

    def _known(self, key: tuple[str, frozenset[str]]) -> Token | None:
        token = self._tokens.get(key)
        return token if token is not None and self._lasts(token) else None

    def _lasts(self, token: Token) -> bool:
        return token.expires_at - _SPARE > datetime.fromtimestamp(self._clocks.now(), UTC)

    async def _given(self, app: App, key: tuple[str, frozenset[str]]) -> Token | Stop:
        """A new token; those that have ended are forgotten."""
        repository, calls = key
        asking = github_app.token(app, repository, self._clocks.now(), github_app.permissions(calls))
        token = await self._door.hold(asking)
        if isinstance(token, Token):
            self._tokens = {known: one for known, one in self._tokens.items() if self._lasts(one)}
            self._tokens[key] = token
        return token


def actable(settings: Settings, *, clocks: Clocks = _CLOCKS) -> dict[Way, Hands]:
    """The instances that may be asked to do something; each must be closed.

    Raises:
        ConfigError: one that nothing could be asked by as it is set up.
    """
    set_up = [(name, api) for name, api in settings.platforms.items() if api.act_credential is not None]
    opened = {(api.platform, api.instance): _opening(name, api) for name, api in set_up}
    return {
        way: Hands(name, PLATFORMS[way[0]], opened_door(f"{name}.act", api, headers, clocks), app=app, clocks=clocks)
        for (way, (headers, app)), (name, api) in zip(opened.items(), set_up, strict=True)
    }


def opened_door(name: str, api: configured.Api, headers: Mapping[str, str], clocks: Clocks) -> Door:
    """The door of `api`, opened with what `headers` hold."""
    platform = PLATFORMS[api.platform]
    reached = Api(
        url=api.url or platform.api or "",
        headers={**platform.api_headers, **headers},
        private=api.private,
        ca_file=api.ca_file,
    )
    limits = Limits(_LIMITS.connect_seconds, _LIMITS.read_seconds, _LIMITS.total_seconds, MOST_BYTES, api.concurrency)
    return Door(name, Client(reached, limits), places=api.concurrency, clocks=clocks)


def _opening(name: str, api: configured.Api) -> tuple[Mapping[str, str], App | None]:
    """What opens an API: the headers of a credential, or an App that is given tokens."""
    credential, platform = api.act_credential, PLATFORMS[api.platform]
    assert credential is not None
    if api.url is None and platform.api is None:
        raise ConfigError(f"platforms.{name}.url: must be set: {api.platform} has no one place where its API is")
    value = credential.value.get_secret_value()
    if credential.kind == "app" and api.platform == "github":
        try:
            return {}, github_app.app(credential.app_id or "", value.encode())
        except ConfigError as error:
            raise ConfigError(f"platforms.{name}.act_credential.value: {error}") from None
    if credential.kind not in platform.logins:
        kinds = " or ".join(sorted(platform.logins | ({"app"} if api.platform == "github" else set())))
        raise ConfigError(f"platforms.{name}.act_credential.kind: {api.platform} takes {kinds}")
    return platform.login(Credential(credential.kind, value)), None


async def check_rights(
    hands: Mapping[Way, Hands], repositories: Iterable[tuple[PlatformName, str, str]], calls: Collection[str] = HEALING
) -> list[str]:
    """What the credentials lack to do `calls` in `repositories` (platform, instance, name): a line for each thing.

    What a platform does not tell is not among it; nor is an instance without hands, where nothing is done anyhow.
    """
    lines: list[str] = []
    for way, found in groupby(sorted(set(repositories)), key=itemgetter(0, 1)):
        for *_, repository in found:
            if way in hands:
                one = hands[way]
                lines += lacked(f"platforms.{one.name}.act_credential", repository, await one.rights(repository, calls))
    return lines


def lacked(key: str, repository: str, rights: Rights | Stop) -> list[str]:
    """What the credential under `key` of the settings lacks in `repository`, in words for who set it up."""
    if isinstance(rights, Rights):
        return [f"{key}: lacks {missing}, in {repository}" for missing in rights.missing]
    if isinstance(rights, Refused):
        why = _REFUSALS.get(rights.refusal, "the platform refuses to say what it may do")
        return [f"{key}: {why}, in {repository} ({rights.why})"]
    return [f"{key}: nobody knows what it may do in {repository}: no answer ({rights.why})"]


_REFUSALS: Final = {
    Refusal.LOGIN: "the platform does not take it",
    Refusal.PERMISSION: "it may not be used there",
    Refusal.NOT_FOUND: "there is no such repository, or it does not see it",
    Refusal.MOVED: "the API is somewhere else than platforms.*.url says",
}
