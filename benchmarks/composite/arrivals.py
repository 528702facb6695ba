"""When jobs started: of a real project (job_stream.parquet), or drawn for tests."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

DATA: Final = Path(os.environ.get("GUARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
STREAM: Final = DATA / "job_stream.parquet"
_BEGIN_MS: Final = 1_723_656_000_000
"""14 August 2024, 17:20 UTC, about when the real ones began."""


class Arrival(NamedTuple):
    """A job that started: when (Unix ms), which, and whether it failed in the end."""

    at_ms: int
    job: str
    failed: bool


def read(path: Path = STREAM) -> list[Arrival]:
    """The real ones, in order of time."""
    stream = pl.read_parquet(path).sort("start_time", "job_id")
    columns = stream.select(pl.col("start_time").dt.epoch("ms"), "workflow", pl.col("conclusion") == "failure")
    return [Arrival(*row) for row in columns.iter_rows()]


def drawn(seed: int, *, jobs: int = 120, hours: float = 5.0, each: int = 40) -> list[Arrival]:
    """Starts of `jobs` jobs, `each` on average, the first far more often than the others; 3 % fail."""
    rng = random.Random(f"arrivals {seed}")
    names = [f"workflow-{number % 37:02} / job-{number:03}" for number in range(jobs)]
    weights = [jobs / 10, *(rng.expovariate(1) + 0.2 for _ in names[1:])]
    chosen = rng.choices(names, weights, k=jobs * each)
    starts = sorted(_BEGIN_MS + int(rng.random() * hours * 3_600_000) for _ in chosen)
    return [Arrival(at, job, rng.random() < 0.03) for at, job in zip(starts, chosen, strict=True)]  # noqa: PLR2004
