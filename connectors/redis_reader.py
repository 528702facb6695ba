"""Reading the shards of one worker: one round trip for all of them, by entry id, without waiting.

No consumer group delivers: who reads which shard is the dataflow's business, and XREAD costs the server a seventh of
XREADGROUP. A reader's group only shows how far was durably read, so that any Redis tool sees the lag, and so that
nothing is trimmed which a registered reader has not read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias

import redis

from connectors.redis_streams import ARCHIVE_GROUP, GROUP, READER_GROUPS, log_key
from connectors.redis_wire import Command, connect, pipelined
from models.records.raw import RawEntries

GapKind: TypeAlias = Literal["lost_tail", "trimmed"]
EntryId: TypeAlias = tuple[int, int]

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0
_EARLY_SECONDS: Final = 0.001
_FIRST_COUNT: Final = 4
_LEAST_COUNT: Final = 1  # a packed entry may hold a thousand events
_MOST_COUNT: Final = 2048  # more fall out of the cache before they are used: 4096 of all shards cost a third more
_BATCH_BYTES: Final = 2 << 20
_GROWTH: Final = 4


@dataclass(frozen=True, slots=True)
class Role:
    """As whom one reads: the group whose cursor shows how far, and what else is the reader's business.

    `gather_seconds` lie between questions without a backlog: a batch of few costs what one of many does.
    """

    group: str
    gather_seconds: float
    trims: bool = False  # what every reader is past
    counts_missing: bool = False  # entries that were removed unread have positions, too: somebody else read them


FLOW: Final = Role(GROUP, 0.020, trims=True)
ARCHIVE: Final = Role(ARCHIVE_GROUP, 0.5, counts_missing=True)


class SourceHooks(Protocol):
    """Who is told what the source sees."""

    def durable(self, shard: int, entry_id: str, position: int) -> None:
        """All entries up to this one are judged, written and in the recovery store."""

    def gap(self, shard: int, kind: GapKind, count: int) -> None:
        """Entries are missing, at least `count`: the server lost its newest ones, or unread ones were removed."""

    def trouble(self, error: Exception) -> None:
        """The server could not be asked; it will be again."""

    def epoch(self, shard: int, batches: int) -> None:
        """An epoch ended in which the shard was polled `batches` times; 1 again and again means a stalled worker."""


def parse_id(text: bytes | str) -> EntryId:
    """An entry id as numbers, which compare as the entries stand."""
    ms, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(ms), int(seq or 0)


@dataclass(slots=True)
class Point:
    """A place in a shard: its last entry, our running count of it, and by how much the server's count is higher.

    The two differ after a loss. `skew` is None while it is not known.
    """

    entry_id: str
    position: int
    skew: int | None

    @property
    def read(self) -> int | None:
        """The server's count of the entries up to here."""
        return None if self.skew is None else self.position + self.skew


@dataclass(slots=True)
class Tail:
    """One shard as its reader has it. What is buffered lies between `emitted` and `reached`."""

    shard: int
    emitted: Point
    reached: Point
    key: str = field(init=False)
    count: int = _FIRST_COUNT
    buffered: RawEntries = field(default_factory=RawEntries)
    full: bool = False  # the last read came back with as much as it had asked for
    checked: bool = False
    durable: Point | None = None  # not yet told to the server

    def __post_init__(self) -> None:
        self.key = log_key(self.shard)

    def take(self) -> RawEntries:
        """What is buffered; from now on it counts as emitted."""
        taken, self.buffered = self.buffered, RawEntries()
        self.emitted = self.reached
        return taken

    def move(self, point: Point) -> None:
        """Go on from `point`, with nothing buffered; what was to be told to the server of another place is void."""
        self.emitted = self.reached = point
        self.durable = None

    def prove(self, point: Point) -> None:
        """Tell the server of `point` at the next chance, unless the stream has since lost that place."""
        if parse_id(point.entry_id) <= parse_id(self.emitted.entry_id):
            self.durable = point

    def accept(self, entries: list[Any]) -> None:
        """Buffer a reply, and ask for as many next time as should make a batch of about 2 MiB."""
        ids, fields = zip(*entries, strict=True)
        numbers = list(map(int, b"-".join(ids).decode().split("-")))  # in bulk: this is half of what reading costs
        positions = range(self.reached.position + 1, self.reached.position + len(ids) + 1)
        self.buffered = RawEntries(positions, numbers[::2], numbers[1::2], fields)
        self.reached = Point(ids[-1].decode(), positions[-1], self.reached.skew)
        self.full = len(entries) >= self.count
        size = sum(len(pair[-1]) for pair in fields) // len(ids)
        wanted = min(_BATCH_BYTES // (size + 1), self.count * _GROWTH)
        self.count = min(max(1 << wanted.bit_length() - 1 if wanted else 0, _LEAST_COUNT), _MOST_COUNT)


class Reader:
    """The shards of one worker on one connection."""

    def __init__(
        self,
        url: str,
        *,
        durable: bool,
        retention: timedelta,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        hooks: SourceHooks,
        role: Role = FLOW,
    ) -> None:
        self._connection = connect(url)
        self._role = role
        self._durable = durable
        self._retention_ms = retention // timedelta(milliseconds=1)
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._hooks = hooks
        self._failures = 0
        self._due = 0.0
        self.tails: dict[int, Tail] = {}

    def due_in(self) -> float:
        """Seconds until the server is worth asking again."""
        return max(0.0, self._due - self._monotonic())

    def poll(self, tail: Tail) -> None:
        """See that `tail` has what the server has for it, unless the server was asked a moment ago."""
        if not tail.buffered and (tail.full or self.due_in() <= _EARLY_SECONDS):
            self._fill()

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def _fill(self) -> None:
        hungry = [tail for tail in self.tails.values() if not tail.buffered]
        try:
            if unchecked := [tail for tail in hungry if not tail.checked]:
                self._check(unchecked)
            if self._durable and (proven := [(t, t.durable) for t in self.tails.values() if t.durable]):
                self._settle(proven)
            self._read(hungry)
        except redis.RedisError as error:
            self._failed(error)
            return
        self._failures = 0
        self._due = self._monotonic() + self._role.gather_seconds

    def _failed(self, error: redis.RedisError) -> None:
        """Try again later, and then compare notes first: the server may be another one, or have lost something."""
        self._connection.disconnect()
        if not _passes(error):
            raise error
        self._hooks.trouble(error)
        for tail in self.tails.values():
            tail.checked = tail.full = False
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures += 1
        self._due = self._monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads workers, hides nothing

    def _read(self, hungry: list[Tail]) -> None:
        by_count: dict[int, list[Tail]] = {}
        for tail in hungry:
            tail.full = False
            by_count.setdefault(tail.count, []).append(tail)
        commands: list[Command] = [
            ("XREAD", "COUNT", count, "STREAMS", *(t.key for t in tails), *(t.reached.entry_id for t in tails))
            for count, tails in by_count.items()
        ]
        by_key = {tail.key.encode(): tail for tail in hungry}
        for reply in _all_good(pipelined(self._connection, commands)):
            for key, entries in reply or ():
                by_key[key].accept(entries)

    def _check(self, tails: list[Tail]) -> None:
        """Compare with what the server says of the streams, and go on where it can be gone on from.

        The group may be refused where memory is full; reading must go on then, so that trimming can.
        """
        if self._durable:
            for reply in pipelined(self._connection, [_create(tail, self._role.group) for tail in tails]):
                if isinstance(reply, redis.ResponseError) and not _says(reply, "BUSYGROUP"):
                    self._hooks.trouble(reply)
        replies = pipelined(self._connection, [("XINFO", "STREAM", tail.key) for tail in tails])
        for tail, reply in zip(tails, replies, strict=True):
            if _says(reply, "no such key"):
                self._compare(tail, Stream((0, 0), 0, 0, None))
            else:
                self._compare(tail, Stream.of(*_all_good([reply])))
            tail.checked = True

    def _compare(self, tail: Tail, stream: Stream) -> None:
        at = tail.reached
        here, read = parse_id(at.entry_id), at.read
        if stream.last < here or (read is not None and stream.added < read):
            at_end = stream.last <= here
            self._hooks.gap(tail.shard, "lost_tail", max((read or 0) - stream.added, 0))
            last = f"{stream.last[0]}-{stream.last[1]}" if at_end else at.entry_id
            tail.move(Point(last, at.position, stream.added - at.position if at_end else None))
        elif read is None:
            if stream.last == here:
                tail.move(Point(at.entry_id, at.position, stream.added - at.position))
        else:
            gone = stream.gone_after(here)
            if gone > read:
                self._hooks.gap(tail.shard, "trimmed", gone - read)
                position = at.position + (gone - read if self._role.counts_missing else 0)
                tail.move(Point(at.entry_id, position, gone - position))

    def _settle(self, proven: list[tuple[Tail, Point]]) -> None:
        """Show how far was durably read, and trim what every reader is past and is older than the retention."""
        cursors: list[Command] = []
        for tail, point in proven:
            tail.durable = None
            ordinal = () if point.read is None else ("ENTRIESREAD", point.read)
            cursors.append(("XGROUP", "SETID", tail.key, self._role.group, point.entry_id, *ordinal))
        asked: list[Command] = [("XINFO", "GROUPS", tail.key) for tail, _ in proven] if self._role.trims else []
        replies = pipelined(self._connection, [*cursors, *asked])
        moved, groups = replies[: len(proven)], replies[len(proven) :]
        for (tail, point), reply in zip(proven, moved, strict=True):
            if self._refused(reply) or point.skew is None:  # a group or stream is gone, or a count is to be learnt
                tail.checked = False
        trims: list[Command] = [
            ("XTRIM", tail.key, "MINID", "~", self._least(reply))
            for (tail, _), done, reply in zip(proven, moved, groups, strict=False)
            if not isinstance(done, redis.ResponseError) and not self._refused(reply)
        ]
        for reply in pipelined(self._connection, trims) if trims else ():
            self._refused(reply)

    def _refused(self, reply: object) -> bool:
        """Whether the server said no; that is told."""
        if isinstance(reply, redis.ResponseError):
            self._hooks.trouble(reply)
            return True
        return False

    def _least(self, groups: list[Any]) -> str:
        named = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
        reached = [
            parse_id(group[b"last-delivered-id"])
            for group in named
            if group[b"name"] == GROUP.encode() or group[b"name"].startswith(READER_GROUPS.encode())
        ]
        ms, seq = min([*reached, (self._now_ms() - self._retention_ms, 0)])
        return f"{max(ms, 0)}-{seq}"


@dataclass(frozen=True, slots=True)
class Stream:
    """What XINFO STREAM says: last id ever, entries ever added, entries there, first id there."""

    last: EntryId
    added: int
    length: int
    first: EntryId | None

    @classmethod
    def of(cls, reply: list[Any]) -> Stream:
        """Read a reply of RESP2."""
        info = dict(zip(reply[::2], reply[1::2], strict=True))
        first = info[b"first-entry"]
        last = parse_id(info[b"last-generated-id"])
        return cls(last, info[b"entries-added"], info[b"length"], parse_id(first[0]) if first else None)

    def gone_after(self, here: EntryId) -> int:
        """The count of the last entry that a reader at `here` can no longer read, as far as it can be told; else 0."""
        if self.last == here:
            return self.added
        return self.added - self.length if self.first is None or self.first > here else 0


def _create(tail: Tail, group: str) -> Command:
    ordinal = () if tail.reached.read is None else ("ENTRIESREAD", tail.reached.read)
    return ("XGROUP", "CREATE", tail.key, group, tail.reached.entry_id, "MKSTREAM", *ordinal)


def _says(reply: object, words: str) -> bool:
    return isinstance(reply, redis.ResponseError) and words in str(reply)


def _all_good(replies: Iterable[Any]) -> list[Any]:
    good = list(replies)
    for reply in good:
        if isinstance(reply, redis.ResponseError):
            raise reply
    return good


_PASSING: Final = (
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY ",
    "READONLY",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
)


def _passes(error: redis.RedisError) -> bool:
    """Whether waiting may help. A wrong password, a missing right or a key of another type will not get better."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return False
    if isinstance(error, redis.ResponseError):
        return isinstance(
            error, redis.ReadOnlyError | redis.exceptions.ClusterDownError | redis.exceptions.OutOfMemoryError
        ) or str(error).startswith(_PASSING)
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)
