"""Days and times of day in UTC, from Unix milliseconds, and the days of a profile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from analytics.detectors.detector import Counts, Profile

DAY_MS: Final = 86_400_000
ONE_BY_ONE: Final = 3
"""How many days before those of `recent` are replayed one by one: enough to see over a weekend."""
WEEKDAYS: Final = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


def before(profile: Profile) -> tuple[Sequence[Counts], Sequence[Counts]]:
    """The whole days before those that `recent` touches: the older to learn from, and the last to be replayed.

    Today and yesterday hold what stands in `recent` too; they are in neither, so that nothing is counted twice.
    """
    first = profile.recent[0].at_ms // DAY_MS * DAY_MS
    since = first - ONE_BY_ONE * DAY_MS
    older = [day for day in profile.days if day.at_ms < since]
    return older, [day for day in profile.days if since <= day.at_ms < first]


def known_from(since_ms: int, profile: Profile) -> int:
    """From when on something has begun that began at `since_ms`, or on that day where it was before `recent`.

    It is then the end of that day: a beginning that moves with the hours that are left never becomes earlier.
    """
    first = profile.recent[0].at_ms
    return since_ms if since_ms >= first else min(since_ms + DAY_MS, first)


def since(since_ms: int, profile: Profile) -> str:
    """As people read it: the time of day within `recent`, else the day."""
    return time_of(since_ms) if since_ms >= profile.recent[0].at_ms else date_of(since_ms)


def day_of(at_ms: int) -> int:
    """The day, counted from 1 January 1970."""
    return at_ms // DAY_MS


def weekday_of(day: int) -> int:
    """0 on Mondays; 1 January 1970 was a Thursday."""
    return (day + 3) % 7


def time_of(at_ms: int) -> str:
    """The time of day as people read it: `14:10 UTC`."""
    minutes = at_ms // 60_000 % 1440
    return f"{minutes // 60:02}:{minutes % 60:02} UTC"


def date_of(at_ms: int) -> str:
    """The day as people read it: `3 Nov`."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at.day} {at:%b}"


def length_of(duration_ms: float) -> str:
    """A duration as people read it, to two or three digits: `9.5 s`, `130 s`, `25 min`, `3.5 h`."""
    seconds = duration_ms / 1000
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    if seconds < 200:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 10_000 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004
