"""The archive's files: where they stand, how they come to stand there whole, and what becomes of them.

    entries/day=2026-11-26/shard=03/000000000001-000000004096.parquet    positions from - to, none left out between them
    staging/03/         on its way there; whatever is found here is nobody's
    damaged/            what could not be read, moved out of the way and kept
    locks/03            locked by the process that archives the shard

A file is the archive's own progress: it appears by a rename, durable and complete, and its name and footer say how far
its shard has come. There is no other record that could disagree. Many small files become one in the same way: the
directory of a day and shard is exchanged for another that holds the one instead, so that no reader sees a row twice or
not at all. Where the file system cannot exchange directories, both stand there for a moment: `files` counts but one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.parquet_rows import NUMBERS, SCHEMA, STATISTICS, WORDS
from models.records.errors import InputError
from models.records.event import SHARDS

ENTRIES: Final = "entries"
STAGING: Final = "staging"
DAMAGED: Final = "damaged"
LOCKS: Final = "locks"

QUICK_LEVEL: Final = 1
"""How hard zstd tries for a file that will be merged soon."""
SMALL_LEVEL: Final = 9
"""And for one that stays: a tenth smaller, in three times the time."""

_GROUP_ROWS: Final = 50_000  # of a row group: some 60 MB in memory
_GROUP_BYTES: Final = 64 << 20
_DIGITS: Final = 12
_SUFFIX: Final = ".parquet"
_MAX_MS: Final = 253_402_300_799_999  # the end of the year 9999
_ABOUT: Final = b"guard"
_EXCHANGE: Final = 2  # RENAME_EXCHANGE, https://man7.org/linux/man-pages/man2/rename.2.html
_AT_CWD: Final = -100


class Damaged(InputError):
    """A file of the archive that cannot be read, or does not hold what its name says."""

    reason = "damaged_file"


class ArchiveFile(NamedTuple):
    """A file that stands: the entries of one shard and one day (UTC, of their ids) from `first` to `last`."""

    path: Path
    day: date
    shard: int
    first: int
    last: int

    @property
    def entries(self) -> int:
        """How many entries it holds."""
        return self.last - self.first + 1


class End(NamedTuple):
    """How far a shard has come: its last entry, and by how much the server's count of it is higher, where known."""

    position: int
    entry_ms: int
    entry_seq: int
    skew: int | None

    @property
    def entry_id(self) -> str:
        """As the server writes it."""
        return f"{self.entry_ms}-{self.entry_seq}"


def day_of(entry_ms: int) -> date:
    """The day, UTC, of an entry's id."""
    return datetime.fromtimestamp(min(entry_ms, _MAX_MS) / 1000, UTC).date()


def folder(directory: Path, day: date, shard: int) -> Path:
    """Where the files of a day and shard stand."""
    return directory / ENTRIES / f"day={day:%Y-%m-%d}" / f"shard={shard:02d}"


def file_name(first: int, last: int) -> str:
    """The name of a file with these positions."""
    return f"{first:0{_DIGITS}d}-{last:0{_DIGITS}d}{_SUFFIX}"


def files(directory: Path, shard: int | None = None) -> list[ArchiveFile]:
    """The files of the archive, or of one shard, by shard and position; each entry is in exactly one of them.

    Listed until two lists are equal: files that are merged meanwhile would else be missed, and what is merged of them.
    """
    found = listed(directory, shard)
    while (again := listed(directory, shard)) != found:
        found = again
    kept: list[ArchiveFile] = []
    for file in sorted(map(read_name, found), key=lambda file: (file.shard, file.first, -file.last)):
        if not kept or (kept[-1].shard, kept[-1].last) < (file.shard, file.last):
            kept.append(file)
    return kept


def listed(directory: Path, shard: int | None) -> list[Path]:
    """All that stands where files of the archive, or of one shard, belong."""
    names = [f"shard={number:02d}" for number in (range(SHARDS) if shard is None else [shard])]
    days = [directory / ENTRIES / day for day in _names(directory / ENTRIES) if day.startswith("day=")]
    return [day / name / file for day in days for name in names for file in _names(day / name)]


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []


def read_name(path: Path) -> ArchiveFile:
    """What the name of a file and of its directories say.

    Raises:
        Damaged: they are none of ours.
    """
    try:
        first, last = map(int, path.name.removesuffix(_SUFFIX).split("-"))
        day = date.fromisoformat(path.parent.parent.name.removeprefix("day="))
        return ArchiveFile(path, day, int(path.parent.name.removeprefix("shard=")), first, last)
    except ValueError:
        raise Damaged(f"{path}: no file of the archive has such a name") from None


def open_file(path: Path) -> pq.ParquetFile:
    """The file, its footer read; pages are compared with their checksums as they are read.

    Raises:
        Damaged: the footer cannot be read.
        OSError: the system does not let us; FileNotFoundError where it is not there (any more).
    """
    with _naming(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever pyarrow says against what stands in a file is that it is damaged; but not what the system says."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) not in {None, errno.EIO}:
            raise
        raise Damaged(f"{path}: {_first_line(error)}") from None


def batches(file: ArchiveFile, *, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """What stands in `file`, in order, at most `rows` at once.

    Raises:
        Damaged: it cannot be read, or holds other entries than its name says.
        OSError: as `open_file` does.
    """
    opened = open_file(file.path)
    last = file.first - 1
    try:
        names = None if columns is None else [name for name in columns if name in opened.schema_arrow.names]
        read = opened.iter_batches(batch_size=rows, columns=names, use_threads=False)
        while (batch := _next(file, read)) is not None:
            last = _follows(file, np.asarray(batch.column("position")), last)
            yield batch
    finally:
        opened.close()
    if last != file.last:
        raise Damaged(f"{file.path}: ends after position {last}; its name says {file.last}")


def _next(file: ArchiveFile, read: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    with _naming(file.path):
        return next(read, None)


def _follows(file: ArchiveFile, positions: npt.NDArray[np.int64], last: int) -> int:
    """The last of `positions`, which go on after `last` and leave none out; an entry may have several rows."""
    steps = np.diff(positions, prepend=last)
    begins = last < file.first
    if steps.min() < 0 or steps.max() > 1 or (begins and steps[0] != 1) or positions[-1] > file.last:
        raise Damaged(f"{file.path}: does not hold the positions that follow {last}")
    return int(positions[-1])


def end_of(file: ArchiveFile) -> End:
    """How far the shard had come with this file, as its footer says.

    Raises:
        Damaged: it cannot be read, or says otherwise than its name.
    """
    opened = open_file(file.path)
    try:
        about = json.loads((opened.metadata.metadata or {})[_ABOUT])
        end = End(about["last"], about["last_ms"], about["last_seq"], about["skew"])
        named = (about["shard"], about["first"], end.position)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{file.path}: its footer does not say what it holds: {_first_line(error)}") from None
    finally:
        opened.close()
    if named != (file.shard, file.first, file.last):
        raise Damaged(f"{file.path}: its footer speaks of other positions than its name")
    return end


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def write(path: Path, tables: Iterable[pa.Table], *, shard: int, first: int, end: End, level: int) -> None:
    """Write a file and make it durable where it is; its directory entry is not.

    Raises:
        OSError: there is no room, or the disk does not take it; what is there is of no use.
    """
    about: dict[str, int | None] = {"version": 1, "shard": shard, "first": first, "last": end.position}
    about |= {"last_ms": end.entry_ms, "last_seq": end.entry_seq, "skew": end.skew}
    with path.open("wb") as file:
        _write_parquet(file, tables, json.dumps(about).encode(), level)
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(file: BinaryIO, tables: Iterable[pa.Table], about: bytes, level: int) -> None:
    writer = pq.ParquetWriter(
        file,
        SCHEMA,
        compression="zstd",
        compression_level=level,
        use_dictionary=[*WORDS, "name", "runner_labels.list.element", "failure_error_patterns.list.element"],
        column_encoding=dict.fromkeys(NUMBERS, "DELTA_BINARY_PACKED"),
        data_page_version="2.0",
        write_page_checksum=True,
        write_statistics=STATISTICS,
        store_schema=False,  # Parquet's own types say all, and a file of a minute is small
    )
    try:
        writer.add_key_value_metadata({_ABOUT: about})
        for table in _grouped(tables):
            writer.write_table(table, row_group_size=_GROUP_ROWS)
    finally:
        writer.close()


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`tables` joined to what makes a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _GROUP_ROWS or sum(one.nbytes for one in waiting) >= _GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def conformed(batch: pa.RecordBatch) -> pa.Table:
    """`batch`, of a file that an earlier release may have written, with the columns of this one."""
    names = set(batch.schema.names)
    columns = [
        batch.column(field.name) if field.name in names else pa.nulls(len(batch), field.type) for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


def sync_directory(directory: Path) -> None:
    """Make what `directory` lists durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place(staged: Path, target: Path) -> None:
    """Let a durable file appear at `target`, durably; directories are made on the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(target)
    for above in (target.parent, target.parent.parent, target.parent.parent.parent):
        sync_directory(above)


def replace(staged: Path, replaced: Sequence[ArchiveFile], target: Path, *, spare: Path) -> None:
    """Let one durable file appear in place of several in its directory, in one step where the file system can.

    `spare` is the name of a directory, not there yet, on the same file system. It then holds what was replaced, to
    be deleted later: who is just listing it would else find half of it.
    """
    gone = {file.path for file in replaced}
    spare.mkdir()
    for path in target.parent.iterdir():
        if path not in gone:
            os.link(path, spare / path.name)
    os.link(staged, spare / target.name)
    sync_directory(spare)
    if _exchanged(spare, target.parent):
        sync_directory(target.parent.parent)
    else:
        place(staged, target)
        for path in gone:
            path.unlink()
    staged.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two directories; False where that cannot be done here."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV}:
        return False
    raise OSError(number, os.strerror(number), str(other))


def set_aside(directory: Path, path: Path) -> None:
    """Move a file out of the way; its day and shard become part of its name."""
    kept = directory / DAMAGED
    path.rename(kept / ".".join(path.relative_to(directory / ENTRIES).parts))
    for changed in (kept, path.parent):
        sync_directory(changed)
