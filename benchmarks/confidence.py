"""Whether the confidence that `guard explain` tells is kept: `python -m benchmarks.confidence [--logs FILE]`.

Reads ../shared/data/ci_logs.parquet (GUARD_DATA says where else) or any Parquet file with `log`, `repository` and
`cause`, explains each log as `guard explain` does, and prints for each confidence told how often the category was the
labelled one: over all logs, and as the mean over repositories, since logs of one repository resemble each other. The
labels are silver: some are wrong, which makes the share seem too low, and the patterns' authors have read some of these
logs, which makes it seem too high.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from analytics.account import account
from analytics.logs.analyse import Analysis
from analytics.signatures.catalogue import Catalogue, shipped
from benchmarks.quality import SILVER
from models.records.evidence import Evidence, Reading


class Told(NamedTuple):
    """What was told of one labelled log."""

    repository: str
    confidence: float
    right: bool


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confidence", description=__doc__)
    parser.add_argument("--logs", type=Path, help="a Parquet file; ci_logs of the shared data if not said")
    path = parser.parse_args().logs or Path(os.environ.get("GUARD_DATA", "../shared/data")) / "ci_logs.parquet"
    if not path.is_file():
        raise SystemExit(f"{path}: not there; GUARD_DATA says where the shared data is, --logs names another file")
    labelled = pl.read_parquet(path).filter(pl.col("cause").is_not_null()).to_dicts()
    catalogue = Catalogue(shipped())
    told = [found for row in labelled if (found := explained(row, catalogue))]
    print(f"{len(told)} of {len(labelled)} labelled logs explained")
    print("confidence   logs  right  repositories  right, mean of repositories")
    for confidence, logs, right, repositories, mean in measured(told):
        print(f"{confidence:10.3f} {logs:6} {right:6.3f} {repositories:13} {mean:28.3f}")


def explained(row: Mapping[str, Any], catalogue: Catalogue) -> Told | None:
    """What is told of one log; None where nothing explains it."""
    analysis = Analysis(find=catalogue.find)
    analysis.feed(str(row["log"]).encode())
    about = dict.fromkeys(("event_id", "instance", "repository", "pipeline_id", "job_id"), "")
    found = account(catalogue, "any", (), Evidence(**about, attempt=1, reading=Reading.READ, **analysis.finish()))
    match = found.proof.match
    if match is None or found.confidence is None:
        return None
    return Told(row["repository"], found.confidence, SILVER[match.signature.category] == row["cause"])


def measured(told: list[Told]) -> Iterator[tuple[float, int, float, int, float]]:
    """For each confidence: logs, share that is right, repositories, and the mean of their shares."""
    for confidence in sorted({it.confidence for it in told}):
        here = [it for it in told if it.confidence == confidence]
        by_repository: dict[str, list[bool]] = defaultdict(list)
        for it in here:
            by_repository[it.repository].append(it.right)
        shares = [sum(rights) / len(rights) for rights in by_repository.values()]
        yield confidence, len(here), sum(it.right for it in here) / len(here), len(shares), sum(shares) / len(shares)


if __name__ == "__main__":
    main()
