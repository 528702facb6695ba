"""Evidence: what the log of a failed job showed, as it travels from the log reader to the job's shard.

It carries lines, never a verdict: the shard matches them with the rulebook in force, so that a replay explains what was
explained. The reader sees to it that every line some signature knows is among them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

EXCERPT_BYTES: Final = 16 << 10
"""The lines of an excerpt are no more than this in UTF-8, a line break after each included."""


class Reading(StrEnum):
    """What became of the attempt to read a log."""

    READ = "read"
    NO_LOG = "no_log"  # the platform has none: never written, erased, expired
    NOT_READ = "not_read"  # refused, unreachable, or given up


class Line(NamedTuple):
    """One line of an excerpt. `number` is its place in the log as the platform gave it, from 1."""

    number: int
    text: str  # normalised and redacted
    new: bool  # the last passing log of the job did not have it; true where there is none to compare with


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one failed job from its log. `event_id` is the event that told of the failure."""

    event_id: str
    instance: str
    repository: str
    pipeline_id: str
    job_id: str | None  # as the event has it: null where run and job are one
    attempt: int
    workflow_id: str | None = None
    reading: Reading
    why: str | None = None  # of NO_LOG and NOT_READ: in a few words, "HTTP 403"
    exit_code: int | None = None
    lines: tuple[Line, ...] = ()  # in the order of the log
    log_lines: int = 0  # lines of the whole log
    log_bytes: int = 0  # bytes of the whole log as the platform gave it
    cut: bool = False  # the log was longer than is read; its beginning and its end were
    compared: bool = False  # there was a passing log of this job to compare with
    template: str | None = None  # the masked line that stands for the failure, by which unknown ones are grouped
    normaliser: int = 0  # version of what made these lines of the log

    @property
    def case_key(self) -> str:
        """The key of its run attempt, as the shard makes it of an event."""
        return "\x1f".join(
            (self.instance, self.repository, self.pipeline_id, self.workflow_id or "", str(self.attempt))
        )
