"""Which APIs logs can be read from, as the settings have them."""

from __future__ import annotations

from collections.abc import Iterator

from connectors.platforms import PLATFORMS
from flows.settings import Api, Settings
from models.records.errors import ConfigError


def readable(settings: Settings) -> Iterator[tuple[str, Api]]:
    """The tables under [platforms] by which logs can be read.

    Raises:
        ConfigError: one that nothing could be asked by as it is set up.
    """
    for name, api in settings.platforms.items():
        platform = PLATFORMS[api.platform]
        if api.url is None and platform.api is None:
            raise ConfigError(f"platforms.{name}.url: must be set: {api.platform} has no one place where its API is")
        credential = api.read_credential
        if credential is not None and credential.kind not in platform.logins:
            kinds = " or ".join(sorted(platform.logins))
            raise ConfigError(f"platforms.{name}.read_credential.kind: {api.platform} takes {kinds}")
        if credential is not None or platform.anonymous_logs:
            yield name, api
