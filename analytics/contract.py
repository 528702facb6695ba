"""Whether a detector does what its own examples say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analytics.detectors.detector import JOB, Detector, Finding, Seen, milliseconds


def problems(cls: type[Detector]) -> list[str]:
    """What is wrong with a detector, a sentence each."""
    examples = {kind: getattr(cls, kind, ()) for kind in ("FIRES", "SILENT")}
    missing = [f"{kind} is empty: it needs an example" for kind, some in examples.items() if not some]
    if missing or cls.judge is Detector.judge:
        return missing or ["has no judge()"]
    try:
        detector = cls()
    except TypeError as error:
        return [f"cannot be made without parameters: {error}"]
    found = [_wrong(detector, kind, number, e) for kind, some in examples.items() for number, e in enumerate(some)]
    return [problem for problem in found if problem is not None]


def _wrong(detector: Detector, kind: str, number: int, example: Sequence[Seen]) -> str | None:
    where = f"{kind}[{number}]"
    try:
        answers = answers_to(detector, example)
    except Exception as error:  # noqa: BLE001 - whatever a detector raises is its own
        return f"{where}: {type(error).__name__}: {error}"
    for answer in answers:
        if answer is not None and type(answer) is not Finding:
            return f"{where}: judge() answered {type(answer).__name__}, not a Finding or None"
        if answer is not None and not {seen.id for seen in example}.issuperset(answer.events):
            return f"{where}: judge() answered events that it was not shown"
    fired = [answer for answer in answers if answer is not None]
    if kind == "FIRES" and not fired:
        return f"{where} must fire, and did not"
    if kind == "SILENT" and fired:
        return f"{where} must be silent, and fired: {fired[0].message}"
    return None


def answers_to(detector: Detector, example: Sequence[Seen]) -> list[Any]:
    """What `detector` answers to `example`, asked whenever something happens in it, or when it is due."""
    if detector.by != JOB:
        due = detector.due(example[:1], None)
        over = due is None or any(seen.at_ms < due and seen.outcome not in detector.sees for seen in example)
        return [] if over or due is None else [detector.judge(example[:1], due)]
    answers = []
    for count in range(1, len(example) + 1):
        at = example[count - 1].at_ms
        since = at - milliseconds(detector.within)
        visible = [s for s in sorted(example[:count]) if s.at_ms > since and s.outcome in detector.sees]
        answers.append(detector.judge(visible, at) if visible else None)
    return answers
