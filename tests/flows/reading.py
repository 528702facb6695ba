"""A log reader in this process, on real servers, and platforms that answer as a test wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis

from benchmarks.world.web import Answer, Asked, serving
from connectors.breaker import Breaker, Rules
from connectors.deliveries import LogRequest
from connectors.delivery import Delivery
from connectors.http import Api, Client, Limits
from connectors.platforms import PLATFORMS
from connectors.platforms.asking import JobRun
from connectors.redaction import Redactor
from connectors.redis_requests import Requests
from connectors.redis_streams import log_key, publish, requests_key
from flows.log_lanes import Lane
from flows.log_passing import Archive, Indexer, PassingLogs
from flows.log_reader import Analysis, Reader
from flows.log_reading import Clocks
from models.records.entry import Encoding, Entry, Kind, decode
from models.records.event import SHARDS
from models.records.evidence import Evidence, Line

KEY = b"a key of the tests, 32 bytes lng"
CLOCKS = Clocks(time.time, time.monotonic)
QUICK = Limits(connect_seconds=2.0, read_seconds=0.5, total_seconds=2.0, most_bytes=1 << 20)
TEXT = b"one\ntwo\nthree\n"


class Lines:
    """An analysis that keeps every line; a line "bug" is one too many for it."""

    def __init__(self, passing: bytes | None) -> None:
        self.known = None if passing is None else set(passing.split(b"\n"))
        self.text = b""

    def feed(self, chunk: bytes) -> None:
        """Keep it."""
        self.text += chunk

    def finish(self, *, cut: bool) -> Mapping[str, Any]:
        """All of it."""
        lines = self.text.split(b"\n")
        if b"bug" in lines:
            raise ZeroDivisionError
        known = self.known or set()
        return {
            "lines": tuple(Line(n, line.decode(), line not in known) for n, line in enumerate(lines, 1) if line),
            "log_bytes": len(self.text),
            "compared": self.known is not None,
            "cut": cut,
        }


class Index:
    """An index that is the text itself."""

    def __init__(self) -> None:
        self.text = b""

    def feed(self, chunk: bytes) -> None:
        """Keep it."""
        self.text += chunk

    def finish(self) -> bytes:
        """All of it."""
        return self.text


@dataclass
class Platform:
    """One platform of the tests: GitLab's API, which has no detours. Answers are by job id, else `usual`."""

    name: str
    origin: str = ""
    usual: Answer = field(default_factory=lambda: Answer(200, TEXT))
    answers: dict[str, Answer] = field(default_factory=dict)
    first: dict[str, list[Answer]] = field(default_factory=dict)  # before those
    asked: list[str] = field(default_factory=list)
    lane: Lane | None = None

    def answer(self, asked: Asked) -> Answer:
        """What to answer for a job; what was asked is noted."""
        job = asked.target.split("/")[-2]
        self.asked.append(job)
        return self.first[job].pop(0) if self.first.get(job) else self.answers.get(job, self.usual)


@dataclass
class Here:
    """A reader, its platforms by name, and its servers."""

    url: str
    reader: Reader
    platforms: dict[str, Platform]
    client: Any
    made: int = 0

    def ask(self, instance: str, *jobs: str, shard: int = 3, **more: Any) -> None:
        """Ask for the logs of `jobs`, as a receiver does."""
        self.append(*(msgspec.json.encode(request(instance, job, **more)) for job in jobs), shard=shard)

    def append(self, *payloads: bytes, shard: int = 3, passed: Sequence[tuple[str, JobRun]] = ()) -> None:
        """Append requests as they are, and runs that passed."""
        append(self.client, *payloads, shard=shard, passed=passed)

    def evidence(self) -> dict[str, Evidence]:
        """All evidence there is, by job; fails where a job has it twice."""
        return evidence(self.client)

    async def until(self, condition: Callable[[], object], *, within: float = 15.0) -> None:
        """Wait for something to come true, while the reader goes on."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, "it did not come true in time"
            await asyncio.sleep(0.005)

    async def told(self, *jobs: str, within: float = 15.0) -> list[Evidence]:
        """The evidence of `jobs`, once all of it is there."""
        await self.until(lambda: set(jobs) <= set(self.evidence()), within=within)
        return [self.evidence()[job] for job in jobs]

    @property
    def waiting(self) -> int:
        """Requests that are not settled."""
        return sum(self.client.xlen(requests_key(shard)) for shard in range(SHARDS))


def append(client: Any, *payloads: bytes, shard: int = 3, passed: Sequence[tuple[str, JobRun]] = ()) -> None:
    """Append requests as they are, and runs that passed."""
    runs = tuple((key, msgspec.json.encode(run)) for key, run in passed)
    publish(client, [Delivery(shard, ((Entry(Kind.HEARTBEAT, Encoding.JSON, 1, b"{}"), None),), payloads, runs)])


def evidence(client: Any) -> dict[str, Evidence]:
    """All evidence on the shards, by job; fails where a job has it twice."""
    found: dict[str, Evidence] = {}
    for shard in range(SHARDS):
        for _, fields in client.xrange(log_key(shard)):
            entry = decode(*next(iter(fields.items())))
            if entry.kind is Kind.EVIDENCE:
                told = msgspec.json.decode(entry.payload, type=Evidence)
                assert told.job_id not in found
                found[told.job_id or ""] = told
    return found


def request(instance: str, job: str, **more: Any) -> LogRequest:
    """A request for the log of a job, of the instance named like the platform of the tests."""
    known = {"event_id": f"event-{job}", "platform": "gitlab", "instance": instance, "traceparent": None}
    names = {"repository": "acme/shop", "pipeline_id": "1", "job_id": job, "attempt": 1}
    return LogRequest(**{**known, **names, **more})


@asynccontextmanager
async def reading(
    url: str,
    database: str,
    *names: str,
    limits: Limits = QUICK,
    places: int = 8,
    patience: float = 3.0,
    rules: Rules | None = None,
    analyse: Callable[[bytes | None], Analysis] = Lines,
    index: Callable[[], Indexer] = Index,
    reader: str = "reader",
    known: Mapping[str, Platform] | None = None,
) -> AsyncIterator[Here]:
    """A reader that reads, with a lane for each of the platforms `names`; or for those of another reader."""
    async with AsyncExitStack() as stack:
        platforms = dict(known or {})
        for name in names:
            platform = platforms[name] = Platform(name)
            port = await stack.enter_async_context(serving(platform.answer))
            platform.origin = f"http://127.0.0.1:{port}"
        lanes: dict[tuple[str, str], Lane] = {}
        for name, platform in platforms.items():
            client = Client(Api(platform.origin, {"authorization": "Bearer x"}), limits)
            stack.push_async_callback(client.close)
            breaker = Breaker(rules or Rules(first_pause_seconds=0.2, longest_pause_seconds=0.4))
            lane = Lane(name, PLATFORMS["gitlab"], client, places=places, clock=time.monotonic, breaker=breaker)
            platform.lane = lanes["gitlab", name] = lane
        requests = Requests(url, reader)
        archive = Archive(database, clock=time.monotonic)
        passing = PassingLogs(requests, archive, index, clocks=CLOCKS)
        made = Reader(
            requests,
            lanes,
            analyse=analyse,
            passing=passing,
            archive=archive,
            redactor=Redactor(KEY),
            clocks=CLOCKS,
            patience_seconds=patience,
            most_bytes=limits.most_bytes,
        )
        stack.callback(archive.close)
        stack.push_async_callback(requests.close)
        stack.push_async_callback(passing.close)
        redis_client = stack.enter_context(redis.Redis.from_url(url, protocol=2))
        stop = asyncio.Event()
        running = asyncio.create_task(made.run(stop))
        try:
            yield Here(url, made, platforms, redis_client)
        finally:
            stop.set()
            await running


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run an asynchronous test."""

    async def main() -> None:
        await work()

    asyncio.run(main())
