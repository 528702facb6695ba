"""The composite through the live flow on real servers, at many times its speed, and the backtest of what it read.

Entries carry the time at which they would have been received, as DESIGN.md has it for whoever replays; heartbeats stand
in every shard all five seconds of that time. They are appended when that time comes at the given speed, whatever the
flow makes of it. Afterwards all entries are archived, and `guard backtest` of the archive must say, row by row, what
stands in PostgreSQL.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import hiredis
import numpy as np
import psycopg
import pyarrow.parquet as pq
import redis
from psycopg import sql
from psycopg.rows import dict_row

from benchmarks.composite.judging import COMMAND, Composite
from benchmarks.drain import running
from benchmarks.latency import quantiles
from benchmarks.rig import Rig, difference, environment, in_force
from benchmarks.sender import Answers
from benchmarks.workload import milliseconds
from connectors.parquet_writer import ShardArchive
from connectors.redis_streams import log_key
from flows import rulebooks
from flows.settings import Settings
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import SHARDS, shard_of
from models.records.payload import to_json
from models.records.raw import RawEntries, RawEntry
from models.records.tables import SCHEMAS

_HEARTBEAT_MS: Final = 5000
_TICK_SECONDS: Final = 0.001
_LOOK_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 300.0
_DOCUMENTS: Final = frozenset({"subject", "calls", "explanation", "captures", "lines", "most_affected"})
_PROGRESS: Final = "SELECT shard, position FROM guard.progress"
_WRITTEN: Final = (
    "SELECT shard, position, (extract(epoch FROM written_at) * 1000)::float8 FROM guard.failures ORDER BY 1, 2"
)


class DifferentRowsError(AssertionError):
    """The live flow and the backtest of the same entries do not say the same."""


class Due(NamedTuple):
    """An entry, and the time in the composite (Unix ms) at which it is appended."""

    at_ms: int
    shard: int
    name: bytes
    value: bytes


def entries(composite: Composite) -> list[Due]:
    """All of them in the order of their time: the rulebook in each shard, then events and heartbeats."""
    first = milliseconds(composite.events[0].timestamp)
    control = rulebooks.control(rulebooks.configured(Settings.load({})), first)
    beats = range(first + _HEARTBEAT_MS, composite.until_ms + 1, _HEARTBEAT_MS)
    due = [Due(at, shard, *_beat(at)) for at in beats for shard in range(SHARDS)]
    for event in composite.events:
        at = milliseconds(event.timestamp)
        entry = Entry(Kind.EVENT, Encoding.JSON, at, to_json(event))
        due.append(Due(at, shard_of(event.metadata.instance, event.repository), *encode(entry)))
    due.sort(key=lambda entry: entry.at_ms)
    return [*(Due(first, shard, *encode(control)) for shard in range(SHARDS)), *due]


def _beat(at_ms: int) -> tuple[bytes, bytes]:
    return encode(Entry(Kind.HEARTBEAT, Encoding.JSON, at_ms, b""))


def measure(servers: Rig, composite: Composite, due: Sequence[Due], speed: float) -> dict[str, Any]:
    """One run at `speed` times the composite's own."""
    folder = servers.directory / f"composite-{servers.databases}"
    database = servers.fresh_database()
    with redis.Redis.from_url(servers.valkey.url) as client:
        client.flushall()
        in_force(database, {})
        environ = environment(servers.valkey.url, database, folder / "recovery", processes=1, rules={})
        with running([["-m", "flows.worker", "--process", "0"]], environ) as flow:
            before = servers.cpu(flow)
            _append(client, due[:SHARDS])
            _reach(client, database, dict.fromkeys(range(SHARDS), 1), flow)
            seconds, latest_ms = _paced(str(servers.valkey.socket_path), due[SHARDS:], speed)
            _reach(client, database, Counter(entry.shard for entry in due), flow)
            spent = difference(servers.cpu(flow), before)
        log = {shard: list(_log(client, shard)) for shard in range(SHARDS)}
    compared = _compared(database, log, folder)
    return {
        "speed": speed,
        "total_events": len(composite.events),
        "entries": len(due),
        "seconds": round(seconds, 2),
        "events_per_second": round(len(composite.events) / seconds),
        "latency_ms": _latency(database, log),
        "sender_latest_ms": round(latest_ms, 1),
        "cpu_seconds": spent,
        "identical_rows": compared,
    }


def _append(client: redis.Redis, due: Iterable[Due]) -> None:
    for entry in due:
        client.xadd(log_key(entry.shard), {entry.name: entry.value})


def _paced(path: str, due: Sequence[Due], speed: float) -> tuple[float, float]:
    """Append each when it is due; how many seconds that took, and how late the sender was at most, in ms."""
    commands = [hiredis.pack_command((b"XADD", log_key(e.shard).encode(), b"*", e.name, e.value)) for e in due]  # type: ignore[arg-type]  # its stub has a tuple of one
    times = np.array([entry.at_ms for entry in due], np.float64)
    offsets = (times - times[0]) / 1000 / speed
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    answers = Answers(connection)
    answers.start()
    sent, latest, began = 0, 0.0, time.monotonic()
    while sent < len(commands):
        now = time.monotonic() - began
        ready = int(offsets.searchsorted(now, side="right"))
        if ready > sent:
            latest = max(latest, now - float(offsets[sent]))
            connection.sendall(b"".join(commands[sent:ready]))
            sent = ready
        time.sleep(_TICK_SECONDS)
    while answers.count < len(commands) and answers.error is None:
        time.sleep(_TICK_SECONDS)
    took = time.monotonic() - began
    connection.close()
    if answers.error is not None:
        raise SystemExit(f"the server would not take an entry: {answers.error}")
    return took, latest * 1000


def _reach(
    client: redis.Redis, database: str, ends: Mapping[int, int], processes: Sequence[subprocess.Popen[bytes]]
) -> None:
    """Wait until every shard has come to its end.

    A shard with nothing to say tells how far it came once a second, when an entry comes. So they go on coming, but of a
    time that has been: they move nothing.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    name, value = _beat(1)
    with psycopg.connect(database, autocommit=True) as connection:
        while time.monotonic() < deadline:
            reached: dict[int, int] = dict(connection.execute(_PROGRESS).fetchall())
            if all(reached.get(shard, 0) >= end for shard, end in ends.items()):
                return
            if any(process.poll() is not None for process in processes):
                break
            for shard in ends:
                client.xadd(log_key(shard), {name: value})
            time.sleep(_LOOK_SECONDS)
    raise SystemExit("the flow did not come to the end of its log")


def _log(client: redis.Redis, shard: int) -> Iterator[RawEntry]:
    found: list[Any] = client.xrange(log_key(shard))  # type: ignore[assignment]  # redis-py's union
    for position, (entry_id, fields) in enumerate(found, 1):
        ms, _, seq = entry_id.decode().partition("-")
        yield RawEntry(position, int(ms), int(seq), tuple(part for pair in fields.items() for part in pair))


def _latency(database: str, log: Mapping[int, Sequence[RawEntry]]) -> dict[str, float]:
    """From the append, as the server dated it, to the row of a failure, by the wall clock."""
    with psycopg.connect(database) as connection:
        rows = connection.execute(_WRITTEN).fetchall()
    return quantiles(np.array([written - log[shard][position - 1].entry_ms for shard, position, written in rows]))


def _compared(database: str, log: Mapping[int, Sequence[RawEntry]], folder: Path) -> dict[str, int]:
    """How many rows of each table are the same, live and in the backtest of the archive.

    Raises:
        DifferentRowsError: any are not.
    """
    for shard, raw in log.items():
        archive = ShardArchive(folder / "archive", shard)
        archive.write(RawEntries.of(raw), None)
        archive.close()
    command = [sys.executable, "-c", COMMAND, "backtest", str(folder / "archive"), "--to", str(folder / "out")]
    subprocess.run([*command, "--rulebook", "settings"], check=True, capture_output=True)
    counts = {}
    for name in SCHEMAS:
        live, offline = _live(database, name), _offline(folder / "out" / f"{name}.parquet")
        if live != offline:
            raise DifferentRowsError(f"{name}: {len(live)} rows live, {len(offline)} in the backtest")
        counts[name] = len(live)
    return counts


def _live(database: str, name: str) -> list[str]:
    columns = sql.SQL(", ").join(map(sql.Identifier, SCHEMAS[name].names))
    query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier("guard", name))
    with psycopg.connect(database) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return _sorted(cursor.execute(query).fetchall())


def _offline(path: Path) -> list[str]:
    rows = pq.read_table(path).to_pylist()
    return _sorted([{k: json.loads(v) if k in _DOCUMENTS and v else v for k, v in row.items()} for row in rows])


def _sorted(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(dict(row), default=_plain, sort_keys=True) for row in rows)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON does not know
    match value:
        case UUID():
            return str(value)
        case memoryview():
            return bytes(value).hex()
        case bytes():
            return value.hex()
    return value.isoformat()
