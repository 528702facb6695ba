from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import report
from benchmarks.latency import histogram, quantiles
from benchmarks.limits import decoder
from benchmarks.rig import cpu_seconds
from benchmarks.run import CASES, lines, unequal
from benchmarks.sender import at_its_time
from benchmarks.snapshots import costs, fill, parts
from benchmarks.workload import Workload, entries
from models.records.entry import HEADER_BYTES, Encoding
from models.records.payload import from_json


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("run") / "quick.jsonl"
    command = [sys.executable, "-m", "benchmarks.run", "drain_json", "--quick", "--to", str(target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return target


def test_a_quick_drain_gives_a_line_of_each_subject(quick: Path) -> None:
    found = [json.loads(line) for line in quick.read_text().splitlines()]
    assert [line["subject"] for line in found] == ["xread", "xread_decode", "flow_1", "rival_1", "flow_2", "rival_2"]
    for line in found:
        assert line["events_per_second"] > 0
        assert set(line["cpu_seconds"]) == {"ours", "redis", "postgresql"}
        assert {"case", "events", "seconds", "ratio", "seed", "python", "packages", "cpu", "cores", "revision"} <= set(
            line
        )


def test_a_report_of_a_run_shows_every_target(quick: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.report", str(quick), "--to", str(tmp_path)], check=True)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "to the plain loop in one process" in page
    assert "not to be quoted" in page
    assert (tmp_path / "benchmarks.svg").read_text().count("<svg") == 1


def test_a_case_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "snapshots", CASES["snapshots"]._replace(quick="benchmarks.no_such_case"))
    with pytest.raises(subprocess.CalledProcessError):
        list(lines("snapshots", quick=True, seed=1))


def test_rows_that_depend_on_the_encoding_are_an_error() -> None:
    one = _line("drain_json", "flow_1", total_events=5, rows_digest="a")
    other = _line("drain_protobuf", "flow_1", total_events=5, rows_digest="b")
    assert unequal([one, other])
    assert not unequal([one, {**other, "total_events": 6}, {**one, "case": "drain_protobuf"}])


def _line(case: str, subject: str, **given: Any) -> dict[str, Any]:
    return {"case": case, "subject": subject, **given}


def test_ratios_are_medians_of_the_rounds_and_targets_say_whether_they_were_reached() -> None:
    rounds = [_line("drain_json", "flow_1", ratio={"to_limit": r}, events_per_second=10) for r in (0.2, 0.6, 0.55)]
    found = {t.text: t for t in report.targets(report.Lines(rounds))}
    target = found["drain of JSON, one process, to XREAD and columnar decode"]
    assert (target.measured, target.reached) == (0.55, True)
    assert found["signed deliveries a second, every append fsynced"].reached is None


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_limit_decodes_every_event(encoding: Encoding) -> None:
    planned = list(entries(Workload(300, repositories=20), encoding))
    assert decoder(encoding)([entry.value[HEADER_BYTES:] for entry in planned]) == 300


def test_an_event_is_sent_with_the_time_at_which_it_was_due() -> None:
    payload = next(iter(entries(Workload(1), Encoding.JSON))).value[HEADER_BYTES:]
    before, after = from_json(payload), from_json(at_its_time(payload, 1_800_000_000_123))
    assert round(after.timestamp.timestamp() * 1000) == 1_800_000_000_123
    assert after.id == before.id
    assert after.metadata == before.metadata


def test_filled_shards_have_read_everything_and_are_measured_alike() -> None:
    filled = fill(Workload(3000, repositories=40, open_runs=100))
    said = costs(filled)
    assert said["total_bytes"] == sum(len(shard.snapshot()) for shard in filled)
    assert len({shard.stream_ms for shard in filled if shard.position}) > 1
    assert {"cases", "histories"} <= parts(filled[0].snapshot()).keys()


def test_percentiles_come_from_raw_samples() -> None:
    samples = np.arange(1.0, 1001.0)
    assert quantiles(samples) == {"p50": 501.0, "p95": 951.0, "p99": 991.0, "max": 1000.0}
    assert histogram(np.array([0.5, 1.0, 99.0, 20000.0])) == {"<1": 1, "<2": 1, "<100": 1, ">=10000": 1}


def test_the_time_of_children_is_counted() -> None:
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent = cpu_seconds(process.pid)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        subprocess.run(["kill", *children], check=True)
    assert spent >= 0.3
    assert cpu_seconds(process.pid) == 0.0
