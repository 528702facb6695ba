"""The frame of an entry: what was written is read, what was altered is found, what was ever written is still read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.records import columns, entry, payload
from models.records.entry import HEADER_BYTES, MAX_RECEIVED_MS, NO_TRACE, Encoding, Entry, Kind
from models.records.errors import BadChecksum, MalformedPayload, UnknownSchema
from models.records.event import Outcome
from models.records.raw import RawEntry
from tests.events import make_event

SAMPLES = Path(__file__).parents[2] / "fixtures" / "wire" / "v1"
TRACE = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b701")
RECEIVED = 1_790_000_000_123

EVENT = make_event(
    Outcome.FAILED,
    1_790_000_000_000,
    branch="münchen/ü",
    job_number=2**40,
    attempt=2,
    step="Run tests",
    runner_labels=["linux", "x64"],
    is_fork=False,
    is_deploy=True,
    native_retries=0,
    queued_ms=0,
    duration_ms=61_000,
    exit_code=-1,
    reason="failure",
    excerpt="line one\nline two \N{GRINNING FACE}",
    error_patterns=["a", ""],
)
PAYLOADS = {
    "event.json.1": payload.to_json(EVENT),
    "event.pb.1": payload.to_protobuf(EVENT),
    "event.pbs.1": payload.to_packed([EVENT, EVENT]),
    "evidence.json.1": b'{"event":"x"}',
    "outcome.json.1": b'{"event":"x"}',
    "control.json.1": b'{"rulebook":"ab"}',
    "heartbeat.json.1": b"",
    "reject.json.1": b'{"source":"gh","reason":"malformed_payload","detail":"d"}',
}


def test_there_is_a_sample_of_all_that_is_read() -> None:
    readable = {
        entry.field_of(kind, encoding).decode()
        for kind in Kind
        for encoding in (Encoding if kind is Kind.EVENT else [Encoding.JSON])
    }
    assert readable == set(PAYLOADS) == {path.stem for path in SAMPLES.glob("*.bin")}


@pytest.mark.parametrize("field", PAYLOADS)
def test_what_was_written_once_is_read_for_ever(field: str) -> None:
    value = bytes.fromhex((SAMPLES / f"{field}.bin").read_text("ascii"))
    read = entry.decode(field.encode(), value)
    assert (read.received_ms, read.trace, read.payload) == (RECEIVED, TRACE, PAYLOADS[field])
    batch = columns.decode([RawEntry(1, RECEIVED, 0, (field.encode(), value))])
    if read.kind is not Kind.EVENT:
        assert [(m.kind, m.reason, m.payload) for m in batch.marks] == [(read.kind, None, PAYLOADS[field])]
        return
    assert batch.marks == ()
    for row in batch.events.to_pylist():
        assert (row["id"], row["timestamp"]) == ("df583922-e0be-5add-b859-2f68cecfcba1", EVENT.timestamp)
        assert (row["branch"], row["failure_excerpt"]) == ("münchen/ü", "line one\nline two \N{GRINNING FACE}")
        assert (row["failure_error_patterns"], row["queued_ms"], row["is_fork"]) == (["a", ""], 0, False)


_ENTRIES = st.builds(
    Entry,
    st.sampled_from(Kind),
    st.just(Encoding.JSON),
    st.integers(0, MAX_RECEIVED_MS),
    st.binary(max_size=40),
    st.binary(min_size=25, max_size=25),
)


@given(_ENTRIES)
def test_what_is_written_is_read(told: Entry) -> None:
    assert entry.decode(*entry.encode(told)) == told


@given(_ENTRIES, st.data())
def test_any_altered_byte_is_found(told: Entry, data: st.DataObject) -> None:
    field, value = entry.encode(told)
    place = data.draw(st.integers(0, len(value) - 1))
    flip = data.draw(st.integers(1, 255))
    altered = value[:place] + bytes([value[place] ^ flip]) + value[place + 1 :]
    with pytest.raises(BadChecksum):
        entry.decode(field, altered)


def test_a_value_shorter_than_its_header_is_malformed() -> None:
    _, value = entry.encode(Entry(Kind.HEARTBEAT, Encoding.JSON, 1, b""))
    assert len(value) == HEADER_BYTES
    for length in range(HEADER_BYTES):
        with pytest.raises(MalformedPayload, match="shorter than its 37 byte header"):
            entry.check(value[:length])


def test_a_time_that_no_date_can_hold_is_malformed() -> None:
    told = Entry(Kind.HEARTBEAT, Encoding.JSON, MAX_RECEIVED_MS, b"")
    assert entry.decode(*entry.encode(told)) == told
    with pytest.raises(MalformedPayload, match="after the year 9999"):
        entry.decode(*entry.encode(Entry(Kind.HEARTBEAT, Encoding.JSON, MAX_RECEIVED_MS + 1, b"")))


@pytest.mark.parametrize("field", [b"", b"event", b"event.json.2", b"control.pb.1", b"moon.json.1", b"\xff" * 1000])
def test_a_field_of_another_release_is_an_unknown_schema(field: bytes) -> None:
    with pytest.raises(UnknownSchema) as caught:
        entry.read_field(field)
    assert len(caught.value.detail) < 400


def test_the_trace_is_a_w3c_traceparent() -> None:
    assert entry.traceparent(TRACE) == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert entry.traceparent(NO_TRACE) is None
