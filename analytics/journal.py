"""Journals: what a mapping holds, written down as it changes.

A snapshot is taken at the end of every epoch, while nothing is read. Of what is remembered for minutes only a small
part is new since the last one, so only that is encoded and compressed; the rest is bytes that stand already. Most of
what is new is written down before, whenever enough of it has come together. Chunks never change, so that whoever takes
snapshots may keep them elsewhere, and name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Final, Protocol, TypeVar

import msgspec
import pyarrow as pa

_LZ4: Final = pa.Codec("lz4_raw")
_ZSTD: Final = pa.Codec("zstd")
_IS_LZ4: Final = 1 << 63
"""Set in the length of what LZ4 packed: larger than by Zstandard, which versions up to 5 used, in half the time."""
SPARE: Final = 1000
"""How many entries more than twice those that count may be written down before all is written anew."""


V = TypeVar("V")
C_contra = TypeVar("C_contra", contravariant=True)


class Plain(Protocol[C_contra]):
    """Makes of a value what msgpack can carry."""

    def __call__(self, value: C_contra, /, *, whole: bool) -> Any:  # noqa: ANN401 - whatever it is
        """The whole value, or what came since it was last asked."""


def _same(value: Any, *, whole: bool) -> Any:  # noqa: ANN401, ARG001 - whatever it is
    return value


def _last(_before: Any, value: Any) -> Any:  # noqa: ANN401 - whatever they are
    return value


class Chunks(list[bytes]):
    """What a journal wrote, in order; what was written before is the same objects the next time."""


def kept_elsewhere(state: Any, keep: Callable[[Chunks], Any]) -> Any:  # noqa: ANN401 - whatever it is
    """`state` with what `keep` makes of the chunks of each journal in their place."""
    if isinstance(state, Chunks):
        return keep(state)
    if isinstance(state, dict):
        return {name: kept_elsewhere(value, keep) for name, value in state.items()}
    return [kept_elsewhere(value, keep) for value in state] if isinstance(state, list) else state


class Journal:
    """The journal of one mapping. Whoever changes a key of it, or takes it out, appends the key to `changed`."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self.changed: list[str] = []
        self._chunks = Chunks()
        self._entries = 0

    def settle(self, items: Mapping[str, V], plain: Plain[V] = _same) -> None:
        """Write down what changed of `items`; `plain` makes of a value what msgpack can carry.

        Where not the `whole` value is asked for, what came since it was last asked will do, if `read` can join it on.
        """
        whole = self._entries + len(self.changed) > 2 * len(items) + SPARE
        if whole:
            self._chunks, self._entries, self.changed = Chunks(), 0, list(items)
        if self.changed:
            keys = dict.fromkeys(self.changed)
            told = [[key, plain(items[key], whole=whole) if key in items else None] for key in keys]
            self._chunks.append(packed(msgspec.msgpack.encode(told)))
            self._entries += len(keys)
            self.changed = []

    def written(self, items: Mapping[str, V], plain: Plain[V] = _same) -> Chunks:
        """All of `items`."""
        self.settle(items, plain)
        return Chunks(self._chunks)

    def read(self, chunks: list[bytes], join: Callable[[Any, Any], Any] = _last) -> dict[str, Any]:
        """Take what `written` gave; the items. A key that was taken out is not among them, so None can be no value.

        `join` is given what was told of a key before, or None, and what is told then.
        """
        read = [msgspec.msgpack.decode(unpacked(chunk)) for chunk in chunks]
        self._chunks, self._entries, self.changed = Chunks(chunks), sum(map(len, read)), []
        items: dict[str, Any] = {}
        for key, value in chain.from_iterable(read):
            if value is None:
                items.pop(key, None)
            else:
                items[key] = join(items.get(key), value)
        return items


def packed(plain: bytes) -> bytes:
    """`plain` compressed, behind its length."""
    rest: bytes = _LZ4.compress(plain, asbytes=True)
    return (len(plain) | _IS_LZ4).to_bytes(8, "little") + rest


def unpacked(data: bytes) -> bytes:
    """What `packed` was given, by this release or one before."""
    head = int.from_bytes(data[:8], "little")
    codec = _LZ4 if head & _IS_LZ4 else _ZSTD
    plain: bytes = codec.decompress(data[8:], head & ~_IS_LZ4, asbytes=True)
    return plain
