"""What an action is: it says what to ask for, and does nothing.

An action is data (what it heals, how far it reaches, how often it may be done, what undoes it, how one sees that it
helped) and two pure functions: whether it is for a case, and the calls that make it, which are inert. `decide` and the
shard's errands choose among them by the policy; whoever carries a call out knows no action.

Several calls are carried out in order, the next only after the one before it is done.

To add one: a file in this folder with one class. Nothing is registered. docs/actions.md has the table of those there
are; tests/contracts/test_actions.py tries each with its own examples.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar, Final, NamedTuple

from models.records.calls import Call, RerunFailed, RerunJob
from models.records.event import Outcome, PlatformName

FAILURE: Final = "failure"
"""What reruns heal: a failed run attempt whose cause is transient."""
GIVEN_UP: Final = "given up"
"""A run attempt that failed though we had it run again, and that is left alone now."""


class Reach(StrEnum):
    """How far it reaches: what is touched if it was wrong."""

    JOB = "job"
    RUN = "run"
    REPOSITORY = "repository"
    PEOPLE = "people"


class Found(NamedTuple):
    """The finding that a case is about. What is about no job has no names."""

    detector: str
    message: str
    occurrences: int
    workflow: str | None = None
    job_name: str | None = None
    outcome: Outcome | None = None  # of a job that is stuck: whether it waits or runs
    test: str | None = None  # the one test that the logs of its failures name


class Given(NamedTuple):
    """What is to be told of a run attempt that is left alone."""

    jobs: tuple[str, ...]
    attempt: int
    cause: str | None
    fix: str | None
    url: str | None


class Case(NamedTuple):
    """What an action looks at: a run attempt with what failed of it, or a finding with the run that proves it."""

    platform: PlatformName
    instance: str
    repository: str
    pipeline_id: str  # empty where no run proves a finding
    workflow_id: str | None = None
    attempt: int = 1
    rerun_after: str | None = None  # "job" or "run": what must have ended before the platform takes a rerun
    job_ids: tuple[str | None, ...] = ()  # of what failed, or is stuck
    asked: frozenset[str] = frozenset()  # the actions that the signatures of the failed jobs name
    signature: str | None = None
    commit_sha: str | None = None
    found: Found | None = None
    given: Given | None = None
    case_id: str = ""
    owner: str = ""
    hours: int = 0  # for which a quarantine is to last

    @property
    def alone(self) -> bool:
        """Whether the failed jobs can be run again by themselves."""
        return self.rerun_after == "job" and bool(self.job_ids) and None not in self.job_ids

    @property
    def run(self) -> dict[str, Any]:
        """The run attempt, as calls name it."""
        return {name: getattr(self, name) for name in _RUN}


_RUN: Final = ("platform", "instance", "repository", "pipeline_id", "workflow_id", "attempt")


@dataclass(frozen=True, slots=True)
class Action:
    """Base of all actions.

    name           as decisions, signatures and the operator's rules call it
    heals          FAILURE, GIVEN_UP, or names of detectors whose findings it answers; of several actions that are for
                   a case the one with the least number is taken. A failure's signature may name one, which comes first
    platforms      where it can be carried out
    reach          how far it reaches
    cooldown       how long after it the same finding, or the same job, is let alone
    most_per_run   how often it is done for one job of a run at most; None: as act.limits has it
    most_per_day   how often for one job of a repository, or for the repository where it is about no job; likewise
    suggest_only   it is never done without a person's yes
    waits          it waits as after an outage, `policy.outage_backoff_seconds`, and not as after a hiccup
    undone_by      what takes it back
    verified_by    how one sees that it helped
    """

    name: ClassVar[str]
    heals: ClassVar[Mapping[str, int]]
    platforms: ClassVar[frozenset[PlatformName]] = frozenset({"github", "gitlab", "jenkins", "circleci"})
    reach: ClassVar[Reach]
    cooldown: ClassVar[timedelta]
    most_per_run: ClassVar[int | None] = 1
    most_per_day: ClassVar[int | None]
    suggest_only: ClassVar[bool] = False
    waits: ClassVar[bool] = False
    undone_by: ClassVar[str]
    verified_by: ClassVar[str]
    FIRES: ClassVar[Sequence[tuple[Case, tuple[str, ...]]]]  # with the calls that it makes
    SILENT: ClassVar[Sequence[Case]]

    def fits(self, case: Case) -> bool:  # noqa: ARG002 - those that are for everything need not look
        """Whether its preconditions hold; that it is on and can be carried out is seen to."""
        return True

    @abstractmethod
    def calls(self, case: Case) -> tuple[Call, ...]:
        """What is to be asked for, in order; never nothing."""


def reruns(case: Case) -> tuple[Call, ...]:
    """The calls that run once more what failed: the jobs by themselves where the platform can."""
    if not case.alone:
        return (RerunFailed(**case.run),)
    return tuple(RerunJob(**case.run, job_id=job_id) for job_id in sorted(filter(None, case.job_ids)))


@lru_cache(1)
def found() -> Mapping[str, Action]:
    """Every action in this folder by its name, in order of name."""
    package = importlib.import_module("analytics.actions")
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, "analytics.actions.")]
    classes = {
        item
        for module in modules
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Action) and item is not Action
    }
    return {cls.name: cls() for cls in sorted(classes, key=lambda cls: cls.name)}


@lru_cache(256)
def healing(what: str) -> tuple[Action, ...]:
    """The actions that heal `what`, the one to be preferred first."""
    return tuple(sorted((a for a in found().values() if what in a.heals), key=lambda a: (a.heals[what], a.name)))
