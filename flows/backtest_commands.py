"""guard backtest: what would have been found and decided."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from analytics.rulebook import Rulebook
from flows import backtest, backtest_acts, backtest_archive, backtest_report, detector_files, truth_files
from flows.backtest import Plan, Rules, Watch
from flows.backtest_acts import Terms
from flows.backtest_inputs import Sorted, is_archive, pieces, told_rows
from flows.backtest_page import page
from flows.backtest_report import Read, Side
from flows.command import DONE, LEFT_OUT, In, answer, complain, show
from flows.detector_files import DetectorFile
from flows.rulebook_commands import named_rulebook
from flows.settings import Settings
from flows.tables import to_json
from models.records.errors import InputError
from models.records.outputs import ShardStats

_NO_KEY: Final = b"pseudonyms of a backtest without redaction.key"
_MIB: Final = 1 << 20


def run(
    paths: Annotated[tuple[Path, ...], Parameter(name="events")],
    /,
    *,
    to: Path = Path("backtest"),
    detector: tuple[Path, ...] = (),
    only: bool = False,
    rulebook: str | None = None,
    compare: str | None = None,
    truth: Path | None = None,
    acts: bool = False,
    json: bool = False,
    context: In,
) -> int:
    """Judge events of the past as the live flow would have. Needs no server.

    Parameters
    ----------
    events
        Parquet or JSON lines of events, or directories of Parquet files.
    to
        The directory that takes report.html, report.json and a Parquet file of each table; backtest if not given.
    detector
        A Python file with one detector, which judges beside the others. May be given several times.
    only
        Ask no other detectors than those.
    rulebook
        Which rules: "settings" (if not given), "shipped", a settings file, a rulebook as JSON, or the beginning of the
        digest of one that PostgreSQL has.
    compare
        A second rulebook; the report says what it would have decided otherwise.
    truth
        What really happened, as Parquet, CSV or JSON lines.
    acts
        Say also what healers would have run again, what came of that as far as the past shows it, and what rivals that
        run again whatever fails would have done. Limits and prices are those of the settings.
    json
        Answer with report.json instead of tables.
    """
    began = time.monotonic()
    settings = context.settings()
    own = [detector_files.read(path) for path in detector]
    names = [detector_files.checked(file).__name__ for file in own]
    archive = _archive(paths)
    if archive is not None and not (own or rulebook or compare):
        sides = [("as it was", backtest_archive.rules(archive, settings))]
    else:
        chosen = [rulebook or "settings", *([compare] if compare else [])]
        sides = [(name, _with(named_rulebook(name, settings), own, names, only=only)) for name in chosen]
    rulebooks = [rules.rulebook() for _, rules in sides]
    truths = truth_files.read(truth, {type(d).__name__ for d in rulebooks[0].detectors}) if truth else []
    terms = backtest_acts.terms_of(settings) if acts else None
    read, said, acted = _judged(archive or paths, to, [rules for _, rules in sides], _key(settings), terms)
    made = [Side(name, book, *one) for (name, _), book, one in zip(sides, rulebooks, said, strict=True)]
    report = backtest_report.build(read, made, names, truths) | ({"acts": acted} if acted is not None else {})
    (to / "report.json").write_text(to_json(report) + "\n", "utf-8")
    (to / "report.html").write_text(page(report), "utf-8")
    if json:
        answer(to_json(report))
    else:
        show(backtest_report.shown(report))
    _tell(read, to, time.monotonic() - began)
    return LEFT_OUT if read.wrong else DONE


def _archive(paths: Sequence[Path]) -> Path | None:
    """The archive, where it is one that is to be judged."""
    found = [path for path in paths if is_archive(path)]
    if found and len(paths) > 1:
        raise InputError(f"{found[0]} is an archive, and is judged alone")
    return found[0] if found else None


def _key(settings: Settings) -> bytes:
    key = settings.redaction.key
    return key.get_secret_value().encode() if key is not None else _NO_KEY


def _with(base: Rulebook, own: Sequence[DetectorFile], names: Sequence[str], *, only: bool) -> Rules:
    """The rules of `base` with detectors of the operator's own."""
    body: dict[str, Any] = dict(base.body)
    if own:
        body["also"] = {name: file.digest for name, file in zip(names, own, strict=True)}
    if only:
        others = (type(d).__name__ for d in base.detectors)
        body["detectors"] = body["detectors"] | {n: {**body["detectors"].get(n, {}), "enabled": False} for n in others}
    return Rules(body, tuple(own))


def _judged(
    past: Path | Sequence[Path], to: Path, sides: Sequence[Rules], key: bytes, terms: Terms | None
) -> tuple[Read, list[tuple[dict[str, Path], ShardStats]], dict[str, Any] | None]:
    """Judge an archive, or files; the rows of the first side stand in `to`, those of a second below it.

    With `terms` also what would have been done.
    """
    cut = [] if isinstance(past, Path) else pieces(past)
    read = backtest_archive.read(past) if isinstance(past, Path) else None
    size = sum(path.stat().st_size for path in {piece.path for piece in cut}) if read is None else read.rows << 9
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to, prefix=".parts-") as folder, _bar() as watch:
        plan = Plan(tuple(sides), Path(folder), key, acts=terms is not None)
        with backtest.crew(plan, size, watch) as crew:
            if isinstance(past, Path) and read is not None:
                todo = backtest.archive_tasks(past, len(sides))
            else:
                done = crew.sort(cut)
                read = _read(done)
                todo = backtest.tasks(done, read.span, len(sides))
            parts = crew.judge(todo, (read.rows - read.wrong) * len(sides))
        files = [
            backtest.put_together(parts, side, to / "compared" if side else to, Path(folder))
            for side in range(len(sides))
        ]
        acted = None if terms is None else backtest_acts.acted(files, parts, read.span, terms, to)
    stats = [backtest.sum_of(part.stats for part in parts if part.side == side) for side in range(len(sides))]
    return read, list(zip(files, stats, strict=True)), acted


def _read(done: Sequence[Sorted]) -> Read:
    told = told_rows(done)
    span = backtest.span_of(done)
    if span is None:
        first = f"; the first: {told[0][0]}: row {told[0][1]}: {told[0][2]}" if told else ""
        raise InputError(f"no events in {', '.join(sorted({part.piece.path.name for part in done}))}{first}")
    return Read(
        files=tuple(dict.fromkeys(part.piece.path.name for part in done)),
        rows=sum(part.rows for part in done),
        wrong=sum(part.wrong for part in done),
        told=told,
        unknown=tuple(dict.fromkeys(name for part in done for name in part.unknown)),
        span=span,
    )


@contextmanager
def _bar() -> Iterator[Watch]:
    """A progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        known: dict[str, Any] = {}

        def watch(what: str, done: int, of: int) -> None:
            if what not in known:
                known[what] = progress.add_task(what, total=of)
            progress.update(known[what], completed=done)

        yield watch


def _tell(read: Read, to: Path, seconds: float) -> None:
    """What is not in the report, for it differs from run to run."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak = max(used) * 1024 // _MIB
    for file, row, why in read.told[:3]:
        complain(f"{file}: row {row}: {why}")
    if read.wrong:
        complain(f"{read.wrong} rows are no events and were left out")
    if read.unknown:
        complain(f"passed over columns that no event has: {', '.join(read.unknown)}")
    sys.stderr.write(f"{read.rows} rows in {seconds:.1f} s, at most {peak} MiB in a process; {to / 'report.html'}\n")
