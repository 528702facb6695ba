"""`guard top`: what fails, flakes and costs most, live. It only reads the views that docs/schema.md describes.

Each part is asked for every second, or at a tenth of the time where that takes long: however large the tables are,
looking costs PostgreSQL a tenth of one core for each part at most.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Final, Generic, Literal, TypeVar

import msgspec
from rich.console import Console
from rich.live import Live

from connectors import postgres_people as people
from connectors.postgres import Connection
from connectors.postgres_people import By, Period, Window
from flows import servers
from flows.command import DONE, In, answer
from flows.tables import to_json
from flows.top_view import view

Since = Literal["1h", "24h", "7d"]

REFRESH_SECONDS: Final = 1.0
_REST: Final = 10  # times as long as an answer took, until it is asked for again
_MOST: Final = 50  # lines of a list
_MEMORY: Final = "64MB"  # to sort in, instead of on disk
_PLAIN_WIDTH: Final = 100
_WINDOWS: Final[dict[Since, tuple[timedelta, Period]]] = {
    "1h": (timedelta(hours=1), "minute"),
    "24h": (timedelta(hours=24), "hour"),
    "7d": (timedelta(days=7), "day"),
}
_T = TypeVar("_T")


class Board(msgspec.Struct, frozen=True):
    """All that is shown. Flakiest and most expensive are of the last seven days, whatever `since` says."""

    at: datetime
    since: Since
    by: By
    totals: people.Totals
    lines: list[people.Line]
    green: list[people.Green]
    flakiest: list[people.FlakyJob]
    most_expensive: list[people.Cost]
    decisions: list[people.Decided]
    findings: list[people.Standing]


class Paced(Generic[_T]):
    """Something that is asked for again no sooner than what it costs allows."""

    def __init__(self, ask: Callable[[], _T], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`ask` is called at the first look."""
        self._ask = ask
        self._monotonic = monotonic
        self._due = float("-inf")
        self._last: _T | None = None

    def look(self) -> _T:
        """The last answer, or a new one where it is time."""
        began = self._monotonic()
        if self._last is None or began >= self._due:
            self._last = self._ask()
            took = self._monotonic() - began
            self._due = began + max(REFRESH_SECONDS, took * _REST)
        return self._last


class Watch:
    """Looks again and again."""

    def __init__(self, connection: Connection, by: By, since: Since) -> None:
        """Look at what happened in the time before each look."""
        connection.execute(f"SET work_mem = '{_MEMORY}'".encode())
        past, period = _WINDOWS[since]
        self._by: Final = by
        self._since: Final = since

        def window() -> Window:
            return Window(servers.ago(past), period)

        self._totals = Paced(lambda: people.totals(connection, window()))
        self._lines = Paced(lambda: people.lines(connection, by, window(), most=_MOST))
        self._green = Paced(lambda: people.green(connection, servers.ago(past)))
        self._flakiest = Paced(lambda: people.flakiest(connection, most=_MOST))
        self._expensive = Paced(lambda: people.most_expensive(connection, most=_MOST))
        self._decisions = Paced(lambda: people.decided(connection, servers.ago(past)))
        self._findings = Paced(lambda: people.standing(connection))

    def look(self) -> Board:
        """How it stands now."""
        return Board(
            at=datetime.now(UTC),
            since=self._since,
            by=self._by,
            totals=self._totals.look(),
            lines=self._lines.look(),
            green=self._green.look(),
            flakiest=self._flakiest.look(),
            most_expensive=self._expensive.look(),
            decisions=self._decisions.look(),
            findings=self._findings.look(),
        )


def top(*, by: By = "repository", since: Since = "24h", once: bool = False, json: bool = False, context: In) -> int:
    """What fails, flakes and costs most, live until Ctrl-C.

    Parameters
    ----------
    by
        What the first list has a line for: repository, job, signature or platform.
    since
        How far back to count: 1h, 24h (whole hours) or 7d (whole days, UTC).
    once
        Show it once, in plain text, and end; so it is where there is no terminal.
    json
        The same once, as JSON.
    """
    with servers.database(context.settings()) as connection:
        watch = Watch(connection, by, since)
        if json:
            answer(to_json(watch.look()))
        elif once or not sys.stdout.isatty():
            answer(plain(watch.look()))
        else:
            _live(watch)
    return DONE


def plain(board: Board, *, width: int = _PLAIN_WIDTH) -> str:
    """`board` as lines of text without colours."""
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False, file=StringIO())
    with console.capture() as captured:
        console.print(view(board, width=width))
    return "\n".join(line.rstrip() for line in captured.get().rstrip().split("\n"))


def _live(watch: Watch) -> None:
    console = Console(highlight=False)
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(view(watch.look(), width=console.width, height=console.height), refresh=True)
            time.sleep(REFRESH_SECONDS)
