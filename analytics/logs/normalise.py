"""The text of a log, as a person reads it: no colours, no progress bars, no stamps of the platform that kept it.

Bytes in any encoding go in, UTF-8 comes out with a line for each line of the log, so that the number of a line is its
number in the log as the platform gave it. A line that says nothing (a section marker, a bar that was wiped) becomes an
empty one. What is done to a line depends on that line alone, so any division into chunks gives the same text; and
doing it again changes nothing.

It is done in bulk: patterns run in Rust's regex over a megabyte at a time, linear whatever the text holds, and Python
touches single lines only where they hold a carriage return or a backspace.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import polars as pl

NORMALISER_VERSION: Final = 1
LINE_BYTES: Final = 4096  # no line of the text is longer, the mark in it included
CUT: Final = b" [...] "  # stands for what was left out of the middle of a line

_BLOCK_BYTES: Final = 1 << 20
_RAW_LINE_BYTES: Final = 64 << 10  # of a longer one, colours and bars included, only both ends are looked at
_HEAD_BYTES: Final = 3072  # of a line that is cut, what stands before the mark
_TAIL_BYTES: Final = LINE_BYTES - _HEAD_BYTES - len(CUT)
_CONTINUES: Final = range(0x80, 0xC0)  # a byte that begins no character of UTF-8
_WORD_BYTES: Final = 256  # how far a cut may move so as not to stand within a word

_CONTROLS: Final = bytes({*range(32), 127} - set(b"\t\n\r\b"))

# ECMA-48, and what stands for each: sequences but the two that are looked at next; strings that end with BEL or ST
# (titles, links, Buildkite's time stamps); then what begins the line again, and in the end an ESC that begins nothing.
_ESCAPES: Final = (
    (
        r"\x1b+(?:\[(?:[0-?]*[ -/]*[@-FH-JL-~]|0?K)|[\]_P^X][^\x07\x1b\n]*(?:\x07|\x1b\\)|[#%()*+./-][0-~]|[0-Z\\-~])",
        "",
    ),
    (r"\x1b\[(?:[12]K|[01]?G)", "\r"),
    (r"\x1b(?:\[[0-?]*[GK]?)?", ""),
)
_ERROR: Final = b"##[error]"
_STAMP: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z"
# What platforms put before a line, and lines that only they need.
_PREFIXES: Final = (
    r"(?m)^(?:"
    rf"{_STAMP}(?: [0-9a-f]{{2}}[OE](?:[ +]|$)| |$)"  # GitHub, Azure, GitLab with its stream
    rf"|\[{_STAMP}\](?: |$)"  # Jenkins
    r"|##\[[a-z]+\]"  # GitHub, Azure
    r"|::(?:end)?group::"  # GitHub
    r"|section_(?:start|end):[0-9]+:[^\n]*"  # GitLab
    r"|travis_(?:fold|time):[^\n]*"
    r"|\[Pipeline\][^\n]*"  # Jenkins
    r")+"
)


class Block(NamedTuple):
    """Some lines of the text, each with its line break."""

    first: int  # the number of its first line, from 1
    text: bytes
    errors: tuple[int, ...] = ()  # the lines, by index, that the platform itself calls errors


class Normaliser:
    """Makes the text of one log, which is fed in chunks of any size. Holds about a megabyte of it."""

    def __init__(self) -> None:
        self.lines = 0  # made so far
        self.raw_bytes = 0  # fed so far
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False
        self._rest = bytearray()
        self._long = False  # the rest is a line longer than a block, without its middle

    def feed(self, chunk: bytes) -> Iterator[Block]:
        """The blocks that `chunk` completes. Where a block ends depends on the log, not on its chunks."""
        self.raw_bytes += len(chunk)
        self._rest += self._decoder.decode(chunk).encode() if self._decoder else chunk
        if not self._begun and len(self._rest) >= len(codecs.BOM_UTF8):
            self._begin()
        while whole := self._take():
            yield self._block(whole)

    def finish(self) -> Iterator[Block]:
        """What is left when the log has ended."""
        if not self._begun:
            self._begin()
        if self._decoder:
            self._rest += self._decoder.decode(b"", final=True).encode()
        while whole := self._take():
            yield self._block(whole)
        if self._rest:
            yield self._block(bytes(self._rest) + (b"" if self._rest.endswith(b"\n") else b"\n"))
            self._rest.clear()

    def _begin(self) -> None:
        self._begun = True
        if self._rest.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
            self._rest = bytearray(self._decoder.decode(bytes(self._rest)).encode())

    def _take(self) -> bytes:
        """The whole lines of the next block, nothing while they are not there."""
        if self._long:
            return self._take_long()
        if len(self._rest) < _BLOCK_BYTES:
            return b""
        end = self._rest.rfind(b"\n", 0, _BLOCK_BYTES) + 1
        if not end:
            self._long = True
            return self._take_long()
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        return whole

    def _take_long(self) -> bytes:
        end = self._rest.find(b"\n") + 1
        if not end:
            del self._rest[_RAW_LINE_BYTES // 2 : -_RAW_LINE_BYTES // 2 - 1]  # still too long to be taken for whole
            return b""
        self._long = False
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        return whole

    def _block(self, whole: bytes) -> Block:
        lines = _lines(whole)
        block = Block(self.lines + 1, _text(lines), _errors(lines))
        self.lines += lines.count(b"\n")
        return block


def normalise(data: bytes) -> bytes:
    """The text of a whole log."""
    normaliser = Normaliser()
    return b"".join(block.text for part in (normaliser.feed(data), normaliser.finish()) for block in part)


def _lines(block: bytes) -> bytes:
    """Some whole lines as a terminal shows them, with what the platform put before them."""
    block = _shortened(block, _RAW_LINE_BYTES, _RAW_LINE_BYTES // 2, _RAW_LINE_BYTES // 2)
    if not block.isascii():
        block = _utf8(block)
    for escapes, instead in _ESCAPES:
        if b"\x1b" in block:
            block = _replaced(block, escapes, instead)
    block = block.translate(None, _CONTROLS)
    block = block.replace(b"\r\n", b"\n") if b"\r" in block else block
    block = _mended(block, b"\b", _rubbed_out)
    block = _mended(block, b"\r", _written_last)
    if b" \n" in block or b"\t\n" in block:
        block = b"\n".join([line.rstrip() for line in block.split(b"\n")])
    return block


def _text(lines: bytes) -> bytes:
    """What was written, without what the platform put before it, in lines of a bearable length."""
    return _shortened(_replaced(lines, _PREFIXES, ""), LINE_BYTES, _HEAD_BYTES, _TAIL_BYTES)


def _errors(lines: bytes) -> tuple[int, ...]:
    """The indices of the lines that GitHub or Azure marked as errors."""
    errors = []
    line = at = 0
    found = lines.find(_ERROR)
    while found >= 0:
        line += lines.count(b"\n", at, found)
        errors.append(line)
        at = found
        found = lines.find(_ERROR, lines.find(b"\n", found))
    return tuple(errors)


def _replaced(block: bytes, pattern: str, instead: str) -> bytes:
    whole: bytes = pl.Series([block]).cast(pl.String).str.replace_all(pattern, instead).cast(pl.Binary)[0]
    return whole


def _utf8(block: bytes) -> bytes:
    """UTF-8, without marks of byte order. A line with a broken character is taken for Windows-1252."""
    try:
        pl.Series([block]).cast(pl.String)
    except pl.exceptions.ComputeError:
        block = b"\n".join([line if line.isascii() else _line_in_utf8(line) for line in block.split(b"\n")])
    return block.replace(codecs.BOM_UTF8, b"")


def _line_in_utf8(line: bytes) -> bytes:
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace").encode()
    return line


def _mended(block: bytes, mark: bytes, mend: Callable[[bytes], bytes]) -> bytes:
    """`block` with `mend` done to each line that holds `mark`; the others cost nothing."""
    pieces: list[bytes] = []
    done = 0
    at = block.find(mark)
    while at >= 0:
        start = block.rfind(b"\n", done, at) + 1
        end = block.find(b"\n", at)
        pieces += block[done:start], mend(block[start:end])
        done = end
        at = block.find(mark, end)
    return b"".join((*pieces, block[done:])) if pieces else block


def _rubbed_out(line: bytes) -> bytes:
    """What backspaces leave: each takes back the character before it, as far as the line was begun."""
    return b"\r".join([_taken_back(piece) if b"\b" in piece else piece for piece in line.split(b"\r")])


def _taken_back(piece: bytes) -> bytes:
    first, *others = piece.decode().split("\b")
    shown = list(first)
    back = 0
    for other in others:
        back += 1
        if other:
            del shown[-back:]
            shown += other
            back = 0
    return "".join(shown[: max(len(shown) - back, 0)]).encode()


def _written_last(line: bytes) -> bytes:
    """What carriage returns leave: the last that was written over the line, whole."""
    return next((piece for piece in reversed(line.split(b"\r")) if piece.strip()), b"")


def _shortened(block: bytes, most: int, head: int, tail: int) -> bytes:
    """`block` without the middle of the lines that are longer than `most`. Looks at a byte in `most` or so."""
    pieces: list[bytes] = []
    done = at = 0
    while len(block) - at > most:
        end = block.rfind(b"\n", at, at + most + 1)
        if end < 0:
            end = block.find(b"\n", at + most)
            pieces += block[done : _word_end(block, at + head)], CUT
            done = _word_start(block, end - tail)
        at = end + 1
    return b"".join((*pieces, block[done:])) if pieces else block


def _word_end(block: bytes, at: int) -> int:
    """Where to stop before `at`: behind a word, or behind a character."""
    end = block.rfind(b" ", at - _WORD_BYTES, at)
    if end >= 0:
        return end
    while block[at] in _CONTINUES:
        at -= 1
    return at


def _word_start(block: bytes, at: int) -> int:
    """Where to go on after `at`: at a word, or at a character."""
    start = block.find(b" ", at, at + _WORD_BYTES) + 1
    if start:
        return start
    while block[at] in _CONTINUES:
        at += 1
    return at
