"""The words of the ledger: how far a case has come that is to be healed, and why it stands there.

Closed: a column, a metric label and the answer to "why did it not heal?".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from models.records.event import uuid5_text

Scope = Literal["job", "run", "commit", "repository", "fleet"]


class Standing(StrEnum):
    """How far it came."""

    WAITING = "waiting"
    PROPOSED = "proposed"  # to people
    TAKEN = "taken"  # a healer is at it
    FINISHED = "finished"
    REFUSED = "refused"


class ActState(StrEnum):
    """What became of one call."""

    INTENT = "intent"  # nobody knows yet whether it happened
    DONE = "done"
    REFUSED = "refused"  # by the platform
    DROPPED = "dropped"  # by us, before it was asked
    UNKNOWN = "unknown"  # whether it happened could not be found out


class Why(StrEnum):
    """Why a case stands where it stands."""

    NEW = "new"
    # it waits
    NOT_BEFORE = "not_before"
    STOPPED = "stopped"  # by the kill switch
    INCIDENT = "incident"  # that is still going on
    RELEASED = "released"  # from one that is over, and has a place in the queue
    COOLDOWN = "cooldown"  # the same was done a moment ago
    TARGET_BUSY = "target_busy"  # something else is being done to the same run
    REPOSITORY_BUDGET = "repository_budget"
    FLEET_BUDGET = "fleet_budget"
    RETRY_RATIO = "retry_ratio"  # so large a share of all that runs may not be reruns
    PLATFORM_AWAY = "platform_away"
    LOGIN = "login"  # the platform does not take our credential
    RUN_IN_PROGRESS = "run_in_progress"  # something of it still goes on
    PROPOSED = "proposed"
    # it is refused
    WITHDRAWN = "withdrawn"  # by a later decision
    MODE = "mode"  # observe, by now
    STALE = "stale"  # it is too long ago
    JOB_BUDGET = "job_budget"
    RUN_BUDGET = "run_budget"
    COMMIT_BUDGET = "commit_budget"
    PLATFORM_CAP = "platform_cap"  # the platform takes no more reruns of this run
    OVERTAKEN = "overtaken"  # the branch has a newer commit
    ALREADY_RUN = "already_run"  # somebody was faster
    NOT_FAILED = "not_failed"  # by now it has passed, or was called off
    NO_ACTION = "no_action"  # the platform has no such thing, or no credential for it is set
    PLATFORM_REFUSED = "platform_refused"
    REJECTED = "rejected"  # by a person
    EXPIRED = "expired"  # nobody said yes in time
    ALREADY_ASKED = "already_asked"  # the ledger has it
    GIVEN_UP = "given_up"  # the platform was away each time
    # it is finished
    DONE = "done"
    UNKNOWN = "unknown"


class HoldRules(NamedTuple):
    """How an incident, in which reruns of its cause wait, is tried out, and how it lets go."""

    probe_seconds: float = 30.0  # between two probes; a quarter of it while more have passed than failed of late
    passes: int = 2  # so many more that pass than fail say that it is over
    failures: int = 3  # so many after that, and nearly all of a dozen, say that it is not
    drain_seconds: float = 120.0  # over which what waited comes back

    @property
    def sooner_seconds(self) -> float:
        """By so much the next probe comes earlier while more have passed than failed of late."""
        return 0.75 * self.probe_seconds


NOT_TRIED: Final = frozenset({Why.STALE, Why.OVERTAKEN, Why.ALREADY_RUN, Why.NOT_FAILED})
"""Why a probe may be refused without saying anything of its incident, so that another one is tried at once."""


class Crowd(NamedTuple):
    """How many repositories have had one cause within a window, and how many cases one usually sees in as long."""

    repositories: int
    usual: float


def ahead(newest: Iterable[bool]) -> int:
    """By how many more probes have passed than failed, since most of them failed: `newest` has whether each passed, in
    the order in which they were asked for, the newest first.

    This is Page's cumulative sum ("Continuous Inspection Schemes", Biometrika 41, 1954), one up for a pass, one down
    for a failure and never below none. Of what an outage is not to blame for some always fails, and soonest of all.
    """
    count = 0
    for passed in reversed(list(newest)):
        count = max(0, count + (1 if passed else -1))
    return count


def goes_on(newest: Sequence[bool | None], rules: HoldRules) -> bool:
    """Whether what was run again after an incident was said to be over fails so often that it is not.

    `newest` is whether each has passed, in the order in which they were asked for, the newest first; None is not known
    yet. What fails ends sooner than what passes, so that those that still go on count as not failed. Of hundreds that
    are let go some always fail once more: nearly all of a dozen that were asked for one after another must have, and no
    later dozen has passed for the most part.
    """
    size = min(_ONE_AFTER_ANOTHER, len(newest))
    wanted = max(rules.failures, _NEARLY_ALL * size)
    for first in range(len(newest) - size + 1):
        window = newest[first : first + size]
        if sum(one is False for one in window) >= wanted:
            return True
        if sum(one is True for one in window) > size / 2:
            return False
    return False


_ONE_AFTER_ANOTHER: Final = 12
_NEARLY_ALL: Final = 0.75


class Charge(NamedTuple):
    """What an act takes of one budget. `period_ms` is the beginning of its hour; 0 where there is one for ever."""

    scope: Scope
    key: str
    period_ms: int
    acts: int
    minutes: float


class Earlier(NamedTuple):
    """An act that the ledger has of the same repository."""

    pipeline_id: str
    workflow_id: str
    attempt: int
    action: str
    state: str
    asked: float | None
    jobs: tuple[tuple[str, str], ...]
    made: dict[str, Any]  # what the platform said it made: Done's fields
    origin: str


def act_id(
    *, instance: str, repository: str, pipeline_id: str, workflow_id: str | None, attempt: int, target: str, action: str
) -> str:
    """The UUIDv5 of an act: the same for the same thing, whoever asks for it."""
    return uuid5_text("act", instance, repository, pipeline_id, workflow_id or "", str(attempt), target, action)
