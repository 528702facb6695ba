"""What happened while nobody listened: runs as they stand, told as the webhooks would have told them.

A platform's file asks for its runs, makes of each the body that its webhook would have had, and reads that with the
reader of its webhooks. So an event that is found by asking has the id of the event that a delivery would have brought,
and where both come, one is a duplicate. Events of open states that nobody sees any more are lost; their ends are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

import msgspec

from connectors.platforms.reading import Fields
from models.records.errors import MalformedPayload
from models.records.event import Event

LONGEST_RUN: Final = timedelta(days=1)
"""Where runs are listed by when they began, those are looked at too that began so long before."""


class Recent(NamedTuple):
    """What happened of late; `unreadable` counts what could not be read. `cut`: there was more than is listed."""

    events: list[Event]
    unreadable: int
    cut: bool = False


class Hook(NamedTuple):
    """How a webhook stands at its platform, and why."""

    disabled: bool
    failing: bool
    why: str = ""


class Delivery(msgspec.Struct, frozen=True):
    """One attempt to deliver a webhook. Attempts with the same `guid` tried to deliver the same."""

    id: int
    guid: str
    delivered_at: str
    status_code: int  # 0 where there was no answer in time
    event: str


class Undelivered(NamedTuple):
    """Deliveries that nobody took, each by its last attempt, the oldest first; and the guids of those that were."""

    failed: list[Delivery]
    taken: frozenset[str]


Read: TypeAlias = Callable[[str, Fields], Sequence[Event]]
"""The events of a webhook of this kind and body."""


class Gathering:
    """Reads one body after the other; what cannot be read is counted, and costs nothing else."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._events: list[Event] = []
        self._unreadable = 0
        self.cut = False  # there was more than is listed

    def take(self, kind: str, body: dict[str, object]) -> None:
        """Read a webhook of `kind` whose body would be `body`."""
        try:
            self._events += self._read(kind, Fields.of(body))
        except MalformedPayload:
            self._unreadable += 1

    def all(self) -> Recent:
        """What was read."""
        return Recent(self._events, self._unreadable, self.cut)


MOST_LISTED: Final = 10_000
"""So many runs of a repository are looked at, the newest."""

UNKNOWN_DEPLOYMENT: Final[Mapping[str, object]] = {"known": False}
"""Stands where a webhook names the environment of a failed job, if nobody may say whether the job deploys. It then
counts as one that does, and is never run again."""


def is_before(thing: Fields, since: datetime, *keys: str) -> bool:
    """Whether the first time under `keys` says that `thing` was over before `since`; not where there is none."""
    try:
        at = next((at for key in keys if (at := thing.time(key)) is not None), None)
    except MalformedPayload:
        return False
    return at is not None and at < since


def iso(at: datetime) -> str:
    """`at` as every platform takes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
