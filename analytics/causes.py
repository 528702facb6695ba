"""What a failure is taken for from its webhook alone. The same few words come again and again, and are read once."""

from __future__ import annotations

from datetime import date
from typing import Final, NamedTuple

from analytics.rows import Detail
from analytics.signatures.catalogue import Catalogue, facts_of
from models.records.outputs import Diagnosis

_MOST_REMEMBERED: Final = 8192


class Cause(NamedTuple):
    """How a failure is understood: what its row says of it, and what the policy asks of its signature."""

    diagnosis: str
    signature: str | None = None
    category: str | None = None
    transient: bool | None = None
    hard_stop: bool = False
    words: str | None = None


class Causes:
    """The catalogue, asked once for each way to fail; not asked again before the rulebook changes."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Begin with nothing remembered."""
        self._catalogue: Final = catalogue
        self._on = date.min
        self._known: dict[tuple[str, str, str | None, str | None, int | None], Cause] = {}

    def of(self, detail: Detail, on: date) -> Cause:
        """What `detail` is taken for on a day: signatures may be valid for some days only."""
        if detail.failure_excerpt:
            return self._read(detail, on)
        if on != self._on:
            self._known.clear()
            self._on = on
        said = (detail.platform, detail.outcome, detail.failure_reason, detail.step, detail.failure_exit_code)
        known = self._known.get(said)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[said] = self._read(detail, on)
        return known

    def _read(self, detail: Detail, on: date) -> Cause:
        reason, step, text = detail.failure_reason, detail.step, detail.failure_excerpt
        match = self._catalogue.match(detail.platform, facts(detail), text, on=on)
        if match is None:
            return Cause((Diagnosis.NO_PATTERN if reason or step or text else Diagnosis.NO_TEXT).value)
        it = match.signature
        return Cause(Diagnosis.MATCHED.value, it.name, it.category.value, it.transient, it.hard_stop, it.cause)


def facts(detail: Detail) -> tuple[str, ...]:
    """What the webhook says of a failure, as lines that signatures know."""
    return facts_of(
        platform=detail.platform,
        outcome=detail.outcome,
        reason=detail.failure_reason,
        step=detail.step,
        exit_code=detail.failure_exit_code,
    )
