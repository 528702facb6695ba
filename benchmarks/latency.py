"""From the append to the row in PostgreSQL, at a constant offered rate: every failure's latency, raw.

    python -m benchmarks.latency --rate 1000 --seconds 20

Latency is written_at - received_at of every row of guard.failures: received_at is when the event was due to be
appended, in whole milliseconds rounded down, so that up to 1 ms is counted too much and nothing too little. written_at
is taken while the row is inserted; what the commit then adds until the row can be seen is measured by a reader that
looks every 5 ms (its own waiting included) and is given beside it. The subject is our flow or the rival.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
import redis

from benchmarks import oracle
from benchmarks.drain import running
from benchmarks.rig import Rig, difference, environment, in_force, rig
from benchmarks.workload import Workload, cached
from connectors.redis_streams import log_key
from models.records.entry import Encoding, Entry, Kind, encode
from models.records.event import SHARDS

_LOOK_SECONDS: Final = 0.005
_PATIENCE_SECONDS: Final = 60.0
_EDGES_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_LATENCIES: Final = "SELECT extract(epoch FROM written_at - received_at)::float8 * 1000 FROM guard.failures"
_NEWEST: Final = """
SELECT max(updated_at), extract(epoch FROM clock_timestamp() - max(updated_at))::float8 FROM guard.progress
"""
Millis = npt.NDArray[np.float64]


class Sight(threading.Thread):
    """Looks at guard.progress again and again: how long after it was written can a change be seen?"""

    def __init__(self, database: str) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._ended = threading.Event()
        self.after_ms: list[float] = []

    def run(self) -> None:
        """Look until told to stop."""
        last: Any = None
        with psycopg.connect(self._database, autocommit=True) as connection:
            while not self._ended.wait(_LOOK_SECONDS):
                row = connection.execute(_NEWEST).fetchone()
                if row is not None and row[0] != last:
                    if last is not None:
                        self.after_ms.append(row[1] * 1000)
                    last = row[0]

    def stop(self) -> Millis:
        """What was seen."""
        self._ended.set()
        self.join()
        return np.array(self.after_ms)


def quantiles(samples: Millis) -> dict[str, float]:
    """Percentiles of the raw samples in ms."""
    cuts = np.percentile(samples, [50, 95, 99, 100], method="higher")
    return {name: round(float(cut), 2) for name, cut in zip(("p50", "p95", "p99", "max"), cuts, strict=True)}


def histogram(samples: Millis) -> dict[str, int]:
    """How many lay below each edge and not below the one before it."""
    counts, _ = np.histogram(samples, bins=[-np.inf, *_EDGES_MS, np.inf])
    names = [*(f"<{edge}" for edge in _EDGES_MS), f">={_EDGES_MS[-1]}"]
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


@contextmanager
def _subject(name: str, servers: Rig, database: str) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    if name == "flow":
        environ = environment(servers.valkey.url, database, servers.directory / "recovery", processes=1, rules={})
        command = ["-m", "flows.worker", "--process", "0"]
    else:
        environ, command = None, ["-m", "benchmarks.rival", "--redis", servers.valkey.url, "--postgres", database]
    with running([command], environ) as processes:
        yield processes


def _wait(database: str, statement: str, least: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until the number that `statement` gives is reached."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with psycopg.connect(database, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(statement.encode()).fetchone()
            if row is not None and row[0] >= least:
                return
            if any(process.poll() is not None for process in processes):
                break
            time.sleep(0.1)
    raise SystemExit(f"waited in vain for {least} of {statement}")


def measure(servers: Rig, args: argparse.Namespace) -> dict[str, Any]:
    """One subject at one rate."""
    workload = Workload(round(args.rate * args.seconds), seed=args.seed, repositories=args.repositories, rate=args.rate)
    failures = oracle.expected(workload).failures
    for _ in cached(workload, Encoding.JSON):  # so that the sender need not make it
        break
    database = servers.fresh_database()
    in_force(database, {})
    command = [sys.executable, "-m", "benchmarks.sender", "--socket", str(servers.valkey.socket_path)]
    command += ["--rate", str(args.rate), "--seconds", str(args.seconds), "--seed", str(args.seed)]
    command += ["--repositories", str(args.repositories)]
    with _subject(args.subject, servers, database) as processes:
        _heartbeats(servers)
        _wait(database, "SELECT count(*) FROM guard.progress WHERE position > 0", SHARDS, processes)
        sight = Sight(database)
        sight.start()
        before = servers.cpu(processes)
        sender = subprocess.run(command, check=True, capture_output=True)
        _wait(database, "SELECT count(*) FROM guard.failures", failures, processes)
        spent = difference(servers.cpu(processes), before)
        seen = sight.stop()
    with psycopg.connect(database) as connection:
        samples = np.array([row[0] for row in connection.execute(_LATENCIES)], np.float64)
    said = json.loads(sender.stdout)
    if len(samples) != failures or said["error"]:
        raise SystemExit(f"{len(samples)} rows, expected {failures}; the sender: {said['error']}")
    return {
        "events": workload.events,
        "seconds": round(said["seconds"], 3),
        "events_per_second": round(workload.events / said["seconds"]),
        "samples": len(samples),
        "latency_ms": quantiles(samples),
        "seen_after_ms": quantiles(seen),
        "histogram_ms": histogram(samples),
        "sender_latest_ms": said["latest_ms"],
        "cpu_seconds": spent,
        "cpu_share": {name: round(value / said["seconds"], 3) for name, value in spent.items()},
    }


def _heartbeats(servers: Rig) -> None:
    """One heartbeat a shard, so that each says that it is there."""
    now = int(time.time() * 1000)
    name, value = encode(Entry(Kind.HEARTBEAT, Encoding.JSON, now, b""))
    with redis.Redis.from_url(servers.valkey.url) as client:
        for shard in range(SHARDS):
            client.xadd(log_key(shard), {name: value})


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subject", choices=["flow", "rival"], default="flow")
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--repositories", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with rig() as servers:
        said = measure(servers, args)
    case = {"case": f"latency_{args.rate:.0f}", "subject": f"{args.subject}_1", "seed": args.seed}
    print(json.dumps(case | {"offered_per_second": args.rate} | said))


if __name__ == "__main__":
    main()
