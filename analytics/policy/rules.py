"""The policy as its operator writes it: what holds for the fleet, and rules that change it for some of it.

    mode = "observe"                              # what stands at the top holds for every job

    [[rule]]
    when = { repository = "acme/*", signature = ["registry_*", "dns"] }
    mode = "act"                                  # only what a rule names changes

    [[rule]]
    when = { branch = "release/*" }
    never = true

Rules are read from the first to the last. Each changes what it names for the jobs that fulfil all of its `when`, so the
general stands first and its exceptions after it, and of two rules that say the same thing the later one counts. It is
so, and not that the first match ends it, because an exception then says what is different and nothing else; where the
first match counts, each has to repeat all it does not want to change, and the one that forgets a line is a hole.

Two things make a mistake harmless. `never` is not undone by any later rule. And what is not known counts against: where
a rule asks for a branch or job that nobody told us, it applies as far as it is the stricter one.

A decision covers several jobs, each of which may fall under other rules: of every value the strictest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache, partial, reduce
from typing import Any, Final, Literal, NamedTuple

import msgspec

from analytics.policy.glob import Glob, glob
from models.records.calls import Call

Mode = Literal["observe", "suggest", "act"]
Forks = Literal["never", "approval"]
Patterns = str | tuple[str, ...] | None
"""A glob, or several of which one must match."""

MODES: Final[tuple[Mode, ...]] = ("observe", "suggest", "act")
FORKS: Final[tuple[Forks, ...]] = ("never", "approval")
_CACHED: Final = 8192
"""How many values of each name, and sets of rules, are remembered."""


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which failed jobs a rule is for: those that fulfil all that it names."""

    platform: Patterns = None
    instance: Patterns = None
    repository: Patterns = None
    branch: Patterns = None
    workflow: Patterns = None
    job: Patterns = None
    signature: Patterns = None
    category: Patterns = None
    action: Patterns = None


class Subject(NamedTuple):
    """What rules look at: a failed job in its place, and what would be done about it. None is what nobody told us."""

    platform: str
    instance: str | None
    repository: str
    branch: str | None
    workflow: str | None
    job: str | None
    signature: str | None
    category: str | None
    action: str  # its names, as `names_of` has them


_NONE: Final = frozenset({"workflow", "signature", "category"})
"""Of these None is no gap: a pipeline without a name, a failure that no signature explains. No pattern means it."""


class Terms(NamedTuple):
    """What holds for a job. `rules` are the numbers, from 1, of the rules that had a say."""

    never: bool
    mode: Mode
    most_attempts: int
    most_native_retries: int
    most_failed_jobs: int
    least_score: float
    forks: Forks
    backoff_seconds: int
    backoff_factor: int
    longest_backoff_seconds: int
    outage_backoff_seconds: int
    comment: bool
    owner: str
    quarantine_days: int
    rules: tuple[int, ...] = ()


def strictest(one: Terms, other: Terms) -> Terms:
    """Of every value the one that lets less happen, or later."""
    if one == other:
        return one
    return Terms(
        never=one.never or other.never,
        mode=least_mode(one.mode, other.mode),
        most_attempts=min(one.most_attempts, other.most_attempts),
        most_native_retries=min(one.most_native_retries, other.most_native_retries),
        most_failed_jobs=min(one.most_failed_jobs, other.most_failed_jobs),
        least_score=max(one.least_score, other.least_score),
        forks=min(one.forks, other.forks, key=FORKS.index),
        backoff_seconds=max(one.backoff_seconds, other.backoff_seconds),
        backoff_factor=max(one.backoff_factor, other.backoff_factor),
        longest_backoff_seconds=max(one.longest_backoff_seconds, other.longest_backoff_seconds),
        outage_backoff_seconds=max(one.outage_backoff_seconds, other.outage_backoff_seconds),
        comment=one.comment and other.comment,
        owner=max(one.owner, other.owner),
        quarantine_days=min(one.quarantine_days, other.quarantine_days),
        rules=tuple(sorted({*one.rules, *other.rules})),
    )


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """For which jobs, and what is different for them; what is None stays as it is."""

    when: When
    never: bool = False
    mode: Mode | None = None
    most_attempts: int | None = None
    most_native_retries: int | None = None
    most_failed_jobs: int | None = None
    least_score: float | None = None
    forks: Forks | None = None
    backoff_seconds: int | None = None
    backoff_factor: int | None = None
    longest_backoff_seconds: int | None = None
    outage_backoff_seconds: int | None = None
    comment: bool | None = None
    owner: str | None = None
    quarantine_days: int | None = None

    @cached_property
    def sets(self) -> dict[str, Any]:
        """What it changes, by name."""
        named = {name: getattr(self, name) for name in self.__struct_fields__[1:]}
        return {name: value for name, value in named.items() if value is not None and (name != "never" or value)}

    @cached_property
    def conditions(self) -> dict[str, tuple[Glob, ...]]:
        """Its conditions by name: globs of which one must match."""
        named = ((name, patterns_of(self.when, name)) for name in Subject._fields)
        return {name: tuple(map(glob, patterns)) for name, patterns in named if patterns is not None}

    def over(self, terms: Terms, number: int, *, sure: bool) -> Terms:
        """What holds after it, as rule `number`, where `terms` held before; `sure` is whether it is for this job."""
        after = terms._replace(**self.sets, rules=(*terms.rules, number))
        return after if sure else strictest(terms, after)


def names_of(action: str, calls: Iterable[Call]) -> str:
    """The names by which rules know an action: its own and those of its calls."""
    return " ".join(dict.fromkeys((action, *[call.name for call in calls])))


def patterns_of(when: When, name: str) -> tuple[str, ...] | None:
    """The globs that `when` names for one thing; None: it may be anything."""
    patterns: Patterns = getattr(when, name)
    return (patterns,) if isinstance(patterns, str) else patterns


def fulfilled(name: str, globs: Iterable[Glob], value: str | None) -> bool | None:
    """Whether `value`, in lower case, fulfils a condition; None: nobody can tell."""
    if value is None:
        return False if name in _NONE else None
    values = value.split() if name == "action" else (value,)
    return any(matches(value) for matches in globs for value in values)


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """What holds for the fleet, and the rules that change it."""

    mode: Mode = "observe"
    await_log_seconds: int = 0  # how long the log of a failed job is waited for, in stream time; 0 where none is read
    most_attempts: int = 1  # the try after which nothing is run again; retries of the platform's own count as tries
    most_failed_jobs: int = 5  # more at once is real, or an outage (PyTorch test-infra's rule)
    least_score: float = 0.5  # least chance that a rerun passes
    most_native_retries: int = 0  # what the platform itself ran again more often than that is left alone
    forks: Forks = "never"  # approval: as a suggestion, whatever the mode
    backoff_seconds: int = 60  # after the first try; after each further one `backoff_factor` times as long
    backoff_factor: int = 2
    longest_backoff_seconds: int = 3600
    outage_backoff_seconds: int = 300  # the same for causes that last as outages do: actions that wait
    comment: bool = False  # say once under the commit that what was run again failed again
    owner: str = ""  # who is to mend what is put into quarantine
    quarantine_days: int = 7  # for how long it is
    actions: tuple[str, ...] = ("*",)  # globs: what is not named is not done; a plain rerun takes the place of another
    protected_environments: tuple[str, ...] = ("*prod*", "prd*", "live*", "release*")
    rules: tuple[Rule, ...] = msgspec.field(default=(), name="rule")

    @cached_property
    def base(self) -> Terms:
        """What holds where no rule does."""
        return Terms(never=False, **{name: getattr(self, name) for name in Terms._fields[1:-1]})

    @cached_property
    def terms_of(self) -> TermsOf:
        """Tells what holds for a job."""
        return TermsOf(self)

    @cached_property
    def allows(self) -> Callable[[str], bool]:
        """Tells whether an action of this name is among those that are done at all."""
        named = tuple(map(glob, self.actions))
        return lru_cache(_CACHED)(lambda action: any(matches(action) for matches in named))

    @cached_property
    def _protected(self) -> tuple[Glob, ...]:
        return tuple(map(glob, self.protected_environments))

    def protects(self, environments: Iterable[str]) -> bool:
        """Whether one of `environments` is one of those where nothing is ever run again."""
        return any(matches(name.lower()) for name in environments for matches in self._protected)


class TermsOf:
    """The rules, ready to be asked.

    Each is a bit. What a value leaves of them is remembered, one name at a time, for values are few and their
    combinations many; and so is what a set of rules comes to. To ask is then to look up a few numbers.
    """

    def __init__(self, policy: Policy) -> None:
        """Compile the rules of `policy`."""
        self._base: Final = policy.base
        self._rules: Final = tuple(enumerate(policy.rules, 1))
        asked = [i for i, name in enumerate(Subject._fields) if any(name in rule.conditions for rule in policy.rules)]
        self._left: Final = [(i, lru_cache(_CACHED)(partial(self._leaves, Subject._fields[i]))) for i in asked]
        self._after: Final = lru_cache(_CACHED)(self._follow)

    def __call__(self, subject: Subject) -> Terms:
        """What holds for `subject`."""
        held, open_ = -1, 0
        for i, leaves in self._left:
            left, unsure = leaves(subject[i])
            held &= left
            open_ |= unsure
        return self._after(held, held & open_)

    def _leaves(self, name: str, value: str | None) -> tuple[int, int]:
        """The rules that `value` does not rule out, and those of which nobody can tell."""
        lowered = value and value.lower()
        left, unsure = -1, 0
        for number, rule in self._rules:
            if name in rule.conditions:
                held = fulfilled(name, rule.conditions[name], lowered)
                left &= -1 if held is not False else ~(1 << number)
                unsure |= (held is None) << number
        return left, unsure

    def _follow(self, held: int, unsure: int) -> Terms:
        terms = self._base
        for number, rule in self._rules:
            if held >> number & 1:
                terms = rule.over(terms, number, sure=not unsure >> number & 1)
        return terms


def least_mode(*modes: Mode) -> Mode:
    """The one of `modes` in which the least happens."""
    return min(modes, key=MODES.index)


def of_all(terms: Sequence[Terms]) -> Terms:
    """What holds for a decision about several jobs."""
    return terms[0] if len(terms) == 1 else reduce(strictest, terms)
