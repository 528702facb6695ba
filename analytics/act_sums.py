"""What would have been done, in numbers: by strategy, and what one would have run again and another not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from analytics.act_rows import ActRow, Came
from models.records.ledger import Standing, Why
from models.records.outputs import ActEnd, DecisionRow

_SHOWN: Final = 5


class Strategy(NamedTuple):
    """One of those that are compared: its name, what it would have done, which cases it would have held and why."""

    name: str
    rows: Sequence[ActRow]
    held: Mapping[Why, int] = {}
    decided: Mapping[str, DecisionRow] | None = None  # what is in force, by case; None: it decides nothing

    @property
    def reruns(self) -> list[ActRow]:
        """What it would have run again."""
        return [row for row in self.rows if row.reruns and row.state == "done"]


def sums(strategy: Strategy) -> dict[str, Any]:
    """One strategy in numbers."""
    reruns = strategy.reruns
    refused = Counter(row.why for row in strategy.rows if row.state in (Standing.REFUSED, "observed") and row.why)
    waiting = Counter(row.why for row in strategy.rows if row.state in (Standing.WAITING, Standing.PROPOSED))
    return {
        "strategy": strategy.name,
        **_counted(reruns),
        "with_the_same_cause": sum(row.outcome == ActEnd.FAILED_SAME for row in reruns),
        "masked": sum(row.masked for row in reruns),
        "probes": sum(row.probe for row in reruns),
        "other_acts": sum(row.act_id is not None and row.state == "done" and not row.reruns for row in strategy.rows),
        "held": _ordered({why.value: count for why, count in strategy.held.items()}),
        "refused": _ordered(refused),
        "waiting": _ordered(waiting),
    }


def _counted(reruns: Sequence[ActRow]) -> dict[str, Any]:
    return {
        "reruns": len(reruns),
        "minutes": round(math.fsum(row.minutes for row in reruns), 1),
        "money": round(math.fsum(row.money for row in reruns), 2),
        **{one.value: sum(row.came == one for row in reruns) for one in Came},
    }


def difference(one: Strategy, other: Strategy) -> dict[str, Any]:
    """What only one of both would have run again, by why the other would not."""
    return {
        "one": one.name,
        "other": other.name,
        "only_one": list(_only(one, other)),
        "only_other": list(_only(other, one)),
    }


def _only(mine: Strategy, theirs: Strategy) -> Iterator[dict[str, Any]]:
    theirs_of: dict[str, set[str | None]] = {}
    for row in theirs.reruns:
        theirs_of.setdefault(row.case_id, set()).add(row.target)
    objections = {row.case_id: row for row in theirs.rows if row.state != "done"}
    groups: dict[str, list[ActRow]] = {}
    for row in mine.reruns:
        targets = theirs_of.get(row.case_id, set())
        if row.target in targets or (targets and "run" in {row.target, *targets}):
            continue
        groups.setdefault(_why_not(row, theirs, objections), []).append(row)
    for why, some in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        yield {"because": why, **_counted(some), "examples": list(_examples(some))}


def _why_not(row: ActRow, theirs: Strategy, objections: Mapping[str, ActRow]) -> str:
    if (objection := objections.get(row.case_id)) is not None:
        return f"{objection.state}: {objection.why}"
    if theirs.decided is None:
        return "a later attempt" if theirs.name != "never" else "never"
    decision = theirs.decided.get(row.case_id)
    return "no decision" if decision is None else f"{decision.verdict}: {decision.reason}"


def _examples(rows: Iterable[ActRow]) -> Iterator[dict[str, Any]]:
    first = sorted(rows, key=lambda row: (row.asked_ms or 0, row.case_id))[:_SHOWN]
    names = ("repository", "pipeline_id", "attempt", "target", "signature", "came")
    yield from ({name: getattr(row, name) for name in names} for row in first)


def _ordered(counts: Mapping[Any, int]) -> dict[str, int]:
    return dict(sorted(((str(why), count) for why, count in counts.items()), key=lambda one: (-one[1], one[0])))
