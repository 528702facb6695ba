"""Snapshots: what a shard remembers as plain versioned bytes; those of earlier releases are read as today's.

Journals may be kept elsewhere, where what stands need not be written again: a msgpack extension has their name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec

from analytics.journal import Chunks, kept_elsewhere, packed, unpacked
from models.records.errors import ConfigError

SNAPSHOT_VERSION: Final = 6
_READ_VERSIONS: Final = frozenset({3, 4, 5, SNAPSHOT_VERSION})
"""Version 3 knew no outcomes of acts, and no errands; 4 had fewer journals; 5 wrote early passes as whole lists."""
_JOURNALS_IN_FILES: Final = 5
_ELSEWHERE: Final = 1


def written(
    head: dict[str, Any], journals: dict[str, Any], rest: dict[str, Any], keep: Callable[[Chunks], bytes | None] | None
) -> bytes:
    """The snapshot; `keep` is that of Shard.snapshot."""
    told = journals if keep is None else kept_elsewhere(journals, partial(_named, keep))
    parts = {"journals": told, "rest": packed(msgspec.msgpack.encode(rest))}
    return msgspec.msgpack.encode({"v": SNAPSHOT_VERSION, **head, **parts})


def read(data: bytes, fetch: Callable[[bytes], Chunks] | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Head, journals and rest as `written` was given them; `fetch` is that of Shard.restore.

    Raises:
        ConfigError: of a version that this release does not read, or what was kept elsewhere is not to be had.
    """
    try:
        head = msgspec.msgpack.decode(data, type=dict[str, Any], ext_hook=partial(_fetched, fetch))
    except msgspec.DecodeError as error:
        raise ConfigError(f"a snapshot that this release does not read: {error}") from None
    if head.get("v") not in _READ_VERSIONS:
        known = ", ".join(map(str, sorted(_READ_VERSIONS)))
        raise ConfigError(f"a snapshot of version {head.get('v')!r}; this release reads {known}")
    journals, rest = head.pop("journals"), msgspec.msgpack.decode(unpacked(head.pop("rest")))
    if head["v"] < _JOURNALS_IN_FILES:
        _upgrade(journals, rest)
    return head, journals, rest


def _upgrade(journals: dict[str, Any], rest: dict[str, Any]) -> None:
    """Make of what version 3 or 4 wrote what this one writes."""
    journals["ids"] = [[half] for half in journals["ids"]]
    journals["panes"] = [packed(rest["panes"])]
    journals["profiles"][0] = [*(list(map(packed, tables)) for tables in journals["profiles"][0]), []]
    stands, cleared = rest["findings"]
    journals["findings"] = [_journal([name, about] for name, *about in stands), cleared]
    if "errands" in rest:
        errands, *others = rest["errands"]
        journals["errands"] = [_journal([errand[0], errand] for errand in errands), *others]


def _journal(items: Iterable[list[Any]]) -> list[bytes]:
    return [packed(msgspec.msgpack.encode(list(items)))]


def _named(keep: Callable[[Chunks], bytes | None], chunks: Chunks) -> Chunks | msgspec.msgpack.Ext:
    name = keep(chunks)
    return chunks if name is None else msgspec.msgpack.Ext(_ELSEWHERE, name)


def _fetched(fetch: Callable[[bytes], Chunks] | None, code: int, name: memoryview) -> Chunks:
    """What is kept elsewhere under `name`.

    Raises:
        ConfigError: it is not to be had here.
    """
    if fetch is None or code != _ELSEWHERE:
        raise ConfigError("a snapshot whose journals are kept in files, which are not at hand")
    return fetch(bytes(name))
