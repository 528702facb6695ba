"""The event: what happened in a pipeline, in the same words for every platform.

`Event` is the one definition. The JSON Schema, the Protocol Buffers file and the Arrow schema beside it are checked
against it by tests/models/records. Fields may be added, never renamed or dropped.
"""

from __future__ import annotations

import hashlib
import zlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

import msgspec

NAMESPACE = UUID("5f0c2a0e-6c1b-5f0e-9a52-8c3f4a1b7d21")
_NAMED = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The two highest bits of the digit that names the variant are 10: RFC 9562, 4.1."""
SHARDS = 12

PlatformName = Literal["github", "gitlab", "jenkins", "circleci"]


class EventType(StrEnum):
    """What the event says of its run or job."""

    STARTED = "pipeline.started"
    COMPLETED = "pipeline.completed"
    FAILED = "pipeline.failed"


class Outcome(StrEnum):
    """How a run or job stands. A platform's new word becomes UNKNOWN, never an error."""

    QUEUED = "queued"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ERRORED = "errored"  # the platform could not run it: start-up failure, lost runner, invalid configuration
    UNSTABLE = "unstable"  # Jenkins: built, but with failed tests
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    NEUTRAL = "neutral"
    BLOCKED = "blocked"  # waits for a person, or was not allowed to run
    UNKNOWN = "unknown"


FAILING = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.ERRORED})
OPEN = frozenset({Outcome.QUEUED, Outcome.RUNNING})


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where, by whom and on what the run or job ran."""

    instance: str  # the server or organisation that named the run: two GitLabs are two instances
    outcome: Outcome
    commit_sha: str | None = None
    branch: str | None = None
    author: str | None = None  # a keyed pseudonym where the platform gave a mail address
    logs_url: str | None = None
    artifacts_url: str | None = None
    url: str | None = None  # the page a person would open
    workflow: str | None = None  # the workflow's or pipeline's name
    workflow_id: str | None = None  # the run inside the pipeline where a pipeline has several (CircleCI)
    job_name: str | None = None  # null on a run-level event, except where run and job are one (Jenkins)
    job_number: int | None = None  # the number by which the platform's API knows the job, where that is not job_id
    attempt: int = 1
    vendor_status: str | None = None  # the platform's own word for outcome
    stage: str | None = None
    step: str | None = None  # the first failed step
    runner: str | None = None
    runner_labels: list[str] = []
    trigger: str | None = None
    environment: str | None = None  # the deployment environment, if the job has one
    is_default_branch: bool | None = None
    is_fork: bool | None = None
    is_deploy: bool | None = None
    allow_failure: bool | None = None
    native_retries: int | None = None  # how often the platform itself retried the job already
    rerun_after: Literal["job", "run"] | None = None  # what must have ended before the platform takes a rerun
    queued_ms: int | None = None
    duration_ms: int | None = None


class FailureContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a failure from its webhook alone."""

    exit_code: int | None = None
    error_patterns: list[str] = []
    duration_ms: int | None = None
    reason: str | None = None  # the platform's reason code, in its own words
    excerpt: str | None = None  # at most 16 KiB, redacted
    tests_failed: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to one run or job. A run-level event has no job_id."""

    id: str
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    platform: PlatformName
    event_type: EventType
    repository: str
    pipeline_id: str
    job_id: str | None = None
    metadata: Metadata
    failure_context: FailureContext | None = None


def uuid5_text(*parts: str) -> str:
    """UUIDv5 of `parts` in our namespace, as text; the parts cannot run into each other."""
    digest = _NAMED.copy()
    digest.update("\x1f".join(parts).encode("utf-8", "surrogatepass"))
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def event_id(
    *,
    instance: str,
    repository: str,
    pipeline_id: str,
    workflow_id: str | None,
    attempt: int,
    job_id: str | None,
    outcome: Outcome,
    vendor_status: str | None,
) -> str:
    """The id of what happened, not of its delivery: the same fact told twice has one id.

    An unknown outcome is told apart by the platform's own word.
    """
    state = vendor_status or "" if outcome is Outcome.UNKNOWN else outcome.value
    run = (instance, repository, pipeline_id, workflow_id or "", str(attempt))
    return uuid5_text("event", *run, job_id or "", state)


def case_id(*, instance: str, repository: str, pipeline_id: str, workflow_id: str | None, attempt: int) -> str:
    """The id of a run attempt: what one decision is about."""
    return uuid5_text("case", instance, repository, pipeline_id, workflow_id or "", str(attempt))


def shard_of(instance: str, repository: str) -> int:
    """The shard, 0 to 11, that a repository's entries stand in, for ever."""
    return zlib.crc32(f"{instance}\x1f{repository}".encode("utf-8", "surrogatepass")) % SHARDS
