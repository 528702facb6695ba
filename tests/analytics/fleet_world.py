"""A fleet of repositories that fail as real ones do: unevenly, in waves of day and week, several jobs at once."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from analytics.failure_panes import Kind
from models.records.event import SHARDS
from models.records.outputs import ClosedMinutes, FailureGroup

BEGIN = 29_000_000 // 10_080 * 10_080
"""A midnight, in minutes since 1970."""
DAY = 1440
_PLACES = (
    ("github", "github.com", "", "ubuntu-latest"),
    ("github", "github.com", "", "linux,self-hosted"),
    ("github", "github.com", "", "linux"),
    ("gitlab", "gitlab.example.org", "", "docker"),
    ("gitlab", "gitlab.example.org", "", "shell"),
    ("jenkins", "ci.example.org", "", ""),
)


class Outage(NamedTuple):
    """A trouble of the fleet: so many repositories a minute show a symptom, where it is so."""

    begin: int  # minutes after BEGIN
    end: int
    per_minute: float
    symptom: str = "dns_failure"
    category: str | None = "network"
    host: str = ""
    label: str = ""


@dataclass
class World:
    """All failures of `repositories`, `per_day` pushes that fail on a weekday, minute by minute."""

    rng: random.Random
    repositories: int = 500
    per_day: float = 6000.0
    outages: Sequence[Outage] = ()
    symptoms: list[tuple[str, str | None]] = field(
        default_factory=lambda: [
            *((f"signature_{n}", "test") for n in range(60)),
            *((f"line {n}", None) for n in range(140)),
        ]
    )

    def __post_init__(self) -> None:
        rng = self.rng
        self._busy = list(accumulate(rng.paretovariate(1.2) for _ in range(self.repositories)))
        rng.shuffle(self.symptoms)
        self._common = list(accumulate(1 / (1 + n) for n in range(len(self.symptoms))))
        self._place = rng.choices(_PLACES, (6, 2, 2, 1, 1, 1), k=self.repositories)

    def minutes(self, count: int) -> Iterator[tuple[int, dict[int, tuple[FailureGroup, ...]]]]:
        """The groups of each minute, by shard."""
        for minute in range(count):
            counts: dict[Kind, dict[int, int]] = {}
            for repository, kind in self._failures(minute):
                at = counts.setdefault(kind, {})
                at[repository] = at.get(repository, 0) + (1 if self.rng.random() < 0.7 else self.rng.randint(2, 12))
            yield BEGIN + minute, _by_shard(counts)

    def _failures(self, minute: int) -> Iterator[tuple[int, Kind]]:
        for _ in range(_poisson(self.rng, self.per_day / DAY * activity(minute))):
            repository = self._any(self._busy)
            yield repository, Kind(*self.symptoms[self._any(self._common)], *self._place[repository])
        for outage in self.outages:
            if outage.begin <= minute < outage.end:
                yield from self._hit(outage)

    def _hit(self, outage: Outage) -> Iterator[tuple[int, Kind]]:
        for _ in range(_poisson(self.rng, outage.per_minute)):
            repository = self.rng.randrange(self.repositories)
            platform, instance, _, labels = self._place[repository]
            if outage.label in labels:
                yield repository, Kind(outage.symptom, outage.category, platform, instance, outage.host, labels)

    def _any(self, weights: list[float]) -> int:
        return bisect(weights, self.rng.random() * weights[-1])


def activity(minute: int) -> float:
    """How much is going on, 1 at the height of a weekday."""
    hour, day = minute % DAY / 60, minute // DAY % 7
    by_day = 0.1 + 0.9 * max(0.0, math.sin((hour - 6) / 14 * math.pi)) if 6 <= hour <= 20 else 0.1
    return by_day * (0.15 if day in {2, 3} else 1.0)


def _poisson(rng: random.Random, mean: float) -> int:
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def _by_shard(counts: dict[Kind, dict[int, int]]) -> dict[int, tuple[FailureGroup, ...]]:
    found: dict[int, list[FailureGroup]] = {shard: [] for shard in range(SHARDS)}
    for kind, repositories in sorted(counts.items(), key=lambda each: (each[0].symptom, each[0][2:])):
        for shard in range(SHARDS):
            own = tuple(sorted((f"org/repo-{r}", n) for r, n in repositories.items() if r % SHARDS == shard))
            if own:
                found[shard].append(FailureGroup(*kind, own, 0))
    return {shard: tuple(groups) for shard, groups in found.items()}


def told(
    minutes: Iterable[tuple[int, dict[int, tuple[FailureGroup, ...]]]], rules: dict[str, Any] | None = None
) -> dict[int, list[ClosedMinutes]]:
    """What each shard tells, a message for every minute."""
    messages: dict[int, list[ClosedMinutes]] = {shard: [] for shard in range(SHARDS)}
    for minute, by_shard in minutes:
        for shard, groups in by_shard.items():
            closed = ((minute, groups),) if groups else ()
            messages[shard].append(ClosedMinutes(shard, minute, "digest", rules or {}, closed))
    return messages
