"""What goes onto one shard together: all of it, or none of it is acknowledged."""

from __future__ import annotations

from dataclasses import dataclass

from models.records.entry import Entry


@dataclass(frozen=True, slots=True)
class Delivery:
    """Entries for one shard, each with the mark by which it is known when it comes again (None: never the same). With
    them go requests for logs, and the runs of jobs that passed, by job; but not if every entry is a duplicate.
    """

    shard: int
    items: tuple[tuple[Entry, str | None], ...]
    log_requests: tuple[bytes, ...] = ()
    passed: tuple[tuple[str, bytes], ...] = ()
