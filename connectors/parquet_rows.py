"""Entries as rows of Parquet and back: one row per event, and one for each entry that holds none.

A row stands for an entry twice over. `name`, `value` and `more` are the bytes of its fields as they stood in the
stream, on the first of its rows; from them alone a replay is made. All other columns are what `models.records.columns`
decoded of them, for those who ask questions. Where nothing can be decoded the bytes are still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.records.columns import EVENT_SCHEMA, Batch, decode
from models.records.entry import Kind
from models.records.raw import RawEntries

ENTRY_COLUMNS: Final = ("position", "entry_ms", "entry_seq", "name", "value", "more")
"""What a replay needs."""

SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # running count of the entry in its shard, from 1
        pa.field("entry_ms", pa.int64(), nullable=False),  # the entry's id
        pa.field("entry_seq", pa.int64(), nullable=False),
        pa.field("kind", pa.string()),  # null where the entry cannot be read
        pa.field("received_ms", pa.int64()),
        pa.field("unreadable", pa.string()),  # why the entry, or one event of it, cannot be read
        pa.field("name", pa.binary()),  # the entry's field; null on all but the first row of an entry
        pa.field("value", pa.binary()),
        pa.field("more", pa.list_(pa.binary())),  # names and values of further fields, which ours never have
        *EVENT_SCHEMA,
    ]
)
"""A row. `shard` and `day` stand in the names of the directories."""

NUMBERS: Final = ("position", "entry_ms", "entry_seq", "received_ms", "timestamp")
"""Columns that grow steadily."""

STATISTICS: Final = [*NUMBERS, "kind", "platform", "event_type", "repository", "job_name", "outcome"]
"""Columns by which a reader may pass over what it does not ask for."""

WORDS: Final = tuple(
    field.name for field in SCHEMA if field.type == pa.string() and field.name not in {"id", "failure_excerpt"}
)
"""Columns that hold the same texts again and again."""

_KINDS: Final = [None, *(kind.value for kind in Kind)]
_PAIR: Final = 2  # a name and a value

Places = npt.NDArray[np.int64]


def rows(raw: RawEntries) -> pa.Table:
    """`raw`, entries of one shard with positions that leave none out, as rows of SCHEMA."""
    batch = decode(raw)
    events = batch.events
    held = np.asarray(events.column("position")) - raw.positions[0] if len(raw) else np.zeros(0, np.int64)
    empty = np.flatnonzero(np.bincount(held, minlength=len(raw)) == 0)
    places = np.concatenate((held, empty))
    order = np.argsort(places, kind="stable")
    places = places[order]
    taken = pa.array(order, mask=order >= len(held))
    columns = {name: events.column(name).take(taken) for name in EVENT_SCHEMA.names}
    columns |= _entry_columns(raw, places) | _decoded(raw, batch, places)
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def _entry_columns(raw: RawEntries, places: Places) -> dict[str, pa.Array]:
    first = np.diff(places, prepend=-1) > 0
    whole = pa.array(places, mask=~first)
    fields_of = {
        "name": pa.array([fields[0] for fields in raw.fields], pa.binary()),
        "value": pa.array([fields[1] for fields in raw.fields], pa.binary()),
        "more": _more(raw),
    }
    numbers = {"position": raw.positions, "entry_ms": raw.entry_ms, "entry_seq": raw.entry_seqs}
    columns = {name: pa.array(np.asarray(values, np.int64)[places]) for name, values in numbers.items()}
    return columns | {name: column.take(whole) for name, column in fields_of.items()}


def _more(raw: RawEntries) -> pa.Array:
    if all(len(fields) == _PAIR for fields in raw.fields):
        return pa.nulls(len(raw), pa.list_(pa.binary()))
    return pa.array([list(fields[_PAIR:]) or None for fields in raw.fields], pa.list_(pa.binary()))


def _decoded(raw: RawEntries, batch: Batch, places: Places) -> dict[str, pa.Array]:
    """What is known of each entry whatever it holds: of an event by its rows, of others by their mark."""
    begin = raw.positions[0] if len(raw) else 0
    held = np.asarray(batch.events.column("position")) - begin
    received = np.zeros(len(raw), np.int64)
    received[held] = batch.events.column("received_ms")
    kinds = np.zeros(len(raw), np.int64)
    kinds[held] = _KINDS.index(Kind.EVENT)
    unreadable: list[str | None] = [None] * len(raw)
    for mark in batch.marks:
        place = mark.position - begin
        received[place] = mark.received_ms or received[place]
        kinds[place] = _KINDS.index(mark.kind) if mark.kind else kinds[place]
        unreadable[place] = mark.reason or unreadable[place]
    at = pa.array(places)
    return {
        "received_ms": pa.array(received, mask=received == 0).take(at),
        "kind": pa.array(_KINDS, pa.string()).take(pa.array(kinds[places])),
        "unreadable": pa.array(unreadable, pa.string()).take(at),
    }


def entries_of(table: Any) -> RawEntries:  # noqa: ANN401 - a table or batch of pyarrow
    """The entries that `table`, with ENTRY_COLUMNS, was made of."""
    heads = table.filter(pc.is_valid(table.column("name")))
    positions, entry_ms, entry_seqs, names, values, more = (heads.column(name) for name in ENTRY_COLUMNS)
    fields: list[Sequence[bytes]] = list(zip(names.to_pylist(), values.to_pylist(), strict=True))
    if more.null_count < len(more):
        fields = [(*pair, *rest) if rest else pair for pair, rest in zip(fields, more.to_pylist(), strict=True)]
    return RawEntries(positions.to_pylist(), entry_ms.to_pylist(), entry_seqs.to_pylist(), fields)


def unbroken(raw: RawEntries) -> Iterator[RawEntries]:
    """`raw` in parts whose positions leave none out."""
    cuts = [place for place, (one, next_) in enumerate(pairwise(raw.positions), 1) if next_ != one + 1]
    for first, end in pairwise([0, *cuts, len(raw)]):
        yield raw[first:end]
