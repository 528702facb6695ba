"""What the rival makes of an event, and what it remembers of a shard."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Any, Final

import msgspec

from analytics.policy.decide import FailedJob


class Told(msgspec.Struct, gc=False, frozen=True):
    """The metadata that is used."""

    instance: str
    outcome: str
    commit_sha: str | None = None
    branch: str | None = None
    author: str | None = None
    url: str | None = None
    workflow: str | None = None
    workflow_id: str | None = None
    job_name: str | None = None
    attempt: int = 1
    step: str | None = None
    trigger: str | None = None
    is_default_branch: bool | None = None
    is_fork: bool | None = None
    is_deploy: bool | None = None
    environment: str | None = None
    allow_failure: bool | None = None
    native_retries: int | None = None
    rerun_after: str | None = None
    duration_ms: int | None = None


class Trouble(msgspec.Struct, gc=False, frozen=True):
    """What a failed job says."""

    exit_code: int | None = None
    reason: str | None = None
    excerpt: str | None = None


NO_TROUBLE: Final = Trouble()


class Event(msgspec.Struct, gc=False, frozen=True):
    """One event."""

    id: str
    timestamp: datetime
    platform: str
    repository: str
    pipeline_id: str
    metadata: Told
    job_id: str | None = None
    failure_context: Trouble | None = None


class Minute:
    """What is counted of one repository in one minute."""

    __slots__ = ("completed", "durations", "failed", "late", "platform", "started", "total_ms")

    def __init__(self, platform: str) -> None:
        self.platform = platform
        self.started = self.completed = self.failed = self.late = self.total_ms = 0
        self.durations = [0] * 16


class Case:
    """One run attempt with failed jobs."""

    __slots__ = ("case_id", "ended", "event", "jobs", "last", "newest_ms", "news", "received_ms", "views")

    def __init__(self, event: Event, case: str) -> None:
        self.event = event
        self.case_id = case
        self.jobs: dict[str, dict[str, Any]] = {}
        self.ended: str | None = None
        self.last: list[Any] | None = None
        self.news = -1
        self.newest_ms = self.received_ms = 0
        self.views: list[FailedJob] = []


class Shard:
    """What is remembered of one shard."""

    def __init__(self, number: int, position: int = 0, entry_id: str = "0-0", stream_ms: int = 0) -> None:
        self.number = number
        self.position = position
        self.entry_id = entry_id
        self.stream_ms = stream_ms
        self.turn = 0
        self.young: set[str] = set()
        self.old: set[str] = set()
        self.running: dict[tuple[Any, ...], tuple[int, str]] = {}
        self.over: set[tuple[Any, ...]] = set()
        self.run_ends: dict[tuple[Any, ...], str] = {}
        self.failing: dict[tuple[Any, ...], deque[tuple[int, str]]] = {}
        self.repeated: dict[tuple[Any, ...], list[Any]] = {}
        self.broken: dict[tuple[Any, ...], tuple[int, str]] = {}
        self.tests: set[tuple[Any, ...]] = set()  # commits of jobs on which a test failed
        self.flaky: dict[tuple[Any, ...], list[tuple[int, int]]] = {}  # when tests of a job failed, and then passed
        self.cases: dict[tuple[Any, ...], Case] = {}
        self.minutes: dict[int, dict[tuple[str, str], Minute]] = {}
        self.next_close_ms = 1 << 62
