r"""Patterns over lines of text: what is taken, and one pass that finds every line that any of them matches.

A pattern is RE2 (https://github.com/google/re2/wiki/Syntax) and sees one line at a time, as UTF-8 bytes: `.` is one
byte, `\s` never is a line break. Hyperscan finds the lines in one pass whatever the number of patterns; RE2 reads
captures from a line that was found. Both are linear in the text, and what would make either large is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import hyperscan
import re2

MOST_CHARACTERS: Final = 1000
MOST_REPEATED: Final = 500
"""The most that the counted repetitions of one pattern may come to: `.{1,200}` counts 200."""
_PROGRAM_BYTES: Final = 4 << 20
_KEPT: Final = 4096

_OPTIONS: Final = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1  # bytes, as Hyperscan sees them
_OPTIONS.log_errors = False
_OPTIONS.max_mem = _PROGRAM_BYTES

_TOKEN: Final = re2.compile(
    r"(?s)(?P<escape>\\[0-9]{1,3}|\\x[0-9A-Fa-f]{2}|\\.)"
    r"|(?P<set>\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\])"
    r"|(?P<open>\((?:\?(?:P?<[A-Za-z_0-9]*>|[imsU-]*:?))?)"
    r"|(?P<close>\))"
    r"|(?P<endless>[*+]\??|\{[0-9]+,\}\??)"
    r"|(?P<counted>\{[0-9]+(?:,[0-9]+)?\}\??)"
    r"|(?P<other>.)"
)
_ON_A_LINE: Final = {r"\s": r"[ \t\r\f]", r"\W": r"[^\w\n]", r"\D": r"[^\d\n]", r"\v": r"\x0b"}
"""What would match a line break as well, in one engine or both."""


@lru_cache(_KEPT)
def compiled(pattern: str) -> tuple[bytes, Any]:
    """`pattern` as both engines take it, and compiled by RE2.

    Raises:
        ValueError: it is no RE2, or would be dear to match; the message says which and quotes it.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise ValueError(_about(pattern, f"it is longer than {MOST_CHARACTERS} characters"))
    try:
        re2.compile(pattern.encode(), _OPTIONS)  # as it was written, so that what is wrong is told in its words
        source = _on_a_line(pattern)
        single = re2.compile(b"(?m)" + source, _OPTIONS)
    except re2.error as error:
        raise ValueError(_about(pattern, _words(error))) from None
    except ValueError as error:
        raise ValueError(_about(pattern, str(error))) from None
    if single.search(b"") is not None:
        raise ValueError(_about(pattern, "it matches the empty line, and so every line"))
    return source, single


def _about(pattern: str, reason: str) -> str:
    shown = pattern if len(pattern) <= 80 else pattern[:77] + "..."  # noqa: PLR2004 - a line of a terminal
    return f"pattern {shown!r}: {reason}"


def _words(error: Exception) -> str:
    told = error.args[0] if error.args else "it is no RE2"
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def _on_a_line(pattern: str) -> bytes:
    """`pattern` in a form that cannot leave its line, once its repetitions are known to be harmless."""
    parts: list[str | bytes] = []
    endless = [False]  # by open group: whether something in it is repeated without end
    closed, repeated = False, 0  # whether the last token closed a group with an endless repetition in it
    for found in _TOKEN.finditer(pattern):
        kind, token = found.lastgroup, found.group()
        if kind == "open":
            _refuse_dotall(token)
            endless.append(False)
        elif kind == "endless":
            if closed:
                raise ValueError("a repetition without end inside another one")
            endless[-1] = True
        elif kind == "counted":
            repeated += int(token.rstrip("}?").lstrip("{").split(",")[-1])
        was, closed = closed, False
        if kind == "close" and len(endless) > 1:
            closed = endless.pop()
            endless[-1] = endless[-1] or closed
        elif kind == "counted":
            closed = was
        parts.append(_part(str(kind), token))
    if repeated > MOST_REPEATED:
        raise ValueError(f"its counted repetitions come to {repeated}, more than {MOST_REPEATED}")
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)


def _refuse_dotall(token: str) -> None:
    flags = token.removeprefix("(?").rstrip(":)")
    if token.startswith("(?") and not token.startswith(("(?P", "(?<")) and set(flags) & set("smU"):
        raise ValueError(f"the flags of {token!r} are not for lines; only i is")


def _part(kind: str, token: str) -> str | bytes:
    if kind == "escape":
        if token in {r"\A", r"\z", r"\Q", r"\C"}:
            raise ValueError(f"{token} is not for lines; ^ and $ are")
        return _ON_A_LINE.get(token, token)
    if kind == "set":
        if not token.isascii():
            raise ValueError(f"{token} holds more than ASCII; write (a|b) instead")
        token = token.replace(r"\s", r" \t\r\f").replace(r"\v", r"\x0b")
        return token[:-1] + r"\n]" if token.startswith("[^") else token
    return token if token.isascii() else b"(?:" + token.encode() + b")"


class Patterns:
    """Many patterns as one Hyperscan database. May be used by several threads."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Compile `patterns`; what is found is told by their places in the sequence.

        Raises:
            ValueError: Hyperscan does not take one of them.
        """
        self._singles: Final = [compiled(pattern)[1] for pattern in patterns]
        self._threads: Final = threading.local()
        self._database: Final = _database(patterns) if patterns else None

    def ends(self, text: bytes) -> list[tuple[int, int]]:
        """Where matches in `text` end, in order: offset behind the last byte, and pattern."""
        if self._database is None or not text:
            return []
        try:
            scratch = self._threads.scratch
        except AttributeError:
            scratch = self._threads.scratch = hyperscan.Scratch(self._database)
        ends: list[tuple[int, int]] = []
        self._database.scan(text, lambda number, _start, end, *_: ends.append((end, number)), scratch=scratch)
        ends.sort()
        return ends

    def captures(self, number: int, line: bytes) -> tuple[tuple[str, str], ...] | None:
        """What the named groups of a pattern capture in `line`, in order of name; None where it does not match."""
        found = self._singles[number].search(line)
        if found is None:
            return None
        groups = ((name, value) for name, value in found.groupdict().items() if value is not None)
        return tuple(sorted((_text(name), _text(value)) for name, value in groups))


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _database(patterns: Sequence[str]) -> Any:  # noqa: ANN401 - Hyperscan has no types
    """One database of all `patterns`; if there is none, the first that is to blame is named."""
    try:
        return _compile(patterns)
    except hyperscan.error:
        for pattern in patterns:
            try:
                _compile([pattern])
            except hyperscan.error as error:
                raise ValueError(_about(pattern, f"Hyperscan: {_words(error)}")) from None
        raise


def _compile(patterns: Sequence[str]) -> Any:  # noqa: ANN401 - as above
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=[compiled(pattern)[0] for pattern in patterns],
        ids=list(range(len(patterns))),
        flags=[hyperscan.HS_FLAG_MULTILINE] * len(patterns),
    )
    return database
