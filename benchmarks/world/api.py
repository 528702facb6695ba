"""The APIs of all four platforms, over a world that goes on: what is run again there runs, and is told as usual.

    http://127.0.0.1:PORT/github        as https://api.github.com
    http://127.0.0.1:PORT/gitlab        as https://gitlab.com/api/v4, and /graphql as what stands beside that
    http://127.0.0.1:PORT/jenkins       as the root of a Jenkins
    http://127.0.0.1:PORT/circleci      as https://circleci.com
    http://127.0.0.1:PORT/world/truth   how well it was done: see truth.py

Logs are had from the same addresses (log_server.py). Credentials are by platform; where there is one under
`PLATFORM.act` too, only that one may change something. Under `jenkins.password` a login that needs a crumb may stand,
under `github.app` the id of a GitHub App, which then acts beside or in place of `github.act` (api_app.py).
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from benchmarks.world import api_app, api_circleci, api_github, api_gitlab, api_jenkins, truth
from benchmarks.world.faults import Chance
from benchmarks.world.log_server import LogServer
from benchmarks.world.records import Happening
from benchmarks.world.site import Route, Site, find, said
from benchmarks.world.web import Answer, Asked

_ROUTES: Final[Mapping[str, tuple[Route, ...]]] = {
    "github": api_github.ROUTES,
    "gitlab": api_gitlab.ROUTES,
    "jenkins": api_jenkins.ROUTES,
    "circleci": api_circleci.ROUTES,
}
_REFUSED: Final[Mapping[str, Callable[[int, str], Answer]]] = {
    "github": api_github.refused,
    "gitlab": api_gitlab.refused,
    "jenkins": api_jenkins.refused,
    "circleci": api_circleci.refused,
}
_FORBIDDEN: Final = {
    "github": "Resource not accessible by personal access token",
    "gitlab": "Forbidden",
    "jenkins": "pipeline-guard is missing the Job/Build permission",
    "circleci": "Permission denied",
}
_READING: Final = frozenset({"GET", "HEAD"})
_LOGS: Final = ("/logs", "/trace", "/logText/progressiveText")
LIMITS: Final = {"github": (5000, 3600.0), "gitlab": (2000, 60.0), "circleci": (3000, 60.0)}
"""How many requests a platform takes in how many seconds; a Jenkins takes what comes."""


class Api:
    """Answers for all platforms."""

    def __init__(
        self,
        site: Site,
        logs: LogServer,
        credentials: Mapping[str, str],
        chance: Chance,
        *,
        limits: Mapping[str, tuple[int, float]] = LIMITS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.site = site
        self.faults: Counter[str] = Counter()
        self._logs = logs
        self._credentials = credentials
        self._chance = chance
        self._limits = limits
        self._now = now
        self._apps = api_app.Apps(credentials.get("github.app"), site, now)
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def remember(self, happening: Happening) -> None:
        """Keep what is needed of `happening` for its log."""
        self._logs.remember(happening)

    def answer(self, asked: Asked) -> Answer:
        """What to answer."""
        path = asked.target.partition("?")[0]
        platform = path.strip("/").partition("/")[0]
        at = self.site.clock.at(self._now())
        if path == "/world/truth":
            return said(200, truth.counts(self.site, at))
        if platform == "graphql":
            platform, asked = "gitlab", asked._replace(target="/gitlab/graphql")
        if platform not in _ROUTES or path.endswith(_LOGS) or "/api/v1.1/" in path:
            return self._logs.answer(asked)
        return self._closed(platform, asked) or self._limited(platform, asked) or self._done(platform, asked, at)

    def _done(self, platform: str, asked: Asked, at: float) -> Answer:
        found = find(_ROUTES[platform], asked, at)
        if isinstance(found, str):
            self.site.invalid.append(f"{platform} {asked.method} {asked.target}: {found or 'no such thing'}")
            return _REFUSED[platform](422 if found else 404, f"{found} is not as described" if found else "Not Found")
        drawn = self._chance.draw()
        if drawn is not None:
            name, fault = drawn
            self.faults[name] += 1
            if fault.done:
                found[0].handler(self.site, found[1])
            return fault.answer()
        answer = found[0].handler(self.site, found[1])
        return replace(answer, headers={**self._headers(platform, asked), **answer.headers})

    def _closed(self, platform: str, asked: Asked) -> Answer | None:
        """How somebody is turned away who does not show the right credential."""
        shown = _shown(platform, asked.headers)
        if platform == "github" and shown in self._apps.given:
            return self._apps.turned_away(asked, shown)
        if platform == "github" and (told := self._apps.answer(asked, shown)) is not None:
            return told
        reads, acts = self._credentials.get(platform), self._credentials.get(f"{platform}.act")
        password = self._credentials.get("jenkins.password") if platform == "jenkins" else None
        if not shown or shown not in {reads, acts, password}:
            return _REFUSED[platform](401, "Bad credentials")
        if asked.method not in _READING and acts is not None and shown == reads:
            answer = _REFUSED[platform](403, _FORBIDDEN[platform])
            return replace(answer, headers={**answer.headers, "x-accepted-github-permissions": "actions=write"})
        if asked.method not in _READING and shown == password and not _has_crumb(asked.headers):
            return api_jenkins.no_crumb()
        return None

    def _limited(self, platform: str, asked: Asked) -> Answer | None:
        """Count a request; how it is turned away where there were too many."""
        if platform not in self._limits:
            return None
        most, seconds = self._limits[platform]
        key, now = (platform, _shown(platform, asked.headers)), self._now()
        began, used = self._windows.get(key, (now, 0))
        began, used = (now, 0) if now >= began + seconds else (began, used)
        self._windows[key] = began, used + 1
        if used < most:
            return None
        if platform == "github":
            answer = api_github.refused(403, "API rate limit exceeded for user ID 999.")
            return replace(answer, headers={**answer.headers, **self._headers(platform, asked)})
        wait = str(max(1, round(began + seconds - now)))
        return Answer(429, b"Retry later\n", {"content-type": "text/plain", "retry-after": wait})

    def _headers(self, platform: str, asked: Asked) -> dict[str, str]:
        """What a platform's answers carry besides."""
        if platform == "jenkins":
            return {"x-jenkins": "2.516.3"}
        if platform != "github":
            return {}
        most, seconds = self._limits["github"]
        began, used = self._windows[platform, _shown(platform, asked.headers)]
        return {
            "x-ratelimit-limit": str(most),
            "x-ratelimit-remaining": str(max(0, most - used)),
            "x-ratelimit-used": str(min(used, most)),
            "x-ratelimit-reset": str(round(began + seconds)),
            "x-ratelimit-resource": "core",
        }


def _shown(platform: str, headers: Mapping[str, str]) -> str:
    """The credential that came."""
    login = headers.get("authorization", "")
    if platform == "jenkins":
        try:
            return base64.b64decode(login.removeprefix("Basic "), validate=True).decode()
        except ValueError:
            return ""
    own = headers.get({"circleci": "circle-token", "gitlab": "private-token"}.get(platform, ""), "")
    return own or login.removeprefix("Bearer ")


def _has_crumb(headers: Mapping[str, str]) -> bool:
    return headers.get("jenkins-crumb") == api_jenkins.CRUMB and api_jenkins.SESSION in headers.get("cookie", "")
