"""The log endpoints of all four platforms, over the jobs of a world that have ended.

    http://127.0.0.1:PORT/github        as https://api.github.com
    http://127.0.0.1:PORT/gitlab        as https://gitlab.com/api/v4
    http://127.0.0.1:PORT/jenkins       as the root of a Jenkins
    http://127.0.0.1:PORT/circleci      as https://circleci.com
    http://127.0.0.1:PORT/kept/...      where GitHub sends on to, and CircleCI keeps outputs: a credential must not come

Whoever asks must show the platform's credential. A share of the answers may be faults.
"""

from __future__ import annotations

import base64
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.world import log_render
from benchmarks.world.records import Attempt, Clock, Happening, JobRun, What
from benchmarks.world.web import Answer, Asked

_MOST_JOBS: Final = 50_000
_METADATA: Final = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"0123456789abcdef" * 4096


FAULTS: Final[Mapping[str, Callable[[], Answer]]] = {
    "401": lambda: Answer(401, b'{"message":"Bad credentials"}'),
    "403": lambda: Answer(403, b'{"message":"Must have admin rights to Repository."}'),
    "404": lambda: Answer(404, b'{"message":"Not Found"}'),
    "410": lambda: Answer(410, b'{"message":"Gone"}'),
    "429": lambda: Answer(429, b"Retry later\n", {"retry-after": "2"}),
    "500": lambda: Answer(500, b"oops"),
    "slow": lambda: Answer(200, b"late\n", after=60.0),
    "hang_up": lambda: Answer(body=None),
    "endless": lambda: Answer(200, _endless()),
    "metadata": lambda: Answer(302, b"", {"location": _METADATA}),
}
"""What may come in place of an answer, by name."""


@dataclass(frozen=True, slots=True)
class Troubled:
    """How the endpoints behave: every answer comes `seconds` late, and a share of them is one of the `faults`."""

    seconds: float = 0.0
    share: float = 0.0
    faults: tuple[str, ...] = tuple(FAULTS)


class LogServer:
    """Remembers ended jobs, and answers for them. `credentials` are by platform: a token, or user:token."""

    def __init__(self, clock: Clock, credentials: Mapping[str, str], trouble: Troubled, *, seed: int) -> None:
        self._clock = clock
        self._credentials = credentials
        self._trouble = trouble
        self._rng = random.Random(f"log server {seed}")
        self._jobs: OrderedDict[tuple[str, str, str], tuple[Attempt, JobRun]] = OrderedDict()
        self._attempts: OrderedDict[tuple[str, str, str], Attempt] = OrderedDict()
        self.origin = ""  # how it is reached, once that is known
        self.leaks = 0  # credentials that came where none should

    def remember(self, happening: Happening) -> None:
        """Keep what a job that has ended wrote, by the name that its platform's API has for it."""
        job, attempt = happening.job, happening.attempt
        if job is None or happening.what is not What.JOB_FINISHED:
            return
        repository = attempt.run.repository
        names = {
            "github": ("github", repository.full_name, str(job.number)),
            "gitlab": ("gitlab", repository.full_name, str(job.number)),
            "jenkins": ("jenkins", f"{repository.full_name}/{attempt.run.workflow.name}", str(attempt.build)),
            "circleci": ("circleci", f"gh/{repository.full_name}", str(job.number % 10**7)),
        }
        self._jobs[names[repository.platform]] = attempt, job
        if repository.platform == "github":
            self._attempts[repository.full_name, str(attempt.run.id), str(attempt.number)] = attempt
        for kept in (self._jobs, self._attempts):
            while len(kept) > _MOST_JOBS:
                kept.popitem(last=False)

    def answer(self, asked: Asked) -> Answer:
        """What to answer."""
        parts = urlsplit(asked.target)
        platform, _, path = parts.path.lstrip("/").partition("/")
        if platform != "kept" and not self._opens(platform, asked.headers):
            return FAULTS["401"]()
        if platform == "kept" and asked.headers.keys() & {"authorization", "circle-token"}:
            self.leaks += 1
            return Answer(400, b"a credential came along")
        if self._rng.random() < self._trouble.share:
            return FAULTS[self._rng.choice(self._trouble.faults)]()
        found = _ROUTES[platform](self, path.split("/"), parse_qs(parts.query)) if platform in _ROUTES else None
        if found is None:
            return FAULTS["404"]()
        return Answer(found.status, found.body, found.headers, self._trouble.seconds)

    def _opens(self, platform: str, headers: Mapping[str, str]) -> bool:
        secret = self._credentials.get(platform, "")
        login = base64.b64encode(secret.encode()).decode()
        wanted = f"Basic {login}" if platform == "jenkins" else f"Bearer {secret}"
        shown = headers.get("circle-token") if platform == "circleci" else headers.get("authorization")
        return bool(secret) and shown == (secret if platform == "circleci" else wanted)

    def _github(self, path: list[str], _query: Mapping[str, list[str]]) -> Answer | None:
        match path:
            case ["repos", owner, name, "actions", "jobs", number, "logs"]:
                known = ("github", f"{owner}/{name}", number) in self._jobs
                place = f"github/{owner}/{name}/{number}"
            case ["repos", owner, name, "actions", "runs", run, "attempts", number, "logs"]:
                known = (f"{owner}/{name}", run, number) in self._attempts
                place = f"runs/{owner}/{name}/{run}/{number}"
            case _:
                return None
        return Answer(302, b"", {"location": f"{self.origin}/kept/{place}?sig=secret"}) if known else None

    def _gitlab(self, path: list[str], _query: Mapping[str, list[str]]) -> Answer | None:
        match path:
            case ["projects", project, "jobs", number, "trace"]:
                found = self._jobs.get(("gitlab", unquote(project), number))
                return found and _text(log_render.gitlab(*found, self._clock))
        return None

    def _jenkins(self, path: list[str], query: Mapping[str, list[str]]) -> Answer | None:
        *jobs, number, _, _ = path
        found = self._jobs.get(("jenkins", "/".join(map(unquote, jobs[1::2])), number))
        if found is None:
            return None
        text = log_render.jenkins(*found)
        rest = text[int(query["start"][0]) :]
        return Answer(200, rest, {"content-type": "text/plain", "x-text-size": str(len(text))})

    def _circleci(self, path: list[str], _query: Mapping[str, list[str]]) -> Answer | None:
        slug, number = "/".join(path[3:-1]), path[-1]
        found = self._jobs.get(("circleci", slug, number))
        if found is None:
            return None
        body, _ = log_render.circleci(*found, f"{self.origin}/kept/circleci/{slug}/{number}")
        return Answer(200, body, {"content-type": "application/json"})

    def _kept(self, path: list[str], _query: Mapping[str, list[str]]) -> Answer | None:
        match path:
            case ["github", owner, name, number]:
                found = self._jobs.get(("github", f"{owner}/{name}", number))
                return found and _text(log_render.github(*found, self._clock))
            case ["runs", owner, name, run, number]:
                attempt = self._attempts.get((f"{owner}/{name}", run, number))
                return None if attempt is None else Answer(200, log_render.github_archive(attempt, self._clock))
            case ["circleci", *slug, number, output]:
                found = self._jobs.get(("circleci", "/".join(slug), number))
                return found and Answer(200, log_render.circleci(*found, "")[1][int(output)])
        return None


_ROUTES: Final = {
    "github": LogServer._github,  # noqa: SLF001 - its own
    "gitlab": LogServer._gitlab,  # noqa: SLF001
    "jenkins": LogServer._jenkins,  # noqa: SLF001
    "circleci": LogServer._circleci,  # noqa: SLF001
    "kept": LogServer._kept,  # noqa: SLF001
}


def _text(body: bytes) -> Answer:
    return Answer(200, body, {"content-type": "text/plain; charset=utf-8"})
