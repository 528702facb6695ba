"""The journals of a shard in files beside the recovery store, so that a snapshot only names them.

Bytewax writes a snapshot whole, in every epoch, and deletes the one before. Most of it is what stood in that one too:
84 MB at 5,000 events a second, of which less than a tenth was new. Here what is new goes to the end of a file, and is
there for good (fsync) before the snapshot that names it is handed over.

A file goes when no snapshot needs it from which the flow may still start: neither the one that is taken nor the one
before, which was durable when the first entry after it was read (ENGINE.md), and backups have had their time. Of a
file of which less than a third is still needed that third is written anew, one file a snapshot, so that files take some
three times of what they hold at the most.
"""

from __future__ import annotations

import os
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from analytics.journal import Chunks
from models.records.errors import ConfigError, Unavailable

_LEAST_BYTES: Final = 1024
"""A journal that is shorter stands in the snapshot itself."""
_MANY: Final = 32
_SHORT_BYTES: Final = 32 << 10
"""Where a journal stands in more than so many places, those shorter than this are made one."""
_FULL_BYTES: Final = 4 << 20


class _Place(NamedTuple):
    file: str
    offset: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Chunks that came one after another in a journal, and where they stand."""

    chunks: list[bytes]
    place: _Place

    def stands_in(self, chunks: Chunks, at: int) -> bool:
        """Whether `chunks` has them from `at` on."""
        return chunks[at : at + len(self.chunks)] == self.chunks


class JournalFiles:
    """The files of one shard's journals. Only one process has them at a time (flows/recovery.py)."""

    def __init__(
        self, directory: Path, *, backup_seconds: float = 0.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep them in `directory`, and for so long after they were last needed."""
        self._directory: Final = directory
        self._backup_seconds: Final = backup_seconds
        self._monotonic: Final = monotonic
        self._prefix = ""
        self._stretches: dict[int, _Stretch] = {}  # by the id() of the first chunk, which they hold
        self._named: list[_Stretch] = []  # in the snapshot that is being taken
        self._needed_before: frozenset[str] = frozenset()
        self._needed_at: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._sparse = ""  # the file of which least is needed
        self._name = ""  # of the file that is written to
        self._unwritten: list[bytes] = []
        self._read: dict[str, bytes] = {}

    def begin(self, shard: int) -> None:
        """Be the files of `shard`, after all that its snapshot names, if it has one, was fetched."""
        self._prefix = f"{shard:02}-"
        self._read.clear()
        self._directory.mkdir(mode=0o700, exist_ok=True)
        now = self._monotonic()
        for path in self._directory.glob(f"{self._prefix}*"):
            self._sizes[path.name], self._needed_at[path.name] = path.stat().st_size, now
        self._needed_before = frozenset(stretch.place.file for stretch in self._stretches.values())

    def fetch(self, name: bytes) -> Chunks:
        """The chunks that were kept under `name`.

        Raises:
            ConfigError: the file is gone, or is not what it was.
        """
        chunks = Chunks()
        for file, offset, length, checksum in msgspec.msgpack.decode(name):
            if file not in self._read:
                self._read[file] = self._content(file)
            data = self._read[file][offset : offset + length]
            if len(data) != length or zlib.crc32(data) != checksum:
                raise self._lost(file, "is not what it was")
            stretch = _Stretch(msgspec.msgpack.decode(data), _Place(file, offset, length, checksum))
            self._stretches[id(stretch.chunks[0])] = stretch
            chunks += stretch.chunks
        return chunks

    def _content(self, file: str) -> bytes:
        try:
            return (self._directory / file).read_bytes()
        except FileNotFoundError:
            raise self._lost(file, "is gone") from None

    def _lost(self, file: str, what: str) -> ConfigError:
        return ConfigError(
            f"flow.recovery_dir: {self._directory / file} {what}, and a snapshot needs it. Give back the whole "
            "directory as it was, or empty it and go on from what PostgreSQL has with --from-progress"
        )

    def keep(self, chunks: Chunks) -> bytes | None:
        """Keep the chunks of a journal; the name to fetch them by after the next `seal`, or None if they are few."""
        if sum(map(len, chunks)) < _LEAST_BYTES:
            return None
        pieces = list(self._pieces(chunks))
        if len(pieces) > _MANY:
            pieces = [
                (stretch if stretch and stretch.place.length >= _SHORT_BYTES else None, some)
                for stretch, some in pieces
            ]
        named: list[_Stretch] = []
        for stands, some in groupby(pieces, key=lambda piece: piece[0] is not None):
            if stands:
                named += [stretch for stretch, _ in some if stretch]
            else:
                named.append(self._write([chunk for _, loose in some for chunk in loose]))
        self._named += named
        return msgspec.msgpack.encode([stretch.place for stretch in named])

    def _pieces(self, chunks: Chunks) -> Iterator[tuple[_Stretch | None, list[bytes]]]:
        """The chunks of a journal, by where they stand if that is good."""
        at = 0
        while at < len(chunks):
            stretch = self._stretches.get(id(chunks[at]))
            if stretch is None or stretch.place.file == self._sparse or not stretch.stands_in(chunks, at):
                yield None, [chunks[at]]
                at += 1
            else:
                yield stretch, stretch.chunks
                at += len(stretch.chunks)

    def _write(self, chunks: list[bytes]) -> _Stretch:
        if not self._name:
            self._name = f"{self._prefix}{secrets.token_hex(8)}"
            self._sizes[self._name] = 0
        data = msgspec.msgpack.encode(chunks)
        place = _Place(self._name, self._sizes[self._name], len(data), zlib.crc32(data))
        self._sizes[self._name] += len(data)
        self._unwritten.append(data)
        return _Stretch(chunks, place)

    def seal(self) -> int:
        """Make what the snapshot names good for ever, and let go of what none needs; how many bytes it names.

        Raises:
            Unavailable: they cannot be written.
        """
        live: Counter[str] = Counter()
        for stretch in self._named:
            live[stretch.place.file] += stretch.place.length
        try:
            if self._unwritten:
                self._append()
            self._forget(live)
        except OSError as error:
            raise Unavailable(f"flow.recovery_dir: {self._directory} cannot be written: {error}") from None
        self._stretches = {id(stretch.chunks[0]): stretch for stretch in self._named}
        self._named = []
        return live.total()

    def _append(self) -> None:
        with (self._directory / self._name).open("ab") as file:
            is_new = not file.tell()
            file.writelines(self._unwritten)
            file.flush()
            os.fdatasync(file.fileno())
        self._unwritten.clear()
        if is_new:  # and so is its entry in the directory
            directory = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        if self._sizes[self._name] >= _FULL_BYTES:
            self._name = ""

    def _forget(self, live: Counter[str]) -> None:
        """Let go of files that no snapshot needs, and choose one of which too little is needed."""
        now = self._monotonic()
        self._needed_at.update(dict.fromkeys(live, now))
        needed = self._needed_before | live.keys()
        for name in self._sizes.keys() - needed:
            if name != self._name and now - self._needed_at[name] >= self._backup_seconds:
                (self._directory / name).unlink(missing_ok=True)
                del self._sizes[name], self._needed_at[name]
        self._needed_before = frozenset(live)
        sparse = [name for name in live if name != self._name and 3 * live[name] < self._sizes[name]]
        self._sparse = min(sparse, key=lambda name: live[name] / self._sizes[name], default="")
