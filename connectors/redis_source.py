"""The Bytewax source over the shards: a partition for each, whose state is where it has come to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from connectors.redis_reader import GapKind, Point, Reader, SourceHooks, Tail
from models.records.event import SHARDS
from models.records.raw import RawEntries

__all__ = ["KEYS", "PART_OF", "GapKind", "Lead", "ShardSource", "SourceHooks"]

KEYS: Final = (
    *("00.5", "01.24", "02.17", "03.3", "04.13", "05.3"),
    *("06.11", "07.1", "08.41", "09.3", "10.32", "11.4"),
)
"""The state key of each shard, salted so that the engine's hash of it modulo 12 is the shard's number.

Source partition i goes to worker i modulo W, and a key to the worker of its hash modulo W: for W of 1, 2, 3, 4, 6 and
12 they are the same, so nothing is exchanged between workers. tests/engine recomputes them, and watches the engine.
"""

PART_OF: Final[Mapping[str, int]] = {key: shard for shard, key in enumerate(KEYS)}
"""The shard of each state key."""

State: TypeAlias = dict[str, Any]

_STATE_VERSION: Final = 1
_LEAD_SHARE: Final = 0.1  # of an epoch; shorter waits are the commit's own
_LEAD_CAP_SECONDS: Final = 0.4
_LEAD_MOST: Final = 32  # batches in one poll


class Lead:
    """How many batches a poll should bring, so that a worker which waits for slower ones at the end of an epoch is not
    left with one poll per epoch.

    Bytewax 0.21 counts the wait as part of the next epoch (https://github.com/bytewax/bytewax/pull/556), so the first
    poll after the wait takes what would have been read meanwhile.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()  # of the epoch
        self._ended: float | None = None
        self._polled: float | None = None
        self._batches = 1
        self._cost = 0.0  # seconds that a batch takes, here and downstream

    def poll(self) -> int:
        """Say that a poll begins; how many batches it should bring."""
        now = self._monotonic()
        batches = 1
        if self._ended is not None:
            waited = now - self._ended
            if waited > _LEAD_SHARE * (self._ended - self._began) and self._cost:
                batches = min(max(1, int(min(waited, _LEAD_CAP_SECONDS) / self._cost)), _LEAD_MOST)
            self._began, self._ended = now, None
        elif self._polled is not None:
            cost = (now - self._polled) / self._batches
            self._cost = cost if not self._cost else 0.8 * self._cost + 0.2 * cost
        self._polled, self._batches = now, batches
        return batches

    def brought(self, batches: int) -> None:
        """Say how many batches the poll brought; one that brought none costs nothing that is worth knowing."""
        if batches:
            self._batches = batches
        else:
            self._polled = None

    def epoch_ended(self) -> None:
        """Say that the engine took a snapshot."""
        self._ended = self._monotonic()


class ShardPartition(StatefulSourcePartition[tuple[str, RawEntries], State]):  # type: ignore[misc]  # bytewax is not typed
    """One shard. Never blocks longer than the socket's time-out, and never fails for what will pass."""

    def __init__(
        self,
        reader: Reader,
        tail: Tail,
        *,
        hooks: SourceHooks,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        closed: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._tail = tail
        self._hooks = hooks
        self._now_ms = now_ms
        self._closed = closed
        self._lead = Lead(monotonic)
        self._snapshot: Point | None = None
        self._batches = 0

    def next_batch(self) -> list[tuple[str, RawEntries]]:
        """What came since, as batches of entries in log order."""
        self._prove_durable()
        self._batches += 1
        wanted = self._lead.poll()
        came: list[tuple[str, RawEntries]] = []
        while len(came) < wanted and (self._tail.full or not came):
            self._reader.poll(self._tail)
            if not self._tail.buffered:
                break
            came.append((KEYS[self._tail.shard], self._tail.take()))
        self._lead.brought(len(came))
        return came

    def _prove_durable(self) -> None:
        """The engine polls again after a snapshot only once the epoch of that snapshot is committed everywhere."""
        point, self._snapshot = self._snapshot, None
        if point is not None:
            self._tail.prove(point)
            self._hooks.durable(self._tail.shard, point.entry_id, point.position)

    def next_awake(self) -> datetime | None:
        """At once while there is a backlog, else when the server is worth asking again."""
        if self._tail.full or self._tail.buffered:
            return None
        return datetime.fromtimestamp(self._now_ms() / 1000 + self._reader.due_in(), UTC)

    def snapshot(self) -> State:
        """Where the last emitted entry stands."""
        self._lead.epoch_ended()
        self._hooks.epoch(self._tail.shard, self._batches)
        self._batches = 0
        self._snapshot = point = self._tail.emitted
        return {"v": _STATE_VERSION, "entry": point.entry_id, "position": point.position, "skew": point.skew}

    def close(self) -> None:
        """Leave the connection to the other shards of the worker."""
        self._closed()


class ShardSource(FixedPartitionedSource[tuple[str, RawEntries], State]):  # type: ignore[misc]  # bytewax is not typed
    """All shards. Items are (state key, entries of one shard in log order)."""

    def __init__(
        self,
        url: str,
        *,
        start: Callable[[int], tuple[str, int]],
        durable: bool,
        retention: timedelta,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        hooks: SourceHooks,
    ) -> None:
        """`start` gives the entry id and position after which a shard without a state begins.

        `durable` says that a recovery store is in place: only then do cursors move, and entries older than `retention`
        go that every reader is past.
        """
        self._start = start
        self._hooks = hooks
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._new_reader = partial(
            Reader, url, durable=durable, retention=retention, now_ms=now_ms, monotonic=monotonic, hooks=hooks
        )
        self._readers: dict[int, Reader] = {}  # by thread: each worker is one
        self._lock = threading.Lock()

    def list_parts(self) -> list[str]:
        """Zero padded, so that their order is that of the shards."""
        return [f"{shard:02d}" for shard in range(SHARDS)]

    def build_part(self, step_id: str, for_part: str, resume_state: State | None) -> ShardPartition:  # noqa: ARG002 - the engine's
        """The partition of one shard, on the connection of its worker; the server is first asked when polled."""
        shard = int(for_part)
        point = self._resumed(shard, resume_state)
        tail = Tail(shard, point, point)
        worker = threading.get_ident()
        with self._lock:
            reader = self._readers.get(worker) or self._new_reader()
            self._readers[worker] = reader
        reader.tails[shard] = tail
        return ShardPartition(
            reader,
            tail,
            hooks=self._hooks,
            now_ms=self._now_ms,
            monotonic=self._monotonic,
            closed=lambda: self._leave(worker, shard),
        )

    def _resumed(self, shard: int, state: State | None) -> Point:
        if state is not None:
            return Point(state["entry"], state["position"], state["skew"])
        entry_id, position = self._start(shard)
        return Point(entry_id, position, 0 if position == 0 else None)

    def _leave(self, worker: int, shard: int) -> None:
        with self._lock:
            reader = self._readers.get(worker)
            if reader is None or reader.tails.pop(shard, None) is None or reader.tails:
                return
            del self._readers[worker]
        reader.close()
