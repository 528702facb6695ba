"""From a decision to the call that carries it out: a healer of its own process, and a platform that takes its time.

    python -m benchmarks.heal_latency --rate 50 --seconds 60

Decisions are written at a constant rate whatever becomes of them, each in a transaction of its own, as the flow writes
them; the platform, a GitHub of this process, answers every question and every call 10 ms late. Time runs from the
moment a decision was due to be written to the moment its call arrives: between them lie the write and its commit, the
claim, charging five budgets and writing down the act (durable both), reading the run (two questions), and the row that
says that the call goes out. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.latency import quantiles
from benchmarks.rig import Rig, difference, rig
from benchmarks.world.web import Answer, Asked, serving
from connectors.postgres import connect_async
from flows.embedded import free_ports
from models.records.calls import RerunFailed
from models.records.event import case_id, uuid5_text

_REPOSITORIES: Final = 500
_LATE_SECONDS: Final = 0.01
_PATIENCE_SECONDS: Final = 30.0
_JSON: Final = {"content-type": "application/json"}
_SETTINGS: Final = """
redis.url = "{redis}"
postgres.url = "{postgres}"
redaction.key = "the key of the healers' benchmark"
[act]
metrics_port = {metrics}
api_port = {api}
[act.limits]
repository_per_hour = 100000
fleet_per_hour = 100000
repository_minutes_per_hour = 1e6
fleet_minutes_per_hour = 1e6
least_reruns_per_hour = 100000
crowd_repositories = 100000
[rulebook.policy]
mode = "act"
[platforms.hub]
platform = "github"
instance = "hub"
url = "http://127.0.0.1:{port}"
act_credential = {{ kind = "token", value = "t" }}
[logging]
level = "warning"
"""
_DECIDE: Final = """
INSERT INTO guard.decisions (decision_id, case_id, revision, shard, position, platform, instance, repository,
    pipeline_id, attempt, commit_sha, branch, verdict, reason, mode, action, calls, jobs, signature, explanation,
    occurred_at, received_at, at, rulebook)
VALUES (%(decision_id)s, %(case_id)s, 1, 0, %(number)s, 'github', 'hub', %(repository)s, %(run)s, 1, %(sha)s, 'main',
    'act', 'transient_cause', 'act', 'rerun_failed', %(calls)s, ARRAY[%(failure_id)s::uuid], 'dns', %(explanation)s,
    clock_timestamp(), clock_timestamp(), clock_timestamp(), 'none')
"""


class Hub:
    """A GitHub on which every run has failed; when each was asked to run again (Unix seconds)."""

    def __init__(self) -> None:
        self.called: dict[str, float] = {}
        self.twice = 0

    def answer(self, asked: Asked) -> Answer:
        """What it answers, a little late."""
        path = asked.target.partition("?")[0]
        if asked.method == "POST":
            run = path.split("/")[-2]
            self.twice += run in self.called
            self.called.setdefault(run, time.time())
            return Answer(201, b"{}", _JSON, after=_LATE_SECONDS)
        run = path.rpartition("/")[2]
        body: dict[str, Any] = {"workflow_runs": []}
        if run.isdigit():
            body = {"id": int(run), "status": "completed", "conclusion": "failure", "run_attempt": 1}
            body |= {"head_sha": f"{int(run):040x}", "head_branch": "main"}
        return Answer(200, msgspec.json.encode(body), _JSON, after=_LATE_SECONDS)


def _decision(number: int) -> dict[str, Any]:
    """Decision `number`, as parameters of its row."""
    run, repository = str(10_000 + number), f"org/repo-{number % _REPOSITORIES}"
    call = RerunFailed(platform="github", instance="hub", repository=repository, pipeline_id=run)
    case = case_id(instance="hub", repository=repository, pipeline_id=run, workflow_id=None, attempt=1)
    failure_id = uuid5_text("failure", run)
    job = {"failure_id": failure_id, "job_id": "1", "workflow": "CI", "job_name": f"test {number}", "signature": "dns"}
    return {
        "number": number,
        "decision_id": uuid5_text("decision", run),
        "case_id": case,
        "repository": repository,
        "run": run,
        "sha": f"{int(run):040x}",
        "calls": msgspec.json.encode([call]).decode(),
        "failure_id": failure_id,
        "explanation": msgspec.json.encode({"jobs": [job]}).decode(),
    }


async def _decide(database: str, first: int, count: int, rate: float) -> dict[str, float]:
    """Write decisions, each when it is due; when that was (Unix seconds), by run."""
    due: dict[str, float] = {}
    async with await connect_async(database, application_name="the benchmark") as connection:
        began = time.time()
        for number in range(count):
            at = began + number / rate
            await asyncio.sleep(max(at - time.time(), 0))
            row = _decision(first + number)
            due[row["run"]] = at
            await connection.execute(_DECIDE, row)
    return due


async def _called(hub: Hub, count: int) -> None:
    """Wait until so many calls have come."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(hub.called) < count and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes come to it
        await asyncio.sleep(0.05)


@contextmanager
def _healers(settings: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    environ = os.environ | {"GUARD_SETTINGS": str(settings)}
    command = [sys.executable, "-m", "flows.cli", "act", "--number"]
    started = [subprocess.Popen([*command, str(number)], env=environ) for number in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


async def measure(servers: Rig, directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run once."""
    hub, count, database = Hub(), round(args.rate * args.seconds), servers.fresh_database()
    warm = round(args.rate)
    async with serving(hub.answer) as port:
        settings, first = directory / "guard.toml", free_ports(2 * args.healers)
        told = {"redis": servers.valkey.url, "postgres": database, "port": port}
        settings.write_text(_SETTINGS.format(metrics=first, api=first + args.healers, **told))
        with _healers(settings, args.healers) as processes:
            await _decide(database, 0, warm, args.rate)  # what comes first waits for it to start
            await _called(hub, warm)
            before = servers.cpu(processes)
            due = await _decide(database, warm, count, args.rate)
            await _called(hub, warm + count)
            spent = difference(servers.cpu(processes), before)
    missing = [run for run in due if run not in hub.called]
    if missing or hub.twice:
        raise SystemExit(f"{len(missing)} of {count} decisions were not carried out, {hub.twice} twice")
    took = np.array([(hub.called[run] - at) * 1000 for run, at in due.items()], np.float64)
    return {
        "decisions_per_second": args.rate,
        "platform_ms": _LATE_SECONDS * 1000,
        "samples": len(took),
        "latency_ms": quantiles(took),
        "cpu_share": {name: round(value / args.seconds, 3) for name, value in spent.items()},
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--healers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7, help="for nothing: nothing is drawn")
    args = parser.parse_args()
    with rig() as servers, tempfile.TemporaryDirectory() as name:
        said = asyncio.run(measure(servers, Path(name), args))
    case = {"case": "heal_latency", "subject": f"healers_{args.healers}", "seed": args.seed}
    print(json.dumps(case | said))


if __name__ == "__main__":
    main()
