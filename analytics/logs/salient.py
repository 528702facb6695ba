"""Which lines of a failed log to keep: those that state the cause, what belongs to them, and the end.

Each marked line is a seed with a score (seeds.py) and passes it on, lessened, to the lines that belong to it
(reach.py). The lines before the end of the failed command have a score of their own. First the lines that signatures
know are kept, then the best of all until the excerpt is full. Seeds are expanded in the order of their scores, so that
the work is that of the excerpt and not that of the log.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Final

import numpy as np

from analytics.logs.marks import Indices, Role
from analytics.logs.pages import SEEN, Page
from analytics.logs.reach import above, below
from analytics.logs.seeds import Marked, Scene, Scores, alike, bits, marked_lines, most_telling, scene_of, scores_of

_TAIL: Final = 4.0  # the score of the last line before the end of the failed command; it falls to nothing
_TAIL_LINES: Final = 80  # on this way,
_REPEATED: Final = 0.35  # and faster with each doubling of the lines there that begin alike
_QUIET: Final = 0.6  # what is left to a line that says that all is well, or that the last passing log had
_KNOWN_SHARE: Final = 0.25  # of the excerpt, for lines that signatures know, wherever they stand
_FILL_SHARE: Final = 0.05  # of the excerpt, kept back to close small gaps
_GAP_LINES: Final = 2
_TOGETHER_LINES: Final = 4
_SMALL_BYTES: Final = 200  # where not even such a line has room the excerpt is full


def choose(page: Page, most_bytes: int) -> tuple[Indices, int | None]:
    """The lines of `page` to keep, in at most `most_bytes` with their line breaks, and the most telling line of all."""
    marked = marked_lines(page)
    scene = scene_of(page, marked)
    scores = scores_of(page, marked, scene)
    sizes = np.diff(page.starts)
    spare = int(most_bytes * _FILL_SHARE)
    kept = _known(page, marked, int(most_bytes * _KNOWN_SHARE))
    room = most_bytes - spare - int(sizes[sorted(kept)].sum())
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
    return _without_blanks(page, kept), most_telling(marked, scores)


def _known(page: Page, marked: Marked, room: int) -> set[int]:
    """The lines that signatures know, as far as there is room: of those that begin alike the last, the latest first.

    Those close to one go with it: a line may prove something only with another, or without it.
    """
    lines = marked.having(Role.FOUND)[::-1]
    lasts = np.sort(np.unique(alike(page, lines), return_index=True)[1])
    known: set[int] = set()
    for line in lines[lasts].tolist():
        close = set(lines[np.abs(lines - line) <= _TOGETHER_LINES].tolist()) - known
        room -= sum(int(page.starts[each + 1] - page.starts[each]) for each in close)
        if room < 0:
            break
        known |= close
    return known


def _ranked(page: Page, marked: Marked, scene: Scene, scores: Scores) -> Iterator[int]:
    """Lines from the best to the worst, some more than once."""
    waiting = _tail(page, marked, scene)
    heapq.heapify(waiting)
    for seed in np.lexsort((marked.lines, -scores)).tolist():
        score, line = float(scores[seed]), int(marked.lines[seed])
        if score <= 0:
            break
        while waiting and -waiting[0][0] > score:
            yield heapq.heappop(waiting)[1]
        yield line
        for share, other in chain(above(page, marked, line), below(page, marked, line)):
            heapq.heappush(waiting, (-score * share, other))
    while waiting:
        yield heapq.heappop(waiting)[1]


def _tail(page: Page, marked: Marked, scene: Scene) -> list[tuple[float, int]]:
    """The lines before the end of the failed command, and their scores below zero: the nearer the better."""
    lines = np.arange(max(scene.begin, scene.end - _TAIL_LINES), scene.end)
    places = np.unique(alike(page, lines), return_inverse=True)[1]
    repeated = np.where(np.diff(page.starts)[lines] > 1, np.bincount(places, minlength=1)[places], 1)
    scores = _TAIL * (1 - (scene.end - lines) / _TAIL_LINES)
    scores /= 1 + _REPEATED * np.log2(np.maximum(repeated / 2, 1))
    scores *= np.where((marked.roles[lines] & bits(Role.QUIET) != 0) | (page.news[lines] == SEEN), _QUIET, 1.0)
    return list(zip((-scores).tolist(), lines.tolist(), strict=True))


def _gaps(page: Page, kept: set[int], room: int) -> list[int]:
    """What is missing in small gaps between kept lines, as far as there is room."""
    gaps: list[int] = []
    for line, other in pairwise(sorted(kept)):
        if 1 < other - line <= _GAP_LINES + 1 and page.numbers[other] - page.numbers[line] == other - line:
            size = int(page.starts[other] - page.starts[line + 1])
            if size <= room:
                room -= size
                gaps += range(line + 1, other)
    return gaps


def _without_blanks(page: Page, kept: set[int]) -> Indices:
    """The kept lines, and of empty ones only those that stand alone between two others."""
    says = np.diff(page.starts) > 1
    lines = (line for line in sorted(kept) if says[line] or (line - 1 in kept and says[line - 1] and line + 1 in kept))
    return np.fromiter(lines, np.int64)
