"""What the notebook draws. Times are UTC, whatever the browser's."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import altair as alt
import polars as pl

from models.records.duration import duration_text

MOST: Final = 15
"""Rows of a chart that names things."""
_WIDTH: Final = 700
_COLOURS: Final = alt.Scale(scheme="tableau10")
_RED: Final = "#d62728"
_STEPS: Final = {
    timedelta(days=2): timedelta(minutes=15),
    timedelta(days=15): timedelta(hours=1),
    timedelta(days=90): timedelta(hours=6),
}
"""How long the stretches are in which failures are counted, by how much there is to show."""


def _time(name: str) -> alt.X:
    axis = alt.Axis(format="%d %b %H:%M", labelOverlap=True, labelAngle=0)
    return alt.X(f"{name}:T", title=None, scale=alt.Scale(type="utc"), axis=axis)


def over_time(failures: pl.DataFrame, incidents: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Failures by what kind of cause they have, and incidents of the fleet behind them."""
    at = failures["occurred_at"].dt.epoch("ms")
    span = timedelta(milliseconds=int(at.max() or 0) - int(at.min() or 0))  # type: ignore[arg-type]  # they are numbers
    step = next((step for most, step in _STEPS.items() if span < most), timedelta(days=1))
    counted = failures.group_by(
        pl.col("occurred_at").dt.truncate(step).alias("at"), pl.col("category").fill_null("not known")
    ).len("failures")
    bars = (
        alt.Chart(counted)
        .mark_bar(width=max(1.5, 0.9 * _WIDTH / (span / step + 2)))
        .encode(
            x=_time("at"),
            y=alt.Y("failures:Q", title=f"failures in {duration_text(step)}"),
            color=alt.Color("category:N", scale=_COLOURS, title="kind of cause"),
            tooltip=[alt.Tooltip("at:T", format="%d %b %H:%M"), "category:N", "failures:Q"],
        )
    )
    spans = (
        alt.Chart(incidents.select("symptom", "message", at="began_at", until="last_at"))
        .mark_rect(color=_RED, opacity=0.35, stroke=_RED)
        .encode(x=_time("at"), x2="until:T", tooltip=["symptom:N", "message:N"])
    )
    return alt.layer(spans, bars).properties(width=_WIDTH, height=220)


def signatures(failures: pl.DataFrame) -> alt.Chart:
    """The causes that most failures have."""
    counted = (
        failures.group_by(pl.col("signature").fill_null("no signature"), pl.col("category").fill_null("not known"))
        .agg(failures=pl.len(), repositories=pl.col("repository").n_unique())
        .top_k(MOST, by="failures")
    )
    chart: alt.Chart = (
        alt.Chart(counted)
        .mark_bar()
        .encode(
            x=alt.X("failures:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("signature:N", sort="-x", title=None),
            color=alt.Color("category:N", scale=_COLOURS, title="kind of cause"),
            tooltip=["signature:N", "category:N", "failures:Q", "repositories:Q"],
        )
        .properties(width=_WIDTH - 100, height=alt.Step(20))
    )
    return chart


def durations(events: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """How long the jobs take that cost most: the middle half of their runs, the median and the 95th percentile."""
    took = pl.col("duration_ms") / 60_000
    jobs = (
        events.filter(pl.col("job_name").is_not_null() & pl.col("duration_ms").is_not_null())
        .group_by(job=pl.concat_str("repository", "job_name", separator=" "))
        .agg(*(took.quantile(p / 100).alias(f"p{p}") for p in (25, 50, 75, 95)), runs=pl.len(), total=took.sum())
        .top_k(MOST, by="total")
    )
    told = [alt.Tooltip(f"p{p}:Q", format=".1f", title=f"p{p}, minutes") for p in (25, 50, 75, 95)]
    order = alt.EncodingSortField("total", order="descending")
    base = alt.Chart(jobs).encode(
        y=alt.Y("job:N", sort=order, title=None), tooltip=[alt.Tooltip("job:N"), alt.Tooltip("runs:Q"), *told]
    )
    middle = base.mark_bar(height=10, opacity=0.5).encode(x=alt.X("p25:Q", title="minutes"), x2="p75:Q")
    median = base.mark_tick(thickness=2, height=14, color="#1f3b57").encode(x="p50:Q")
    tail = base.mark_point(shape="diamond", color=_RED).encode(x="p95:Q")
    return alt.layer(middle, median, tail).properties(width=_WIDTH, height=alt.Step(20))


def when_found(findings: pl.DataFrame) -> alt.Chart:
    """When each detector said something."""
    chart: alt.Chart = (
        alt.Chart(findings.select("at", "detector", "repository", "message"))
        .mark_tick(thickness=2, height=14)
        .encode(
            x=_time("at"),
            y=alt.Y("detector:N", title=None),
            color=alt.Color("detector:N", legend=None, scale=_COLOURS),
            tooltip=[alt.Tooltip("at:T", format="%d %b %H:%M"), "detector:N", "repository:N", "message:N"],
        )
        .properties(width=_WIDTH, height=alt.Step(20))
    )
    return chart


def before_and_after(counts: pl.DataFrame) -> alt.Chart:
    """How many findings each detector raised with both sets of rules."""
    sides = ["before", "after"]
    chart: alt.Chart = (
        alt.Chart(counts.unpivot(index="detector", variable_name="rules", value_name="findings"))
        .mark_bar()
        .encode(
            x=alt.X("findings:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("detector:N", title=None),
            yOffset=alt.YOffset("rules:N", sort=sides),
            color=alt.Color("rules:N", scale=alt.Scale(domain=sides, range=["#9ecae1", "#e6550d"]), title="rules"),
            tooltip=["detector:N", "rules:N", "findings:Q"],
        )
        .properties(width=_WIDTH - 100)
    )
    return chart
