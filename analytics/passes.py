"""Passes: what passed of jobs that may yet turn out to have failed before, remembered for a while.

Most events of a healthy fleet are passes, and few are ever asked for. So one costs an append here, and one entry in the
journal: what is told of a name is what came, not all that stands there. That is why this is no
Journal of analytics/journal.py, which writes down what stands under a key by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec

from analytics.journal import SPARE, Chunks, packed, unpacked

Passed: TypeAlias = tuple[int, str, str, str | None]
"""When, which event, which job run; its commit only if it was on the default branch, since else that is part of its
name."""


class _Generation:
    """Passes by name, and the journal of them."""

    __slots__ = ("_chunks", "_entries", "_most", "by_name", "fresh", "kept")

    def __init__(self, most: int) -> None:
        """Begin with none; keep the newest `most` of a name."""
        self._most: Final = most
        self.by_name: dict[str, list[Passed]] = {}
        self.kept = 0
        self.fresh: list[tuple[str, Passed | None]] = []
        self._chunks = Chunks()
        self._entries = 0

    def add(self, name: str, passed: Passed) -> None:
        some = self.by_name.setdefault(name, [])
        some.append(passed)
        if len(some) > self._most:
            some.remove(min(some))
        else:
            self.kept += 1

    def take(self, name: str) -> list[Passed]:
        taken = self.by_name.pop(name, [])
        self.kept -= len(taken)
        return taken

    def settle(self) -> None:
        told: Sequence[tuple[str, Passed | list[Passed] | None]] = self.fresh
        if self._entries + len(told) > 2 * self.kept + SPARE:
            told, self._chunks, self._entries = list(self.by_name.items()), Chunks(), 0
        if told:
            self._chunks.append(packed(msgspec.msgpack.encode(told)))
            self._entries += len(told)
        self.fresh = []

    def written(self) -> Chunks:
        self.settle()
        return Chunks(self._chunks)

    def read(self, chunks: list[bytes]) -> None:
        told = [msgspec.msgpack.decode(unpacked(chunk)) for chunk in chunks]
        self._chunks, self._entries = Chunks(chunks), sum(map(len, told))
        for name, value in chain.from_iterable(told):
            if value is None:
                self.take(name)
            elif isinstance(value[0], int):
                self.add(name, _passed(value))
            else:
                self.take(name)
                for one in value:
                    self.add(name, _passed(one))


class Passes:
    """Passes by name, each for one to two turns of `turn`.

    A generation is full at `most` names, and then turns early; of a name the newest `most_of_one` are kept.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        """Begin with none."""
        self._most: Final = most
        self._most_of_one: Final = most_of_one
        self._old, self._young = _Generation(most_of_one), _Generation(most_of_one)

    def add(self, name: str, passed: Passed) -> None:
        """Remember one."""
        if len(self._young.by_name) >= self._most and name not in self._young.by_name:
            self.turn()
        self._young.add(name, passed)
        self._young.fresh.append((name, passed))

    def of(self, name: str) -> Iterator[Passed]:
        """All that are remembered of `name`, younger generation first."""
        return chain(self._young.by_name.get(name, ()), self._old.by_name.get(name, ()))

    def take(self, name: str) -> list[Passed]:
        """The same; they are forgotten now."""
        taken: list[Passed] = []
        for half in (self._young, self._old):
            if name in half.by_name:
                taken += half.take(name)
                half.fresh.append((name, None))
        return taken

    def turn(self) -> None:
        """Forget the older half."""
        self._old, self._young = self._young, _Generation(self._most_of_one)

    def settle(self) -> None:
        """Write down what came."""
        self._old.settle()
        self._young.settle()

    def state(self) -> list[Chunks]:
        """Both generations, older first."""
        return [self._old.written(), self._young.written()]

    def load(self, state: list[list[bytes]]) -> None:
        """Take what `state` gave."""
        for half, chunks in zip((self._old, self._young), state, strict=True):
            half.read(chunks)


def _passed(values: list[Any]) -> Passed:
    at, event, job_run, commit = values
    return at, event, job_run, commit
