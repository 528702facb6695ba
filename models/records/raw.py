"""Entries as they were read from a shard, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload


class RawEntry(NamedTuple):
    """One stream entry as read. `position` is its running count in the shard, from 1."""

    position: int
    entry_ms: int
    entry_seq: int
    fields: Sequence[bytes]  # name, value, name, value, ...: ours have exactly one of each


@dataclass(frozen=True, slots=True)
class RawEntries(Sequence[RawEntry]):
    """Entries of one shard in log order, kept by column: most are never looked at one by one."""

    positions: Sequence[int] = ()
    entry_ms: Sequence[int] = ()
    entry_seqs: Sequence[int] = ()
    fields: Sequence[Sequence[bytes]] = ()

    @classmethod
    def of(cls, entries: Sequence[RawEntry]) -> RawEntries:
        """`entries` by column."""
        return entries if isinstance(entries, RawEntries) else cls(*zip(*entries, strict=True)) if entries else cls()

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[RawEntry]:
        return map(RawEntry, self.positions, self.entry_ms, self.entry_seqs, self.fields)

    @overload
    def __getitem__(self, place: int) -> RawEntry: ...
    @overload
    def __getitem__(self, place: slice) -> RawEntries: ...
    def __getitem__(self, place: int | slice) -> RawEntry | RawEntries:
        if isinstance(place, slice):
            return RawEntries(self.positions[place], self.entry_ms[place], self.entry_seqs[place], self.fields[place])
        return RawEntry(self.positions[place], self.entry_ms[place], self.entry_seqs[place], self.fields[place])
