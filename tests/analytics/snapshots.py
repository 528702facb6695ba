"""Snapshots as earlier releases wrote them, made of today's."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from analytics import panes, profiles
from analytics.histories import MOST_IN_HISTORY
from analytics.journal import Journal, packed, unpacked
from analytics.passes import Passes
from analytics.piles import Written
from analytics.snapshots import SNAPSHOT_VERSION


def as_version_5(snapshot: bytes) -> dict[str, Any]:
    """What version 5 had written of early passes, whole lists in Zstandard; the rest differs in what packed it only."""
    said: dict[str, Any] = msgspec.msgpack.decode(snapshot)
    assert said["v"] == SNAPSHOT_VERSION == 6
    said["v"] = 5
    jobs = said["journals"]["histories"][0]
    early = Passes(10**9, MOST_IN_HISTORY)
    early.load(jobs[1])
    jobs[1] = [_zstd(list(half.by_name.items())) for half in (early._old, early._young)]
    return said


def as_version_4(snapshot: bytes) -> dict[str, Any]:
    """What version 4 had written, decoded but for its packed parts."""
    said = as_version_5(snapshot)
    said["v"] = 4
    journals, rest = said["journals"], msgspec.msgpack.decode(unpacked(said["rest"]))
    journals["ids"] = [b"".join(half) for half in journals["ids"]]
    rest["panes"] = _stream(Written().read(journals.pop("panes")), panes._SCHEMA)
    *tables, told = [Written().read(some) for some in journals["profiles"][0]]
    tables[0] += map(profiles._counted, told)
    journals["profiles"][0] = [[_stream([table], profiles._SCHEMA) for table in some] for some in tables]
    stands, cleared = journals.pop("findings")
    rest["findings"] = [[[name, *about] for name, about in Journal().read(stands).items()], cleared]
    errands, *others = journals.pop("errands")
    rest["errands"] = [list(Journal().read(errands).values()), *others]
    said["rest"] = packed(msgspec.msgpack.encode(rest))
    return said


def _stream(tables: list[pa.Table], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _zstd(items: list[Any]) -> list[bytes]:
    """A journal of `items` as versions up to 5 packed it."""
    plain = msgspec.msgpack.encode(items)
    packed: bytes = pa.Codec("zstd").compress(plain, asbytes=True)
    return [len(plain).to_bytes(8, "little") + packed]
