"""One event as bytes, and what is no event."""

from __future__ import annotations

import pytest

from models.records import event_pb2, payload
from models.records.entry import Encoding
from models.records.errors import MalformedPayload, Unavailable
from models.records.event import Outcome
from tests.events import make_event

EVENT = make_event(Outcome.FAILED, 1_000_123, runner_labels=["a"], exit_code=1)
JSON = payload.to_json(EVENT)

BAD = {
    "nothing": (b"", "truncated"),
    "no JSON": (b"garbage", "malformed"),
    "no UTF-8": (JSON.replace(b"org/repo", b"org/\xff"), "utf-8"),
    "a lone surrogate": (JSON.replace(b"org/repo", rb"org/\ud800"), "surrogate"),
    "10,000 lists": (
        JSON.replace(b'"metadata":{', b'"moon":' + b"[" * 10_000 + b"]" * 10_000 + b',"metadata":{'),
        "rec",
    ),
    "no offset": (JSON.replace(b"123000Z", b"123000"), "timestamp"),
    "a bare date": (JSON.replace(b"T00:16:40.123000Z", b""), "timestamp"),
    "an unknown platform": (JSON.replace(b'"github"', b'"travis"'), "platform"),
    "a missing key": (JSON.replace(b'"instance":"github.com",', b""), "instance"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_event_is_malformed_and_its_field_is_named(name: str) -> None:
    value, message = BAD[name]
    with pytest.raises(MalformedPayload, match=message):
        payload.from_json(value)


def test_each_encoding_is_one_line_or_one_message() -> None:
    assert payload.to_bytes(EVENT, Encoding.JSON) == JSON
    assert b"\n" not in JSON
    message = event_pb2.Event.FromString(payload.to_bytes(EVENT, Encoding.PROTOBUF))
    assert (message.timestamp, message.failure_context.exit_code) == (1_000_123_000, 1)
    assert list(event_pb2.EventBatch.FromString(payload.to_bytes(EVENT, Encoding.PACKED)).events) == [message]


def test_what_is_away_says_when_to_come_back() -> None:
    assert Unavailable("busy", retry_after=2.5).retry_after == 2.5
    assert Unavailable("busy").retry_after is None
