"""`guard archive`: every entry of every shard to Parquet, by a process that nobody waits for.

It reads as the flow does, by entry id, and shows the server how far it has durably come, so that nothing is trimmed
which it has not got. How far that is stands nowhere but in its files: killed at any moment, it goes on behind the last
one. What cannot be written stays in hand, and beyond a bound in Redis.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from itertools import chain
from types import FrameType
from typing import Final

import structlog

from connectors import metrics
from connectors.backoff import pause
from connectors.parquet_files import ArchiveFile
from connectors.parquet_writer import ShardArchive
from connectors.redis_reader import ARCHIVE, GapKind, Point, Reader, Tail
from connectors.redis_wire import unavailable
from flows.settings import Settings
from models.records.event import SHARDS
from models.records.raw import RawEntries

_TIDY_SECONDS: Final = 60.0
_EXPIRE_SECONDS: Final = 3600.0
_REST_SECONDS: Final = 0.1
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0

_log = structlog.get_logger()


def run(settings: Settings, *, number: int = 0, of: int = 1) -> None:
    """Archive until SIGTERM or SIGINT, as number `number` of `of` processes that share the shards.

    Raises:
        ConfigError: the directory is not set, cannot be used, or another process has one of the shards.
        Unavailable: Redis says no for a reason that will not pass, or the metrics port cannot be had.
    """
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, end)
    serve(settings, stop, number=number, of=of)


def serve(settings: Settings, stop: threading.Event, *, number: int = 0, of: int = 1) -> None:
    """Archive until `stop` is set.

    Raises:
        ConfigError, Unavailable: as `run` does.
    """
    settings.require("archive.directory")
    assert settings.archive.directory is not None
    metrics.expose("archive", version=version("pipeline-guard"))
    served = metrics.serve(settings.archive.metrics_host, settings.archive.metrics_port + number)
    shards: list[ShardArchive] = []
    try:
        shards += (ShardArchive(settings.archive.directory, shard) for shard in range(number, SHARDS, of))
        reader = Reader(
            settings.redis.url.get_secret_value(),
            durable=True,
            retention=settings.redis.retention,
            now_ms=lambda: time.time_ns() // 1_000_000,
            monotonic=time.monotonic,
            hooks=Hooks(),
            role=ARCHIVE,
        )
        archiver = Archiver(
            reader, shards, flush=settings.archive.flush, flush_bytes=settings.archive.flush_bytes, clock=time.monotonic
        )
        _log.info("archiving", directory=str(settings.archive.directory), shards=[one.shard for one in shards])
        with unavailable():
            _until(stop, archiver, timedelta(days=settings.archive.retention_days))
        reader.close()
    finally:
        for one in shards:
            one.close()
        served.close()
    _log.info("stopped")


def _until(stop: threading.Event, archiver: Archiver, retention: timedelta) -> None:
    expired = -_EXPIRE_SECONDS
    while not stop.is_set():
        wait = archiver.step()
        if time.monotonic() - expired >= _EXPIRE_SECONDS:
            archiver.expire((datetime.now(UTC) - retention).date())
            expired = time.monotonic()
        stop.wait(wait)
    archiver.flush()


class Hooks:
    """What reading the streams tells of itself."""

    def durable(self, shard: int, entry_id: str, position: int) -> None:
        """Nobody asks."""

    def gap(self, shard: int, kind: GapKind, count: int) -> None:
        """Say what the archive will never have."""
        metrics.guard_archive_missing_total(shard=shard, kind=kind).inc(count)
        _log.error("entries are missing from the stream", shard=shard, kind=kind, at_least=count)

    def trouble(self, error: Exception) -> None:
        """Note that Redis could not be asked."""
        metrics.guard_redis_retries_total().inc()
        _log.warning("Redis could not be asked and will be again", error=str(error))

    def epoch(self, shard: int, batches: int) -> None:
        """There are none."""


@dataclass(slots=True)
class _Waiting:
    """One shard: what was read of it and is not durable, and up to which point."""

    archive: ShardArchive
    tail: Tail
    parts: list[RawEntries] = field(default_factory=list)
    size: int = 0
    since: float = 0.0

    def take(self, now: float) -> int:
        """Take in hand what was read; how many bytes that is."""
        if not self.parts:
            self.since = now
        raw = self.tail.take()
        self.parts.append(raw)
        came = sum(len(part) for fields in raw.fields for part in fields)
        self.size += came
        return came

    def joined(self) -> RawEntries:
        """All that is in hand."""
        columns = ((p.positions, p.entry_ms, p.entry_seqs, p.fields) for p in self.parts)
        positions, entry_ms, entry_seqs, fields = (list(chain.from_iterable(c)) for c in zip(*columns, strict=True))
        return RawEntries(positions, entry_ms, entry_seqs, fields)

    def drop(self) -> None:
        """All of it is durable."""
        self.parts, self.size = [], 0


class Archiver:
    """Some shards, read on one connection. Stepped by one thread."""

    def __init__(
        self,
        reader: Reader,
        archives: Sequence[ShardArchive],
        *,
        flush: timedelta,
        flush_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._reader = reader
        self._flush_seconds = flush.total_seconds()
        self._flush_bytes = flush_bytes
        self._clock = clock
        self._failures = 0
        self._again = 0.0  # when writing may be tried again
        self._tidied = clock()
        self._shards = [self._begin(archive) for archive in archives]
        metrics.guard_archive_waiting_seconds().set_function(self._waiting_seconds)

    def _begin(self, archive: ShardArchive) -> _Waiting:
        for said in archive.damaged:
            _damaged(archive.shard, said)
        point = Point(archive.end.entry_id, archive.end.position, archive.end.skew)
        tail = Tail(archive.shard, point, point)
        tail.prove(point)  # also where the server's cursor is ahead: of another archive, or of one that lost files
        self._reader.tails[archive.shard] = tail
        return _Waiting(archive, tail)

    def step(self) -> float:
        """Read what there is, make durable what is due, and tidy up now and then; seconds until the next step."""
        held = sum(one.size for one in self._shards)
        for one in self._shards:
            if held >= self._flush_bytes:
                break
            self._reader.poll(one.tail)
            if one.tail.buffered:
                held += one.take(self._clock())
        self._flush_due(full=held >= self._flush_bytes)
        if self._clock() - self._tidied >= _TIDY_SECONDS:
            self.tidy()
        behind = any(one.tail.full for one in self._shards) and self._clock() >= self._again
        return 0.0 if behind else max(self._reader.due_in(), _REST_SECONDS)

    def _flush_due(self, *, full: bool) -> None:
        now = self._clock()
        if now < self._again:
            return
        for one in self._shards:
            if one.parts and now - one.since >= self._flush_seconds:
                self._write(one)
        if full:
            self._write(max(self._shards, key=lambda one: one.size))

    def in_hand(self, shard: int) -> RawEntries:
        """What was read of a shard and is not durable."""
        return next(one.joined() for one in self._shards if one.archive.shard == shard)

    def flush(self) -> None:
        """Make durable all that is in hand, as far as it can be."""
        for one in self._shards:
            self._write(one)

    def _write(self, one: _Waiting) -> None:
        if not one.parts:
            return
        raw, point = one.joined(), one.tail.emitted
        try:
            written = one.archive.write(raw, point.skew)
        except OSError as error:
            self._failed(one, error)
            return
        self._failures = 0
        one.drop()
        one.tail.prove(point)
        one.tail.checked = False  # has anything been removed meanwhile that was not read?
        _count(one.archive.shard, written)

    def _failed(self, one: _Waiting, error: OSError) -> None:
        """Keep in hand what is not durable, and try again later."""
        self._failures += 1
        wait = pause(self._failures, random.uniform(0.5, 1.0), first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)  # noqa: S311 - jitter
        self._again = self._clock() + wait
        said = error.strerror or str(error)
        _log.error("the archive cannot be written; nothing is lost", shard=one.archive.shard, error=said, again_in=wait)

    def tidy(self) -> None:
        """Merge what is worth it, once in each shard."""
        self._tidied = self._clock()
        for one in self._shards:
            known = len(one.archive.damaged)
            try:
                one.archive.merge()
            except OSError as error:
                _log.warning("files cannot be merged", shard=one.archive.shard, error=error.strerror or str(error))
            for said in one.archive.damaged[known:]:
                _damaged(one.archive.shard, said)

    def expire(self, before: date) -> None:
        """Delete the days before `before`."""
        for one in self._shards:
            try:
                days = one.archive.expire(before)
            except OSError as error:
                _log.warning("old days cannot be deleted", shard=one.archive.shard, error=error.strerror or str(error))
            else:
                if days:
                    _log.info("deleted old days", shard=one.archive.shard, days=days, before=before.isoformat())

    def _waiting_seconds(self) -> float:
        return max((self._clock() - one.since for one in self._shards if one.parts), default=0.0)


def _count(shard: int, written: Sequence[ArchiveFile]) -> None:
    metrics.guard_archive_entries_total(shard=shard).inc(sum(file.entries for file in written))
    metrics.guard_archive_bytes_total().inc(sum(file.path.stat().st_size for file in written))


def _damaged(shard: int, said: str) -> None:
    metrics.guard_archive_damaged_files_total().inc()
    _log.error("a file of the archive was set aside", shard=shard, file=said)
