"""How long the views take that people read, on a fleet's 90 days: a million failures, two million minutes and hours.

    python -m benchmarks.views

Fills a fresh PostgreSQL as it comes (64 MB of shared buffers, 4 MB to sort in), then asks each question three times
and prints a JSON line with the milliseconds of the median, and how many rows came. The fleet: a thousand repositories
with three jobs each, 22,000 hours of jobs and 11,000 failures a day.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from connectors.postgres import Connection, connect, migrate
from flows.embedded import EmbeddedPostgres

_PERIODS: Final = {"24 hours": ("minute", "hour"), "7 days": ("hour", "day")}
_ALL: Final = "SELECT * FROM guard.{view} WHERE {period} > now() - interval '{span}'"
_ONE: Final = _ALL + " AND repository = 'org7/repo7'"
_WORST: Final = """
SELECT repository, sum(failed), guard.duration_quantile(guard.sum_buckets(durations), 0.95)
FROM guard.{view} WHERE {period} > now() - interval '{span}' GROUP BY 1 ORDER BY 2 DESC LIMIT 10
"""
_TEN: Final = "SELECT * FROM guard.{view} ORDER BY {by} DESC LIMIT 10"
_WEEKLY: Final = {"flakiest_jobs": "flips", "most_expensive_failures": "minutes"}
_TIMES: Final = 3


def questions() -> dict[str, str]:
    """The questions by name: all rows and columns of each view in a time, and those of one repository or job."""
    asked = {}
    for span, periods in _PERIODS.items():
        of_span = [f"{of}_{period}s" for period in periods for of in ("platform", "signature", "repository")]
        for view in (*of_span, "job_hour_rates", "job_days", "time_to_green"):
            period = "hour" if "_hour" in view else "minute" if "_minute" in view else "day"
            asked[f"{view}, {span}"] = _ALL.format(view=view, period=period, span=span)
            if not view.startswith(("platform", "signature")):
                asked[f"{view} of one repository, {span}"] = _ONE.format(view=view, period=period, span=span)
        view, period = ("repository_hours", "hour") if span == "24 hours" else ("repository_days", "day")
        asked[f"the ten worst repositories, {span}"] = _WORST.format(view=view, period=period, span=span)
    return asked | {view: _TEN.format(view=view, by=by) for view, by in _WEEKLY.items()}


def fill(connection: Connection, *, rows: int, days: int) -> None:
    """Half as many failures as `rows`, and as many minutes and hours of jobs, up to now."""
    connection.execute("SET statement_timeout = 0")
    connection.execute("SELECT setseed(0.5)")
    parameters = {"rows": rows, "failures": rows // 2, "past": f"{days} days"}
    for statement in Path(__file__).with_suffix(".sql").read_bytes().split(b";\n"):
        connection.execute(statement, parameters)
    connection.execute("VACUUM ANALYZE")


def measure(connection: Connection, query: str) -> tuple[float, int]:
    """Milliseconds of the median of several times, rows fetched and all; and how many rows there were."""
    took = []
    rows = 0
    for _ in range(_TIMES):
        began = time.perf_counter()
        rows = len(connection.execute(query.encode()).fetchall())
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took), rows


def main() -> None:
    """Fill, ask, and print a line for each question."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="minutes, and hours of jobs; half as many failures")
    parser.add_argument("--days", type=int, default=90, help="over how many days they are spread")
    parser.add_argument("--seed", type=int, default=7, help="taken for the runner's sake: the rows are always the same")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="guard-views-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # PostgreSQL's own user must come through
        with EmbeddedPostgres(directory / "postgres", durable=False) as server:
            migrate(server.url)
            with connect(server.url) as connection:
                fill(connection, rows=args.rows, days=args.days)
                for question, query in questions().items():
                    took_ms, rows = measure(connection, query)
                    said = {"case": "views", "subject": question, "took_ms": round(took_ms, 1), "rows": rows}
                    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
