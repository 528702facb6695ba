"""Entries of one shard as columns: one Arrow row per event, and marks for all that is not an event.

JSON, Protocol Buffers and packed entries decode to the same record batch. A bad entry never spoils its neighbours: a
block that does not decode as a whole is decoded entry by entry, and what is wrong becomes a mark with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias, get_args
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from models.records import event_pb2
from models.records.entry import HEADER_BYTES, KNOWN_FIELDS, MAX_RECEIVED_MS, Encoding, Kind, check, read_field
from models.records.errors import InputError, MalformedPayload
from models.records.event import Event, EventType, FailureContext, Metadata, Outcome, PlatformName
from models.records.raw import RawEntries, RawEntry

_ARROW: Final[dict[Any, pa.DataType]] = {
    str: pa.string(),
    int: pa.int64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", "UTC"),
    list: pa.list_(pa.string()),
}
MAX_ID_LENGTH: Final = 512  # bytes of an id or name that becomes part of a key
MAX_MICROSECONDS: Final = 253_402_300_799_999_999  # the end of the year 9999, as far as PostgreSQL and datetime agree


def _arrow_type(annotation: Any) -> pa.DataType:  # noqa: ANN401 - what msgspec.inspect hands out
    kind = annotation
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
    names: dict[Any, Any] = {
        msgspec.inspect.StrType: str,
        msgspec.inspect.EnumType: str,
        msgspec.inspect.LiteralType: str,
        msgspec.inspect.IntType: int,
        msgspec.inspect.BoolType: bool,
        msgspec.inspect.DateTimeType: datetime,
        msgspec.inspect.ListType: list,
    }
    return _ARROW[names[type(kind)]]


def _fields(struct: type[msgspec.Struct], prefix: str = "") -> list[pa.Field]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return [pa.field(prefix + f.name, _arrow_type(f.type)) for f in info.fields if f.name not in _NESTED]


_NESTED: Final = ("metadata", "failure_context")
_PLAIN: Final = _fields(Event)
_META: Final = _fields(Metadata)
_FAILURE: Final = _fields(FailureContext)

JSON_SCHEMA: Final = pa.schema(
    [*_PLAIN, pa.field("metadata", pa.struct(_META)), pa.field("failure_context", pa.struct(_FAILURE))]
)
"""The event as it is written, nested."""

EVENT_SCHEMA: Final = pa.schema(
    [*_PLAIN, *_META, *_fields(FailureContext, "failure_"), pa.field("has_failure", pa.bool_())]
)
"""The event flat: metadata under its own names, failure_context under failure_*, absent where has_failure is false."""

ENTRY_SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("entry_ms", pa.int64()),
        pa.field("received_ms", pa.int64()),
    ]
)
"""Where a row stood: running count of its entry in the shard (from 1), milliseconds of the entry's id, received_at."""

BATCH_SCHEMA: Final = pa.schema([*ENTRY_SCHEMA, *EVENT_SCHEMA])


class Mark(NamedTuple):
    """An entry that is not rows of events: heartbeat, control, evidence, outcome, reject, or one that cannot be read.

    It stands before row `row` of the batch. `reason` is set where the entry goes to the dead letters.
    """

    row: int
    position: int
    entry_ms: int
    entry_seq: int
    received_ms: int
    kind: Kind | None
    payload: bytes
    reason: str | None = None
    detail: str = ""
    part: int = 0  # which event of a packed entry, where only that one is bad


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one shard in log order. `events` has BATCH_SCHEMA; `last` is the position of the last entry."""

    events: pa.RecordBatch
    marks: tuple[Mark, ...]
    last: int
    entries: int


Ints = npt.NDArray[np.int64]
_HEAD: Final = np.dtype([("crc", "<u4"), ("received_ms", "<u8")])

_POOL: Final = ptars.HandlerPool(
    [event_pb2.DESCRIPTOR], ptars.PtarsConfig(list_nullable=True, list_value_nullable=True)
)
_SINGLE: Final = _POOL.get_for_message(event_pb2.Event.DESCRIPTOR)
_MANY: Final = _POOL.get_for_message(event_pb2.EventBatch.DESCRIPTOR)
# A timestamp is read as text and then cast: the cast insists on an offset, the JSON reader would take its lack as UTC.
_AS_TEXT: Final = JSON_SCHEMA.set(JSON_SCHEMA.get_field_index("timestamp"), pa.field("timestamp", pa.string()))
_READ: Final = pa_json.ParseOptions(explicit_schema=_AS_TEXT, unexpected_field_behavior="ignore")

_PLATFORMS: Final = pa.array(get_args(PlatformName))
_EVENT_TYPES: Final = pa.array([t.value for t in EventType])
OUTCOMES: Final = pa.array([o.value for o in Outcome])
REQUIRED: Final = ("id", "platform", "event_type", "repository", "pipeline_id", "instance", "outcome")
_KEYS: Final = (
    "repository",
    "pipeline_id",
    "job_id",
    "instance",
    "workflow",
    "workflow_id",
    "job_name",
    "commit_sha",
    "branch",
)
_WORDS: Final = (("platform", _PLATFORMS), ("event_type", _EVENT_TYPES))
_BOUNDED: Final = dict.fromkeys((*REQUIRED, *_KEYS), (1, MAX_ID_LENGTH)) | {"id": (36, 36)}
_INTEGERS: Final = ("attempt", "native_retries", "failure_exit_code", "failure_tests_failed")
_INT32: Final = 2**31 - 1
_SEPARATOR: Final = 0x1F  # stands between the parts of a key, and therefore in none of them
_UUID: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_UUID_BYTES: Final = np.zeros((36, 256), np.bool_)
for _place in range(36):
    for _allowed in b"-" if _place in {8, 13, 18, 23} else b"0123456789abcdef":
        _UUID_BYTES[_place, _allowed] = True
_STRINGS: Final = tuple(f.name for f in EVENT_SCHEMA if f.type == pa.string())


Parse: TypeAlias = Callable[[], tuple[pa.RecordBatch, Ints | None]]
"""Gives the events of a block, nested, and how many each entry has where that is not one."""


class _Block(NamedTuple):
    """Event entries of one encoding: their places in `raw`, when they were received (Unix ms), their payloads."""

    raw: RawEntries
    places: Ints
    received: Ints
    payloads: list[bytes]

    def part(self, first: int, end: int) -> _Block:
        """Those from `first` to before `end`."""
        return _Block(self.raw, self.places[first:end], self.received[first:end], self.payloads[first:end])

    def bad(self, i: int, told: bytes, error: InputError, part: int = 0) -> Mark:
        """The mark of the i-th, of which `told` goes to the dead letters."""
        return _bad(self.raw[int(self.places[i])], int(self.received[i]), told, error, part)


class Decoding:
    """Entries on their way into columns. JSON may be parsed elsewhere meanwhile. Pickles as the batch it becomes."""

    def __init__(self, entries: Sequence[RawEntry], elsewhere: Callable[[Parse], Parse]) -> None:
        """Begin with `entries`; `elsewhere` begins to run what it is given, and gives what waits for the answer.

        Only pyarrow's parser lets go of the interpreter's lock. ptars does not, so it gains nothing in a thread.
        """
        self._raw = RawEntries.of(entries)
        self._others: list[Mark] = []
        self._blocks = []
        for encoding, block in _blocks(self._raw, self._others):
            parse = _PARSERS[encoding](block.payloads)
            self._blocks.append((encoding, block, elsewhere(parse) if encoding is Encoding.JSON else parse))

    def batch(self) -> Batch:
        """The columns; to be asked for once."""
        raw, others = self._raw, self._others
        events = _in_order([_rows(*block, others) for block in self._blocks])
        if others:
            rows = np.searchsorted(events.column("position").to_numpy(), [m.position for m in others])
            others = [m._replace(row=int(row)) for m, row in zip(others, rows, strict=True)]
            others.sort(key=lambda m: (m.position, m.part))
        return Batch(events, tuple(others), raw.positions[-1] if raw else 0, len(raw))

    def __reduce__(self) -> tuple[Any, ...]:
        return replace, (self.batch(),)


def decode(entries: Sequence[RawEntry]) -> Batch:
    """`entries`, of one shard and in log order, as columns and marks.

    Nothing is raised for bad entries and nothing is dropped. The result of each entry is independent of its neighbours.
    """
    return Decoding(entries, _here).batch()


def _here(parse: Parse) -> Parse:
    return parse


def _blocks(raw: RawEntries, others: list[Mark]) -> Iterator[tuple[Encoding, _Block]]:
    """The intact event entries by encoding; the rest become marks."""
    values = [fields[1] if len(fields) == 2 else b"" for fields in raw.fields]  # noqa: PLR2004 - a name and a value
    received, intact = _checked(values)
    places_of: dict[bytes, list[int]] = {}
    for place, fields in enumerate(raw.fields):
        places_of.setdefault(fields[0] if fields else b"", []).append(place)
    for name, places in places_of.items():
        known = KNOWN_FIELDS.get(name)
        if known is None or known[0] is not Kind.EVENT:
            others += [_other(raw[place]) for place in places]
            continue
        if not intact.all():
            others += [_other(raw[place]) for place in places if not intact[place]]
            places = [place for place in places if intact[place]]  # noqa: PLW2901 - those that are left
        if places:
            at = np.array(places, np.int64)
            yield known[1], _Block(raw, at, received[at], [values[place][HEADER_BYTES:] for place in places])


def _checked(values: Sequence[bytes]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """When each value was received, and whether it is as it was written; `check` says of one what is wrong."""
    heads = np.frombuffer(b"".join([value[:12].ljust(12, b"\0") for value in values]), _HEAD)
    checksums = np.fromiter(map(crc32, [value[4:] for value in values]), np.uint32, len(values))
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    received = heads["received_ms"]
    intact = (heads["crc"] == checksums) & (lengths >= HEADER_BYTES) & (received <= MAX_RECEIVED_MS)
    return received.astype(np.int64), intact


def _other(entry: RawEntry) -> Mark:
    """The mark of an entry that is no events, or cannot be read."""
    fields = entry.fields
    try:
        if len(fields) != 2:  # noqa: PLR2004 - as above
            raise MalformedPayload(f"an entry of {len(fields) // 2} fields; one was expected")
        kind, _ = read_field(fields[0])
        received_ms = check(fields[1])
    except InputError as error:
        return _bad(entry, 0, b"=".join(fields[:2]), error)
    at = (entry.position, entry.entry_ms, entry.entry_seq)
    return Mark(0, *at, received_ms, kind, fields[1][HEADER_BYTES:])


def _bad(entry: RawEntry, received_ms: int, payload: bytes, error: InputError, part: int = 0) -> Mark:
    at = (entry.position, entry.entry_ms, entry.entry_seq)
    return Mark(0, *at, received_ms, None, payload, error.reason, error.detail, part)


def _in_order(blocks: list[pa.RecordBatch]) -> pa.RecordBatch:
    tables = [block for block in blocks if block.num_rows]
    if not tables:
        return _EMPTY
    if len(tables) == 1:
        return tables[0]
    table = pa.Table.from_batches(tables)
    order = np.argsort(table.column("position").to_numpy(), kind="stable")
    return table.take(order).combine_chunks().to_batches()[0]


_EMPTY: Final = pa.RecordBatch.from_pylist([], schema=BATCH_SCHEMA)


def _rows(encoding: Encoding, block: _Block, parse: Parse, bad: list[Mark]) -> pa.RecordBatch:
    """The rows of one encoding; a block that does not decode as a whole is halved until the bad entries stand alone."""
    try:
        nested, counts = parse()
        flat = _flatten(nested)
    except (pa.ArrowException, ValueError, MalformedPayload) as error:
        size = len(block.payloads)
        if size == 1:
            bad.append(block.bad(0, block.payloads[0], MalformedPayload(str(error)[:500])))
            return _EMPTY
        halves = block.part(0, size // 2), block.part(size // 2, size)
        return _in_order([_rows(encoding, half, _PARSERS[encoding](half.payloads), bad) for half in halves])
    raw = block.raw
    # An id has 64 bits; what lies behind the year 9999 counts as that, as it never counts for more than received_at.
    entry_ms = np.minimum(np.array(raw.entry_ms, np.uint64), MAX_RECEIVED_MS).astype(np.int64)
    where = [np.array(raw.positions)[block.places], entry_ms[block.places], block.received]
    if counts is not None:
        where = [np.repeat(numbers, counts) for numbers in where]
    batch = pa.RecordBatch.from_arrays([*map(pa.array, where), *flat], schema=BATCH_SCHEMA)
    return _valid(batch, block, counts, bad)


def _from_json(payloads: list[bytes]) -> Parse:
    joined = b"\n".join(payloads)
    one_block = pa_json.ReadOptions(use_threads=False, block_size=len(joined) + 1)
    objects = {payload[:1] for payload in payloads} == {b"{"} and {payload[-1:] for payload in payloads} == {b"}"}

    def parse() -> tuple[pa.RecordBatch, None]:
        if not objects:
            raise MalformedPayload("a JSON object was expected")
        if not joined.isascii():
            joined.decode()
        table = pa_json.read_json(pa.BufferReader(joined), read_options=one_block, parse_options=_READ)
        if table.num_rows != len(payloads):
            raise MalformedPayload("more than one JSON object in an entry")
        return table.cast(JSON_SCHEMA).combine_chunks().to_batches()[0], None

    return parse


def read_json(payloads: list[bytes]) -> pa.RecordBatch:
    """The events of JSON objects as they stand, with EVENT_SCHEMA; what `faults_of` asks of them is not asked here.

    Raises:
        MalformedPayload: one of them is no event.
    """
    try:
        nested, _ = _from_json(payloads)()
        return pa.RecordBatch.from_arrays(_flatten(nested), schema=EVENT_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise MalformedPayload(str(error)[:500]) from None


def _from_protobuf(payloads: list[bytes]) -> Parse:
    return lambda: (_SINGLE.list_to_record_batch(payloads), None)


def _from_packed(payloads: list[bytes]) -> Parse:
    def parse() -> tuple[pa.RecordBatch, Ints]:
        events = _MANY.list_to_record_batch(payloads).column(0)
        counts = pc.fill_null(pc.list_value_length(events), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return pa.RecordBatch.from_struct_array(events.flatten()), counts

    return parse


_PARSERS: Final[dict[Encoding, Callable[[list[bytes]], Parse]]] = {
    Encoding.JSON: _from_json,
    Encoding.PROTOBUF: _from_protobuf,
    Encoding.PACKED: _from_packed,
}


def _flatten(nested: pa.RecordBatch) -> list[pa.Array]:
    failure = nested.column("failure_context")
    arrays = [nested.column(f.name) for f in _PLAIN]
    for struct, fields in ((nested.column("metadata"), _META), (failure, _FAILURE)):
        by_name = dict(zip([f.name for f in struct.type], struct.flatten(), strict=True))
        arrays += [by_name[f.name] for f in fields]
    flat = [_settled(array, f) for array, f in zip(arrays, EVENT_SCHEMA, strict=False)]
    return [*flat, failure.is_valid()]


def _settled(array: pa.Array, wanted: pa.Field) -> pa.Array:
    """`array` as its column has it: one type for all encodings, lists and attempts never null."""
    if pa.types.is_list(wanted.type) and array.values.null_count:
        raise MalformedPayload(f"Expected no null in a list - at `{wanted.name}`")
    if pa.types.is_list(wanted.type) and array.null_count:
        return pa.ListArray.from_arrays(pc.fill_null(array.offsets, 0), array.values, type=wanted.type)
    if wanted.name == "attempt":
        array = pc.fill_null(array, 1)
    return array if array.type == wanted.type else array.cast(wanted.type)


def _valid(batch: pa.RecordBatch, block: _Block, counts: Any, bad: list[Mark]) -> pa.RecordBatch:  # noqa: ANN401
    """`batch` without the rows that are no events, which become marks; an unknown outcome becomes UNKNOWN."""
    if not clean(batch):
        faults = {reason: mask for reason, mask in faults_of(batch) if pc.any(mask).as_py()}
        if faults:
            batch = _without(batch, faults, block, counts, bad)
    known = pc.is_in(batch.column("outcome"), OUTCOMES)
    if known.false_count:
        index = batch.schema.get_field_index("outcome")
        batch = batch.set_column(
            index, BATCH_SCHEMA.field("outcome"), pc.if_else(known, batch.column("outcome"), Outcome.UNKNOWN.value)
        )
    return batch


def _buffer(column: pa.Array, index: int, dtype: type, extra: int = 0) -> np.ndarray[Any, Any]:
    """The values that `column` has in one of its buffers; what stands under a null is whatever lies there."""
    buffer = column.buffers()[index]
    if buffer is None:
        return np.zeros(0, dtype)
    return np.frombuffer(buffer, dtype)[column.offset : column.offset + len(column) + extra]


def clean(batch: pa.RecordBatch) -> bool:
    """Whether a glance at the buffers shows that no row can be at fault; False only means that one must look."""
    if not batch.num_rows:
        return True
    for name in _STRINGS:
        column = batch.column(name)
        offsets = _buffer(column, 1, np.int32, extra=1)
        if not len(offsets):
            return False
        data = column.buffers()[2]
        least_byte = 0 if name not in _BOUNDED else _SEPARATOR
        if data is not None:
            text = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
            if text.min(initial=0xFF) <= least_byte:
                return False
        if name in _BOUNDED:
            lengths = np.diff(offsets)
            least, most = _BOUNDED[name]
            if (name in REQUIRED and (column.null_count or lengths.min() < least)) or lengths.max() > most:
                return False
    if not _all_uuids(batch.column("id")):
        return False
    at = batch.column("timestamp")
    micros = _buffer(at, 1, np.int64)
    if at.null_count or micros.min() <= 0 or micros.max() > MAX_MICROSECONDS:
        return False
    for name in _INTEGERS:
        numbers = _buffer(batch.column(name), 1, np.int64)
        if numbers.max(initial=0) > _INT32 or numbers.min(initial=0) < -_INT32:
            return False
    return all(not pc.is_in(batch.column(name), words).false_count for name, words in _WORDS)


def _all_uuids(ids: pa.Array) -> bool:
    """Whether every one of `ids`, all 36 bytes long, is a UUID in lower case."""
    offsets = _buffer(ids, 1, np.int32, extra=1)
    text = np.frombuffer(ids.buffers()[2], np.uint8)[offsets[0] : offsets[-1]].reshape(-1, 36)
    return bool(_UUID_BYTES[np.arange(36), text].all())


def faults_of(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """What makes a row no event, and for which rows."""
    for name in REQUIRED:
        column = batch.column(name)
        yield (
            f"Object missing required field `{name}`",
            pc.or_(column.is_null(), pc.equal(pc.fill_null(pc.binary_length(column), 0), 0)),
        )
    micros = pc.fill_null(batch.column("timestamp").cast(pa.int64()), 0)
    # Protocol Buffers cannot tell a timestamp that is 0 from none.
    yield "Object missing required field `timestamp`", pc.equal(micros, 0)
    yield (
        "Expected a timestamp of the years 1970 to 9999",
        pc.or_(pc.less(micros, 0), pc.greater(micros, MAX_MICROSECONDS)),
    )
    yield (
        "Expected a UUID in lower case - at `id`",
        pc.invert(pc.fill_null(pc.match_substring_regex(batch.column("id"), _UUID), fill_value=False)),
    )
    for name, words in _WORDS:
        yield f"Invalid enum value - at `{name}`", pc.invert(pc.is_in(batch.column(name), words))
    for name in _KEYS:
        yield (
            f"Expected at most {MAX_ID_LENGTH} bytes - at `{name}`",
            pc.fill_null(pc.greater(pc.binary_length(batch.column(name)), MAX_ID_LENGTH), fill_value=False),
        )
        mask = pc.match_substring(batch.column(name), chr(_SEPARATOR))
        yield f"A unit separator cannot stand in a name - at `{name}`", pc.fill_null(mask, fill_value=False)
    for name in _INTEGERS:
        column = pc.fill_null(batch.column(name), 0)
        yield f"Expected a 32 bit integer - at `{name}`", pc.or_(pc.greater(column, _INT32), pc.less(column, -_INT32))
    for name in _STRINGS:
        mask = pc.match_substring(batch.column(name), "\x00")
        yield f"A NUL character cannot be stored - at `{name}`", pc.fill_null(mask, fill_value=False)


def _without(
    batch: pa.RecordBatch,
    faults: dict[str, pa.Array],
    block: _Block,
    counts: Any,  # noqa: ANN401 - a numpy array or None
    bad: list[Mark],
) -> pa.RecordBatch:
    masks = {reason: mask.to_numpy(zero_copy_only=False) for reason, mask in faults.items()}
    wrong = np.logical_or.reduce(list(masks.values()))
    entries = len(block.payloads)
    owner = np.arange(entries) if counts is None else np.repeat(np.arange(entries), counts)
    first = np.zeros(entries, np.int64) if counts is None else np.concatenate(([0], np.cumsum(counts)[:-1]))
    for row in np.flatnonzero(wrong):
        detail = next(reason for reason, mask in masks.items() if mask[row])
        part = 0 if counts is None else int(row - first[owner[row]])
        told = block.payloads[owner[row]] if counts is None else _part(batch, row)
        bad.append(block.bad(owner[row], told, MalformedPayload(detail), part))
    return batch.filter(pa.array(~wrong))


def _part(batch: pa.RecordBatch, row: np.int64) -> bytes:
    """One event of a packed entry for the dead letters: JSON, its timestamp in microseconds as it stood."""
    index = batch.schema.get_field_index("timestamp")
    one = batch.slice(row, 1)
    return msgspec.json.encode(one.set_column(index, "timestamp", one.column(index).cast(pa.int64())).to_pylist()[0])
