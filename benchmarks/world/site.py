"""What the API side of every platform stands on: the world as it is now, what may be asked, and what was done.

A platform's file is a table of routes. What is in no table is answered 404 and what does not fit its route 422, and
both are counted: nobody should ask such things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from benchmarks.world.post import Posted
from benchmarks.world.records import Attempt, Clock, JobRun, Person, Repository, Run
from benchmarks.world.sim import Again, World
from benchmarks.world.web import Answer, Asked
from models.records.event import PlatformName

GUARD: Final = Person(999, "pipeline-guard", "Pipeline Guard", "guard@users.example.com")
JSON: Final = {"content-type": "application/json"}


class Act(NamedTuple):
    """Something that was done to `attempt` because the API was asked to; `after` is what came of it."""

    at: float
    platform: PlatformName
    what: str  # "rerun" or "cancel"
    target: str  # what of the attempt
    attempt: Attempt
    after: Attempt


class Question(NamedTuple):
    """One request that fits its route: what stands in its path, its query and its body, at a simulated time."""

    at: float
    named: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    headers: Mapping[str, str]


Handler: TypeAlias = Callable[["Site", Question], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked. A name in braces is one part of the path, one that ends in `*` is several.

    `body` names its fields and their kinds, those in `needs` must be there. Names that end in `_id` or `_number` stand
    for whole numbers.
    """

    method: str
    path: str
    handler: Handler
    query: frozenset[str] = frozenset()
    body: Mapping[str, type] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """What stands where the path has names; None where it is another path."""
        return _match(self.path.strip("/").split("/"), parts)

    def fault(self, query: Mapping[str, str], body: object) -> str | None:
        """What does not fit, if anything."""
        unknown = next((name for name in query if name not in self.query), None)
        if unknown is not None or not all(query.get(name, "1").isdigit() for name in ("page", "per_page")):
            return f"query {unknown or 'page'}"
        if not isinstance(body, dict):
            return "body"
        wrong = [name for name, value in body.items() if not isinstance(value, self.body.get(name, _Nothing))]
        return next(iter([*wrong, *(name for name in self.needs if name not in body)]), None)


class _Nothing:
    """Of which no value is."""


def _match(template: list[str], parts: list[str]) -> dict[str, str] | None:
    if not template or not parts:
        return {} if template == parts else None
    name, value = template[0], parts[0]
    if name.endswith("*}"):  # the shortest that fits
        for i in range(1, len(parts) + 1):
            rest = _match(template[1:], parts[i:])
            if rest is not None:
                return {name.strip("{*}"): "/".join(parts[:i]), **rest}
        return None
    if not name.startswith("{"):
        return _match(template[1:], parts[1:]) if name == value else None
    if name.endswith(("_id}", "_number}")) and not value.isdigit():
        return None
    rest = _match(template[1:], parts[1:])
    return None if rest is None else {name.strip("{}"): value, **rest}


@dataclass
class Site:
    """The world, and what people and machines have left in it: comments, issues, caches."""

    world: World
    clock: Clock
    posted: Sequence[Posted]
    redeliver: Callable[[Posted], None]
    acts: list[Act] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    notes: dict[tuple[str, ...], list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._repositories: dict[tuple[PlatformName, str], Repository] = {}
        self._uids: dict[str, Run] = {}
        self._seen: dict[Repository, int] = {}

    def repository(self, platform: PlatformName, name: str) -> Repository | None:
        """That of this name that has had a run."""
        if (platform, name) not in self._repositories:
            self._repositories |= {(one.platform, one.full_name): one for one in self.world.runs}
        return self._repositories.get((platform, name))

    def runs(self, repository: Repository, at: float) -> list[Run]:
        """Those that have begun, the newest first."""
        runs = self.world.runs.get(repository, [])
        return [run for run in reversed(runs) if self.world.attempts[run.id][0].queued_at <= at]

    def attempts(self, run: Run, at: float) -> list[Attempt]:
        """Those of `run` that have begun."""
        return [attempt for attempt in self.world.attempts[run.id] if attempt.queued_at <= at]

    def run(self, repository: Repository | None, number: str, at: float) -> Attempt | None:
        """The newest attempt of a run of `repository`."""
        attempts = self.world.attempts.get(int(number), []) if repository is not None else []
        attempts = [one for one in attempts if one.queued_at <= at and one.run.repository is repository]
        return attempts[-1] if attempts else None

    def job(self, repository: Repository | None, number: str, at: float) -> tuple[Attempt, JobRun] | None:
        """A job of `repository`, by its number, and the attempt that executed it."""
        for run in self.runs(repository, at) if repository is not None else ():
            for attempt in self.attempts(run, at):
                for job in attempt.jobs:
                    if job.number == int(number):
                        return attempt, job
        return None

    def pipeline(self, uid: str, at: float) -> Run | None:
        """A run by its uid."""
        for repository, runs in self.world.runs.items():
            seen = self._seen.get(repository, 0)
            self._uids |= {run.uid: run for run in runs[seen:]}
            self._seen[repository] = len(runs)
        run = self._uids.get(uid)
        return run if run is not None and self.attempts(run, at) else None

    def rerun(self, attempt: Attempt, what: str, at: float) -> Attempt:
        """Run `what` of `attempt` again: it is done, and remembered."""
        new = self.world.rerun(attempt, at, Again(what, GUARD))
        self.acts.append(Act(at, attempt.run.repository.platform, "rerun", what, attempt, new))
        return new

    def cancel(self, attempt: Attempt, at: float, job: JobRun | None = None) -> Attempt:
        """Stop `attempt`, or `job` of it: it is done, and remembered."""
        target = "all" if job is None else str(job.number)
        after = self.world.cancel(attempt, at, job)
        self.acts.append(Act(at, attempt.run.repository.platform, "cancel", target, attempt, after))
        return after

    def head(self, run: Run, at: float) -> str:
        """The newest commit of the branch of `run`."""
        same = (one for one in self.runs(run.repository, at) if one.commit.branch == run.commit.branch)
        return next(same, run).commit.sha


def find(routes: tuple[Route, ...], asked: Asked, at: float) -> tuple[Route, Question] | str:
    """The route that `asked` takes, or what is wrong with it."""
    parts = urlsplit(asked.target)
    names = [unquote(part) for part in parts.path.strip("/").split("/")][1:]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for route in routes:
        named = route.match(names) if route.method == asked.method else None
        if named is not None:
            body = _body(asked)
            fault = route.fault(query, body)
            return fault if fault is not None else (route, Question(at, named, query, dict(body or {}), asked.headers))
    return ""


def _body(asked: Asked) -> dict[str, Any] | None:
    if not asked.body:
        return {}
    if asked.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(asked.body.decode("latin-1"), keep_blank_values=True))
    try:
        value = msgspec.json.decode(asked.body)
    except msgspec.DecodeError:
        return None
    return value if isinstance(value, dict) else None


def said(status: int, body: object, **headers: str) -> Answer:
    """An answer in JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, msgspec.json.encode(body), {**JSON, **named})


def page(things: list[Any], query: Mapping[str, str], *, usual: int = 30) -> list[Any]:
    """The part of `things` that `page` and `per_page` ask for."""
    size = min(int(query.get("per_page", usual)), 100)
    start = (int(query.get("page", 1)) - 1) * size
    return things[start : start + size]
