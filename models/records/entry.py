"""The entry: what stands in a stream, one binary field whose name says how to read its value.

    field   <kind>.<encoding>.<version>             for example event.pb.1
    value   crc32 u32 | received_at u64 ms | trace id 16 B | parent id 8 B | trace flags u8 | payload

Integers are little-endian; the checksum covers all that follows it (an append-only file has none of its own). The
three trace fields are those of a W3C traceparent, https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import StrEnum

from models.records.errors import BadChecksum, MalformedPayload, UnknownSchema

VERSION = 1
_HEADER = struct.Struct("<IQ16s8sB")
_CHECKED = struct.Struct("<IQ")
HEADER_BYTES = _HEADER.size
NO_TRACE = bytes(25)
MAX_RECEIVED_MS = 253_402_300_799_999
"""The end of the year 9999."""


class Kind(StrEnum):
    """What an entry tells."""

    EVENT = "event"
    EVIDENCE = "evidence"  # what a log showed, for an event
    OUTCOME = "outcome"  # what came of an action
    CONTROL = "control"  # the rulebook in force from here on
    HEARTBEAT = "heartbeat"
    REJECT = "reject"  # an authentic delivery that could not be normalised


class Encoding(StrEnum):
    """How the payload is written."""

    JSON = "json"
    PROTOBUF = "pb"
    PACKED = "pbs"  # a Protocol Buffers message of many events


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry. `received_ms` is the publisher's clock, Unix milliseconds; `trace` is 25 bytes or NO_TRACE."""

    kind: Kind
    encoding: Encoding
    received_ms: int
    payload: bytes
    trace: bytes = NO_TRACE
    version: int = VERSION


KNOWN_FIELDS = {
    f"{kind}.{encoding}.{VERSION}".encode(): (kind, encoding)
    for kind in Kind
    for encoding in (Encoding if kind is Kind.EVENT else (Encoding.JSON,))
}
"""Kind and encoding by the name of a field, of all that is read here."""


def field_of(kind: Kind, encoding: Encoding, version: int = VERSION) -> bytes:
    """The field name that says how to read the value."""
    return f"{kind}.{encoding}.{version}".encode()


def encode(entry: Entry) -> tuple[bytes, bytes]:
    """Field name and value of `entry`."""
    header = _HEADER.pack(0, entry.received_ms, entry.trace[:16], entry.trace[16:24], entry.trace[24])
    rest = header[4:] + entry.payload
    return field_of(entry.kind, entry.encoding, entry.version), zlib.crc32(rest).to_bytes(4, "little") + rest


def read_field(field: bytes) -> tuple[Kind, Encoding]:
    """Kind and encoding named by a field.

    Raises:
        UnknownSchema: a kind, encoding or version that this release does not read.
    """
    try:
        return KNOWN_FIELDS[field]
    except KeyError:
        raise UnknownSchema(f"field {field[:64]!r} names no kind, encoding and version that is read here") from None


def check(value: bytes) -> int:
    """Verify the checksum of `value` and return its received_at in Unix milliseconds.

    Raises:
        MalformedPayload: shorter than a header, or received after the year 9999.
        BadChecksum: altered since it was written.
    """
    if len(value) < HEADER_BYTES:
        raise MalformedPayload(f"a value of {len(value)} bytes is shorter than its {HEADER_BYTES} byte header")
    crc, received_ms = _CHECKED.unpack_from(value)
    if zlib.crc32(value[4:]) != crc:
        raise BadChecksum("the checksum does not match the bytes")
    if received_ms > MAX_RECEIVED_MS:
        raise MalformedPayload(f"received_at is {received_ms} ms, which lies after the year 9999")
    return received_ms  # type: ignore[no-any-return]  # an unsigned integer, as _CHECKED has it


def decode(field: bytes, value: bytes) -> Entry:
    """The entry written as `field` and `value`.

    Raises:
        UnknownSchema, MalformedPayload, BadChecksum: as `read_field` and `check` do.
    """
    kind, encoding = read_field(field)
    received_ms = check(value)
    return Entry(kind, encoding, received_ms, value[HEADER_BYTES:], value[12:HEADER_BYTES])


def trace_of(parent: str | None) -> bytes:
    """The 25 trace bytes of a W3C traceparent as `traceparent` writes it; NO_TRACE where it is none."""
    try:
        trace = bytes.fromhex("".join((parent or "").split("-")[1:]))
    except ValueError:
        return NO_TRACE
    return trace if len(trace) == len(NO_TRACE) else NO_TRACE


def traceparent(trace: bytes) -> str | None:
    """The W3C traceparent header of 25 trace bytes, or None where there is no trace."""
    if trace[:16] == NO_TRACE[:16]:
        return None
    return f"00-{trace[:16].hex()}-{trace[16:24].hex()}-{trace[24]:02x}"
