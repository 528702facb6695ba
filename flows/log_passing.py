"""The log of the last run of a job that passed: what a failed run wrote besides is where to look.

Its index (hashes of its masked lines) is kept for a while in Redis and for longer in PostgreSQL. Where neither has one,
the log is read, if the platform has nothing better to do. Nobody waits long for any of this: a failure is explained
without it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
import psycopg
import structlog

from connectors import metrics
from connectors.deliveries import LogRequest
from connectors.passing_logs import Index, find_index, keep_index
from connectors.platforms.asking import Found, JobRun
from connectors.postgres import Connection, connect
from connectors.redis_requests import Requests
from flows.log_lanes import Lane
from flows.log_reading import Clocks, Sink, Visit
from models.records.errors import GuardError, Unavailable

_CACHED_MS: Final = 6 * 3600 * 1000
_NOTHING_MS: Final = 10 * 60 * 1000
_NOTHING: Final = b""  # is kept where no log of a passing run could be had, so that it is not asked for each failure
_FRESH: Final = timedelta(hours=24)
_MOST_BYTES: Final = 64 << 20  # a longer log is not compared with
_MOST_INDEX_BYTES: Final = 1 << 20
_AWAY_SECONDS: Final = 5.0  # PostgreSQL is not asked again for so long after it was away

_log = structlog.get_logger()
_DECODER: Final = msgspec.json.Decoder(JobRun)
T = TypeVar("T")


class Indexer(Sink, Protocol):
    """Makes the index of a passing log."""

    def finish(self) -> bytes:
        """The index of all that was fed."""


class Archive:
    """A connection to PostgreSQL on a thread of its own, made when it is needed and again after it broke."""

    def __init__(self, url: str, *, clock: Callable[[], float], name: str = "guard logs") -> None:
        """`clock` is in seconds and never goes back; `name` is what the server knows us by."""
        self._url = url
        self._clock = clock
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._connection: Connection | None = None
        self._away_until = float("-inf")

    async def do(self, what: Callable[[Connection], T]) -> T:
        """What `what` answers.

        Raises:
            Unavailable: PostgreSQL is away, or was a moment ago.
        """
        if self._clock() < self._away_until:
            raise Unavailable("PostgreSQL was away a moment ago")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._done, what)

    def close(self) -> None:
        """Hang up."""
        self._thread.submit(self._hang_up)
        self._thread.shutdown(wait=False)

    def _done(self, what: Callable[[Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = connect(self._url, application_name=self._name)
            return what(self._connection)
        except (psycopg.Error, Unavailable) as error:
            self._away_until = self._clock() + _AWAY_SECONDS
            self._hang_up()
            raise Unavailable(f"PostgreSQL: {str(error).strip()}") from None

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class PassingLogs:
    """Finds the index for a failed job, and makes it where there is none."""

    def __init__(self, requests: Requests, archive: Archive, indexer: Callable[[], Indexer], *, clocks: Clocks) -> None:
        self._requests = requests
        self._archive = archive
        self._indexer = indexer
        self._clocks = clocks
        self._looking: dict[str, asyncio.Task[bytes | None]] = {}

    async def index(self, shard: int, request: LogRequest, lane: Lane, *, seconds: float) -> bytes | None:
        """The index of a passing log of the job that failed, if there is one within `seconds`.

        A search goes on when that time is over: the next failure of the job will have what it finds.
        """
        key = request.job_key
        if key is None:
            return None
        looking = self._looking.get(key)
        if looking is None:
            looking = self._looking[key] = asyncio.create_task(self._found(shard, key, lane))
            looking.add_done_callback(partial(self._done, key))
        done, _ = await asyncio.wait([looking], timeout=seconds)
        return looking.result() if done else None

    async def close(self) -> None:
        """Give up whatever is being looked for."""
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def _done(self, key: str, _: object) -> None:
        del self._looking[key]

    async def _found(self, shard: int, key: str, lane: Lane) -> bytes | None:
        try:
            run, cached = await self._requests.passed(shard, key)
            if cached is not None:
                return self._told("redis" if cached else "none", cached or None)
            kept = await self._kept(key)
            if kept is not None and self._at() - kept.at < _FRESH:
                await self._requests.keep_index(shard, key, kept.lines, ttl_ms=_CACHED_MS)
                return self._told("postgres", kept.lines)
            lines = None if run is None else await self._read(_DECODER.decode(run), lane)
            if lines is not None and run is not None:
                await self._keep(shard, key, _DECODER.decode(run), lines)
                return self._told("read", lines)
            old = kept.lines if kept is not None else None
            await self._requests.keep_index(shard, key, old or _NOTHING, ttl_ms=_NOTHING_MS)
            return self._told("postgres" if old else "none", old)
        except (GuardError, msgspec.DecodeError) as error:
            _log.debug("no passing log to compare with", error=str(error))
        except Exception:  # noqa: BLE001 - a bug of ours must not cost the failure its evidence
            _log.exception("a passing log could not be indexed")
        return self._told("none", None)

    @staticmethod
    def _told(source: metrics.Compared, index: bytes | None) -> bytes | None:
        metrics.guard_log_comparisons_total(source=source).inc()
        return index

    async def _kept(self, key: str) -> Index | None:
        try:
            return await self._archive.do(partial(find_index, job_key=key))
        except Unavailable as error:
            _log.debug("indexes of passing logs cannot be looked up", error=str(error))
            return None

    async def _keep(self, shard: int, key: str, run: JobRun, lines: bytes) -> None:
        await self._requests.keep_index(shard, key, lines, ttl_ms=_CACHED_MS)
        try:
            index = Index(lines, self._at())
            await self._archive.do(partial(keep_index, job_key=key, run=msgspec.to_builtins(run), index=index))
        except Unavailable as error:
            _log.debug("the index of a passing log is not kept for long", error=str(error))

    async def _read(self, run: JobRun, lane: Lane) -> bytes | None:
        """The index of the log of `run`; None where it cannot be had now."""
        indexer = self._indexer()

        async def begin() -> Indexer:
            return indexer

        async with lane.spare_turn() as turn:
            if turn is None:
                raise Unavailable("the platform is busy")
            visit = Visit(lane.platform, lane.client, begin, most_bytes=_MOST_BYTES, clocks=self._clocks)
            ending = await visit.read(run)
            turn.came(ending, visit.seconds)
        metrics.guard_log_bytes_total(platform=lane.platform.name).inc(visit.text_bytes)
        if not isinstance(ending, Found) or visit.cut:
            return None
        index = indexer.finish()
        return index if len(index) <= _MOST_INDEX_BYTES else None

    def _at(self) -> datetime:
        return datetime.fromtimestamp(self._clocks.now(), UTC)
