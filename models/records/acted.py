"""The payload of an outcome entry: what was asked of a platform about a case, and what it answered.

Whoever acts appends it to the shard of the case, once the ledger has it. The shard watches the jobs it names, tells
what came of them, and learns from it (analytics/outcomes.py). It says all that is needed for that: the case itself may
be forgotten.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from models.records.errors import MalformedPayload
from models.records.event import PlatformName


class ActResult(StrEnum):
    """How asking ended."""

    DONE = "done"  # the platform did it, or has begun to
    REFUSED = "refused"  # by the platform, for good
    DROPPED = "dropped"  # by us, before anything was asked: the world had moved on
    UNKNOWN = "unknown"  # nobody could find out whether it happened


class ActedJob(msgspec.Struct, frozen=True, array_like=True):
    """A failed job that the action was to heal. Both names are empty where the platform names none."""

    failure_id: str
    workflow: str
    job_name: str
    signature: str | None


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """One action on one target. Times are Unix milliseconds of whoever acted."""

    act_id: str
    decision_id: str
    case_id: str
    platform: PlatformName
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None = None
    attempt: int
    action: str  # the call's name as JSON: rerun_failed, cancel, ...
    target: str  # a job's id, or "run"
    result: ActResult
    signature: str | None = None  # the one that decided
    commit_sha: str | None = None
    branch: str | None = None
    jobs: tuple[ActedJob, ...] = ()
    asked_ms: int
    probe: bool = False  # in an outage, to find out whether it is over


_DECODER = msgspec.json.Decoder(Acted)


def read_acted(payload: bytes) -> Acted:
    """The record that an outcome entry holds.

    Raises:
        MalformedPayload: it holds something else.
    """
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedPayload(f"an outcome that cannot be read: {error}") from None
