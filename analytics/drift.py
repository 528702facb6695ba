"""Whether a job's durations, or its waits, have become longer than they used to be on such days.

What is usual is the distribution on the same weekday where enough is known of it, else on working days or at weekends.
Each run of the last day, and of three days before it, is ranked in it: 0 faster than all, 1 slower than all (Bross,
Biometrics 1958, calls it ridit). Ranks need no shape of the distribution, and monsters weigh no more than slow runs.

If nothing changed, a rank is spread evenly over 0 to 1, so that exp(TILT * (rank - 1/2)) / MEAN has a mean of one; ties
make it less. The sum of its logarithms is a cumulative sum (Page, Biometrika 1954) with a stated rate of false alarms:
from one beginning it ever exceeds h with a chance of at most e**-h (Ville), and there is one beginning an hour at most
(Lorden, Annals of Mathematical Statistics 1971). So that a slow noon, an error of what is usual, or a few per cent more
raise nothing, runs are first made shorter by the square root of the `ratio` that is looked for: slower by that much
must be proven, and the median must be slower by all of the ratio. It ends when it is proven that runs are less than
`ratio` slower. Between the two it stays what it was.

The runs of one hour are not independent: they share the machines of that hour. However many they are, an hour counts
for no more than its share of the proof, so that no drift is shorter than `least_hours`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from math import floor, log, log2, sinh, sqrt
from typing import Final, NamedTuple

from analytics.buckets import LONGEST, PER_OCTAVE, middle_ms
from analytics.days import DAY_MS, WEEKDAYS, before, weekday_of
from analytics.detectors.detector import Counts, Profile

_TILT: Final = 4.0
_LOG_MEAN: Final = log(sinh(_TILT / 2) / (_TILT / 2))
_HOURS_A_YEAR: Final = 365 * 24
_CLEAR_AT: Final = log(100)
_SATURDAY: Final = 5
_ROUNDING: Final = 1e-9
_NONE: Final = -2  # shorter than any
_BELOW_SECOND: Final = -1


class Rules(NamedTuple):
    """What counts as drift; see the detectors' parameters."""

    ratio: float
    extra_ms: float
    least_runs: int
    least_hours: int
    least_before: int
    false_alarms_per_year: float


@dataclass(slots=True)
class Runs:
    """The runs from one stretch on, by bucket."""

    since_ms: int
    last_ms: int = 0
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, at_ms: int, counts: Mapping[int, int]) -> None:
        """Add what one stretch had."""
        self.last_ms = at_ms
        _add(self.counts, counts)

    @property
    def runs(self) -> int:
        """How many."""
        return sum(self.counts.values())

    @property
    def median_ms(self) -> float:
        """Their median."""
        return median_of(self.counts)


class Drift:
    """Where the stretches of a profile lead: `slower` or not, the runs since then, and those that are `back`."""

    __slots__ = ("_clear_at", "_evidence", "_raise_at", "_rules", "back", "now", "slower", "usual")

    def __init__(self, profile: Profile, of: Callable[[Counts], Mapping[int, int]], rules: Rules) -> None:
        """Replay them; `of` takes from each what is measured."""
        self._rules: Final = rules
        self._raise_at: Final = log(_HOURS_A_YEAR / rules.false_alarms_per_year)
        self._evidence = 0.0
        self.slower = False
        self.now = Runs(0)
        self.back: Runs | None = None
        self.usual: Usual | None = None
        older, last = before(profile)
        learnt = _Learnt(older, of, rules)
        for stretch in (*last, *profile.recent) if older else ():
            counts = of(stretch)
            usual = learnt.on(stretch.at_ms // DAY_MS) if counts else None
            if usual is not None:
                self.usual = usual
                (self._within if self.slower else self._outside)(usual, stretch.at_ms, counts)

    def _outside(self, usual: Usual, at_ms: int, counts: Mapping[int, int]) -> None:
        """Look for a drift that has begun."""
        evidence = self._evidence + min(usual.slower.of(counts), self._raise_at / self._rules.least_hours)
        if evidence <= 0:
            self._evidence = 0.0
            return
        if not self._evidence:
            self.now = Runs(at_ms)
        self._evidence = evidence
        self.now.add(at_ms, counts)
        if evidence >= self._raise_at - _ROUNDING and self._is_drift(usual):
            self.slower, self._evidence, self.back = True, 0.0, None

    def _is_drift(self, usual: Usual) -> bool:
        least_ms = max(self._rules.ratio * usual.median_ms, usual.median_ms + self._rules.extra_ms)
        return self.now.runs >= self._rules.least_runs and self.now.median_ms >= least_ms

    def _within(self, usual: Usual, at_ms: int, counts: Mapping[int, int]) -> None:
        """Look for its end."""
        if self.back is None:
            self.back = Runs(at_ms)
        self.back.add(at_ms, counts)
        self._evidence += min(usual.back.of(counts), _CLEAR_AT / self._rules.least_hours)
        if self._evidence >= _CLEAR_AT - _ROUNDING:
            self.slower, self._evidence = False, 0.0
        elif self._evidence <= 0:
            self.now.add(at_ms, self.back.counts)
            self._evidence, self.back = 0.0, None


class Usual:
    """What is usual on days of one kind, and what a run says for and against drift beside it."""

    __slots__ = ("back", "days", "median_ms", "runs", "slower")

    def __init__(self, days: str, counts: Mapping[int, int], rules: Rules) -> None:
        """Take the runs of such `days`, named as in "60 s on Mondays"."""
        self.days: Final = days
        self.runs: Final = sum(counts.values())
        self.median_ms: Final = median_of(counts)
        ranks, lowest = _ranks(counts, self.runs), min(counts)
        self.slower: Final = _Evidence(ranks, lowest, _shorter(sqrt(rules.ratio), rules.extra_ms / 2), _TILT)
        self.back: Final = _Evidence(ranks, lowest, _shorter(rules.ratio, rules.extra_ms), -_TILT)


class _Evidence(dict[int, float]):
    """By bucket, what one run says, as a logarithm; worked out when it is asked for."""

    __slots__ = ("_lowest", "_ranks", "_shorter", "_tilt")

    def __init__(self, ranks: Sequence[float], lowest: int, shorter: Sequence[int], tilt: float) -> None:
        super().__init__()
        self._ranks: Final = ranks
        self._lowest: Final = lowest
        self._shorter: Final = shorter
        self._tilt: Final = tilt

    def __missing__(self, bucket: int) -> float:
        place = self._shorter[bucket + 1] - self._lowest
        rank = 0.0 if place < 0 else self._ranks[place] if place < len(self._ranks) else 1.0
        said = self[bucket] = self._tilt * (rank - 0.5) - _LOG_MEAN
        return said

    def of(self, counts: Mapping[int, int]) -> float:
        """What all the runs of `counts` say."""
        said = 0.0
        for bucket, count in counts.items():
            said += count * self[bucket]
        return said


class _Learnt:
    """What is usual, by the kind of day."""

    def __init__(self, days: Sequence[Counts], of: Callable[[Counts], Mapping[int, int]], rules: Rules) -> None:
        self._told: Final[list[list[Mapping[int, int]]]] = [[] for _ in WEEKDAYS]
        for day in days:
            self._told[weekday_of(day.at_ms // DAY_MS)].append(of(day))
        self._rules: Final = rules
        self._usual: Final[dict[int, Usual | None]] = {}  # by weekday
        self._alike: Final[dict[bool, Usual | None]] = {}  # by whether it is the weekend

    def on(self, day: int) -> Usual | None:
        """What is usual on such a day; None where too little is known."""
        weekday = weekday_of(day)
        if weekday not in self._usual:
            same = self._of(f"on {WEEKDAYS[weekday]}", self._told[weekday])
            self._usual[weekday] = same or self._on_alike(weekend=weekday >= _SATURDAY)
        return self._usual[weekday]

    def _on_alike(self, *, weekend: bool) -> Usual | None:
        if weekend not in self._alike:
            told = self._told[_SATURDAY:] if weekend else self._told[:_SATURDAY]
            said = "at weekends" if weekend else "on weekdays"
            self._alike[weekend] = self._of(said, list(chain.from_iterable(told)))
        return self._alike[weekend]

    def _of(self, said: str, told: Sequence[Mapping[int, int]]) -> Usual | None:
        total: dict[int, int] = {}
        for counts in told:
            _add(total, counts)
        return Usual(said, total, self._rules) if sum(total.values()) >= self._rules.least_before else None


def median_of(counts: Mapping[int, int]) -> float:
    """The median in milliseconds of what is in `counts`, which is not empty.

    Runs are taken to lie evenly within their bucket, on the logarithmic scale.
    """
    half, below = sum(counts.values()) / 2, 0
    for bucket in sorted(counts):
        if below + counts[bucket] >= half:
            break
        below += counts[bucket]
    if bucket == _BELOW_SECOND:
        return middle_ms(bucket)
    return float(1000 * 2 ** ((bucket + (half - below) / counts[bucket]) / PER_OCTAVE))


def _add(total: dict[int, int], counts: Mapping[int, int]) -> None:
    for bucket, count in counts.items():
        total[bucket] = total.get(bucket, 0) + count


def _ranks(counts: Mapping[int, int], runs: int) -> list[float]:
    """From the lowest bucket on: how many are faster than what lies in it, and half of those in it, by all."""
    below, ranks = 0, []
    for bucket in range(min(counts), max(counts) + 1):
        count = counts.get(bucket, 0)
        ranks.append((below + count / 2) / runs)
        below += count
    return ranks


@lru_cache(64)
def _shorter(factor: float, extra_ms: float) -> tuple[int, ...]:
    """By bucket, from -1 on, the bucket of what is shorter by a factor, or by so much where that is more."""
    return tuple(_bucket_of(min(ms / factor, ms - extra_ms)) for ms in map(middle_ms, range(-1, LONGEST + 1)))


def _bucket_of(duration_ms: float) -> int:
    return _NONE if duration_ms <= 0 else max(_BELOW_SECOND, floor(log2(duration_ms / 1000) * PER_OCTAVE))
