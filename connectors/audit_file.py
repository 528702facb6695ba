"""The file in which seals of the audit stand outside the database: a line each, only ever added to, fsynced.

A line counts with the line break at its end. What a crash left without one is cut off by whoever writes next.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from models.records.errors import Unavailable

_OWNER_ONLY: Final = 0o600
_BLOCK: Final = 64 << 10


def read_lines(path: Path) -> Iterator[str]:
    """Its lines, oldest first; none where there is no such file.

    Raises:
        Unavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1].decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None


class SealFile:
    """The file, locked: nobody else adds to it meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.last = self._last()

    def _last(self) -> str | None:
        """The last line, found from the end: the file grows for years. What is torn is cut off."""
        tail, start = b"", self._file.seek(0, os.SEEK_END)
        while start and tail.count(b"\n") < 2:  # noqa: PLR2004 - the break before the last line and the one after it
            step = min(_BLOCK, start)
            start = self._file.seek(start - step)
            tail = self._file.read(step) + tail
        whole, ended, _torn = tail.rpartition(b"\n")
        self._file.truncate(start + len(whole) + len(ended))
        return whole.rpartition(b"\n")[2].decode("utf-8", "backslashreplace") if ended else None

    def add(self, lines: Sequence[str]) -> None:
        """Add `lines`, durably."""
        self._file.seek(0, os.SEEK_END)
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def adding(path: Path) -> Iterator[SealFile]:
    """The file, to add to; it is made where there is none.

    Raises:
        Unavailable: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if made:
                sync_directory(path.parent)
            yield SealFile(file)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None


def sync_directory(directory: Path) -> None:
    """Make durable which files stand in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
