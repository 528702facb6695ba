"""A world with its APIs, asked without a network: whoever asks is a platform file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.world.api import LIMITS, Api
from benchmarks.world.faults import Chance
from benchmarks.world.log_server import LogServer, Troubled
from benchmarks.world.places import settle
from benchmarks.world.post import Posted
from benchmarks.world.records import Attempt, Clock, Ending, Happening, JobRun
from benchmarks.world.sim import Habits, Outage, World
from benchmarks.world.site import Site
from benchmarks.world.web import Asked
from connectors.platforms import PLATFORMS
from connectors.platforms.acting import Send, Silence, Talk
from connectors.platforms.asking import Reply
from connectors.platforms.platform import Credential
from models.records.calls import RerunFailed, RerunJob, RunState
from models.records.event import PlatformName
from tests.connectors.platforms.acts import Held, hold

CREDENTIALS = {"github": "hub", "gitlab": "lab", "jenkins": "ci:butler", "circleci": "circle"}
_BASES = {"github": "/github", "gitlab": "/gitlab", "jenkins": "/jenkins", "circleci": "/circleci"}
FAILING = (Ending.FAILED, Ending.TIMED_OUT)


class Lab:
    """A world at a time, and its APIs."""

    def __init__(
        self,
        *,
        seed: int = 7,
        habits: Habits | None = None,
        outages: tuple[Outage, ...] = (),
        faults: float = 0.0,
        kinds: tuple[str, ...] = (),
        limits: Mapping[str, tuple[int, float]] = LIMITS,
        credentials: Mapping[str, str] | None = None,
        speed: float = 60.0,
        epoch: float = 1_763_900_000.0,
        repositories: int = 16,
    ) -> None:
        platforms: dict[str, PlatformName] = {
            "hub": "github",
            "lab": "gitlab",
            "butler": "jenkins",
            "circle": "circleci",
        }
        usual = Habits(pushes_per_second=1 / 20, reruns=0.0)
        self.clock = Clock(epoch, speed)
        self.world = World(
            settle(platforms, seed=seed, count=repositories), habits or usual, seed=seed, outages=outages
        )
        self.credentials = dict(credentials or CREDENTIALS)
        self.posted: deque[Posted] = deque()
        self.again: list[Posted] = []
        self.site = Site(self.world, self.clock, self.posted, self.again.append)
        logs = LogServer(self.clock, self.credentials, Troubled(), seed=seed)
        chance = Chance(faults, kinds, seed=seed)
        self.at = 0.0
        self.told: list[Happening] = []
        self.api = Api(self.site, logs, self.credentials, chance, limits=limits, now=self.now)
        self._coming: Iterator[Happening] = self.world.happenings(10**9)
        self._next: Happening | None = None

    def now(self) -> float:
        """Unix seconds."""
        return self.clock.seconds(self.at)

    def go_on(self, seconds: float) -> list[Happening]:
        """Let so much time pass; what happened."""
        until, before = self.at + seconds, len(self.told)
        while self._next is None or self._next.at <= until:
            if self._next is not None:
                self.told.append(self._next)
                self.api.remember(self._next)
            self._next = next(self._coming)
        self.at = until
        return self.told[before:]

    def failed(self, platform: str, **wanted: Any) -> tuple[Attempt, JobRun]:
        """A run of `platform` that ended in its only attempt, and the one job of it that failed, for such a trouble."""
        for _ in range(200):
            for attempts in self.world.attempts.values():
                last = attempts[-1]
                failed = [job for job in last.jobs if job.ending in FAILING]
                if (
                    len(attempts) == 1
                    and last.run.repository.platform == platform
                    and last.ended(self.at)
                    and len(failed) == 1
                    and all(getattr(failed[0].trouble, name) == value for name, value in wanted.items())
                ):
                    return last, failed[0]
            self.go_on(600)
        raise AssertionError(f"no such failure on {platform}")

    def hanging(self, platform: str) -> tuple[Attempt, JobRun]:
        """A job of `platform` that hangs for good, and its run."""
        for _ in range(400):
            for attempts in self.world.attempts.values():
                for job in attempts[-1].jobs:
                    if (
                        attempts[-1].run.repository.platform == platform
                        and job.finished_at is None
                        and job.started_at < self.at
                    ):
                        return attempts[-1], job
            self.go_on(600)
        raise AssertionError(f"nothing hangs on {platform}")

    def hold(self, platform: str, talk: Talk[Any] | None, *, credential: str | None = None) -> Held:
        """Hold a conversation with the API of `platform`."""
        assert talk is not None
        return hold(talk, lambda step: self.ask(platform, step, credential=credential), most=200)

    def act(self, call: Any, *, credential: str | None = None) -> Any:
        """Carry out `call`; how that ended."""
        return self.hold(call.platform, PLATFORMS[call.platform].ask(call), credential=credential).ended

    def look(self, call: Any) -> RunState:
        """How that stands which `call` is about."""
        state = self.hold(call.platform, PLATFORMS[call.platform].look(call)).ended
        assert isinstance(state, RunState), state
        return state

    def ask(
        self, platform: str, step: Send, *, credential: str | None = None, login: Mapping[str, str] | None = None
    ) -> Reply | Silence:
        """The answer to one request."""
        file = PLATFORMS[platform]
        (kind,) = file.logins
        login = login or file.login(Credential(kind, credential or self.credentials[platform]))
        path = step.path if step.up else _BASES[platform] + step.path
        asked = Asked(path, {**step.headers, **login, **file.api_headers}, step.method, step.body)
        answer = self.api.answer(asked)
        if answer.body is None:
            return Silence("no answer", sent=True)
        assert isinstance(answer.body, bytes)
        return Reply(answer.status, answer.headers, self.clock.seconds(self.at), body=answer.body)


def about(attempt: Attempt, job: JobRun | None = None) -> dict[str, Any]:
    """What a call names that is about `attempt`, or `job` of it, as its platform names it."""
    run = attempt.run
    platform, name = run.repository.platform, run.repository.full_name
    named: dict[str, Any] = {"platform": platform, "instance": "main", "repository": name, "pipeline_id": str(run.id)}
    number = None if job is None else str(job.number)
    if platform == "github":
        return {**named, "attempt": attempt.number, "job_id": number}
    if platform == "gitlab":
        return {**named, "job_id": number}
    if platform == "jenkins":
        return {**named, "repository": f"{name}/{run.workflow.name}", "pipeline_id": str(attempt.build)}
    uid = None if job is None else job.uid
    return {**named, "repository": f"gh/{name}", "pipeline_id": run.uid, "workflow_id": attempt.uid, "job_id": uid}


def rerun_of(attempt: Attempt, job: JobRun) -> Any:
    """What the policy would ask for: the job alone where the platform can."""
    kind = RerunJob if attempt.run.repository.platform == "gitlab" else RerunFailed
    return kind(**about(attempt, job if kind is RerunJob else None))
