"""The ledger checker: whether what stands in PostgreSQL is what the log says, row by row, and nothing else.

The oracle is a replay as plain as can be: one thread, one entry at a time, in log order, through the same Shard. It
knows no engine, batches, snapshots, workers or restarts, so that whatever these did wrong shows as a difference.

    I1  no loss                 every delivery answered 2xx is in the log, in the spool or in the dead letters
    I2  no duplicate decision   one decision for each revision of a case, its revisions without a gap
    I4  the oracle's rows       symmetric difference empty, table by table, all columns but written_at
    I5  conservation            what was read is judged: events have rows, the rest has dead letters, all is counted

I3, no duplicate action, comes with the healer.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple

import redis

from analytics.fleet import Fleet
from analytics.rulebook import Rulebook, compose
from analytics.shard import REJECT_WINDOW, Shard
from connectors.postgres import Connection
from connectors.postgres_rows import TABLES
from connectors.redaction import Redactor
from connectors.redis_streams import log_key
from models.records.columns import decode
from models.records.entry import HEADER_BYTES, Encoding, Kind, field_of
from models.records.event import SHARDS
from models.records.outputs import ShardOutput, ShardStats
from models.records.raw import RawEntry

Log = Mapping[int, Sequence[RawEntry]]
Row = dict[str, Any]
Rows = dict[str, dict[tuple[Any, ...], Row]]

KEYS: Final = {
    "failures": ("failure_id",),
    "findings": ("finding_id", "revision"),
    "decisions": ("decision_id",),
    "aggregates": ("instance", "repository", "minute"),
    "dead_letters": ("dead_letter_id",),
    "diagnoses": ("failure_id",),
    "detector_faults": ("fault_id",),
    "job_hours": ("instance", "repository", "workflow", "job_name", "hour"),
    "incidents": ("incident_id", "revision"),
    "act_outcomes": ("act_id", "revision"),
}
_MOST_SHOWN: Final = 20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Start(NamedTuple):
    """Where a shard began anew with nothing remembered: --from-progress after a lost recovery store."""

    position: int
    stream_ms: int
    rulebook: str


@dataclass(slots=True)
class Expected:
    """What a replay says: the rows by table and key, and what became of what was read."""

    rows: Rows
    read: dict[int, int]  # entries by shard
    marks: Counter[str] = field(default_factory=Counter)  # by kind; "unreadable" for entries and parts that are none
    stats: ShardStats = field(default_factory=lambda: ShardStats(0, 0, 0))
    repeated: int = 0  # rows said again under a key that was there: PostgreSQL keeps the first


@dataclass(slots=True)
class Report:
    """What the checker found wrong, one line each, and how much it looked at."""

    faults: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    events: int = 0

    def must_be_exact(self) -> None:
        """Fail the test with the first faults."""
        shown = "\n".join(self.faults[:_MOST_SHOWN])
        assert not self.faults, f"{len(self.faults)} faults in {self.rows}:\n{shown}"


def read_log(client: redis.Redis) -> dict[int, list[RawEntry]]:
    """All entries of all shards, counted from 1. Fails where a stream was trimmed: then nothing can be judged."""
    log: dict[int, list[RawEntry]] = {}
    for shard in range(SHARDS):
        found: list[Any] = client.xrange(log_key(shard))  # type: ignore[assignment]  # redis-py's union
        log[shard] = [_raw(position, *entry) for position, entry in enumerate(found, 1)]
        if found:
            info: Any = client.xinfo_stream(log_key(shard))
            added = info["entries-added"]
            assert added == len(found), f"shard {shard}: {added} entries were added and {len(found)} are there"
    return log


def _raw(position: int, entry_id: bytes, fields: Mapping[bytes, bytes]) -> RawEntry:
    ms, _, seq = entry_id.decode().partition("-")
    return RawEntry(position, int(ms), int(seq), tuple(part for pair in fields.items() for part in pair))


def replay(
    log: Log,
    resolve: Callable[[str], Rulebook],
    *,
    redactor: Redactor | None = None,
    anew: Mapping[int, Start] | None = None,
    most_bad: int = REJECT_WINDOW // 2,
) -> Expected:
    """What all entries of `log` make the shards say, one entry at a time."""
    expected = Expected({table: {} for table in TABLES}, {shard: len(entries) for shard, entries in log.items()})
    fleets = Fleet(), Fleet()
    for number, entries in log.items():
        start = (anew or {}).get(number, Start(0, 0, ""))
        before, after = entries[: start.position], entries[start.position :]
        _judge(Shard(number, compose(), resolve, most_bad=most_bad), before, expected, redactor, fleets[0])
        rulebook = resolve(start.rulebook) if start.rulebook else compose()
        fresh = Shard(number, rulebook, resolve, most_bad=most_bad, from_ms=start.stream_ms)
        _judge(fresh, after, expected, redactor, fleets[1])
    return expected


def _judge(
    shard: Shard, entries: Iterable[RawEntry], expected: Expected, redactor: Redactor | None, fleet: Fleet
) -> None:
    for entry in entries:
        batch = decode([entry])
        for mark in batch.marks:
            expected.marks[mark.kind.value if mark.kind else "unreadable"] += 1
        output = shard.process(batch)
        expected.stats = ShardStats(*(a + b for a, b in zip(expected.stats, output.stats, strict=True)))
        incidents = [row for minutes in output.closed for row in fleet.process(minutes)]
        _gather(output._replace(incidents=incidents), expected, redactor)


def _gather(output: ShardOutput, expected: Expected, redactor: Redactor | None) -> None:
    if redactor is not None:
        clean = [
            letter._replace(detail=redactor.redact(letter.detail), payload=redactor.redact_bytes(letter.payload))
            for letter in output.dead_letters
        ]
        output = output._replace(dead_letters=clean)
    for (table, columns), records in zip(TABLES.items(), output.rows, strict=True):
        for record in records:
            row = {c.name: _comparable(v, c.type) for c, v in zip(columns, record, strict=True)}
            known = expected.rows[table].setdefault(_key(table, row), row)
            expected.repeated += known is not row


def _comparable(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "timestamptz":
        return _EPOCH + timedelta(milliseconds=value)
    return json.loads(value) if kind == "jsonb" else value


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEYS[table])


_READ_AS: Final = {"uuid": "{}::text", "uuid[]": "{}::text[]", "jsonb": "{}::text"}


def stored(connection: Connection) -> dict[str, list[Row]]:
    """The rows of every table as they stand in PostgreSQL, in the oracle's terms."""
    found: dict[str, list[Row]] = {}
    for table, columns in TABLES.items():
        names = ", ".join(_READ_AS.get(c.type, "{}").format(c.name) for c in columns)
        rows = connection.execute(f"SELECT {names} FROM guard.{table}".encode()).fetchall()
        found[table] = [
            {c.name: json.loads(v) if c.type == "jsonb" else v for c, v in zip(columns, row, strict=True)}
            for row in rows
        ]
    return found


def tokens(fields: Sequence[bytes]) -> set[str]:
    """What an entry says, whatever stands around it: the ids of its events, or a digest of its reject."""
    batch = decode([RawEntry(1, 1, 0, tuple(fields))])
    said = {f"event {event}" for event in batch.events.column("id").to_pylist()}
    rejects = (mark.payload for mark in batch.marks if mark.kind is Kind.REJECT)
    return said | {f"reject {hashlib.sha256(payload).hexdigest()}" for payload in rejects}


def check(
    log: Log,
    connection: Connection,
    resolve: Callable[[str], Rulebook],
    *,
    redactor: Redactor | None = None,
    anew: Mapping[int, Start] | None = None,
    promised: Mapping[str, Collection[str]] | None = None,
    spooled: Iterable[Sequence[bytes]] = (),
    expected: Expected | None = None,
) -> Report:
    """Judge what a flow, now stopped, left in PostgreSQL by the log that it read.

    `promised` names, for each delivery answered 2xx, the tokens that must have been kept; `spooled` are the fields of
    what waits in the receivers' spools; `expected` is the replay of `log` where it was made already.
    """
    expected = expected or replay(log, resolve, redactor=redactor, anew=anew)
    found = stored(connection)
    report = Report(rows={table: len(rows) for table, rows in found.items()}, events=expected.stats.events)
    report.faults += _lost(log, promised or {}, spooled)
    report.faults += _decided_twice(found["decisions"])
    report.faults += _differing(expected.rows, found)
    report.faults += _unaccounted(log, connection, expected, found)
    return report


def _lost(log: Log, promised: Mapping[str, Collection[str]], spooled: Iterable[Sequence[bytes]]) -> list[str]:
    if not promised:
        return []
    kept: set[str] = set()
    for fields in (*(entry.fields for entries in log.values() for entry in entries), *spooled):
        kept |= tokens(fields)
    return [
        f"I1 {delivery}: answered 2xx, but {token} is nowhere"
        for delivery, wanted in promised.items()
        for token in sorted(set(wanted) - kept)
    ]


def _decided_twice(decisions: list[Row]) -> list[str]:
    by_revision = Counter((row["case_id"], row["revision"]) for row in decisions)
    faults = [
        f"I2 case {case}: {count} decisions of revision {revision}"
        for (case, revision), count in by_revision.items()
        if count > 1
    ]
    faults += [
        f"I2 decision {decision}: stands {count} times"
        for decision, count in Counter(row["decision_id"] for row in decisions).items()
        if count > 1
    ]
    revisions: dict[str, list[int]] = {}
    for case, revision in by_revision:
        revisions.setdefault(case, []).append(revision)
    faults += [
        f"I2 case {case}: its revisions are {sorted(known)}"
        for case, known in revisions.items()
        if sorted(known) != list(range(len(known)))
    ]
    return faults


def _differing(expected: Rows, found: Mapping[str, list[Row]]) -> list[str]:
    faults: list[str] = []
    for table, wanted in expected.items():
        there: dict[tuple[Any, ...], Row] = {}
        for row in found[table]:
            key = _key(table, row)
            if key in there:
                faults.append(f"I4 {table} {key}: stands twice")
            there[key] = row
        faults += [f"I4 {table} {key}: is missing" for key in wanted if key not in there]
        faults += [f"I4 {table} {key}: should not be there" for key in there if key not in wanted]
        faults += [
            f"I4 {table} {key}: {name} is {there[key][name]!r} and should be {value!r}"
            for key, row in wanted.items()
            if key in there
            for name, value in row.items()
            if there[key][name] != value
        ]
    return faults


_NOT_DEAD: Final = {Kind.HEARTBEAT.value, Kind.CONTROL.value, Kind.EVIDENCE.value, Kind.OUTCOME.value}


def _unaccounted(log: Log, connection: Connection, expected: Expected, found: Mapping[str, list[Row]]) -> Iterable[str]:
    """I5, without asking the shard: what was read by the entries themselves, what came of it by the database."""
    reached: dict[int, int] = dict(connection.execute("SELECT shard, position FROM guard.progress").fetchall())
    for shard, entries in log.items():
        if reached.get(shard, 0) != len(entries):
            yield f"I5 shard {shard}: {len(entries)} entries in the log and {reached.get(shard, 0)} read"
    dead = sum(count for kind, count in expected.marks.items() if kind not in _NOT_DEAD)
    dead += sum(row["reason"] == "bad_control" for row in found["dead_letters"])
    if len(found["dead_letters"]) != dead:
        yield f"I5 {dead} entries that are no events and {len(found['dead_letters'])} dead letters"
    explained = {row["failure_id"] for row in found["failures"]}
    decided = {row["case_id"] for row in found["decisions"]}
    for event in _failed_jobs(log):
        if event not in explained:
            yield f"I5 event {event}: a job failed, and there is no failure of it"
    for event in _shown(log) - {row["failure_id"] for row in found["diagnoses"]}:
        yield f"I5 event {event}: its log was read, and there is no diagnosis of it"
    for row in found["failures"]:
        if row["case_id"] not in decided:
            yield f"I5 failure {row['failure_id']}: nothing was decided about its run"


def _shown(log: Log) -> set[str]:
    """The events of which the log holds evidence."""
    name = field_of(Kind.EVIDENCE, Encoding.JSON)
    fields = (entry.fields for entries in log.values() for entry in entries)
    return {json.loads(told[1][HEADER_BYTES:])["event_id"] for told in fields if told[0] == name}


def _failed_jobs(log: Log) -> set[str]:
    ids: set[str] = set()
    for entries in log.values():
        left = iter(entries)
        while block := list(islice(left, 256)):
            events = decode(block).events.select(["id", "event_type", "job_id"]).to_pylist()
            ids |= {e["id"] for e in events if e["event_type"] == "pipeline.failed" and e["job_id"] is not None}
    return ids
