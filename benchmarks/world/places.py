"""Who lives in the world: repositories with their workflows, jobs and people, all from the seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from benchmarks.world.records import Job, Person, Repository, Role, Step, Workflow, guid
from models.records.event import PlatformName

_NAMES: Final = ("billing", "ledger", "router", "atlas", "beacon", "harbor", "quartz", "lumen", "cobalt", "otter")
_KINDS: Final = ("api", "web", "core", "cli", "worker", "sdk", "infra", "docs")
_OWNERS: Final = ("octo-works", "northwind-labs", "blue-harbor", "acme-apps")
_PEOPLE: Final = ("Ada", "Grace", "Linus", "Barbara", "Edsger", "Margaret", "Ken", "Radia", "Donald", "Frances")
_FAMILIES: Final = ("Moreau", "Okafor", "Lindqvist", "Tanaka", "Silva", "Novak")

_WORDS: Final[dict[str, dict[Role, tuple[str, ...]]]] = {
    "python": {
        "setup": ("Run actions/setup-python@v5", "Set up Python"),
        "deps": ("Install dependencies", "Run pip install -r requirements.txt", "Sync environment"),
        "lint": ("Run ruff check .", "Lint", "Check formatting"),
        "test": ("Run pytest -q", "Run tests", "Unit tests"),
        "build": ("Build wheel", "Build", "Run python -m build"),
    },
    "javascript": {
        "setup": ("Run actions/setup-node@v4", "Set up Node.js"),
        "deps": ("Run npm ci", "Install dependencies", "Run yarn install --frozen-lockfile"),
        "lint": ("Run npm run lint", "Run eslint .", "Lint"),
        "test": ("Run npm test", "Run tests", "End-to-end tests"),
        "build": ("Run npm run build", "Build", "Bundle"),
    },
    "go": {
        "setup": ("Run actions/setup-go@v5", "Set up Go"),
        "deps": ("Run go mod download", "Download modules"),
        "lint": ("Run golangci-lint run", "Lint"),
        "test": ("Run go test ./...", "Run tests", "Integration tests"),
        "build": ("Run go build ./...", "Build", "Compile"),
    },
    "java": {
        "setup": ("Run actions/setup-java@v4", "Set up JDK 21"),
        "deps": ("Resolve dependencies", "Run mvn dependency:go-offline"),
        "lint": ("Run mvn checkstyle:check", "Check style"),
        "test": ("Run mvn test", "Unit tests", "Verify"),
        "build": ("Run mvn compile", "Build", "Package"),
    },
}


def settle(sources: Mapping[str, PlatformName], *, seed: int, count: int) -> tuple[Repository, ...]:
    """`count` repositories shared out evenly among `sources` (name to platform)."""
    names = sorted(sources)
    made = []
    for i in range(count):
        source = names[i % len(names)]
        made.append(_repository(random.Random(f"place {seed} {i}"), source, sources[source], i))
    return tuple(made)


def _repository(rng: random.Random, source: str, platform: PlatformName, index: int) -> Repository:
    language = rng.choice(sorted(_WORDS))
    name = f"{rng.choice(_NAMES)}-{rng.choice(_KINDS)}-{index}"
    people = tuple(_person(rng, i) for i in range(rng.randint(2, 5)))
    return Repository(
        source=source,
        platform=platform,
        owner=rng.choice(_OWNERS),
        name=name,
        number=rng.randint(10**7, 10**9),
        uid=guid("repository", source, name),
        default_branch=rng.choice(("main", "main", "master")),
        language=language,
        workflows=_workflows(rng, platform, language),
        people=people,
    )


def _person(rng: random.Random, index: int) -> Person:
    first, last = rng.choice(_PEOPLE), rng.choice(_FAMILIES)
    login = f"{first.lower()}-{last.lower()}-{index}"
    return Person(rng.randint(10**5, 10**8), login, f"{first} {last}", f"{login}@users.example.com")


def _workflows(rng: random.Random, platform: PlatformName, language: str) -> tuple[Workflow, ...]:
    words = {role: rng.choice(names) for role, names in _WORDS[language].items()}
    jobs = _Jobs(rng, platform, words)
    lint = jobs.make("lint", "test", ("deps", "lint"), 30)
    versions = rng.choice(((), ("1", "2"), ("stable", "next")))
    tests = tuple(jobs.make(f"test ({v})", "test", ("deps", "test"), 90) for v in versions) or (
        jobs.make("test", "test", ("deps", "test"), 90),
    )
    build = jobs.make("build", "build", ("deps", "build"), 70)
    image = jobs.make("image", "build", ("build", "image"), 80)
    deploy = jobs.make("deploy", "deploy", ("deploy",), 40, environment="production")
    if platform == "jenkins":
        whole = jobs.make("pipeline", "pipeline", ("deps", "lint", "build", "test", "image"), 180)
        nightly = jobs.make("nightly", "pipeline", ("deps", "build", "test"), 150)
        return tuple(Workflow(rng.randint(10**5, 10**8), job.name, ((job,),)) for job in (whole, nightly))
    stages = ((lint, *tests), rng.choice(((build, image), (build,))), (deploy,))
    ci = Workflow(rng.randint(10**5, 10**8), rng.choice(("CI", "ci", "Continuous integration")), stages)
    if platform == "gitlab" or rng.choice((True, False)):
        return (ci,)
    checks = jobs.make("integration", "test", ("deps", "image", "test"), 110)
    return ci, Workflow(rng.randint(10**5, 10**8), "Integration", ((checks,),))


class _Jobs:
    """Makes jobs in the words of one repository."""

    def __init__(self, rng: random.Random, platform: PlatformName, words: Mapping[Role, str]) -> None:
        self._rng = rng
        self._platform = platform
        self._words = {"image": "Build and push image", "deploy": "Deploy to production", **words}
        self._labels = (rng.choice(("ubuntu-latest", "ubuntu-24.04", "self-hosted")),)

    def make(
        self, name: str, stage: str, roles: tuple[Role, ...], seconds: float, *, environment: str | None = None
    ) -> Job:
        rng = self._rng
        steps = [Step("Set up job", "setup"), Step("Run actions/checkout@v4", "checkout")]
        steps += [Step(self._words["setup"], "setup")] if "deps" in roles else []
        steps += [Step(self._words[role], role) for role in roles]
        steps += [Step("Post Run actions/checkout@v4", "end"), Step("Complete job", "end")]
        flaky = "test" in roles and rng.choice((True, False))
        return Job(
            name=name,
            stage=stage,
            steps=tuple(steps),
            seconds=seconds * rng.uniform(0.6, 1.6),
            flakiness=rng.uniform(0.05, 0.3) if flaky else 0.0,
            labels=self._labels,
            environment=environment,
        )
