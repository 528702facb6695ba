"""What a shard remembers, in forms that are bounded and plain: generations, timers, job durations."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, Final, Generic, TypeVar

from analytics.journal import Chunks, Journal

V = TypeVar("V")


class Generations(Generic[V]):
    """A mapping that forgets: what was put in stays for one to two turns of `turn`.

    It is full at `most` keys a generation, and then turns early, so that no flood makes it grow without end.
    """

    def __init__(self, most: int) -> None:
        """Begin empty."""
        self.most: Final = most
        self.young: dict[str, V] = {}
        self.old: dict[str, V] = {}
        self._journals = (Journal(), Journal())  # of the old and the young

    def get(self, key: str) -> V | None:
        """What was put in under `key`, if it is not forgotten yet."""
        found = self.young.get(key)
        return found if found is not None else self.old.get(key)

    def put(self, key: str, value: V) -> None:
        """Remember `value`."""
        if len(self.young) >= self.most and key not in self.young:
            self.turn()
        self.young[key] = value
        self._journals[1].changed.append(key)

    def touched(self, key: str) -> None:
        """Note that what stands under `key` was changed in place."""
        for half, journal in zip((self.old, self.young), self._journals, strict=True):
            if key in half:
                journal.changed.append(key)

    def turn(self) -> None:
        """Forget the older half."""
        self.old, self.young = self.young, {}
        self._journals = (self._journals[1], Journal())

    def settle(self) -> None:
        """Write down what changed."""
        for journal, half in zip(self._journals, (self.old, self.young), strict=True):
            journal.settle(half)

    def state(self) -> list[Chunks]:
        """Both generations, older first."""
        return [journal.written(half) for journal, half in zip(self._journals, (self.old, self.young), strict=True)]

    def load(self, state: list[list[bytes]]) -> None:
        """Take what `state` gave."""
        self.old, self.young = (journal.read(half) for journal, half in zip(self._journals, state, strict=True))


class Ids:
    """Event ids seen lately, in two generations; a snapshot encodes only what came since the last one."""

    def __init__(self) -> None:
        """Begin empty."""
        self.young: set[str] = set()
        self.old: set[str] = set()
        self.fresh: list[str] = []
        self._young_chunks = Chunks()
        self._old_chunks = Chunks()

    def are_new(self, ids: list[str]) -> bool:
        """Whether none of `ids` was seen before, or stands there twice."""
        new = set(ids)
        return len(new) == len(ids) and self.young.isdisjoint(new) and self.old.isdisjoint(new)

    def take_all(self, ids: list[str]) -> None:
        """See all of `ids`, which are new."""
        self.young.update(ids)
        self.fresh += ids

    def turn(self) -> None:
        """Forget the older half."""
        self.settle()
        self.old, self._old_chunks = self.young, self._young_chunks
        self.young, self._young_chunks = set(), Chunks()

    def settle(self) -> None:
        """Write down what came since."""
        if self.fresh:
            self._young_chunks.append(bytes.fromhex("".join(self.fresh).replace("-", "")))
            self.fresh = []

    def state(self) -> list[Chunks]:
        """Both generations, 16 bytes an id, older first."""
        self.settle()
        return [Chunks(self._old_chunks), Chunks(self._young_chunks)]

    def load(self, state: list[list[bytes]]) -> None:
        """Take what `state` gave."""
        self._old_chunks, self._young_chunks = map(Chunks, state)
        self.old, self.young = set(_ids(self._old_chunks)), set(_ids(self._young_chunks))


def _ids(chunks: Chunks) -> Iterator[str]:
    text = b"".join(chunks).hex()
    for i in range(0, len(text), 32):
        t = text[i : i + 32]
        yield f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}"


class Firsts:
    """The earliest time at which each key was heard of."""

    def __init__(self, most: int) -> None:
        """Remember at most `most` keys; the one that came first is forgotten first."""
        self._most: Final = most
        self._at_ms: dict[str, int] = {}
        self._journal: Final = Journal()

    def hear(self, key: str, at_ms: int) -> None:
        """Note that `key` was heard of."""
        known = self._at_ms.get(key)
        if known is not None and known <= at_ms:
            return
        if known is None and len(self._at_ms) >= self._most:
            first = next(iter(self._at_ms))
            del self._at_ms[first]
            self._journal.changed.append(first)
        self._at_ms[key] = at_ms
        self._journal.changed.append(key)

    def get(self, key: str) -> int:
        """When `key` was first heard of; 0 if it never was."""
        return self._at_ms.get(key, 0)

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._at_ms)

    def state(self) -> Chunks:
        """All of them."""
        return self._journal.written(self._at_ms)

    def load(self, state: list[bytes]) -> None:
        """Take what `state` gave."""
        self._at_ms = self._journal.read(state)


class Timers:
    """What is due at which second of stream time. Due things come in order of second, then name."""

    def __init__(self) -> None:
        """Begin with nothing due."""
        self._due: dict[int, list[tuple[str, Any]]] = {}
        self._seconds: list[int] = []
        self.next_ms = 1 << 62

    def at(self, due_ms: int, kind: str, key: str | int) -> int:
        """Make `key` of `kind` due at the first whole second not before `due_ms`; return that second."""
        second = -(-due_ms // 1000)
        bucket = self._due.get(second)
        if bucket is None:
            self._due[second] = [(kind, key)]
            heapq.heappush(self._seconds, second)
            self.next_ms = self._seconds[0] * 1000
        else:
            bucket.append((kind, key))
        return second

    def pop(self, now_ms: int) -> Iterator[tuple[int, Iterable[tuple[str, Any]]]]:
        """All that is due at stream time `now_ms`, a second at a time; what is added meanwhile is seen too."""
        while self._seconds and self._seconds[0] * 1000 <= now_ms:
            second = heapq.heappop(self._seconds)
            due = self._due.pop(second)
            self.next_ms = self._seconds[0] * 1000 if self._seconds else 1 << 62
            yield second, sorted(set(due), key=_named) if len(due) > 1 else due


def _named(due: tuple[str, Any]) -> tuple[str, str]:
    return due[0], str(due[1])


class Durations:
    """How long the jobs usually take: counts by bucket, a few bytes a job, halved when they grow old."""

    def __init__(self, buckets: int, most: int) -> None:
        """Remember at most `most` jobs; the one longest without a run is forgotten first."""
        self._form: Final = struct.Struct(f"<{buckets}H")
        self._most: Final = most
        self._counts: dict[str, bytes] = {}

    def add(self, job_key: str, counts: list[int]) -> None:
        """Add `counts` by bucket to what is known of a job."""
        known = self._counts.pop(job_key, None)
        if known is None and len(self._counts) >= self._most:
            del self._counts[next(iter(self._counts))]
        new = counts if known is None else [a + b for a, b in zip(self._form.unpack(known), counts, strict=True)]
        while sum(new) > 2000:  # noqa: PLR2004 - so that what was a year ago weighs less than what is now
            new = [n // 2 for n in new]
        self._counts[job_key] = self._form.pack(*new)

    def usual_ms(self, job_key: str) -> int | None:
        """The upper edge of the bucket of the 95th percentile, which of fewer than 20 runs is the longest.

        So a job that always takes two hours is not called stuck until it has run twenty times, but until it has once.
        """
        known = self._counts.get(job_key)
        if known is None:
            return None
        counts = self._form.unpack(known)
        total = sum(counts)
        bucket = next(i for i, below in enumerate(accumulate(counts)) if below * 100 >= total * 95)
        return int(1000 * 2**bucket)

    def state(self) -> dict[str, bytes]:
        """All counts, longest unused first."""
        return self._counts

    def load(self, state: dict[str, bytes]) -> None:
        """Take what `state` gave."""
        self._counts = state
