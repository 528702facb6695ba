"""Events from JSON lines onto the streams: for replay and for benchmarks.

Lines are held to what the flow itself will ask of them, by the flow's own decoder: what is published can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Final

import msgspec

from connectors.delivery import Delivery
from connectors.redaction import Redactor
from models.records.columns import decode
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.errors import MalformedPayload
from models.records.event import Event, shard_of
from models.records.payload import from_json, to_bytes, to_json, to_packed
from models.records.raw import RawEntry

_READ_BYTES: Final = 1 << 20
_MOST_IN_A_PACK: Final = 500
_TICKS_A_SECOND: Final = 20  # in how many appends a second's worth goes out, where a rate is kept

Line = tuple[int, bytes]
Append = Callable[[Sequence[Delivery]], int]


@dataclass
class Published:
    """What became of the lines so far."""

    lines: int = 0  # all lines up to this one are done with
    events: int = 0  # that stand in entries on their shards
    entries: int = 0  # that were new
    known: int = 0  # entries left out because their marks were there
    bad: int = 0  # lines left out because they are no events

    def __str__(self) -> str:
        """One line of progress."""
        known = f", {self.known} known already" if self.known else ""
        bad = f", {self.bad} bad lines left out" if self.bad else ""
        return f"{self.lines} lines: {self.events} events, {self.entries} new entries{known}{bad}"


class EventClock:
    """When events are said to have been received.

    A replay starts in the past: received_at follows the events' own time, never back and never after the wall clock.
    With `to_now` all times are shifted so that the first event happens now, and received_at is the wall clock.
    """

    def __init__(self, now_ms: Callable[[], int], *, to_now: bool) -> None:
        """`now_ms` is the wall clock, Unix milliseconds."""
        self._now_ms = now_ms
        self._to_now = to_now
        self._shift: timedelta | None = None
        self._latest_ms = 0

    def told(self, event: Event) -> tuple[Event, int]:
        """`event`, and when it was received in Unix milliseconds."""
        now_ms = self._now_ms()
        if self._to_now:
            if self._shift is None:
                self._shift = datetime.fromtimestamp(now_ms / 1000, UTC) - event.timestamp
            return msgspec.structs.replace(event, timestamp=event.timestamp + self._shift), now_ms
        self._latest_ms = max(self._latest_ms, int(event.timestamp.timestamp() * 1000))
        return event, min(self._latest_ms, now_ms)


class Publisher:
    """Puts the events of lines onto their shards, redacted, in order. `done` counts."""

    def __init__(
        self,
        append: Append,
        *,
        redactor: Redactor,
        clock: EventClock,
        complain: Callable[[int, str], None],
        encoding: Encoding = Encoding.JSON,
        marks: bool = True,
    ) -> None:
        """`append` answers how many entries were new; `complain` hears of each bad line by number and reason.

        With `marks` an event that is there already is left out. A pack of events has no mark: the flow itself drops
        the events that it has seen.
        """
        self.done: Final = Published()
        self._append = append
        self._redactor = redactor
        self._clock = clock
        self._complain = complain
        self._encoding = encoding
        self._marks = marks

    def publish(self, lines: Sequence[Line]) -> None:
        """Put the events of `lines` onto their shards.

        Raises:
            Unavailable: some of them may not be there; those of the first `done.lines` lines are.
        """
        events = [self._clock.told(event) for event in self._good(lines)]
        deliveries = self._packed(events) if self._encoding is Encoding.PACKED else self._single(events)
        new = self._append(deliveries) if deliveries else 0
        self.done.lines = lines[-1][0] if lines else self.done.lines
        self.done.events += len(events)
        self.done.entries += new
        self.done.known += len(deliveries) - new

    def _good(self, lines: Sequence[Line]) -> list[Event]:
        """The events of those lines that are events, redacted."""
        events: list[tuple[int, Event]] = []
        wrong: list[tuple[int, str]] = []
        for number, line in lines:
            if not line.strip():
                continue
            try:
                events.append((number, self._redactor.redact_event(from_json(line))))
            except MalformedPayload as error:
                wrong.append((number, error.detail))
        refused = _refused([event for _, event in events])
        wrong += [(events[index][0], detail) for index, detail in refused.items()]
        for number, detail in sorted(wrong):
            self._complain(number, detail)
        self.done.bad += len(wrong)
        return [event for index, (_, event) in enumerate(events) if index not in refused]

    def _single(self, events: Sequence[tuple[Event, int]]) -> list[Delivery]:
        return [
            Delivery(
                _shard(event),
                (
                    (
                        Entry(Kind.EVENT, self._encoding, received_ms, to_bytes(event, self._encoding)),
                        event.id if self._marks else None,
                    ),
                ),
            )
            for event, received_ms in events
        ]

    @staticmethod
    def _packed(events: Sequence[tuple[Event, int]]) -> list[Delivery]:
        shards: dict[int, list[tuple[Event, int]]] = {}
        for event, received_ms in events:
            shards.setdefault(_shard(event), []).append((event, received_ms))
        packs = [
            (shard, some[first : first + _MOST_IN_A_PACK])
            for shard, some in shards.items()
            for first in range(0, len(some), _MOST_IN_A_PACK)
        ]
        return [
            Delivery(
                shard, ((Entry(Kind.EVENT, Encoding.PACKED, pack[-1][1], to_packed(event for event, _ in pack)), None),)
            )
            for shard, pack in packs
        ]


def _shard(event: Event) -> int:
    return shard_of(event.metadata.instance, event.repository)


def _refused(events: Sequence[Event]) -> dict[int, str]:
    """Which of `events`, by index, the flow would put to the dead letters, and why."""
    entries = [
        RawEntry(index + 1, 0, 0, encode(Entry(Kind.EVENT, Encoding.JSON, 0, to_json(event))))
        for index, event in enumerate(events)
    ]
    return {mark.position - 1: mark.detail for mark in decode(entries).marks}


def lines_of(file: BinaryIO) -> Iterator[list[Line]]:
    """The lines of `file` by number from 1, as many at a time as can be read without waiting."""
    number, rest = 0, b""
    while some := file.read1(_READ_BYTES):  # type: ignore[attr-defined]  # of every buffered reader
        *whole, rest = (rest + some).split(b"\n")
        if whole:
            yield list(enumerate(whole, number + 1))
            number += len(whole)
    if rest:
        yield [(number + 1, rest)]


def paced(
    batches: Iterator[list[Line]], rate: float | None, *, monotonic: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[list[Line]]:
    """`batches`, cut and held back so that no more than `rate` lines a second pass; None: as they come."""
    if rate is None:
        yield from batches
        return
    size = max(1, round(rate / _TICKS_A_SECOND))
    due = monotonic()
    for batch in batches:
        for first in range(0, len(batch), size):
            wait = due - monotonic()
            if wait > 0:
                sleep(wait)
            some = batch[first : first + size]
            yield some
            due = max(due, monotonic() - 1) + len(some) / rate
