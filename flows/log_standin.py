"""What stands in for the analysis of logs (analytics/logs) until that is there: the last lines, and no comparison."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from models.records.evidence import EXCERPT_BYTES, Line

_MOST_LINES: Final = 200
_MOST_LINE_BYTES: Final = 2000


class Tail:
    """The last lines of a log."""

    def __init__(self, passing: bytes | None) -> None:
        digests = passing or b""
        self._known = {digests[at : at + 8] for at in range(0, len(digests), 8)}
        self._compared = passing is not None
        self._rest = b""
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=_MOST_LINES)
        self._count = self._bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take in the next piece of the log."""
        self._bytes += len(chunk)
        *whole, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:_MOST_LINE_BYTES]
        for line in whole:
            self._count += 1
            self._lines.append((self._count, line[:_MOST_LINE_BYTES].rstrip(b"\r")))

    def finish(self, *, cut: bool) -> Mapping[str, Any]:
        """Those that an excerpt has room for."""
        if self._rest:
            self.feed(b"\n")
        lines: list[Line] = []
        size = 0
        for number, data in reversed(self._lines):
            size += len(data) + 1
            if size > EXCERPT_BYTES:
                break
            lines.append(Line(number, data.decode("utf-8", "replace"), _digest(data) not in self._known))
        return {
            "lines": tuple(reversed(lines)),
            "log_lines": self._count,
            "log_bytes": self._bytes,
            "compared": self._compared,
            "cut": cut,
        }


class Hashes:
    """Hashes of the lines of a log."""

    def __init__(self) -> None:
        self._rest = b""
        self._digests: set[bytes] = set()

    def feed(self, chunk: bytes) -> None:
        """Take in the next piece of the log."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self._digests.update(_digest(line[:_MOST_LINE_BYTES].rstrip(b"\r")) for line in whole)

    def finish(self) -> bytes:
        """All of them."""
        return b"".join(sorted(self._digests))


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=8).digest()
