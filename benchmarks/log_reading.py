"""From a failed job to what its log showed: readers of their own processes, and a platform that takes its time.

    python -m benchmarks.log_reading --rate 50 --seconds 60 --readers 2

Requests are appended at a constant rate whatever becomes of them, as the receiver appends them; the platform, a GitLab
of this process, answers each question half a second late with a log of some hundred kilobytes; every job passed
before, so that a reader looks at two logs for the first failure of each. Time runs from the moment a request was due to
the id of the evidence entry, which Redis gives it when it is appended. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import redis

from benchmarks.rig import rig
from benchmarks.world.web import Answer, Asked, serving
from connectors.deliveries import LogRequest
from connectors.platforms.asking import JobRun
from connectors.postgres import migrate
from connectors.redis_streams import LOG_REQUEST_FIELD, log_key, passed_key, requests_key
from flows.embedded import free_ports
from models.records.entry import HEADER_BYTES
from models.records.event import SHARDS, shard_of, uuid5_text
from models.records.evidence import Reading

_INSTANCE: Final = "gitlab.example.org"
_REPOSITORIES: Final = 200
_PATIENCE_SECONDS: Final = 30.0
_WORDS: Final = (
    "resolving",
    "fetching",
    "compiling",
    "linking",
    "checking",
    "src",
    "test",
    "module",
    "cache",
    "release",
)
_SETTINGS: Final = """
[redis]
url = "{redis}"
[postgres]
url = "{postgres}"
[redaction]
key = "the key of the log readers"
[logs]
metrics_port = {metrics}
[platforms.lab]
platform = "gitlab"
instance = "{instance}"
url = "http://127.0.0.1:{port}"
read_credential = {{ kind = "token", value = "t" }}
[logging]
level = "warning"
"""


def log_text(rng: random.Random, *, failed: bool) -> bytes:
    """What a job wrote: about 250 kB, and in the end why it failed."""
    lines = [f"[{n:5}] {' '.join(rng.choices(_WORDS, k=9))} {rng.randrange(10**6)}" for n in range(3000)]
    end = ["fatal: unable to access 'https://git.example.org/a/b.git/': Could not resolve host: git.example.org"]
    return "\n".join([*lines, *(end if failed else ["Job succeeded"])]).encode()


class Sent:
    """The requests, and when each was due (Unix ms)."""

    def __init__(self, client: redis.Redis, rate: float, seconds: float) -> None:
        self._client = client
        self._rate = rate
        self._count = round(rate * seconds)
        self.due_ms: dict[str, float] = {}

    def remember_passes(self) -> None:
        """Let every job have passed once."""
        for n in range(_REPOSITORIES):
            run = msgspec.json.encode(JobRun(_repository(n), str(n), job_id=str(n)))
            self._client.set(passed_key(shard_of(_INSTANCE, _repository(n)), _job_key(n)), run)

    async def send(self) -> None:
        """Append all requests, each when it is due."""
        began = time.time()
        for n in range(self._count):
            due = began + n / self._rate
            await asyncio.sleep(max(due - time.time(), 0))
            request = _request(n)
            self.due_ms[request.event_id] = due * 1000
            shard = shard_of(_INSTANCE, request.repository)
            self._client.xadd(requests_key(shard), {LOG_REQUEST_FIELD: msgspec.json.encode(request)})


def _repository(n: int) -> str:
    return f"org/repo-{n % _REPOSITORIES}"


def _job_key(n: int) -> str:
    return uuid5_text("job", _INSTANCE, _repository(n), "", "test")


def _request(n: int) -> LogRequest:
    return LogRequest(
        event_id=uuid5_text("event", str(n)),
        platform="gitlab",
        instance=_INSTANCE,
        repository=_repository(n),
        pipeline_id=str(10_000 + n),
        job_id=str(10_000 + n),
        attempt=1,
        traceparent=None,
        job_name="test",
        job_key=_job_key(n),
    )


async def evidence(client: redis.Redis, wanted: int) -> dict[str, tuple[float, dict[str, Any]]]:
    """All evidence that comes, by event: when it was appended (Unix ms), and what it says."""
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    cursors: dict[Any, Any] = {log_key(shard).encode(): "0-0" for shard in range(SHARDS)}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(found) < wanted and time.monotonic() < deadline:
        streams: Any = client.xread(cursors, count=1000)
        for key, entries in streams:
            cursors[key] = entries[-1][0]
            for entry_id, fields in entries:
                said = msgspec.json.decode(next(iter(fields.values()))[HEADER_BYTES:])
                found[said["event_id"]] = (float(entry_id.partition(b"-")[0]), said)
        if streams:
            deadline = time.monotonic() + _PATIENCE_SECONDS
        await asyncio.sleep(0.05)
    return found


@contextmanager
def readers(settings: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes of `guard logs`."""
    environ = os.environ | {"GUARD_SETTINGS": str(settings)}
    command = [sys.executable, "-m", "flows.cli", "logs", "--number"]
    started = [subprocess.Popen([*command, str(number)], env=environ) for number in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


async def measure(rate: float, seconds: float, count: int, late_seconds: float, seed: int) -> dict[str, Any]:
    """Run once."""
    rng = random.Random(seed)
    failed, passed = log_text(rng, failed=True), log_text(rng, failed=False)

    def answer(asked: Asked) -> Answer:
        job = int(asked.target.rpartition("/jobs/")[2].partition("/")[0])
        return Answer(200, failed if job >= 10_000 else passed, {"content-type": "text/plain"}, after=late_seconds)  # noqa: PLR2004 - see _request

    with rig() as servers, tempfile.TemporaryDirectory() as name:
        client = redis.Redis.from_url(servers.valkey.url, protocol=2)
        database = servers.fresh_database()
        migrate(database)
        async with serving(answer) as port:
            settings = Path(name) / "guard.toml"
            told = {"redis": servers.valkey.url, "postgres": database, "port": port, "instance": _INSTANCE}
            settings.write_text(_SETTINGS.format(metrics=free_ports(count), **told))
            sent = Sent(client, rate, seconds)
            sent.remember_passes()
            with readers(settings, count) as started:
                await asyncio.sleep(8)  # until they have started
                _, found = await asyncio.gather(sent.send(), evidence(client, round(rate * seconds)))
                ended = [process.poll() for process in started if process.poll() is not None]
    if ended:
        raise SystemExit(f"a reader ended: {ended}")
    took = sorted(at - sent.due_ms[event] for event, (at, _) in found.items())
    cuts = statistics.quantiles(took, n=100)
    readings = [said["reading"] for _, said in found.values()]
    return {
        "case": "log_reading",
        "subject": f"readers_{count}",
        "failures_per_second": rate,
        "platform_seconds": late_seconds,
        "log_bytes": len(failed),
        "asked": round(rate * seconds),
        "samples": len(took),
        "read": readings.count(Reading.READ.value),
        "compared": sum(said.get("compared", False) for _, said in found.values()),
        "latency_ms": {"p50": round(cuts[49]), "p95": round(cuts[94]), "p99": round(cuts[98]), "max": round(took[-1])},
        "seed": seed,
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--late", type=float, default=0.5, help="seconds that the platform takes for each answer")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(measure(args.rate, args.seconds, args.readers, args.late, args.seed))))


if __name__ == "__main__":
    main()
