"""Run the cases, each in a process of its own, and keep one JSON line of each subject.

    python -m benchmarks.run                    all of them, as long as they take (about an hour)
    python -m benchmarks.run drain_json --quick one of them, small: to see that it works, not to be quoted

Lines go to benchmarks/results/<date and time>.jsonl; `python -m benchmarks.report` makes docs/benchmarks.md of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.rig import facts

RESULTS: Final = Path(__file__).parent / "results"


class Case(NamedTuple):
    """The arguments of one module, for a run that counts and for a quick one."""

    full: str
    quick: str


CASES: Final[Mapping[str, Case]] = {
    "drain_json": Case(
        "benchmarks.drain --encoding json --events 600000 --rounds 2",
        "benchmarks.drain --encoding json --events 20000",
    ),
    "drain_protobuf": Case(
        "benchmarks.drain --encoding pb --events 600000 --rounds 2",
        "benchmarks.drain --encoding pb --events 20000",
    ),
    "drain_packed": Case(
        "benchmarks.drain --encoding pbs --events 2000000 --rounds 2",
        "benchmarks.drain --encoding pbs --events 100000",
    ),
    "drain_detectors": Case(
        "benchmarks.drain --detectors --events 600000 --rounds 2",
        "benchmarks.drain --detectors --events 20000",
    ),
    "drain_detectors_usual": Case(
        "benchmarks.drain --detectors --failed-share 0.037 --events 600000 --rounds 2",
        "benchmarks.drain --detectors --failed-share 0.037 --events 20000",
    ),
    "latency_1000": Case("benchmarks.latency --rate 1000 --seconds 300", "benchmarks.latency --rate 1000 --seconds 20"),
    "latency_5000": Case("benchmarks.latency --rate 5000 --seconds 300", "benchmarks.latency --rate 5000 --seconds 20"),
    "latency_1000_rival": Case(
        "benchmarks.latency --subject rival --rate 1000 --seconds 300",
        "benchmarks.latency --subject rival --rate 1000 --seconds 20",
    ),
    "latency_5000_rival": Case(
        "benchmarks.latency --subject rival --rate 5000 --seconds 300",
        "benchmarks.latency --subject rival --rate 5000 --seconds 20",
    ),
    "receiver": Case("benchmarks.receiver_load --deliveries 30000", "benchmarks.receiver_load --deliveries 1000"),
    "logs": Case("benchmarks.log_speed", "benchmarks.log_speed --megabytes 2 --rounds 1 --growth 1"),
    "log_reading": Case(
        "benchmarks.log_reading --rate 50 --seconds 60 --readers 2",
        "benchmarks.log_reading --rate 10 --seconds 5 --readers 1",
    ),
    "heal_latency": Case(
        "benchmarks.heal_latency --rate 50 --seconds 60", "benchmarks.heal_latency --rate 10 --seconds 5"
    ),
    "outage": Case("benchmarks.outage", "benchmarks.outage --repositories 100 --outage 600 --pushes 0.5 --speed 30"),
    "views": Case("benchmarks.views", "benchmarks.views --rows 20000"),
    "archive": Case("benchmarks.archive_speed", "benchmarks.archive_speed --events 20000 --rounds 1"),
    "backtest": Case("benchmarks.backtest_speed --events 1000000", "benchmarks.backtest_speed --events 20000"),
    "repositories": Case("benchmarks.repositories", "benchmarks.repositories --repositories 100 1000 --events 20000"),
    "composite": Case("benchmarks.composite", "benchmarks.composite --backgrounds quiet --speeds 3600"),
    "snapshots": Case(
        "benchmarks.snapshots --repositories 100000 --minutes 35 --seconds 60",
        "benchmarks.snapshots --repositories 2000 --minutes 2 --seconds 6",
    ),
}


def lines(case: str, *, quick: bool, seed: int) -> Iterator[dict[str, Any]]:
    """What the case prints, one line after the other.

    Raises:
        subprocess.CalledProcessError: it failed; what it said stands on standard error.
    """
    words = (CASES[case].quick if quick else CASES[case].full).split()
    command = [sys.executable, "-m", *words, "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                print(line, end="", file=sys.stderr)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _summary(line: Mapping[str, Any]) -> str:
    names = (
        "events_per_second",
        "deliveries_per_second",
        "latency_ms",
        "ratio",
        "total_bytes",
        "total_snapshot_ms",
        "megabytes_per_second",
        "seconds",
        "peak_mib",
        "growth",
        "took_ms",
        "found",
        "missed",
        "of_twice",
        "drained_seconds",
    )
    shown = ", ".join(f"{name} {line[name]}" for name in names if name in line)
    return f"{line['case']} {line.get('subject', '')}: {shown}"


def unequal(found: Sequence[Mapping[str, Any]]) -> bool:
    """Whether JSON and Protocol Buffers of one workload left different rows."""
    digests: dict[int, set[str]] = {}
    for line in found:
        if line["case"] in {"drain_json", "drain_protobuf"} and "rows_digest" in line:
            digests.setdefault(line["total_events"], set()).add(line["rows_digest"])
    return any(len(some) > 1 for some in digests.values())


def main() -> None:
    """Run, print a line of each subject, and keep the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE", help="all of them, if none is named")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--to", type=Path, help="the file that takes the lines")
    args = parser.parse_args()
    now = datetime.now(UTC)
    target: Path = args.to or RESULTS / f"{now:%Y-%m-%d-%H%M%S}{'-quick' if args.quick else ''}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    about = facts() | {"run": now.isoformat(timespec="seconds"), "quick": args.quick}
    failed, found = [], []
    with target.open("a") as file:
        for case in args.cases or CASES:
            try:
                for line in lines(case, quick=args.quick, seed=args.seed):
                    print(_summary(line), flush=True)
                    found.append(line)
                    file.write(json.dumps(line | about) + "\n")
                    file.flush()
            except subprocess.CalledProcessError as error:
                failed.append(case)
                print(f"{case} failed: {error}", file=sys.stderr)
    print(f"kept in {target}")
    if unequal(found):
        failed.append("JSON and Protocol Buffers left different rows")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
