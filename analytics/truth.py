"""How right findings are, where it is known what really happened.

A truth says that something of one kind (a detector's name, or "incident") held for one subject from `begins_at` to
`ends_at`. An alarm, a finding at the moment it is raised, is true when it comes in that time or the hour after it, and
nothing that the truth says of its subject differs from what the finding says. Alarms of kinds of which the truths say
nothing are not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

from analytics.past import Span
from analytics.summary import per_day

GRACE_MS: Final = 3_600_000
"""How long after its end what happened may still be found."""
INCIDENT: Final = "incident"
_SHOWN: Final = 5


class Truth(NamedTuple):
    """What happened: `subject` are the parts of the subject that are known, by name; without an end it never ended."""

    kind: str
    subject: Mapping[str, Any]
    begins_ms: int
    ends_ms: int | None


class Alarm(NamedTuple):
    """A finding or an incident at the moment it was raised."""

    kind: str
    subject: Mapping[str, Any]
    at_ms: int
    message: str


def judged(truths: Sequence[Truth], alarms: Iterable[Alarm], span: Span) -> dict[str, Any]:
    """Precision, recall, time to detect and false alarms per day of each kind of which something is known."""
    by_kind: dict[str, list[Alarm]] = defaultdict(list)
    for alarm in alarms:
        by_kind[alarm.kind].append(alarm)
    kinds = sorted({truth.kind for truth in truths})
    return {kind: _of([t for t in truths if t.kind == kind], by_kind[kind], span) for kind in kinds}


def _of(truths: Sequence[Truth], alarms: Sequence[Alarm], span: Span) -> dict[str, Any]:
    places: dict[Any, list[int]] = defaultdict(list)
    for number, truth in enumerate(truths):
        places[truth.subject.get("repository")].append(number)
    first: dict[int, int] = {}
    false: list[Alarm] = []
    for alarm in sorted(alarms, key=lambda alarm: alarm.at_ms):
        candidates = places[alarm.subject.get("repository")] + (places[None] if "repository" in alarm.subject else [])
        proven = [number for number in candidates if _is_true(alarm, truths[number])]
        for number in proven:
            first.setdefault(number, alarm.at_ms)
        if not proven:
            false.append(alarm)
    waited = sorted((at - truths[number].begins_ms) / 1000 for number, at in first.items())
    missed = [truth for number, truth in enumerate(truths) if number not in first]
    return {
        "alarms": len(alarms),
        "true": len(alarms) - len(false),
        "truths": len(truths),
        "found": len(first),
        "precision": _share(len(alarms) - len(false), len(alarms)),
        "recall": _share(len(first), len(truths)),
        "seconds_to_detect": {name: _percentile(waited, share) for name, share in _SHARES.items()},
        "false_alarms_per_day": per_day(len(false), span),
        "missed": [{"subject": dict(t.subject), "begins_ms": t.begins_ms} for t in missed[:_SHOWN]],
        "false": [{"subject": dict(a.subject), "at_ms": a.at_ms, "message": a.message} for a in false[:_SHOWN]],
    }


_SHARES: Final = {"p50": 0.5, "p95": 0.95, "max": 1.0}


def _is_true(alarm: Alarm, truth: Truth) -> bool:
    ends = alarm.at_ms if truth.ends_ms is None else truth.ends_ms + GRACE_MS
    return truth.begins_ms <= alarm.at_ms <= ends and all(
        alarm.subject.get(name, value) in {value, None} for name, value in truth.subject.items()
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank."""
    return round(ordered[max(0, ceil(share * len(ordered)) - 1)], 3) if ordered else None
