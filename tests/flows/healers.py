"""Processes of `guard act` over a simulated world with the APIs of all four platforms, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from psycopg.rows import dict_row

from benchmarks.world import truth
from benchmarks.world.faults import Chance
from benchmarks.world.records import Attempt, JobRun
from benchmarks.world.sim import Habits
from benchmarks.world.site import Act
from benchmarks.world.web import Answer, Asked, serving
from connectors.postgres import connect
from connectors.redis_streams import log_key
from flows.embedded import free_ports
from models.records.calls import Call, Cancel
from models.records.entry import HEADER_BYTES, Kind
from models.records.event import SHARDS, uuid5_text
from models.records.outputs import DecisionRow
from tests.benchmarks.world.apis import CREDENTIALS, FAILING, Lab, about, rerun_of
from tests.connectors.healing import act

SPEED: Final = 60.0
_NO_LIMITS: Final = {"github": (10**6, 3600.0)}
_SETTINGS: Final = """
redis.url = "{redis}"
postgres.url = "{postgres}"
redaction.key = "a key of the tests, 32 bytes long"
[act]
metrics_port = {metrics}
api_port = {api}
lease = "{lease}"
{act}
[act.limits]
repository_per_hour = 10000
fleet_per_hour = 10000
repository_minutes_per_hour = 1e6
fleet_minutes_per_hour = 1e6
least_reruns_per_hour = 10000
crowd_repositories = 10000
stale = "30d"
{limits}
[rulebook.policy]
mode = "act"
"""
_PLATFORM: Final = """
[platforms.{name}]
platform = "{name}"
instance = "main"
url = "http://127.0.0.1:{port}/{name}"
act_credential = {{ kind = "{kind}", value = "{value}" }}
"""


class Town(Lab):
    """A world whose time goes on while its APIs answer: what is run again there ends after some seconds."""

    def __init__(self, *, seed: int, habits: Habits | None = None, **more: Any) -> None:
        self._began: float | None = None
        self.requests = 0
        usual = Habits(pushes_per_second=1 / 4, strikes=0.2, hangs=0.05, reruns=0.0)
        super().__init__(
            seed=seed, habits=habits or usual, speed=SPEED, limits=_NO_LIMITS, **{"repositories": 200, **more}
        )

    def _answer(self, asked: Asked) -> Answer:
        self.requests += 1
        return self.api.answer(asked)

    def now(self) -> float:
        """Unix seconds of the world."""
        return self.clock.seconds(self.here)

    @property
    def here(self) -> float:
        """The world's own time."""
        return self.at + (0.0 if self._began is None else (time.monotonic() - self._began) * SPEED)

    def faults(self, share: float, kinds: tuple[str, ...] = ()) -> None:
        """Let so many answers be faults from now on."""
        self.api._chance = Chance(share, kinds, seed=7)

    def failures(self, count: int) -> list[DecisionRow]:
        """So many decisions to run again what failed in the newest run of its branch, or to stop what hangs in it."""
        while len(found := list(self._failures())) < count:
            self.go_on(600)
        return found[:count]

    def broken(self) -> dict[str, DecisionRow]:
        """For each platform one decision to run again what fails however often it is run."""
        while len(found := {row.platform: row for row in self._failures(real=True)}) < len(CREDENTIALS):
            self.go_on(600)
        return found

    def _failures(self, *, real: bool = False) -> Iterator[DecisionRow]:
        for run, attempts in list(self.world.attempts.items()):
            last = attempts[-1]
            failed = [job for job in last.jobs if job.ending in FAILING]
            if real and not (failed and all(job.trouble and job.trouble.kind == "real" for job in failed)):
                continue
            if self.site.head(last.run, self.at) != last.run.commit.sha or last.queued_at > self.at:
                continue
            if last.ended(self.at) and failed:
                yield decision(last, [rerun_of(last, job) for job in _told_apart(last, failed)], run)
            elif last.finished_at is None and all(job.ended(self.at) or job.finished_at is None for job in last.jobs):
                yield decision(last, [Cancel(**{**about(last), "job_id": None})], run)

    def failed_again(self) -> list[DecisionRow]:
        """Decisions to run again what was run again here, and has failed once more."""
        found: list[DecisionRow] = []
        for done in list(self.site.acts):
            last = self.world.attempts[done.attempt.run.id][-1]
            failed = [job for job in (*last.jobs, *last.kept) if job.ending in FAILING]
            if not last.ended(self.here) or not failed:
                continue
            calls = [rerun_of(last, job) for job in _told_apart(last, failed)]
            revision = last.number if last.run.repository.platform == "gitlab" else 1  # there it is the same case
            found.append(decision(last, calls, last.run.id + last.number, revision))
        return list({row.decision_id: row for row in found}.values())

    @contextmanager
    def served(self) -> Iterator[int]:
        """Answer, in a thread, while its time goes on; the port."""
        ready: list[int] = []
        up, down = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            async with serving(self._answer) as port:
                ready.append(port)
                up.set()
                await down.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        up.wait()
        self._began = time.monotonic()
        try:
            yield ready[0]
        finally:
            loop.call_soon_threadsafe(down.set)
            thread.join()
            loop.close()

    def counts(self) -> dict[str, int]:
        """What the world says of how it was done."""
        return truth.counts(self.site, self.here)


def _told_apart(attempt: Attempt, failed: list[JobRun]) -> list[JobRun]:
    """One call for each job where the platform takes jobs, else one for all."""
    return failed if attempt.run.repository.platform == "gitlab" else failed[:1]


def decision(attempt: Attempt, calls: list[Call], number: int, revision: int = 1, **changes: Any) -> DecisionRow:
    """The decision to make `calls` about `attempt`."""
    place: dict[str, Any] = {name: value for name, value in about(attempt).items() if name != "job_id"}
    place = {"workflow_id": None, "attempt": 1, **place}
    case_id = uuid5_text("case", str(attempt.uid if place["platform"] != "gitlab" else attempt.run.id))
    row = act(number % 10**9, revision, *calls, **place, branch=attempt.run.commit.branch, case_id=case_id)
    names = {"commit_sha": attempt.run.commit.sha, "decision_id": uuid5_text("decision", case_id, str(revision))}
    jobs: list[dict[str, Any]] = msgspec.json.decode(row.explanation)["jobs"]
    explained = [{**job, "job_name": f"{attempt.run.id} {job['job_id'] or ''}"} for job in jobs]
    explanation = msgspec.json.encode({"jobs": explained}).decode()
    return row._replace(**{**names, "explanation": explanation, "action": calls[0].name, **changes})


class Healers:
    """Processes of `guard act`, by number, each with a log."""

    def __init__(
        self, directory: Path, *, redis: str, postgres: str, world: int, count: int = 1, lease: str = "4s",
        act: str = "", limits: str = "",
    ) -> None:  # fmt: skip
        port = free_ports(2 * count)
        text = _SETTINGS.format(
            redis=redis, postgres=postgres, metrics=port, api=port + count, lease=lease, act=act, limits=limits
        )
        for name, value in CREDENTIALS.items():
            kind = "basic" if name == "jenkins" else "token"
            text += _PLATFORM.format(name=name, port=world, kind=kind, value=value)
        self._settings = directory / "guard.toml"
        self._settings.write_text(text)
        self._log = directory / "healers.log"
        self.running: dict[int, subprocess.Popen[bytes]] = {number: self._start(number) for number in range(count)}

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("GUARD_")}
        command = [sys.executable, "-m", "flows.cli", "act", "--number", str(number)]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=own | {"GUARD_SETTINGS": str(self._settings)}, stdout=log, stderr=log)

    def kill(self, number: int) -> None:
        """Kill -9 one of them, and start it again."""
        self.running[number].kill()
        self.running[number].wait()
        self.running[number] = self._start(number)

    def pause(self, number: int, seconds: float) -> None:
        """Let one of them sleep for so long, and wake up as if nothing had been."""
        process = self.running[number]
        process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, process.send_signal, [signal.SIGCONT]).start()

    def revive(self) -> None:
        """Start again what ended because PostgreSQL was away when it began."""
        for number, process in self.running.items():
            if process.poll() is not None:
                assert '"crashed"' not in self.words(), self.words()[-3000:]
                self.running[number] = self._start(number)

    def must_run(self) -> None:
        """Fail where one has ended by itself."""
        for number, process in self.running.items():
            assert process.poll() is None, f"healer {number} ended with {process.returncode}:\n{self.words()[-3000:]}"

    def terminate(self, number: int = 0) -> int:
        """Ask one to end; its status."""
        self.running[number].terminate()
        return self.running[number].wait(30)

    def end(self) -> None:
        """Kill all."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def words(self) -> str:
        """What they wrote."""
        return self._log.read_text(errors="replace")


@contextmanager
def healers(directory: Path, **given: Any) -> Iterator[Healers]:
    """Healers that are gone afterwards."""
    running = Healers(directory, **given)
    try:
        yield running
    finally:
        running.end()


def told(client: Any) -> Counter[tuple[str, str]]:
    """How often shards were told of each act, and what."""
    found: Counter[tuple[str, str]] = Counter()
    for shard in range(SHARDS):
        for _, fields in client.xrange(log_key(shard)):
            ((name, value),) = fields.items()
            if name.startswith(Kind.OUTCOME.encode()):
                said = msgspec.json.decode(value[HEADER_BYTES:])
                found[said["act_id"], said["result"]] += 1
    return found


def standings(postgres: str) -> Counter[tuple[str, str]]:
    """How many cases stand how, and why."""
    with connect(postgres) as connection:
        rows = connection.execute("SELECT state, reason, count(*) FROM guard.healing GROUP BY 1, 2").fetchall()
    return Counter({(state, reason): count for state, reason, count in rows})


def hurry(postgres: str) -> None:
    """Let the time come for all that waits for some."""
    with connect(postgres) as connection:
        connection.execute(
            "UPDATE guard.healing SET due_at = clock_timestamp() "
            "WHERE state = 'waiting' AND due_at > clock_timestamp() AND due_at < 'infinity'"
        )


Effect = tuple[str, str, str, str]
"""Platform, run as its platform names it, target, and rerun or cancel."""


def effects(town: Town) -> Counter[Effect]:
    """What was done in the world, by what a ledger would call it."""
    return Counter(map(_effect, town.site.acts))


def _effect(done: Act) -> Effect:
    named = about(done.attempt)
    number = str(named.get("workflow_id") or f"{named['repository']} {named['pipeline_id']}")
    target = done.target if done.platform == "gitlab" and done.what == "rerun" else "run"
    return done.platform, number, target, done.what


def _known_of(postgres: str, effects: Iterable[Effect]) -> dict[Effect, list[Any]]:
    """All that the ledger has of the runs of these."""
    query = (
        "SELECT a.*, h.* FROM guard.acts a JOIN guard.healing h USING (case_id) WHERE a.platform = %s"
        " AND coalesce(nullif(a.workflow_id, ''), a.repository || ' ' || a.pipeline_id) = %s"
    )
    with connect(postgres) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        return {effect: cursor.execute(query, effect[:2]).fetchall() for effect in effects}


def in_ledger(postgres: str, *states: str) -> Counter[Effect]:
    """Acts of the ledger that stand so."""
    query = (
        "SELECT platform, coalesce(nullif(workflow_id, ''), repository || ' ' || pipeline_id), target,"
        " CASE action WHEN 'cancel' THEN 'cancel' ELSE 'rerun' END FROM guard.acts WHERE state = ANY (%s)"
    )
    with connect(postgres) as connection:
        rows: list[Any] = connection.execute(query, [list(states)]).fetchall()
    return Counter(tuple(row) for row in rows)


def check(town: Town, postgres: str, client: Any, decided: Mapping[str, DecisionRow]) -> dict[str, int]:
    """Judge what healers left behind when all is over: no act twice, none lost; figures."""
    done, unknown, real = in_ledger(postgres, "done"), in_ledger(postgres, "unknown"), effects(town)
    twice = Counter({effect: count for effect, count in real.items() if count > 1})
    assert not twice, f"an act twice: {_known_of(postgres, twice)}"
    assert not done - real, f"the ledger says done of what was not: {_known_of(postgres, done - real)}"
    untold = real - done - unknown
    assert not untold, f"something was done that the ledger does not have: {_known_of(postgres, untold)}"
    counts = town.counts()
    assert (counts["twice"], counts["invalid_requests"]) == (0, 0), town.site.invalid
    with connect(postgres) as connection:
        cases: dict[str, str] = dict(connection.execute("SELECT case_id::text, state FROM guard.healing").fetchall())
        settled = connection.execute("SELECT act_id::text, state FROM guard.acts").fetchall()
    assert set(cases) == set(decided), "a case was lost"
    assert set(cases.values()) <= {"finished", "refused"}
    assert told(client) == Counter((act_id, state) for act_id, state in settled), "shards were told otherwise"
    return {"cases": len(cases), "acts": len(settled), "done": done.total(), "unknown": unknown.total()}
