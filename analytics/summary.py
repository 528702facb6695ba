"""What was said, in numbers: of the tables that a backtest gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from analytics.past import Span
from analytics.side_by_side import in_force
from models.records.outputs import FindingState, IncidentState, Verdict

_SHOWN: Final = 3
_MOST: Final = 15
_DAY_MS: Final = 86_400_000
_STEPS_MINUTES: Final = (1, 5, 15, 60, 360, 1440)
_COLUMNS: Final = 96
"""About so many columns a chart over time has at most."""

Tables = Mapping[str, pl.LazyFrame]


def days(span: Span) -> float:
    """How long the events lasted."""
    return (span.last_ms - span.first_ms) / _DAY_MS


def per_day(count: int, span: Span) -> float | None:
    """So many a day; None where the events lasted for less than an hour."""
    return round(count / days(span), 3) if days(span) * 24 >= 1 else None


def failures(tables: Tables) -> dict[str, Any]:
    """How many failures, how they were explained, and by what."""
    told = tables["failures"].select("failure_id", "diagnosis", "signature", "category")
    read = tables["diagnoses"].select("failure_id", "diagnosis", "signature", "category")
    explained = told.join(read, on="failure_id", how="left", suffix="_read").select(
        pl.coalesce("diagnosis_read", "diagnosis").alias("diagnosis"),
        pl.when(pl.col("diagnosis_read").is_null()).then("signature").otherwise("signature_read").alias("signature"),
        pl.when(pl.col("diagnosis_read").is_null()).then("category").otherwise("category_read").alias("category"),
    )
    frame = explained.collect()
    return {
        "count": len(frame),
        "by_diagnosis": _counts(frame, "diagnosis"),
        "by_category": _counts(frame, "category"),
        "by_signature": _counts(frame, "signature"),
    }


def _counts(frame: pl.DataFrame, *by: str) -> dict[str, int]:
    """How often each value, the most frequent first; what is unknown is left out."""
    key = pl.concat_str(by, separator=": ").alias("key")
    counted = frame.lazy().select(key).drop_nulls().group_by("key").len().sort("len", "key", descending=[True, False])
    return {str(name): int(count) for name, count in counted.head(_MOST).collect().iter_rows()}


def decisions(tables: Tables) -> dict[str, Any]:
    """What is in force at the end, by verdict and reason, and how often a decision changed."""
    rows = tables["decisions"]
    last = in_force(rows).select("verdict", "reason").collect()
    besides = rows.filter(pl.col("because_of").is_not_null())
    asked = besides.filter(pl.col("verdict") == Verdict.ACT.value).select("action", "case_id").unique().collect()
    return {
        "cases": len(last),
        "revisions": rows.filter(pl.col("because_of").is_null()).select(pl.len()).collect().item(),
        "by_reason": _counts(last, "verdict", "reason"),
        "about_findings": _counts(asked, "action"),
    }


def findings(tables: Tables, span: Span, detectors: Sequence[str]) -> list[dict[str, Any]]:
    """What each detector found, in the order in which `detectors` names them."""
    told = tables["findings"].select(
        "detector", "finding_id", "revision", "state", "repository", "at", "shard", "position"
    )
    frame = told.sort("at", "shard", "position", "finding_id", "revision").collect()
    return [_of(frame.filter(pl.col("detector") == name), name, span, tables["findings"]) for name in detectors]


def _of(told: pl.DataFrame, name: str, span: Span, rows: pl.LazyFrame) -> dict[str, Any]:
    raised = told.filter(pl.col("state") == FindingState.RAISED.value)
    last = told.unique("finding_id", keep="last", maintain_order=True)
    return {
        "detector": name,
        "raised": len(raised),
        "standing": len(last.filter(pl.col("state") != FindingState.CLEARED.value)),
        "per_day": per_day(len(raised), span),
        "repositories": raised["repository"].n_unique(),
        "examples": _examples(raised.head(_SHOWN), rows),
    }


def _examples(first: pl.DataFrame, rows: pl.LazyFrame) -> list[dict[str, Any]]:
    """The findings in `first` with what is said of them; the texts of all are not read."""
    key = ("finding_id", "revision")
    words = rows.filter(pl.col("finding_id").is_in(first["finding_id"].to_list())).select(*key, "subject", "message")
    told = first.lazy().join(words, on=key, how="left", maintain_order="left")
    columns = told.select("at", "repository", "subject", "message").collect()
    return [{"at": _iso(at), "repository": r, "subject": s, "message": m} for at, r, s, m in columns.iter_rows()]


def _iso(at: Any) -> str:  # noqa: ANN401 - a datetime, which polars does not type
    return str(at.isoformat(timespec="seconds")).replace("+00:00", "Z")


def incidents(tables: Tables) -> list[dict[str, Any]]:
    """What befell many repositories at once, as it stood at the end, in the order in which it was found."""
    rows = tables["incidents"].sort("revision").collect()
    found: dict[str, dict[str, Any]] = {}
    for row in rows.iter_rows(named=True):
        known = found.setdefault(row["incident_id"], {"at": _iso(row["at"])})
        told = {name: row[name] for name in ("symptom", "dimension", "value", "repositories", "failures", "message")}
        over = row["state"] == IncidentState.CLOSED.value
        known |= {"began_at": _iso(row["began_at"]), "closed_at": _iso(row["at"]) if over else None, **told}
    return sorted(found.values(), key=lambda one: (one["at"], one["symptom"]))


def faults(tables: Tables) -> list[dict[str, Any]]:
    """Detectors that failed, with what they raised, how often, and the first subject and event that did it."""
    frame = tables["detector_faults"].sort("at", "shard", "position", "fault_id").collect()
    return [
        {
            "detector": detector,
            "error": error,
            "count": len(some),
            "first": {"at": _iso(some["at"][0]), **some.select("repository", "subject", "event_id").row(0, named=True)},
        }
        for (detector, error), some in sorted(frame.group_by("detector", "error"))
    ]


def dead_letters(tables: Tables) -> dict[str, int]:
    """Entries that could not be used, by reason."""
    return _counts(tables["dead_letters"].select("reason").collect(), "reason")


def over_time(tables: Tables, span: Span) -> dict[str, Any]:
    """Failures by event time and findings by the time they were raised, by step, for charts."""
    minutes = next(
        (m for m in _STEPS_MINUTES if (span.last_ms - span.first_ms) / (m * 60_000) <= _COLUMNS), _STEPS_MINUTES[-1]
    )
    step = minutes * 60_000
    first, end = span.first_ms // step, span.last_ms // step + 1
    raised = tables["findings"].filter(pl.col("state") == FindingState.RAISED.value)
    by_detector = raised.select("detector", _step(step, "at")).collect()
    return {
        "first_ms": first * step,
        "step_minutes": minutes,
        "failures": _series(tables["failures"].select(_step(step, "occurred_at")).collect(), first, end),
        "findings": {
            str(name): _series(some, first, end) for (name,), some in sorted(by_detector.group_by("detector"))
        },
    }


def _step(step_ms: int, name: str) -> pl.Expr:
    return (pl.col(name).dt.epoch("ms") // step_ms).alias("step")


def _series(frame: pl.DataFrame, first: int, end: int) -> list[int]:
    """How many in each step from `first` to before `end`; what is later counts in none."""
    counts = dict(frame.group_by("step").len().iter_rows())
    return [int(counts.get(step, 0)) for step in range(first, end)]
