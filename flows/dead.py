"""Dead letters back onto their shards, once what was in their way is mended.

There are two kinds. A *reject* is a delivery that could not be normalised: its body is normalised again, and the events
that it now becomes are appended. All else is an entry that could not be decoded: it is appended again if it now can be.
Both were redacted before they were kept, so some never will be; those are left as they are, with the reason.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus
from uuid import UUID

import msgspec

from connectors.deliveries import Normaliser, Reject
from connectors.delivery import Delivery
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Request
from connectors.postgres import Connection
from connectors.postgres_queries import Row, dead_letter, mark_replayed
from connectors.redaction import Redactor
from flows.settings import Source
from models.records import entry as wire
from models.records.columns import decode
from models.records.entry import Encoding, Entry, Kind
from models.records.errors import InputError, MalformedPayload
from models.records.event import Event, FailureContext, Metadata
from models.records.payload import from_json, to_json
from models.records.raw import RawEntry

Append = Callable[[Sequence[Delivery]], int]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = "application/x-www-form-urlencoded"
_PAYLOAD: Final = "payload="


class Replayed(NamedTuple):
    """What became of a dead letter; `done` where it needs no further replay."""

    id: UUID
    done: bool
    said: str


class _Left(Exception):
    """Why a dead letter cannot be replayed."""


class Replayer:
    """Replays dead letters, each in a transaction that keeps others off it."""

    def __init__(
        self,
        connection: Connection,
        append: Append,
        *,
        redactor: Redactor,
        sources: Mapping[str, Source],
        now_ms: Callable[[], int],
    ) -> None:
        """`append` answers how many entries were new; `sources` are those of the settings."""
        self._connection = connection
        self._append = append
        self._normaliser = Normaliser(redactor, os.urandom)
        self._sources = sources
        self._now_ms = now_ms

    def replay(self, letter_id: UUID, *, again: bool = False) -> Replayed:
        """Put one dead letter back. One that was replayed already is left, unless `again`.

        Appended first and marked after: a crash in between leaves a letter whose events the flow has seen, and knows.

        Raises:
            Unavailable: it may or may not be back; it is not marked.
        """
        with self._connection.transaction():
            letter = dead_letter(self._connection, letter_id, lock=True)
            if letter is None:
                return Replayed(letter_id, done=False, said="there is no such dead letter")
            if letter["replayed_at"] is not None and not again:
                return Replayed(
                    letter_id, done=True, said=f"was replayed at {letter['replayed_at']:%Y-%m-%d %H:%M:%SZ}"
                )
            try:
                deliveries, said = self._of(letter)
            except _Left as reason:
                return Replayed(letter_id, done=False, said=f"left: {reason}")
            if deliveries:
                entries = sum(len(delivery.items) for delivery in deliveries)
                said = f"replayed: {self._append(deliveries)} of {entries} entries were new"
            mark_replayed(self._connection, [letter_id])
            return Replayed(letter_id, done=True, said=said)

    def _of(self, letter: Row) -> tuple[Sequence[Delivery], str]:
        if letter["source"] is not None:
            return self._normalised(letter)
        entry = dataclasses.replace(_entry(bytes(letter["payload"])), received_ms=self._now_ms())
        # Without a mark: its own may stand since the entry was appended that could not be read.
        return [Delivery(letter["shard"], ((entry, None),))], ""

    def _normalised(self, letter: Row) -> tuple[Sequence[Delivery], str]:
        """What the reject in `letter` becomes now."""
        try:
            reject = msgspec.json.decode(bytes(letter["payload"]), type=Reject)
        except msgspec.DecodeError as error:
            raise _Left(f"it is not a reject as we write them: {error}") from None
        source = self._sources.get(reject.source)
        if source is None or reject.platform not in PLATFORMS:
            raise _Left(f"the settings have no source {reject.source!r}, so its instance is not known")
        request = Request(reject.headers, _body(reject), letter["received_at"].timestamp())
        said = self._normaliser.normalise(reject.source, PLATFORMS[reject.platform], source.instance, request)
        if said.ignored is not None:
            return (), f"nothing to replay, it is now knowingly ignored: {said.ignored}"
        if said.rejected is not None:
            detail = msgspec.json.decode(said.deliveries[0].items[0][0].payload, type=Reject).detail
            raise _Left(f"it is still rejected: {detail}{_if_redacted(bytes(letter['payload']))}")
        return [self._received_now(delivery) for delivery in said.deliveries], ""

    def _received_now(self, delivery: Delivery) -> Delivery:
        now_ms = self._now_ms()
        items = tuple((dataclasses.replace(entry, received_ms=now_ms), mark) for entry, mark in delivery.items)
        return dataclasses.replace(delivery, items=items)


def _body(reject: Reject) -> bytes:
    """The body of a reject as its platform sends it: what came as a form was kept with its escapes resolved."""
    if reject.headers.get("content-type", "").startswith(_FORM) and reject.body.startswith(_PAYLOAD):
        return f"{_PAYLOAD}{quote_plus(reject.body.removeprefix(_PAYLOAD))}".encode()
    return reject.body.encode()


def _if_redacted(payload: bytes) -> str:
    return "; parts of it were redacted" if b"[REDACTED:" in payload else ""


def _entry(payload: bytes) -> Entry:
    """The entry of events that `payload` is, now that it can be read."""
    why = "it cannot be decoded"
    for candidate in _candidates(payload):
        if isinstance(candidate, InputError):
            why = candidate.detail
            continue
        batch = decode([RawEntry(1, 0, 0, wire.encode(candidate))])
        if not batch.marks:
            return candidate
        why = batch.marks[0].detail
    raise _Left(f"it still cannot be decoded: {why}{_if_redacted(payload)}")


def _candidates(payload: bytes) -> Iterator[Entry | InputError]:
    """What `payload` may be, as the decoder left it: a field and its value, JSON, a row of a pack, Protocol Buffers."""
    field, _, value = payload.partition(b"=")
    if field.startswith(tuple(kind.encode() for kind in Kind)):
        try:
            entry = wire.decode(field, value)
        except InputError as error:
            yield error
            return
        yield entry if entry.kind is Kind.EVENT else MalformedPayload(f"it is of the kind {entry.kind}, not an event")
    elif payload.startswith(b"{"):
        try:
            yield Entry(Kind.EVENT, Encoding.JSON, 0, _nested(payload))
        except InputError as error:
            yield error
    else:
        yield Entry(Kind.EVENT, Encoding.PACKED, 0, payload)
        yield Entry(Kind.EVENT, Encoding.PROTOBUF, 0, payload)


def _nested(payload: bytes) -> bytes:
    """`payload`, or the event that it is where it is one row of a pack, which the decoder leaves flat.

    Raises:
        MalformedPayload: it is not JSON, or not the row of an event.
    """
    try:
        row: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedPayload(str(error)) from None
    if "has_failure" not in row:
        return payload
    event = {name: row.get(name) for name in Event.__struct_fields__ if name in row}
    if isinstance(micros := row.get("timestamp"), int):
        event["timestamp"] = _EPOCH + timedelta(microseconds=micros)
    event["metadata"] = _set(row, Metadata.__struct_fields__)
    if row["has_failure"]:
        event["failure_context"] = _set(row, FailureContext.__struct_fields__, "failure_")
    return to_json(from_json(msgspec.json.encode(event)))


def _set(row: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    return {name: value for name in names if (value := row.get(prefix + name)) is not None}
