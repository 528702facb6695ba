"""Marks: what a line of a build log looks like, as data (marks.toml), all found in one Hyperscan pass.

A mark says what part a line plays (it states an error, opens a section, tells that the command ended), never what the
cause is: that is what signatures are for. Three marks are not patterns: FOUND, that a signature knows the line, TOLD,
that the platform calls it an error, and NEW, that the job's last passing log did not have it.
"""

from __future__ import annotations

import threading
import tomllib
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import hyperscan
import numpy as np
import numpy.typing as npt

MARKS_PATH: Final = Path(__file__).with_name("marks.toml")

Indices = npt.NDArray[np.int64]


class Role(StrEnum):
    """The part that a line plays; marks.toml tells more of each."""

    ERROR = "error"
    SECTION = "section"
    VERDICT = "verdict"
    QUIET = "quiet"
    ENDED = "ended"
    FAILED = "failed"
    STEP = "step"
    FOUND = "found"
    NEW = "new"


class Mark(NamedTuple):
    """One pattern, and what a line is that it matches."""

    role: Role
    weight: float  # how much a line so marked says of the cause
    pattern: str = ""
    any_case: bool = False


class Hits(NamedTuple):
    """Which lines are marked: their indices, ascending, and for each hit the mark's place among MARKS."""

    lines: Indices
    marks: Indices


def load_entries(path: Path = MARKS_PATH) -> list[dict[str, Any]]:
    """The entries of the file as they stand."""
    entries: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))["mark"]
    return entries


def _patterns() -> tuple[Mark, ...]:
    return tuple(
        Mark(Role(entry["role"]), float(entry.get("weight", 0)), pattern, entry.get("any_case", False))
        for entry in load_entries()
        for pattern in entry["patterns"]
    )


_PATTERNS: Final = _patterns()
FOUND: Final = len(_PATTERNS)
TOLD: Final = FOUND + 1
NEW: Final = FOUND + 2
MARKS: Final = (*_PATTERNS, Mark(Role.FOUND, 12.0), Mark(Role.ERROR, 6.0), Mark(Role.NEW, 3.0))
_ROLES: Final = np.array([mark.role for mark in MARKS])


def scan(text: bytes, starts: Indices) -> Hits:
    """The marks of `text`, whose lines begin at `starts`; each mark once a line."""
    found: list[int] = []

    def add(mark: int, _start: int, end: int, *_: object) -> None:
        found.append(mark)
        found.append(end)

    _database().scan(text, add, scratch=_scratch())
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return hits_of(lines_at(np.maximum(pairs[:, 1] - 1, 0), starts), pairs[:, 0])


def lines_at(offsets: Indices, starts: Indices) -> Indices:
    """The indices of the lines that `offsets` stand in."""
    return np.searchsorted(starts, offsets, "right") - 1


def hits_of(lines: Indices, marks: Indices) -> Hits:
    """Hits in order, each once."""
    keys = np.unique(lines * len(MARKS) + marks)
    return Hits(keys // len(MARKS), keys % len(MARKS))


def having(hits: Hits, role: Role) -> Indices:
    """The lines that have a mark of `role`."""
    return np.unique(hits.lines[_ROLES[hits.marks] == role])


@lru_cache(1)
def _database() -> hyperscan.Database:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    case = {True: hyperscan.HS_FLAG_CASELESS, False: 0}
    database.compile(
        expressions=[mark.pattern.encode() for mark in _PATTERNS],
        ids=list(range(len(_PATTERNS))),
        flags=[hyperscan.HS_FLAG_MULTILINE | case[mark.any_case] for mark in _PATTERNS],
    )
    return database


_threads: Final = threading.local()


def _scratch() -> hyperscan.Scratch:
    scratch: hyperscan.Scratch | None = getattr(_threads, "scratch", None)
    if scratch is None:
        scratch = _threads.scratch = hyperscan.Scratch(_database())
    return scratch
