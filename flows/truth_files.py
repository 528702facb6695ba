"""What really happened, from a file: Parquet, CSV or JSON lines, a row each.

kind         a detector's name, or "incident"
begins_at    when it began; ends_at when it ended, where it did; times in RFC 3339, or as times in Parquet
repository, instance, workflow, job_name, signature, ...   what is known of its subject; empty: not known
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from analytics.truth import INCIDENT, Truth
from models.records.errors import InputError

_NEEDED: Final = ("kind", "begins_at")


def read(path: Path, detectors: Collection[str]) -> list[Truth]:
    """The truths in `path`, which may speak of `detectors` and of incidents.

    Raises:
        InputError: it cannot be read, or a row is no truth; file, row and column are named.
    """
    try:
        frame = _read(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise InputError(f"{path}: no column {', '.join(map(repr, missing))}")
    kinds = {*detectors, INCIDENT}
    return [_truth(f"{path}: row {number}", row, kinds) for number, row in enumerate(frame.iter_rows(named=True), 1)]


def _read(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    return pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_ndjson(path)


def _truth(where: str, row: Mapping[str, Any], kinds: Collection[str]) -> Truth:
    kind = row["kind"]
    if kind not in kinds:
        raise InputError(f"{where}: kind {kind!r} is none of {', '.join(sorted(kinds))}")
    begins, ends = (_milliseconds(where, name, row.get(name)) for name in ("begins_at", "ends_at"))
    if begins is None:
        raise InputError(f"{where}: begins_at is empty")
    if ends is not None and ends < begins:
        raise InputError(f"{where}: ends_at lies before begins_at")
    subject = {
        name: value
        for name, value in row.items()
        if name not in {"kind", "begins_at", "ends_at"} and value not in {None, ""}
    }
    return Truth(kind, subject, begins, ends)


def _milliseconds(where: str, name: str, value: object) -> int | None:
    if value in {None, ""}:
        return None
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise InputError(f"{where}: {name} {value!r} is no time in RFC 3339") from None
    if at.tzinfo is None:
        raise InputError(f"{where}: {name} {value!s} has no time zone; write a Z behind it for UTC")
    return round(at.astimezone(UTC).timestamp() * 1000)
