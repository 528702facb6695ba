"""Short ways to write the FIRES and SILENT examples of a detector."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

from analytics.detectors.detector import Seen, milliseconds
from models.records.event import Outcome


def seen(
    outcome: Outcome,
    minutes: float,
    *,
    commit: str = "c1",
    attempt: int = 1,
    run: str | None = None,
    main: bool = False,
    signature: str | None = None,
    category: str | None = None,
    runner: str | None = None,
) -> Seen:
    """One event, `minutes` after the start of the example, of its own run unless `run` names one."""
    run = run or f"run-{minutes:g}"
    at = milliseconds(timedelta(minutes=minutes))
    event = f"{outcome}-{minutes:g}-{run}-{attempt}"
    case = f"{run}/{attempt}"
    return Seen(at, event, outcome, commit, run, attempt, case, main, signature, category, runner)


failed: Final = partial(seen, Outcome.FAILED)
passed: Final = partial(seen, Outcome.PASSED)
queued: Final = partial(seen, Outcome.QUEUED)
"""A job that waits for a runner."""
running: Final = partial(seen, Outcome.RUNNING)
"""A job that started."""


class Ran(NamedTuple):
    """One job run that ended `hours` after the start of the example, which is a Monday, 00:00 UTC."""

    hours: float
    outcome: Outcome = Outcome.PASSED
    seconds: float = 60.0
    waited_seconds: float | None = None
    attempt: int = 1


def every(
    step_hours: float,
    since: float,
    until: float,
    *,
    fails: int = 0,
    of: int = 1,
    seconds: float = 60.0,
    waited_seconds: float | None = None,
) -> tuple[Ran, ...]:
    """Runs every `step_hours` in [since, until), of which the first `fails` of each `of` fail."""
    count = round((until - since) / step_hours)
    outcomes = [Outcome.FAILED if i % of < fails else Outcome.PASSED for i in range(count)]
    return tuple(Ran(since + i * step_hours, o, seconds, waited_seconds) for i, o in enumerate(outcomes))
