"""The composite through `guard backtest`, and what each finding rests on.

An alarm is a finding or an incident when it is raised. It is

    found     it is what a trouble was put in for, and came in its time (the backtest judges that by the truth file)
    echo      it says something else of a trouble that was put in: it rests on events of one, and on no other failure
    slow run  a job called stuck that was running: one drawn to take more than an hour, or whose end lies behind that of
              the events. A false alarm
    other     none of these. With nothing behind the failures of the background it is a false alarm; with the real
              failures of the stream nobody knows
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from analytics.detectors.detector import milliseconds
from analytics.detectors.stuck_job import StuckJob
from analytics.past import Span
from analytics.summary import per_day
from analytics.truth import GRACE_MS, INCIDENT, Alarm, Truth, judged
from benchmarks.composite.arrivals import Arrival
from benchmarks.composite.runs import Background, planned
from benchmarks.composite.telling import AFTER_MS, told
from benchmarks.composite.troubles import Trouble, put_in
from models.records.event import FAILING, Event
from models.records.payload import to_json

_SLOW_MS: Final = milliseconds(StuckJob().patience)
COMMAND: Final = "import sys; from flows.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Composite:
    """The events in order of time, the trouble that each is of, if any, and the troubles."""

    background: Background
    events: Sequence[Event]
    trouble_of: Mapping[str, str]
    failing: frozenset[str]
    slow: frozenset[
        str
    ]  # events of runs that take longer than a job is let run that is not known, or than there are events
    troubles: Sequence[Trouble]
    until_ms: int


def compose(arrivals: Sequence[Arrival], background: Background, *, seed: int, repositories: int = 500) -> Composite:
    """All of it, from arrivals and a seed."""
    runs, troubles = put_in(planned(arrivals, background, seed=seed, repositories=repositories), seed=seed)
    until_ms = max(arrival.at_ms for arrival in arrivals) + AFTER_MS
    pairs = told(runs, until_ms)
    return Composite(
        background,
        [event for event, _ in pairs],
        {event.id: run.trouble for event, run in pairs if run.trouble is not None},
        frozenset(event.id for event, _ in pairs if event.metadata.outcome in FAILING),
        frozenset(event.id for event, run in pairs if run.ends and (run.takes_ms >= _SLOW_MS or run.end_ms > until_ms)),
        troubles,
        until_ms,
    )


def write(composite: Composite, folder: Path) -> tuple[Path, Path]:
    """The events as JSON lines, and the truth file (docs/backtest.md)."""
    events, truth = folder / "events.jsonl", folder / "truth.jsonl"
    with events.open("wb") as file:
        file.writelines(to_json(event) + b"\n" for event in composite.events)
    rows = [
        {"kind": t.kind, "begins_at": _iso(t.begins_ms), "ends_at": t.ends_ms and _iso(t.ends_ms), **t.subject}
        for t in composite.troubles
    ]
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return events, truth


def backtest(events: Path, truth: Path, to: Path) -> dict[str, Any]:
    """What `guard backtest` reports."""
    command = [sys.executable, "-c", COMMAND, "backtest", str(events), "--truth", str(truth), "--to", str(to)]
    subprocess.run([*command, "--rulebook", "shipped"], check=True, capture_output=True)
    report: dict[str, Any] = json.loads((to / "report.json").read_text())
    return report


def alarms(folder: Path) -> Iterator[tuple[Alarm, list[str]]]:
    """What was raised, by the tables that a backtest wrote, each with the events that it rests on."""
    findings = pl.read_parquet(folder / "findings.parquet").filter(pl.col("state") == "raised").sort("at", "finding_id")
    for row in findings.with_columns(pl.col("at").dt.epoch("ms")).iter_rows(named=True):
        subject = {"instance": row["instance"], **json.loads(row["subject"])}
        yield Alarm(row["detector"], subject, row["at"], row["message"]), row["events"]
    incidents = pl.read_parquet(folder / "incidents.parquet").filter(pl.col("state") == "opened").sort("at")
    for row in incidents.with_columns(pl.col("at").dt.epoch("ms")).iter_rows(named=True):
        yield Alarm(INCIDENT, {"signature": row["signature"]}, row["at"], row["message"]), []


def found(composite: Composite, raised: Sequence[tuple[Alarm, list[str]]]) -> dict[str, float]:
    """Seconds from the beginning of each trouble that was found to its first alarm, by the trouble's name."""
    seconds = {}
    for trouble in composite.troubles:
        truth = Truth(trouble.kind, trouble.subject, trouble.begins_ms, trouble.ends_ms)
        mine = [alarm for alarm, _ in raised if _meets(truth, alarm, composite)]
        if mine:
            seconds[trouble.name] = round((mine[0].at_ms - trouble.begins_ms) / 1000, 1)
    return seconds


def sorts(composite: Composite, raised: Sequence[tuple[Alarm, list[str]]]) -> dict[str, Counter[str]]:
    """How many alarms of each detector are found, other, or an echo of which kind of trouble."""
    truths = [Truth(t.kind, t.subject, t.begins_ms, t.ends_ms) for t in composite.troubles]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for alarm, proof in raised:
        if any(_meets(truth, alarm, composite) for truth in truths):
            counts[alarm.kind]["found"] += 1
        else:
            counts[alarm.kind][_neither(composite, alarm, proof)] += 1
    return counts


def _neither(composite: Composite, alarm: Alarm, proof: Sequence[str]) -> str:
    """What an alarm is that no trouble was put in for."""
    if alarm.kind == StuckJob.__name__ and composite.slow.issuperset(proof):
        return "slow run"
    return _echo(composite, alarm, proof) or "other"


def _meets(truth: Truth, alarm: Alarm, composite: Composite) -> bool:
    if truth.kind != alarm.kind:
        return False
    judgement = judged([truth], [alarm], Span(alarm.at_ms, composite.until_ms))
    return bool(judgement[truth.kind]["found"])


def _echo(composite: Composite, alarm: Alarm, proof: Sequence[str]) -> str | None:
    """The kind of trouble of which this is an echo, as "echo of ..."."""
    if proof:
        names = {composite.trouble_of.get(event) for event in proof if event in composite.failing}
        return f"echo of {_kind(min(filter(None, names)))}" if names and None not in names else None
    for trouble in composite.troubles:
        ends = composite.until_ms if trouble.ends_ms is None else trouble.ends_ms + GRACE_MS
        here = alarm.subject.get("repository") == trouble.subject.get("repository") is not None
        if here and trouble.begins_ms <= alarm.at_ms <= ends:
            return f"echo of {_kind(trouble.name)}"
    return None


def _kind(name: str) -> str:
    return name.rpartition("-")[0]


def summary(composite: Composite, folder: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """One line: what was found when, what was raised beside it, and what the backtest says of its truth file."""
    raised = list(alarms(folder))
    seconds = found(composite, raised)
    span = Span(min(_ms(e.timestamp) for e in composite.events[:1]), composite.until_ms)
    counts = sorts(composite, raised)
    other = sum(count["other"] + count["slow run"] for count in counts.values())
    said = report["said"][0]
    return {
        "composite": True,
        "background": composite.background.value,
        "total_events": len(composite.events),
        "repositories": len({event.repository for event in composite.events}),
        "hours": round((span.last_ms - span.first_ms) / 3_600_000, 2),
        "failures": said["failures"]["count"],
        "troubles": len(composite.troubles),
        "found": len(seconds),
        "missed": [t.name for t in composite.troubles if t.name not in seconds],
        "seconds_to_detect": {t.name: seconds[t.name] for t in composite.troubles if t.name in seconds},
        "alarms": {kind: dict(sorted(count.items())) for kind, count in sorted(counts.items())},
        "not_put_in": other,
        "not_put_in_per_day": per_day(other, span),
        "detectors": len(said["findings"]),
        "detector_faults": len(said["detector_faults"]),
    }


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
