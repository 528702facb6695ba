"""Whether a detector does what its own examples say: each is told as events to a real shard, as a platform would.

The shard asks no other detector, and knows no other signatures than those that the examples name: each is a line of the
excerpt of the failures that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from analytics.backtest import judged
from analytics.detectors.detector import AbsenceDetector, ProfileDetector, Rule, found, milliseconds
from analytics.examples import Ran
from analytics.past import SILENCE_MS, Span, batches, in_order
from analytics.profiles import HOUR_MS, SETTLED_MS
from analytics.rulebook import VERSION, Rulebook
from models.records.columns import EVENT_SCHEMA
from models.records.event import FAILING, OPEN, EventType, Outcome, uuid5_text
from models.records.flat import checked
from models.records.outputs import FindingState, ShardOutput
from models.scorers.rerun_passes import shipped

_MINUTE_MS: Final = 60_000
_MONDAY: Final = datetime(2026, 11, 2, tzinfo=UTC)
_MONDAY_MS: Final = round(_MONDAY.timestamp() * 1000)
_SHARD: Final = 0
_REPOSITORY: Final = "org/repo"

Example = Sequence[Any]


def problems(cls: type[Rule]) -> list[str]:
    """What is wrong with a detector, a sentence each."""
    examples = {kind: getattr(cls, kind, ()) for kind in ("FIRES", "SILENT")}
    missing = [f"{kind} is empty: it needs an example" for kind, some in examples.items() if not some]
    if missing or cls.__dict__.get("judge") is None:
        return missing or ["has no judge()"]
    try:
        rulebook = _only(cls, [*examples["FIRES"], *examples["SILENT"]])
        told = [
            _wrong(cls, rulebook, kind, number, e) for kind, some in examples.items() for number, e in enumerate(some)
        ]
    except (TypeError, ValueError, AttributeError) as error:
        return [f"its examples cannot be read: {error}"]
    return [problem for problem in told if problem is not None]


def _wrong(cls: type[Rule], rulebook: Rulebook, kind: str, number: int, example: Example) -> str | None:
    where = f"{kind}[{number}]"
    outputs = _said(cls, rulebook, example)
    fault = next((fault.error for output in outputs for fault in output.detector_faults), None)
    if fault is not None:
        return f"{where}: {fault}"
    raised = [f for output in outputs for f in output.findings if f.state == FindingState.RAISED.value]
    if kind == "FIRES" and not raised:
        return f"{where} must fire, and did not"
    if kind == "SILENT" and raised:
        return f"{where} must be silent, and fired: {raised[0].message}"
    return None


def _said(cls: type[Rule], rulebook: Rulebook, example: Example) -> list[ShardOutput]:
    """All that a shard says to an example."""
    rows = [_ended(ran, number) if isinstance(ran, Ran) else _told(ran) for number, ran in enumerate(example)]
    last_ms = max(round(row["timestamp"].timestamp() * 1000) for row in rows)
    if issubclass(cls, ProfileDetector):
        last_ms = last_ms // HOUR_MS * HOUR_MS + HOUR_MS + SETTLED_MS + 3 * _MINUTE_MS
    if issubclass(cls, AbsenceDetector):
        # An absence counts only while the source speaks.
        last_ms = _MONDAY_MS + milliseconds(cls().within) - _MINUTE_MS
        rows += [_elsewhere(minute) for minute in range(0, (last_ms - _MONDAY_MS) // _MINUTE_MS, 30)]
    events, bad = checked(pa.Table.from_pylist(rows, EVENT_SCHEMA))
    if bad:
        raise ValueError(f"event {bad[0].row}: {bad[0].detail}")
    ordered = in_order(pa.Table.from_batches([events])).combine_chunks().to_batches()
    span = Span(events.column("received_ms")[0].as_py(), last_ms - SILENCE_MS)
    return list(judged(_SHARD, batches(ordered, span), rulebook))


def _only(cls: type[Rule], examples: Sequence[Example]) -> Rulebook:
    """A rulebook of this detector alone, and of the signatures in its examples."""
    named = {
        e.signature: e.category or "test" for example in examples for e in example if getattr(e, "signature", None)
    }
    ours = {other.__name__: other for other in found()}
    own = ours.get(cls.__name__) is not cls
    return Rulebook(
        {
            "version": VERSION,
            "detectors": {name: {"enabled": False} for name in ours if name != cls.__name__},
            "signatures": {name: _signature(name, category) for name, category in sorted(named.items())},
            "scorer": shipped(),
            **({"also": {cls.__name__: ""}} if own else {}),
        },
        also=(cls,) if own else (),
    )


def _signature(name: str, category: str) -> dict[str, Any]:
    line = f"signature {name}"
    told = {"cause": "an example", "fix": "none", "matches": [line], "confusers": [f"no {line}"]}
    return {"category": category, "text": [f"^{line}$"], **told}


def _told(seen: Any) -> dict[str, Any]:  # noqa: ANN401 - a Seen, if the file is right
    """The event of which a history keeps `seen`."""
    return {
        **_event(seen.outcome, timedelta(milliseconds=seen.at_ms), seen.pipeline_id, seen.attempt),
        "commit_sha": seen.commit_sha,
        "is_default_branch": seen.main,
        "runner": seen.runner,
        "failure_excerpt": f"signature {seen.signature}" if seen.signature else None,
    }


def _ended(ran: Ran, number: int) -> dict[str, Any]:
    """The event with which a job run ended that a profile counts."""
    return {
        **_event(ran.outcome, timedelta(hours=ran.hours), str(number), ran.attempt),
        "duration_ms": round(ran.seconds * 1000),
        "queued_ms": None if ran.waited_seconds is None else round(ran.waited_seconds * 1000),
    }


def _elsewhere(minute: int) -> dict[str, Any]:
    passed = _event(Outcome.PASSED, timedelta(minutes=minute), f"elsewhere-{minute}", 1)
    return {**passed, "repository": "org/other"}


def _event(outcome: Outcome, after: timedelta, run: str, attempt: int) -> dict[str, Any]:
    kind = EventType.FAILED if outcome in FAILING else EventType.STARTED if outcome in OPEN else EventType.COMPLETED
    return {
        "id": uuid5_text("example", run, str(attempt), outcome, str(after)),
        "timestamp": _MONDAY + after,
        "platform": "github",
        "event_type": kind.value,
        "repository": _REPOSITORY,
        "pipeline_id": run,
        "job_id": f"{run}-job",
        "instance": "github.com",
        "outcome": outcome.value,
        "workflow": "CI",
        "job_name": "test",
        "attempt": attempt,
        "has_failure": kind is EventType.FAILED,
    }
