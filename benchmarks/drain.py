"""How fast a full log is worked off into PostgreSQL: our flow, its limits and its rival, one after another on one log.

    python -m benchmarks.drain --encoding json --events 200000 --rounds 1

Prints one JSON line for each subject and round. Each subject is a fresh process (or two) with a fresh database. Ours
and the rival are judged by the same thing: the position that stands in guard.progress, in the transaction of the rows.
Time runs from the first progress to the last, so that starting up is no part of it; the whole time is given beside it.
What stands in PostgreSQL afterwards is compared with what the workload must give, and our own rows with one another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import psycopg

from benchmarks import oracle
from benchmarks.rig import LIKE_RIVAL, Rig, asking, difference, environment, in_force, preload, rig
from benchmarks.workload import FAILED_SHARE, Planned, Workload, cached
from models.records.entry import Encoding
from models.records.event import SHARDS

_POLL_SECONDS: Final = 0.02
_PATIENCE_SECONDS: Final = 900.0
_PER_ENTRY: Final = 1000  # events of a packed entry
_PROGRESS: Final = (
    "SELECT shard, position, extract(epoch FROM updated_at)::float8 FROM guard.progress WHERE position > 0"
)


@dataclass(frozen=True, slots=True)
class Task:
    """A log that is to be worked off: `ends` are the positions of the last entries by shard, `rules` the rulebook's."""

    workload: Workload
    encoding: Encoding
    ends: Mapping[int, int]
    expected: oracle.Expected
    rules: Mapping[str, str]


class WrongRowsError(AssertionError):
    """A subject finished, and what stands in PostgreSQL is not what the workload must give."""


def watch(database: str, task: Task, processes: Sequence[subprocess.Popen[bytes]], servers: Rig) -> dict[str, Any]:
    """Wait until every shard has come to its end; what it took."""
    began = time.time()
    first = start = (began, 0, servers.cpu(processes))
    with psycopg.connect(database, autocommit=True) as connection:
        while time.time() < began + _PATIENCE_SECONDS:
            rows = connection.execute(_PROGRESS).fetchall()
            positions = {shard: position for shard, position, _ in rows}
            done = all(positions.get(shard, 0) >= end for shard, end in task.ends.items())
            if rows and first is start and not done:
                first = (max(at for *_, at in rows), sum(positions.values()), servers.cpu(processes))
            if done:
                return _measured(began, first, max(at for *_, at in rows), servers.cpu(processes), task)
            if any(process.poll() is not None for process in processes):
                raise SystemExit(f"a process ended before the log did: {[process.poll() for process in processes]}")
            time.sleep(_POLL_SECONDS)
    raise SystemExit("the log was not worked off in time")


def _measured(
    began: float, first: tuple[float, int, dict[str, float]], ended: float, cpu: dict[str, float], task: Task
) -> dict[str, Any]:
    at, before, cpu_before = first  # all of it, where the log was worked off before anybody looked
    entries = sum(task.ends.values())
    events = round(task.workload.events * (entries - before) / entries)
    seconds = max(ended - at, 1e-9)
    spent = difference(cpu, cpu_before)
    return {
        "events": events,
        "seconds": round(seconds, 3),
        "events_per_second": round(events / seconds),
        "from_first_progress": before > 0,
        "total_events": task.workload.events,
        "total_seconds": round(ended - began, 3),
        "cpu_seconds": spent,
        "cpu_us_per_event": {name: round(value / events * 1e6, 2) for name, value in spent.items()},
        "cpu_seconds_in_all": cpu["ours"],
    }


@contextmanager
def running(
    commands: Sequence[Sequence[str]], environ: Mapping[str, str] | None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of Python that run until the end of the block, and are killed there."""
    processes = [subprocess.Popen([sys.executable, *command], env=environ, stdout=sys.stderr) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def flow(servers: Rig, task: Task, *, processes: int) -> dict[str, Any]:
    """Our dataflow."""
    database = servers.fresh_database()
    recovery = servers.directory / f"recovery-{servers.databases}"
    in_force(database, task.rules)
    environ = environment(servers.valkey.url, database, recovery, processes=processes, rules=task.rules)
    commands = [["-m", "flows.worker", "--process", str(number)] for number in range(processes)]
    with running(commands, environ) as started:
        said = watch(database, task, started, servers)
    return said | _judged(database, task) | {"rows_digest": oracle.digest(database)}


def rival(servers: Rig, task: Task, *, processes: int) -> dict[str, Any]:
    """The plain loop."""
    database = servers.fresh_database()
    in_force(database, task.rules)
    shards = [",".join(str(s) for s in range(SHARDS) if s % processes == i) for i in range(processes)]
    where = ["--redis", servers.valkey.url, "--postgres", database]
    commands = [["-m", "benchmarks.rival", *where, "--shards", some] for some in shards]
    with running(commands, None) as started:
        said = watch(database, task, started, servers)
    return said | _judged(database, task)


def _judged(database: str, task: Task) -> dict[str, Any]:
    found = oracle.found(database)
    if found != task.expected:
        raise WrongRowsError(f"expected {task.expected}, found {found}")
    return {"rows": asdict(found)}


def limit(servers: Rig, task: Task, *, what: str) -> dict[str, Any]:
    """A bare reader."""
    command = [sys.executable, "-m", "benchmarks.limits", what]
    command += ["--socket", str(servers.valkey.socket_path), "--encoding", task.encoding]
    before = servers.cpu()
    done = subprocess.run(command, check=True, capture_output=True)
    said = json.loads(done.stdout)
    spent = difference(servers.cpu(), before)
    if said["entries"] != sum(task.ends.values()) or said["events"] not in {0, task.workload.events}:
        raise WrongRowsError(f"expected {task.workload.events} events, found {said}")
    spent = {"ours": said["own_cpu"], **spent}
    events = task.workload.events
    return {
        "events": events,
        "seconds": said["seconds"],
        "events_per_second": round(events / said["seconds"]),
        "cpu_seconds": spent,
        "cpu_us_per_event": {name: round(value / events * 1e6, 2) for name, value in spent.items()},
    }


def subjects(servers: Rig, task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """One round: every subject by name, with what was measured."""
    yield "xread", limit(servers, task, what="xread")
    yield "xread_decode", limit(servers, task, what="xread_decode")
    for processes in (1, 2):
        yield f"flow_{processes}", flow(servers, task, processes=processes)
        if task.encoding is Encoding.JSON:
            yield f"rival_{processes}", rival(servers, task, processes=processes)


def _detectors(
    servers: Rig, workload: Workload, expected: oracle.Expected, log: Callable[[], Iterable[Planned]], rounds: int
) -> Iterator[dict[str, Any]]:
    """The flow without any detector and with all of them, in turn, each on a log that begins with its rulebook."""
    for number in range(rounds):
        without = 0
        for subject, rules in (("none", asking(())), ("all", {})):
            ends = preload(servers.valkey.url, log(), rules)
            said = flow(servers, Task(workload, Encoding.JSON, ends, expected, rules), processes=1)
            without = without or said["events_per_second"]
            ratio = {"to_none": round(said["events_per_second"] / without, 3)}
            about = {"failed_share": workload.failed_share, "round": number}
            yield {"case": "drain_detectors", "subject": subject, **said, "ratio": ratio, **about}


def _ratios(encoding: Encoding, measured: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines of one round, each with its ratios to what was measured in the same round."""
    per_second = {name: said["events_per_second"] for name, said in measured.items()}
    for name, said in measured.items():
        processes = name[-1] if name[-1].isdigit() else "1"
        ratio = {"to_limit": round(per_second[name] / per_second["xread_decode"], 3)}
        if name.startswith("flow") and f"rival_{processes}" in measured:
            ratio["to_rival"] = round(per_second[name] / per_second[f"rival_{processes}"], 3)
        if name.endswith("_2"):
            ones = measured[f"{name[:-2]}_1"]["cpu_us_per_event"]["ours"]
            ratio["cpu_to_one_process"] = round(said["cpu_us_per_event"]["ours"] / ones, 3)
        yield {"case": f"drain_{encoding.name.lower()}", "subject": name, **said, "ratio": ratio}


def main() -> None:
    """Measure, and print one JSON line for each subject and round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--encoding", type=Encoding, default=Encoding.JSON)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--repositories", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--detectors", action="store_true", help="ours alone, with all detectors and with none")
    parser.add_argument("--failed-share", type=float, default=FAILED_SHARE, help="of the jobs that end")
    args = parser.parse_args()
    workload = Workload(args.events, seed=args.seed, repositories=args.repositories, failed_share=args.failed_share)
    expected = oracle.expected(workload)
    with rig() as servers:
        log = partial(cached, workload, args.encoding, per_entry=_PER_ENTRY)
        if args.detectors:
            for line in _detectors(servers, workload, expected, log, args.rounds):
                print(json.dumps(line | {"seed": args.seed}), flush=True)
            return
        ends = preload(servers.valkey.url, log(), LIKE_RIVAL)
        task = Task(workload, args.encoding, ends, expected, LIKE_RIVAL)
        digests: set[str] = set()
        for number in range(args.rounds):
            measured = dict(subjects(servers, task))
            digests |= {said["rows_digest"] for said in measured.values() if "rows_digest" in said}
            if len(digests) > 1:
                raise WrongRowsError(f"our own rows differ from run to run: {sorted(digests)}")
            for line in _ratios(args.encoding, measured):
                print(json.dumps(line | {"round": number, "seed": args.seed}), flush=True)


if __name__ == "__main__":
    main()
