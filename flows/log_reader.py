"""Log readers: read the log of each failed job as soon as it fails, and tell its shard what it showed.

    requests of the shards --take--> lane of the platform --visit--> analysis --> evidence --settle--> the shard

Every request in hand is a task of its own, which waits in its lane, for its platform, and for nobody else. What the
platform cannot give now is asked for again a few times while the patience lasts; then the evidence says that the log
was not read, and why. Several readers may run at once, on one machine or many: connectors/redis_requests.py.

A request on which readers die is found out: who takes over from a dead reader notes that it begins before it does,
reads what was begun too often one at a time, and at last puts it among the dead letters.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog

from connectors import metrics
from connectors.backoff import pause
from connectors.deliveries import LogRequest
from connectors.passing_logs import Letter, bury
from connectors.platforms.asking import Denied, Found, NotThere, TryLater
from connectors.redaction import Redactor
from connectors.redis_requests import Held, Requests
from flows import log_evidence
from flows.log_lanes import Lane
from flows.log_passing import Archive, PassingLogs
from flows.log_reading import Clocks, Sink, Visit
from models.records.errors import Unavailable
from models.records.evidence import Evidence, Reading

_TAKEN: Final = 8  # of one shard at once, so that readers share what comes
_TAKE_WAIT_MS: Final = 1000
_TEND_SECONDS: Final = 3.0
_GRACE_SECONDS: Final = 5.0  # for what is under way when told to stop
_MOST_IN_LANE: Final = 2000
_MOST_TRIES: Final = 3
_FIRST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 20.0
_LEAST_PATIENCE_SECONDS: Final = 15.0  # even with what has waited too long already
_REDIS_PAUSE_SECONDS: Final = 5.0
_INDEX_SECONDS: Final = 2.0  # that the index of a passing log is waited for
_SUSPECT: Final = 3  # begun so often, a request is served alone
_MOST_BEGUN: Final = 5

_log = structlog.get_logger()
_DECODER: Final = msgspec.json.Decoder(LogRequest)


class Analysis(Sink, Protocol):
    """Looks at the text of a log while it comes."""

    def finish(self, *, cut: bool) -> Mapping[str, Any]:
        """What it showed: fields of Evidence. `cut` says that not all of the log was fed."""


class Told(NamedTuple):
    """Evidence, and what the metrics call it."""

    evidence: Evidence
    outcome: metrics.LogOutcome


class Reader:
    """Serves requests until told to stop. `lanes` are by platform and instance; `analyse` is given the index of a
    passing log, where there is one.
    """

    def __init__(
        self,
        requests: Requests,
        lanes: Mapping[tuple[str, str], Lane],
        *,
        analyse: Callable[[bytes | None], Analysis],
        passing: PassingLogs,
        archive: Archive,
        redactor: Redactor,
        clocks: Clocks,
        patience_seconds: float,
        most_bytes: int,
    ) -> None:
        self._requests = requests
        self._lanes = lanes
        self._analyse = analyse
        self._passing = passing
        self._archive = archive
        self._redactor = redactor
        self._clocks = clocks
        self._patience_seconds = patience_seconds
        self._most_bytes = most_bytes
        self._serving: dict[tuple[int, str], tuple[Held, asyncio.Task[None]]] = {}
        self._suspects = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve what this reader left when it was last here, then what comes, until `stop`."""
        await self._insist(self._requests.prepare)
        self._serve_all(await self._insist(partial(self._requests.take_over, own=True)))
        loops = [asyncio.create_task(loop()) for loop in (self._take, self._tend, stop.wait)]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                raise RuntimeError("a part of the reader ended by itself") from _error_of(loops)
        finally:
            await self._leave(loops)

    async def _take(self) -> None:
        """New requests, as they come."""
        while True:
            self._serve_all(await self._insist(partial(self._requests.take, most=_TAKEN, wait_ms=_TAKE_WAIT_MS)))

    async def _tend(self) -> None:
        """Renew the lease on what is in hand, and look after what others have left."""
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            await self._insist(lambda: self._requests.renew(held for held, _ in self._serving.values()))
            self._serve_all(await self._insist(self._requests.take_over))

    async def _leave(self, loops: Iterable[asyncio.Task[object]]) -> None:
        """Finish what is nearly done, and let others have the rest."""
        await _cancelled(loops)
        tasks = [task for _, task in self._serving.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
        left = [held for held, task in self._serving.values() if not task.done()]
        await _cancelled(tasks)
        with suppress(Unavailable):
            await self._requests.give_back(left)

    def _serve_all(self, some: Iterable[Held]) -> None:
        for held in some:
            place = (held.shard, held.entry_id)
            if place not in self._serving:
                task = asyncio.create_task(self._serve(held))
                self._serving[place] = held, task
                task.add_done_callback(partial(self._served, place))

    def _served(self, place: tuple[int, str], task: asyncio.Task[None]) -> None:
        """Forget a request. One whose serving failed stays pending: somebody takes it over when the lease is out."""
        del self._serving[place]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a request for a log could not be served", exc_info=error)

    async def _serve(self, held: Held) -> None:
        try:
            request = _DECODER.decode(held.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            await self._bury(held, "malformed_log_request", str(error))
            await self._insist(partial(self._requests.drop, held))
            return
        try:
            told = await self._told(held, request)
        except Exception as error:  # noqa: BLE001 - a bug of ours: the same log would meet it again
            _log.exception("a log could not be read", platform=request.platform, event_id=request.event_id)
            told = await self._given_up(held, request, "reader_failed", type(error).__name__)
        await self._settle(held, request, told)

    async def _settle(self, held: Held, request: LogRequest, told: Told) -> None:
        entry = log_evidence.entry(told.evidence, request, at_ms=int(self._clocks.now() * 1000))
        await self._insist(lambda: self._requests.settle(held, request.event_id, entry))
        metrics.guard_log_reads_total(platform=request.platform, outcome=told.outcome).inc()
        metrics.guard_log_latency_seconds().observe(max(self._clocks.now() - held.at_ms / 1000, 0))
        _log.debug("log", outcome=told.outcome, why=told.evidence.why, event_id=request.event_id)

    async def _told(self, held: Held, request: LogRequest) -> Told:
        """The evidence that `request` asks for."""
        lane = self._lanes.get((request.platform, request.instance))
        if lane is None:
            return _unread(request, "no credential", "no_credential")
        if held.begun > _MOST_BEGUN:
            return await self._given_up(held, request, "readers_died", f"{held.begun - 1} readers died reading it")
        if lane.waiting >= _MOST_IN_LANE:
            return _unread(request, "too many logs wait for the platform", "gave_up")
        lane.waiting += 1
        try:
            async with self._suspects if held.begun >= _SUSPECT else nullcontext():
                if held.begun > 1:
                    await self._insist(partial(self._requests.begin, held))
                return await self._tried(held, request, lane)
        finally:
            lane.waiting -= 1

    async def _tried(self, held: Held, request: LogRequest, lane: Lane) -> Told:
        """What comes of asking until there is an answer or no patience left."""
        waited = self._clocks.now() - held.at_ms / 1000
        until = self._clocks.monotonic() + max(self._patience_seconds - waited, _LEAST_PATIENCE_SECONDS)
        why: str | None = None
        for tried in itertools.count(1):
            try:
                came = await self._visit(held.shard, request, lane, until - self._clocks.monotonic())
            except Unavailable as error:
                return _unread(request, why or str(error), "gave_up")
            if isinstance(came, Told):
                return came
            why = came.why
            drawn = random.random()  # noqa: S311 - jitter
            wait = pause(tried, drawn, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS, factor=4.0)
            wait += came.retry_after or 0.0
            if tried == _MOST_TRIES or self._clocks.monotonic() + wait > until:
                return _unread(request, why, "gave_up")
            await asyncio.sleep(wait)
        raise AssertionError("it counts on")

    async def _visit(self, shard: int, request: LogRequest, lane: Lane, seconds: float) -> Told | TryLater:
        """What comes of one visit, begun within `seconds`.

        Raises:
            Unavailable: it could not be begun.
        """
        analysis: Analysis | None = None

        async def begin() -> Analysis:
            nonlocal analysis
            analysis = self._analyse(await index)
            return analysis

        async with lane.turn(seconds) as turn:
            index = asyncio.create_task(self._passing.index(shard, request, lane, seconds=_INDEX_SECONDS))
            try:
                visit = Visit(lane.platform, lane.client, begin, most_bytes=self._most_bytes, clocks=self._clocks)
                ending = await visit.read(request.run)
            finally:
                index.cancel()
            turn.came(ending, visit.seconds)
        metrics.guard_log_bytes_total(platform=request.platform).inc(visit.text_bytes)
        if isinstance(ending, Found) and analysis is not None:
            return self._read(request, analysis, ending, cut=visit.cut)
        if isinstance(ending, NotThere | Found):
            reason = ending.why if isinstance(ending, NotThere) else "an empty log"
            return Told(log_evidence.evidence(request, Reading.NO_LOG, why=reason), "no_log")
        return _unread(request, ending.why, "denied") if isinstance(ending, Denied) else ending

    def _read(self, request: LogRequest, analysis: Analysis, ending: Found, *, cut: bool) -> Told:
        facts = dict(analysis.finish(cut=cut))
        if ending.exit_code is not None:
            facts["exit_code"] = ending.exit_code
        return Told(log_evidence.read(request, facts, self._redactor), "cut" if cut else "read")

    async def _given_up(self, held: Held, request: LogRequest, reason: str, detail: str) -> Told:
        """Evidence that a log will not be read, for a reason that somebody has to look at."""
        await self._bury(held, reason, detail)
        return _unread(request, detail, "failed")

    async def _bury(self, held: Held, reason: str, detail: str) -> None:
        """Put a request among the dead letters; waits for PostgreSQL, while the request stays pending."""
        received = datetime.fromtimestamp(held.at_ms / 1000, UTC)
        payload = self._redactor.redact_bytes(held.payload)
        letter = Letter(held.shard, held.entry_id, reason, self._redactor.redact(detail), payload, received)
        await self._insist(lambda: self._archive.do(partial(bury, letter=letter)))
        metrics.guard_dead_letters_total(reason=reason).inc()
        _log.error("a request for a log is among the dead letters", reason=reason, detail=letter.detail)

    async def _insist(self, what: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - whatever `what` answers
        """What `what` answers, once what it needs is there."""
        tried = 0
        while True:
            try:
                return await what()
            except Unavailable as error:
                tried += 1
                metrics.guard_redis_retries_total().inc()
                _log.warning("a log reader waits", error=str(error))
                drawn = random.random()  # noqa: S311 - jitter
                await asyncio.sleep(pause(tried, drawn, first=0.2, longest=_REDIS_PAUSE_SECONDS))


def _unread(request: LogRequest, why: str, outcome: metrics.LogOutcome) -> Told:
    return Told(log_evidence.evidence(request, Reading.NOT_READ, why=why), outcome)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _error_of(tasks: Iterable[asyncio.Task[Any]]) -> BaseException | None:
    ended = (task for task in tasks if task.done() and not task.cancelled())
    return next((error for task in ended if (error := task.exception()) is not None), None)
