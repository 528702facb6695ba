"""The kill switch that needs no server: a file. If it is there all stops, whatever is in it, and were it unreadable.

{"note_id": uuid, "stopped_at": RFC 3339, "by": who, "why": text}
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from connectors.audit_file import sync_directory
from models.records.errors import Unavailable
from models.records.event import uuid5_text

_MOST_BYTES: Final = 64 << 10
_MODE: Final = 0o644  # whoever runs the healer can read it, whoever said stop
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Note(msgspec.Struct, frozen=True):
    """That somebody said stop. It has an id, so that each place it reaches writes it down once."""

    note_id: UUID
    stopped_at: datetime
    by: str
    why: str


_NOTE: Final = msgspec.json.Decoder(Note)


class StopFile:
    """The file at `path`, there or not."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._known: tuple[tuple[int, int, int], Note] | None = None

    def note(self) -> Note | None:
        """What it says, or None where it is not there. A look costs microseconds; only a new file is read."""
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            self._known = None
            return None
        except OSError as error:
            return _unspoken(str(self.path), 0, "nobody", f"it cannot be told whether it is there: {error.strerror}")
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._known is None or self._known[0] != identity:
            self._known = (identity, self._read(found))
        return self._known[1]

    def _read(self, found: os.stat_result) -> Note:
        try:
            note = _NOTE.decode(_content(self.path))
        except (OSError, msgspec.DecodeError, UnicodeError):
            note = None
        if note and note.by and note.stopped_at.tzinfo is not None and "\0" not in note.by + note.why:
            return note
        return _unspoken(str(found.st_ino), found.st_mtime_ns, _owner(found.st_uid), "the file does not say why")

    def write(self, note: Note) -> None:
        """Put it there, whole and durable, in place of what is there; or at least an empty one, which stops as well.

        Raises:
            Unavailable: not even that can be done.
        """
        beside = self.path.with_name(f".{self.path.name}.{note.note_id}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._put(beside, note)
        except OSError:
            self._put_empty(beside)

    def _put(self, beside: Path, note: Note) -> None:
        with beside.open("xb") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(msgspec.json.format(msgspec.json.encode(note)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
        sync_directory(self.path.parent)

    def _put_empty(self, beside: Path) -> None:
        """On a full disk a name can often be had still."""
        try:
            self.path.open("ab").close()
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be written: {error.strerror}") from None
        with suppress(OSError):
            beside.unlink()

    def remove(self) -> bool:
        """Take it away, durably; False where there was none.

        Raises:
            Unavailable: it is there and cannot be removed.
        """
        try:
            self.path.unlink()
            sync_directory(self.path.parent)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be removed: {error.strerror}") from None
        return True


def _content(path: Path) -> bytes:
    """What an ordinary file holds; of anything else, a pipe for one, nothing is read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _unspoken(which: str, mtime_ns: int, by: str, why: str) -> Note:
    """The note for a file without one: the same for the same file, whoever looks, and from wherever."""
    note_id = UUID(uuid5_text("stop file", which, str(mtime_ns)))
    try:
        stopped_at = _EPOCH + timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:  # beyond the year 9999
        stopped_at = _EPOCH
    return Note(note_id, stopped_at, by, why)


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
