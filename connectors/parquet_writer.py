"""Writing the archive: one shard of it, by the one process that holds its lock."""

from __future__ import annotations

import fcntl
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Final

import pyarrow as pa

from connectors.parquet_files import (
    DAMAGED,
    ENTRIES,
    LOCKS,
    QUICK_LEVEL,
    SMALL_LEVEL,
    STAGING,
    ArchiveFile,
    Damaged,
    End,
    batches,
    conformed,
    day_of,
    end_of,
    file_name,
    files,
    folder,
    listed,
    place,
    read_name,
    replace,
    set_aside,
    sync_directory,
    write,
)
from connectors.parquet_rows import rows, unbroken
from models.records.errors import ConfigError
from models.records.raw import RawEntries

NOTHING: Final = End(0, 0, 0, 0)
FEW: Final = 32
"""So many small files of one day are left alone."""
BIG_BYTES: Final = 256 << 20
"""A file as large as this is not made larger."""

_MERGE_ROWS: Final = 10_000  # read at once
_OWNER_ONLY: Final = 0o700


class ShardArchive:
    """One shard of the archive. `end` is how far it has durably come; `damaged` names what was set aside."""

    def __init__(self, directory: Path, shard: int) -> None:
        """Take the shard, look at every file of it, and set aside those that cannot be read.

        Raises:
            ConfigError: another process archives it, or the directory cannot be used.
        """
        self.directory = directory
        self.shard = shard
        self.damaged: list[str] = []
        try:
            for name in (ENTRIES, STAGING, DAMAGED, LOCKS):
                (directory / name).mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
            sync_directory(directory)
            self._lock = self._locked()
            self._staging = directory / STAGING / f"{shard:02d}"
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging.mkdir()
            self._spare = self._staging / "spare"
        except OSError as error:
            raise ConfigError(f"archive.directory: {directory} cannot be used: {error.strerror}") from None
        self._sweep()
        self.end = self._found_end()

    def _locked(self) -> int:
        lock = os.open(self.directory / LOCKS / f"{self.shard:02d}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(
                f"archive.directory: shard {self.shard:02d} of {self.directory} is archived by another process"
            ) from None
        return lock

    def close(self) -> None:
        """Let others have the shard."""
        os.close(self._lock)

    def _sweep(self) -> None:
        """Set aside what is no file of ours, and delete what a merge that was interrupted left of those it merged."""
        for path in listed(self.directory, self.shard):
            try:
                read_name(path)
            except Damaged as error:
                self._set_aside(path, error)
        kept = {file.path for file in files(self.directory, self.shard)}
        for path in listed(self.directory, self.shard):
            if path not in kept:
                path.unlink()

    def _found_end(self) -> End:
        end = NOTHING
        for file in files(self.directory, self.shard):
            try:
                end = max(end, end_of(file), key=lambda one: one.position)
            except Damaged as error:
                self._set_aside(file.path, error)
        return end

    def _set_aside(self, path: Path, error: Damaged) -> None:
        set_aside(self.directory, path)
        self.damaged.append(error.detail)

    def write(self, raw: RawEntries, skew: int | None) -> list[ArchiveFile]:
        """Make `raw`, which follows what is there, durable; a file for each day and each stretch without a gap.

        What `end` shows to be there already is passed over.

        Raises:
            OSError: no more is there than `end` says; all may be written again.
        """
        written = []
        for part in _by_day(raw[bisect_right(raw.positions, self.end.position) :]):
            end = End(part.positions[-1], part.entry_ms[-1], part.entry_seqs[-1], skew)
            written.append(self._write(part, end))
            self.end = end
        return written

    def _write(self, raw: RawEntries, end: End) -> ArchiveFile:
        first = raw.positions[0]
        day = day_of(raw.entry_ms[0])
        name = file_name(first, end.position)
        staged, target = self._staging / name, folder(self.directory, day, self.shard) / name
        try:
            write(staged, [rows(raw)], shard=self.shard, first=first, end=end, level=QUICK_LEVEL)
            place(staged, target)
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        return ArchiveFile(target, day, self.shard, first, end.position)

    def merge(self) -> ArchiveFile | None:
        """Make one file of some that are worth it; the new one, or None where there are none.

        A file among them that cannot be read is set aside instead.

        Raises:
            OSError: all is as it was.
        """
        shutil.rmtree(self._spare, ignore_errors=True)  # of the merge before
        some = to_merge([(file, file.path.stat().st_size) for file in files(self.directory, self.shard)])
        if not some:
            return None
        first, last = some[0].first, some[-1].last
        staged = self._staging / file_name(first, last)
        target = some[0].path.with_name(staged.name)
        try:
            tables = (table for file in some for table in self._read(file))
            write(staged, tables, shard=self.shard, first=first, end=end_of(some[-1]), level=SMALL_LEVEL)
            replace(staged, some, target, spare=self._spare)
        except (OSError, Damaged) as error:
            shutil.rmtree(self._staging)
            self._staging.mkdir()
            if isinstance(error, Damaged):
                return None
            raise
        return ArchiveFile(target, some[0].day, self.shard, first, last)

    def _read(self, file: ArchiveFile) -> Iterator[pa.Table]:
        try:
            yield from map(conformed, batches(file, rows=_MERGE_ROWS))
        except Damaged as error:
            self._set_aside(file.path, error)
            raise

    def expire(self, before: date) -> int:
        """Delete the days before `before`, but never the newest there is; how many."""
        days = sorted({(file.day, file.path.parent) for file in files(self.directory, self.shard)})
        old = [path for day, path in days[:-1] if day < before]
        for number, path in enumerate(old):
            path.rename(self._staging / f"old-{number}")
            shutil.rmtree(self._staging / f"old-{number}")
            sync_directory(path.parent)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        return len(old)


def _by_day(raw: RawEntries) -> Iterator[RawEntries]:
    for part in unbroken(raw):
        days = list(map(day_of, part.entry_ms))
        cuts = [place for place, (one, next_) in enumerate(pairwise(days), 1) if one != next_]
        for first, end in pairwise([0, *cuts, len(part)]):
            yield part[first:end]


def to_merge(sized: Sequence[tuple[ArchiveFile, int]]) -> list[ArchiveFile]:
    """Which files to make one of next, of a shard's files in order, each with its bytes.

    A day that is over becomes as few files as BIG_BYTES allows. Of the day that goes on the newest files are merged as
    soon as FEW of about one size stand together, so that an entry is written anew once for each tier.
    """
    for stretch in _stretches(sized):
        over = stretch[0][0].day < sized[-1][0].day
        for run in _packed(stretch) if over else [_newest(stretch)]:
            if len(run) > 1:
                return [file for file, _ in run]
    return []


def _stretches(sized: Sequence[tuple[ArchiveFile, int]]) -> Iterator[list[tuple[ArchiveFile, int]]]:
    """Files of one day between which nothing is missing, and none of which is big."""
    stretch: list[tuple[ArchiveFile, int]] = []
    for file, size in sized:
        if stretch and (file.day != stretch[-1][0].day or file.first != stretch[-1][0].last + 1 or size >= BIG_BYTES):
            yield stretch
            stretch = []
        if size < BIG_BYTES:
            stretch.append((file, size))
    if stretch:
        yield stretch


def _packed(stretch: Sequence[tuple[ArchiveFile, int]]) -> Iterator[list[tuple[ArchiveFile, int]]]:
    """`stretch` in runs of at most BIG_BYTES."""
    run: list[tuple[ArchiveFile, int]] = []
    for file, size in stretch:
        if run and sum(one for _, one in run) + size > BIG_BYTES:
            yield run
            run = []
        run.append((file, size))
    yield run


def _newest(stretch: Sequence[tuple[ArchiveFile, int]]) -> list[tuple[ArchiveFile, int]]:
    """The newest files that are of one tier or below, once FEW of that tier are among them."""
    for tier in sorted({_tier(size) for _, size in stretch}):
        run = list(takewhile(lambda one: _tier(one[1]) <= tier, reversed(stretch)))  # noqa: B023 - done within the turn
        if sum(_tier(size) == tier for _, size in run) >= FEW:
            return run[::-1]
    return []


def _tier(size: int) -> int:
    """Each is of files eight times as large as those of the one below."""
    return size.bit_length() // 3
