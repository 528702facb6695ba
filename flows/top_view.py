"""How `guard top` looks: a pure function from a board to something that rich can draw.

Every table is one line a row whatever the width: what is too long is cut, never wrapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from connectors.postgres_people import Cost, FlakyJob, Green, Line, Totals
from flows.tables import escape
from models.records.outputs import Verdict

if TYPE_CHECKING:
    from flows.top import Board

_WIDE: Final = 120  # columns from which on two lists stand side by side
_FEWEST: Final = 3  # lines of a list on the smallest terminal
_ONCE: Final = (15, 8)  # lines of the first list, and of the other two, where no height bounds them
_FIXED: Final = 10  # lines that are no row of a list: title, totals, green, decisions, findings, headers, blank lines
_VERDICTS: Final[dict[str, str]] = {Verdict.ACT: "bold green", Verdict.WAIT: "yellow", Verdict.SKIP: "blue"}
_BAD_RATE: Final = 0.2
_WHOLE: Final = 9.95  # from which on a number is shown without tenths: it would be 10.0
_NONE: Final = Text("-", style="bright_black")
_PAST: Final = {"1h": "the last hour", "24h": "the last 24 hours", "7d": "the last 7 days"}


def view(board: Board, *, width: int, height: int | None = None) -> RenderableType:
    """All of it, for a terminal of so many columns and lines; without a height, as much as one wants to read."""
    wide = width >= _WIDE
    first, others = _room(height, wide=wide)
    flakiest, expensive = _flakiest(board.flakiest[:others]), _expensive(board.most_expensive[:others])
    return Group(
        _title(board),
        _totals(board.totals),
        _green(board.green),
        Text(),
        _lines(board, first),
        Text(),
        *([_side_by_side(flakiest, expensive)] if wide else [flakiest, Text(), expensive]),
        Text(),
        _inline(
            "decisions",
            ((f"{d.verdict} {d.reason}", d.cases, _VERDICTS.get(d.verdict)) for d in board.decisions),
            width,
        ),
        _inline("findings", ((f.detector, f.findings, "magenta") for f in board.findings), width),
    )


def _room(height: int | None, *, wide: bool) -> tuple[int, int]:
    """How many rows the first list has, and each of the other two."""
    if height is None:
        return _ONCE
    rows = max(height - _FIXED - (0 if wide else 2), 0)
    others = max(rows // 3, _FEWEST) if wide else max(rows // 4, _FEWEST)
    return max(rows - others * (1 if wide else 2), _FEWEST), others


def percent(share: float | None) -> Text:
    """A share as people write it."""
    return _NONE if share is None else Text(f"{share:.1%}")


def brief(seconds: float | None) -> Text:
    """A length of time in at most six characters: 0.4s, 42s, 3m20s, 2h05m, 3d04h."""
    if seconds is None:
        return _NONE
    if seconds < _WHOLE:
        return Text(f"{seconds:.1f}s")
    whole = round(seconds)
    for size, name, part, of_part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return Text(f"{whole // size}{name}{whole % size // part:02d}{of_part}")
    return Text(f"{whole}s")


def _title(board: Board) -> RenderableType:
    left = Text.assemble(("guard top", "bold"), f"  {_PAST[board.since]}, by {board.by}")
    return _row(left, Text(f"{board.at:%Y-%m-%d %H:%M:%S}Z", style="dim"))


def _row(left: Text, right: Text) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


def _totals(totals: Totals) -> Text:
    return _facts(
        ("ended", Text(f"{totals.ended:,}")),
        ("failed", _failed(totals.failed)),
        ("", _rate(totals.failure_rate)),
        ("p50", brief(totals.duration_p50_s)),
        ("p95", brief(totals.duration_p95_s)),
        ("reruns", percent(totals.rerun_share)),
    )


def _green(green: Sequence[Green]) -> Text:
    """Mean time to green; what is not green again is in no mean."""
    names = {"commit": "green on the same commit", "main": "main"}
    made = Text(no_wrap=True, overflow="ellipsis")
    for it in green:
        made.append("  " if made else "")
        made.append(f"{names.get(it.scope, it.scope)} ", "dim").append(f"after {brief(it.mean_s).plain}", "bold")
        made.append(f" ({it.green:,}; never or not yet {it.never_green:,})", "dim")
    return made or Text("nothing turned red", style="dim")


def _facts(*facts: tuple[str, Text]) -> Text:
    made = Text(no_wrap=True, overflow="ellipsis")
    for name, value in facts:
        made.append("  " if made and name else " " if made else "")
        made.append(f"{name} " if name else "", "dim").append_text(value)
    return made


def _failed(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "")


def _rate(rate: float | None) -> Text:
    shown = percent(rate)
    return Text(shown.plain, style="red") if rate is not None and rate >= _BAD_RATE else shown


def _table(name: str, columns: Sequence[str], rows: Iterable[tuple[Text, Sequence[Text]]]) -> Table:
    """Rows of a name, which is cut where it is too long, and of short values to its right."""
    made = Table(box=None, expand=True, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    made.add_column(Text(name, style="bold not dim"), no_wrap=True, overflow="ellipsis", ratio=1)
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    empty = True
    for label, values in rows:
        made.add_row(label, *values)
        empty = False
    if empty:
        made.add_row(Text("none", style="dim"))
    return made


def _side_by_side(left: Table, right: Table) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(left, right)
    return grid


def _lines(board: Board, most: int) -> Table:
    lines = board.lines[:most]
    match board.by:
        case "job":
            columns = ("failed", "minutes", "rate", "p50", "p95", "reruns")
            rows = [(_job(it.repository, it.workflow, it.job_name), _job_values(it)) for it in lines]
        case "signature":
            columns = ("failed", "share", "repositories", "minutes", "p50", "p95")
            rows = [(_signature(it.signature), _signature_values(it)) for it in lines]
        case "repository" | "platform":
            columns = ("ended", "failed", "rate", "p50", "p95", "reruns")
            rows = [(_place(it), _counted_values(it)) for it in lines]
    return _table(board.by, columns, rows)


def _place(line: Line) -> Text:
    if line.repository is not None:
        return Text(escape(line.repository))
    return Text(f"{line.platform} ").append(escape(line.instance or ""), "dim")


def _job(repository: str | None, workflow: str | None, job_name: str | None) -> Text:
    """Repository and job; a Jenkins job is both, and named once."""
    name, job = escape(repository or ""), escape(job_name or workflow or "")
    return Text(name) if name.endswith(f"/{job}") else Text(f"{name} ").append(job, "cyan")


def _signature(name: str | None) -> Text:
    return Text("not explained", style="dim") if name is None else Text(escape(name))


def _counted_values(line: Line) -> list[Text]:
    values = [Text(f"{line.ended or 0:,}"), _failed(line.failed), _rate(line.failure_rate)]
    return [*values, *_durations(line), percent(line.rerun_share)]


def _job_values(line: Line) -> list[Text]:
    values = [_failed(line.failed), _minutes(line.failed_minutes), _rate(line.failure_rate)]
    return [*values, *_durations(line), percent(line.rerun_share)]


def _signature_values(line: Line) -> list[Text]:
    counts = [_failed(line.failed), percent(line.share), Text(f"{line.repositories or 0:,}")]
    return [*counts, _minutes(line.failed_minutes), *_durations(line)]


def _durations(line: Line) -> list[Text]:
    return [brief(line.duration_p50_s), brief(line.duration_p95_s)]


def _minutes(minutes: float | None) -> Text:
    return _NONE if minutes is None else Text(f"{minutes:,.{0 if minutes >= _WHOLE else 1}f}")


def _flakiest(jobs: Sequence[FlakyJob]) -> Table:
    rows = [
        (_job(it.repository, it.workflow, it.job_name), (Text(f"{it.flips:,}", style="bold magenta"), _runs(it)))
        for it in jobs
    ]
    return _table("flakiest jobs, 7 days", ("flips", "of runs"), rows)


def _runs(job: FlakyJob) -> Text:
    return Text(f"{job.runs:,}") if job.runs else _NONE


def _expensive(costs: Sequence[Cost]) -> Table:
    rows = []
    for it in costs:
        label = _signature(it.signature).append("  ").append_text(_job(it.repository, it.workflow, it.job_name))
        rows.append((label, (Text(f"{it.failures:,}"), _minutes(it.minutes))))
    return _table("most expensive failures, 7 days", ("failures", "minutes"), rows)


def _inline(name: str, counts: Iterable[tuple[str, int, str | None]], width: int) -> Text:
    """Counts in one line: as many as it holds, and how many more there are."""
    made = Text(f"{name:<9}  ", no_wrap=True, overflow="ellipsis")
    made.stylize("bold", 0, len(name))
    parts = [Text.assemble((f"{said} ", style or ""), (f"{count:,}", "bold")) for said, count, style in counts]
    for number, part in enumerate(parts):
        rest = Text(f", {len(parts) - number} more", style="dim")
        last = number == len(parts) - 1
        if number and made.cell_len + part.cell_len + (2 if last else 2 + len(", 10 more")) > width:
            return made.append_text(rest)
        made.append(", " if number else "").append_text(part)
    return made if parts else made.append("none", "dim")
