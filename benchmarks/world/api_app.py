"""A GitHub App in this world: it proves itself, and is given tokens that open one repository each.

https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app. Its assertion is read and not
verified: that needs its key, which the world has not got; that it is signed right is tested where it is made.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.world.api_github import refused
from benchmarks.world.site import Site, said
from benchmarks.world.web import Answer, Asked

PERMISSIONS: Final = {
    "actions": "write",
    "contents": "read",
    "issues": "write",
    "metadata": "read",
    "pull_requests": "write",
    "repository_hooks": "write",
    "organization_hooks": "write",
}
_LIVES_SECONDS: Final = 3600.0
_ASSERTION_SECONDS: Final = 600
_INSTALLATION: Final = 77
_LEVELS: Final = ("read", "write")


class Token(NamedTuple):
    """What a token opens, and until when (Unix seconds); no repositories: all of them."""

    repositories: frozenset[str]
    permissions: Mapping[str, str]
    ends: float


class Apps:
    """The App `identity` and the tokens that it was given; none where there is no App."""

    def __init__(self, identity: str | None, site: Site, now: Callable[[], float]) -> None:
        self.given: dict[str, Token] = {}
        self._identity = identity
        self._site = site
        self._now = now

    def answer(self, asked: Asked, shown: str) -> Answer | None:
        """The answer to what only an App asks; None to all else."""
        path = asked.target.partition("?")[0].removeprefix("/github")
        if not path.endswith(("/installation", "/access_tokens")):
            return None
        if not self._proven(shown):
            return refused(401, "A JSON web token could not be decoded")
        if path.endswith("/installation"):
            _, where, name = path.removesuffix("/installation").split("/", 2)
            known = where == "orgs" or self._site.repository("github", name) is not None
            told = {"id": _INSTALLATION, "app_slug": "pipeline-guard", "permissions": PERMISSIONS}
            return said(200, told) if known else refused(404, "Not Found")
        return self._give(asked)

    def turned_away(self, asked: Asked, shown: str) -> Answer | None:
        """How the bearer of a token is turned away from what it does not open."""
        token = self.given[shown]
        if self._now() >= token.ends:
            return refused(401, "Bad credentials")
        parts = asked.target.partition("?")[0].split("/")
        if token.repositories and "/".join(parts[3:5]) not in token.repositories:
            return refused(404, "Not Found")
        area = {"issues": "issues", "hooks": "repository_hooks"}.get(next(iter(parts[5:]), ""), "actions")
        level = "write" if asked.method not in {"GET", "HEAD"} else "read"
        if level not in _LEVELS[: 1 + _LEVELS.index(token.permissions.get(area, "read"))]:
            answer = refused(403, "Resource not accessible by integration")
            return Answer(403, answer.body, {**answer.headers, "x-accepted-github-permissions": f"{area}={level}"})
        return None

    def _proven(self, shown: str) -> bool:
        try:
            claims = msgspec.json.decode(base64.urlsafe_b64decode(shown.split(".")[1] + "=="), type=dict[str, Any])
        except (IndexError, ValueError, msgspec.MsgspecError):
            return False
        lives = self._now() < claims.get("exp", 0) <= self._now() + _ASSERTION_SECONDS
        return self._identity is not None and claims.get("iss") == self._identity and lives

    def _give(self, asked: Asked) -> Answer:
        wanted = msgspec.json.decode(asked.body or b"{}", type=dict[str, Any])
        permissions = wanted.get("permissions", PERMISSIONS)
        if any(
            level not in _LEVELS[: 1 + _LEVELS.index(PERMISSIONS.get(name, "read"))]
            for name, level in permissions.items()
        ):
            return refused(422, "The permissions requested are not granted to this installation.")
        ones = [repository for repository in self._site.world.runs if repository.name in wanted.get("repositories", [])]
        if len(ones) != len(wanted.get("repositories", [])):
            return refused(422, "There is at least one repository that does not exist or is not accessible.")
        value, ends = f"ghs_world{len(self.given)}", self._now() + _LIVES_SECONDS
        self.given[value] = Token(frozenset(one.full_name for one in ones), permissions, ends)
        told = {"token": value, "expires_at": datetime.fromtimestamp(ends, UTC).isoformat(), "permissions": permissions}
        return said(201, {**told, "repositories": [{"full_name": one.full_name} for one in ones]})
