"""What failed, what was found, and what other parameters would have made of it. Needs no server.

    marimo edit analytics/notebooks/explore.py                        the sample, to begin with
    marimo edit analytics/notebooks/explore.py -- --events archive/   an archive, Parquet or JSON lines

`marimo run` shows it without the code.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Pipeline Guard: explore")

with app.setup:
    from collections.abc import Mapping
    from typing import Any

    import marimo as mo
    import polars as pl

    from analytics.backtest import replay
    from analytics.notebooks import charts, reading, trying
    from analytics.rulebook import compose
    from models.records.errors import ConfigError, InputError

    SECONDS = pl.col("at").dt.strftime("%F %T")


@app.cell(hide_code=True)
def _():
    mo.md("""
    # What failed, and what the guard makes of it

    Events of the past go through the code that judges the present. Change a parameter further down and see what moves.
    """)
    return


@app.cell(hide_code=True)
def _():
    path_field = mo.ui.text(
        value=str(mo.cli_args().get("events") or ""),
        placeholder="the sample; or the path of an archive, Parquet or JSON lines",
        label="Events",
        full_width=True,
    )
    days_field = mo.ui.number(start=1, stop=366, value=31, label="Last days")
    mo.hstack([path_field, days_field], widths=[3, 1])
    return days_field, path_field


@app.cell(hide_code=True)
def _(days_field, path_field):
    path, last_days = path_field.value.strip(), days_field.value
    return last_days, path


@app.cell(hide_code=True)
def _(last_days, path):
    try:
        read = reading.read(path, last_days=last_days)
    except InputError as error:
        read = None
        problem = mo.callout(mo.md(f"**Nothing to show.** {error}"), kind="danger")
    mo.stop(read is None, problem if read is None else None)
    events = read.events
    summary = mo.hstack(
        [
            mo.stat(f"{len(events):,}", label=f"events of {read.name}", bordered=True),
            mo.stat(f"{events['repository'].n_unique():,}", label="repositories", bordered=True),
            mo.stat(f"{events['timestamp'].min():%d %b}", label="first", bordered=True),
            mo.stat(f"{events['timestamp'].max():%d %b}", label="last", bordered=True),
            mo.stat(f"{len(read.bad):,}", label="rows that are no events", bordered=True),
        ],
        widths="equal",
    )
    summary
    return (events,)


@app.cell(hide_code=True)
def _(events):
    with mo.status.spinner("Judging the past"):
        shipped = replay(events, compose())
    failures = pl.DataFrame(shipped.tables["failures"])
    findings = trying.raised(shipped)
    incidents = trying.latest(shipped)
    return failures, findings, incidents, shipped


@app.cell(hide_code=True)
def _(failures, incidents):
    mo.vstack(
        [mo.md("## Failures over time\n\nRed: incidents of the whole fleet."), charts.over_time(failures, incidents)]
    )
    return


@app.cell(hide_code=True)
def _(failures):
    mo.vstack([mo.md("## Signatures"), charts.signatures(failures)])
    return


@app.cell(hide_code=True)
def _(events):
    mo.vstack(
        [
            mo.md("""
            ## Durations

            The jobs that cost most. Bar: the middle half of the runs; line: the median; diamond: the 95th percentile.
            """),
            charts.durations(events),
        ]
    )
    return


@app.cell(hide_code=True)
def _(findings, incidents):
    mo.vstack(
        [
            mo.md("## Findings and incidents"),
            charts.when_found(findings),
            mo.ui.tabs(
                {
                    f"{len(findings):,} findings": mo.ui.table(
                        findings.select(SECONDS, "detector", "repository", "message"), selection=None
                    ),
                    f"{len(incidents):,} incidents": mo.ui.table(
                        incidents.select(
                            pl.col("began_at").dt.strftime("%F %R"), "symptom", "repositories", "failures", "message"
                        ),
                        selection=None,
                    ),
                }
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md("""
    ## What if?

    Choose a parameter and another value: the same events are judged again, and what differs is shown.
    """)
    return


@app.cell(hide_code=True)
def _():
    parameters = trying.parameters()
    parameter_field = mo.ui.dropdown(
        options=parameters, value="RepeatedFailure.threshold", searchable=True, label="Parameter"
    )
    return (parameter_field,)


@app.cell(hide_code=True)
def _(parameter_field):
    parameter = parameter_field.value or trying.parameters()["RepeatedFailure.threshold"]
    return (parameter,)


@app.cell(hide_code=True)
def _(parameter, parameter_field):
    value_field = mo.ui.slider(
        steps=parameter.steps, value=parameter.default, show_value=True, debounce=True, full_width=True, label="Value"
    )
    mo.hstack(
        [parameter_field, value_field, mo.md(f"shipped: **{parameter.default:g}**")], widths=[2, 3, 1], align="center"
    )
    return (value_field,)


@app.cell(hide_code=True)
def _(value_field):
    value = value_field.value
    return (value,)


@app.cell(hide_code=True)
def _(events, parameter, shipped, value):
    try:
        rules = trying.rulebook(parameter, value)
        refused = None
    except ConfigError as error:
        rules, refused = None, mo.callout(mo.md(f"**Not possible.** {error}"), kind="warn")
    mo.stop(rules is None, refused)
    with mo.status.spinner("Judging it again"):
        tried = shipped if value == parameter.default else replay(events, rules)
    moved = trying.moved(shipped, tried)
    return moved, tried


@app.function
def decisions_moved(decisions: Mapping[str, Any]) -> pl.DataFrame:
    """What was decided and what would be, how often, and what makes the difference."""
    rows = [
        {
            "before": group["before"],
            "after": group["after"],
            "run attempts": group["count"],
            "because": ", ".join(group["because"]),
        }
        for group in decisions["groups"]
    ]
    return pl.DataFrame(rows, schema={"before": str, "after": str, "run attempts": int, "because": str})


@app.function
def stat(what: str, before: int, after: int) -> mo.Html:
    """A number and how it moved."""
    said = f"{after - before:+,}" if after != before else "as before"
    return mo.stat(f"{before:,} → {after:,}", label=what, caption=said, bordered=True)


@app.cell(hide_code=True)
def _(findings, incidents, moved, tried):
    decided = moved.decisions
    differ = moved.counts.filter(pl.col("before") != pl.col("after"))
    numbers = [
        stat("findings", len(findings), len(trying.raised(tried))),
        stat("incidents", len(incidents), len(trying.latest(tried))),
        mo.stat(
            f"{decided['changed']:,}", label="decisions changed", caption=f"of {decided['compared']:,}", bordered=True
        ),
    ]
    tables = {
        f"{len(moved.findings):,} findings": moved.findings.select(
            "change", SECONDS, "detector", "repository", "message"
        ),
        f"{len(moved.incidents):,} incidents": moved.incidents.select("change", SECONDS, "symptom", "message"),
        f"{decided['changed']:,} decisions": decisions_moved(decided),
    }
    mo.vstack(
        [
            mo.hstack(numbers, widths="equal"),
            charts.before_and_after(differ) if len(differ) else mo.md("No detector raised more or fewer findings."),
            mo.ui.tabs({name: mo.ui.table(rows, selection=None) for name, rows in tables.items()}),
        ]
    )
    return


if __name__ == "__main__":
    app.run()
