"""How fast the past is judged: a file of events through `guard backtest`, with all detectors, on all cores.

    python -m benchmarks.backtest_speed --events 1000000

One JSON line for each file: seconds from start to report, events a second, processes, and the memory of the largest
process, its own code and the compiled signatures included. Files are made once and kept; their events are those of
`workload.py`, which come 1000 a second, so that a million of them are a quarter of an hour, and ten a second, so that
they are 28 hours: what is done for each minute and hour then weighs more. A tenth of them shows whether memory grows.
One job in five fails; of the last file one in 27, as in the stream that was recorded (`composite`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from benchmarks.workload import FAILED_SHARE, Workload, events
from models.records.columns import EVENT_SCHEMA
from models.records.flat import from_lines
from models.records.payload import to_json

_GROUP: Final = 50_000
_USUAL: Final = 0.037
_FILES: Final = (
    ("parquet", 1000.0, 1, FAILED_SHARE),
    ("jsonl", 1000.0, 1, FAILED_SHARE),
    ("parquet", 10.0, 1, FAILED_SHARE),
    ("parquet", 10.0, 10, FAILED_SHARE),
    ("parquet", 10.0, 1, _USUAL),
)
"""Kind, events per second of stream time, which part of the events, and the share of the jobs that end failing."""
_FOLDER: Final = Path(tempfile.gettempdir()) / "pipeline-guard-workloads"


def written(workload: Workload, kind: str) -> Path:
    """The file of the events of `workload`, made where it is not there yet."""
    name = f"backtest-{workload.seed}-{workload.events}-{workload.rate:g}-{workload.failed_share:g}"
    path = _FOLDER / f"{name}.{kind}"
    if path.exists():
        return path
    _FOLDER.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{name}.half")
    if kind == "jsonl":
        with half.open("wb") as file:
            file.writelines(line + b"\n" for lines in _lines(workload) for line in lines)
    else:
        with pq.ParquetWriter(half, EVENT_SCHEMA, compression="zstd") as writer:
            for lines in _lines(workload):
                writer.write_batch(from_lines(lines)[0].select(EVENT_SCHEMA.names))
    return half.replace(path)


def _lines(workload: Workload) -> Iterator[list[bytes]]:
    stream = events(workload)
    while group := [to_json(event) for event in islice(stream, _GROUP)]:
        yield group


def measured(path: Path, workload: Workload) -> dict[str, Any]:
    """What one backtest of `path` took, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="guard-bench-") as folder:
        command = [sys.executable, "-c", _COMMAND, "backtest", str(path), "--to", folder, "--rulebook", "shipped"]
        began, before = time.monotonic(), os.times()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, after = time.monotonic() - began, os.times()
        report = json.loads(Path(folder, "report.json").read_text())
    assert report["input"]["events"] == workload.events, report["input"]
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "case": "backtest",
        "subject": f"{path.suffix.removeprefix('.')} of {workload.rate:g} events/s"
        + (", usual failures" if workload.failed_share == _USUAL else ""),
        "failed_share": workload.failed_share,
        "total_events": workload.events,
        "seconds": round(seconds, 2),
        "events_per_second": round(workload.events / seconds),
        "cpu_us_an_event": round(cpu / workload.events * 1e6, 2),
        "processes": len(os.sched_getaffinity(0)),
        "peak_mib": int(done.stderr.rpartition(" MiB")[0].rpartition(" ")[2]),
        "findings": sum(one["raised"] for one in report["said"][0]["findings"]),
        "detectors": len(report["said"][0]["findings"]),
    }


_COMMAND: Final = "import sys; from flows.cli import main; sys.exit(main())"


def main() -> None:
    """Measure all files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    for kind, rate, part, failed_share in _FILES:
        workload = Workload(args.events // part, seed=args.seed, rate=rate, failed_share=failed_share)
        print(json.dumps(measured(written(workload, kind), workload)), flush=True)


if __name__ == "__main__":
    main()
