"""What came of a world where a strategy heals, in numbers, and tables of many worlds: intervals, paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from flows.settings import Prices


class Score(NamedTuple):
    """What came of it. Minutes are CI minutes spent on reruns."""

    reruns: int
    rescued: int
    failed_again: int
    harmed: int
    missed: int
    minutes: float
    in_outage: int  # reruns of what the outage failed that were asked for while it went on
    drained_seconds: float | None  # after the outage's end, until the last of what waited then was run again
    held: Mapping[str, int] = {}
    refused: Mapping[str, int] = {}


STUDENT: Final = {5: 2.776, 10: 2.262, 20: 2.093}
"""Quantiles at 97.5 % of Student's t, by the number of seeds."""


class Figure(NamedTuple):
    """One column of the table."""

    name: str
    of: Callable[[Score], float]


_FIGURES: Final = (
    Figure("reruns", lambda score: score.reruns),
    Figure("rescued", lambda score: score.rescued),
    Figure("failed again", lambda score: score.failed_again),
    Figure("of real faults", lambda score: score.harmed),
    Figure("CI minutes", lambda score: score.minutes),
    Figure("rescued per 100 CI minutes", lambda score: 100 * score.rescued / score.minutes if score.minutes else 0.0),
)


def interval(values: Sequence[float]) -> str:
    """The mean of `values` and half the width of its 95 % interval, over seeds."""
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def table(scores: Mapping[str, Sequence[Score]]) -> str:
    """A Markdown table of what each strategy came to."""
    lines = ["| | " + " | ".join(figure.name for figure in _FIGURES) + " |", "|---" * (len(_FIGURES) + 1) + "|"]
    for strategy, of in scores.items():
        cells = [interval([figure.of(score) for score in of]) for figure in _FIGURES]
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_PRICE: Final = Prices().default
_COMPARED: Final = (
    *_FIGURES[:-1],
    Figure(f"USD at {_PRICE:g} a minute", lambda score: score.minutes * _PRICE),
    Figure("held", lambda score: sum(score.held.values())),
    Figure("refused", lambda score: sum(score.refused.values())),
)
BOOKS: Final = ("rulebook", "compared")
"""What the rulebooks are called that the command line names."""


def pairs(strategies: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which are set beside each other: both rulebooks, and each of them and every rival."""
    books = [name for name in strategies if name in BOOKS]
    if len(books) > 1:
        yield "compared", "rulebook"
    yield from ((book, rival) for book in books for rival in strategies if rival not in books)


def differences(scores: Mapping[str, Sequence[Score]]) -> str:
    """A Markdown table of what one came to less what the other did in the same world: mean and interval, over seeds."""
    lines = ["| | " + " | ".join(figure.name for figure in _COMPARED) + " |", "|---" * (len(_COMPARED) + 1) + "|"]
    for one, other in pairs(list(scores)):
        cells = [interval(_paired(scores[one], scores[other], figure)) for figure in _COMPARED]
        lines.append(f"| {one} less {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _paired(one: Sequence[Score], other: Sequence[Score], figure: Figure) -> list[float]:
    return [figure.of(mine) - figure.of(theirs) for mine, theirs in zip(one, other, strict=True)]
