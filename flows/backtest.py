"""The past through the shards on all cores: reads, judges, and writes what was said as Parquet.

    files --> sort by shard and time --+--> judge --> parts of tables --> one file a table
    archive ---------------------------+
              (processes)                   (processes)

Processes are spawned, share nothing and hand back names and numbers; rows go from file to file. How many there are
changes nothing: parts are put together by shard.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from analytics.backtest import NOTHING, added, final, judged
from analytics.executions import ENDS_SCHEMA, ends_of
from analytics.fleet import Fleet
from analytics.past import MOST_AT_ONCE, Span, batches
from analytics.rulebook import Rulebook
from connectors.parquet import entries, files, shards
from connectors.redaction import Redactor
from flows.backtest_inputs import Piece, Run, Sorted, merged, redacted, sort
from flows.detector_files import DetectorFile, load
from flows.garbage import look_once
from models.records.columns import Batch, decode
from models.records.errors import ConfigError, GuardError
from models.records.event import SHARDS
from models.records.outputs import ClosedMinutes, IncidentRow, ShardOutput, ShardStats
from models.records.tables import KEYS, RECORDS, SCHEMAS, table

_FEW_BYTES: Final = 4 << 20
"""Less than this is judged in this process: others would take longer to begin."""
_LOOK_SECONDS: Final = 0.2
_GROUP_ROWS: Final = 8192

T = TypeVar("T")
R = TypeVar("R")
Watch = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """A rulebook in force throughout; with `named`, those by digest that control entries bring into force after it."""

    body: Mapping[str, Any]
    also: tuple[DetectorFile, ...] = ()
    named: Mapping[str, Mapping[str, Any]] | None = None

    def rulebook(self) -> Rulebook:
        """The rulebook, which compiles its signatures when it first needs them.

        Raises:
            ConfigError: a detector's file does not hold what it should.
        """
        return _made(self)

    def resolve(self, digest: str) -> Rulebook:
        """The rulebook of `digest`.

        Raises:
            ConfigError: there is none.
        """
        if self.named is None:
            return self.rulebook()
        if digest not in self.named:
            raise ConfigError(f"rulebook {digest}: not in PostgreSQL")  # as the live flow said
        return _named(self, digest)


@cache
def _made(rules: Rules) -> Rulebook:
    return Rulebook(rules.body, also=tuple(map(load, rules.also)))


@cache
def _named(rules: Rules, digest: str) -> Rulebook:
    assert rules.named is not None
    return Rules(rules.named[digest]).rulebook()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is judged, by one set of rules or by two side by side. `folder` takes what lies between the steps."""

    sides: tuple[Rules, ...]
    folder: Path
    key: bytes  # for pseudonyms
    acts: bool = False  # how executions ended is kept, for what would have been done


class Task(NamedTuple):
    """One shard, to be judged by one set of rules: its runs and the span of all shards, or an archive."""

    side: int
    shard: int
    runs: tuple[Run, ...] = ()
    span: Span | None = None
    archive: Path | None = None


class Judged(NamedTuple):
    """What became of a task: the files of its rows by table, and what was counted."""

    side: int
    shard: int
    files: dict[str, Path]
    stats: ShardStats
    closed: list[ClosedMinutes]  # for the fleet
    ends: Path | None  # how executions ended, where that is kept
    completed: Counter[int]  # jobs that ended and did not fail, by minute, Unix milliseconds


class Workshop:
    """What one process needs to do its tasks."""

    def __init__(self, plan: Plan, done: Any) -> None:  # noqa: ANN401 - a shared integer, which knows no type
        """`done` counts the events that were judged, in all processes."""
        self._plan: Final = plan
        self._done: Final = done
        self._compiled: Final = plan.folder / "signatures"
        self._ready = False
        self._redactor: Final = Redactor(plan.key)
        self._redact: Final = redacted(self._redactor.redact_bytes)

    def compile(self) -> None:
        """Compile the signatures of all rules, for every process.

        Raises:
            ConfigError: one of them cannot be compiled.
        """
        dumped = [rules.rulebook().catalogue.dumped() for rules in self._plan.sides]
        self._compiled.write_bytes(msgspec.msgpack.encode(dumped))

    def take_compiled(self) -> None:
        """Take what one of the processes compiled, if it was not taken yet."""
        if not self._ready:
            dumped = msgspec.msgpack.decode(self._compiled.read_bytes(), type=list[tuple[bytes, bytes]])
            for rules, of_side in zip(self._plan.sides, dumped, strict=True):
                rules.rulebook().catalogue.take(of_side)
            self._ready = True

    def sort(self, piece: Piece) -> Sorted:
        """Sort one piece of a file."""
        return sort(piece, self._plan.folder, self._redact)

    def judge(self, task: Task) -> Judged:
        """Let one shard say all that it has to say."""
        rules = self._plan.sides[task.side]
        parts = Parts(self._plan.folder, f"{task.side}-{task.shard:02}")
        stats, closed, completed = NOTHING, [], Counter[int]()
        ends = Ends(self._plan.folder / f"ends-{task.shard:02}.parquet") if self._plan.acts and not task.side else None
        batches_read = _entries(task) if ends is None else ends.seen(_entries(task))
        for output in judged(task.shard, batches_read, rules.rulebook(), rules.resolve):
            letters = list(map(self._redactor.redact_letter, output.dead_letters))
            parts.add(output._replace(dead_letters=letters))
            closed += output.closed
            stats = added(stats, output.stats)
            for row in output.aggregates:
                completed[row.minute_ms] += row.completed
            with self._done.get_lock():
                self._done.value += output.stats.events
        told = ends.close() if ends is not None else None
        return Judged(task.side, task.shard, parts.close(), stats, closed, told, completed)


def _entries(task: Task) -> Iterator[Batch]:
    if task.archive is not None:
        return map(decode, entries(task.archive, task.shard, most=MOST_AT_ONCE))
    assert task.span is not None
    return batches(merged(task.runs), task.span)


class Ends:
    """A file that takes how the executions of one shard ended."""

    def __init__(self, path: Path) -> None:
        """Begin with none."""
        self._path: Final = path
        self._writer: Final = pq.ParquetWriter(path, ENDS_SCHEMA, compression="zstd")

    def seen(self, past: Iterable[Batch]) -> Iterator[Batch]:
        """Pass batches on, and keep of each what it tells of that."""
        for batch in past:
            if batch.events.num_rows:
                self._writer.write_table(ends_of(batch))
            yield batch

    def close(self) -> Path:
        """The file, whole."""
        self._writer.close()
        return self._path


class Parts:
    """Files that take the rows of one shard, one a table, a group of rows at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        """Begin with nothing written."""
        self._paths: Final = {table_name: folder / f"{name}-{table_name}.parquet" for table_name in RECORDS}
        self._rows: Final[dict[str, list[Any]]] = {table_name: [] for table_name in RECORDS}
        self._writers: Final[dict[str, pq.ParquetWriter]] = {}

    def add(self, output: ShardOutput) -> None:
        """Take what a shard said."""
        for name, rows in self._rows.items():
            rows.extend(getattr(output, name))
            if len(rows) >= _GROUP_ROWS:
                self._write(name)

    def _write(self, name: str) -> None:
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self._paths[name], SCHEMAS[name], compression="zstd")
        self._writers[name].write_table(table(name, self._rows[name]))
        self._rows[name].clear()

    def close(self) -> dict[str, Path]:
        """Write the rest; the files by table."""
        for name, rows in self._rows.items():
            if rows:
                self._write(name)
        for writer in self._writers.values():
            writer.close()
        return {name: self._paths[name] for name in self._writers}


_here: Workshop | None = None
"""The workshop of this process, where it was spawned for one."""


def _open(plan: Plan, done: Any) -> None:  # noqa: ANN401 - as above
    global _here  # noqa: PLW0603 - an initialiser can leave what it made nowhere else
    _here = Workshop(plan, done)


def _begin(plan: Plan, done: Any) -> None:  # noqa: ANN401 - as above
    """What a spawned process does first."""
    _open(plan, done)
    look_once()


def _compile() -> None:
    assert _here is not None
    _here.compile()


def _sort(piece: Piece) -> Sorted:
    assert _here is not None
    return _here.sort(piece)


def _judge(task: Task) -> Judged:
    assert _here is not None
    return _here.judge(task)


def _judge_compiled(task: Task) -> Judged:
    assert _here is not None
    _here.take_compiled()
    return _here.judge(task)


class Crew:
    """Processes that do tasks, or this process where there is little to do."""

    def __init__(self, pool: ProcessPoolExecutor | None, done: Any, watch: Watch) -> None:  # noqa: ANN401 - as above
        """Work in `pool`, or here where there is none."""
        self._pool: Final = pool
        self._done: Final = done
        self._watch: Final = watch
        self._compiling: Final = pool.submit(_compile) if pool is not None else None  # by one, while others sort

    def sort(self, pieces: Sequence[Piece]) -> list[Sorted]:
        """Sort all pieces; the answers are in their order.

        Raises:
            InputError: one of them cannot be read.
        """
        return self._all(_sort, pieces, lambda ended: self._watch("reading", ended, len(pieces)))

    def judge(self, tasks: Sequence[Task], events: int) -> list[Judged]:
        """Do all tasks, of `events` events together; the answers are in their order.

        Raises:
            ConfigError: a signature cannot be compiled.
        """
        if self._compiling is not None:
            self._results([self._compiling], lambda _: None)
        work = _judge if self._pool is None else _judge_compiled
        return self._all(work, tasks, lambda _: self._watch("judging", self._done.value, events))

    def _all(self, work: Callable[[T], R], items: Sequence[T], tell: Callable[[int], None]) -> list[R]:
        if self._pool is None:
            return [work(item) for item in items]
        return self._results([self._pool.submit(work, item) for item in items], tell)

    def _results(self, futures: Sequence[Future[R]], tell: Callable[[int], None]) -> list[R]:
        try:
            self._until_done(futures, tell)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise GuardError("a process of the backtest was ended from outside; is there too little memory?") from error
        finally:
            for future in futures:
                future.cancel()

    @staticmethod
    def _until_done(futures: Sequence[Future[R]], tell: Callable[[int], None]) -> None:
        left = set(futures)
        while left:
            ended, left = wait(left, timeout=_LOOK_SECONDS)
            tell(len(futures) - len(left))
            for future in ended:
                future.result()  # the first error ends it


@contextmanager
def crew(plan: Plan, size_bytes: int, watch: Watch) -> Iterator[Crew]:
    """As many processes as this one may use cores."""
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    processes = len(os.sched_getaffinity(0))
    if size_bytes < _FEW_BYTES or processes == 1:
        _open(plan, done)
        yield Crew(None, done, watch)
        return
    with ProcessPoolExecutor(processes, context, _begin, (plan, done)) as pool:
        yield Crew(pool, done, watch)


def span_of(done: Iterable[Sorted]) -> Span | None:
    """When the first and the last of all events were received."""
    runs = [run for part in done for run in part.runs]
    if not runs:
        return None
    return Span(min(run.first_ms for run in runs), max(run.last_ms for run in runs))


def tasks(done: Iterable[Sorted], span: Span, sides: int) -> list[Task]:
    """What is to be judged, the largest shards first, so that no process ends long after the others."""
    by_shard: dict[int, list[Run]] = {shard: [] for shard in range(SHARDS)}
    for run in (run for part in done for run in part.runs):
        by_shard[run.shard].append(run)
    largest = sorted(by_shard, key=lambda shard: (-sum(run.rows for run in by_shard[shard]), shard))
    return [Task(side, shard, tuple(by_shard[shard]), span) for shard in largest for side in range(sides)]


def archive_tasks(directory: Path, sides: int) -> list[Task]:
    """What is to be judged of an archive, the largest shards first."""
    sized = {shard: sum(file.entries for file in files(directory, shard)) for shard in shards(directory)}
    largest = sorted(sized, key=lambda shard: (-sized[shard], shard))
    return [Task(side, shard, archive=directory) for shard in largest for side in range(sides)]


def put_together(parts: Iterable[Judged], side: int, folder: Path, between: Path) -> dict[str, Path]:
    """One file a table of what one set of rules said, by shard. Each appears in `folder` whole, without rows too."""
    ordered = sorted((part for part in parts if part.side == side), key=lambda part: part.shard)
    incidents = _incidents(ordered)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in RECORDS}
    for name, path in paths.items():
        whole = between / path.name
        with pq.ParquetWriter(whole, SCHEMAS[name], compression="zstd") as writer:
            for part in ordered:
                if name in part.files:
                    _append(name, part.files[name], writer)
            if name == "incidents" and incidents:
                writer.write_table(table(name, incidents))
        whole.replace(path)
        pa.default_memory_pool().release_unused()
    return paths


def _append(name: str, part: Path, writer: pq.ParquetWriter) -> None:
    """Write the rows of a shard's file, but for what was said again."""
    with pq.ParquetFile(part) as written:
        keep, first = final(name, written.read(columns=list(KEYS[name]), use_threads=False)), 0
        for group in range(written.num_row_groups):
            rows = written.read_row_group(group, use_threads=False)
            writer.write_table(rows.filter(keep[first : first + len(rows)]))
            first += len(rows)


def _incidents(parts: Sequence[Judged]) -> list[IncidentRow]:
    """What the fleet says to all shards."""
    fleet = Fleet()
    return [row for part in parts for message in part.closed for row in fleet.process(message)]


def sum_of(stats: Iterable[ShardStats]) -> ShardStats:
    """All of them together."""
    return reduce(added, stats, NOTHING)
