"""The CI platforms, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from connectors.platforms.circleci import CircleCI
from connectors.platforms.github import GitHub
from connectors.platforms.gitlab import GitLab
from connectors.platforms.jenkins import Jenkins
from connectors.platforms.platform import Platform

PLATFORMS: Final[Mapping[str, Platform]] = {
    platform.name: platform for platform in (GitHub(), GitLab(), Jenkins(), CircleCI())
}
