"""The catalogue: which signature explains a failure, and why the others do not.

A failure is matched on two things. Its *facts* are what the platform says in its own words, one line each:

    gitlab reason runner_system_failure
    github step Set up job
    jenkins exit_code 137

and its *text* is lines of its log: an excerpt that a webhook carries, or the lines that a reader kept, each with its
number. Hard stops outrank everything that is not one; then the higher priority wins, then whose line stands later, then
the earlier name. Within a signature the last line that fulfils its conditions is the one shown. Distances between lines
are differences of their numbers, so that an excerpt with gaps is judged as the whole log is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Final, NamedTuple

from analytics.signatures.patterns import Patterns
from analytics.signatures.signature import Action, Signature, from_mapping, read, shipped, whole
from models.records.errors import ConfigError
from models.records.evidence import Line

__all__ = [
    "Action",
    "Catalogue",
    "Excerpt",
    "Explanation",
    "Loser",
    "Match",
    "Signature",
    "Why",
    "facts_of",
    "from_mapping",
    "read",
    "shipped",
]

_CACHED: Final = 8192  # facts are few and come again and again

Excerpt = str | Sequence[Line] | Sequence[tuple[int, str]] | None
"""Text whose lines are counted from 1, or lines with their numbers, in order."""


class Match(NamedTuple):
    """A signature, the line that proves it, what its named groups captured, and the line's number; a fact has none."""

    signature: Signature
    line: str
    captures: tuple[tuple[str, str], ...]
    number: int | None = None


class Why(StrEnum):
    """Why a signature that matched does not explain the failure."""

    HARD_STOP = "a hard stop outranks it"
    PRIORITY = "another one has a higher priority"
    EARLIER = "another one of its priority stands later, or first by name"
    PLATFORM = "it is for another platform"
    EXPIRED = "it was not valid on that day"
    CONDITION = "a line that must be near is not, one that must not be is, or it stands too far from the end"


class Loser(NamedTuple):
    """A signature that matched and lost."""

    match: Match
    why: Why


class Explanation(NamedTuple):
    """The winner, and all others that matched, the strongest first."""

    winner: Match | None
    losers: tuple[Loser, ...]


def facts_of(
    *, platform: str, outcome: str, reason: str | None, step: str | None, exit_code: int | None
) -> tuple[str, ...]:
    """What a webhook says of a failure, as lines in a fixed order."""
    said = (("outcome", outcome), ("reason", reason), ("step", step), ("exit_code", exit_code))
    return tuple(f"{platform} {name} {' '.join(str(value).split())}" for name, value in said if value is not None)


class Catalogue:
    """All signatures in force, compiled to one database of facts and one of lines."""

    def __init__(self, signatures: Iterable[Signature]) -> None:
        """Put `signatures` in order; they are compiled when facts or lines are first matched.

        Raises:
            ConfigError: two of one name.
        """
        self.signatures: Final = tuple(sorted(signatures, key=lambda s: (*_strength(s), s.name)))
        self.named: Final = {s.name: s for s in self.signatures}
        names = [s.name for s in self.signatures]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"signature {twice[0]}: stands twice in the catalogue")
        self._facts: Final = _Index({s.name: tuple(map(whole, s.facts)) for s in self.signatures})
        self._lines: Final = _Index({s.name: (*s.text, *s.near, *s.unless) for s in self.signatures})
        of = [(s, kind) for s in self.signatures for kind in ("text", "near", "unless") for _ in getattr(s, kind)]
        self._conditions: Final = {i for i, (_, kind) in enumerate(of) if kind != "text"}
        self._conditional: Final = {i for i, (s, kind) in enumerate(of) if kind == "text" and (s.near or s.unless)}
        self._cached: Final = lru_cache(_CACHED)(self._match)

    def check(self) -> None:
        """Compile now.

        Raises:
            ConfigError: a pattern that is RE2 and that Hyperscan does not take; the signature is named.
        """
        self.dumped()

    def dumped(self) -> tuple[bytes, bytes]:
        """What is compiled, for another process of the same machine.

        Raises:
            ConfigError: as of `check`.
        """
        return self._facts.patterns.dump(), self._lines.patterns.dump()

    def take(self, dumped: tuple[bytes, bytes]) -> None:
        """Take what the same catalogue gave in another process, and compile nothing."""
        for index, one in zip((self._facts, self._lines), dumped, strict=True):
            index.take(one)

    def match(self, platform: str, facts: tuple[str, ...], text: Excerpt, *, on: date | None = None) -> Match | None:
        """The signature that explains a failure best, or None; a pure function of its arguments.

        `on` is the day, UTC, of the failure: without it, no signature has expired.
        """
        return self._match(platform, facts, text, on) if text else self._cached(platform, facts, "", on)

    def _match(self, platform: str, facts: tuple[str, ...], text: Excerpt, on: date | None) -> Match | None:
        reading = self._read(facts, text)
        able = (s for s in reading.ranks() if self.signatures[s].is_for(platform) and self.signatures[s].is_valid(on))
        for _, equals in groupby(able, key=lambda rank: _strength(self.signatures[rank])):
            matches = [match for rank in equals if (match := reading.proof(rank)) is not None]
            if matches:
                return max(matches, key=_place)  # of several, the first: the earlier name
        return None

    def explain(self, platform: str, facts: tuple[str, ...], text: Excerpt, *, on: date | None = None) -> Explanation:
        """What `match` gives, and every other signature of which a pattern matches, with the reason why it lost."""
        winner = self.match(platform, facts, text, on=on)
        reading = self._read(facts, text)
        losers = []
        for rank in reading.ranks():
            proof = reading.proof(rank)
            shown = proof or reading.proof(rank, conditions=False)
            if shown is not None and (winner is None or shown.signature is not winner.signature):
                losers.append(Loser(shown, _why(shown, winner, platform, on, fulfilled=proof is not None)))
        return Explanation(winner, tuple(losers))

    def find(self, block: bytes) -> list[int]:
        """Where the lines of `block`, in UTF-8, begin that a reader of logs has to keep: those that some pattern in
        `text` matches, and those near them on which that signature's `near` or `unless` depends.
        """
        hits = list(_by_line(block, self._lines.patterns.ends(block)))
        proven: dict[int, list[int]] = {}
        for number, _, patterns in hits:
            for pattern in patterns & self._conditional:
                proven.setdefault(self._lines.owners[pattern], []).append(number)
        return [start for number, start, patterns in hits if self._matters(number, patterns, proven)]

    def _matters(self, number: int, patterns: set[int], proven: Mapping[int, list[int]]) -> bool:
        """Whether a line proves something, or stands close enough to one that does and depends on it."""
        if not patterns <= self._conditions:
            return True
        owners = {self._lines.owners[pattern] for pattern in patterns} & proven.keys()
        return any(_is_near(proven[owner], number, self.signatures[owner].within) for owner in owners)

    def _read(self, facts: tuple[str, ...], text: Excerpt) -> _Reading:
        lines = enumerate(text.split("\n"), 1) if isinstance(text, str) else ((x[0], x[1]) for x in text or ())
        told = self._facts.told([(i, fact) for i, fact in enumerate(facts)])
        return _Reading(self.signatures, told, self._lines.told(list(lines)))


def _by_line(block: bytes, ends: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, set[int]]]:
    """The lines that matches end on: number in the block, where it begins, and the patterns that match."""
    number, start, behind = 0, 0, 0  # `behind` is where the next line begins
    patterns: set[int] = set()
    for end, pattern in ends:
        if end > behind:
            if patterns:
                yield number, start, patterns
            begins = block.rfind(b"\n", behind, end - 1) + 1 or behind
            number += block.count(b"\n", start, begins)
            start, patterns = begins, set()
            behind = block.find(b"\n", end - 1) + 1 or len(block) + 1
        patterns.add(pattern)
    if patterns:
        yield number, start, patterns


def _is_near(numbers: Sequence[int], number: int, within: int) -> bool:
    """Whether one of `numbers`, which are in order, is at most `within` from `number`."""
    i = bisect_left(numbers, number - within)
    return i < len(numbers) and numbers[i] <= number + within


def _strength(signature: Signature) -> tuple[bool, int]:
    """What sorts the stronger signature first."""
    return not signature.hard_stop, -signature.priority


def _place(match: Match) -> int:
    return match.number or 0


def _why(loser: Match, winner: Match | None, platform: str, on: date | None, *, fulfilled: bool) -> Why:
    signature = loser.signature
    if not signature.is_for(platform):
        return Why.PLATFORM
    if not signature.is_valid(on):
        return Why.EXPIRED
    if not fulfilled or winner is None:
        return Why.CONDITION
    if winner.signature.hard_stop and not signature.hard_stop:
        return Why.HARD_STOP
    return Why.EARLIER if signature.priority == winner.signature.priority else Why.PRIORITY


class _Index:
    """Patterns of many signatures in one database."""

    def __init__(self, patterns: Mapping[str, tuple[str, ...]]) -> None:
        self._patterns: Final = patterns
        self.owners: Final = [rank for rank, each in enumerate(patterns.values()) for _ in each]
        self.first: Final = [0, *accumulate(map(len, patterns.values()))]
        self._compiled: Patterns | None = None

    @property
    def patterns(self) -> Patterns:
        """All of them, compiled: a second or two for those that are shipped, once in a process."""
        if self._compiled is None:
            try:
                self._compiled = Patterns(self._all)
            except ValueError as error:
                raise ConfigError(f"signature {_blamed(self._patterns)}: {error}") from None
        return self._compiled

    @property
    def _all(self) -> list[str]:
        return [pattern for each in self._patterns.values() for pattern in each]

    def take(self, dumped: bytes) -> None:
        """Take what `patterns` dumped in another process."""
        self._compiled = Patterns(self._all, dumped)

    def told(self, lines: Sequence[tuple[int, str]]) -> _Told:
        """What the patterns find in `lines`."""
        data = [text.encode("utf-8", "replace") for _, text in lines]
        starts = [0, *accumulate(len(line) + 1 for line in data)]
        hits: dict[int, list[int]] = {}
        for end, pattern in self.patterns.ends(b"\n".join(data)) if lines else ():
            where = bisect_right(starts, end - 1) - 1
            known = hits.setdefault(pattern, [])
            if not known or known[-1] != where:
                known.append(where)
        return _Told(self, lines, [number for number, _ in lines], data, hits)


def _blamed(patterns: Mapping[str, tuple[str, ...]]) -> str:
    """The first signature whose patterns cannot be compiled."""
    for name, each in patterns.items():
        try:
            Patterns(each)
        except ValueError:
            return name
    return "?"


class _Told(NamedTuple):
    """Lines, and which of them each pattern matches, in order."""

    source: _Index
    lines: Sequence[tuple[int, str]]
    numbers: list[int]
    data: list[bytes]
    hits: dict[int, list[int]]

    def owners(self) -> set[int]:
        """The signatures of which some pattern matches."""
        return {self.source.owners[pattern] for pattern in self.hits}

    def backwards(self, patterns: range) -> Iterator[tuple[int, tuple[tuple[str, str], ...]]]:
        """The places of lines that one of `patterns` matches, the last first, with what was captured."""
        places = sorted(((where, -p) for p in patterns for where in self.hits.get(p, ())), reverse=True)
        for where, negated in places:
            captures = self.source.patterns.captures(-negated, self.data[where])
            if captures is not None:
                yield where, captures

    def has(self, pattern: int, number: int, within: int) -> bool:
        """Whether `pattern` matches a line at most `within` lines from that of `number`."""
        hits = self.hits.get(pattern, [])
        i = bisect_left(hits, bisect_left(self.numbers, number - within))
        return i < len(hits) and self.numbers[hits[i]] <= number + within


class _Reading:
    """What all patterns find in the facts and the lines of one failure."""

    def __init__(self, signatures: Sequence[Signature], facts: _Told, lines: _Told) -> None:
        self._signatures: Final = signatures
        self._facts: Final = facts
        self._lines: Final = lines

    def ranks(self) -> list[int]:
        """The signatures that may match, the strongest first."""
        return sorted(self._facts.owners() | self._lines.owners())

    def proof(self, rank: int, *, conditions: bool = True) -> Match | None:
        """The last line that proves a signature, else the first fact; None where nothing does."""
        signature, first = self._signatures[rank], self._lines.source.first[rank]
        for where, captures in self._lines.backwards(range(first, first + len(signature.text))):
            number, line = self._lines.lines[where]
            if not conditions or self._holds(signature, first + len(signature.text), number):
                return Match(signature, line, captures, number)
        first = self._facts.source.first[rank]
        for where, captures in self._facts.backwards(range(first, first + len(signature.facts))):
            return Match(signature, self._facts.lines[where][1], captures)
        return None

    def _holds(self, signature: Signature, first: int, number: int) -> bool:
        """Whether the line of `number` is near enough to the end, and to what must be near it and nothing else."""
        if self._lines.numbers[-1] - number > signature.from_end:
            return False
        behind = first + len(signature.near)
        return all(self._lines.has(p, number, signature.within) for p in range(first, behind)) and not any(
            self._lines.has(p, number, signature.within) for p in range(behind, behind + len(signature.unless))
        )
