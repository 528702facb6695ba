"""What leaves a reader: evidence, with no secret in it and no longer than it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from connectors.deliveries import LogRequest
from connectors.redaction import Redactor
from models.records.entry import Encoding, Entry, Kind, trace_of
from models.records.evidence import EXCERPT_BYTES, Evidence, Line, Reading

_ENCODER = msgspec.json.Encoder()


def evidence(request: LogRequest, reading: Reading, **known: Any) -> Evidence:  # noqa: ANN401 - Evidence's own fields
    """What is `known` of the log that `request` asks for."""
    return Evidence(
        event_id=request.event_id,
        instance=request.instance,
        repository=request.repository,
        pipeline_id=request.pipeline_id,
        job_id=request.job_id,
        attempt=request.attempt,
        workflow_id=request.workflow_id,
        reading=reading,
        **known,
    )


def read(request: LogRequest, facts: Mapping[str, Any], redactor: Redactor) -> Evidence:
    """The evidence of a log that was read, from the `facts` that the analysis found; every text in it is redacted."""
    template = facts.get("template")
    lines = fitted(redacted(facts.get("lines", ()), redactor))
    hidden = {"lines": lines, "template": None if template is None else redactor.redact(template)}
    return evidence(request, Reading.READ, **{**facts, **hidden})


def entry(found: Evidence, request: LogRequest, *, at_ms: int) -> Entry:
    """The entry that tells the shard of `found`; it goes on with the trace of the delivery."""
    return Entry(Kind.EVIDENCE, Encoding.JSON, at_ms, _ENCODER.encode(found), trace_of(request.traceparent))


def redacted(lines: Sequence[Line], redactor: Redactor) -> tuple[Line, ...]:
    """`lines` without what must not pass. They are looked at together: a key in armour has many lines."""
    whole = "\n".join(line.text for line in lines)
    parts = redactor.redact(whole).split("\n")
    if len(parts) != len(lines):
        return _aligned(lines, parts, redactor)
    return tuple(line._replace(text=part) for line, part in zip(lines, parts, strict=True))


def _aligned(lines: Sequence[Line], parts: Sequence[str], redactor: Redactor) -> tuple[Line, ...]:
    """The `parts` that are left where a mark took the place of several `lines`, each with the line it came from."""
    alone = [redactor.redact(line.text) for line in lines]
    kept: list[Line] = []
    at = 0
    for part in parts:
        same = next((i for i in range(at, len(lines)) if alone[i] == part), at)
        if same < len(lines):
            kept.append(lines[same]._replace(text=part))
        at = same + 1
    return tuple(kept)


def fitted(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The last of `lines` that an excerpt has room for: marks may be longer than what they hide."""
    size, first = 0, len(lines)
    while first and (size := size + len(lines[first - 1].text.encode()) + 1) <= EXCERPT_BYTES:
        first -= 1
    return tuple(lines[first:])
