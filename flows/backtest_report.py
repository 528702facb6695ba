"""What a backtest says: one document, as JSON and as tables for a terminal. flows/backtest_page.py makes a page of it.

The same input and rules give the same document, byte for byte: how long it took and on what is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
from rich.console import RenderableType

from analytics import side_by_side, summary, truth
from analytics.past import Span
from analytics.rulebook import Rulebook
from flows import backtest_acts, rulebook_lines
from flows.tables import facts, table
from models.records.outputs import FindingState, IncidentState, ShardStats

_SHOWN: Final = 20

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: names of files, rows of which some are no events, and columns that were passed over."""

    files: tuple[str, ...]
    rows: int
    wrong: int
    told: Sequence[tuple[str, int, str]]  # of the wrong ones: file, row or line from 1, why
    unknown: tuple[str, ...]
    span: Span
    missing: tuple[str, ...] = ()  # of an archive: positions that it has not, by shard


@dataclass(frozen=True, slots=True)
class Side:
    """What one set of rules said: by which name it was called, the rules, its tables and counts."""

    named: str
    rulebook: Rulebook
    files: Mapping[str, Path]
    stats: ShardStats

    @property
    def tables(self) -> dict[str, pl.LazyFrame]:
        """Its rows."""
        return {name: pl.scan_parquet(path) for name, path in self.files.items()}


def build(read: Read, sides: Sequence[Side], own: Sequence[str], truths: Sequence[truth.Truth]) -> Report:
    """The document; `own` are detectors to be named first, `truths` what is known to have happened."""
    report: Report = {
        "input": _input(read, sides[0].stats),
        "own_detectors": list(own),
        "said": [_said(side, read.span, own, truths) for side in sides],
    }
    if len(sides) > 1:
        before, after = sides
        report["rules"] = rulebook_lines.difference(before.rulebook, after.rulebook)
        report["comparison"] = side_by_side.compared(before.tables, after.tables)
    return report


def _input(read: Read, stats: ShardStats) -> dict[str, Any]:
    return {
        "files": list(read.files),
        "rows": read.rows,
        "events": stats.events,
        "duplicates": stats.duplicates,
        "late": stats.late,
        "no_events": read.wrong,
        "no_events_because": [f"{file}: row {row}: {why}" for file, row, why in read.told[:_SHOWN]],
        "columns_passed_over": list(read.unknown),
        "missing": list(read.missing),
        "first_at": _iso(read.span.first_ms),
        "last_at": _iso(read.span.last_ms),
        "days": round(summary.days(read.span), 4),
    }


def _said(side: Side, span: Span, own: Sequence[str], truths: Sequence[truth.Truth]) -> dict[str, Any]:
    tables = side.tables
    detectors = [*own, *(name for d in side.rulebook.detectors if (name := type(d).__name__) not in own)]
    said = {
        "named": side.named,
        "rulebook": side.rulebook.digest,
        "failures": summary.failures(tables),
        "decisions": summary.decisions(tables),
        "findings": summary.findings(tables, span, detectors),
        "incidents": summary.incidents(tables),
        "detector_faults": summary.faults(tables),
        "dead_letters": summary.dead_letters(tables),
        "over_time": summary.over_time(tables, span),
    }
    if truths:
        said["truth"] = truth.judged(truths, _alarms(tables), span)
    return said


def _alarms(tables: Mapping[str, pl.LazyFrame]) -> Iterator[truth.Alarm]:
    opened = tables["incidents"].filter(pl.col("state") == IncidentState.OPENED.value)
    for row in opened.with_columns(pl.col("at").dt.epoch("ms")).collect().iter_rows(named=True):
        yield truth.Alarm(truth.INCIDENT, {**row, row["dimension"]: row["value"]}, row["at"], row["message"])
    raised = tables["findings"].filter(pl.col("state") == FindingState.RAISED.value)
    columns = ("detector", "instance", "subject", pl.col("at").dt.epoch("ms"), "message")
    for detector, instance, subject, at_ms, message in raised.select(*columns).collect().iter_rows():
        yield truth.Alarm(detector, {"instance": instance, **msgspec.json.decode(subject)}, at_ms, message)


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def shown(report: Report) -> list[RenderableType]:
    """The document for a terminal."""
    said, two = report["said"], len(report["said"]) > 1
    parts = [_input_facts(report["input"])]
    for one in said:
        name = f" ({one['named']})" if two else ""
        parts += [_findings(one, report["own_detectors"], name), _decisions(one, name)]
        if one["incidents"]:
            parts.append(_incidents(one["incidents"], name))
        if one["detector_faults"]:
            parts.append(_faults(one["detector_faults"], name))
        if one["dead_letters"]:
            parts.append(table(f"dead letters{name}", ("reason", "#entries"), one["dead_letters"].items()))
        if "truth" in one:
            parts.append(_truth(one["truth"], name))
    acts = backtest_acts.shown(report["acts"]) if "acts" in report else []
    return parts + (_comparison(report) if two else []) + acts


def _input_facts(read: Mapping[str, Any]) -> RenderableType:
    passed_over = ", ".join(read["columns_passed_over"]) or None
    return facts(
        "read",
        [
            ("files", ", ".join(read["files"])),
            ("events", f"{read['events']:,} from {read['first_at']} to {read['last_at']} ({read['days']:g} days)"),
            ("duplicates", read["duplicates"] or None),
            ("late", read["late"] or None),
            ("no events", f"{read['no_events']:,} rows were left out" if read["no_events"] else None),
            *(("", line) for line in read["no_events_because"]),
            *(("not archived", line) for line in read["missing"][:_SHOWN]),
            ("passed over", passed_over and f"columns that no event has: {passed_over}"),
        ],
    )


def _findings(said: Mapping[str, Any], own: Sequence[str], name: str) -> RenderableType:
    rows = [
        (
            f"{one['detector']} *" if one["detector"] in own else one["detector"],
            one["raised"],
            one["standing"],
            one["repositories"],
            one["per_day"],
            next((f"{e['at']} {e['repository']}: {e['message']}" for e in one["examples"]), None),
        )
        for one in said["findings"]
    ]
    columns = ("detector", "#raised", "#still stand", "#repositories", "#a day", "for example")
    return table(f"findings{name}" + (", * yours" if own else ""), columns, rows)


def _incidents(incidents: Sequence[Mapping[str, Any]], name: str) -> RenderableType:
    rows = [
        (one["began_at"], one["closed_at"], one["repositories"], one["failures"], one["message"]) for one in incidents
    ]
    return table(f"incidents{name}", ("began", "closed", "#repositories", "#failures", "what"), rows[:_SHOWN])


def _faults(faults: Sequence[Mapping[str, Any]], name: str) -> RenderableType:
    rows = [(f["detector"], f["count"], f["error"], f["first"]["subject"], f["first"]["event_id"]) for f in faults]
    columns = ("detector", "#subjects", "error", "first about", "event")
    return table(f"detectors that failed, and are not asked about that subject any more{name}", columns, rows)


def _decisions(said: Mapping[str, Any], name: str) -> RenderableType:
    title = (
        f"decisions in force{name}: {said['decisions']['cases']:,} run attempts, {said['failures']['count']:,} failures"
    )
    return table(title, ("decision", "#run attempts"), said["decisions"]["by_reason"].items())


def _truth(judged: Mapping[str, Mapping[str, Any]], name: str) -> RenderableType:
    columns = ("kind", "#found", "#of", "#recall", "#precision", "#false a day", "#p50 s", "#p95 s", "#max s")
    rows = [
        (
            kind,
            one["found"],
            one["truths"],
            one["recall"],
            one["precision"],
            one["false_alarms_per_day"],
            *one["seconds_to_detect"].values(),
        )
        for kind, one in judged.items()
    ]
    return table(f"against what is known to have happened{name}", columns, rows)


def _comparison(report: Report) -> list[RenderableType]:
    decisions, findings = report["comparison"]["decisions"], report["comparison"]["findings"]
    groups = [
        (group["count"], group["before"], group["after"], next(iter(group["because"]))) for group in decisions["groups"]
    ]
    title = f"decisions that differ: {decisions['changed']:,} of {decisions['compared']:,}"
    names = sorted({*findings["only_before"], *findings["only_after"]})
    only = [
        [findings[side].get(name, {"count": 0})["count"] for side in ("only_before", "only_after")] for name in names
    ]
    return [
        table("rules that differ", ("rule",), [(line,) for line in report["rules"][:_SHOWN]]),
        table(title, ("#count", "before", "after", "mostly because of"), groups),
        table(
            "findings of one only",
            ("detector", "#before", "#after"),
            [(n, *c) for n, c in zip(names, only, strict=True)],
        ),
    ]
