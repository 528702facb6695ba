"""What the flow resumes from: a lost store is noticed, another number of workers is not, nothing is written over."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import pytest

from connectors.postgres import connect, read_progress
from flows.embedded import free_ports
from flows.supervise import HOPELESS
from tests.contracts import oracle
from tests.faults.harness import Flow, Ground, changed, spawn, story
from tests.helpers import wait_until

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]


def drained(ground: Ground, **more: object) -> None:
    """Run a flow to the end of the streams."""
    with Flow(ground, **more) as flow:  # type: ignore[arg-type]  # as Flow takes them
        ground.drain(flow)


def test_a_lost_recovery_directory_is_refused_and_from_progress_goes_on_without_writing_over(
    ground: Ground, rng: random.Random
) -> None:
    ground.variables |= changed(RepeatedFailure={"threshold": 2})
    entries = story(rng.randrange(1 << 30), hours=0.5)
    middle = len(entries) // 2
    ground.publish(entries[:middle])
    drained(ground)
    ground.check().must_be_exact()
    with connect(ground.postgres_url) as connection:
        before, progress = oracle.stored(connection), read_progress(connection)
    shutil.rmtree(ground.recovery)
    ground.publish(entries[middle:])

    with Flow(ground) as flow:
        assert flow.wait() == HOPELESS
        assert len(flow.births) == 1, "it was started again although that does not help"
        (line,) = [line for line in flow.words().splitlines() if "--from-progress" in line]
        assert str(ground.recovery) in line
        assert "Traceback" not in flow.words()

    drained(ground, arguments=["--from-progress"])
    drained(ground)  # the new store is one like any other
    anew = {shard: oracle.Start(p.position, p.stream_ms, p.rulebook) for shard, p in progress.items()}
    ground.check(anew=anew).must_be_exact()
    with connect(ground.postgres_url) as connection:
        after = oracle.stored(connection)
    for table, rows in before.items():
        there = {tuple(row[key] for key in oracle.KEYS[table]): row for row in after[table]}
        assert [there[tuple(row[key] for key in oracle.KEYS[table])] for row in rows] == rows
    stream = {shard: p.stream_ms for shard, p in progress.items()}
    newer = [row for row in after["aggregates"] if row not in before["aggregates"]]
    assert newer
    assert all(row["minute"].timestamp() * 1000 >= stream[row["shard"]] for row in newer), "a straddled minute"


def test_another_number_of_workers_at_each_start_changes_no_row(ground: Ground, rng: random.Random) -> None:
    entries = story(rng.randrange(1 << 30), hours=0.4)
    parts = [entries[i * len(entries) // 4 : (i + 1) * len(entries) // 4] for i in range(4)]
    for part, processes in zip(parts, (1, 2, 3, 1), strict=True):
        ground.publish(part[: len(part) // 2])
        with Flow(ground, processes=processes, flow__snapshot_seconds=0.3) as flow:
            flow.first_output()
            ground.publish(part[len(part) // 2 :])
            ground.drain(flow)
            flow.kill(rng)
    drained(ground)
    ground.check().must_be_exact()


def run_by_bytewax(ground: Ground, *arguments: str) -> subprocess.Popen[bytes]:
    """The flow as every Bytewax user starts one."""
    command = [sys.executable, "-m", "bytewax.run", "flows.heal:flow", *arguments]
    with (ground.directory / "bytewax.log").open("ab") as log:
        return spawn(command, ground.environment(flow__metrics_port=free_ports()), log)


def test_bytewax_run_makes_its_store_and_resumes_from_it(ground: Ground, rng: random.Random) -> None:
    entries = story(rng.randrange(1 << 30), hours=0.3)
    for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
        ground.publish(part)
        process = run_by_bytewax(ground, "-r", str(ground.recovery), "-s", "1", "-b", "0")
        try:
            target = ground.lengths()

            def reached(target: dict[int, int] = target, process: subprocess.Popen[bytes] = process) -> bool:
                assert process.poll() is None, (ground.directory / "bytewax.log").read_text()[-2000:]
                ground.beat(range(12))
                return all(ground.reached().get(shard, 0) >= count for shard, count in target.items())

            wait_until(reached, within=60, what="the streams' end")
        finally:
            process.kill()
            process.wait()
    assert ground.recovery.stat().st_mode & 0o077 == 0
    ground.check().must_be_exact()


def test_bytewax_run_without_a_store_is_refused(ground: Ground) -> None:
    process = run_by_bytewax(ground)
    assert process.wait(60) != 0
    assert "flow.recovery_dir" in (ground.directory / "bytewax.log").read_text()
    assert ground.lengths() == dict.fromkeys(range(12), 0), "nothing is appended by a flow that does not start"
