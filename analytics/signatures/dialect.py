r"""What a pattern may be, and the two forms in which the engines get it.

A pattern is RE2 (https://github.com/google/re2/wiki/Syntax) and sees one line at a time, as UTF-8 bytes: `.` is one
byte, `\s` never is a line break. RE2 gets it so that it cannot leave its line. Hyperscan is asked only which line
matches, so it gets a shorter form: a repetition at the very beginning or end (`\S+\.c: error: .+`) decides nothing
about that and costs much. What would make either engine slow or large is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import re2

MOST_CHARACTERS: Final = 1000
MOST_REPEATED: Final = 500
"""The most that the counted repetitions of one pattern may come to: `.{1,200}` counts 200."""
_SHOWN: Final = 80  # characters of a pattern in a message
_PROGRAM_BYTES: Final = 4 << 20
_KEPT: Final = 4096

_OPTIONS: Final = re2.Options()
_OPTIONS.encoding = re2.Options.Encoding.LATIN1  # bytes, as Hyperscan sees them
_OPTIONS.log_errors = False
_OPTIONS.max_mem = _PROGRAM_BYTES

_TOKEN: Final = re.compile(  # over patterns, never over a log, and three times as fast to ask as RE2
    r"(?s)(?P<escape>\\[0-9]{1,3}|\\x[0-9A-Fa-f]{2}|\\.)"
    r"|(?P<set>\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\])"
    r"|(?P<flags>\(\?[imsU-]+\))"
    r"|(?P<open>\((?:\?(?:P?<[A-Za-z_0-9]*>|[imsU-]*:))?)"
    r"|(?P<close>\))"
    r"|(?P<endless>[*+]\??|\{[0-9]+,\}\??)"
    r"|(?P<counted>\?\??|\{[0-9]+(?:,[0-9]+)?\}\??)"
    r"|(?P<anchor>\^|\$)"
    r"|(?P<bar>\|)"
    r"|(?P<other>.)"
)
_ON_A_LINE: Final = {r"\s": r"[ \t\r\f]", r"\W": r"[^\w\n]", r"\D": r"[^\d\n]", r"\v": r"\x0b"}
"""What would match a line break as well, in one engine or both."""
_ANCHORS: Final = frozenset({r"\b", r"\B"})
_NOT_FOR_LINES: Final = frozenset({r"\A", r"\z", r"\Q", r"\E", r"\C"})


class Compiled(NamedTuple):
    """A pattern as RE2 has it, and as Hyperscan is asked for it."""

    single: Any
    searched: bytes


class _Token(NamedTuple):
    kind: str
    text: bytes


@lru_cache(_KEPT)
def compiled(pattern: str) -> Compiled:
    """`pattern` for both engines.

    Raises:
        ValueError: it is no RE2, or would be dear to match; the message quotes it and says why.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise about(pattern, f"it is longer than {MOST_CHARACTERS} characters")
    try:
        re2.compile(pattern.encode(), _OPTIONS)  # as it was written, so that what is wrong is told in its words
        tokens = [_Token(str(found.lastgroup), _on_a_line(found)) for found in _TOKEN.finditer(pattern)]
        _refuse_dear(tokens)
        single = re2.compile(b"(?m)" + _joined(tokens), _OPTIONS)
    except re2.error as error:
        raise about(pattern, words(error)) from None
    except ValueError as error:
        raise about(pattern, str(error)) from None
    if single.search(b"") is not None:
        raise about(pattern, "it matches the empty line, and so every line")
    return Compiled(single, b"|".join(_joined(_shortened(branch)) for branch in _branches(tokens)))


def about(pattern: str, reason: str) -> ValueError:
    """The refusal of `pattern`, quoted as far as a terminal has room for it."""
    shown = pattern if len(pattern) <= _SHOWN else f"{pattern[: _SHOWN - 3]}..."
    return ValueError(f"pattern {shown!r}: {reason}")


def words(error: Exception) -> str:
    """What an engine says of a pattern."""
    told = error.args[0] if error.args else "it is not taken"
    return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)


def _joined(tokens: Sequence[_Token]) -> bytes:
    return b"".join(token.text for token in tokens)


def _on_a_line(found: re.Match[str]) -> bytes:
    """A token that matches what it says within a line, in bytes."""
    kind, text = found.lastgroup, found.group()
    if kind == "escape" and text in _NOT_FOR_LINES:
        raise ValueError(f"{text} is not for lines; ^ and $ are")
    if kind in {"open", "flags"} and not text.startswith(("(?P", "(?<")) and set(text) & set("smU"):
        raise ValueError(f"the flags of {text} are not for lines; only i is")
    if kind == "set":
        if not text.isascii():
            raise ValueError(f"{text} holds more than ASCII; write (a|b) instead")
        text = text.replace(r"\s", r" \t\r\f").replace(r"\v", r"\x0b")
        return f"{text[:-1]}\\n]".encode() if text.startswith("[^") else text.encode()
    if not text.isascii():
        return f"(?:{text})".encode()
    return str(_ON_A_LINE.get(text, text)).encode()


def _refuse_dear(tokens: Sequence[_Token]) -> None:
    """Refuse repetitions without end inside one another, and counted ones that come to too much."""
    endless = [False]  # by open group: whether something in it is repeated without end
    closed, repeated = False, 0  # closed: the last token ended a group with such a repetition in it
    for kind, text in tokens:
        was, closed = closed, False
        if kind == "open":
            endless.append(False)
        elif kind == "close":
            closed = endless.pop()
            endless[-1] = endless[-1] or closed
        elif kind == "endless":
            if was:
                raise ValueError("a repetition without end inside another one")
            endless[-1] = True
        elif kind == "counted" and text.startswith(b"{"):
            repeated += int(text.rstrip(b"}?").lstrip(b"{").split(b",")[-1])
            closed = was
        elif kind == "counted":
            closed = was
    if repeated > MOST_REPEATED:
        raise ValueError(f"its counted repetitions come to {repeated}, more than {MOST_REPEATED}")


def _branches(tokens: Sequence[_Token]) -> Iterator[list[_Token]]:
    """The alternatives of the whole pattern; flags hold from where they stand, also in the later ones."""
    depth, flags = 0, b""
    branch: list[_Token] = []
    for token in tokens:
        depth += (token.kind == "open") - (token.kind == "close")
        if depth == 0 and token.kind == "bar":
            yield branch
            branch = [_Token("flags", flags)] if flags else []
            continue
        branch.append(token)
        if depth == 0 and token.kind == "flags":
            flags = token.text
    yield branch


def _shortened(branch: list[_Token]) -> list[_Token]:
    """`branch` without a repetition that it begins or ends with: what is left matches on the same lines."""
    kept = list(branch)
    first = 1 if kept and kept[0].kind == "flags" else 0
    if first < len(kept) and kept[first].kind == "open" and not _is_choice_or_repeated(kept, first):
        first += 1
    if first + 1 < len(kept) and _is_repetition(kept, first):
        del kept[first + 1]
    end = len(kept) - (kept[-1:] == [_Token("anchor", b"$")])
    at = end - 2 - (end > 0 and kept[end - 1].kind == "close")
    if at > 0 and _is_repetition(kept, at):
        if end == len(kept):
            del kept[at + 1]
        elif kept[at].text == b"." and (at + 2 == end or kept[at - 1].kind == "open"):
            del kept[end:], kept[at + 1]  # whatever follows to the end of the line: `$` says nothing more
    return kept


def _is_repetition(tokens: Sequence[_Token], at: int) -> bool:
    """Whether `x+` stands there."""
    return _is_single(tokens[at]) and tokens[at + 1].text in {b"+", b"+?"}


def _is_single(token: _Token) -> bool:
    return token.kind in {"set", "other"} or (token.kind == "escape" and token.text.decode() not in _ANCHORS)


def _is_choice_or_repeated(tokens: Sequence[_Token], at: int) -> bool:
    """Whether the group that opens there is an alternation or repeated."""
    depth = 0
    for i in range(at, len(tokens)):
        depth += (tokens[i].kind == "open") - (tokens[i].kind == "close")
        if depth == 1 and tokens[i].kind == "bar":
            return True
        if depth == 0:
            return i + 1 < len(tokens) and tokens[i + 1].kind in {"endless", "counted"}
    return True
