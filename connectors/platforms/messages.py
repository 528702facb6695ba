r"""What stands under "message" in an array of objects, read while the array comes: a step's output at CircleCI.

    [{"message":"npm ERR! code ERESOLVE\r\n","time":"2026-11-26T03:50:01.123Z","type":"out"}, ...]

https://circleci.com/docs/api/v1/index.html#single-job: what an action's `output_url` answers with. An output is one
message of any length, or many; neither the array nor a message is ever held whole.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Final

from models.records.errors import MalformedPayload

_WANTED: Final = "message"
_STRUCTURE: Final = frozenset("{}[],:")
_MAX_NAME: Final = 64  # characters; what is longer is no name of ours
_IN_OBJECT: Final = 2  # an object in the array
_SHORT, _LONG = len(r"\n"), len(r"\u0000")
_FIRST_HALVES: Final = (r"\ud8", r"\ud9", r"\uda", r"\udb")  # of what is written as two escapes


class Messages:
    """The messages of an array as one text."""

    def __init__(self) -> None:
        self.ended = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""  # the beginning of an escape
        self._depth = 0
        self._last = ""  # structural character
        self._name = ""  # of the field that we are in
        self._string = ""  # what we are in: "", "name" or "value"

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """What `chunk` holds of messages.

        Raises:
            MalformedPayload: not an array, or text with an escape that JSON does not have.
        """
        text, self._held = self._held + self._decode(chunk), ""
        at = 0
        while at < len(text) and not self.ended:
            if not self._string:
                at = self._outside(text, at)
                continue
            end = _end_of_string(text, at)
            part = text[at:] if end < 0 else text[at:end]
            if end < 0:
                whole = _whole_escapes(part)
                part, self._held = part[:whole], part[whole:]
            if self._string == "name":
                self._name = (self._name + part)[:_MAX_NAME]
            elif part and self._name == _WANTED:
                yield _unescaped(part)
            at, self._string = (len(text), self._string) if end < 0 else (end + 1, "")

    def _outside(self, text: str, at: int) -> int:
        """Go on into the next string, or to the end of `text`; where that is."""
        end = text.find('"', at)
        for character in text[at:] if end < 0 else text[at:end]:
            if character in _STRUCTURE:
                self._structure(character)
        if end < 0 or self.ended:
            return len(text)
        if not self._depth:
            raise MalformedPayload("an array was expected")
        self._string = "value"
        if self._depth == _IN_OBJECT and self._last in "{,":
            self._string, self._name = "name", ""
        return end + 1

    def _structure(self, character: str) -> None:
        if not self._depth and character != "[":
            raise MalformedPayload("an array was expected")
        self._last = character
        self._depth += (character in "{[") - (character in "}]")
        self.ended = self.ended or not self._depth


def _end_of_string(text: str, at: int) -> int:
    """Where the quote stands that ends a string of which `text` has the rest from `at` on; -1 where it has not."""
    end = text.find('"', at)
    while end >= 0 and _is_escaped(text, at, end):
        at = end + 1
        end = text.find('"', at)
    return end


def _is_escaped(text: str, start: int, at: int) -> bool:
    """Whether the backslashes right before `at`, from `start` on, escape what stands there."""
    return (at - start - len(text[start:at].rstrip("\\"))) % 2 == 1


def _whole_escapes(part: str) -> int:
    """Up to where `part` of a string can be read if more of it follows: an escape, or a pair of them, stays whole."""
    at = part.rfind("\\")
    if at < 0 or _is_escaped(part, 0, at):
        return len(part)
    pair = _begins_pair(part, at)
    needed = 2 * _LONG if pair else _LONG if part.startswith(r"\u", at) else _SHORT
    if len(part) - at >= needed:
        return len(part)
    before = at - _LONG
    waits = not pair and before >= 0 and _begins_pair(part, before) and not _is_escaped(part, 0, before)
    return before if waits else at


def _begins_pair(part: str, at: int) -> bool:
    return part[at : at + _LONG].lower().startswith(_FIRST_HALVES)


def _unescaped(part: str) -> bytes:
    if "\\" not in part:
        return part.encode("utf-8", "replace")
    try:
        text: str = json.loads(f'"{part}"', strict=False)
    except ValueError:
        raise MalformedPayload("text with an escape that JSON does not have") from None
    return text.encode("utf-8", "replace")
