"""The file that stops: whatever is there stops, and what it says is read where it can be."""

from __future__ import annotations

import errno
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from connectors.stop_file import Note, StopFile
from models.records.errors import Unavailable

NOTE = Note(uuid4(), datetime(2026, 11, 26, 12, tzinfo=UTC), "ann", "the registry is down: \u00e9\nall of it")


@pytest.fixture
def file(tmp_path: Path) -> StopFile:
    return StopFile(tmp_path / "not" / "yet" / "stop")


def test_what_was_written_is_read_until_it_is_removed(file: StopFile) -> None:
    assert file.note() is None
    assert file.remove() is False
    file.write(NOTE)
    assert file.note() == NOTE
    assert set(msgspec.json.decode(file.path.read_bytes())) == {"note_id", "stopped_at", "by", "why"}
    assert file.path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in file.path.parent.iterdir()] == ["stop"]
    assert file.remove() is True
    assert file.note() is None


def test_a_later_one_takes_the_place_of_an_earlier_one(file: StopFile) -> None:
    other = StopFile(file.path)
    file.write(NOTE)
    assert other.note() == NOTE
    later = msgspec.structs.replace(NOTE, note_id=uuid4(), by="ben")
    file.write(later)
    assert other.note() == later


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        b"\xff\xfe",
        b"{}",
        b"[" * 100_000,
        b'{"note_id": 1, "stopped_at": "x", "by": [], "why": null}',
        msgspec.json.encode(msgspec.structs.replace(NOTE, by="")),
        msgspec.json.encode(msgspec.structs.replace(NOTE, by="a\0")),
        msgspec.json.encode(msgspec.structs.replace(NOTE, stopped_at=datetime(2026, 1, 1))),  # noqa: DTZ001 - the point
    ],
)
def test_whatever_is_in_it_it_stops_and_is_the_same_stop_each_time(file: StopFile, content: bytes) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(content)
    note = file.note()
    assert note is not None
    assert (note.by, note.stopped_at.tzinfo) == (file.path.owner(), UTC)
    assert StopFile(file.path).note() == note


def test_a_file_that_was_touched_at_no_time_that_is_stops(file: StopFile) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.touch()
    os.utime(file.path, (2**40, 2**40))
    assert file.note() is not None


def test_anything_of_that_name_stops(file: StopFile) -> None:
    file.path.parent.mkdir(parents=True)
    file.path.symlink_to("nowhere")
    assert file.note() is not None
    assert file.remove()
    os.mkfifo(file.path)
    assert file.note() is not None
    assert file.remove()
    file.path.mkdir()
    assert file.note() is not None
    with pytest.raises(Unavailable, match="cannot be removed"):
        file.remove()
    with pytest.raises(Unavailable, match="cannot be written"):
        file.write(NOTE)


def test_on_a_full_disk_an_empty_file_stops(file: StopFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    file.write(NOTE)
    assert file.path.read_bytes() == b""
    assert [each.name for each in file.path.parent.iterdir()] == ["stop"]
    assert file.note() is not None


def test_where_it_cannot_be_told_whether_it_is_there_it_stops(tmp_path: Path) -> None:
    assert StopFile(tmp_path / ("x" * 300)).note() is not None


def test_a_name_below_a_file_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = StopFile(tmp_path / "file" / "stop")
    assert (below.note(), below.remove()) == (None, False)


@pytest.mark.parametrize("there", [True, False])
def test_a_look_costs_microseconds(file: StopFile, there: bool) -> None:
    if there:
        file.write(NOTE)
    began = time.perf_counter()
    for _ in range(10_000):
        file.note()
    assert (time.perf_counter() - began) / 10_000 < 100e-6  # some 2 us; a bound for machines that are busy
