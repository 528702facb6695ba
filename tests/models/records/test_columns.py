"""Entries become the same rows whatever their encoding, and a bad one is a mark that spoils no neighbour."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.records import columns, event_pb2, payload
from models.records.columns import BATCH_SCHEMA, Batch
from models.records.entry import Encoding, Entry, Kind
from models.records.event import Event, Outcome
from models.records.raw import RawEntry
from tests.events import events, make_event, raw, raw_event

EVENT = make_event(Outcome.FAILED, 1_000, exit_code=1)
JSON = payload.to_json(EVENT)
RECEIVED = 5_000


def _entry(position: int, value: bytes, encoding: Encoding = Encoding.JSON) -> RawEntry:
    return raw(position, Entry(Kind.EVENT, encoding, RECEIVED, value))


def _flat(event: Event, position: int = 1) -> dict[str, Any]:
    """The row that `event` must become."""
    own = msgspec.structs.asdict(event)
    metadata, failure = msgspec.structs.asdict(own.pop("metadata")), own.pop("failure_context")
    told = msgspec.structs.asdict(failure) if failure is not None else {}
    missing: dict[str, Any] = {name: None for name in BATCH_SCHEMA.names if name.startswith("failure_")}
    missing["failure_error_patterns"] = []
    where = {"position": position, "entry_ms": RECEIVED, "received_ms": RECEIVED}
    has = {"has_failure": failure is not None}
    return {**where, **own, **metadata, **missing, **{f"failure_{k}": v for k, v in told.items()}, **has}


@given(st.lists(events(), min_size=1, max_size=4))
def test_json_protobuf_and_packed_become_the_same_rows(several: list[Event]) -> None:
    batches = [
        columns.decode([raw_event(i, event, RECEIVED, encoding) for i, event in enumerate(several, 1)])
        for encoding in Encoding
    ]
    packed = columns.decode([_entry(1, payload.to_packed(several), Encoding.PACKED)])
    assert [b.marks for b in (*batches, packed)] == [()] * 4
    assert batches[0].events.to_pylist() == [_flat(event, i) for i, event in enumerate(several, 1)]
    assert batches[1].events.equals(batches[0].events)
    assert batches[2].events.equals(batches[0].events)
    assert packed.events.drop_columns(["position"]).equals(batches[0].events.drop_columns(["position"]))
    assert packed.events.column("position").to_pylist() == [1] * len(several)


@given(events())
def test_what_json_writes_json_reads(event: Event) -> None:
    assert payload.from_json(payload.to_json(event)) == event


def test_no_entries_are_no_rows() -> None:
    assert columns.decode([]) == Batch(columns.decode([]).events, (), 0, 0)
    assert columns.decode([]).events.schema == BATCH_SCHEMA


def test_encodings_may_be_mixed_and_rows_stay_in_log_order() -> None:
    encodings = [Encoding.PACKED, Encoding.JSON, Encoding.PROTOBUF] * 3
    batch = columns.decode([raw_event(i, EVENT, RECEIVED, encoding) for i, encoding in enumerate(encodings, 1)])
    assert batch.events.column("position").to_pylist() == list(range(1, 10))
    assert (batch.last, batch.entries) == (9, 9)


def _replaced(old: bytes, new: bytes) -> bytes:
    assert JSON.count(old) == 1
    return JSON.replace(old, new)


def _with(name: str, value: bytes) -> bytes:
    """The event with one more key in its metadata."""
    return _replaced(b'"metadata":{', b'"metadata":{"%s":%s,' % (name.encode(), value))


BAD_JSON = {
    "not JSON": (b"garbage", "a JSON object was expected"),
    "an array": (b"[" + JSON + b"]", "a JSON object was expected"),
    "nothing": (b"", "a JSON object was expected"),
    "leading space": (b" " + JSON, "a JSON object was expected"),
    "two in one": (JSON + JSON, "more than one JSON object"),
    "two lines": (JSON + b"\n" + JSON, "more than one JSON object"),
    "cut": (JSON[:-2] + b"}", "JSON parse error"),
    "no UTF-8": (_replaced(b"org/repo", b"org/\xff"), "'utf-8' codec can't decode"),
    "an encoded surrogate": (_replaced(b"org/repo", b"org/\xed\xa0\x80"), "'utf-8' codec can't decode"),
    "a lone high surrogate": (_replaced(b"org/repo", rb"org/\ud800"), "surrogate"),
    "a lone low surrogate": (_replaced(b"org/repo", rb"org/\udc00"), "surrogate"),
    "a key twice": (_with("job_name", b'"x"'), "specified twice"),
    "a bare line break in a string": (_replaced(b"org/repo", b"org/\n"), "JSON parse error"),
    "1e400": (_with("attempt", b"1e400"), "too big"),
    "a huge integer": (_with("attempt", b"9" * 30), "couldn't parse"),
    "a fraction for an integer": (_with("attempt", b"1.5"), "couldn't parse"),
    "text for an integer": (_with("attempt", b'"1"'), "changed from number to string"),
    "a number for text": (_with("branch", b"1"), "changed from string to number"),
    "a number for a flag": (_with("is_fork", b"1"), "changed from boolean to number"),
    "text for a list": (_with("runner_labels", b'"x"'), "changed from array to string"),
    "null in a list": (_with("runner_labels", b'["a",null]'), "Expected no null in a list - at `runner_labels`"),
    "10,000 lists where text is expected": (_with("branch", b"[" * 10_000 + b"]" * 10_000), "changed from string"),
    "a list for metadata": (b'{"metadata":[]}', "changed from object to array"),
    "a timestamp without an offset": (_replaced(b"00:00:01Z", b"00:00:01"), "Failed to parse string"),
    "a bare date": (_replaced(b"T00:00:01Z", b""), "Failed to parse string"),
    "a number for a timestamp": (_replaced(b'"1970-01-01T00:00:01Z"', b"1000"), "changed from string to number"),
    "nanoseconds": (_replaced(b"00:00:01Z", b"00:00:01.000000001Z"), "Failed to parse string"),
    "no timestamp": (_replaced(b'"timestamp":"1970-01-01T00:00:01Z",', b""), "missing required field `timestamp`"),
    "the epoch, as Protocol Buffers write none": (_replaced(b"00:00:01Z", b"00:00:00Z"), "required field `timestamp`"),
    "before 1970": (_replaced(b"1970-01-01", b"1969-01-01"), "Expected a timestamp of the years 1970 to 9999"),
    "no metadata": (b'{"id":"%s"}' % EVENT.id.encode(), "missing required field `platform`"),
    "an empty object": (b"{}", "missing required field `id`"),
    "an empty repository": (_replaced(b"org/repo", b""), "missing required field `repository`"),
    "an unknown platform": (_replaced(b'"github"', b'"travis"'), "Invalid enum value - at `platform`"),
    "an unknown event type": (_replaced(b"pipeline.failed", b"pipeline.x"), "Invalid enum value - at `event_type`"),
    "an id in upper case": (_replaced(EVENT.id.encode(), EVENT.id.upper().encode()), "UUID in lower case"),
    "an id that is no UUID": (_replaced(EVENT.id.encode(), b"z" * 36), "UUID in lower case"),
    "an id with a hyphen amiss": (_replaced(EVENT.id.encode(), b"0" * 8 + b"-" * 4 + b"0" * 24), "UUID in lower case"),
    "a short id": (_replaced(EVENT.id.encode(), b"1"), "UUID in lower case"),
    "a long name": (_replaced(b"org/repo", b"x" * 513), "Expected at most 512 bytes - at `repository`"),
    "a long branch": (_with("branch", b'"%s"' % (b"x" * 513)), "Expected at most 512 bytes - at `branch`"),
    "a separator in a name": (_replaced(b"org/repo", rb"org\u001frepo"), "unit separator cannot stand in a name"),
    "NUL in a key": (_replaced(b"org/repo", rb"org/\u0000"), "A NUL character cannot be stored - at `repository`"),
    "NUL in a text": (_with("step", rb'"\u0000"'), "A NUL character cannot be stored - at `step`"),
    "NUL in an excerpt": (
        _replaced(b'"exit_code":1', rb'"excerpt":"\u0000"'),
        "A NUL character cannot be stored - at `failure_excerpt`",
    ),
    "attempt 2**31": (_with("attempt", b"2147483648"), "Expected a 32 bit integer - at `attempt`"),
    "attempt -2**63": (_with("attempt", str(-(2**63)).encode()), "Expected a 32 bit integer - at `attempt`"),
    "an exit code of 2**40": (_replaced(b'"exit_code":1', b'"exit_code":%d' % 2**40), "at `failure_exit_code`"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_a_mark_with_its_reason_between_its_good_neighbours(name: str) -> None:
    value, reason = BAD_JSON[name]
    good = raw_event(1, EVENT, RECEIVED), raw_event(3, EVENT, RECEIVED)
    batch = columns.decode([good[0], _entry(2, value), good[1]])
    assert batch.events.equals(columns.decode(good).events)
    (mark,) = batch.marks
    assert (mark.position, mark.row, mark.kind, mark.reason) == (2, 1, None, "malformed_payload")
    assert (mark.entry_ms, mark.received_ms, mark.payload) == (RECEIVED, RECEIVED, value)
    assert reason in mark.detail
    assert columns.decode([_entry(2, value)]).marks[0] == mark._replace(row=0)


GOOD_JSON: dict[str, tuple[bytes, Callable[[dict[str, Any]], bool]]] = {
    "keys that are not known": (_with("moon", b'{"a":[1,"x",null]}'), lambda row: True),
    "10,000 lists where nobody looks": (_with("moon", b"[" * 10_000 + b"]" * 10_000), lambda row: True),
    "10,000 objects where nobody looks": (_with("moon", b'{"a":' * 10_000 + b"1" + b"}" * 10_000), lambda row: True),
    "an escaped key": (_replaced(b'"id"', rb'"\u0069d"'), lambda row: row["id"] == EVENT.id),
    "a word for outcome that is not known": (
        _replaced(b'"outcome":"failed"', b'"outcome":"exploded"'),
        lambda row: row["outcome"] == "unknown",
    ),
    "no outcome of ours but no outcome at all is none": (
        _with("stage", b'"deploy"'),
        lambda row: row["outcome"] == "failed",
    ),
    "null for a list": (_with("runner_labels", b"null"), lambda row: row["runner_labels"] == []),
    "null for attempt": (_with("attempt", b"null"), lambda row: row["attempt"] == 1),
    "an offset": (
        _replaced(b"1970-01-01T00:00:01Z", b"1970-01-01T02:00:01+02:00"),
        lambda row: row["timestamp"] == EVENT.timestamp,
    ),
    "an empty failure context": (
        _replaced(b'"failure_context":{"exit_code":1}', b'"failure_context":{}'),
        lambda row: row["has_failure"] and row["failure_exit_code"] is None,
    ),
}


@pytest.mark.parametrize("name", GOOD_JSON)
def test_what_a_later_release_may_write_is_read(name: str) -> None:
    value, holds = GOOD_JSON[name]
    batch = columns.decode([_entry(1, value)])
    assert batch.marks == ()
    assert holds(batch.events.to_pylist()[0])


def _message(**changed: Any) -> event_pb2.Event:
    message = event_pb2.Event.FromString(payload.to_protobuf(EVENT))
    for name, value in changed.items():
        setattr(message, name, value)
    return message


BAD_PROTOBUF = {
    "nothing": (b"", "missing required field `id`"),
    "cut": (payload.to_protobuf(EVENT)[:-1], "failed to decode"),
    "no UTF-8": (payload.to_protobuf(EVENT).replace(b"org/repo", b"org/rep\xff"), "invalid UTF-8"),
    "no timestamp": (_message(timestamp=0).SerializeToString(), "missing required field `timestamp`"),
    "the year 146138": (_message(timestamp=2**62).SerializeToString(), "the years 1970 to 9999"),
    "before 1970": (_message(timestamp=-1).SerializeToString(), "the years 1970 to 9999"),
    "NUL": (_message(repository="a\0b").SerializeToString(), "A NUL character cannot be stored - at `repository`"),
}


@pytest.mark.parametrize("name", BAD_PROTOBUF)
def test_bad_protocol_buffers_are_a_mark_between_good_neighbours(name: str) -> None:
    value, reason = BAD_PROTOBUF[name]
    good = [raw_event(i, EVENT, RECEIVED, Encoding.PROTOBUF) for i in (1, 3)]
    batch = columns.decode([good[0], _entry(2, value, Encoding.PROTOBUF), good[1]])
    assert batch.events.equals(columns.decode(good).events)
    (mark,) = batch.marks
    assert (mark.position, mark.reason, mark.payload) == (2, "malformed_payload", value)
    assert reason in mark.detail


def test_one_bad_event_of_a_packed_entry_is_a_mark_of_its_own() -> None:
    packed = event_pb2.EventBatch(
        events=[_message(), _message(timestamp=2**62), _message(), _message(repository="a\0b")]
    )
    batch = columns.decode(
        [raw_event(1, EVENT, RECEIVED), _entry(2, packed.SerializeToString(), Encoding.PACKED)],
    )
    assert batch.events.column("position").to_pylist() == [1, 2, 2]
    assert [(m.position, m.part, m.row) for m in batch.marks] == [(2, 1, 1), (2, 3, 1)]
    kept = [msgspec.json.decode(m.payload) for m in batch.marks]
    assert (kept[0]["id"], kept[0]["timestamp"], kept[1]["repository"]) == (EVENT.id, 2**62, "a\0b")


def test_a_packed_entry_that_cannot_be_read_is_one_mark() -> None:
    packed = payload.to_packed([EVENT, EVENT])
    batch = columns.decode([_entry(1, packed[:-1], Encoding.PACKED), raw_event(2, EVENT, RECEIVED, Encoding.PACKED)])
    assert [(m.position, m.part) for m in batch.marks] == [(1, 0)]
    assert batch.events.num_rows == 1


def test_a_packed_entry_may_hold_no_event() -> None:
    batch = columns.decode([_entry(1, b"", Encoding.PACKED)])
    assert (batch.events.num_rows, batch.marks, batch.last) == (0, (), 1)


def test_what_is_no_event_stands_before_the_row_that_follows_it() -> None:
    entries = [
        raw(1, Entry(Kind.HEARTBEAT, Encoding.JSON, RECEIVED, b"")),
        raw_event(2, EVENT, RECEIVED),
        raw(3, Entry(Kind.CONTROL, Encoding.JSON, RECEIVED, b"{}")),
        raw(4, Entry(Kind.REJECT, Encoding.JSON, RECEIVED, b"{}"), seq=7),
        raw_event(5, EVENT, RECEIVED, Encoding.PROTOBUF),
        raw(6, Entry(Kind.EVIDENCE, Encoding.JSON, RECEIVED, b"{}")),
    ]
    batch = columns.decode(entries)
    assert [(m.row, m.position, m.kind) for m in batch.marks] == [
        (0, 1, Kind.HEARTBEAT),
        (1, 3, Kind.CONTROL),
        (1, 4, Kind.REJECT),
        (2, 6, Kind.EVIDENCE),
    ]
    assert batch.marks[2].entry_seq == 7
    assert (batch.last, batch.entries) == (6, 6)


def test_an_entry_of_other_fields_is_a_mark_that_keeps_them() -> None:
    name, value = raw_event(1, EVENT, RECEIVED).fields
    strange = [
        RawEntry(1, RECEIVED, 0, (b"a", b"b", b"c", b"d")),
        RawEntry(2, RECEIVED, 0, ()),
        RawEntry(3, RECEIVED, 0, (b"event.json.9", value)),
        RawEntry(4, RECEIVED, 0, (name, value[:-1] + b"X")),
        RawEntry(5, RECEIVED, 0, (name, b"short")),
    ]
    marks = columns.decode(strange).marks
    assert [m.reason for m in marks] == [
        "malformed_payload",
        "malformed_payload",
        "unknown_schema",
        "bad_checksum",
        "malformed_payload",
    ]
    assert marks[0].payload == b"a=b"
    assert marks[2].payload == b"event.json.9=" + value


def _mutated(value: bytes) -> st.SearchStrategy[bytes]:
    """`value` with a few bytes changed, dropped or put in."""
    edits = st.lists(st.tuples(st.integers(0, max(len(value) - 1, 0)), st.integers(0, 2), st.binary(max_size=3)))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        text = bytearray(value)
        for place, dropped, new in changes[:3]:
            text[place : place + dropped] = new
        return bytes(text)

    return edits.map(apply)


def _payloads() -> st.SearchStrategy[tuple[Encoding, bytes]]:
    good = {encoding: payload.to_bytes(EVENT, encoding) for encoding in Encoding}
    good[Encoding.PACKED] = payload.to_packed([EVENT, EVENT, EVENT])
    return st.sampled_from(Encoding).flatmap(
        lambda encoding: st.tuples(
            st.just(encoding), st.just(good[encoding]) | _mutated(good[encoding]) | st.binary(max_size=40)
        )
    )


_FRAMED = st.builds(
    lambda kind, told, received: raw(
        0, Entry(kind, told[0] if kind is Kind.EVENT else Encoding.JSON, received, told[1])
    ),
    st.sampled_from([Kind.EVENT, Kind.EVENT, Kind.EVENT, *Kind]),
    _payloads(),
    st.integers(0, 2**64 - 1) | st.just(RECEIVED),
)
_UNFRAMED = st.builds(
    lambda fields: RawEntry(0, RECEIVED, 0, tuple(fields)),
    st.lists(st.binary(max_size=50) | st.sampled_from([b"event.json.1", b"event.pb.1", b"event.pbs.1"]), max_size=4),
)


def _told(entries: Sequence[RawEntry]) -> tuple[list[dict[str, Any]], list[Any]]:
    batch = columns.decode(entries)
    rows = batch.events.to_pylist()
    for mark in batch.marks:
        assert mark.row == sum(row["position"] < mark.position for row in rows)
    return rows, [mark._replace(row=0) for mark in batch.marks]


@given(st.lists(_FRAMED | _UNFRAMED, max_size=8))
def test_whatever_the_bytes_nothing_is_raised_and_no_entry_depends_on_its_neighbours(entries: list[RawEntry]) -> None:
    placed = [entry._replace(position=i) for i, entry in enumerate(entries, 1)]
    rows, marks = _told(placed)
    alone = [_told([entry]) for entry in placed]
    assert rows == [row for each, _ in alone for row in each]
    assert marks == [mark for _, each in alone for mark in each]


def test_one_bad_entry_among_a_thousand_is_found(rng: random.Random) -> None:
    entries = [raw_event(i, EVENT, RECEIVED) for i in range(1, 1001)]
    bad = sorted(rng.sample(range(1000), 7))
    for i in bad:
        entries[i] = _entry(i + 1, b"{garbage}")
    batch = columns.decode(entries)
    assert [m.position - 1 for m in batch.marks] == bad
    assert batch.events.num_rows == 993


def test_a_whole_block_of_bad_entries_is_no_rows() -> None:
    batch = columns.decode([_entry(i, b"{garbage}") for i in range(1, 6)])
    assert batch.events.equals(pa.RecordBatch.from_pylist([], schema=BATCH_SCHEMA))
    assert len(batch.marks) == 5
