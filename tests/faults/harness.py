"""What the fault tests share: a story to tell the streams, a flow and receivers to kill, and the judgement after it.

A story is a log made from the simulated world: deliveries of four platforms with duplicates and disorder, normalised
by the receiver's own code, written in all three encodings, with heartbeats, rejects and what nobody can read between
them. Its hours lie in 2030 and stand in the entry ids, so that a story takes as long to tell as a test has time for,
and is the same bytes for the same seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import redis

from benchmarks import workload
from benchmarks.workload import Workload
from benchmarks.world.deliveries import Delivery, Source, Weather, deliveries
from benchmarks.world.places import settle
from benchmarks.world.records import Clock
from benchmarks.world.sim import Habits, World
from connectors.deliveries import Normaliser, Said
from connectors.platforms import PLATFORMS
from connectors.platforms.platform import Request
from connectors.postgres import connect
from connectors.redaction import Redactor
from connectors.redis_reader import parse_id
from connectors.redis_streams import GROUP, log_key
from flows import supervise
from flows.embedded import free_ports
from flows.rulebooks import resolver
from flows.supervise import dies_with_parent
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import SHARDS, Event, Outcome, shard_of
from models.records.evidence import Evidence, Line, Reading
from models.records.payload import from_json, to_bytes, to_packed, to_protobuf
from tests.analytics.log import acted_on, rerun_of
from tests.contracts import oracle
from tests.events import make_event
from tests.helpers import wait_until

ROOT: Final = Path(__file__).parents[2]
KEY: Final = "a redaction key of the tests"
BEGINS: Final = 1_893_456_000.0  # 2030-01-01T00:00:00Z
SOURCES: Final = {
    "hub": Source("github", "signature", "secret of the hub"),
    "lab": Source("gitlab", "token", "secret of the lab"),
    "butler": Source("jenkins", "signature", "secret of a Jenkinsfile"),
    "circle": Source("circleci", "signature", "secret of the circle"),
}
_HEARTBEAT_MS: Final = 60_000
_PACKED_MS: Final = 20_000
_LINES: Final = (
    "No space left on device",
    "fatal: unable to access 'https://git.example/': timed out",
    "FAILED test_a",
)
_HEARTBEAT: Final = (Kind.HEARTBEAT, Encoding.JSON, b"{}")


class Told(NamedTuple):
    """One entry of a story: where and when it stands, and its one field."""

    shard: int
    at_ms: int
    name: bytes
    value: bytes


def told(shard: int, at_ms: int, kind: Kind, encoding: Encoding, payload: bytes) -> Told:
    """An entry that its publisher got at `at_ms`, Unix ms."""
    return Told(shard, at_ms, *encode(Entry(kind, encoding, at_ms, payload)))


def happen(seed: int, *, seconds: float, weather: Weather, epoch: float = BEGINS, speed: float = 1.0) -> list[Delivery]:
    """The deliveries of `seconds` of a small world with much trouble."""
    repositories = settle({name: source.platform for name, source in SOURCES.items()}, seed=seed, count=24)
    habits = Habits(pushes_per_second=1 / 40, breaks=0.2, hangs=0.05)
    happenings = World(repositories, habits, seed=seed, salt=f"{epoch:.3f}").happenings(seconds)
    return list(deliveries(happenings, SOURCES, Clock(epoch, speed), weather, seed=seed))


def normalise(delivery: Delivery, redactor: Redactor) -> Said:
    """What the receiver would make of `delivery`."""
    request = Request(dict(delivery.headers), delivery.body, delivery.at, None)
    normaliser = Normaliser(redactor, lambda count: bytes(range(count)))
    platform = PLATFORMS[SOURCES[delivery.source].platform]
    return normaliser.normalise(delivery.source, platform, delivery.source, request)


def story(seed: int, *, hours: float = 1.5, poison: bool = True) -> list[Told]:
    """A log of some `hours`, about 3,000 entries each, in the order in which it is to be published."""
    rng = random.Random(f"story {seed}")
    entries = [*_events(rng, seed, hours), *_more_events(rng, seed, hours), *_outage(rng, hours)]
    first, last = int(BEGINS * 1000), max(entry.at_ms for entry in entries)
    for shard in range(SHARDS):
        beats = range(first, last + 15 * _HEARTBEAT_MS, _HEARTBEAT_MS)  # till an incident has ended
        entries += [told(shard, at, *_HEARTBEAT) for at in beats]
    if poison:
        entries += [Told(rng.randrange(SHARDS), rng.randint(first, last), *bad) for bad in unreadable()]
    return sorted(entries, key=lambda entry: entry.at_ms)


def _events(rng: random.Random, seed: int, hours: float) -> Iterator[Told]:
    redactor = Redactor(KEY.encode())
    packing: dict[int, list[Event]] = {}
    began: dict[int, int] = {}
    for delivery in happen(seed, seconds=hours * 3600, weather=Weather(0.05, 2.0, 0.02, 40.0)):
        at_ms = int(delivery.at * 1000)
        for shard in [shard for shard, since in began.items() if since < at_ms - _PACKED_MS or len(packing[shard]) > 7]:
            del began[shard]
            yield told(shard, at_ms, Kind.EVENT, Encoding.PACKED, to_packed(packing.pop(shard)))
        for said in normalise(delivery, redactor).deliveries:
            for entry, _ in said.items:
                yield from _evidence(rng, said.shard, at_ms, entry)
                yield from _healed(rng, said.shard, at_ms, entry)
                if entry.kind is not Kind.EVENT or rng.random() < 0.5:
                    yield told(said.shard, at_ms, entry.kind, Encoding.JSON, entry.payload)
                elif rng.random() < 0.5:
                    yield told(said.shard, at_ms, Kind.EVENT, Encoding.PROTOBUF, to_protobuf(from_json(entry.payload)))
                else:
                    packing.setdefault(said.shard, []).append(from_json(entry.payload))
                    began.setdefault(said.shard, at_ms)
    for shard, together in packing.items():
        yield told(shard, at_ms, Kind.EVENT, Encoding.PACKED, to_packed(together))


def _more_events(rng: random.Random, seed: int, hours: float) -> Iterator[Told]:
    """The benchmarks' workload beside the world: many runs at once, and failures that wait for the end of their run."""
    rate = 800 / 3600
    start = datetime.fromtimestamp(BEGINS, UTC)
    plan = Workload(int(hours * 3600 * rate), seed=seed, repositories=40, rate=rate, start=start)
    for event in workload.events(plan):
        shard = shard_of(event.metadata.instance, event.repository)
        encoding = rng.choice((Encoding.JSON, Encoding.PROTOBUF))
        at_ms = workload.milliseconds(event.timestamp)
        yield told(shard, at_ms, Kind.EVENT, encoding, to_bytes(event, encoding))
        yield from _evidence(rng, shard, at_ms, Entry(Kind.EVENT, Encoding.JSON, at_ms, to_bytes(event, Encoding.JSON)))


def _outage(rng: random.Random, hours: float) -> Iterator[Told]:
    """A registry that is away for a tenth of the story; it failed once before, and after it is back a few times more.

    What was seen before is no new name, whenever in the story other rules come into force.
    """
    began_ms, takes_ms = BEGINS * 1000 + hours * 0.75 * 3_600_000, hours * 0.1 * 3_600_000
    when = [-7.0, *(rng.random() for _ in range(230)), *(rng.uniform(1, 2) for _ in range(10))]
    for number, share in enumerate(when):
        at_ms = int(began_ms + takes_ms * share)
        where = {"instance": "hub", "repository": f"org/away-{number % 60}", "runner_labels": ["pool-7"]}
        run: dict[str, Any] = {"pipeline_id": f"away {number}", "job_id": f"away {number}", **where}
        event = make_event(Outcome.FAILED, at_ms, step="Initialize containers", duration_ms=9000, **run)
        shard = shard_of("hub", event.repository)
        yield told(shard, at_ms, Kind.EVENT, Encoding.JSON, to_bytes(event, Encoding.JSON))
        yield from _evidence(rng, shard, at_ms, Entry(Kind.EVENT, Encoding.JSON, at_ms, to_bytes(event, Encoding.JSON)))


def _evidence(rng: random.Random, shard: int, at_ms: int, entry: Entry) -> Iterator[Told]:
    """What readers would say of the log of a failed job, soon or late, of every other one."""
    event = from_json(entry.payload) if entry.kind is Kind.EVENT else None
    if event is not None and event.failure_context is not None and event.job_id is not None and rng.random() < 0.5:
        read_ms = at_ms + rng.choice((800, 4000, 25_000))
        yield told(shard, read_ms, Kind.EVIDENCE, Encoding.JSON, _shown(rng, event, event.job_id))


def _healed(rng: random.Random, shard: int, at_ms: int, entry: Entry) -> Iterator[Told]:
    """What a healer would say of every third failed job, and what became of it: told before it, or after."""
    event = from_json(entry.payload) if entry.kind is Kind.EVENT else None
    if event is None or event.failure_context is None or event.job_id is None or rng.random() > 0.3:
        return
    asked_ms, took_ms = at_ms + 15_000, rng.choice((2000, 60_000, 240_000))
    signature = rng.choice(("github_set_up_job", "disk_full", "gitlab_runner_interrupted"))
    act = msgspec.json.encode(acted_on([event], asked_ms, signature=signature, probe=rng.random() < 0.1))
    for _ in range(rng.choice((1, 1, 2))):
        yield told(shard, asked_ms + rng.choice((10, 10, 90_000)), Kind.OUTCOME, Encoding.JSON, act)
    for number, later_ms in enumerate((took_ms, 1_500_000)):
        if rng.random() < 0.9 - 0.6 * number:
            outcome = rng.choice((Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.CANCELLED))
            end_ms = asked_ms + later_ms
            end = rerun_of(event, outcome, end_ms, number, duration_ms=took_ms, step="Set up job")
            yield told(shard, end_ms + 500, Kind.EVENT, Encoding.JSON, to_bytes(end, Encoding.JSON))


def _shown(rng: random.Random, event: Event, job_id: str) -> bytes:
    lines = tuple(Line(n, rng.choice(_LINES), rng.random() < 0.7) for n in range(1, 4))
    return msgspec.json.encode(
        Evidence(
            event_id=event.id,
            instance=event.metadata.instance,
            repository=event.repository,
            pipeline_id=event.pipeline_id,
            workflow_id=event.metadata.workflow_id,
            job_id=job_id,
            attempt=event.metadata.attempt,
            reading=rng.choice((Reading.READ, Reading.READ, Reading.NO_LOG, Reading.NOT_READ)),
            exit_code=rng.choice((None, 1, 137)),
            lines=lines,
            log_lines=40,
            log_bytes=2000,
            compared=rng.random() < 0.5,
            normaliser=1,
        )
    )


def unreadable() -> list[tuple[bytes, bytes]]:
    """Entries that no release can use, each wrong in its own way."""
    good = b'{"id":"6f1c1e0a-0b7e-5d0e-9c55-0a7f3f8f0001","timestamp":"2030-01-01T00:00:00Z","platform":"github",'
    good += b'"event_type":"pipeline.failed","repository":"org/repo","pipeline_id":"1","job_id":"2",'
    meta = b'"metadata":{"instance":"hub","outcome":"failed","job_name":"%s","duration_ms":%s}}'
    payloads = {
        "no json": b"{",
        "nul": good + meta % (b"te\\u0000st", b"1"),
        "1e400": good + meta % (b"test", b"1e400"),
        "lone surrogate": good + meta % (b"\\ud800", b"1"),
        "deep": b'{"id":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "not an object": b"[1, 2, 3]",
        "two objects": good + meta % (b"a", b"1") + b"\n" + good + meta % (b"b", b"1"),
        "not utf-8": good + meta % (b"\xff\xfe", b"1"),
    }
    entries = [encode(Entry(Kind.EVENT, Encoding.JSON, int(BEGINS * 1000), payload)) for payload in payloads.values()]
    name, value = encode(Entry(Kind.EVENT, Encoding.PROTOBUF, int(BEGINS * 1000), b"\x0a\xff\x01cut off"))
    entries += [
        (name, value),
        (name, value[:3] + bytes([value[3] ^ 1]) + value[4:]),
        (name, b"short"),
        (b"event.json.99", entries[0][1]),
        (b"whatever", b"\x00\xff"),
        encode(Entry(Kind.EVENT, Encoding.PACKED, int(BEGINS * 1000), b"\xff\xff\xff\xff")),
        encode(Entry(Kind.CONTROL, Encoding.JSON, int(BEGINS * 1000), b'{"rulebook": "of no such digest"}')),
        encode(
            Entry(
                Kind.REJECT, Encoding.JSON, int(BEGINS * 1000), b'{"reason": "malformed_payload\\u0000", "detail": "x"}'
            )
        ),
    ]
    return entries


@dataclass
class Ground:
    """The servers of one test, and where its processes keep what is theirs."""

    redis_url: str
    postgres_url: str
    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    @cached_property
    def client(self) -> redis.Redis:
        """A client of the streams."""
        return redis.Redis.from_url(self.redis_url, socket_timeout=10)

    @property
    def recovery(self) -> Path:
        """The recovery directory."""
        return self.directory / "recovery"

    def environment(self, **more: object) -> dict[str, str]:
        """The environment of a process of ours; `more` is by the settings' own names, as redis__url."""
        given = {
            "redis__url": self.redis_url,
            "postgres__url": self.postgres_url,
            "redaction__key": KEY,
            "flow__recovery_dir": self.recovery,
            "flow__snapshot_seconds": 0.7,
            "logging__format": "json",
            **more,
        }
        own = {k: v for k, v in os.environ.items() if not k.startswith(("GUARD_", "BYTEWAX_"))}
        return own | {f"GUARD_{k.upper()}": str(v) for k, v in given.items()} | self.variables

    def publish(self, entries: Iterable[Told]) -> None:
        """Append `entries`, in order."""
        pipe = self.client.pipeline(transaction=False)
        for entry in entries:
            pipe.xadd(log_key(entry.shard), {entry.name: entry.value}, id=f"{entry.at_ms}-*")
            if len(pipe) >= 500:
                pipe.execute()
        pipe.execute()

    def lengths(self) -> dict[int, int]:
        """How many entries each shard has."""
        return {shard: int(self.client.xlen(log_key(shard))) for shard in range(SHARDS)}

    def reached(self) -> dict[int, int]:
        """How far each shard has come, by PostgreSQL."""
        with connect(self.postgres_url) as connection:
            return dict(connection.execute("SELECT shard, position FROM guard.progress").fetchall())

    def last_ids(self) -> dict[int, tuple[int, int]]:
        """The id of the last entry of each shard that has any."""
        with self.client.pipeline(transaction=False) as pipe:
            for shard in range(SHARDS):
                pipe.xrevrange(log_key(shard), count=1)
            newest = pipe.execute()
        return {shard: parse_id(found[0][0]) for shard, found in enumerate(newest) if found}

    def durable(self) -> dict[int, tuple[int, int]]:
        """How far each shard has durably come, by its cursor in Redis."""
        with self.client.pipeline(transaction=False) as pipe:
            for shard in range(SHARDS):
                pipe.xinfo_groups(log_key(shard))
            known = pipe.execute(raise_on_error=False)
        return {
            shard: parse_id(group["last-delivered-id"])
            for shard, groups in enumerate(known)
            if not isinstance(groups, Exception)
            for group in groups
            if group["name"] in (GROUP, GROUP.encode())
        }

    def beat(self, shards: Iterable[int]) -> None:
        """Append a heartbeat to `shards`; it says nothing of the time, only that there is something to read."""
        beat = encode(Entry(Kind.HEARTBEAT, Encoding.JSON, 1, b"{}"))
        for shard in shards:
            self.client.xadd(log_key(shard), dict([beat]))

    def drain(self, flow: Flow, *, within: float = 60.0) -> None:
        """Wait until all that is in the streams is judged, and what the fleet makes of it is written.

        A shard with nothing to say says so at its next entry. The fleet does not say how far it came: its rows are
        there when the epoch of the last entries is durable, which the cursors in Redis tell.
        """
        target, last = self.lengths(), self.last_ids()
        nudge = Nudge(self)

        def drained() -> bool:
            flow.must_run()
            reached, durable = self.reached(), self.durable()
            behind = [shard for shard, count in target.items() if reached.get(shard, 0) < count]
            if behind:
                nudge(behind)
            return not behind and all(durable.get(shard, (0, 0)) >= entry_id for shard, entry_id in last.items())

        wait_until(drained, within=within, what="the streams' end")

    def check(
        self,
        *,
        anew: Mapping[int, oracle.Start] | None = None,
        promised: Mapping[str, set[str]] | None = None,
    ) -> oracle.Report:
        """Judge what the flow, drained and stopped since, left behind."""
        reached = self.reached()
        log = {shard: entries[: reached.get(shard, 0)] for shard, entries in oracle.read_log(self.client).items()}
        with connect(self.postgres_url) as connection:
            resolve = resolver(self.postgres_url)
            report = oracle.check(
                log, connection, resolve, redactor=Redactor(KEY.encode()), anew=anew, promised=promised
            )
        print("checked", report.events, "events", report.rows)  # noqa: T201 - pytest shows it beside a failure
        return report


class Nudge:
    """Heartbeats, at most two a second: a shard that has nothing to say says how far it came at its next entry only."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._last = time.monotonic()

    def __call__(self, shards: Iterable[int]) -> None:
        """Append them, if the last ones are half a second old."""
        if time.monotonic() - self._last > 0.5:
            self._last = time.monotonic()
            self._ground.beat(shards)


class Birth(NamedTuple):
    """A process was started, Unix seconds."""

    at: float
    pid: int


class Flow:
    """The processes of a dataflow under the supervisor, as `guard flow` runs them, and a thread to watch over them."""

    def __init__(self, ground: Ground, *, processes: int = 1, arguments: Sequence[str] = (), **more: object) -> None:
        self.ground = ground
        self.births: list[Birth] = []
        self.status: int | None = None
        port = free_ports(2 * processes)
        self.settings: dict[str, object] = {
            "flow__processes": processes,
            "flow__metrics_port": port,
            "flow__first_port": port + processes,
            **more,
        }
        self._log = ground.directory / "flow.log"
        self._count = processes
        self._supervisor = supervise.Supervisor(supervise.workers(processes, arguments), start=self._start)
        self._thread = threading.Thread(target=self._run, name="supervisor")

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            began = time.time()
            process = spawn(command, self.ground.environment(**self.settings), log)
        self.births.append(Birth(began, process.pid))
        return process

    def _run(self) -> None:
        self.status = self._supervisor.run()

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: len(self.births) >= self._count, what="the first processes")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, all processes reaped."""
        self._supervisor.stop()
        self._thread.join()

    def wait(self, *, within: float = 60.0) -> int | None:
        """The status with which the supervisor gave up by itself."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"the supervisor goes on:\n{self.words()[-3000:]}"
        return self.status

    def must_run(self) -> None:
        """Fail when the supervisor has given up."""
        assert self._thread.is_alive(), f"the flow ended with {self.status}:\n{self.words()[-3000:]}"

    def words(self) -> str:
        """What its processes wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Those that run now."""
        return [process for process in list(self._supervisor._running) if process.poll() is None]

    def first_output(self, *, within: float = 60.0) -> float:
        """Wait until the processes started last have written something new; seconds since they were started."""
        born = self.births[-1].at
        nudge = Nudge(self.ground)

        def output() -> float:
            self.must_run()
            nudge(range(SHARDS))
            with connect(self.ground.postgres_url) as connection:
                row = connection.execute(
                    "SELECT extract(epoch FROM max(updated_at))::float8 FROM guard.progress"
                ).fetchone()
            newest = row[0] if row and row[0] else 0.0
            return newest - born if newest > born else 0.0

        return wait_until(output, within=within, what="a first output")

    def goes_on(self, *, within: float = 30.0) -> None:
        """Wait until something more is written than stands there now."""
        before = sum(self.ground.reached().values())
        nudge = Nudge(self.ground)

        def more() -> bool:
            self.must_run()
            nudge(range(SHARDS))
            return sum(self.ground.reached().values()) > before

        wait_until(more, within=within, what="more progress")

    def metric(self, name: str) -> float:
        """The sum over all labels of a metric of the first process."""
        return metric(int(str(self.settings["flow__metrics_port"])), name)

    def kill(self, rng: random.Random) -> None:
        """Kill -9 one of the processes, and wait until the supervisor has started them all again."""
        before = len(self.births)
        rng.choice(wait_until(lambda: self.processes, what="a process to kill")).kill()
        wait_until(lambda: len(self.births) >= before + self._count, within=45, what="a restart")


def metric(port: int, name: str, label: str = "") -> float:
    """The sum over all labels, or those with `label`, of a metric that a process of ours shows at `port`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")) and label in line
    )


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Any) -> subprocess.Popen[bytes]:
    """A process of ours, which goes down with the thread that started it."""
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call
    )


@contextmanager
def pace(ground: Ground, entries: Sequence[Told], *, seconds: float) -> Iterator[threading.Thread]:
    """Publish `entries` evenly over `seconds` while the block runs; at its end, all are published."""
    failed: list[BaseException] = []

    def run() -> None:
        began = time.monotonic()
        done = 0
        try:
            while done < len(entries):
                due = min(len(entries), int(len(entries) * (time.monotonic() - began) / seconds) + 1)
                if hurry.is_set():
                    due = len(entries)
                ground.publish(entries[done:due])
                done = due
                hurry.wait(0.02)
        except BaseException as error:  # noqa: BLE001 - shown in the test's own thread
            failed.append(error)

    hurry = threading.Event()
    thread = threading.Thread(target=run, name="publisher")
    thread.start()
    try:
        yield thread
    finally:
        hurry.set()
        thread.join()
    assert not failed, failed


_ABSORBED: Final = """
CREATE SEQUENCE guard.absorbed;
CREATE FUNCTION guard.count_absorbed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE met boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM guard.%%I t WHERE %%s)', TG_TABLE_NAME, TG_ARGV[0]) INTO met USING NEW;
    IF met THEN PERFORM nextval('guard.absorbed'); END IF;
    RETURN NEW;
END $$;
"""


def count_absorbed(ground: Ground) -> Callable[[], int]:
    """Have PostgreSQL count the rows that are written again and meet themselves; what gives their number so far."""
    with connect(ground.postgres_url) as connection:
        connection.execute(_ABSORBED.replace("%%", "%").encode())
        for table, keys in oracle.KEYS.items():
            same = " AND ".join(f"t.{key} = ($1).{key}" for key in keys)
            connection.execute(
                f"CREATE TRIGGER absorbed BEFORE INSERT ON guard.{table} FOR EACH ROW "
                f"EXECUTE FUNCTION guard.count_absorbed('{same}')".encode()
            )

    def absorbed() -> int:
        with connect(ground.postgres_url) as connection:
            row = connection.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM guard.absorbed")
            found = row.fetchone()
            return int(found[0]) if found else 0

    return absorbed


SOON: Final = {"GUARD_RULEBOOK__FLEET__LEARNING_MINUTES": "1"}
"""Variables that let the fleet speak in a story, which is short."""


def changed(**detectors: Mapping[str, Any]) -> dict[str, str]:
    """Variables that change parameters of detectors, by class name."""
    return {
        f"GUARD_RULEBOOK__DETECTORS__{name}__{key.upper()}": json.dumps(value)
        for name, parameters in detectors.items()
        for key, value in parameters.items()
    }
