"""Signatures: "this text means that", as data, and the catalogue that matches them.

A failure is matched on two things. Its *facts* are what the platform says in its own words, one line each:

    gitlab reason runner_system_failure
    github step Set up job
    jenkins exit_code 137

and its *text* is the excerpt of a log, where a webhook carries one. Hard stops outrank everything retriable; among
equals the higher priority wins, then the earlier name. Within the winner the last matching line is the one shown.
Patterns are RE2 (https://github.com/google/re2/wiki/Syntax): no input makes matching super-linear.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import re2

from models.records.errors import ConfigError
from models.records.event import PlatformName
from models.records.outputs import Category

_MAX_PATTERN: Final = 1000  # characters
_DFA_BYTES: Final = 256 << 20  # what the states of one set may take; RE2 finds nothing where it does not suffice
_CACHED: Final = 8192  # facts are few and come again and again


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One known cause of failures, with the lines that prove its patterns right."""

    name: str
    category: Category
    cause: str
    fix: str
    transient: bool = False  # a rerun on the same commit can pass
    hard_stop: bool = False  # never rerun, whatever else matched
    priority: int = 50
    owner: str = ""
    platforms: tuple[PlatformName, ...] = ()  # none named: all
    facts: tuple[str, ...] = ()  # RE2 on a fact line, anchored at both ends
    text: tuple[str, ...] = ()  # RE2 on a line of the excerpt, anywhere in it
    matches: tuple[str, ...]
    confusers: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.transient and self.hard_stop:
            raise ValueError("a signature is transient or a hard stop, not both")
        if not self.facts and not self.text:
            raise ValueError("a signature needs at least one pattern in `facts` or `text`")


class Match(NamedTuple):
    """The signature that won, the line that proves it, and what its named groups captured."""

    signature: Signature
    line: str
    captures: tuple[tuple[str, str], ...]


def facts_of(
    *, platform: str, outcome: str, reason: str | None, step: str | None, exit_code: int | None
) -> tuple[str, ...]:
    """What a webhook says of a failure, as lines in a fixed order."""
    said = (("outcome", outcome), ("reason", reason), ("step", step), ("exit_code", exit_code))
    return tuple(f"{platform} {name} {' '.join(str(value).split())}" for name, value in said if value is not None)


class Catalogue:
    """All signatures in force, compiled to one set of facts and one of text."""

    def __init__(self, signatures: Iterable[Signature]) -> None:
        """Compile `signatures`.

        Raises:
            ConfigError: two of one name, or a pattern that RE2 does not take; the entry is named.
        """
        self.signatures: Final = tuple(sorted(signatures, key=lambda s: (not s.hard_stop, -s.priority, s.name)))
        names = [s.name for s in self.signatures]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"signature {name}: stands twice in the catalogue")
        self._facts: Final = _Patterns(
            [(rank, f"^(?:{p})$") for rank, s in enumerate(self.signatures) for p in s.facts], names
        )
        self._text: Final = _Patterns([(rank, p) for rank, s in enumerate(self.signatures) for p in s.text], names)
        self._cached: Final = lru_cache(_CACHED)(self._match)

    def match(self, platform: str, facts: tuple[str, ...], text: str | None) -> Match | None:
        """The signature that explains a failure best, or None; a pure function of its arguments."""
        return self._match(platform, facts, text) if text else self._cached(platform, facts, "")

    def _match(self, platform: str, facts: tuple[str, ...], text: str | None) -> Match | None:
        told = "\n".join(facts)
        ranks = {
            rank
            for patterns, where in ((self._facts, told), (self._text, text))
            if where
            for rank in patterns.hits(where)
        }
        for rank in sorted(ranks):
            signature = self.signatures[rank]
            if not signature.platforms or platform in signature.platforms:
                found = self._text.last(rank, text or "") or self._facts.last(rank, told)
                if found is not None:
                    return Match(signature, *found)
        return None


class _Patterns:
    """Patterns of many signatures as one RE2 set, and each alone to find the line."""

    def __init__(self, patterns: list[tuple[int, str]], names: list[str]) -> None:
        options = re2.Options()
        options.never_nl = False
        options.log_errors = False
        options.max_mem = _DFA_BYTES
        self._ranks: Final = [rank for rank, _ in patterns]
        self._set = re2.Set.SearchSet(options)
        self._single: Final[dict[int, list[Any]]] = {}
        for rank, pattern in patterns:
            if len(pattern) > _MAX_PATTERN:
                raise ConfigError(f"signature {names[rank]}: a pattern is longer than {_MAX_PATTERN} characters")
            try:
                compiled = re2.compile(f"(?m){pattern}", options)
            except re2.error as error:
                raise ConfigError(f"signature {names[rank]}: pattern {pattern!r}: {error}") from None
            self._set.Add(f"(?m){pattern}")
            self._single.setdefault(rank, []).append(compiled)
        if patterns:
            self._set.Compile()

    def hits(self, where: str) -> set[int]:
        """Ranks of the signatures of which some pattern matches."""
        return {self._ranks[i] for i in self._set.Match(where) or ()} if self._ranks else set()

    def last(self, rank: int, where: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
        """The last line that a pattern of the signature matches, and its captures."""
        best = None
        for pattern in self._single.get(rank, ()):
            for found in pattern.finditer(where):
                if best is None or found.start() >= best.start():
                    best = found
        if best is None:
            return None
        start = where.rfind("\n", 0, best.start()) + 1
        end = where.find("\n", best.end())
        captures = tuple(sorted((k, v) for k, v in best.groupdict().items() if v is not None))
        return where[start : end if end >= 0 else len(where)], captures


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
        ConfigError: naming `where` and the key.
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
