r"""A signature: "this text means that", as data, and how it is read from a file.

    [name]                        # the table's name is the signature's
    category = "network"          # of models.records.outputs.Category
    cause = "..."                 # what happened, and
    fix = "..."                   # what to do about it, for a person at three in the morning
    owner = "runners"             # who can mend it, where that is not whoever made the change
    transient = true              # a rerun of the same commit can pass; false if not said
    hard_stop = true              # it must never be run again; outranks everything that is not one
    priority = 60                 # 1 to 99: which of several that match explains the failure
    action = "rerun_job"          # what is done about it by default; "none" if not said
    platforms = ["gitlab"]        # only there
    valid_from = 2026-01-01       # only for failures from this day on, and
    valid_until = 2026-12-31      # until this one, UTC
    text = ["..."]                # RE2 on a line of the log; any of them proves the signature
    facts = ["..."]               # RE2 on a fact of the webhook, as a whole
    near = ["..."]                # each must match some line at most `within` lines from the one that proves it
    unless = ["..."]              # none may match a line at most `within` lines from it
    within = 5                    # lines; 5 if not said
    from_end = 100                # only on a line at most so many lines before the last one; anywhere if not said
    matches = ["..."]             # what it must match: a line, a fact, or lines with \n between them
    confusers = ["..."]           # what it must not

The named groups of a `text` pattern are what failures of one signature are grouped by.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from analytics.signatures.dialect import compiled
from models.records.errors import ConfigError
from models.records.event import PlatformName
from models.records.outputs import Category

MOST_LINES: Final = 1_000_000_000
"""The most that `within` and `from_end` may be: more than any log has."""


class Action(StrEnum):
    """What is done about a failure by default, if the policy allows it."""

    RERUN_JOB = "rerun_job"
    RERUN_FAILED = "rerun_failed"
    DELAYED_RERUN = "delayed_rerun"
    CLEAR_CACHE_AND_RERUN = "clear_cache_and_rerun"
    CANCEL = "cancel"
    QUARANTINE = "quarantine"
    OPEN_ISSUE = "open_issue"
    NOTIFY = "notify"
    NONE = "none"


RERUNS: Final = frozenset({Action.RERUN_JOB, Action.RERUN_FAILED, Action.DELAYED_RERUN, Action.CLEAR_CACHE_AND_RERUN})


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known cause of failures, with the lines that prove its patterns right."""

    name: str
    category: Category
    cause: str
    fix: str
    transient: bool = False
    hard_stop: bool = False
    priority: int = 50
    owner: str = ""
    action: Action = Action.NONE
    platforms: tuple[PlatformName, ...] = ()  # none named: all
    valid_from: date | None = None
    valid_until: date | None = None
    facts: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    within: int = 5
    from_end: int = MOST_LINES
    matches: tuple[str, ...]
    confusers: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and patterns that are not to be had."""
        if self.transient and self.hard_stop:
            raise ValueError("a signature is transient or a hard stop, not both")
        if self.action in RERUNS and not self.transient:
            raise ValueError(f"action {self.action}: only what is transient is run again")
        if not self.facts and not self.text:
            raise ValueError("a signature needs at least one pattern in `facts` or `text`")
        if (self.near or self.unless) and not self.text:
            raise ValueError("`near` and `unless` speak of the line that a pattern in `text` matched: there is none")
        if not (1 <= self.within <= MOST_LINES and 1 <= self.from_end <= MOST_LINES):
            raise ValueError(f"within and from_end count 1 to {MOST_LINES} lines")
        if self.valid_from and self.valid_until and self.valid_until < self.valid_from:
            raise ValueError("valid_until lies before valid_from")
        for pattern in (*self.text, *self.near, *self.unless, *map(whole, self.facts)):
            compiled(pattern)

    def is_for(self, platform: str) -> bool:
        """Whether it explains failures of `platform`."""
        return not self.platforms or platform in self.platforms

    def is_valid(self, on: date | None) -> bool:
        """Whether it explains failures of that day; where the day is not known, it does."""
        return on is None or (
            (self.valid_from is None or self.valid_from <= on) and (self.valid_until is None or on <= self.valid_until)
        )


def whole(fact: str) -> str:
    """The pattern for all of a fact."""
    return f"^(?:{fact})$"


def read(source: str, text: str) -> tuple[Signature, ...]:
    """The signatures written in the TOML `text`, each under [name].

    Raises:
        ConfigError: naming `source`, the entry and what is wrong with it.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {error}") from None
    return tuple(from_mapping(f"{source}: {name}", name, entry) for name, entry in table.items())


def from_mapping(where: str, name: str, entry: Mapping[str, Any]) -> Signature:
    """One signature from its table.

    Raises:
        ConfigError: naming `where` and the key or pattern.
    """
    try:
        return msgspec.convert(dict(name=name, **entry), Signature)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from None


@lru_cache(1)
def shipped() -> tuple[Signature, ...]:
    """The signatures that come with this release, in order of name."""
    found = (read(path.name, path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("*.toml")))
    return tuple(sorted((s for file in found for s in file), key=lambda s: s.name))
