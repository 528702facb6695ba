"""Private keys in armour are taken out of a log before lines are chosen.

Redaction knows a key by its first line. An excerpt may hold some line from its middle, which looks like nothing.
"""

from __future__ import annotations

from typing import Final

_BEGIN: Final = b"-----BEGIN "
_END: Final = b"-----END "
_KEY: Final = b"PRIVATE KEY"
_MOST_LINES: Final = 200  # of a key whose end is missing
INSTEAD: Final = b"[private key]"


class Armour:
    """Follows one log, whole lines at a time."""

    def __init__(self) -> None:
        self._left = 0  # lines of a key that may still follow

    def without_keys(self, text: bytes) -> bytes:
        """`text` with an empty line for each line of a key, and a word instead of its first."""
        if not self._left and _KEY not in text:
            return text
        return b"\n".join([self._line(line) for line in text.split(b"\n")[:-1]]) + b"\n"

    def _line(self, line: bytes) -> bytes:
        begins = line.find(_BEGIN)
        if begins >= 0 and _KEY in line[begins:]:
            self._left = 0 if _END in line[begins:] else _MOST_LINES
            return INSTEAD
        if self._left:
            self._left = 0 if _END in line else self._left - 1
            return b""
        return line
