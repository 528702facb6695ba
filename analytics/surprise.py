"""How many repositories usually fail alike, and how surprising so many are.

Theory. Reports of failures are like reports of an illness: rare, few in places, in waves of the day and the week, and
what was an outbreak must not be learned as usual. So we do as epidemiologists do (Farrington and others 1996, "A
statistical algorithm for the early detection of outbreaks of infectious disease", J. R. Statist. Soc. A 159, 547):

* What is counted, x, is the repositories that show a symptom within a window, not its failures: forty jobs of one
  matrix are one witness.
* What is expected, mu, is the higher of two: the symptom's own mean, and its share of all that fails now, as in
  disproportionality of side effects (DuMouchel 1999, Am. Statist. 53, 177). On a Monday morning everything fails more
  often, and nothing is out of proportion. Both are means of recent hours (an exponential memory), and never below a
  floor, so that what was not seen for a week may be seen in a few places.
* x is taken for negative binomial with variance phi mu + mu^2 / n: phi, at least 1, is by how much counts of this
  symptom scatter more than Poisson's, as they did; n is on how many repositories the mean rests.
* The chance of x or more is at most exp(-D), D = x ln(x / mu) - (x + r) ln((x + r) / (mu + r)), r being the negative
  binomial's (the bound of Chernoff). It needs no sums, and it errs on the side of silence.
* Each known symptom is looked at once a minute, 1440 S times a day for S symptoms, so an incident is opened at
  exp(-D) <= false_alarms_per_day / (1440 S): the sum over all bounds the expected false alarms (Bonferroni).

A minute is learned ten minutes later, so that the onset of an incident does not make itself usual; what belongs to an
incident is learned as what was expected, never as what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, Final, NamedTuple

import msgspec

ONSET_MINUTES: Final = 10
"""How long a minute waits before it is learned."""
_CAUTION: Final = 100.0
"""Scatter is Poisson's until about so many sightings say otherwise."""
_FORGOTTEN: Final = 0.05
"""What has less weight than this is as good as never seen."""
_MOST: Final = 5000


class Sighting(NamedTuple):
    """What is to be learned of one symptom in one minute."""

    seen: float  # repositories in the window that ends with it
    scattered: float  # the squared difference from what was expected


class Expected(NamedTuple):
    """What is usual of a symptom in a window."""

    mean: float  # repositories
    scatter: float  # the variance, where Poisson's would be 1
    shape: float  # of the negative binomial distribution: less is wider

    @property
    def learned(self) -> Sighting:
        """What is learned in place of what an incident shows."""
        return Sighting(self.mean, self.scatter * self.mean)


class Known(msgspec.Struct, array_like=True):
    """What is remembered of one symptom, at the minute `at`: sums over all minutes."""

    first: int  # the minute in which it was seen first
    at: int
    seen: float = 0.0
    scattered: float = 0.0


class Usual:
    """What is usual of every symptom, as of the last minute that was learned."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._known: dict[str, Known] = {}
        self._at = 0
        self._minutes = 0.0  # that were learned from, in the weight that memory leaves them
        self._others = 0.0  # sum of what failed in them, and 1 each so that it is never nothing
        self._kept = 1.0  # of what is remembered, from one minute to the next

    @property
    def symptoms(self) -> int:
        """How many are known."""
        return len(self._known)

    def first_seen(self, symptom: str) -> int | None:
        """The minute in which a symptom was seen first, if it was in the time that is remembered."""
        known = self._known.get(symptom)
        return None if known is None else known.first

    def pass_to(self, minute: int, half_life_minutes: int) -> None:
        """Remember that nothing was seen since the last minute that is known, up to this one."""
        self._kept = 0.5 ** (1 / half_life_minutes)
        silent = minute - self._at if self._at else 1
        if silent > 0:
            faded = self._kept**silent
            weight = (1 - faded) / (1 - self._kept)
            self._minutes = self._minutes * faded + weight
            self._others = self._others * faded + weight
            self._at = minute

    def learn(self, minute: int, sightings: Mapping[str, Sighting], half_life_minutes: int) -> None:
        """Remember a minute; in those between it and the last one that is known, nothing was seen."""
        self.pass_to(minute, half_life_minutes)
        kept = self._kept
        for symptom, (seen, scattered) in sightings.items():
            self._others += seen
            known = self._known.get(symptom)
            if known is None:
                known = self._known[symptom] = Known(minute, minute)
            faded = kept ** (minute - known.at)
            known.seen = known.seen * faded + seen
            known.scattered = known.scattered * faded + scattered
            known.at = minute

    def expect(self, symptom: str, others: float, *, least: float, window: int) -> Expected:
        """What is usual of `symptom` while so many `others` fail; `least` is the floor, `window` is in minutes."""
        known = self._known.get(symptom)
        seen = scattered = 0.0
        if known is not None:
            faded = self._kept ** (self._at - known.at)
            seen, scattered = known.seen * faded, known.scattered * faded
        share = seen / max(self._others - seen, self._minutes, 1.0)
        mean = max(share * (others + 1), seen / max(self._minutes, 1.0), least)
        scatter = max(1.0, (scattered + _CAUTION) / (seen + _CAUTION))
        over = (scatter - 1) * mean + scatter * mean * mean / (seen / window + 1)
        return Expected(mean, scatter, mean * mean / over)

    def accept(self, symptom: str, seen: int) -> None:
        """Take so many in every window for usual from now on."""
        weight = seen * self._minutes
        self._known[symptom] = Known(self._at, self._at, weight, weight)

    def forget(self) -> None:
        """Let go of what was not seen for long, and of the rarest if there are too many."""
        weights = {name: known.seen * self._kept ** (self._at - known.at) for name, known in self._known.items()}
        kept = sorted((name for name, weight in weights.items() if weight > _FORGOTTEN), key=lambda n: (-weights[n], n))
        self._known = {name: self._known[name] for name in kept[:_MOST]}

    def state(self) -> list[Any]:
        """All as plain data."""
        return [self._at, self._minutes, self._others, self._known]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        self._at, self._minutes, self._others, known = state
        self._known = msgspec.convert(known, dict[str, Known])


def surprise(count: int, expected: Expected) -> float:
    """Minus the logarithm of what bounds the chance of `count` or more; 0 where that many are usual."""
    mean, _, shape = expected
    if count <= mean:
        return 0.0
    return count * log(count / mean) - (count + shape) * log((count + shape) / (mean + shape))


def needed(false_alarms_per_day: float, symptoms: int) -> float:
    """How surprising a count must be, where so many symptoms are looked at every minute."""
    return max(log(1440 * max(symptoms, 1) / false_alarms_per_day), 0.0)


def out_of_proportion(share: float, usual: float, count: int) -> float:
    """Minus the logarithm of what bounds the chance that of `count` a `share` is so, where `usual` is."""
    if share <= usual:
        return 0.0
    usual = max(usual, 1e-3)
    rest = (1 - share) * log((1 - share) / (1 - usual)) if share < 1 else 0.0
    return count * (share * log(share / usual) + rest)
