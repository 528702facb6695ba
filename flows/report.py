"""What healing came to: heals, what they cost and saved, how soon it was green, and how often it was right.

Pure functions over what PostgreSQL has; docs/outcomes.md says what every number means and why it is that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from connectors.postgres_report import Recovery, Refused, Rerun
from flows.settings import Prices
from models.records.outputs import ActEnd

LEAST_RECOVERIES: Final = 5
"""Of fewer that got green by hand in a repository, all repositories together say how long that takes."""
_Z: Final = 1.959964  # of 95 %
_NO_SIGNATURE: Final = "(none)"


class Share(msgspec.Struct, frozen=True):
    """So many of so many, and between which bounds the true share lies with 95 %: Wilson's interval."""

    count: int
    of: int

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Both bounds; None where there is nothing to judge by."""
        if not self.of:
            return None
        share, n = self.count / self.of, self.of
        middle = share + _Z * _Z / (2 * n)
        spread = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
        scale = 1 + _Z * _Z / n
        return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


class Told(msgspec.Struct, frozen=True):
    """A share as it is told."""

    share: float | None
    low: float | None
    high: float | None


class Line(msgspec.Struct, frozen=True):
    """What healing came to in all, for a signature, or in a repository. Minutes are of CI, but those of waiting."""

    name: str
    reruns: int
    heals: int  # passed, and nothing speaks against it since
    masked: int  # passed, and the commit proved broken all the same
    failed_same: int
    failed_otherwise: int
    called_off: int  # overtaken or cancelled
    unknown: int  # unseen, or not known yet
    precision: Told  # of those that passed or failed, those that passed
    masked_rate: Told  # of those that passed, those that are masked
    minutes_spent: float
    money_spent: float
    minutes_saved: float
    waiting_minutes_saved: float
    money_saved: float
    green_s: float | None  # mean time from failure to green, of heals


class Green(msgspec.Struct, frozen=True):
    """How soon it was green where we ran nothing again."""

    episodes: int
    green: int
    mean_s: float | None


class Report(msgspec.Struct, frozen=True):
    """All that is shown."""

    since: datetime
    currency: str
    total: Line
    not_healed: Green
    signatures: list[Line]
    repositories: list[Line]
    refusals: list[Refused]


def report(
    since: datetime,
    prices: Prices,
    reruns: Sequence[Rerun],
    recoveries: Sequence[Recovery],
    refusals: Sequence[Refused],
) -> Report:
    """Add it all up."""
    by_hand = ByHand(recoveries)

    def line(name: str, some: Sequence[Rerun]) -> Line:
        return _line(name, some, prices, by_hand)

    def lines(name_of: Callable[[Rerun], str]) -> list[Line]:
        grouped: Mapping[str, list[Rerun]] = _grouped(reruns, name_of)
        made = [line(name, some) for name, some in grouped.items()]
        return sorted(made, key=lambda one: (-one.reruns, one.name))

    return Report(
        since=since,
        currency=prices.currency,
        total=line("all", reruns),
        not_healed=by_hand.total,
        signatures=lines(lambda one: one.signature or _NO_SIGNATURE),
        repositories=lines(lambda one: one.repository),
        refusals=list(refusals),
    )


def _grouped(reruns: Iterable[Rerun], name_of: Callable[[Rerun], str]) -> dict[str, list[Rerun]]:
    grouped: defaultdict[str, list[Rerun]] = defaultdict(list)
    for one in reruns:
        grouped[name_of(one)].append(one)
    return grouped


class ByHand:
    """How long it takes people to get a commit green, by what was not healed."""

    def __init__(self, recoveries: Sequence[Recovery]) -> None:
        """Know it of each repository that has enough of them, and of all together."""
        green, seconds = sum(one.green for one in recoveries), sum(one.seconds for one in recoveries)
        self.total: Final = Green(sum(one.episodes for one in recoveries), green, seconds / green if green else None)
        self._own = {one.repository: one.seconds / one.green for one in recoveries if one.green >= LEAST_RECOVERIES}

    def seconds(self, repository: str) -> float:
        """The mean time; 0 where nothing is known, so that nothing is claimed."""
        return self._own.get(repository, self.total.mean_s or 0.0)


def _line(name: str, reruns: Sequence[Rerun], prices: Prices, by_hand: ByHand) -> Line:
    def counted(*outcomes: ActEnd) -> int:
        return sum(one.outcome in outcomes for one in reruns)

    healed = [one for one in reruns if _is_heal(one)]
    masked = counted(ActEnd.PASSED) - len(healed)
    costs, saved = [_cost(one, prices) for one in reruns], [_cost(one, prices) for one in healed]
    greens = [seconds for one in healed if (seconds := _green_s(one)) is not None]
    waiting = sum(_waiting_minutes(one, by_hand) for one in healed)
    settled = counted(ActEnd.PASSED, ActEnd.FAILED_SAME, ActEnd.FAILED_OTHERWISE)
    return Line(
        name=name,
        reruns=len(reruns),
        heals=len(healed),
        masked=masked,
        failed_same=counted(ActEnd.FAILED_SAME),
        failed_otherwise=counted(ActEnd.FAILED_OTHERWISE),
        called_off=counted(ActEnd.OVERTAKEN, ActEnd.CANCELLED),
        unknown=sum(one.outcome in {None, ActEnd.UNSEEN} for one in reruns),
        precision=_told(Share(counted(ActEnd.PASSED), settled)),
        masked_rate=_told(Share(masked, counted(ActEnd.PASSED))),
        minutes_spent=_sum(minutes for minutes, _ in costs),
        money_spent=_sum(money for _, money in costs),
        minutes_saved=_sum(minutes for minutes, _ in saved),
        waiting_minutes_saved=round(waiting, 3),
        money_saved=_sum([*(money for _, money in saved), waiting * prices.waiting]),
        green_s=sum(greens) / len(greens) if greens else None,
    )


def _is_heal(one: Rerun) -> bool:
    return one.outcome == ActEnd.PASSED and not one.masked


def _cost(one: Rerun, prices: Prices) -> tuple[float, float]:
    """CI minutes and money; where no duration is known, what the ledger expected, at the default price."""
    known = [(end["duration_ms"] / 60_000, end["labels"]) for end in one.ends or () if end["duration_ms"] is not None]
    parts = known or [(one.minutes, None)]
    return sum(m for m, _ in parts), sum(minutes * price_of(labels, prices) for minutes, labels in parts)


def price_of(labels: str | None, prices: Prices) -> float:
    """What a minute of a runner with these labels, commas between, costs."""
    known = [prices.labels[label] for label in (labels or "").split(",") if label in prices.labels]
    return max(known, default=prices.default)


def _green_s(one: Rerun) -> float | None:
    if one.failed_at is None or one.ended_at is None:
        return None
    return max((one.ended_at - one.failed_at).total_seconds(), 0.0)


def _waiting_minutes(one: Rerun, by_hand: ByHand) -> float:
    """How much longer it would have stayed red in people's hands; never less than nothing."""
    took = _green_s(one)
    return 0.0 if took is None else max(by_hand.seconds(one.repository) - took, 0.0) / 60


def _told(share: Share) -> Told:
    bounds = share.bounds
    return Told(None, None, None) if bounds is None else Told(share.count / share.of, *bounds)


def _sum(numbers: Iterable[float]) -> float:
    return round(math.fsum(numbers), 3)
