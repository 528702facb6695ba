"""Pages: lines of a log with their numbers and marks, as arrays, so that a megabyte costs a few milliseconds.

A page may have gaps, where lines were left out; the numbers tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from analytics.logs.marks import FOUND, NEW, TOLD, Hits, Indices, hits_of, lines_at, scan
from analytics.logs.normalise import Block

SEEN: Final = -1  # the last passing log had the line
UNKNOWN: Final = 0  # nobody can tell
UNSEEN: Final = 1  # it did not have it

News = npt.NDArray[np.int8]


class Page(NamedTuple):
    """Some lines of a log."""

    text: bytes  # each line ends with its line break
    starts: Indices  # where the lines begin, and where the last one ends
    numbers: Indices  # of the lines in the log, from 1, ascending
    news: News
    hits: Hits

    def line(self, index: int) -> bytes:
        """One line, without its line break."""
        return self.text[self.starts[index] : self.starts[index + 1] - 1]


def starts_of(text: bytes) -> Indices:
    """Where the lines of `text` begin, and where the last one ends."""
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    return np.concatenate((np.zeros(1, np.int64), breaks + 1))


def page_of(block: Block, starts: Indices, found: Iterable[int], news: News) -> Page:
    """The page of a block. `found` are offsets of lines that signatures know."""
    marked = scan(block.text, starts)
    known = np.unique(lines_at(np.fromiter(found, np.int64), starts))
    told = np.array(block.errors, np.int64)
    fresh = _fresh(starts, news)
    others = [np.full(len(lines), mark) for lines, mark in ((known, FOUND), (told, TOLD), (fresh, NEW))]
    hits = hits_of(np.concatenate((marked.lines, known, told, fresh)), np.concatenate((marked.marks, *others)))
    return Page(block.text, starts, np.arange(block.first, block.first + len(starts) - 1), news, hits)


def _fresh(starts: Indices, news: News) -> Indices:
    """The new lines that say something. Where most are new the passing log was another one: then none."""
    says = np.diff(starts) > 1
    fresh: Indices = np.flatnonzero(says & (news == UNSEEN))
    return fresh if 2 * len(fresh) <= says.sum() else fresh[:0]


def picked(page: Page, lines: Indices) -> Page:
    """The page with only the lines of the indices `lines`, ascending."""
    text = b"".join(page.text[start:end] for start, end in zip(page.starts[lines], page.starts[lines + 1], strict=True))
    lengths = page.starts[lines + 1] - page.starts[lines]
    place = np.searchsorted(lines, page.hits.lines)
    stays = np.isin(page.hits.lines, lines)
    return Page(
        text=text,
        starts=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
        numbers=page.numbers[lines],
        news=page.news[lines],
        hits=Hits(place[stays], page.hits.marks[stays]),
    )


def joined(pages: Sequence[Page]) -> Page:
    """One page of several that follow one another."""
    lines = np.cumsum([0, *(len(page.numbers) for page in pages)])
    offsets = np.cumsum([0, *(len(page.text) for page in pages)])
    return Page(
        text=b"".join(page.text for page in pages),
        starts=np.concatenate(
            [page.starts[:-1] + at for page, at in zip(pages, offsets, strict=False)] + [offsets[-1:]]
        ),
        numbers=np.concatenate([page.numbers for page in pages]),
        news=np.concatenate([page.news for page in pages]),
        hits=Hits(
            np.concatenate([page.hits.lines + at for page, at in zip(pages, lines, strict=False)]),
            np.concatenate([page.hits.marks for page in pages]),
        ),
    )
