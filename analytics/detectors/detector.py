"""What a detector is: a pure function of the recent events of one key.

A detector names what it groups by, which outcomes it wants to see and for how long; the shard keeps the history, calls
`judge` whenever one changes, compares the answer with the last one and emits raised, changed or cleared. There is no
state, clock, log or I/O in a detector, so arrival order, replay and changed parameters need no care.

To add one: a file in this folder with one class. Nothing is registered. Parameters are the dataclass's fields; the
rulebook overrides them by class name.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, NamedTuple

from models.records.duration import duration
from models.records.errors import ConfigError
from models.records.event import Outcome


class Seen(NamedTuple):
    """One event as a history keeps it; sorted by event time, then id."""

    at_ms: int
    id: str
    outcome: Outcome
    commit_sha: str | None
    pipeline_id: str
    attempt: int
    case_key: str = ""


class Finding(NamedTuple):
    """What a detector found: when it began and last happened, the events that prove it, and a sentence for people."""

    first_ms: int
    last_ms: int
    occurrences: int
    events: tuple[str, ...]
    message: str


Field = Literal["repository", "workflow", "job_name", "pipeline_id", "workflow_id", "attempt", "job_id"]
JOB: Final[tuple[Field, ...]] = ("repository", "workflow", "job_name")
"""A job as it comes again in every run."""
JOB_RUN: Final[tuple[Field, ...]] = ("repository", "pipeline_id", "workflow_id", "attempt", "job_id")
"""One execution of a job."""


@dataclasses.dataclass(frozen=True, slots=True)
class Detector:
    """Base of all detectors.

    by       what one history is about: JOB, or JOB_RUN for what is found by absence
    sees     the outcomes that enter the history
    within   how long an event stays in it, behind stream time

    A history of JOB begins with a failure: what passes is kept only where the same job failed before it, or fails
    within the shard's bound for disorder after it. A history of JOB_RUN begins with a start and ends with any end.
    """

    by: ClassVar[tuple[Field, ...]] = JOB
    sees: ClassVar[frozenset[Outcome]]
    within: timedelta = timedelta(hours=1)
    FIRES: ClassVar[Sequence[Sequence[Seen]]]
    SILENT: ClassVar[Sequence[Sequence[Seen]]]

    @abstractmethod
    def judge(self, history: Sequence[Seen], at_ms: int) -> Finding | None:
        """What is to be said of `history` at stream time `at_ms`, or None.

        `history` is sorted by event time and id, holds only outcomes that this detector sees, and is never empty.
        """

    def due(self, history: Sequence[Seen], usual_ms: int | None) -> int | None:
        """When to ask again though nothing happens (Unix ms), for what is found by absence; None: never.

        `usual_ms` is the 95th percentile of this job's durations, where enough are known.
        """
        return None


def found() -> tuple[type[Detector], ...]:
    """Every detector in this folder, in order of name."""
    return _walk()


@lru_cache(1)
def _walk() -> tuple[type[Detector], ...]:
    package = importlib.import_module("analytics.detectors")
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, "analytics.detectors.")]
    classes = [
        item
        for module in modules
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Detector) and item is not Detector
    ]
    return tuple(sorted(classes, key=lambda c: c.__name__))


def configured(parameters: Mapping[str, Mapping[str, Any]]) -> tuple[Detector, ...]:
    """Every detector with its parameters as the rulebook overrides them, in order of name.

    Raises:
        ConfigError: no such detector or parameter, or a value of another type; the key is named.
    """
    classes = {c.__name__: c for c in found()}
    unknown = sorted(set(parameters) - set(classes))
    if unknown:
        raise ConfigError(f"detectors.{unknown[0]}: no such detector; there are {', '.join(classes)}")
    return tuple(_made(cls, parameters.get(name, {})) for name, cls in classes.items())


_READ: Final[Mapping[Any, Callable[[Any], Any]]] = {timedelta: duration}


def _made(cls: type[Detector], given: Mapping[str, Any]) -> Detector:
    if not isinstance(given, Mapping):
        raise ConfigError(f"detectors.{cls.__name__}: expected a table of parameters")
    fields = {f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls)}
    values = {}
    for name, value in given.items():
        where = f"detectors.{cls.__name__}.{name}"
        if name not in fields:
            raise ConfigError(f"{where}: no such parameter; there are {', '.join(fields)}")
        kind = type(fields[name])
        try:
            values[name] = _READ.get(kind, lambda v: v)(value)
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{where}: {error}") from None
        if type(values[name]) is not kind:
            raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return cls(**values)


def milliseconds(span: timedelta) -> int:
    """`span` in whole milliseconds."""
    return span // timedelta(milliseconds=1)
