"""What the detectors find in a composite, offline and live at many times its speed: `python -m benchmarks.composite`.

One JSON line for each background of failures (runs.py) through `guard backtest`, and for each speed through the live
flow on real servers, whose rows must be those of the backtest of the same entries.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.composite import arrivals, live
from benchmarks.composite.arrivals import Arrival
from benchmarks.composite.judging import backtest, compose, summary, write
from benchmarks.composite.runs import Background
from benchmarks.rig import rig


def offline(starts: list[Arrival], background: Background, seed: int) -> dict[str, Any]:
    """One composite through `guard backtest`."""
    composite = compose(starts, background, seed=seed)
    with tempfile.TemporaryDirectory(prefix="guard-composite-") as name:
        folder = Path(name)
        report = backtest(*write(composite, folder), folder / "out")
        return summary(composite, folder / "out", report)


def main() -> None:
    """Measure, and print the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backgrounds", nargs="*", type=Background, default=list(Background))
    parser.add_argument("--speeds", nargs="*", type=float, default=[60.0, 600.0])
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    if not arrivals.STREAM.is_file():
        print(f"composite: skipped; {arrivals.STREAM} is not there, GUARD_DATA says where it is", file=sys.stderr)
        return
    starts = arrivals.read()
    for background in args.backgrounds:
        line = offline(starts, background, args.seed)
        _tell(f"backtest_{background.value}", args.seed, line)
    if not args.speeds:
        return
    composite = compose(starts, Background.STREAM, seed=args.seed)
    due = live.entries(composite)
    with rig() as servers:
        for speed in args.speeds:
            _tell(f"live_{speed:g}", args.seed, live.measure(servers, composite, due, speed))


def _tell(subject: str, seed: int, line: dict[str, Any]) -> None:
    print(json.dumps({"case": "composite", "subject": subject, "seed": seed, **line}), flush=True)


if __name__ == "__main__":
    main()
