"""Journals in files: what a snapshot names is there, whichever of the last two is read, and what none names goes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.journal import Chunks
from analytics.shard import Shard
from flows.journal_files import JournalFiles
from models.records import columns
from models.records.errors import ConfigError, Unavailable
from tests.analytics.log import RESOLVE, fresh
from tests.analytics.workload import full_log

_NUMBER = 3
_AT_LEAST = 1024


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _files(directory: Path) -> JournalFiles:
    files = JournalFiles(directory)
    files.begin(_NUMBER)
    return files


def _chunk(rng: random.Random, size: int = _AT_LEAST) -> bytes:
    return rng.randbytes(size)


def _kept(files: JournalFiles, *journals: Chunks) -> list[bytes]:
    names = [files.keep(journal) for journal in journals]
    files.seal()
    assert None not in names
    return [name for name in names if name is not None]


def _bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_what_was_kept_is_fetched_by_another_process(tmp_path: Path) -> None:
    rng = random.Random(1)
    journals = [Chunks([_chunk(rng), b"", _chunk(rng, 3)]), Chunks([_chunk(rng, 5000)])]
    names = _kept(_files(tmp_path / "journals"), *journals)
    other = JournalFiles(tmp_path / "journals")
    assert [other.fetch(name) for name in names] == journals


def test_a_short_journal_is_left_where_it_is(tmp_path: Path) -> None:
    files = _files(tmp_path / "journals")
    assert files.keep(Chunks([b"short"])) is None
    files.seal()
    assert _bytes_in(tmp_path / "journals") == 0


def test_only_what_is_new_is_written_also_after_a_restart(tmp_path: Path) -> None:
    rng, files = random.Random(2), _files(tmp_path)
    journal = Chunks([_chunk(rng, 100_000)])
    _kept(files, journal)
    journal.append(_chunk(rng))
    [name] = _kept(files, journal)
    assert _bytes_in(tmp_path) < 102_000
    again = JournalFiles(tmp_path)
    journal = again.fetch(name)
    again.begin(_NUMBER)
    journal.append(_chunk(rng))
    _kept(again, journal)
    assert _bytes_in(tmp_path) < 104_000


def test_a_file_goes_once_the_snapshot_after_the_last_that_needed_it_is_durable(tmp_path: Path) -> None:
    rng = random.Random(3)
    [name] = _kept(_files(tmp_path), Chunks([_chunk(rng)]))
    [first] = tmp_path.iterdir()
    again = JournalFiles(tmp_path)
    again.fetch(name)
    again.begin(_NUMBER)
    _kept(again, Chunks([_chunk(rng)]))
    assert first.exists(), "the snapshot that was taken is not durable yet"
    _kept(again, Chunks([_chunk(rng)]))
    assert not first.exists()


def test_a_file_is_left_for_the_backups(tmp_path: Path) -> None:
    rng, clock = random.Random(4), _Clock()
    _kept(_files(tmp_path), Chunks([_chunk(rng)]))
    [first] = tmp_path.iterdir()
    again = JournalFiles(tmp_path, backup_seconds=60, monotonic=clock)
    again.begin(_NUMBER)
    for clock.now in (0.0, 30.0, 59.0):
        _kept(again, Chunks([_chunk(rng)]))
        assert first.exists()
    clock.now = 60.0
    _kept(again, Chunks([_chunk(rng)]))
    assert not first.exists()


def test_the_files_of_other_shards_are_left_alone(tmp_path: Path) -> None:
    rng, other = random.Random(5), JournalFiles(tmp_path)
    other.begin(_NUMBER + 1)
    _kept(other, Chunks([_chunk(rng)]))
    files = _files(tmp_path)
    for _ in range(3):
        _kept(files, Chunks([_chunk(rng)]))
    assert len(list(tmp_path.glob(f"{_NUMBER + 1:02}-*"))) == 1


def test_files_take_little_more_than_three_times_what_is_needed(tmp_path: Path) -> None:
    rng, files = random.Random(6), _files(tmp_path)
    old, journal = Chunks([_chunk(rng) for _ in range(100)]), Chunks()
    for epoch in range(400):
        journal.append(_chunk(rng, 200_000))
        del journal[:-20]
        names = _kept(files, Chunks(old[: 100 - epoch // 8]), Chunks(journal))
        assert _bytes_in(tmp_path) < 3 * (20 * 200_000 + 100 * _AT_LEAST) + 2 * (4 << 20)
    other = JournalFiles(tmp_path)
    assert [other.fetch(name) for name in names] == [old[: 100 - 399 // 8], journal]


def test_what_little_is_needed_of_a_file_is_moved_also_while_others_wait_for_the_backups(tmp_path: Path) -> None:
    rng, files = random.Random(10), JournalFiles(tmp_path, backup_seconds=60)
    files.begin(_NUMBER)
    small = Chunks([_chunk(rng)])
    _kept(files, Chunks([_chunk(rng, 5 << 20)]))
    unneeded = set(tmp_path.iterdir())
    _kept(files, Chunks([_chunk(rng, 5 << 20)]), small)
    sparse = set(tmp_path.iterdir()) - unneeded
    _kept(files, small)
    [name] = _kept(files, small)
    for path in unneeded | sparse:
        path.unlink()
    assert JournalFiles(tmp_path).fetch(name) == small


@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_lost_file_is_named(tmp_path: Path, harm: str) -> None:
    [name] = _kept(_files(tmp_path), Chunks([_chunk(random.Random(7))]))
    [file] = tmp_path.iterdir()
    if harm == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    what = "is gone" if harm == "gone" else "is not what it was"
    with pytest.raises(ConfigError, match=rf"flow\.recovery_dir: {file} {what}, and a snapshot needs it"):
        JournalFiles(tmp_path).fetch(name)


def test_a_directory_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    files = _files(tmp_path / "journals")
    (tmp_path / "journals").rmdir()
    files.keep(Chunks([_chunk(random.Random(8))]))
    with pytest.raises(Unavailable, match=r"flow\.recovery_dir: .* cannot be written: .*No such file"):
        files.seal()


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grow", "grow", "grow", "anew", "shift", "forget"]),
        st.integers(0, 2),
        st.integers(0, 3000),
        st.sampled_from(["", "", "seal", "seal", "last", "before"]),
    ),
    max_size=60,
)


@given(_STEPS)
def test_whatever_happens_the_last_two_snapshots_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, str]]
) -> None:
    """Journals grow, are written anew, take the place of one another; processes die and resume from either snapshot."""
    directory, rng = tmp_path_factory.mktemp("journals"), random.Random(9)
    files, journals = _files(directory), [Chunks(), Chunks(), Chunks()]
    taken: list[list[bytes | Chunks]] = [[Chunks(), Chunks(), Chunks()]]
    meant = [[list(journal) for journal in journals]]
    for what, which, size, then in steps:
        match what:
            case "grow":
                journals[which].append(_chunk(rng, size))
            case "anew":
                journals[which] = Chunks([_chunk(rng, size)])
            case "shift":
                journals[0], journals[1] = journals[1], Chunks()
            case _:
                del journals[which][: size % 4]
        if then == "seal":
            taken.append([files.keep(Chunks(journal)) or Chunks(journal) for journal in journals])
            files.seal()
            meant.append([list(journal) for journal in journals])
        elif then:
            if then == "before" and len(taken) > 1:
                del taken[-1], meant[-1]  # its epoch was never closed
            files = JournalFiles(directory)
            journals = [files.fetch(one) if isinstance(one, bytes) else Chunks(one) for one in taken[-1]]
            files.begin(_NUMBER)
            assert journals == meant[-1]
            del taken[:-1], meant[:-1]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shard_comes_back_from_a_snapshot_that_names_its_journals(tmp_path: Path, seed: int) -> None:
    entries, files, shard = full_log(random.Random(seed)).entries, _files(tmp_path), fresh()
    for begin in range(0, len(entries), 100):
        shard.process(columns.decode(entries[begin : begin + 100]))
        named = shard.snapshot(files.keep)
        files.seal()
        whole = shard.snapshot()
        assert Shard.restore(named, RESOLVE, JournalFiles(tmp_path).fetch).snapshot() == whole
        assert Shard.restore(whole, RESOLVE).snapshot() == whole
    assert len(named) < len(whole)
    with pytest.raises(ConfigError, match="a snapshot whose journals are kept in files, which are not at hand"):
        Shard.restore(named, RESOLVE)
