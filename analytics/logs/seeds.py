"""Seeds: the marked lines of a log, scored by how likely each is to tell why the job failed.

A score is what the marks of the line say, less the more lines have them and had them before, times what speaks for the
line's place (in the command that failed, near its end) and, above all, whether the job's last passing log had it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from analytics.logs.marks import MARKS, Indices, Role
from analytics.logs.pages import SEEN, UNSEEN, Page

Scores = npt.NDArray[np.float64]

_ALSO: Final = 0.15  # what the weaker marks of a line add to its strongest
_COMMON: Final = 0.05  # how much a mark loses with each doubling of the lines that have it,
_LATER: Final = 0.2  # with each doubling of those that had it before,
_ALIKE: Final = 0.3  # and a line with each doubling of those before that begin alike
_ALIKE_BYTES: Final = 24
_QUIET: Final = 0.3
_OVER: Final = 1.0  # a line that only tells that something ended is shown where it is the end of the failed command,
_OVER_AT_MOST: Final = 2.5  # but it is not the cause
_NEAR: Final = 1.2  # what is gained near the end of the failed command,
_NEAR_LINES: Final = 60  # so near,
_FADING_LINES: Final = 120  # and with so many lines more a third of that
_EARLIER: Final = 0.8  # what stands in the command before the failed one,
_MUCH_EARLIER: Final = 0.55  # before that,
_AFTER: Final = 0.5  # and behind the last failure
_UNSEEN: Final = 2.5  # what the last passing log did not have,
_SEEN: Final = 0.3  # and what it had
_STATES: Final = 3.0  # how much better a line tells what failed that states an error itself
_END_GAP_LINES: Final = 40  # ends that follow one another more closely tell of the same one

_WEIGHT: Final = np.array([mark.weight for mark in MARKS])
_BIT: Final = {role: 1 << place for place, role in enumerate(Role)}
_BITS: Final = np.array([_BIT[mark.role] for mark in MARKS])
_MIX: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


def bits(*roles: Role) -> int:
    """`roles` as they stand in `Marked.roles`."""
    return sum(_BIT[role] for role in roles)


class Marked(NamedTuple):
    """Which lines of a page are marked, and for each line of it its roles, as bits, and its strongest mark's weight."""

    lines: Indices
    roles: Indices
    weights: Scores

    def having(self, *roles: Role) -> Indices:
        """The lines with one of `roles`."""
        found: Indices = self.lines[self.roles[self.lines] & bits(*roles) != 0]
        return found


class Scene(NamedTuple):
    """Where in a page the failed command is, as indices of lines."""

    earlier: int  # where the command before it begins
    begin: int
    ends: Indices  # where tools, and then the platform, say that it ended
    end: int  # the first of those that tell of its last end
    last: int  # behind it there is only what follows a failure


def marked_lines(page: Page) -> Marked:
    """The marked lines of `page`."""
    lines, marks = page.hits
    firsts = np.flatnonzero(np.diff(lines, prepend=-1))
    roles = np.zeros(len(page.numbers), np.int64)
    weights = np.zeros(len(page.numbers))
    if len(lines):
        roles[lines[firsts]] = np.bitwise_or.reduceat(_BITS[marks], firsts)
        weights[lines[firsts]] = np.maximum.reduceat(_WEIGHT[marks], firsts)
    return Marked(lines[firsts], roles, weights)


def scene_of(page: Page, marked: Marked) -> Scene:
    """The failed command: the first that the platform calls so; else the last that a tool calls so; else the last."""
    failed = marked.having(Role.FAILED)
    ended = marked.having(Role.ENDED, Role.FAILED)
    final = int(failed[0] if len(failed) else ended[-1] if len(ended) else len(page.numbers))
    steps = [0, 0, *(step for step in marked.having(Role.STEP).tolist() if step < final)]
    ends = ended[(ended >= steps[-1]) & (ended <= final)]
    wide = np.flatnonzero(np.diff(page.numbers[ends]) > _END_GAP_LINES)
    return Scene(
        earlier=steps[-2],
        begin=steps[-1],
        ends=ends,
        end=int(ends[wide[-1] + 1 if len(wide) else 0]) if len(ends) else final,
        last=int(failed[-1]) if len(failed) else final,
    )


def scores_of(page: Page, marked: Marked, scene: Scene) -> Scores:
    """The score of each marked line."""
    lines = marked.lines
    roles = marked.roles[lines]
    found = roles & bits(Role.FOUND) != 0
    scores = _said(page, scene) / (1 + _ALIKE * np.log2(_rank(alike(page, lines), lines >= scene.begin)))
    scores[(roles & bits(Role.QUIET) != 0) & ~found] *= _QUIET
    over = (roles & bits(Role.ENDED, Role.FAILED) != 0) & ~found
    of_it = (lines >= scene.end) & (lines <= scene.last)
    scores[over] = np.minimum(scores[over] + _OVER * of_it[over], _OVER_AT_MOST)
    scores *= np.where(found, 1.0, _place(lines, scene))
    scores *= 1 + _NEAR * np.exp(-_away(page, lines, scene) / _FADING_LINES)
    news = page.news[lines]
    scores *= np.where(news == UNSEEN, _UNSEEN, np.where((news == SEEN) & ~found, _SEEN, 1.0))
    return scores


def most_telling(marked: Marked, scores: Scores) -> int | None:
    """The best line that itself says what went wrong, and not that something did."""
    roles = marked.roles[marked.lines]
    states = (roles & bits(Role.ERROR, Role.VERDICT, Role.FOUND) != 0) & (roles & bits(Role.ENDED, Role.FAILED) == 0)
    telling = np.where(states, scores, scores / _STATES)
    return int(marked.lines[np.argmax(telling)]) if len(telling) else None


def alike(page: Page, lines: Indices) -> Indices:
    """One number for all lines that begin alike, whatever their digits."""
    data = np.frombuffer(page.text, np.uint8)
    places = page.starts[lines][:, None] + np.arange(_ALIKE_BYTES)
    letters = np.where(places < page.starts[lines + 1][:, None], data[np.minimum(places, len(data) - 1)], 0)
    letters[(letters >= ord("0")) & (letters <= ord("9"))] = ord("0")
    words = np.ascontiguousarray(letters.astype(np.uint8)).view(np.uint64)
    number: Indices = (words * _MIX).sum(axis=1, dtype=np.uint64).view(np.int64)
    return number


def _said(page: Page, scene: Scene) -> Scores:
    """What the marks of each marked line say, by their weight and by how rare they are in this log."""
    lines, marks = page.hits
    common = np.bincount(marks, minlength=len(MARKS))[marks]
    said = _WEIGHT[marks] / (1 + _COMMON * np.log2(common) + _LATER * np.log2(_rank(marks, lines >= scene.begin)))
    said = np.where(_BITS[marks] & bits(Role.FOUND), _WEIGHT[marks], said)
    firsts = np.flatnonzero(np.diff(lines, prepend=-1))
    if not len(firsts):
        return np.zeros(0)
    strongest: Scores = np.maximum.reduceat(said, firsts)
    return strongest + _ALSO * (np.add.reduceat(said, firsts) - strongest)


def _place(lines: Indices, scene: Scene) -> Scores:
    before = np.where(lines >= scene.earlier, _EARLIER, _MUCH_EARLIER)
    return np.where(lines > scene.last, _AFTER, np.where(lines >= scene.begin, 1.0, before))


def _away(page: Page, lines: Indices, scene: Scene) -> Indices:
    """How many lines of the log it is from each to the next end, less those that count as near."""
    numbers = np.append(page.numbers, page.numbers[-1:] + 1)
    coming = np.append(scene.ends, len(page.numbers))[np.searchsorted(scene.ends, lines)]
    away: Indices = np.maximum(numbers[coming] - numbers[lines] - _NEAR_LINES, 0)
    return away


def _rank(keys: Indices, late: npt.NDArray[np.bool_]) -> Indices:
    """Of each the how manieth of its key it is, from 1, counted anew where the failed command begins."""
    keys = np.unique(keys, return_inverse=True)[1] * 2 + late
    order = np.argsort(keys, kind="stable")
    firsts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - np.repeat(firsts, np.diff(np.append(firsts, len(keys)))) + 1
    return rank
