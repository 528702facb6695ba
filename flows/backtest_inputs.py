"""Where a backtest's events come from: an archive, Parquet or JSON lines, cut into pieces that processes share.

Files of events are sorted by shard and time before they are judged, without ever being in memory as a whole: each piece
is read by one process, which checks its rows and writes those of each shard, in order, as one run. A shard then reads
its runs merged. How much it holds at a time is what overlaps: one run where a file is in order of time, all of a
shard's events where it is not in any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as pa_ipc
import pyarrow.parquet as pq

from analytics.past import MOST_AT_ONCE, by_shard, in_order
from models.records.errors import InputError, MalformedPayload
from models.records.flat import KNOWN, ROW_SCHEMA, BadRow, checked, from_lines

_PIECE_BYTES: Final = 8 << 20  # of JSON lines, some 15,000 events
_PIECE_ROWS: Final = 16_384
_MOST_BAD: Final = 1000  # of each piece that are told one by one
_WRITE: Final = pa_ipc.IpcWriteOptions(compression="lz4")
_PARQUET: Final = b"PAR1"

Redact = Callable[[pa.RecordBatch], pa.RecordBatch]


class Piece(NamedTuple):
    """A part of a file: bytes of JSON lines, or row groups of Parquet, from `first` to before `end`."""

    number: int
    path: Path
    kind: Literal["lines", "parquet"]
    first: int
    end: int


class Run(NamedTuple):
    """Events of one shard, in order of time: batch `place` of the file `path`."""

    path: Path
    place: int
    shard: int
    rows: int
    first_ms: int
    last_ms: int


class Sorted(NamedTuple):
    """What became of a piece: all its rows, those that are no events, its runs, and columns that nobody knows."""

    piece: Piece
    rows: int
    wrong: int
    bad: list[BadRow]
    runs: list[Run]
    unknown: list[str]


def is_archive(path: Path) -> bool:
    """Whether `guard archive` writes there."""
    return (path / "entries").is_dir()


def pieces(paths: Sequence[Path]) -> list[Piece]:
    """Files, and the Parquet files in directories, in parts that can be read apart.

    Raises:
        InputError: a file cannot be read, or there is none.
    """
    files = list(chain.from_iterable(sorted(p.rglob("*.parquet")) if p.is_dir() else [p] for p in paths))
    if not files:
        raise InputError(f"{', '.join(map(str, paths))}: no Parquet files there")
    parts = chain.from_iterable(map(_parts, files))
    return [piece._replace(number=number) for number, piece in enumerate(parts)]


def _parts(path: Path) -> Iterator[Piece]:
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(_PARQUET)) == _PARQUET
        if is_parquet:
            with pq.ParquetFile(path) as parquet:
                groups = parquet.num_row_groups
            yield from (Piece(0, path, "parquet", group, group + 1) for group in range(groups))
            return
        size = path.stat().st_size
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    yield from (Piece(0, path, "lines", at, min(size, at + _PIECE_BYTES)) for at in range(0, size, _PIECE_BYTES))


def sort(piece: Piece, folder: Path, redact: Redact) -> Sorted:
    """Write the events of `piece` into `folder`, by shard and in order of time.

    Raises:
        InputError: it cannot be read as what it is; file, row and field are named.
    """
    done = Sorted(piece, 0, 0, [], [], [])
    target = folder / f"{piece.number:06}.arrow"
    try:
        with pa_ipc.new_file(target, ROW_SCHEMA, options=_WRITE) as writer:
            for read, rows, bad, unknown in _lines(piece) if piece.kind == "lines" else _rows(piece):
                before = len(done.runs)
                done.runs.extend(_write(redact(rows), writer, target, before))
                room = _MOST_BAD - len(done.bad)
                done.bad.extend(bad[:room])
                done = done._replace(rows=done.rows + read, wrong=done.wrong + len(bad), unknown=unknown)
    except MalformedPayload as error:
        raise InputError(f"{piece.path}: {error.detail}") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{piece.path}: {error}") from None
    return done


def _write(rows: pa.RecordBatch, writer: Any, target: Path, index: int) -> Iterator[Run]:  # noqa: ANN401 - pyarrow's
    for shard, part in by_shard(pa.Table.from_batches([rows])).items():
        if part.num_rows:
            received = part.column("received_ms")
            writer.write_batch(part.combine_chunks().to_batches()[0])
            yield Run(target, index, shard, part.num_rows, received[0].as_py(), received[-1].as_py())
            index += 1


_Read = Iterator[tuple[int, pa.RecordBatch, list[BadRow], list[str]]]


def _rows(piece: Piece) -> _Read:
    first = 0
    with pq.ParquetFile(piece.path) as parquet:
        known = [name for name in parquet.schema_arrow.names if name in KNOWN]
        unknown = [name for name in parquet.schema_arrow.names if name not in KNOWN]
        groups = range(piece.first, piece.end)
        for batch in parquet.iter_batches(batch_size=_PIECE_ROWS, row_groups=groups, columns=known):
            yield len(batch), *checked(pa.Table.from_batches([batch]), _row(piece, first)), unknown
            first += len(batch)


def _lines(piece: Piece) -> _Read:
    """A line belongs to the piece in which it begins."""
    with piece.path.open("rb") as file:
        file.seek(max(0, piece.first - 1))
        if piece.first:
            file.readline()
        data = file.read(max(0, piece.end - file.tell()))
        if not data:
            return
        if not data.endswith(b"\n"):
            data += file.readline()
    lines = data.removesuffix(b"\n").split(b"\n")
    yield len(lines), *from_lines(lines, _row(piece, 0)), []


def _row(piece: Piece, row: int) -> int:
    """A number for a row that orders all rows of all pieces."""
    return (piece.number << 32) + row


def merged(runs: Iterable[Run]) -> Iterator[pa.RecordBatch]:
    """The events of one shard's runs in order of time."""
    left = pa.Table.from_batches([], ROW_SCHEMA)
    order = sorted(runs, key=lambda run: (run.first_ms, run.path, run.place))
    for run, later in pairwise([*order, None]):
        assert run is not None
        left = in_order(pa.concat_tables([left, pa.Table.from_batches([_load(run)])]))
        safe = len(left)
        if later is not None:
            safe = int(left.column("received_ms").to_numpy().searchsorted(later.first_ms))
            if safe < MOST_AT_ONCE:
                continue
        yield from left[:safe].combine_chunks().to_batches(MOST_AT_ONCE)
        left = left[safe:]


def _load(run: Run) -> pa.RecordBatch:
    with pa.OSFile(str(run.path)) as file:
        return pa_ipc.open_file(file).get_batch(run.place)


def told_rows(done: Sequence[Sorted]) -> list[tuple[str, int, str]]:
    """The rows that are no events: file, row or line counted from 1, and why."""
    told, before = [], 0
    for number, part in enumerate(done):
        if number and done[number - 1].piece.path != part.piece.path:
            before = 0
        told += [(part.piece.path.name, before + (row & 0xFFFFFFFF) + 1, detail) for row, detail in part.bad]
        before += part.rows
    return told


def redacted(redact: Callable[[bytes], bytes]) -> Redact:
    """What takes secrets out of the texts of events; `redact` gives the same object where there are none."""

    def clean(rows: pa.RecordBatch) -> pa.RecordBatch:
        for index, field in enumerate(ROW_SCHEMA):
            if field.name not in _WORDS and field.type in {pa.string(), _TEXTS}:
                told = _clean_list if field.type == _TEXTS else _clean
                rows = rows.set_column(index, field, told(rows.column(index), redact))
        return rows

    return clean


_TEXTS: Final = pa.list_(pa.string())
_WORDS: Final = frozenset({"id", "platform", "event_type", "outcome", "rerun_after"})
"""Columns of closed vocabularies, and of ids that are UUIDs."""


def _clean(texts: pa.Array, redact: Callable[[bytes], bytes]) -> pa.Array:
    """All texts of a column are looked at as one: most columns hold nothing."""
    words = pc.unique(texts.drop_null())
    values = words.to_pylist()
    whole = "\0".join(values).encode()
    if redact(whole) is whole:
        return texts
    clean = pa.array([redact(value.encode()).decode("utf-8", "replace") for value in values], pa.string())
    return clean.take(pc.index_in(texts, words))


def _clean_list(lists: pa.Array, redact: Callable[[bytes], bytes]) -> pa.Array:
    flat = lists.flatten()
    clean = _clean(flat, redact)
    if clean is flat:
        return lists
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
    return pa.ListArray.from_arrays(offsets, clean, mask=lists.is_null())
