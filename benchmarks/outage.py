"""A registry is away for half an hour, and 500 repositories build on: what healers do meanwhile, and afterwards.

    python -m benchmarks.outage

The healers, their ledger and the platforms' APIs are real; the world runs faster than ours, and so all times of the
settings are as much shorter. Not so the second between two looks of a healer at what is held: at ten times the speed a
probe that is due after half a minute goes out up to ten seconds late. What the flow does between them is played here,
so that only healers are measured: each run that fails by nothing of its own is decided to be run again when it has
ended, and what came of each rerun is written when the jobs that had failed have ended again. The fleet never says that
there is an incident: crowds and probes have to find out alone.

`during` are reruns asked for while the registry was away; `of_twice` is their share of what "retry everything twice"
asks for in that time, which runs each such failure again at once, and once more when that has failed too. `drained`
is when the last of what had waited was asked for, in seconds of the world after the registry was back.
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
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.rig import Rig, rig
from benchmarks.world import truth
from benchmarks.world.api import Api
from benchmarks.world.faults import Chance
from benchmarks.world.log_server import LogServer, Troubled
from benchmarks.world.places import settle
from benchmarks.world.records import Attempt, Clock, Ending, JobRun
from benchmarks.world.sim import Habits, Outage, World
from benchmarks.world.site import Site
from benchmarks.world.troubles import OUTAGES
from benchmarks.world.web import serving
from connectors.postgres import AsyncConnection, connect_async
from flows.embedded import free_ports
from models.records.calls import Call, RerunFailed, RerunJob
from models.records.event import PlatformName, case_id, uuid5_text

_SOURCES: Final[dict[str, PlatformName]] = {
    "hub": "github",
    "lab": "gitlab",
    "butler": "jenkins",
    "circle": "circleci",
}
_CREDENTIALS: Final = {"github": "hub", "gitlab": "lab", "jenkins": "ci:butler", "circleci": "circle"}
_FAILING: Final = (Ending.FAILED, Ending.TIMED_OUT)
_BEGINS: Final = 600.0
_DRAINED_WITHIN: Final = 600.0
_LINGER: Final = 1200.0  # world seconds after the outage in which everything is to come to its end
_LOOK_SECONDS: Final = 0.2
_SETTINGS: Final = """
redis.url = "{redis}"
postgres.url = "{postgres}"
redaction.key = "the key of the healers' benchmark"
[act]
metrics_port = {metrics}
api_port = {api}
probe_every = "{probe}ms"
drain = "{drain}ms"
[act.limits]
repository_per_hour = 1000
fleet_per_hour = 100000
repository_minutes_per_hour = 1e6
fleet_minutes_per_hour = 1e6
least_reruns_per_hour = 100000
crowd = "{crowd}ms"
[rulebook.policy]
mode = "act"
[logging]
level = "warning"
"""
_PLATFORM: Final = """
[platforms.{name}]
platform = "{name}"
instance = "main"
url = "http://127.0.0.1:{port}/{name}"
act_credential = {{ kind = "{kind}", value = "{value}" }}
"""
_DECIDE: Final = """
INSERT INTO guard.decisions (decision_id, case_id, revision, shard, position, platform, instance, repository,
    pipeline_id, workflow_id, attempt, commit_sha, branch, verdict, reason, mode, action, calls, jobs, signature,
    explanation, occurred_at, received_at, at, rulebook)
VALUES (%(decision_id)s, %(case_id)s, 1, 0, 0, %(platform)s, 'main', %(repository)s, %(pipeline_id)s, %(workflow_id)s,
    1, %(sha)s, %(branch)s, 'act', 'transient_cause', 'act', 'rerun_failed', %(calls)s, ARRAY[%(case_id)s::uuid],
    %(signature)s, %(explanation)s, clock_timestamp(), clock_timestamp(), clock_timestamp(), 'none')
"""
_OUTCOME: Final = """
INSERT INTO guard.act_outcomes (act_id, revision, shard, position, case_id, platform, instance, repository, action,
    attempt, outcome, masked, asked_at, ended_at, ends, probe, passes, fails, at, rulebook)
SELECT act_id, 0, 0, 0, case_id, platform, instance, repository, action, attempt, %s, false, asked_at,
       clock_timestamp(), '[]', probe, 0, 0, clock_timestamp(), 'none'
FROM guard.acts WHERE act_id = %s
"""
_RUNNING: Final = """
SELECT act_id, case_id::text FROM guard.acts
WHERE state = 'done' AND NOT EXISTS (SELECT FROM guard.act_outcomes o WHERE o.act_id = acts.act_id)
"""
_ACTS: Final = """
SELECT case_id::text, extract(epoch FROM min(asked_at))::float8, bool_or(probe) FROM guard.acts
WHERE state = 'done' AND signature = %s GROUP BY case_id
"""
_LET_GO: Final = """
SELECT extract(epoch FROM ended_at)::float8 FROM guard.holds WHERE signature = %s AND state = 'over' ORDER BY 1
"""


class Sky:
    """A world with one outage, its APIs, and the part of the flow."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.ends = _BEGINS + args.outage
        self.trouble = OUTAGES[0]
        repositories = settle(_SOURCES, seed=args.seed, count=args.repositories)
        habits = Habits(pushes_per_second=args.pushes, reruns=0.0, hangs=0.0, outage_strikes=0.9)
        outage = Outage(_BEGINS, self.ends, self.trouble)
        self.world = World(repositories, habits, seed=args.seed, outages=[outage])
        self.clock = Clock(time.time(), args.speed)
        self.site = Site(self.world, self.clock, deque(), lambda _: None)
        logs = LogServer(self.clock, _CREDENTIALS, Troubled(), seed=args.seed)
        limits = {"github": (10**9, 3600.0)}
        self.api = Api(self.site, logs, _CREDENTIALS, Chance(0.0, (), seed=0), limits=limits)
        self.cases: dict[str, Attempt] = {}
        self._coming = self.world.happenings(self.ends)
        self._told = 0.0

    @property
    def at(self) -> float:
        """World seconds since its beginning."""
        return self.clock.at(time.time())

    async def go_on(self, connection: AsyncConnection) -> None:
        """Do what the flow would do now."""
        while self._told < min(self.at, self.ends):
            happening = next(self._coming, None)
            self._told = self.ends if happening is None else happening.at
        for attempts in list(self.world.attempts.values()):
            first = attempts[0]
            failed = [job for job in first.jobs if job.ending in _FAILING]
            if first.uid not in self.cases and first.ended(self.at) and failed and all(job.flaky for job in failed):
                self.cases[first.uid] = first
                await connection.execute(_DECIDE, _decision(first, failed))
        by_case = {_case_of(first): first for first in self.cases.values()}
        for act_id, case in await (await connection.execute(_RUNNING)).fetchall():
            came = self._came(by_case[case])
            if came is not None:
                await connection.execute(_OUTCOME, [came, act_id])

    def _came(self, first: Attempt) -> str | None:
        """What came of running again what failed of `first`; None while any of it goes on."""
        failed = {job.job.name for job in first.jobs if job.ending in _FAILING}
        again = [job for job in self.world.attempts[first.run.id][-1].jobs if job.job.name in failed]
        if not all(job.ended(self.at) for job in again):
            return None
        if all(job.ending is Ending.PASSED for job in again):
            return "passed"
        return "failed_same" if any(job.trouble is self.trouble for job in again) else "failed_otherwise"

    def struck(self) -> dict[str, Attempt]:
        """What the outage failed, by case."""
        found = [one for one in self.cases.values() if any(job.trouble is self.trouble for job in one.jobs)]
        return {_case_of(one): one for one in found}

    def twice(self) -> int:
        """What "retry everything twice" asks for while the outage goes on."""
        count = 0
        for one in self.struck().values():
            assert one.finished_at is not None
            again = one.finished_at + (one.finished_at - one.queued_at)
            count += (_BEGINS <= one.finished_at < self.ends) + (_BEGINS <= again < self.ends)
        return count


def _place(attempt: Attempt) -> dict[str, Any]:
    """Where a run stands, as its platform names it."""
    run = attempt.run
    platform, name = run.repository.platform, run.repository.full_name
    place = {"platform": platform, "instance": "main", "repository": name, "pipeline_id": str(run.id)}
    if platform == "jenkins":
        return {**place, "repository": f"{name}/{run.workflow.name}", "pipeline_id": str(attempt.build)}
    if platform == "circleci":
        return {**place, "repository": f"gh/{name}", "pipeline_id": run.uid, "workflow_id": attempt.uid}
    return place


def _case_of(attempt: Attempt) -> str:
    place = {name: value for name, value in _place(attempt).items() if name != "platform"}
    return case_id(**{"workflow_id": None, "attempt": 1, **place})


def _decision(attempt: Attempt, failed: list[JobRun]) -> dict[str, Any]:
    place, calls = _place(attempt), list[Call]()
    for job in failed if place["platform"] == "gitlab" else failed[:1]:
        alone = place["platform"] == "gitlab"
        calls.append(RerunJob(**place, job_id=str(job.number)) if alone else RerunFailed(**place))
    case, trouble = _case_of(attempt), failed[0].trouble
    assert trouble is not None
    job_of = {"failure_id": case, "workflow": attempt.run.workflow.name, "signature": trouble.name}
    jobs = [{**job_of, "job_id": call.job_id, "job_name": f"{call.job_id} {attempt.run.id}"} for call in calls]
    return {
        "workflow_id": None,
        **place,
        "case_id": case,
        "decision_id": uuid5_text("decision", case),
        "sha": attempt.run.commit.sha,
        "branch": attempt.run.commit.branch,
        "calls": msgspec.json.encode(calls).decode(),
        "signature": trouble.name,
        "explanation": msgspec.json.encode({"jobs": jobs}).decode(),
    }


@contextmanager
def _healers(settings: Path, count: int) -> Iterator[None]:
    environ = os.environ | {"GUARD_SETTINGS": str(settings)}
    command = [sys.executable, "-m", "flows.cli", "act", "--number"]
    started = [subprocess.Popen([*command, str(number)], env=environ) for number in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


def _write_settings(path: Path, servers: Rig, database: str, port: int, args: argparse.Namespace) -> None:
    first = free_ports(2 * args.healers)
    scaled = {name: round(ms / args.speed) for name, ms in (("probe", 30_000), ("drain", 120_000), ("crowd", 300_000))}
    told = {"redis": servers.valkey.url, "postgres": database, "metrics": first, "api": first + args.healers}
    text = _SETTINGS.format(**told, **scaled)
    for name, value in _CREDENTIALS.items():
        kind = "basic" if name == "jenkins" else "token"
        text += _PLATFORM.format(name=name, port=port, kind=kind, value=value)
    path.write_text(text)


async def measure(servers: Rig, directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run once."""
    database, sky = servers.fresh_database(), Sky(args)
    async with serving(sky.api.answer) as port, await connect_async(database, application_name="the flow") as flow:
        settings = directory / "guard.toml"
        _write_settings(settings, servers, database, port, args)
        with _healers(settings, args.healers):
            while sky.at < sky.ends + _LINGER:
                await sky.go_on(flow)
                await asyncio.sleep(_LOOK_SECONDS)
        ends = await (await flow.execute("SELECT case_id::text, state, reason FROM guard.healing")).fetchall()
        asked = await (await flow.execute(_ACTS, [sky.trouble.name])).fetchall()
        let_go = await (await flow.execute(_LET_GO, [sky.trouble.name])).fetchall()
    released = [round(sky.clock.at(at) - sky.ends, 1) for (at,) in let_go]
    return _judged(sky, ends, asked, args) | {"released_seconds": released}


def _judged(sky: Sky, ends: list[Any], asked: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    struck, twice = sky.struck(), sky.twice()
    moments = [sky.clock.at(at) for _, at, _ in asked]
    during = sum(_BEGINS <= at < sky.ends for at in moments)
    how = Counter(f"{state} {reason}" for case, state, reason in ends if case in struck)
    waiting = sum(state not in ("finished", "refused") for case, state, _ in ends if case in struck)
    drained = max([at - sky.ends for at in moments], default=0.0)
    counts = truth.counts(sky.site, sky.at)
    return {
        "repositories": args.repositories,
        "outage_seconds": args.outage,
        "speed": args.speed,
        "struck": len(struck),
        "during": during,
        "twice": twice,
        "of_twice": round(during / max(twice, 1), 4),
        "probes": sum(probe for *_, probe in asked),
        "ends": dict(sorted(how.items())),
        "lost": waiting + len(set(struck) - {case for case, *_ in ends}),
        "drained_seconds": round(drained, 1),
        "acts_twice": counts["twice"],
        "invalid_requests": counts["invalid_requests"],
    }


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repositories", type=int, default=500)
    parser.add_argument("--outage", type=float, default=1800.0, help="seconds of the world")
    parser.add_argument("--pushes", type=float, default=1.0, help="per second of the world")
    parser.add_argument("--speed", type=float, default=10.0, help="how many seconds of the world pass in one")
    parser.add_argument("--healers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with rig() as servers, tempfile.TemporaryDirectory() as name:
        said = asyncio.run(measure(servers, Path(name), args))
    print(json.dumps({"case": "outage", "subject": f"healers_{args.healers}", "seed": args.seed} | said))
    if said["lost"] or said["acts_twice"] or said["drained_seconds"] > _DRAINED_WITHIN:
        sys.exit("something was lost, done twice, or came too late")


if __name__ == "__main__":
    main()
