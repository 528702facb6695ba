"""The document of a backtest as one page that stands alone: charts are inline SVG, nothing is fetched or run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from flows import backtest_acts
from flows.charts import bars, columns

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2733; --dim: #66727f; --line: #d5dbe1; --bar: #3b7dd8; --own: #d9822b;
  --paper: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --dim: #97a3ae; --line: #37414b; --bar: #6aa5f2;
  --own: #f0a95a; --paper: #14191f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 980px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { color: var(--dim); font-weight: 600; } .n { text-align: right; white-space: nowrap; }
svg { max-width: 100%; height: auto; display: block; } svg text { font-size: 12px; fill: var(--ink); }
svg .name { text-anchor: end; } svg rect { fill: var(--bar); } svg line { stroke: var(--line); }
.own svg rect { fill: var(--own); } .dim { color: var(--dim); } code { font-size: .9em; overflow-wrap: anywhere; }
"""


def page(report: Mapping[str, Any]) -> str:
    """The page, whole."""
    said = report["said"]
    parts = [_read(report["input"])]
    if len(said) > 1:
        parts.append(_comparison(report))
    if "acts" in report:
        parts.append(_acts(report["acts"]))
    for one in said:
        name = f": {one['named']}" if len(said) > 1 else ""
        parts += [
            _truth(one, name),
            _faults(one, name),
            _incidents(one, name),
            _findings(one, report["own_detectors"], name),
            _decisions(one, name),
            _failures(one, name),
        ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Backtest</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>Backtest</h1>\n{''.join(parts)}</body></html>\n"
    )


def _section(title: str, *inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{''.join(inside)}</section>\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A column whose name begins with # holds numbers."""
    kinds = [' class="n"' if head.startswith("#") else "" for head in heads]
    cells = (f"<th{kind}>{escape(head.removeprefix('#'))}</th>" for head, kind in zip(heads, kinds, strict=True))
    lines = ["".join(f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(row, kinds, strict=True)) for row in rows]
    return f"<table><tr>{''.join(cells)}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>\n"


def _cell(value: object) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _read(read: Mapping[str, Any]) -> str:
    files = escape(", ".join(read["files"]))
    counts = f"{read['duplicates']:,} duplicates, {read['late']:,} late"
    span = f"from {read['first_at']} to {read['last_at']}"
    lines = [f"<p><b>{read['events']:,}</b> events of {files}, {span}, {counts}.</p>"]
    if read["no_events"]:
        told = "".join(f"<li><code>{escape(line)}</code></li>" for line in read["no_events_because"])
        lines.append(f"<p>{read['no_events']:,} rows are no events and were left out:</p><ul>{told}</ul>")
    if read["missing"]:
        told = "".join(f"<li>{escape(line)}</li>" for line in read["missing"])
        lines.append(f"<p>The archive has not all entries:</p><ul>{told}</ul>")
    if read["columns_passed_over"]:
        lines.append(f"<p class=dim>Columns that no event has: {escape(', '.join(read['columns_passed_over']))}</p>")
    return _section("What was read", *lines)


def _findings(said: Mapping[str, Any], own: Sequence[str], name: str) -> str:
    heads = ("detector", "#raised", "#still stand", "#repositories", "#a day")
    rows = [
        [one[key] for key in ("detector", "raised", "standing", "repositories", "per_day")] for one in said["findings"]
    ]
    return _section(f"Findings{name}", _table(heads, rows), *(_finding(said, one, own) for one in said["findings"]))


def _finding(said: Mapping[str, Any], one: Mapping[str, Any], own: Sequence[str]) -> str:
    if not one["raised"]:
        return ""
    over = said["over_time"]
    chart = columns(
        over["findings"][one["detector"]],
        first_ms=over["first_ms"],
        step_ms=over["step_minutes"] * 60_000,
        what=f"{one['detector']}: raised over time",
        height=80,
    )
    examples = [(e["at"], e["repository"], e["message"]) for e in one["examples"]]
    kind = ' class="own"' if one["detector"] in own else ""
    table = _table(("at", "repository", "first ones"), examples)
    return f"<div{kind}><h3>{escape(one['detector'])}</h3>{chart}{table}</div>"


def _incidents(said: Mapping[str, Any], name: str) -> str:
    if not said["incidents"]:
        return ""
    keys = ("began_at", "at", "closed_at", "repositories", "failures", "message")
    heads = ("began", "found", "closed", "#repositories", "#failures", "what")
    return _section(f"Incidents{name}", _table(heads, [[one[key] for key in keys] for one in said["incidents"]]))


def _faults(said: Mapping[str, Any], name: str) -> str:
    rows = [
        (f["detector"], f["count"], f["error"], f["first"]["subject"], f["first"]["event_id"])
        for f in said["detector_faults"]
    ]
    letters = said["dead_letters"].items()
    failed = _section(
        f"Detectors that failed{name}",
        "<p>They are not asked about that subject any more.</p>",
        _table(("detector", "#subjects", "error", "first about", "event"), rows),
    )
    unusable = _section(f"Dead letters{name}", _table(("reason", "#entries"), list(letters)))
    return (failed if rows else "") + (unusable if letters else "")


def _decisions(said: Mapping[str, Any], name: str) -> str:
    decided = said["decisions"]
    about = f"<p>{decided['cases']:,} run attempts, {decided['revisions']:,} revisions.</p>"
    return _section(f"Decisions in force{name}", about, bars(decided["by_reason"], what="decisions by reason"))


def _failures(said: Mapping[str, Any], name: str) -> str:
    failed, over = said["failures"], said["over_time"]
    chart = columns(
        over["failures"], first_ms=over["first_ms"], step_ms=over["step_minutes"] * 60_000, what="failures over time"
    )
    explained = [
        f"<h3>By {title}</h3>{bars(failed[key], what=f'failures by {title}')}"
        for key, title in (("by_category", "category"), ("by_signature", "signature"), ("by_diagnosis", "diagnosis"))
        if failed[key]
    ]
    return _section(f"Failures{name}", f"<p>{failed['count']:,} failed jobs.</p>", chart, *explained)


def _truth(said: Mapping[str, Any], name: str) -> str:
    if "truth" not in said:
        return ""
    heads = ("kind", "#found", "#of", "#recall", "#precision", "#false a day", "#p50 s", "#p95 s", "#max s")
    keys = ("found", "truths", "recall", "precision", "false_alarms_per_day")
    rows = [
        (kind, *(one[key] for key in keys), *one["seconds_to_detect"].values()) for kind, one in said["truth"].items()
    ]
    return _section(f"Against what is known to have happened{name}", _table(heads, rows))


def _comparison(report: Mapping[str, Any]) -> str:
    before, after = (f"{one['named']} ({one['rulebook'][:12]})" for one in report["said"])
    decisions, findings = report["comparison"]["decisions"], report["comparison"]["findings"]
    groups = [
        (g["count"], g["before"], g["after"], "; ".join(f"{why} ({count:,})" for why, count in g["because"].items()))
        for g in decisions["groups"]
    ]
    names = sorted({*findings["only_before"], *findings["only_after"]})
    sides = ("only_before", "only_after")
    only = [(name, *(findings[side].get(name, {"count": 0})["count"] for side in sides)) for name in names]
    rules = "".join(f"<li><code>{escape(line)}</code></li>" for line in report["rules"])
    return _section(
        "Two rulebooks side by side",
        f"<p>Before: {escape(before)}. After: {escape(after)}.</p>",
        f"<h3>Rules that differ</h3><ul>{rules}</ul>" if rules else "<p>The rules are the same.</p>",
        f"<h3>{decisions['changed']:,} of {decisions['compared']:,} decisions differ</h3>",
        _table(("#count", "before", "after", "because of"), groups),
        f"<h3>Findings of one only</h3>{_table(('detector', '#before', '#after'), only)}" if only else "",
    )


def _acts(said: Mapping[str, Any]) -> str:
    differences = "".join(
        f"<h3>{escape(title)}</h3>{_table(backtest_acts.ONLY, rows)}"
        for title, rows in backtest_acts.only(said)
        if rows
    )
    reasons = backtest_acts.reasons(said)
    return _section(
        "What would have been done",
        "<p class=dim>What would have come of a rerun is known only where somebody ran the same job again on the same"
        " commit: then it is what that came to. Minutes are those that the failed jobs took.</p>",
        _table(backtest_acts.heads(said), backtest_acts.figures(said)),
        f"<h3>Held, refused or left waiting</h3>{_table(backtest_acts.REASONS, reasons)}" if reasons else "",
        differences,
    )
