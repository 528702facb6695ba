"""Which lines of a failed log to keep: those that state the cause, what belongs to them, and the end.

Each marked line (marks.py) is a *seed* with a score: by how much its marks say, how rare they are in this log and how
early it is among its like, whether it stands in the command that failed and how near its end, and above all whether
the last passing log had it. A seed passes its score on, lessened, to the lines before it and to those after it as long
as they belong to it: indented ones, frames, diffs, a whole section under a header. The best lines of all are kept
until the excerpt is full. Seeds are expanded in the order of their scores, so that the work is that of the excerpt and
not that of the log.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import re2

from analytics.logs.marks import MARKS, Indices, Role
from analytics.logs.pages import SEEN, UNSEEN, Page

Scores = npt.NDArray[np.float64]

# How a seed is judged.
_ALSO: Final = 0.15  # what the weaker marks of a line add to its strongest
_COMMON: Final = 0.05  # how much a mark loses with each doubling of the lines that have it,
_LATER: Final = 0.2  # with each doubling of those that had it before,
_ALIKE: Final = 0.3  # and a line with each doubling of those before that begin alike
_ALIKE_BYTES: Final = 24
_MIX: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
_QUIET: Final = 0.3
_STATES: Final = 3.0  # how much better a template is that states an error
_END_AT_MOST: Final = 2.5  # a line that only tells that something ended is shown, but it is not the cause
_NEAR: Final = 1.2  # what is gained right before the end of the failed command,
_NEAR_FREE: Final = 60
_NEAR_LINES: Final = 120  # and how far from it that is still a third
_EARLIER: Final = (0.8, 0.55)  # what stands in the command before the failed one, and before that
_AFTER: Final = 0.5  # what stands behind it
_UNSEEN: Final = 2.5  # what the last passing log did not have,
_SEEN: Final = 0.3  # and what it had

# The end of the failed command.
_TAIL: Final = 4.0
_TAIL_LINES: Final = 80
_END_GAP_LINES: Final = 40  # ends that follow one another more closely tell of the same one
_REPEATED: Final = 0.35

# How far a seed reaches.
_BEFORE: Final = 0.7
_BACK: Final = 0.08
_BEFORE_LINES: Final = 4
_VERDICT_LINES: Final = 60
_AFTER_IT: Final = 0.97
_FURTHER: Final = 0.001  # lost with each line further,
_FRAME: Final = 0.006  # with each stack frame from the 13th on,
_FRAMES_FREE: Final = 12
_LONG: Final = 0.6  # and a share where the line is long: such as the command that failed
_LONG_BYTES: Final = 1500
_FOREIGN: Final = {True: 0.03, False: 0.07}  # and with each line that does not seem to belong to it: in a section, else
_FOREIGN_MOST: Final = {True: 12, False: 6}
_SECTION_LINES: Final = 200
_REACH_LINES: Final = ((3.5, 60), (2.0, 25), (-1.0, 10))  # of a seed whose weight is above the first number
_OWN_SEED: Final = 3.5  # a line of more weight is a seed in its own right

_PLACE: Final = re2.compile(rb"[.]\w{1,5}[:(]\d+|:\d+:in\b|\bline \d+")
_GOES_ON: Final = tuple(
    b"at |from |in |+|-|E |>|#|@@|^|~|...|Caused by|File \"|note:|help:|=|\"|'|See |expected|got|Did you".split(b"|")
) + (b"|",)
_FRAMES: Final = (b"at ", b"from ", b'File "')
_LEVELS: Final = tuple(b"[info]|[warn]|[error]|[debug]|[INFO]|[WARN]|[WARNING]|[ERROR]|[DEBUG]".split(b"|"))
_RULERS: Final = tuple(b"=====|-----|*****|_____|#####|Finished in|Ran |Tests:|Tests run|test result".split(b"|"))
_TITLE: Final = b"_____"

_FILL_SHARE: Final = 0.05  # of the excerpt, kept back to close small gaps
_GAP_LINES: Final = 2
_SMALL_BYTES: Final = 200  # where not even such a line has room the excerpt is full

_WEIGHT: Final = np.array([mark.weight for mark in MARKS])
_BIT: Final = {role: 1 << place for place, role in enumerate(Role)}
_BITS: Final = np.array([_BIT[mark.role] for mark in MARKS])


def _bits(*roles: Role) -> int:
    return sum(_BIT[role] for role in roles)


_ABOVE_ENDS: Final = _bits(Role.VERDICT, Role.SECTION, Role.QUIET, Role.STEP, Role.ENDED, Role.FAILED)
_BELOW_ENDS: Final = _bits(Role.VERDICT, Role.SECTION, Role.ENDED, Role.FAILED)


class _Marked(NamedTuple):
    """Which lines of a page are marked, and for each line of it its roles, as bits, and its strongest mark's weight."""

    lines: Indices
    roles: Indices
    weights: Scores

    def having(self, *roles: Role) -> Indices:
        """The lines with one of `roles`."""
        return self.lines[self.roles[self.lines] & _bits(*roles) != 0]


class _Scene(NamedTuple):
    """Where in a page the failed command is, as indices of lines."""

    earlier: int  # where the command before it begins
    begin: int
    ends: Indices  # where tools, and then the platform, say that it ended
    end: int  # the first of those that tell of its last end
    last: int  # behind it there is only what follows a failure


def choose(page: Page, most_bytes: int) -> tuple[Indices, int | None]:
    """The lines of `page` to keep, in at most `most_bytes` with their line breaks, and the most telling one of them."""
    marked = _marked(page)
    scene = _scene(page, marked)
    scores = _scores(page, marked, scene)
    sizes = np.diff(page.starts)
    spare = int(most_bytes * _FILL_SHARE)
    room = most_bytes - spare
    kept: set[int] = set()
    for line in _ranked(page, marked, scene, scores):
        if line not in kept and sizes[line] > room and spare:
            gaps = _gaps(page, kept, room + spare)
            kept.update(gaps)
            room, spare = room + spare - int(sizes[gaps].sum()), 0
        if line not in kept and sizes[line] <= room:
            kept.add(line)
            room -= int(sizes[line])
        elif line not in kept and sizes[line] < _SMALL_BYTES:
            break
    return np.array(sorted(kept), np.int64), _most_telling(marked, scores)


def _most_telling(marked: _Marked, scores: Scores) -> int | None:
    """The best seed that itself says what went wrong, and not that something did."""
    roles = marked.roles[marked.lines]
    states = (roles & _bits(Role.ERROR, Role.VERDICT) != 0) & (roles & _bits(Role.ENDED, Role.FAILED) == 0)
    telling = np.where(states, scores, scores / _STATES)
    return int(marked.lines[np.argmax(telling)]) if len(telling) else None


def _marked(page: Page) -> _Marked:
    lines, marks = page.hits
    firsts = np.flatnonzero(np.diff(lines, prepend=-1))
    roles = np.zeros(len(page.numbers), np.int64)
    weights = np.zeros(len(page.numbers))
    if len(lines):
        roles[lines[firsts]] = np.bitwise_or.reduceat(_BITS[marks], firsts)
        weights[lines[firsts]] = np.maximum.reduceat(_WEIGHT[marks], firsts)
    return _Marked(lines[firsts], roles, weights)


def _scene(page: Page, marked: _Marked) -> _Scene:
    """The failed command: the first that the platform calls so; else the last that a tool says of; else the end."""
    failed = marked.having(Role.FAILED)
    ended = marked.having(Role.ENDED, Role.FAILED)
    final = int(failed[0] if len(failed) else ended[-1] if len(ended) else len(page.numbers))
    steps = [0, 0, *marked.having(Role.STEP).tolist()]
    steps = [step for step in steps if step < final] or [0, 0]
    begin, earlier = steps[-1], steps[-2]
    ends = ended[(ended >= begin) & (ended <= final)] if len(ended) else np.array([final])
    numbers = page.numbers[ends] if len(ended) else ends
    wide = np.flatnonzero(np.diff(numbers) > _END_GAP_LINES)
    return _Scene(
        earlier=earlier,
        begin=begin,
        ends=ends,
        end=int(ends[wide[-1] + 1 if len(wide) else 0]),
        last=int(failed[-1]) if len(failed) else final,
    )


def _scores(page: Page, marked: _Marked, scene: _Scene) -> Scores:
    """The score of each marked line as a seed."""
    lines = marked.lines
    roles = marked.roles[lines]
    found = roles & _bits(Role.FOUND) != 0
    scores = _said(page, scene)
    scores /= 1 + _ALIKE * np.log2(_rank(_alike(page, lines), lines >= scene.begin))
    scores[(roles & _bits(Role.QUIET) != 0) & ~found] *= _QUIET
    over = roles & _bits(Role.ENDED, Role.FAILED) != 0
    scores[over] = np.minimum(scores[over] + ((lines >= scene.end) & (lines <= scene.last))[over], _END_AT_MOST)
    before = np.where(lines >= scene.earlier, _EARLIER[0], _EARLIER[1])
    place = np.where(lines > scene.last, _AFTER, np.where(lines >= scene.begin, 1.0, before))
    scores *= np.where(found, 1.0, place)
    numbers = np.append(page.numbers, page.numbers[-1:] + 1)
    coming = np.searchsorted(scene.ends, lines)
    until = np.append(scene.ends, len(page.numbers))[coming]
    away = np.maximum(numbers[until] - numbers[lines] - _NEAR_FREE, 0)
    scores *= 1 + _NEAR * np.exp(-away / _NEAR_LINES)
    news = page.news[lines]
    scores *= np.where(news == UNSEEN, _UNSEEN, np.where((news == SEEN) & ~found, _SEEN, 1.0))
    return scores


def _said(page: Page, scene: _Scene) -> Scores:
    """What the marks of each marked line say, by their weight and by how rare they are in this log."""
    lines, marks = page.hits
    common = np.bincount(marks, minlength=len(MARKS))[marks]
    said = _WEIGHT[marks] / (1 + _COMMON * np.log2(common) + _LATER * np.log2(_rank(marks, lines >= scene.begin)))
    said = np.where(_BITS[marks] & _bits(Role.FOUND), _WEIGHT[marks], said)
    firsts = np.flatnonzero(np.diff(lines, prepend=-1))
    if not len(firsts):
        return np.zeros(0)
    strongest = np.maximum.reduceat(said, firsts)
    return strongest + _ALSO * (np.add.reduceat(said, firsts) - strongest)


def _rank(keys: Indices, late: npt.NDArray[np.bool_]) -> Indices:
    """For each place the how manieth of its key it is, from 1, counted anew where the failed command begins."""
    keys = np.unique(keys, return_inverse=True)[1] * 2 + late
    order = np.argsort(keys, kind="stable")
    firsts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - np.repeat(firsts, np.diff(np.append(firsts, len(keys)))) + 1
    return rank


def _alike(page: Page, lines: Indices) -> Indices:
    """One number for all lines that begin alike, whatever their digits."""
    data = np.frombuffer(page.text, np.uint8)
    places = page.starts[lines][:, None] + np.arange(_ALIKE_BYTES)
    letters = np.where(places < page.starts[lines + 1][:, None], data[np.minimum(places, len(data) - 1)], 0)
    letters[(letters >= ord("0")) & (letters <= ord("9"))] = ord("0")
    words = np.ascontiguousarray(letters.astype(np.uint8)).view(np.uint64)
    return (words * _MIX).sum(axis=1, dtype=np.uint64).view(np.int64)


def _ranked(page: Page, marked: _Marked, scene: _Scene, scores: Scores) -> Iterator[int]:
    """Lines from the best to the worst, some more than once."""
    waiting = _tail(page, scene)
    heapq.heapify(waiting)
    for seed in np.lexsort((marked.lines, -scores)).tolist():
        score, line = float(scores[seed]), int(marked.lines[seed])
        if score <= 0:
            break
        while waiting and -waiting[0][0] > score:
            yield heapq.heappop(waiting)[1]
        yield line
        for worse, other in _reached(page, marked, line, score):
            heapq.heappush(waiting, (-worse, other))
    while waiting:
        yield heapq.heappop(waiting)[1]


def _tail(page: Page, scene: _Scene) -> list[tuple[float, int]]:
    """The lines before the end of the failed command, and their scores below zero: the nearer the better."""
    lines = np.arange(max(scene.begin, scene.end - _TAIL_LINES), scene.end)
    places = np.unique(_alike(page, lines), return_inverse=True)[1]
    repeated = np.where(np.diff(page.starts)[lines] > 1, np.bincount(places)[places] if len(lines) else 0, 1)
    scores = _TAIL * (1 - (scene.end - lines) / _TAIL_LINES)
    scores /= 1 + _REPEATED * np.log2(np.maximum(repeated / 2, 1))
    return list(zip((-scores).tolist(), lines.tolist(), strict=True))


def _reached(page: Page, marked: _Marked, seed: int, score: float) -> Iterator[tuple[float, int]]:
    """The lines around a seed that belong to it, with their scores."""
    verdict = bool(marked.roles[seed] & _bits(Role.VERDICT))
    for back in range(1, (_VERDICT_LINES if verdict else _BEFORE_LINES) + 1):
        line = seed - back
        if line < 0 or page.numbers[line] != page.numbers[seed] - back:
            break
        if back > _BEFORE_LINES and marked.roles[line] & _ABOVE_ENDS:
            break
        yield score * (_BEFORE - (_BACK * back if back<=4 else _BACK*4+.004*(back-4))), line
    section = bool(marked.roles[seed] & _bits(Role.SECTION, Role.VERDICT))
    titled = page.line(seed).startswith(_TITLE)
    foreign = frames = 0
    for line in range(seed + 1, _reach(page, marked, seed, section=section)):
        text = page.line(line)
        if line > seed + 2 and text.startswith(_RULERS):
            break
        if not (titled or marked.weights[line] > _OWN_SEED or _goes_on(text or _next_text(page, line))):
            foreign += 1 if text or section else 2
            if foreign > _FOREIGN_MOST[section]:
                break
        frames += _is_frame(text)
        lost = _FOREIGN[section] * min(foreign, 6) + _FURTHER * (line - seed) + _FRAME * max(frames - _FRAMES_FREE, 0)
        yield score * (_AFTER_IT - lost) * (_LONG if len(text) > _LONG_BYTES else 1), line


def _reach(page: Page, marked: _Marked, seed: int, *, section: bool) -> int:
    """The line at which a seed's reach ends at the latest: another section, the end of a command, a seed as strong."""
    weight = marked.weights[seed]
    most = _SECTION_LINES if section else next(lines for least, lines in _REACH_LINES if weight > least)
    end = min(seed + most, len(page.numbers))
    within = slice(seed + 1, end)
    stops = marked.roles[within] & _BELOW_ENDS != 0
    stops |= np.diff(page.numbers[seed:end]) != 1
    return seed + 1 + int(np.argmax(stops)) if stops.any() else end


def _goes_on(text: bytes) -> bool:
    """Whether a line seems to belong to those above it."""
    if text.startswith(_LEVELS):
        text = text[text.index(b"]") + 2 :]
    return text[:1] in b" \t" or text.startswith(_GOES_ON) or _PLACE.search(text) is not None


def _is_frame(text: bytes) -> bool:
    return text.lstrip().startswith(_FRAMES) or b":in " in text


def _next_text(page: Page, line: int) -> bytes:
    """The next line that is not empty, of the two behind an empty one."""
    behind = (page.line(other) for other in range(line + 1, min(line + 3, len(page.numbers))))
    return next((text for text in behind if text), b"")


def _gaps(page: Page, kept: set[int], room: int) -> list[int]:
    """What is missing in small gaps between kept lines, as far as there is room."""
    lines = sorted(kept)
    gaps: list[int] = []
    for line, other in zip(lines, lines[1:], strict=False):
        if 1 < other - line <= _GAP_LINES + 1 and page.numbers[other] - page.numbers[line] == other - line:
            size = int(page.starts[other] - page.starts[line + 1])
            if size <= room:
                room -= size
                gaps += range(line + 1, other)
    return gaps
