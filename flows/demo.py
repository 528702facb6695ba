"""`guard demo`: the whole way on embedded servers, for a minute or for as long as one likes to look at it.

Nothing of it survives the end unless asked for, and nothing of the environment that is meant for real servers reaches
it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Final
from uuid import UUID

from rich.console import Console
from rich.live import Live

from connectors.postgres import Connection, connect, unavailable
from connectors.postgres_live import failed_jobs, stuck_jobs
from flows.demo_numbers import Numbers, Watch
from flows.demo_stage import PATIENCE_SECONDS, Files, Stage
from flows.demo_truth import Truth, compared
from flows.demo_view import addresses, landed_line, line, summary, view
from models.records.errors import ConfigError, Unavailable
from models.records.outputs import Verdict

_LOOK_SECONDS: Final = 0.25
_LINE_SECONDS: Final = 5.0
_READY_SECONDS: Final = 60.0
_AWAY_SECONDS: Final = 20.0
_CATCH_UP_SECONDS: Final = 15.0
_FOR_EVER: Final = 1e8  # seconds: three years
_PICTURE_SIZE: Final = (128, 38)
_SVG_ID: Final = "guard-demo"
_FONTS: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. `speed` is how many of the world's seconds pass in one, `rate` is pushes per second."""

    stay: bool = False
    seconds: float = 60.0
    seed: int = 9
    speed: float = 60.0
    rate: float = 6.0
    plain: bool = False
    keep: Path | None = None
    picture: Path | None = None

    @property
    def ends(self) -> float | None:
        """After how many seconds it ends by itself."""
        return None if self.stay else self.seconds

    def __post_init__(self) -> None:
        for name in ("seconds", "speed", "rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name}: expected more than 0, got {getattr(self, name):g}")


def run(options: Options) -> bool:
    """Run the demo; whether decisions were seen.

    Raises:
        ConfigError: it cannot run here; the message says what to change.
        Unavailable: one of its processes ended or did not come up; what it wrote last was printed.
    """
    try:
        return _run(options)
    except Unavailable as error:
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(f"{note}\n")
        raise


def _run(options: Options) -> bool:
    began = time.time()
    console = Console(highlight=False)
    for name in [name for name in os.environ if name.startswith(("GUARD_", "PG"))]:
        del os.environ[name]
    with ExitStack() as stack:
        asked = stack.enter_context(_interruptible_once())
        files = Files(stack.enter_context(_directory(options.keep)))
        _say(console, f"starting Valkey, PostgreSQL, the receiver and the dataflow in {files.directory}")
        stage = stack.enter_context(Stage(files))
        stack.callback(_deafen)
        connection = stack.enter_context(connect(stage.postgres.url, application_name="guard demo"))
        watch = Watch(connection, stage.ports, since=began)
        _until(lambda: _goes_on(asked) and watch.ready(), stage, _READY_SECONDS, "receiver and dataflow are not ready")
        _say(console, f"ready after {time.time() - began:.1f} s; now the world begins")
        seconds = options.ends or _FOR_EVER
        stage.start_world(seed=options.seed, speed=options.speed, rate=options.rate, seconds=seconds)
        _watch(options, stage, watch, console, asked, began=began)
        numbers, truth = _end(stage, watch, connection, began=began, of=options.ends)
        if options.picture is not None:
            options.picture.write_text(picture(numbers), "utf-8")
        for said in summary(numbers, truth, began=began):
            _say(console, said)
        _say(console, _next(numbers, options.keep))
    return numbers.decisions > 0


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def _interruptible_once() -> Iterator[Event]:
    """The first signal to end becomes a KeyboardInterrupt; later ones must not disturb the putting away.

    What is yielded is set by it as well, for a library may catch the exception, or make another one of it.
    """
    asked = Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        _deafen()
        asked.set()
        signal.default_int_handler(number, frame)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _goes_on(asked: Event) -> bool:
    """Whether nobody has asked for an end; raises KeyboardInterrupt once somebody has."""
    if asked.is_set():
        raise KeyboardInterrupt
    return True


def _deafen() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Where it all stands: what is to be kept, or something that goes with us."""
    path = (keep or Path(tempfile.mkdtemp(prefix="guard-demo-"))).absolute()
    try:
        yield path
    finally:
        if keep is None:
            shutil.rmtree(path, ignore_errors=True)


def _until(condition: Callable[[], bool], stage: Stage, seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    stage.check()
    while not condition():
        if time.monotonic() > deadline:
            raise stage.too_late(f"{otherwise} after {seconds:.0f} s")
        time.sleep(0.05)
        stage.check()


def _watch(options: Options, stage: Stage, watch: Watch, console: Console, asked: Event, *, began: float) -> None:
    """Show what happens until the world is over or somebody has seen enough."""
    plain = options.plain or not console.is_terminal or console.is_dumb_terminal
    show = _lines(console, began) if plain else None
    live = Live(console=console, auto_refresh=False, transient=False)
    where = addresses(stage, _guard()) if options.stay else ()
    if plain:
        for text in where:
            _say(console, text)
    try:
        with live:
            while _goes_on(asked) and not stage.world_over:
                numbers = _look(stage, watch, options.ends, asked)
                if show is not None:
                    show(numbers)
                else:
                    size = console.size
                    live.update(view(numbers, where, width=size.width, height=size.height), refresh=True)
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        return


def _look(stage: Stage, watch: Watch, seconds: float | None, asked: Event) -> Numbers:
    """The numbers now; a worker that was killed is waited for, as the supervisor starts it again."""
    deadline = time.monotonic() + _AWAY_SECONDS
    while True:
        stage.check()
        try:
            return watch.look(seconds)
        except Unavailable:
            _goes_on(asked)
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)


def _lines(console: Console, began: float) -> Callable[[Numbers], None]:
    """What shows numbers as lines, every few seconds, with the newest decisions."""
    said: set[UUID] = set()
    next_at = 0.0

    def show(numbers: Numbers) -> None:
        nonlocal next_at
        first = numbers.rows.first_decision
        if first is not None and not said:
            _say(console, f"first decision in PostgreSQL {first.timestamp() - began:.1f} s after the start")
        if time.monotonic() >= next_at or (first is not None and not said):
            next_at = time.monotonic() + _LINE_SECONDS
            _say(console, line(numbers))
            for landed in reversed([row for row in numbers.rows.landed if row.decision_id not in said][:3]):
                _say(console, landed_line(landed))
            said.update(row.decision_id for row in numbers.rows.landed)

    return show


def _end(
    stage: Stage, watch: Watch, connection: Connection, *, began: float, of: float | None
) -> tuple[Numbers, Truth]:
    """End the world, let all that it said be judged, and hold it against its own word."""
    stage.stop_world()
    over = time.time()
    _until(lambda: watch.caught_up(over), stage, _CATCH_UP_SECONDS, "the dataflow has not caught up")
    since = datetime.fromtimestamp(began, UTC)
    with unavailable(), stage.files.ledger.open("rb") as lines:
        truth = compared(
            lines,
            failed=failed_jobs(connection, since),
            stuck=stuck_jobs(connection, since),
            patience=timedelta(seconds=PATIENCE_SECONDS),
            at=over,
        )
    return watch.look(of), truth


def picture(numbers: Numbers) -> str:
    """The view as an SVG that loads nothing from elsewhere."""
    width, height = _PICTURE_SIZE
    console = Console(record=True, width=width, height=height, file=StringIO(), force_terminal=True, highlight=False)
    console.print(view(numbers, width=width, height=height))
    svg = console.export_svg(title="guard demo", unique_id=_SVG_ID)
    fonts, styles = svg.index("@font-face"), svg.index(f".{_SVG_ID}-")
    return (svg[:fonts] + svg[styles:]).replace("Fira Code, monospace", _FONTS)


def _guard() -> str:
    """What to type for `guard`, as it was typed to come here."""
    return sys.argv[0] if Path(sys.argv[0]).name == "guard" else "guard"


def _next(numbers: Numbers, keep: Path | None) -> str:
    """Where to look next."""
    guard = _guard()
    about = next((row for row in numbers.rows.landed if row.verdict == Verdict.ACT), None)
    about = about or next(iter(numbers.rows.landed), None)
    lines = ["", "Where to look next:"]
    if keep is not None:
        lines.append(f"  {guard} demo --keep {keep} --stay    brings this one back; then, beside it:")
        if about is not None:
            lines.append(f"  {guard} explain {about.decision_id} --settings {keep.absolute() / 'guard.toml'}")
    else:
        lines.append(
            f"  {guard} demo --stay    goes on until Ctrl-C; look around with psql, guard status, guard explain"
        )
    lines.append("  README.md has how to point real pipelines at it, docs/design.md how it works")
    return "\n".join(lines)
