"""What a credential must be allowed, and what it is: asked at the start, so that nobody finds out by a 403 at night.

A platform's file names under NEEDS what each call needs, in the platform's own words; `rights` there asks who the
credential is and what it lacks. No platform tells everything, and none is asked to do anything to find out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from connectors.platforms.acting import Talk

READ: Final = "read"
"""What is needed to read runs, beside what each call of models/records/calls.py needs under its own name."""

Needs: TypeAlias = Mapping[str, frozenset[str]]


class Rights(NamedTuple):
    """Who a credential is, as far as the platform says, and what it lacks for what it is to do.

    `unproven`: what the platform does not tell, and the first call will. `expires_at` is as the platform writes it.
    """

    who: str | None = None
    missing: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()
    expires_at: str | None = None


Asked: TypeAlias = Talk[Rights]


def needed(needs: Needs, calls: Iterable[str]) -> frozenset[str]:
    """All that `calls` need, by their names; what a platform cannot do needs nothing."""
    return frozenset().union(*(needs.get(call, frozenset()) for call in calls))


def lacking(wanted: Collection[str], given: Collection[str], *, implied: Mapping[str, Collection[str]]) -> list[str]:
    """What of `wanted` is not `given`, in order; `implied` names what else holds who has it."""
    held = {*given, *(also for one in given for also in implied.get(one, ()))}
    return sorted(set(wanted) - held)
