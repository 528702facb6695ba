"""Entries for tests of the archive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from connectors.parquet import entries
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import Outcome
from models.records.payload import to_json
from models.records.raw import RawEntries, RawEntry
from tests.events import make_event

NOON_MS = 1_795_694_400_000  # 2026-11-26T12:00:00Z
DAY_MS = 86_400_000


class Told(Protocol):
    """What the fault tests' stories are made of."""

    @property
    def at_ms(self) -> int:
        """When."""

    @property
    def name(self) -> bytes:
        """The name of the field."""

    @property
    def value(self) -> bytes:
        """And its value."""


def raw_entries(told: Sequence[Told], first: int = 1) -> RawEntries:
    """Entries as they would be read."""
    fields = [(one.name, one.value) for one in told]
    return RawEntries(range(first, first + len(told)), [one.at_ms for one in told], range(len(told)), fields)


def some(first: int, count: int, *, at_ms: int = NOON_MS, every_ms: int = 1000) -> RawEntries:
    """Entries from position `first` on, every third one a heartbeat, the others a failed job each."""
    times = [at_ms + number * every_ms for number in range(count)]
    return RawEntries(range(first, first + count), times, [0] * count, [_field(first + n) for n in range(count)])


def _field(position: int) -> tuple[bytes, bytes]:
    if position % 3 == 0:
        return encode(Entry(Kind.HEARTBEAT, Encoding.JSON, position, b""))
    event = make_event(Outcome.FAILED, position, pipeline_id=f"run-{position}", reason="script_failure")
    return encode(Entry(Kind.EVENT, Encoding.JSON, position, to_json(event)))


def read(directory: Path, shard: int) -> list[RawEntry]:
    """All that the archive has of a shard."""
    return together(entries(directory, shard))


def together(parts: Iterable[RawEntries]) -> list[RawEntry]:
    """Parts as one list."""
    return [entry for part in parts for entry in part]
