"""How many signed deliveries a receiver takes a second, every append fsynced: distinct bodies, keep-alive, closed loop.

    python -m benchmarks.receiver_load --deliveries 20000 --connections 32

starts a Valkey with appendfsync always and a receiver of its own, posts pre-signed bodies of the sizes that GitHub
sends, and prints one JSON line: deliveries a second, latency, CPU time of each process per delivery. All of it shares
one machine, so the load itself takes a part of the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.world.deliveries import Source, Weather, deliveries
from benchmarks.world.places import settle
from benchmarks.world.records import Clock
from benchmarks.world.sim import Habits, World
from flows.embedded import EmbeddedValkey, free_ports

SECRET: Final = "receiver load"  # noqa: S105 - of this benchmark alone


def requests(count: int, *, seed: int, host: str) -> Iterator[bytes]:
    """`count` distinct signed deliveries of GitHub, as the bytes of whole HTTP requests."""
    sources = {"load": Source("github", "signature", SECRET)}
    world = World(
        settle({"load": "github"}, seed=seed, count=200), Habits(pushes_per_second=5.0), seed=seed, salt=f"{seed}"
    )
    due = deliveries(world.happenings(1e9), sources, Clock(time.time(), 1.0), Weather(), seed=seed)
    for _, delivery in zip(range(count), due, strict=False):
        headers = {"host": host, **delivery.headers, "content-length": str(len(delivery.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        yield f"POST /webhooks{delivery.path} HTTP/1.1\r\n{head}\r\n".encode() + delivery.body


class Client(asyncio.Protocol):
    """One keep-alive connection that posts as soon as it is answered."""

    def __init__(self, left: Iterator[bytes], statuses: Counter[int], seconds: list[float]) -> None:
        self._left = left
        self._statuses = statuses
        self._seconds = seconds
        self._buffer = b""
        self._began = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._post()

    def data_received(self, data: bytes) -> None:
        """Take an answer, and post the next one."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._statuses[int(head[9:12])] += 1
        self._seconds.append(time.perf_counter() - self._began)
        self._post()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; an error if it was not asked for."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the receiver hung up"))

    def _post(self) -> None:
        request = next(self._left, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(request)


async def load(url: str, ready: Sequence[bytes], connections: int) -> dict[str, Any]:
    """Post all of `ready` over `connections`; what was measured."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    host, port = where.hostname, where.port
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    left = iter(ready)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [
        await loop.create_connection(lambda: Client(left, statuses, seconds), host, port) for _ in range(connections)
    ]
    await asyncio.gather(*(client.done for _, client in made))
    took = time.perf_counter() - began
    cuts = statistics.quantiles(seconds, n=1000)
    return {
        "deliveries_per_second": round(len(seconds) / took),
        "p50_ms": round(cuts[499] * 1000, 2),
        "p99_ms": round(cuts[989] * 1000, 2),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "body_bytes": round(statistics.mean(map(len, ready))),
    }


_SETTINGS: Final = """
[redis]
url = "{redis}"
[redaction]
key = "the key of the receiver load"
[receiver]
port = {port}
admin_port = {admin_port}
spool_dir = "{directory}/spool"
[receiver.sources.load]
platform = "github"
instance = "github.com"
secrets = [{{ kind = "signature", value = "{secret}" }}]
[logging]
level = "warning"
"""
_RECEIVER: Final = (
    "import os; from flows.receive import run; from flows.settings import Settings; run(Settings.load(os.environ))"
)


@contextlib.contextmanager
def receiver(redis_url: str, directory: Path) -> Iterator[tuple[str, int]]:
    """A receiver of its own process: its address and process id."""
    port, admin_port = free_ports(), free_ports()
    settings = directory / "guard.toml"
    settings.write_text(
        _SETTINGS.format(redis=redis_url, port=port, admin_port=admin_port, directory=directory, secret=SECRET)
    )
    environ = os.environ | {"GUARD_SETTINGS": str(settings)}
    with subprocess.Popen([sys.executable, "-c", _RECEIVER], env=environ) as process:
        try:
            _wait(f"http://127.0.0.1:{admin_port}/readyz", process)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own address
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the receiver did not start")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    ready = list(requests(args.deliveries, seed=args.seed, host="127.0.0.1"))
    with tempfile.TemporaryDirectory(prefix="guard-load-") as name, EmbeddedValkey(Path(name) / "valkey") as valkey:
        assert valkey.pid is not None
        with receiver(valkey.url, Path(name)) as (url, pid):
            began = {"receiver": cpu_seconds(pid), "redis": cpu_seconds(valkey.pid), "load": cpu_seconds(os.getpid())}
            measured = asyncio.run(load(url, ready, args.connections))
            ended = {"receiver": cpu_seconds(pid), "redis": cpu_seconds(valkey.pid), "load": cpu_seconds(os.getpid())}
    spent = {who: round((ended[who] - began[who]) / len(ready) * 1e6) for who in began}
    case = {"case": "receiver", "seed": args.seed, "connections": args.connections, "cores": os.cpu_count()}
    print(json.dumps(case | measured | {"cpu_us_per_delivery": spent}))


if __name__ == "__main__":
    main()
