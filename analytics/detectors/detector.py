"""What a detector is: a pure function of what is remembered of one key.

There are three kinds. A `Detector` judges a history: single events of one key, sorted by event time and id. An
`AbsenceDetector` judges what has begun and does not end. A `ProfileDetector` judges counts by hour or by ten minutes,
and by day, for what single events are too many to remember. The shard keeps all of it, asks whenever one changes,
compares the answer with the last one and emits raised, changed or cleared. There is no state, clock, log or I/O in a
detector, so arrival order, replay and changed parameters need no care.

To add one: a file in this folder with one class. Nothing is registered. Parameters are the dataclass's fields; the
rulebook overrides them by class name. docs/detectors.md shows it step by step.
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

import msgspec

from models.records.duration import duration
from models.records.errors import ConfigError
from models.records.event import Outcome


class Seen(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """One event as a history keeps it; sorted by event time, then id. Snapshots hold it as an array."""

    at_ms: int
    id: str
    outcome: Outcome
    commit_sha: str | None
    pipeline_id: str
    attempt: int
    case_key: str = ""
    main: bool = False  # on the default branch
    signature: str | None = None  # of a failure, as it is explained now
    category: str | None = None
    runner: str | None = None


class History(list[Seen]):
    """The events of one key, sorted by event time and id, and since when failures of its repository are known."""

    __slots__ = ("_ids", "known_since_ms")

    def __init__(self, seen: Sequence[Seen] = (), known_since_ms: int = 0) -> None:
        """Hold `seen`, which is sorted."""
        super().__init__(seen)
        self.known_since_ms = known_since_ms
        self._ids: frozenset[str] | None = None

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the events."""
        if self._ids is None:
            self._ids = frozenset([seen.id for seen in self])
        return self._ids


class Counts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Job runs that ended in one stretch of event time. Snapshots hold it as an array.

    `durations` and `queues` are how many took how long, and waited how long, by bucket: bucket b holds what lies in
    [2**(b/4), 2**((b+1)/4)) seconds, so that a median is known to a fifth. Waiting is not known of all.
    """

    at_ms: int  # the beginning of the stretch
    passed: int = 0
    failed: int = 0
    other: int = 0  # cancelled, skipped, unstable
    reruns: int = 0  # of all these, those with an attempt above the first
    durations: Mapping[int, int] = {}
    queues: Mapping[int, int] = {}


class Profile(NamedTuple):
    """What is remembered of one key as counts, oldest first; stretches in which nothing ended are left out.

    recent   of a job the last 24 hours by the hour, of a repository the last 8 hours by ten minutes
    days     the 28 days before today, and today as far as it is known, by day of UTC
    """

    recent: Sequence[Counts]
    days: Sequence[Counts]


class Finding(NamedTuple):
    """What a detector found: when it began and last happened, the events that prove it, and a sentence for people.

    `events` may be empty only for what a profile shows; the finding is then named after its beginning.
    """

    first_ms: int
    last_ms: int
    occurrences: int
    events: tuple[str, ...]
    message: str


Field = Literal[
    "repository", "workflow", "job_name", "pipeline_id", "workflow_id", "attempt", "job_id", "signature", "labels"
]
REPOSITORY: Final[tuple[Field, ...]] = ("repository",)
JOB: Final[tuple[Field, ...]] = ("repository", "workflow", "job_name")
"""A job as it comes again in every run."""
SIGNATURE: Final[tuple[Field, ...]] = ("repository", "signature")
"""Failures of one cause. A failure whose cause is not known is in no such history."""
LABELS: Final[tuple[Field, ...]] = ("repository", "labels")
"""Runners with the same labels: failures on them, or the jobs that wait for one."""
JOB_RUN: Final[tuple[Field, ...]] = ("repository", "pipeline_id", "workflow_id", "attempt", "job_id")
"""One execution of a job."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What both kinds of detectors have.

    by       what is remembered together
    within   for how long, behind stream time
    enabled  false: it is not asked
    """

    by: ClassVar[tuple[Field, ...]] = JOB
    within: timedelta = timedelta(hours=1)
    enabled: bool = True
    FIRES: ClassVar[Sequence[Sequence[Any]]]
    SILENT: ClassVar[Sequence[Sequence[Any]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Detector(Rule):
    """Base of all detectors that judge single events.

    by          JOB, REPOSITORY, SIGNATURE or LABELS
    sees        the outcomes that enter the history
    changed_by  those of them that can change what is said when they come last; all, if not given
    categories  where it wants failures of some categories only; not of JOB, whose failures are all kept

    A history of JOB begins with a failure. What passes is kept where the same job failed on that commit before it, or
    fails on it within the shard's bound for disorder after it; and where it is the first on the default branch after a
    failure there. The other histories hold failures only, and their oldest stays when they grow too long.
    """

    sees: ClassVar[frozenset[Outcome]]
    changed_by: ClassVar[frozenset[Outcome]]
    categories: ClassVar[frozenset[str] | None] = None

    def __init_subclass__(cls) -> None:
        """Let all that it sees change what it says, unless it says otherwise."""
        super(Detector, cls).__init_subclass__()
        if "sees" in vars(cls) and "changed_by" not in vars(cls):
            cls.changed_by = cls.sees

    @abstractmethod
    def judge(self, history: History, at_ms: int) -> Finding | None:
        """What is to be said of `history` at stream time `at_ms`, or None.

        `history` holds only outcomes that this detector sees, and is never empty.
        """

    def until(self, history: History) -> int | None:
        """When what was found ends though nothing happens (Unix ms); None: when the oldest event is `within` old."""
        return None

    def cleared(self, history: History, at_ms: int) -> str:
        """Why what stood does not hold any more; `history` may be empty."""
        return "no longer holds"


@dataclasses.dataclass(frozen=True, slots=True)
class AbsenceDetector(Rule):
    """Base of all detectors that find something because nothing happens; asked only while the source delivers.

    by       JOB_RUN, whose history is its start, until any end is seen; or LABELS, whose history are the jobs that
             wait (QUEUED), and RUNNING for the last that was let in, where one was
    within   for how long what has begun, or waits, is remembered
    """

    sees: ClassVar[frozenset[Outcome]]

    @abstractmethod
    def due(self, history: History, usual_ms: int | None) -> int:
        """When to ask (Unix ms); `usual_ms` is the 95th percentile of this job's durations, where any is known."""

    @abstractmethod
    def judge(self, history: History, at_ms: int) -> Finding | None:
        """What is to be said of `history`, which is never empty, at stream time `at_ms`, not before it was due."""

    def cleared(self, history: History, at_ms: int) -> str:
        """Why what stood does not hold any more; `history` may be empty."""
        return "no longer holds"


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileDetector(Rule):
    """Base of all detectors that judge counts.

    by       JOB, asked when an hour of the job closes, or REPOSITORY, asked when ten minutes of it do: both some six
             minutes after their end, when nothing of them is to come any more
    within   how long what was found stands when nothing more is heard
    """

    @abstractmethod
    def judge(self, profile: Profile, at_ms: int) -> Finding | None:
        """What is to be said of `profile` at `at_ms`, the end of its last stretch, or None.

        `profile.recent` is never empty.
        """

    def cleared(self, profile: Profile, at_ms: int) -> str:
        """Why what stood does not hold any more; `profile` is empty where nothing was heard for `within`."""
        return "no longer holds"


_BASES: Final = (Rule, Detector, AbsenceDetector, ProfileDetector)


def found() -> tuple[type[Rule], ...]:
    """Every detector in this folder, in order of name."""
    return _walk()


@lru_cache(1)
def _walk() -> tuple[type[Rule], ...]:
    package = importlib.import_module("analytics.detectors")
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, "analytics.detectors.")]
    return tuple(sorted((c for module in modules for c in classes_of(vars(module))), key=lambda c: c.__name__))


def classes_of(names: Mapping[str, Any]) -> list[type[Rule]]:
    """The detectors among the names of a module."""
    return [item for item in names.values() if isinstance(item, type) and issubclass(item, Rule) and item not in _BASES]


_BY: Final[Mapping[type[Rule], tuple[tuple[Field, ...], ...]]] = {
    Detector: (JOB, REPOSITORY, SIGNATURE, LABELS),
    AbsenceDetector: (JOB_RUN, LABELS),
    ProfileDetector: (JOB, REPOSITORY),
}


def configured(parameters: Mapping[str, Mapping[str, Any]], *, also: Sequence[type[Rule]] = ()) -> tuple[Rule, ...]:
    """Every detector, those of `also` too, with its parameters as the rulebook overrides them, in order of name.

    Raises:
        ConfigError: no such detector or parameter, or a value of another type; the key is named. Or one of `also` has
            the name of another.
    """
    known = found()
    classes = {c.__name__: c for c in (*known, *also)}
    if len(classes) < len(known) + len(also):
        twice = next(
            c.__name__ for c in also if c is not classes[c.__name__] or c.__name__ in {k.__name__ for k in known}
        )
        raise ConfigError(f"detectors.{twice}: there is a detector of this name already")
    unknown = sorted(set(parameters) - set(classes))
    if unknown:
        raise ConfigError(f"detectors.{unknown[0]}: no such detector; there are {', '.join(sorted(classes))}")
    return tuple(_made(cls, parameters.get(name, {})) for name, cls in sorted(classes.items()))


_READ: Final[Mapping[Any, Callable[[Any], Any]]] = {timedelta: duration}


def _made(cls: type[Rule], given: Mapping[str, Any]) -> Rule:
    if not isinstance(given, Mapping):
        raise ConfigError(f"detectors.{cls.__name__}: expected a table of parameters")
    if not any(issubclass(cls, kind) and cls.by in known for kind, known in _BY.items()):
        raise ConfigError(f"detectors.{cls.__name__}: nothing is remembered by {cls.by}")
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
        if kind is float and type(values[name]) is int:
            values[name] = float(values[name])
        if type(values[name]) is not kind:
            raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return cls(**values)


_MILLISECOND: Final = timedelta(milliseconds=1)


def milliseconds(span: timedelta) -> int:
    """`span` in whole milliseconds."""
    return span // _MILLISECOND
