"""Log readers killed at random moments: what was asked for is read, and told once."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from benchmarks.world.web import Answer, Asked, serving
from connectors.redis_streams import log_key, requests_key
from flows.embedded import EmbeddedValkey, free_ports
from models.records.entry import HEADER_BYTES, Kind
from models.records.event import SHARDS
from tests.flows.reading import append, request

pytestmark = pytest.mark.fault

INSTANCE = "gitlab.example.org"
LOG = b"resolving\nfatal: unable to access 'https://git.example.org/a.git/': Could not resolve host\n" * 40
SETTINGS = """
[redis]
url = "{redis}"
[postgres]
url = "{postgres}"
[redaction]
key = "a key of the tests, 32 bytes long"
[logs]
metrics_port = {port}
longest_read = "2s"
[platforms.lab]
platform = "gitlab"
instance = "{instance}"
url = "http://127.0.0.1:{platform}"
read_credential = {{ kind = "token", value = "t" }}
"""
JOBS = 240
KILLS = 4


class Readers:
    """Two processes of `guard logs`, each started again when it was killed."""

    def __init__(self, settings: Path) -> None:
        self._environ = os.environ | {"GUARD_SETTINGS": str(settings)}
        self._running = [self._start(number) for number in range(2)]

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "flows.cli", "logs", "--number", str(number)], env=self._environ)

    def kill(self, number: int) -> None:
        """Kill one of them and start it again."""
        self._running[number].kill()
        self._running[number].wait()
        self._running[number] = self._start(number)

    def end(self) -> None:
        """Kill both."""
        for process in self._running:
            process.kill()
            process.wait()


def told(client: Any) -> Counter[str]:
    """How often each event has evidence."""
    found: Counter[str] = Counter()
    for shard in range(SHARDS):
        for _, fields in client.xrange(log_key(shard)):
            ((name, value),) = fields.items()
            if name.startswith(Kind.EVIDENCE.encode()):
                found[msgspec.json.decode(value[HEADER_BYTES:])["event_id"]] += 1
    return found


async def _read_through_kills(settings: Path, client: Any, rng: random.Random) -> None:
    readers = Readers(settings)
    try:
        for kill in range(KILLS):
            enough = JOBS * kill // (KILLS + 2)
            async with asyncio.timeout(60):
                while len(told(client)) <= enough:  # noqa: ASYNC110 - other processes come to it
                    await asyncio.sleep(0.02)
            readers.kill(rng.randrange(2))
        async with asyncio.timeout(60):
            while len(told(client)) < JOBS or _left(client):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
    finally:
        readers.end()


def _left(client: Any) -> int:
    return sum(client.xlen(requests_key(shard)) for shard in range(SHARDS))


def test_readers_killed_at_random_moments_lose_nothing_and_double_nothing(
    own_valkey: EmbeddedValkey, database: str, tmp_path: Path, rng: random.Random
) -> None:
    client: Any = redis.Redis.from_url(own_valkey.url, protocol=2)
    wanted = [request(INSTANCE, str(job), platform="gitlab") for job in range(JOBS)]

    def answer(_: Asked) -> Answer:
        return Answer(200, LOG, {"content-type": "text/plain"}, after=rng.uniform(0.0, 0.3))

    async def run() -> None:
        async with serving(answer) as platform:
            where = {"redis": own_valkey.url, "postgres": database, "instance": INSTANCE, "platform": platform}
            settings = tmp_path / "guard.toml"
            settings.write_text(SETTINGS.format(port=free_ports(2), **where))
            for number, each in enumerate(wanted):
                append(client, msgspec.json.encode(each), shard=number % SHARDS)
            await _read_through_kills(settings, client, rng)

    asyncio.run(run())
    assert told(client) == Counter({each.event_id: 1 for each in wanted})
    client.close()
