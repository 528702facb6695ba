"""The dataflow: entries of twelve shards, decoded, judged by their shard, into PostgreSQL.

    source --> decode --> shard ----------------> postgres
    XREAD      columns    Shard --> fleet ------> one transaction for all that waits
                                    Fleet

An item is a batch of entries of one shard, never a single event. Keys are salted so that a shard's state lives on the
worker that reads it: nothing is exchanged between workers, and nothing is pickled but snapshots and, once a minute of
stream time, what a shard tells the fleet. All logic is in models.records.columns, analytics.shard and analytics.fleet;
this file only joins.

    python -m bytewax.run flows.heal:flow -r /var/lib/guard/recovery -s 5 -b 0
    guard flow --processes 2
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeAlias

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from redis import Redis

from analytics.fleet import Fleet
from analytics.rulebook import compose
from analytics.shard import REJECT_WINDOW, Shard
from connectors.postgres import Progress, connect, read_progress
from connectors.postgres_sink import FLEET, Item, PostgresSink
from connectors.postgres_writer import Writer
from connectors.redaction import Redactor
from connectors.redis_source import PART_OF, ShardSource
from connectors.redis_streams import append_entry
from flows import observe, rulebooks
from flows.journal_files import JournalFiles
from flows.recovery import Start, Store, open_store
from flows.servers import now_ms, redactor, require_schema
from flows.setting_values import check_links
from flows.settings import Settings
from models.records.columns import Batch, Decoding, Parse
from models.records.errors import ConfigError, GuardError, Unavailable
from models.records.joint import FEW, decode_each
from models.records.outputs import ClosedMinutes, IncidentRow, ShardOutput
from models.records.raw import RawEntries

Raw: TypeAlias = tuple[str, RawEntries]
Decoded: TypeAlias = tuple[str, tuple[int, Batch | Decoding, str]]
Said: TypeAlias = Item | ClosedMinutes

_log = structlog.get_logger()

FLEET_KEY: Final = "fleet.42"
"""The state key of the fleet, salted so that it goes to the worker of its partition of the sink."""
VERSION: Final = version("pipeline-guard")
RAISED: Final[list[GuardError]] = []
"""What a shard of this process raised on purpose. In a cluster the engine hands on another error, of its own links."""
_PARSER: Final = ThreadPoolExecutor(1, "parse")
QUIET_SECONDS: Final = 1.0
"""A shard that has nothing to say tells PostgreSQL how far it came no more often than this."""


def flow() -> Dataflow:
    """The dataflow as the settings in the environment have it, for `python -m bytewax.run flows.heal:flow`.

    Raises:
        ConfigError: there is no recovery store and flow.ephemeral is not set, or the settings are wrong.
    """
    settings = Settings.load(os.environ)
    engine = _engine_arguments(sys.argv, os.environ)
    try:
        check_links([a for a in engine.addresses.split(";") if a], encrypted_network=settings.flow.encrypted_network)
    except ValueError as error:
        raise ConfigError(f"--addresses: {error}") from None
    directory = Path(engine.recovery_directory) if engine.recovery_directory else None
    return assembled(settings, directory, process=engine.process_id, backup_seconds=engine.backup_interval)


def _engine_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """What `bytewax.run` was told of recovery and cluster, which it does not tell us."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--recovery-directory", default=environ.get("BYTEWAX_RECOVERY_DIRECTORY"))
    parser.add_argument("-b", "--backup-interval", default=environ.get("BYTEWAX_RECOVERY_BACKUP_INTERVAL", 0), type=int)
    parser.add_argument("-i", "--process-id", type=int, default=int(environ.get("BYTEWAX_PROCESS_ID", "0")))
    parser.add_argument("-a", "--addresses", default=environ.get("BYTEWAX_ADDRESSES", ""))
    return parser.parse_known_args(arguments[1:])[0]


def assembled(
    settings: Settings, directory: Path | None, *, process: int = 0, anew: bool = False, backup_seconds: float = 0.0
) -> Dataflow:
    """The dataflow over real servers, with its recovery store checked and its rulebook in force.

    `process` is the number of this one in its cluster; the first one puts the rulebook in force. `anew` goes on from
    what PostgreSQL has where the recovery store is lost. The engine keeps snapshots for `backup_seconds` more.

    Raises:
        ConfigError, Unavailable: as open_store() and the servers have it.
    """
    if directory is None and not settings.flow.ephemeral:
        raise ConfigError(
            "flow.recovery_dir: without a recovery store every restart begins at the oldest entry; name a directory, "
            "or say flow.ephemeral = true"
        )
    rulebook = rulebooks.configured(settings)
    require_schema(postgres_url(settings))
    with connect(postgres_url(settings)) as connection:
        progress = read_progress(connection)
        store = open_store(directory, connection, progress, process=process, anew=anew) if directory else None
        if process == 0:
            client = redis_client(settings)
            rulebooks.activate(rulebook, connection, progress, partial(append_entry, client), now_ms())
            client.close()
    return dataflow(settings, store, backup_seconds)


def dataflow(settings: Settings, store: Store | None, backup_seconds: float) -> Dataflow:
    """The steps."""
    url = postgres_url(settings)
    starts = store.start if store else lambda _: Start()
    source = ShardSource(
        settings.redis.url.get_secret_value(),
        start=lambda shard: (starts(shard).entry_id, starts(shard).position),
        durable=store is not None,
        retention=settings.redis.retention,
        now_ms=now_ms,
        monotonic=time.monotonic,
        hooks=observe.SourceHooks(),
    )
    resolve = rulebooks.resolver(url, away=_wait)
    most_bad = round(settings.flow.reject_share_limit * REJECT_WINDOW)

    clean = redactor(settings)

    def make(shard: int) -> Shard:
        start = starts(shard)
        rulebook = resolve(start.rulebook) if start.rulebook else compose()
        return Shard(shard, rulebook, resolve, most_bad=most_bad, from_ms=start.stream_ms)

    def build(state: bytes | None) -> ShardLogic:
        files = JournalFiles(store.journals, backup_seconds=backup_seconds) if store else None
        fetch = files.fetch if files else None
        restored = None if state is None else Shard.restore(state, resolve, fetch, most_bad=most_bad)
        return ShardLogic(restored, make, clean, files)

    flow = Dataflow("guard")
    raw: Any = op.input("source", flow, source)
    decoded = op.flat_map_batch("decode", raw, decode_all)
    said = op.branch("said", op.stateful_batch("shard", decoded, build), _is_for_the_fleet)
    closed = op.map("closed", said.trues, lambda item: (FLEET_KEY, item[1]))
    incidents = op.stateful_batch("fleet", closed, FleetLogic)
    rows = op.merge("rows", said.falses, incidents)
    op.output("postgres", rows, PostgresSink({**PART_OF, FLEET_KEY: FLEET}, partial(open_writer, url)))
    return flow


def _is_for_the_fleet(item: tuple[str, Said]) -> bool:
    return isinstance(item[1], ClosedMinutes)


def _wait(error: Unavailable) -> None:
    """A moment, while the rulebook that a control entry names cannot be read: nothing behind it may be judged."""
    observe.retried("connection")
    _log.warning("PostgreSQL is away and will be asked again", error=str(error))
    time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - jitter


def decode_all(items: list[Raw]) -> list[Decoded]:
    """The batches of all shards of this worker as columns; with a backlog, on their way there."""
    groups = [entries for _, entries in items]
    batches: Sequence[Batch | Decoding] = (
        decode_each(groups)
        if sum(map(len, groups)) <= FEW
        else [Decoding(entries, _parse_meanwhile) for entries in groups]
    )
    return [
        (key, (PART_OF[key], batch, f"{entries.entry_ms[-1]}-{entries.entry_seqs[-1]}"))
        for (key, entries), batch in zip(items, batches, strict=True)
    ]


def _parse_meanwhile(parse: Parse) -> Parse:
    """Parse in a thread while the shards before this one judge: pyarrow lets go of the interpreter's lock."""
    return _PARSER.submit(parse).result


class ShardLogic(StatefulBatchLogic[tuple[int, Batch | Decoding, str], Said, bytes]):  # type: ignore[misc]  # bytewax is not typed
    """The thin shell around one Shard."""

    def __init__(
        self, shard: Shard | None, make: Callable[[int], Shard], redactor: Redactor, files: JournalFiles | None
    ) -> None:
        self._shard = shard
        self._make = make
        self._redactor = redactor
        self._files = files
        self._told = 0.0
        if files is not None and shard is not None:
            files.begin(shard.number)

    def on_batch(self, values: list[tuple[int, Batch | Decoding, str]]) -> tuple[list[Said], bool]:
        """Let the shard judge; say how far it came, but no more often than need be."""
        said: list[Said] = []
        for number, decoded, entry_id in values:
            if self._shard is None:
                self._shard = self._make(number)
                if self._files is not None:
                    self._files.begin(number)
            batch = decoded.batch() if isinstance(decoded, Decoding) else decoded
            observe.read(batch)
            try:
                output = self._shard.process(batch)
            except GuardError as error:
                RAISED.append(error)
                raise
            observe.judged(output)
            said += output.closed
            now = time.monotonic()
            if any(output.rows) or now - self._told > QUIET_SECONDS:
                self._told = now
                said.append((self._redacted(output), self._progress(self._shard, entry_id)))
        return said, StatefulBatchLogic.RETAIN

    @staticmethod
    def _progress(shard: Shard, entry_id: str) -> Progress:
        return Progress(entry_id, shard.position, shard.stream_ms, shard.rulebook.digest)

    def _redacted(self, output: ShardOutput) -> ShardOutput:
        """Dead letters hold what others wrote into the streams; it is redacted like all that is stored."""
        return output._replace(dead_letters=list(map(self._redactor.redact_letter, output.dead_letters)))

    def on_notify(self) -> tuple[list[Said], bool]:
        """Nothing is timed by the engine: it knows only the wall clock."""
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Said], bool]:
        """The end of the input is no event."""
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> None:
        """Never."""

    def snapshot(self) -> bytes:
        """The shard as plain bytes, its journals in files where there is a store."""
        assert self._shard is not None, "the engine snapshots only what had a batch"
        if self._files is None:
            state, beside = self._shard.snapshot(), 0
        else:
            state = self._shard.snapshot(self._files.keep)
            try:
                beside = self._files.seal()
            except Unavailable as error:
                RAISED.append(error)
                raise
        observe.snapshot(self._shard.number, len(state) + beside)
        return state


class FleetLogic(StatefulBatchLogic[ClosedMinutes, Item, bytes]):  # type: ignore[misc]  # bytewax is not typed
    """The thin shell around the Fleet."""

    def __init__(self, state: bytes | None) -> None:
        self._fleet = Fleet() if state is None else Fleet.restore(state)

    def on_batch(self, values: list[ClosedMinutes]) -> tuple[list[Item], bool]:
        """Judge the minutes that all shards have closed."""
        rows: list[IncidentRow] = []
        for closed in values:
            rows += self._fleet.process(closed)
        observe.told(rows)
        said: list[Item] = [(ShardOutput([], [], [], [], [], incidents=rows), None)] if rows else []
        return said, StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[list[Item], bool]:
        """Nothing is timed by the engine."""
        return [], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[Item], bool]:
        """The end of the input is no event."""
        return [], StatefulBatchLogic.RETAIN

    def notify_at(self) -> None:
        """Never."""

    def snapshot(self) -> bytes:
        """The fleet as plain bytes."""
        return self._fleet.snapshot()


def postgres_url(settings: Settings) -> str:
    """The address of PostgreSQL with what opens it."""
    return settings.postgres.url.get_secret_value()


def redis_client(settings: Settings) -> Redis:
    """A client with time-outs."""
    url = settings.redis.url.get_secret_value()
    return Redis.from_url(url, protocol=2, socket_timeout=5, socket_connect_timeout=5)


def open_writer(url: str) -> Writer:
    """The one writer of this process."""
    return Writer(url, clock=time.time, monotonic=time.monotonic, on_commit=observe.committed, on_retry=observe.retried)
