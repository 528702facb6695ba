"""What a decision asks of a platform, what came of asking, and how the run stands: inert, and the same in every store.

    Rerun        the whole run once more
    RerunFailed  what failed of it, and what depends on that
    RerunJob     one job
    Cancel       the run, or one job of it
    ClearCaches  what builds keep from one run to the next
    Comment      on a commit, or on a pull or merge request
    OpenIssue    or bring the one that is open up to date
    Notify       people; no platform is asked
    Quarantine   a flaky job, or a test of it; no platform is asked

As JSON a call says which it is under `call`, as `decisions.calls` holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, TypeAlias

import msgspec

from models.records.errors import UnknownSchema
from models.records.event import Outcome, PlatformName

CallName: TypeAlias = Literal[
    "rerun", "rerun_failed", "rerun_job", "cancel", "clear_caches", "comment", "open_issue", "notify", "quarantine"
]


class _Call(msgspec.Struct, frozen=True, kw_only=True, tag_field="call"):
    """On whose behalf it is: a run attempt, and its job where `job_id` names one.

    `repeatable`: asked for twice it comes to the same, so that an ambiguous answer may be followed by asking again.
    `moves_run`: it makes the run go on or stop, so that the run is read before and after.

    What is done about a finding that no run proves has an empty `pipeline_id`.
    """

    repeatable: ClassVar[bool] = False
    moves_run: ClassVar[bool] = False

    platform: PlatformName
    instance: str
    repository: str
    pipeline_id: str
    workflow_id: str | None = None
    attempt: int = 1
    job_id: str | None = None

    @property
    def target(self) -> str:
        """What it is done to, as the ledger names it: the same thing is done to it once for a run attempt."""
        return self.job_id or "run"

    @property
    def name(self) -> CallName:
        """What it is called as JSON, in the ledger and in metrics."""
        tag: CallName = self.__struct_config__.tag  # type: ignore[assignment]  # msgspec knows a str
        return tag


class Rerun(_Call, frozen=True, kw_only=True, tag="rerun"):
    """Run all of it once more, on the same commit."""

    moves_run: ClassVar[bool] = True


class RerunFailed(_Call, frozen=True, kw_only=True, tag="rerun_failed"):
    """Run what failed once more, and what depends on it."""

    moves_run: ClassVar[bool] = True


class RerunJob(_Call, frozen=True, kw_only=True, tag="rerun_job"):
    """Run one job once more, and what depends on it."""

    moves_run: ClassVar[bool] = True


class Cancel(_Call, frozen=True, kw_only=True, tag="cancel"):
    """Stop the run, or its job `job_id`. `force` does so though it resists."""

    repeatable: ClassVar[bool] = True
    moves_run: ClassVar[bool] = True

    force: bool = False


class ClearCaches(_Call, frozen=True, kw_only=True, tag="clear_caches"):
    """Throw away caches: all of the repository, or only those of a Git ref (in full), or whose key begins so."""

    repeatable: ClassVar[bool] = True

    ref: str | None = None
    key_prefix: str | None = None


class Comment(_Call, frozen=True, kw_only=True, tag="comment"):
    """Say `body` under a pull or merge request, or else under a commit, unless a comment with `marker` is there."""

    repeatable: ClassVar[bool] = True

    body: str
    marker: str  # invisible, and how the comment is found again: the decision's id
    commit_sha: str | None = None
    pull_request: int | None = None

    @property
    def target(self) -> str:
        """The comment."""
        return self.marker


class OpenIssue(_Call, frozen=True, kw_only=True, tag="open_issue"):
    """Open an issue, or give the open one with `marker` the new `body`."""

    repeatable: ClassVar[bool] = True

    title: str
    body: str
    marker: str  # invisible, and how the issue is found again
    labels: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The issue."""
        return self.marker


class Notify(_Call, frozen=True, kw_only=True, tag="notify"):
    """Tell people."""

    title: str
    body: str
    subject: str = ""  # what it is about: of one subject people are told only so often

    @property
    def target(self) -> str:
        """What it is about."""
        return self.subject or self.job_id or "run"


class Quarantine(_Call, frozen=True, kw_only=True, tag="quarantine"):
    """Set a flaky job aside, or one test of it: for so many hours its failures alarm nobody and are not run again."""

    repeatable: ClassVar[bool] = True

    workflow: str | None
    job_name: str
    test: str | None = None  # None: the whole job
    owner: str = ""  # who is to mend it
    hours: int
    why: str

    @property
    def target(self) -> str:
        """The job or the test."""
        return " / ".join(filter(None, (self.workflow, self.job_name, self.test)))


Call: TypeAlias = Rerun | RerunFailed | RerunJob | Cancel | ClearCaches | Comment | OpenIssue | Notify | Quarantine


class Refusal(StrEnum):
    """Why a platform said no, for a reason that will not pass by waiting."""

    LOGIN = "login"  # it does not take the credential
    PERMISSION = "permission"  # the credential may not do this
    NOT_FOUND = "not_found"  # no such run, job or repository, or none that the credential may see
    STATE = "state"  # as the run stands it cannot be done: it goes on, or has ended, or somebody was faster
    LIMIT = "limit"  # the platform's own: too old, too often
    INVALID = "invalid"  # it does not understand the request
    MOVED = "moved"  # it is somewhere else; we do not follow
    IMPOSSIBLE = "impossible"  # it has no such thing for this run


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="done"):
    """The platform did it, or has begun to; with what it said it made."""

    attempt: int | None = None
    pipeline_id: str | None = None
    workflow_id: str | None = None
    job_id: str | None = None
    reference: str | None = None  # of a comment, an issue, an item of a queue
    url: str | None = None
    already: bool = False  # it stood so before we asked


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It did not happen, and will not by asking again. `why` may hold words of the platform."""

    refusal: Refusal
    why: str


class Unavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """It did not happen, and may be asked for again; not before `retry_after` seconds where the platform named them."""

    why: str
    retry_after: float | None = None


class Ambiguous(msgspec.Struct, frozen=True, tag="ambiguous"):
    """Nobody knows whether it happened. What is not repeatable is never asked for again before the run was read."""

    why: str
    retry_after: float | None = None


Result: TypeAlias = Done | Refused | Unavailable | Ambiguous


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """How that stands which a call is about: read before acting, and after an answer that was ambiguous.

    Whether something ran it once more in between is told by comparing two of them: `successor` is then another one.
    """

    outcome: Outcome  # of the newest execution; open while it goes on
    attempt: int  # the newest one, from 1
    successor: str | None = None  # the newest execution's id where it is not the one that the call is about
    by: str | None = None  # who asked for the newest execution, by the platform's name for them
    commit_sha: str | None = None
    head_sha: str | None = None  # of the branch, as far as its runs tell

    @property
    def overtaken(self) -> bool:
        """Whether the branch has a newer commit."""
        return None not in (self.commit_sha, self.head_sha) and self.commit_sha != self.head_sha


_DECODER: Final[msgspec.json.Decoder[Call]] = msgspec.json.Decoder(Call)


def to_json(call: Call) -> bytes:
    """`call` as it stands in a store."""
    return msgspec.json.encode(call)


def from_json(data: bytes | str) -> Call:
    """The call that `data` says.

    Raises:
        UnknownSchema: none that this release knows.
    """
    try:
        return _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise UnknownSchema(f"no call: {error}") from None


def from_row(row: Mapping[str, Any]) -> Call:
    """The call that stands in a decision.

    Raises:
        UnknownSchema: none that this release knows.
    """
    try:
        call: Call = msgspec.convert(row, Call)
    except msgspec.MsgspecError as error:
        raise UnknownSchema(f"no call: {error}") from None
    return call
