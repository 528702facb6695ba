"""Profiles: what is remembered of jobs and repositories as counts, and what detectors say of them.

Job runs that end are gathered as Arrow columns in panes of ten minutes of event time, which close SETTLED_MS after
their end, when the bound for disorder has passed: what is counted does not depend on the order of arrival. A closed
pane goes to the repositories' profiles, and six of them to the jobs'. That is work for as many keys as there are, so
it is done in portions, one each second of stream time, and no batch has to wait for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from analytics.buckets import NO_BUCKET, by_doubling, fine_bucket_of
from analytics.desk import Desk
from analytics.detectors.detector import JOB, REPOSITORY, Counts, Field, Finding, Profile
from analytics.findings import Context
from analytics.journal import Chunks, Journal
from analytics.panes import BUCKETS, Ints
from analytics.piles import Pile, Written, joined
from analytics.rows import JOB_ENDED, JOB_FAILED, JOB_PASSED, MAX_DURATION_MS, SEPARATOR, TEN_MINUTES_MS
from models.records.outputs import JobHour

PANE_MS: Final = TEN_MINUTES_MS
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
SETTLED_MS: Final = 360_000
"""How long after its end a pane closes: the bound for disorder and a minute."""
STRETCH_MS: Final[Mapping[tuple[Field, ...], int]] = {JOB: HOUR_MS, REPOSITORY: PANE_MS}
_RECENT_MS: Final[Mapping[tuple[Field, ...], int]] = {JOB: 24 * HOUR_MS, REPOSITORY: 8 * HOUR_MS}
_DAYS_MS: Final = 28 * DAY_MS
MOST_PROFILES: Final = 100_000
"""Of jobs and of repositories each; what was not heard of for longest is forgotten first."""
_LEAST_ROWS: Final = 200
_PORTIONS: Final[Mapping[tuple[Field, ...], int]] = {JOB: 3000, REPOSITORY: 500}
"""Of what closed together, so many seconds are taken, but at least _LEAST_ROWS rows a second."""
_FEW_ROWS: Final = 64
"""No more than a portion takes: what is said when must not depend on how rows came together."""
_FOLD_ROWS: Final = 8192
_FOLD_TABLES: Final = 64

PANE_DUE: Final = "profile pane"
_HOUR_DUE: Final = "profile hour"

_KEYS: Final = ("pane", "platform", "key", "duration", "queue")
_SUMS: Final = (
    "passed",
    "failed",
    "other",
    "reruns",
    "main_passed",
    "main_failed",
    "duration_ms",
    "failed_ms",
    "rerun_ms",
    "queue_ms",
    "late",
)
_ENDED: Final = 3
"""So many of them count job runs: passed, failed, other."""
_SCHEMA: Final = pa.schema(
    [
        ("pane", pa.int64()),
        ("platform", pa.string()),
        ("key", pa.string()),
        ("duration", pa.int64()),
        ("queue", pa.int64()),
        *((name, pa.int64()) for name in _SUMS),
    ]
)


class Hour(NamedTuple):
    """One hour of one job, added up."""

    platform: str
    key: str
    hour_ms: int
    sums: dict[str, int]
    durations: dict[int, int]
    queues: dict[int, int]


class Profiles:
    """The profiles of one shard, the panes that are open, and what of the closed ones is still to be taken."""

    def __init__(self, desk: Desk, from_ms: int) -> None:
        """Begin with nothing counted. Hours begun before `from_ms` were counted in part by a state that is lost."""
        self._desk: Final = desk
        self._from_ms: Final = from_ms
        self._told: list[pa.Table] = []
        self._rows = 0
        self._open: Final = Pile(_summed)
        self._panes: set[int] = set()
        self._hour: list[pa.Table] = []  # closed panes of the hour that is not over
        self._hour_number = -1
        self._waiting: dict[tuple[Field, ...], list[pa.Table]] = {JOB: [], REPOSITORY: []}
        self._written: Final = tuple(Written() for _ in range(4))  # the hour, both that wait, and what was told
        self._kept: Final = {JOB: Kept(desk, JOB), REPOSITORY: Kept(desk, REPOSITORY)}
        self.said: list[JobHour] = []
        self.when_due: Final[dict[str, Callable[[Any, int, int], None]]] = {
            PANE_DUE: self._close,
            _HOUR_DUE: self._close_hour,
            **{_portion_due(by): partial(self._take_portion, by) for by in self._kept},
            **{kept.due: kept.recheck for kept in self._kept.values()},
        }

    def add(self, told: pa.Table) -> None:
        """Add rows as they came, in the form that Rows.told gives; they are counted when enough have come together."""
        self._told.append(told)
        self._rows += told.num_rows
        if self._rows > _FOLD_ROWS or len(self._told) > _FOLD_TABLES:
            self._fold()

    def _fold(self) -> None:
        if self._told:
            self._open.put(_counted(pa.concat_tables(self._told)))
            self._told, self._rows = [], 0

    def expect(self, panes: Sequence[int]) -> None:
        """Close `panes` when it is time."""
        for pane in panes:
            if pane not in self._panes:
                self._panes.add(pane)
                self._desk.timers.at((pane + 1) * PANE_MS + SETTLED_MS, PANE_DUE, pane)

    def _close(self, pane: int, _second: int, _position: int) -> None:
        """Take what ended in `pane`; it is worked through in the seconds that follow."""
        self._panes.discard(pane)
        self._fold()
        taken = self._open.take("pane", pane)
        if taken is None:
            return
        closed = _summed(taken)
        repositories = closed.set_column(2, "key", _repository_of(closed.column("key")))
        self._wait(REPOSITORY, _summed(repositories))
        hour = pane * PANE_MS // HOUR_MS
        if hour != self._hour_number:
            self._end_hour()
            self._hour_number = hour
            self._desk.timers.at((hour + 1) * HOUR_MS + SETTLED_MS + 1000, _HOUR_DUE, hour)
        self._hour.append(closed)

    def _close_hour(self, hour: int, _second: int, _position: int) -> None:
        if hour == self._hour_number:
            self._end_hour()

    def _end_hour(self) -> None:
        """Take what ended in the hour that is over."""
        if self._hour:
            whole = pa.concat_tables(self._hour)
            hours = pc.multiply(pc.divide(whole.column("pane"), HOUR_MS // PANE_MS), HOUR_MS // PANE_MS)
            self._wait(JOB, _summed(whole.set_column(0, "pane", hours)))
            self._hour = []

    def _wait(self, by: tuple[Field, ...], table: pa.Table) -> None:
        self._waiting[by].append(table.sort_by([("key", "ascending"), ("platform", "ascending")]))
        self._desk.timers.at(self._desk.stream_ms + 1, _portion_due(by), "")

    def _take_portion(self, by: tuple[Field, ...], _key: str, second: int, position: int) -> None:
        """Put the next portion of what closed into the profiles, and ask the detectors."""
        waiting = self._waiting[by]
        if not waiting:
            return
        table = waiting[0]
        end = _end_of_portion(table, max(_LEAST_ROWS, sum(t.num_rows for t in waiting) // _PORTIONS[by]))
        where = self._desk.where(position, second * 1000)
        for hour in _by_key(table.slice(0, end)):
            self._kept[by].take(hour, where)
            if by == JOB and hour.hour_ms >= self._from_ms:
                self.said.append(_row(hour, where))
        waiting[0] = table.slice(end)
        if not waiting[0].num_rows:
            del waiting[0]
        if waiting:
            self._desk.timers.at((second + 1) * 1000, _portion_due(by), "")

    def judge_anew(self, position: int) -> None:
        """Let new rules speak on what stands."""
        for kept in self._kept.values():
            kept.judge_anew(self._desk.where(position))

    def set_timers(self) -> None:
        """Make due again what is due."""
        desk = self._desk
        for pane in self._panes:
            desk.timers.at((pane + 1) * PANE_MS + SETTLED_MS, PANE_DUE, pane)
        if self._hour:
            desk.timers.at((self._hour_number + 1) * HOUR_MS + SETTLED_MS + 1000, _HOUR_DUE, self._hour_number)
        for by, waiting in self._waiting.items():
            if waiting:
                desk.timers.at(desk.stream_ms + 1, _portion_due(by), "")
        for kept in self._kept.values():
            kept.set_timers()

    def settle(self) -> None:
        """Write down what changed."""
        self._open.settle()
        for kept in self._kept.values():
            kept.settle()

    def state(self) -> list[Any]:
        """All of it as plain data."""
        tables = (self._hour, self._waiting[JOB], self._waiting[REPOSITORY], joined(self._told))
        return [
            [self._open.state([]), *(mine.chunks(some) for mine, some in zip(self._written, tables, strict=True))],
            sorted(self._panes),
            self._hour_number,
            [kept.state() for kept in self._kept.values()],
        ]

    def load(self, state: list[Any]) -> None:
        """Take what `state` gave."""
        tables, panes, self._hour_number, kept = state
        self._open.load(tables[0])
        read = (mine.read(some) for mine, some in zip(self._written, tables[1:], strict=True))
        self._hour, self._waiting[JOB], self._waiting[REPOSITORY], self._told = read
        self._rows = sum(table.num_rows for table in self._told)
        self._panes = set(panes)
        for mine, told in zip(self._kept.values(), kept, strict=True):
            mine.load(told)


class Kept:
    """The profiles of all jobs, or of all repositories, packed."""

    def __init__(self, desk: Desk, by: tuple[Field, ...]) -> None:
        """Begin with none."""
        self._desk: Final = desk
        self._by: Final = by
        self.due: Final = f"profile {by[-1]}"
        self._profiles: dict[str, bytes] = {}
        self._journal: Final = Journal()

    def take(self, hour: Hour, where: Context) -> None:
        """Put one stretch into the profile of its key, and ask the detectors."""
        known = self._profiles.pop(hour.key, None)
        if known is None and len(self._profiles) >= MOST_PROFILES:
            first = next(iter(self._profiles))
            del self._profiles[first]
            self._journal.changed.append(first)
        counts = _counts(hour)
        profile = _with(_unpacked(known) if known else _NOTHING, counts, self._by)
        self._profiles[hour.key] = _packed(profile)
        self._journal.changed.append(hour.key)
        end_ms = hour.hour_ms + STRETCH_MS[self._by]
        at_end = where._replace(at_ms=end_ms)
        for rule, within_ms in self._desk.profiles[self._by]:
            answer = self._desk.asking.judge(rule, hour.key, profile, at_end)
            if answer is not None:
                self._desk.timers.at(end_ms + within_ms, self.due, hour.key)
            stands = self._desk.findings.stands(rule, hour.key)
            if answer is None or stands is None or not _alike(answer, stands.finding):
                self._desk.answer(rule, hour.key, answer, profile, where)

    def recheck(self, key: str, second: int, position: int) -> None:
        """Clear what stands on `key` if nothing was heard of it for too long."""
        end_ms, where = self._end_of(key), self._desk.where(position, second * 1000)
        for rule, within_ms in self._desk.profiles[self._by]:
            if end_ms + within_ms <= where.at_ms:
                self._desk.answer(rule, key, None, _NOTHING, where)

    def _end_of(self, key: str) -> int:
        known = self._profiles.get(key)
        return 0 if known is None else _unpacked(known).recent[-1].at_ms + STRETCH_MS[self._by]

    def judge_anew(self, where: Context) -> None:
        """Let new rules speak on what stands; they raise findings when the next stretch closes."""
        for key, known in self._profiles.items():
            for rule, _ in self._desk.profiles[self._by]:
                if self._desk.findings.stands(rule, key):
                    profile = _unpacked(known)
                    if self._desk.asking.judge(rule, key, profile, where._replace(at_ms=self._end_of(key))) is None:
                        self._desk.answer(rule, key, None, profile, where)

    def set_timers(self) -> None:
        """Make due again what may have to be cleared."""
        for key in self._profiles:
            for rule, within_ms in self._desk.profiles[self._by]:
                if self._desk.findings.stands(rule, key):
                    self._desk.timers.at(self._end_of(key) + within_ms, self.due, key)

    def settle(self) -> None:
        """Write down what changed."""
        self._journal.settle(self._profiles)

    def state(self) -> Chunks:
        """All profiles."""
        return self._journal.written(self._profiles)

    def load(self, state: list[bytes]) -> None:
        """Take what `state` gave."""
        self._profiles = self._journal.read(state)


_NOTHING: Final = Profile((), ())


def _portion_due(by: tuple[Field, ...]) -> str:
    return f"profile portion {by[-1]}"


def _with(profile: Profile, counts: Counts, by: tuple[Field, ...]) -> Profile:
    """The profile with one more stretch, and without what is too old."""
    recent = _joined(profile.recent, counts)
    days = _joined(profile.days, replace(counts, at_ms=counts.at_ms // DAY_MS * DAY_MS))
    newest = recent[-1].at_ms
    return Profile(_since(recent, newest - _RECENT_MS[by]), _since(days, newest - _DAYS_MS - DAY_MS))


def _since(told: list[Counts], at_ms: int) -> list[Counts]:
    """What came after `at_ms`, which mostly is all."""
    return told if told[0].at_ms > at_ms else [counts for counts in told if counts.at_ms > at_ms]


def _joined(told: Sequence[Counts], new: Counts) -> list[Counts]:
    """`told` with `new`, added to what there is of the same time; mostly it is the last."""
    place = len(told)
    while place and told[place - 1].at_ms > new.at_ms:
        place -= 1
    if place and told[place - 1].at_ms == new.at_ms:
        return [*told[: place - 1], _sum(told[place - 1], new), *told[place:]]
    return [*told[:place], new, *told[place:]]


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(
        one.at_ms,
        one.passed + other.passed,
        one.failed + other.failed,
        one.other + other.other,
        one.reruns + other.reruns,
        _added(one.durations, other.durations),
        _added(one.queues, other.queues),
    )


def _added(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    total = dict(one)
    for bucket, count in other.items():
        total[bucket] = total.get(bucket, 0) + count
    return dict(sorted(total.items()))


def _alike(new: Finding, old: Finding) -> bool:
    """Whether nothing of note changed since: it did not begin earlier, and there is not half as much again of it."""
    return new.first_ms >= old.first_ms and 2 * new.occurrences < 3 * max(1, old.occurrences)


def _counts(hour: Hour) -> Counts:
    sums = hour.sums
    return Counts(
        hour.hour_ms, sums["passed"], sums["failed"], sums["other"], sums["reruns"], hour.durations, hour.queues
    )


def _row(hour: Hour, where: Context) -> JobHour:
    instance, repository, workflow, job_name = hour.key.split(SEPARATOR, 3)
    sums = hour.sums
    return JobHour(
        shard=where.shard,
        position=where.position,
        platform=hour.platform,
        instance=instance,
        repository=repository,
        workflow=workflow,
        job_name=job_name,
        hour_ms=hour.hour_ms,
        passed=sums["passed"],
        failed=sums["failed"],
        other=sums["other"],
        reruns=sums["reruns"],
        duration_ms_sum=sums["duration_ms"],
        duration_ms_failed_sum=sums["failed_ms"],
        duration_ms_rerun_sum=sums["rerun_ms"],
        durations=by_doubling(hour.durations, BUCKETS),
        queue_ms_sum=sums["queue_ms"],
        queues=by_doubling(hour.queues, BUCKETS),
        main_passed=sums["main_passed"],
        main_failed=sums["main_failed"],
        late=sums["late"],
    )


def _packed(profile: Profile) -> bytes:
    return msgspec.msgpack.encode(profile)


def _unpacked(data: bytes) -> Profile:
    return msgspec.msgpack.decode(data, type=Profile)


def _counted(told: pa.Table) -> pa.Table:
    """The job runs that ended among rows as they came, as keys and sums."""
    code = np.asarray(told.column("code"))
    told = told.filter(pa.array(np.isin(code, (JOB_PASSED, JOB_ENDED, JOB_FAILED))))
    code, at, stream = (np.asarray(told.column(name)) for name in ("code", "at", "stream"))
    pane = at // PANE_MS
    late = (pane + 1) * PANE_MS + SETTLED_MS <= stream
    counts = ~late
    passed, failed = counts & (code == JOB_PASSED), counts & (code == JOB_FAILED)
    main, again = np.asarray(told.column("main")), np.asarray(told.column("attempt")) > 1
    duration, known = _known(told.column("duration_ms"), counts)
    queue, waited = _known(told.column("queued_ms"), counts)
    columns = {
        "pane": np.where(late, stream // PANE_MS, pane),
        "platform": told.column("platform"),
        "key": told.column("key"),
        "duration": np.where(known, fine_bucket_of(duration), NO_BUCKET),
        "queue": np.where(waited, fine_bucket_of(queue), NO_BUCKET),
        "passed": passed,
        "failed": failed,
        "other": counts & (code == JOB_ENDED),
        "reruns": counts & again,
        "main_passed": passed & main,
        "main_failed": failed & main,
        "duration_ms": np.where(known, duration, 0),
        "failed_ms": np.where(known & failed, duration, 0),
        "rerun_ms": np.where(known & again & ~failed, duration, 0),
        "queue_ms": np.where(waited, queue, 0),
        "late": late,
    }
    numbers = {name: c if isinstance(c, pa.ChunkedArray) else c.astype(np.int64) for name, c in columns.items()}
    return pa.table(numbers, schema=_SCHEMA)


def _known(column: pa.ChunkedArray, counts: npt.NDArray[np.bool_]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The milliseconds of a column, and whether each is told and can be believed."""
    told = np.asarray(pc.fill_null(column, -1))
    return told, counts & (told >= 0) & (told <= MAX_DURATION_MS)


def _repository_of(keys: pa.ChunkedArray) -> pa.Array:
    """The repository's key of each job key."""
    parts = pc.split_pattern(keys.combine_chunks(), SEPARATOR, max_splits=2)
    return pc.binary_join_element_wise(pc.list_element(parts, 0), pc.list_element(parts, 1), SEPARATOR)


def _summed(table: pa.Table) -> pa.Table:
    """One row for all that have the same keys. A few rows stay as they are: they are added up one by one in the end."""
    if table.num_rows <= _FEW_ROWS:
        return table
    sums = table.combine_chunks().group_by(list(_KEYS), use_threads=False).aggregate([(name, "sum") for name in _SUMS])
    renamed = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    return renamed.select(_SCHEMA.names).cast(_SCHEMA)


def _end_of_portion(table: pa.Table, rows: int) -> int:
    """Where a portion of about `rows` rows ends, so that no key is cut in two."""
    if rows >= table.num_rows:
        return int(table.num_rows)
    keys = table.column("key")
    last, end = keys[rows - 1], rows
    while end < table.num_rows and keys[end] == last:
        end += 1
    return end


def _by_key(table: pa.Table) -> Iterator[Hour]:
    """What stands in `table`, which is sorted, key by key."""
    panes, platforms, keys, durations, queues = (table.column(name).to_pylist() for name in _KEYS)
    numbers = np.column_stack([np.asarray(table.column(name)) for name in _SUMS])
    ended = numbers[:, :_ENDED].sum(axis=1).tolist()
    named = list(zip(keys, platforms, panes, strict=True))
    starts = [row for row in range(len(named)) if not row or named[row] != named[row - 1]]
    totals = np.add.reduceat(numbers, starts, axis=0).tolist() if starts else []
    for (start, end), total in zip(pairwise((*starts, len(named))), totals, strict=True):
        key, platform, pane = named[start]
        of_key = (_by_bucket(column[start:end], ended[start:end]) for column in (durations, queues))
        yield Hour(platform, key, pane * PANE_MS, dict(zip(_SUMS, total, strict=True)), *of_key)


def _by_bucket(buckets: Sequence[int], ended: Sequence[int]) -> dict[int, int]:
    """How many job runs are in each of `buckets`, in which so many ended."""
    counts: dict[int, int] = {}
    for bucket, number in zip(buckets, ended, strict=True):
        if bucket != NO_BUCKET and number:
            counts[bucket] = counts.get(bucket, 0) + number
    return dict(sorted(counts.items()))
