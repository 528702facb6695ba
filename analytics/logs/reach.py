"""What belongs to a line that states an error: how far before and behind it, and how surely.

Each line reached has a share of the score of the one it belongs to. Behind it goes on what is indented, framed, a
diff or a place in the source; a section goes on until a ruler, another section or an end. What belongs to a failed
test may stand above the verdict, up to the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import re2

from analytics.logs.marks import Role
from analytics.logs.pages import Page
from analytics.logs.seeds import Marked, bits

_ABOVE: Final = 0.7
_EACH_ABOVE: Final = 0.08  # lost with each line up,
_EACH_FURTHER_ABOVE: Final = 0.004  # and with each more than the next four, which only a verdict reaches
_ABOVE_LINES: Final = 4
_ABOVE_VERDICT_LINES: Final = 60

_BELOW: Final = 0.97
_EACH_BELOW: Final = 0.001  # lost with each line down,
_EACH_FRAME: Final = 0.006  # with each stack frame,
_FRAMES_FREE: Final = 12  # but not with so many,
_FOREIGN: Final = {True: 0.03, False: 0.07}  # and with each line that does not seem to belong: in a section, elsewhere
_FOREIGN_COUNTED: Final = 6
_FOREIGN_LINES: Final = {True: 12, False: 6}  # after more the reach ends
_SECTION_LINES: Final = 200
_REACH_LINES: Final = ((3.5, 60), (2.0, 25), (-1.0, 10))  # of another whose weight is above the first number
_ERROR: Final = 3.5  # a line of more weight goes on a list of errors
_LONG: Final = 0.6  # the share that is left to a long line, such as the command that failed
_LONG_BYTES: Final = 1500

_PLACE: Final = re2.compile(rb"[.]\w{1,5}[:(]\d+|:\d+:in\b|\bline \d+")
_GOES_ON: Final = (
    *(b"at ", b"from ", b"in ", b"+", b"-", b"E ", b">", b"|", b"#", b"@@", b"^", b"~", b"...", b'"', b"'", b"="),
    *(b"Caused by", b'File "', b"note:", b"help:", b"See ", b"expected", b"got", b"Did you"),
)
_FRAMES: Final = (b"at ", b"from ", b'File "')
_RULERS: Final = (
    *(b"=====", b"-----", b"*****", b"_____", b"#####"),
    *(b"Finished in", b"Ran ", b"Tests:", b"Tests run", b"test result"),
)
_LEVELS: Final = tuple(b"[info] [warn] [error] [debug] [INFO] [WARN] [WARNING] [ERROR] [DEBUG]".split())
_TITLE: Final = b"_____"  # pytest

_ENDS_ABOVE: Final = bits(Role.VERDICT, Role.SECTION, Role.QUIET, Role.STEP, Role.ENDED, Role.FAILED)
_ENDS_BELOW: Final = bits(Role.VERDICT, Role.SECTION, Role.ENDED, Role.FAILED)


def above(page: Page, marked: Marked, seed: int) -> Iterator[tuple[float, int]]:
    """The lines before the line `seed` that belong to it, the nearest first: their shares and indices."""
    verdict = marked.roles[seed] & bits(Role.VERDICT)
    for back in range(1, (_ABOVE_VERDICT_LINES if verdict else _ABOVE_LINES) + 1):
        line = seed - back
        if line < 0 or page.numbers[line] != page.numbers[seed] - back:
            return
        if back > _ABOVE_LINES and marked.roles[line] & _ENDS_ABOVE:
            return
        lost = _EACH_ABOVE * min(back, _ABOVE_LINES) + _EACH_FURTHER_ABOVE * max(back - _ABOVE_LINES, 0)
        yield _ABOVE - lost, line


def below(page: Page, marked: Marked, seed: int) -> Iterator[tuple[float, int]]:
    """The lines behind the line `seed` that belong to it, the nearest first: their shares and indices."""
    section = bool(marked.roles[seed] & bits(Role.SECTION, Role.VERDICT))
    titled = page.line(seed).startswith(_TITLE)
    foreign = frames = 0
    for line in range(seed + 1, _end(page, marked, seed, section=section)):
        text = page.line(line)
        if line > seed + 2 and text.startswith(_RULERS):
            return
        if not (titled or marked.weights[line] > _ERROR or _goes_on(text or _next_text(page, line))):
            foreign += 1 if text or section else 2
            if foreign > _FOREIGN_LINES[section]:
                return
        frames += _is_frame(text)
        lost = _EACH_BELOW * (line - seed) + _EACH_FRAME * max(frames - _FRAMES_FREE, 0)
        lost += _FOREIGN[section] * min(foreign, _FOREIGN_COUNTED)
        yield (_BELOW - lost) * (_LONG if len(text) > _LONG_BYTES else 1), line


def _end(page: Page, marked: Marked, seed: int, *, section: bool) -> int:
    """The line that a seed does not reach: of another section, behind an end or a gap, or too far down."""
    weight = marked.weights[seed]
    most = _SECTION_LINES if section else next(lines for least, lines in _REACH_LINES if weight > least)
    end = min(seed + most, len(page.numbers))
    stops = (marked.roles[seed + 1 : end] & _ENDS_BELOW != 0) | (np.diff(page.numbers[seed:end]) != 1)
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
