"""Events that others keep as a table, one row each, held to what the flow asks of every event.

The columns are those of EVENT_SCHEMA: metadata under its own names, failure_context under failure_*. What is optional
may be missing; columns that we do not know are passed over. When an event was received stands in `received_ms` (Unix
milliseconds) or `received_at`; where neither is known it is the event's own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.records.columns import EVENT_SCHEMA, OUTCOMES, REQUIRED, clean, faults_of, read_json
from models.records.entry import MAX_RECEIVED_MS
from models.records.errors import MalformedPayload
from models.records.event import EventType, Outcome

ROW_SCHEMA: Final = pa.schema([pa.field("row", pa.int64()), pa.field("received_ms", pa.int64()), *EVENT_SCHEMA])
"""An event, where it stood in what was read (from 0), and when it was received."""

RECEIVED: Final = ("received_ms", "received_at")
KNOWN: Final = frozenset({*EVENT_SCHEMA.names, *RECEIVED})
_NEEDED: Final = (*REQUIRED, "timestamp")
_MILLISECONDS: Final = pa.timestamp("ms", "UTC")
_FAILURE: Final = tuple(name for name in EVENT_SCHEMA.names if name.startswith("failure_"))

Mask = npt.NDArray[np.bool_]


class BadRow(NamedTuple):
    """A row that is no event, counted from 0, and why: the field is named."""

    row: int
    detail: str


def checked(table: pa.Table, first_row: int = 0) -> tuple[pa.RecordBatch, list[BadRow]]:
    """The events of `table`, whose first row is number `first_row`, with ROW_SCHEMA; and the rows that are none.

    Raises:
        MalformedPayload: a column is missing, or holds values of another kind; it is named.
    """
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise MalformedPayload(f"no column {', '.join(map(repr, missing))}")
    faults: dict[str, Mask] = {}
    columns = [_column(table, field, faults) for field in EVENT_SCHEMA]
    events = pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)
    received = _received(table, events.column("timestamp"), faults)
    if faults or not clean(events):
        faults |= {reason: _mask(mask) for reason, mask in faults_of(events)}
    wrong = np.logical_or.reduce(list(faults.values())) if faults else np.zeros(len(events), np.bool_)
    bad = [BadRow(first_row + int(row), next(r for r, m in faults.items() if m[row])) for row in np.flatnonzero(wrong)]
    numbers = pa.array(np.arange(first_row, first_row + len(events)))
    rows = pa.RecordBatch.from_arrays([numbers, received, *events.columns], schema=ROW_SCHEMA)
    return (rows.filter(pa.array(~wrong)) if bad else rows), bad


def _column(table: pa.Table, field: pa.Field, faults: dict[str, Mask]) -> pa.Array:
    """One column as the schema has it; what is absent has its default."""
    if field.name in table.column_names:
        array = _cast(table.column(field.name), field, faults)
    elif field.name == "has_failure":
        array = _has_failure(table)
    else:
        array = pa.nulls(len(table), field.type)
    if field.name == "attempt":
        return pc.fill_null(array, 1)
    if field.name == "outcome":
        known = pc.or_(pc.is_in(array, OUTCOMES), array.is_null())
        return pc.if_else(known, array, Outcome.UNKNOWN.value)
    return array


def _has_failure(table: pa.Table) -> pa.Array:
    """Which rows have a failure_context: those that failed, and those that say anything in it."""
    says = pc.equal(table.column("event_type").cast(pa.string()), EventType.FAILED.value)
    for name in _FAILURE:
        if name in table.column_names:
            says = pc.or_(pc.fill_null(says, fill_value=False), table.column(name).is_valid())
    return _whole(pc.fill_null(says, fill_value=False))


def _received(table: pa.Table, timestamp: pa.Array, faults: dict[str, Mask]) -> pa.Array:
    happened = pc.divide(timestamp.cast(pa.int64()), 1000)
    name = next((name for name in RECEIVED if name in table.column_names), None)
    if name is None:
        return happened
    kind = pa.int64() if name == "received_ms" else _MILLISECONDS
    told = _cast(table.column(name), pa.field(name, kind), faults).cast(pa.int64())
    wrong = pc.or_(pc.less(told, 1), pc.greater(told, MAX_RECEIVED_MS))
    faults[f"Expected a time of the years 1970 to 9999 - at `{name}`"] = _mask(pc.fill_null(wrong, fill_value=False))
    return pc.coalesce(told, happened)


def _cast(column: pa.ChunkedArray, field: pa.Field, faults: dict[str, Mask]) -> pa.Array:
    """`column` in the type of `field`; a value that has no place there is null and a fault of its row."""
    array = _whole(column)
    if pa.types.is_timestamp(array.type) and array.type.tz is None:
        raise MalformedPayload(f"column {field.name!r} holds times without a time zone; times in UTC were expected")
    if array.type == field.type:
        return array
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_integer(array.type) and pa.types.is_timestamp(field.type):
        raise MalformedPayload(f"column {field.name!r} holds {array.type}; times were expected")
    try:
        cast, places = _cast_each(array, field.type)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise MalformedPayload(f"column {field.name!r} holds {array.type}; {field.type} was expected") from None
    if places:
        mask = np.zeros(len(array), np.bool_)
        mask[places] = True
        faults[f"Expected {field.type} - at `{field.name}`"] = mask
    return cast


def _cast_each(array: pa.Array, kind: pa.DataType, first: int = 0) -> tuple[pa.Array, list[int]]:
    """`array` cast as a whole, or, where that fails, in halves down to the values that are at fault."""
    try:
        return array.cast(kind), []
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, kind), [first]
    half = len(array) // 2
    left, bad_left = _cast_each(array[:half], kind, first)
    right, bad_right = _cast_each(array[half:], kind, first + half)
    return pa.concat_arrays([left, right]), bad_left + bad_right


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    combined: Any = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(combined, pa.ChunkedArray):  # one that holds nothing, or more than fits
        return pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.nulls(0, column.type)
    return combined


def _mask(mask: pa.Array) -> Mask:
    wrong: Mask = mask.to_numpy(zero_copy_only=False)
    return wrong


class _Received(msgspec.Struct):
    """What an event's line may say beside the event."""

    received_at: datetime | None = None


_LINE: Final = msgspec.json.Decoder(_Received)


def from_lines(lines: Sequence[bytes], first_row: int = 0) -> tuple[pa.RecordBatch, list[BadRow]]:
    """The events of JSON lines, one each, with ROW_SCHEMA; and the lines that are none. Blank lines are passed over."""
    numbers = [number for number, line in enumerate(lines) if line.strip()]
    batches, bad = _parsed([lines[number] for number in numbers], np.array(numbers, np.int64))
    good, wrong = checked(pa.Table.from_batches(batches, schema=_LINE_SCHEMA))
    places = pa.Table.from_batches(batches, schema=_LINE_SCHEMA).column("line").to_numpy() + first_row
    bad = [BadRow(first_row + row, detail) for row, detail in bad] + [BadRow(int(places[r]), d) for r, d in wrong]
    rows = pa.array(places[good.column("row").to_numpy()])
    return good.set_column(0, ROW_SCHEMA.field("row"), rows), sorted(bad)


_LINE_SCHEMA: Final = pa.schema([pa.field("line", pa.int64()), pa.field("received_at", _MILLISECONDS), *EVENT_SCHEMA])


def _parsed(lines: list[bytes], numbers: npt.NDArray[np.int64]) -> tuple[list[pa.RecordBatch], list[BadRow]]:
    """The events of `lines`, parsed as a whole or, where that fails, in halves down to the lines at fault."""
    if not lines:
        return [], []
    try:
        events = read_json(lines)
        received = pa.array(_received_of(lines), _MILLISECONDS)
    except MalformedPayload as error:
        if len(lines) == 1:
            return [], [BadRow(int(numbers[0]), error.detail)]
    else:
        columns = [pa.array(numbers), received, *events.columns]
        return [pa.RecordBatch.from_arrays(columns, schema=_LINE_SCHEMA)], []
    half = len(lines) // 2
    left, right = _parsed(lines[:half], numbers[:half]), _parsed(lines[half:], numbers[half:])
    return left[0] + right[0], left[1] + right[1]


def _received_of(lines: list[bytes]) -> list[datetime | None]:
    """When each was received, where any of them says so.

    Raises:
        MalformedPayload: one of them says something else.
    """
    if not any(b'"received_at"' in line for line in lines):
        return [None] * len(lines)
    try:
        told = [_LINE.decode(line).received_at for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedPayload(str(error)) from None
    if any(at is not None and at.tzinfo is None for at in told):
        raise MalformedPayload("Expected a time with its offset - at `received_at`")
    return told
