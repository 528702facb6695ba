"""The archive's files: whole or not there, each entry in one of them, readable by anybody, and merged unseen."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Self

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import parquet_files, parquet_writer
from connectors.parquet import Damaged, Gap, entries, events, files, gaps, shards
from connectors.parquet_files import ArchiveFile, End, day_of
from connectors.parquet_rows import SCHEMA, rows
from connectors.parquet_writer import BIG_BYTES, FEW, NOTHING, ShardArchive, to_merge
from models.records.columns import EVENT_SCHEMA
from models.records.errors import ConfigError
from models.records.raw import RawEntries
from tests.connectors.archives import DAY_MS, NOON_MS, read, some

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 11, 26)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., ShardArchive]]:
    made: list[ShardArchive] = []

    def make(shard: int = 3) -> ShardArchive:
        made.append(ShardArchive(tmp_path, shard))
        return made[-1]

    yield make
    for archive in made:
        archive.close()


def crash(archive: ShardArchive) -> None:
    """What a killed process leaves: its lock goes, nothing else."""
    archive.close()
    archive.close = lambda: None  # type: ignore[method-assign]


def paths(directory: Path) -> list[str]:
    """Every file that a reader of the directory would find."""
    return sorted(str(path.relative_to(directory)) for path in (directory / "entries").rglob("*") if path.is_file())


# --- what is written is there


def test_a_file_is_named_after_its_day_shard_and_positions(tmp_path: Path, opened: Any) -> None:
    opened().write(some(1, 5), 0)
    assert paths(tmp_path) == ["entries/day=2026-11-26/shard=03/000000000001-000000000005.parquet"]
    (file,) = files(tmp_path)
    assert (file.day, file.shard, file.first, file.last, file.entries) == (TODAY, 3, 1, 5, 5)


def test_each_day_has_files_of_its_own_and_so_has_each_stretch_without_a_gap(tmp_path: Path, opened: Any) -> None:
    midnight = NOON_MS + DAY_MS // 2
    raw = some(1, 6, at_ms=midnight - 3000)
    opened().write(RawEntries([1, 2, 3, 4, 8, 9], raw.entry_ms, raw.entry_seqs, raw.fields), 0)
    assert [(f.day, f.first, f.last) for f in files(tmp_path)] == [
        (TODAY, 1, 3),
        (TODAY + timedelta(days=1), 4, 4),
        (TODAY + timedelta(days=1), 8, 9),
    ]
    assert gaps(tmp_path, 3) == [Gap(5, 7)]
    assert [raw.positions for raw in entries(tmp_path, 3)] == [[1, 2, 3], [4], [8, 9]]


def test_what_is_not_there_yet_has_no_entries_no_events_and_no_gaps(tmp_path: Path) -> None:
    assert (shards(tmp_path), read(tmp_path, 3), gaps(tmp_path, 3), files(tmp_path)) == ([], [], [], [])
    assert events(tmp_path).collect().columns == events(tmp_path).collect_schema().names()


def test_entries_come_in_parts_as_small_as_is_asked_for(tmp_path: Path, opened: Any) -> None:
    opened().write(some(1, 10), 0)
    assert [list(part.positions) for part in entries(tmp_path, 3, most=4)] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert read(tmp_path, 3) == list(some(1, 10))


def test_a_reader_finds_what_was_archived_and_merged_while_it_read(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    for number in range(FEW - 1):
        archive.write(some(1 + 4 * number, 4), 0)
    found = []
    for number, part in enumerate(entries(tmp_path, 3, most=3)):
        found += list(part)
        if number == 2:
            archive.write(some(4 * FEW - 3, 4), 0)
            assert archive.merge()
            assert len(files(tmp_path)) == 1
    assert [entry.position for entry in found] == list(range(1, 4 * FEW + 1))


# --- other readers


def filled(opened: Any) -> int:
    """Two shards over two days; how many events."""
    for shard in (3, 11):
        archive = opened(shard)
        archive.write(some(1, 30, every_ms=DAY_MS // 20), 0)
        archive.write(some(31, 30, at_ms=NOON_MS + 2 * DAY_MS), 0)
    return 2 * 40


def test_polars_duckdb_and_pyarrow_read_the_directory_as_one_table(tmp_path: Path, opened: Any) -> None:
    wanted = filled(opened)
    ours = events(tmp_path).collect()
    assert len(ours) == wanted
    assert ours["failure_reason"].to_list() == ["script_failure"] * wanted
    assert set(EVENT_SCHEMA.names) < set(ours.columns)
    whole = pl.read_parquet(tmp_path / "entries")
    assert len(whole) == 120
    assert sorted(whole["shard"].unique()) == [3, 11]
    assert (
        whole.filter(pl.col("id").is_not_null())
        .select(ours.columns)
        .sort("shard", "position")
        .equals(ours.sort("shard", "position"))
    )
    where = f"'{tmp_path}/entries/**/*.parquet', hive_partitioning = true"
    counted = duckdb.execute(
        f"SELECT kind, count(*), min(day), max(shard)::int FROM read_parquet({where}) GROUP BY 1 ORDER BY 1"
    )
    assert counted.fetchall() == [("event", 80, TODAY, 11), ("heartbeat", 40, TODAY, 11)]
    assert ds.dataset(tmp_path / "entries", partitioning="hive").count_rows() == 120


def test_files_of_an_earlier_release_that_lack_a_column_are_read_and_merged(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = opened()
    with monkeypatch.context() as earlier:
        fewer = SCHEMA.remove(SCHEMA.get_field_index("trigger"))
        earlier.setattr(parquet_files, "SCHEMA", fewer)
        earlier.setattr(parquet_writer, "rows", lambda raw: rows(raw).select(fewer.names))
        archive.write(some(1, 5), 0)
    archive.write(some(6, 5, at_ms=NOON_MS + 10_000), 0)
    archive.write(some(11, 5, at_ms=NOON_MS + DAY_MS), 0)
    assert events(tmp_path).collect()["trigger"].to_list() == [None] * 10
    assert archive.merge()
    assert events(tmp_path).collect()["trigger"].to_list() == [None] * 10
    assert read(tmp_path, 3)[:10] == [*some(1, 5), *some(6, 5, at_ms=NOON_MS + 10_000)]


# --- going on


def test_the_files_say_how_far_the_shard_has_come(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    assert archive.end == NOTHING
    archive.write(some(1, 5), 0)
    archive.write(some(8, 3, at_ms=NOON_MS + DAY_MS), 2)
    crash(archive)
    end = opened().end
    assert end == End(10, NOON_MS + DAY_MS + 2000, 0, 2)
    assert end.entry_id == f"{NOON_MS + DAY_MS + 2000}-0"


def test_one_process_at_a_time_archives_a_shard(tmp_path: Path, opened: Any) -> None:
    first = opened()
    with pytest.raises(ConfigError, match=r"shard 03 of .* is archived by another process"):
        opened()
    opened(4)
    crash(first)
    opened()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"archive.directory: {tmp_path}/file cannot be used: Not a directory"):
        ShardArchive(tmp_path / "file", 3)


def test_what_a_crash_left_on_its_way_is_gone_at_the_next_start(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    archive.write(some(1, 5), 0)
    half = tmp_path / "staging/03/000000000006-000000000010.parquet"
    half.write_bytes(b"PAR1 half of it")
    crash(archive)
    assert opened().end.position == 5
    assert not half.exists()


# --- a disk that is full


class Full:
    """A file that takes so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        """Take them, or say that there is no room."""
        self._room -= memoryview(data).nbytes
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))


@pytest.mark.parametrize("room", [0, 3, 400, 5000])
def test_a_disk_that_is_full_leaves_nothing_behind_and_the_same_is_written_later(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    archive = opened()
    archive.write(some(1, 5), 0)
    real = Path.open
    with monkeypatch.context() as full:
        full.setattr(Path, "open", lambda path, *args, **named: Full(real(path, *args, **named), room))
        with pytest.raises(OSError, match="No space left on device"):
            archive.write(some(6, 60), 0)
    assert archive.end.position == 5
    assert list((tmp_path / "staging/03").iterdir()) == []
    assert len(paths(tmp_path)) == 1
    archive.write(some(6, 60), 0)
    assert read(tmp_path, 3) == [*some(1, 5), *some(6, 60)]


def test_a_limit_of_the_system_is_met_in_the_same_way(tmp_path: Path) -> None:
    """The kernel itself refuses the bytes; no stand-in does."""
    code = f"""
import resource, signal
from pathlib import Path
from connectors.parquet_writer import ShardArchive
from tests.connectors.archives import some
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
archive = ShardArchive(Path({str(tmp_path)!r}), 3)
archive.write(some(1, 3), 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
try:
    archive.write(some(4, 2000), 0)
except OSError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
archive.write(some(4, 2000), 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n", "")
    assert read(tmp_path, 3) == [*some(1, 3), *some(4, 2000)]


def test_where_only_the_first_of_two_days_found_room_the_second_follows(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = opened()
    raw = some(1, 10, at_ms=NOON_MS + DAY_MS // 2 - 5000)
    real, opens = Path.open, iter([10**9, 100])
    with monkeypatch.context() as full:
        full.setattr(Path, "open", lambda path, *args, **named: Full(real(path, *args, **named), next(opens)))
        with pytest.raises(OSError, match="No space left on device"):
            archive.write(raw, 0)
    assert archive.end.position == 5
    archive.write(raw, 0)
    assert read(tmp_path, 3) == list(raw)


# --- files that were damaged later


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_a_newest_file_that_cannot_be_read_is_set_aside_and_its_entries_are_read_again(
    tmp_path: Path, opened: Any
) -> None:
    for number, damage in enumerate((damage_end, empty)):
        archive = opened(number)
        archive.write(some(1, 5), 0)
        (file,) = archive.write(some(6, 5), 0)
        crash(archive)
        damage(file.path)
        again = opened(number)
        assert again.end.position == 5
        assert [str(file.path) in said for said in again.damaged] == [True]
        assert (tmp_path / f"damaged/day=2026-11-26.shard={number:02d}.{file.path.name}").is_file()
        again.write(some(6, 5), 0)
        assert read(tmp_path, number) == list(some(1, 10, at_ms=NOON_MS))[:5] + list(some(6, 5))


@pytest.mark.parametrize("damage", [damage_end, damage_middle, empty])
def test_a_reader_is_told_of_a_file_that_cannot_be_read(tmp_path: Path, opened: Any, damage: Any) -> None:
    archive = opened()
    archive.write(some(1, 50), 0)
    (file,) = archive.write(some(51, 300), 0)
    damage(file.path)
    found: list[int] = []
    parts = (position for part in entries(tmp_path, 3, most=20) for position in part.positions)
    with pytest.raises(Damaged, match=str(file.path)):
        found.extend(parts)
    assert found == list(range(1, len(found) + 1))


def test_a_merge_sets_aside_what_it_cannot_read_and_merges_the_rest(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    written = [archive.write(some(1 + 50 * n, 50), 0)[0] for n in range(4)]
    archive.write(some(201, 50, at_ms=NOON_MS + DAY_MS), 0)
    damage_middle(written[1].path)
    while archive.merge() or len(files(tmp_path)) > 3:
        pass
    assert [(f.first, f.last) for f in files(tmp_path)] == [(1, 50), (101, 200), (201, 250)]
    assert gaps(tmp_path, 3) == [Gap(51, 100)]
    assert len(archive.damaged) == 1
    assert (tmp_path / f"damaged/day=2026-11-26.shard=03.{written[1].path.name}").is_file()


def test_a_file_in_the_place_of_another_is_found_out(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    (one,), (other,) = archive.write(some(1, 5), 0), archive.write(some(6, 5), 0)
    shutil.copy(one.path, other.path)
    with pytest.raises(Damaged, match="does not hold the positions that follow 5"):
        read(tmp_path, 3)
    crash(archive)
    assert opened().end.position == 5


def test_a_file_that_is_none_of_ours_is_named_and_set_aside(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    archive.write(some(1, 5), 0)
    (tmp_path / "entries/day=2026-11-26/shard=03/notes.txt").touch()
    with pytest.raises(Damaged, match=r"notes\.txt: no file of the archive has such a name"):
        files(tmp_path)
    crash(archive)
    (said,) = opened().damaged
    assert "notes.txt" in said
    assert len(files(tmp_path)) == 1


# --- merging


@pytest.fixture(params=["exchange", "rename"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With directories that can be exchanged, and as on a file system that cannot do that."""
    if request.param == "rename":
        monkeypatch.setattr(parquet_files, "_exchanged", lambda _one, _other: False)
    return str(request.param)


def test_a_day_that_is_over_becomes_one_file(tmp_path: Path, opened: Any, way: str) -> None:
    archive = opened()
    for number in range(5):
        archive.write(some(1 + 7 * number, 7), 0)
    before = read(tmp_path, 3), events(tmp_path).collect()
    assert archive.merge() is None
    archive.write(some(36, 1, at_ms=NOON_MS + DAY_MS), 0)
    made = archive.merge()
    assert made is not None
    assert archive.merge() is None
    assert len(paths(tmp_path)) == 2
    assert read(tmp_path, 3)[:35] == before[0]
    assert events(tmp_path).collect()[: len(before[1])].equals(before[1])
    assert list((tmp_path / "staging/03").iterdir()) == []
    crash(archive)
    assert opened().end.position == 36


def test_no_reader_of_the_directory_sees_a_row_twice_or_not_at_all_while_files_are_merged(
    tmp_path: Path, opened: Any
) -> None:
    archive = opened()
    place = tmp_path / "entries/day=2026-11-26/shard=03"
    seen: set[int] = set()

    def look(frame: FrameType, _event: str, _argument: object) -> Any:
        """Before each line that merges, list the directory as any reader would."""
        if not frame.f_code.co_filename.endswith(("parquet_files.py", "parquet_writer.py")):
            return None
        spans = [tuple(map(int, path.stem.split("-"))) for path in sorted(place.iterdir())]
        assert all(two[0] == one[1] + 1 for one, two in pairwise([(0, 0), *spans, (seen_last + 1, 0)]))
        seen.add(len(spans))
        return look

    before = sys.gettrace()
    for number in range(2 * FEW):
        archive.write(some(1 + 3 * number, 3), 0)
        seen_last = 3 * number + 3
        sys.settrace(look)
        try:
            archive.merge()
        finally:
            sys.settrace(before)
    assert {1, FEW - 1, FEW} <= seen
    assert len(files(tmp_path)) < FEW
    assert [entry.position for entry in read(tmp_path, 3)] == list(range(1, 6 * FEW + 1))


def test_files_that_a_killed_merge_left_beside_the_merged_one_count_once_and_are_swept(
    tmp_path: Path, opened: Any
) -> None:
    archive = opened()
    small = [archive.write(some(1 + 5 * n, 5), 0)[0] for n in range(3)]
    saved = [(file.path, file.path.read_bytes()) for file in small]
    archive.write(some(16, 1, at_ms=NOON_MS + DAY_MS), 0)
    archive.merge()
    for path, data in saved[1:]:
        path.write_bytes(data)
    assert [(f.first, f.last) for f in files(tmp_path)] == [(1, 15), (16, 16)]
    assert [entry.position for entry in read(tmp_path, 3)] == list(range(1, 17))
    crash(archive)
    opened()
    assert len(paths(tmp_path)) == 2


@pytest.mark.parametrize("fails_at", range(2))
def test_a_merge_that_fails_leaves_all_as_it_was(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    archive = opened()
    for number in range(3):
        archive.write(some(1 + 5 * number, 5), 0)
    archive.write(RawEntries([17], [NOON_MS], [0], some(16, 1).fields), 0)
    archive.write(some(18, 1, at_ms=NOON_MS + DAY_MS), 0)
    before, links, real = paths(tmp_path), iter(range(9)), os.link

    def link(source: Path, target: Path) -> None:
        if next(links) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "link", link)
        with pytest.raises(OSError, match="No space left"):
            archive.merge()
    assert paths(tmp_path) == before
    while archive.merge():
        pass
    assert [entry.position for entry in read(tmp_path, 3)] == [*range(1, 16), 17, 18]


FILES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from([1, 10, 1000, BIG_BYTES - 5, BIG_BYTES])),
    max_size=90,
)


@given(FILES)
def test_what_is_merged_is_of_one_day_without_a_gap_and_it_comes_to_an_end(
    drawn: list[tuple[int, int, int]],
) -> None:
    sized: list[tuple[ArchiveFile, int]] = []
    position = 0
    for day, hole, size in sorted(drawn, key=lambda one: one[0]):
        position += 1 + hole
        sized.append((ArchiveFile(Path(), TODAY + timedelta(days=day), 3, position, position), size))
    for _ in range(len(sized) + 1):
        some = to_merge(sized)
        if not some:
            break
        assert len(some) > 1
        assert len({file.day for file in some}) == 1
        assert all(two.first == one.last + 1 for one, two in pairwise(some))
        at = next(place for place, (file, _) in enumerate(sized) if file == some[0])
        total = sum(size for _, size in sized[at : at + len(some)])
        sized[at : at + len(some)] = [(some[0]._replace(last=some[-1].last), total)]
    assert to_merge(sized) == []


def test_every_entry_of_a_day_is_written_anew_only_a_few_times() -> None:
    rng = random.Random(5)
    sized: list[tuple[ArchiveFile, int]] = []
    written = total = 0
    for number in range(1, 1441):
        size = rng.randint(9_000, 11_000)
        total += size
        sized.append((ArchiveFile(Path(), TODAY, 3, number, number), size))
        if some := to_merge(sized):
            bytes_of = sum(one for _, one in sized[-len(some) :])
            sized[-len(some) :] = [(some[0]._replace(last=some[-1].last), bytes_of)]
            written += bytes_of
    assert written < 2 * total
    assert len(sized) < 3 * FEW


# --- retention


def test_old_days_go_whole_and_the_newest_stays_however_old_it_is(tmp_path: Path, opened: Any) -> None:
    archive = opened()
    for day in range(4):
        archive.write(some(1 + 5 * day, 5, at_ms=NOON_MS + day * DAY_MS), 0)
    assert archive.expire(TODAY + timedelta(days=2)) == 2
    assert [file.day for file in files(tmp_path)] == [TODAY + timedelta(days=n) for n in (2, 3)]
    assert not (tmp_path / "entries/day=2026-11-26").exists()
    assert archive.expire(TODAY + timedelta(days=900)) == 1
    crash(archive)
    assert opened().end.position == 20


def test_a_day_after_all_days_is_the_last_one() -> None:
    assert day_of(2**62) == date(9999, 12, 31)
