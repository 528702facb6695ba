"""The event as bytes, in each encoding. Reading many at once is columns.decode."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from models.records import event_pb2
from models.records.entry import Encoding
from models.records.errors import MalformedPayload
from models.records.event import Event

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Event)


def to_json(event: Event) -> bytes:
    """One event as a JSON line, without its line break."""
    return _ENCODER.encode(event)


def from_json(payload: bytes) -> Event:
    """The event written in `payload`; keys that we do not know are passed over.

    Raises:
        MalformedPayload: not JSON, or not an event; the message names the field.
    """
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedPayload(str(error)) from None


def _message(event: Event) -> event_pb2.Event:
    values = msgspec.structs.asdict(event)
    values["timestamp"] = (event.timestamp - _EPOCH) // _MICROSECOND
    for name in ("metadata", "failure_context"):
        part = values.pop(name)
        if part is not None:
            values[name] = {k: v for k, v in msgspec.structs.asdict(part).items() if v is not None}
    return event_pb2.Event(**{k: v for k, v in values.items() if v is not None})


def to_protobuf(event: Event) -> bytes:
    """One event as a guard.v1.Event message."""
    return _message(event).SerializeToString(deterministic=True)


def to_packed(events: Iterable[Event]) -> bytes:
    """Many events as one guard.v1.EventBatch message."""
    return event_pb2.EventBatch(events=map(_message, events)).SerializeToString(deterministic=True)


def to_bytes(event: Event, encoding: Encoding) -> bytes:
    """One event in `encoding`; packed gives a batch of one."""
    match encoding:
        case Encoding.JSON:
            return to_json(event)
        case Encoding.PROTOBUF:
            return to_protobuf(event)
        case Encoding.PACKED:
            return to_packed([event])
