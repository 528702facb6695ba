"""The spool's files: append-only segments of checksummed records.

    0000000000000042.spool      "guard-spool 1" and a line feed, then records
    record                      length u32 | crc32 u32 | bytes        integers little-endian
    owner                       locked by the process that owns the directory

A record counts once fsync has returned after it. A torn tail, left by a crash, is cut; nothing is ever written behind
a failed write, so a bad record with good ones behind it was damaged later, on the disk. It is passed over and counted.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from models.records.errors import ConfigError

_MAGIC: Final = b"guard-spool 1\n"
_HEAD: Final = struct.Struct("<II")
RECORD_OVERHEAD: Final = _HEAD.size
SEGMENT_BYTES: Final = 16 << 20  # a segment that has reached this is closed; drained segments are removed whole
_OWNER_ONLY: Final = 0o700


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int  # bytes known to be durable


class SpoolFiles:
    """A directory of segments, for one thread; others may look at its counts.

    `records` is how many wait, `size_bytes` what they take on the disk, `torn_bytes` what was cut off at the start,
    `damaged` how many records are lost because the disk gave back other bytes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.records = 0
        self.size_bytes = 0
        self.torn_bytes = 0
        self.damaged = 0
        self._segments: list[_Segment] = []  # oldest first
        self._active: int | None = None  # descriptor of the last segment, while it may grow
        self._read_at = len(_MAGIC)  # in the first segment: where the oldest record that counts begins
        self._ends: list[
            tuple[int, int]
        ] = []  # of each record last read: where it ends, how many before it are damaged
        try:
            directory.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
            directory.chmod(_OWNER_ONLY)
            self._owner = self._own()
            for path in sorted(directory.glob("*.spool")):
                self._recover(path)
        except OSError as error:
            raise ConfigError(f"receiver.spool_dir: {directory} cannot be used: {error.strerror}") from None

    def write(self, records: list[bytes]) -> None:
        """Append `records` and make them durable together.

        Raises:
            OSError: none of them counts.
        """
        if self._active is None or self._segments[-1].size >= SEGMENT_BYTES:
            self._begin_segment()
        assert self._active is not None
        segment = self._segments[-1]
        data = b"".join(_HEAD.pack(len(record), zlib.crc32(record)) + record for record in records)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._active, view) :]
            os.fsync(self._active)
        except OSError:
            self._abandon(segment)
            raise
        segment.size += len(data)
        self.size_bytes += len(data)
        self.records += len(records)

    def read(self, most: int) -> list[bytes]:
        """The oldest records, at most `most` and of one segment; the same again until they are forgotten."""
        self._drop_drained()
        self._ends = []
        if not self._segments:
            return []
        segment = self._segments[0]
        records: list[bytes] = []
        damaged = 0
        with segment.path.open("rb") as file:
            file.seek(self._read_at)
            while len(records) < most and (record := _next_record(file, segment.size)) is not None:
                if record.intact:
                    records.append(record.data)
                    self._ends.append((file.tell(), damaged))
                else:
                    damaged += 1
        if not records:
            self._pass(segment.size, damaged)
        return records

    def forget(self, count: int) -> None:
        """Let go of the first `count` of the records last read."""
        if count:
            end, damaged = self._ends[count - 1]
            self._pass(end, damaged)
            self.records -= count
        self._drop_drained()

    def close(self) -> None:
        """Let go of the directory."""
        self._end_segment()
        os.close(self._owner)

    def _own(self) -> int:
        owner = os.open(self._directory / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(owner)
            raise ConfigError(
                f"receiver.spool_dir: {self._directory} belongs to another running receiver; give each its own"
            ) from None
        return owner

    def _begin_segment(self) -> None:
        self._end_segment()
        number = int(self._segments[-1].path.stem) + 1 if self._segments else 0
        path = self._directory / f"{number:016d}.spool"
        active = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(active, _MAGIC)
            os.fsync(active)
            self._sync_directory()
        except OSError:
            os.close(active)
            path.unlink()
            raise
        self._active = active
        self._segments.append(_Segment(path, len(_MAGIC)))
        self.size_bytes += len(_MAGIC)

    def _end_segment(self) -> None:
        if self._active is not None:
            os.close(self._active)
            self._active = None

    def _abandon(self, segment: _Segment) -> None:
        """After a failed write nobody knows what the file holds behind its durable part: cut that off, write on in a
        new segment.
        """
        self._end_segment()
        try:
            os.truncate(segment.path, segment.size)
        except OSError:
            return  # the next start cuts or drains it: it was answered 503, and doing it twice is harmless

    def _pass(self, end: int, damaged: int) -> None:
        self._read_at = end
        self._ends = []
        self.records -= damaged
        self.damaged += damaged

    def _drop_drained(self) -> None:
        """Remove segments that have been read to their end."""
        while self._segments and self._read_at >= self._segments[0].size:
            segment = self._segments.pop(0)
            self.size_bytes -= segment.size
            if not self._segments:
                self._end_segment()
            segment.path.unlink()
            self._read_at = len(_MAGIC)

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _recover(self, path: Path) -> None:
        """Count the records of a segment of an earlier process, and cut what is no whole record off its end."""
        found = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
            if magic != _MAGIC and not _MAGIC.startswith(magic):
                raise ConfigError(f"receiver.spool_dir: {path} was not written by this release; drain it with its own")
            whole = len(magic) if magic == _MAGIC else 0
            seen = records = 0
            while (record := _next_record(file, found)) is not None:
                seen += 1
                if record.intact:
                    whole, records = file.tell(), seen
        self.torn_bytes += found - whole
        if not records:
            path.unlink()
            return
        if whole < found:
            os.truncate(path, whole)
        self._segments.append(_Segment(path, whole))
        self.size_bytes += whole
        self.records += records


class _Record(NamedTuple):
    data: bytes
    intact: bool


def _next_record(file: BinaryIO, size: int) -> _Record | None:
    """The record at the file's position, or None where no whole one stands before `size`."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack(head)
    if not 0 < length <= size - file.tell():
        return None
    data = file.read(length)
    return _Record(data, zlib.crc32(data) == checksum)
