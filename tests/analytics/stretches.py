"""The profile of stretches that are written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from msgspec.structs import replace

from analytics.detectors.detector import Counts, Field, Profile
from analytics.profiles import STRETCH_MS, _with


def profile_of(ended: Iterable[tuple[int, Counts]], by: tuple[Field, ...]) -> Profile:
    """The profile that single `ended` stretches make, each with Unix milliseconds in it."""
    profile, stretch_ms = Profile((), ()), STRETCH_MS[by]
    for at_ms, counts in sorted(ended, key=itemgetter(0)):
        profile = _with(profile, replace(counts, at_ms=at_ms // stretch_ms * stretch_ms), by)
    return profile
