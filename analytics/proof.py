"""What a log proves: the signature that its lines match, judged by what the last passing log of the job did not have.

A line that stands in the passing log too explains no failure, however well a signature knows it: the next best line
that is new is taken, and where there is none the cause stays unknown, with the line beside it.
"""

from __future__ import annotations

from datetime import date
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from analytics.causes import Cause
from analytics.signatures.catalogue import Catalogue, Match
from models.records.errors import MalformedPayload
from models.records.evidence import Evidence, Line, Reading
from models.records.outputs import Diagnosis

_MOST: Final = 2**53
"""What JSON carries exactly, and far more than any log has."""


class Proof(NamedTuple):
    """What the log and the webhook together say of a failure."""

    cause: Cause
    match: Match | None
    seen_passing: bool = False  # the passing log has the matched line too, so that it proves nothing
    discarded: str | None = None  # the strongest signature, where it was passed over because of that


def prove(
    catalogue: Catalogue, platform: str, facts: tuple[str, ...], evidence: Evidence, *, on: date | None = None
) -> Proof:
    """The signature that explains a failure best, of all that is known of it; `on` as Catalogue.match has it."""
    lines = evidence.lines
    match = catalogue.match(platform, facts, lines or None, on=on)
    discarded = None
    if match is not None and evidence.compared and not _is_new(match, lines):
        new = [line for line in lines if line.new]
        if (other := catalogue.match(platform, facts, new or None, on=on)) is None:
            return Proof(Cause(Diagnosis.NO_PATTERN.value), match, seen_passing=True, discarded=match.signature.name)
        discarded = match.signature.name
        match = other
    if match is None:
        return Proof(Cause(_unmatched(evidence).value), None)
    it = match.signature
    cause = Cause(Diagnosis.MATCHED.value, it.name, it.category.value, it.transient, it.hard_stop, it.cause)
    return Proof(cause, match, discarded=discarded)


def _is_new(match: Match, lines: tuple[Line, ...]) -> bool:
    return match.number is None or any(line.new for line in lines if line.number == match.number)


def _unmatched(evidence: Evidence) -> Diagnosis:
    match evidence.reading:
        case Reading.READ:
            return Diagnosis.NO_PATTERN
        case Reading.NO_LOG:
            return Diagnosis.NO_LOG
        case Reading.NOT_READ:
            return Diagnosis.NOT_READ


def read_evidence(payload: bytes) -> Evidence:
    """The evidence of an entry, fit to be stored.

    Raises:
        MalformedPayload: it is none, or holds what PostgreSQL would refuse.
    """
    try:
        evidence = _DECODER.decode(payload)
        UUID(evidence.event_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedPayload(f"evidence that cannot be read: {error}") from None
    counts = (evidence.log_lines, evidence.log_bytes, evidence.normaliser, *(line.number for line in evidence.lines))
    if not all(0 <= count <= _MOST for count in counts) or not -_MOST <= (evidence.exit_code or 0) <= _MOST:
        raise MalformedPayload("evidence with a number that is out of range")
    if b"\\u0000" in payload:
        raise MalformedPayload("evidence with a NUL character, which cannot be stored")
    return evidence


_DECODER: Final = msgspec.json.Decoder(Evidence)
