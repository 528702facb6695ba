"""Short ways to write the FIRES and SILENT examples of a detector."""

from __future__ import annotations

from datetime import timedelta

from analytics.detectors.detector import Seen, milliseconds
from models.records.event import Outcome


def seen(outcome: Outcome, minutes: float, *, commit: str = "c1", attempt: int = 1, run: str | None = None) -> Seen:
    """One event, `minutes` after the start of the example, of its own run unless `run` names one."""
    run = run or f"run-{minutes:g}"
    at = milliseconds(timedelta(minutes=minutes))
    return Seen(at, f"{outcome}-{minutes:g}-{run}-{attempt}", outcome, commit, run, attempt, f"{run}/{attempt}")


def failed(minutes: float, *, commit: str = "c1", attempt: int = 1, run: str | None = None) -> Seen:
    """A failed job."""
    return seen(Outcome.FAILED, minutes, commit=commit, attempt=attempt, run=run)


def passed(minutes: float, *, commit: str = "c1", attempt: int = 1, run: str | None = None) -> Seen:
    """A job that passed."""
    return seen(Outcome.PASSED, minutes, commit=commit, attempt=attempt, run=run)


def running(minutes: float, *, commit: str = "c1", attempt: int = 1, run: str | None = None) -> Seen:
    """A job that started."""
    return seen(Outcome.RUNNING, minutes, commit=commit, attempt=attempt, run=run)
