"""The analysis of one failed log, fed in chunks: what Evidence says of it, in memory that does not grow with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypedDict

import numpy as np
import re2

from analytics.logs.armour import Armour
from analytics.logs.marks import Role, having
from analytics.logs.mask import mask, masked_hashes
from analytics.logs.normalise import NORMALISER_VERSION, Block, Normaliser
from analytics.logs.pages import SEEN, UNKNOWN, UNSEEN, News, Page, joined, page_of, picked, starts_of
from analytics.logs.passing import PassingIndex
from analytics.logs.salient import choose
from models.records.evidence import EXCERPT_BYTES, Line

_SHARE: Final = 0.14  # of a log, that an excerpt takes at most,
_LEAST_BYTES: Final = 4500  # but of a short log more
_TEMPLATE_CHARACTERS: Final = 300

_WHOLE_BYTES: Final = 4 << 20  # so much of the end of a log is held whole,
_THIN_BYTES: Final = 64 << 10  # and of each older block so much,
_OLD_BYTES: Final = 2 << 20  # of all of them so much at most, then half of it

_CODE: Final = re2.compile(
    rb"\b[Ee]xit(?:ed)?\b[^0-9\n]{0,30}?(-?[0-9]{1,10})\b|\bcode: ([0-9]{1,3})\b|\bError ([0-9]{1,3})$"
)


class Found(TypedDict):
    """What a log says, by the names of Evidence."""

    lines: tuple[Line, ...]
    exit_code: int | None
    log_lines: int
    log_bytes: int
    cut: bool
    compared: bool
    template: str | None
    normaliser: int


def _find_nothing(_text: bytes) -> Iterable[int]:
    return ()


class Analysis:
    """Reads one log.

    `find` tells where in some lines those begin that a signature knows; `passing` is the index of the job's last
    passing log; `redact` is applied to all text that is kept, and to nothing else.
    """

    def __init__(
        self,
        *,
        find: Callable[[bytes], Iterable[int]] = _find_nothing,
        redact: Callable[[str], str] = str,
        passing: PassingIndex | None = None,
    ) -> None:
        self._find = find
        self._redact = redact
        self._passing = passing
        self._normaliser = Normaliser()
        self._armour = Armour()
        self._whole: deque[Page] = deque()
        self._thin: list[Page] = []
        self._codes: dict[Role, int] = {}

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the log."""
        for block in self._normaliser.feed(chunk):
            self._add(block)

    def finish(self, *, cut: bool = False) -> Found:
        """What was found, when the log has ended. `cut` says that not all of it was fed."""
        for block in self._normaliser.finish():
            self._add(block)
        lines, template = self._excerpt()
        return Found(
            lines=lines,
            exit_code=self._codes.get(Role.FAILED, self._codes.get(Role.ENDED)),
            log_lines=self._normaliser.lines,
            log_bytes=self._normaliser.raw_bytes,
            cut=cut,
            compared=self._passing is not None,
            template=template,
            normaliser=NORMALISER_VERSION,
        )

    def _add(self, block: Block) -> None:
        text = self._armour.without_keys(block.text)
        starts = starts_of(text)
        page = page_of(block._replace(text=text), starts, self._find(text), self._news(text, len(starts) - 1))
        self._note_codes(page)
        self._whole.append(page)
        while sum(len(held.text) for held in self._whole) > _WHOLE_BYTES:
            self._thin.append(_thinned(self._whole.popleft(), _THIN_BYTES))
        if sum(len(held.text) for held in self._thin) > _OLD_BYTES:
            self._thin = [_thinned(joined(self._thin), _OLD_BYTES // 2)]

    def _news(self, text: bytes, lines: int) -> News:
        if self._passing is None:
            return np.full(lines, UNKNOWN, np.int8)
        hashes = masked_hashes(text)
        seen = np.where(self._passing.contains(hashes), SEEN, UNSEEN)
        return np.where(self._passing.knows(hashes), seen, UNKNOWN).astype(np.int8)

    def _note_codes(self, page: Page) -> None:
        """The last exit codes that the platform and that tools tell of."""
        for role in (Role.FAILED, Role.ENDED):
            for line in having(page.hits, role).tolist():
                for code in _codes(page.line(line))[-1:]:
                    self._codes[role] = int(code)

    def _excerpt(self) -> tuple[tuple[Line, ...], str | None]:
        """The lines to keep, redacted, and the template of the most telling one."""
        pages = [*self._thin, *self._whole]
        if not pages:
            return (), None
        page = joined(pages)
        room = min(EXCERPT_BYTES, max(_LEAST_BYTES, int(self._normaliser.raw_bytes * _SHARE)))
        while True:
            chosen, best = choose(page, room)
            lines = tuple(self._lines(picked(page, chosen)))
            size = sum(len(line.text.encode()) + 1 for line in lines)
            if size <= EXCERPT_BYTES:
                break
            room = room * EXCERPT_BYTES // (size + 1)  # redaction made it longer
        number = None if best is None else int(page.numbers[best])
        return lines, next((_template(line.text) for line in lines if line.number == number), None)

    def _lines(self, kept: Page) -> Iterator[Line]:
        """The lines of a page, redacted, run by run: a secret may be longer than a line."""
        new = kept.news == UNSEEN if self._passing else np.ones(len(kept.news), np.bool_)
        breaks = np.flatnonzero(np.diff(kept.numbers) != 1) + 1
        for run in np.split(np.arange(len(kept.numbers)), breaks) if len(kept.numbers) else ():
            texts = [kept.line(int(index)).decode() for index in run]
            for at, text in _in_place(texts, self._redact("\n".join(texts)).split("\n")):
                yield Line(int(kept.numbers[run[at]]), text, bool(new[run[at]]))


def _in_place(texts: Sequence[str], redacted: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Which of `texts` each redacted line was. Where a secret took lines with it, those behind it keep their places."""
    gone = len(texts) - len(redacted)
    same = (
        next((at for at, (old, new) in enumerate(zip(texts, redacted, strict=False)) if old != new), 0) if gone else 0
    )
    for at, text in enumerate(redacted):
        yield at + (gone if at > same else 0), text


def _codes(line: bytes) -> list[bytes]:
    """Exit codes in one line, but not 0."""
    return [code for codes in _CODE.findall(line) for code in codes if code.strip(b"0")]


def _template(text: str) -> str:
    return mask(text.strip())[:_TEMPLATE_CHARACTERS]


def _thinned(page: Page, most_bytes: int) -> Page:
    return picked(page, choose(page, most_bytes)[0])
