"""Whether the archive has all that the streams had: what it holds, shard by shard, against what the server counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import RenderableType

from connectors.parquet import gaps
from connectors.parquet_files import ArchiveFile, Damaged, End, batches, end_of, files
from connectors.parquet_writer import NOTHING
from connectors.redis_streams import StreamCount, stream_counts
from flows.servers import streams
from flows.settings import Settings
from flows.tables import one_line, table
from models.records.errors import GuardError
from models.records.event import SHARDS

_ROWS: Final = 100_000  # read at once, of one column
_MIB: Final = 1 << 20


class ShardCheck(msgspec.Struct, frozen=True):
    """One shard. `waiting` is how many entries stand in the stream after the last one archived; None is not known."""

    shard: int
    files: int
    bytes: int
    entries: int
    first: int
    last: int
    waiting: int | None
    missing: list[str]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing; what waits is not."""
        return not self.missing


class ArchiveCheck(msgspec.Struct, frozen=True):
    """All shards; `unreachable` says what could not be asked."""

    unreachable: list[str]
    shards: list[ShardCheck]


def look(settings: Settings) -> ArchiveCheck:
    """Look at every file of the archive, and ask Redis.

    Raises:
        ConfigError: archive.directory is not set.
    """
    settings.require("archive.directory")
    assert settings.archive.directory is not None
    unreachable: list[str] = []
    counts: list[StreamCount] | None = None
    try:
        with streams(settings) as client:
            counts = stream_counts(client)
    except GuardError as error:
        unreachable.append(one_line(str(error)))
    directory = settings.archive.directory
    return ArchiveCheck(
        unreachable, [check(directory, shard, counts[shard] if counts else None) for shard in range(SHARDS)]
    )


def check(directory: Path, shard: int, stream: StreamCount | None) -> ShardCheck:
    """One shard, against what the server says of its stream, where that is known."""
    held = files(directory, shard)
    end, missing = NOTHING, []
    for file in held:
        try:
            end = _verified(file)
        except Damaged as error:
            missing.append(f"positions {file.first} to {file.last}: {error.detail}")
    missing += [f"positions {gap.first} to {gap.last}" for gap in gaps(directory, shard)]
    waiting = None
    if stream is not None:
        missing += _lost(end, stream)
        waiting = None if end.skew is None else max(stream.added - end.position - end.skew, 0)
    return ShardCheck(
        shard=shard,
        files=len(held),
        bytes=sum(file.path.stat().st_size for file in held),
        entries=sum(file.entries for file in held),
        first=held[0].first if held else 0,
        last=held[-1].last if held else 0,
        waiting=waiting,
        missing=missing,
    )


def _verified(file: ArchiveFile) -> End:
    """How far the shard had come with this file, whose every position was looked at."""
    for _ in batches(file, rows=_ROWS, columns=["position"]):
        pass
    return end_of(file)


def _lost(end: End, stream: StreamCount) -> Iterator[str]:
    """What the stream has lost."""
    if (end.entry_ms, end.entry_seq) > stream.last:
        ends = f"{stream.last[0]}-{stream.last[1]}"
        yield f"the server has lost entries: it ends at {ends}, the archive at {end.entry_id}"
    elif end.skew is not None:
        trimmed = stream.added - stream.length - end.position - end.skew
        if trimmed > 0:
            yield f"{trimmed} entries after position {end.position}, which were trimmed before they were archived"


def shown(checked: ArchiveCheck) -> Sequence[RenderableType]:
    """`checked` for a terminal."""
    rows = [
        (f"{s.shard:02d}", s.entries, s.first, s.last, s.waiting, s.files, round(s.bytes / _MIB, 1))
        for s in checked.shards
    ]
    columns = ("shard", "#entries", "#first", "#last", "#not yet", "#files", "#MiB")
    missing = [(f"{s.shard:02d}", said) for s in checked.shards for said in s.missing]
    parts = [table("archive", columns, rows)]
    return [*parts, table("missing", ("shard", "what"), missing)] if missing else parts
