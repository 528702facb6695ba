"""What was spent, in memory: the budgets of analytics/acting.py, as guard.budgets has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from analytics.guards import HOUR_MS, Hold, Limits, Refuse, fits, short
from models.records.ledger import Charge

Budget = tuple[str, str, int]
"""Scope, key, and the beginning of its period in Unix milliseconds."""


class Budgets:
    """Acts and minutes that were taken."""

    def __init__(self, limits: Limits) -> None:
        """Begin with nothing spent."""
        self._limits: Final = limits
        self._spent: dict[Budget, tuple[int, float]] = {}

    def charge(self, taken: Sequence[Charge], now: float, drawn: float) -> Hold | Refuse | None:
        """Take from every budget; what objects where one of them is spent, and then nothing is taken of any."""
        for charge in taken:
            if not fits(charge, self._of(charge), self._limits):
                objection = short(charge, now, drawn)
                assert isinstance(objection, (Hold, Refuse))
                return objection
        self._add(taken, 1)
        return None

    def give_back(self, taken: Iterable[Charge]) -> None:
        """Undo it."""
        self._add(taken, -1)

    def _add(self, taken: Iterable[Charge], sign: int) -> None:
        for charge in taken:
            acts, minutes = self._of(charge)
            spent = acts + sign * charge.acts, minutes + sign * charge.minutes
            self._spent[charge.scope, charge.key, charge.period_ms] = spent

    def _of(self, charge: Charge) -> tuple[int, float]:
        return self._spent.get((charge.scope, charge.key, charge.period_ms), (0, 0.0))

    def fleet(self, now_ms: float) -> int:
        """The fleet's acts of the last hour, about: of the clock's hour before this one, the part that still counts."""
        hour_ms = int(now_ms) // HOUR_MS * HOUR_MS
        this, last = (self._spent.get(("fleet", "", hour), (0, 0.0))[0] for hour in (hour_ms, hour_ms - HOUR_MS))
        return round(this + last * (hour_ms + HOUR_MS - now_ms) / HOUR_MS)

    def spent(self) -> dict[Budget, tuple[int, float]]:
        """All of which something was taken."""
        return {budget: taken for budget, taken in self._spent.items() if taken[0]}
