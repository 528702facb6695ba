"""A notebook reads what `guard backtest` reads, and says in words what it cannot."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from analytics.notebooks import sample
from analytics.notebooks.reading import read
from connectors.parquet_writer import ShardArchive
from models.records import payload
from models.records.errors import InputError
from models.records.raw import RawEntries
from tests.analytics.past import at, logs_of

EVENTS = sample.events(seed=1)[:2000]
LINES = b"\n".join(map(payload.to_json, EVENTS))
IDS = {event.id for event in EVENTS}


def test_the_sample_is_the_same_each_time_and_its_ids_are_its_own() -> None:
    assert sample.events(seed=3) == sample.events(seed=3)
    ids = [event.id for event in sample.events()]
    assert len(ids) == len(set(ids)) == len(read().events)


def test_json_lines_parquet_and_a_directory_of_it_give_the_same(tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(LINES + b"\n\n" + LINES)
    told = read(str(lines))
    assert told.bad == []
    assert set(told.events["id"]) == IDS
    assert len(told.events) == len(IDS)
    assert told.events["received_ms"].is_sorted()
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((told.events[:700], told.events[700:])):
        part.with_columns(strange=pl.lit(1)).write_parquet(tmp_path / f"parts/{number}.parquet")
    assert read(str(tmp_path / "parts")).events.equals(told.events)
    assert read(str(tmp_path / "parts/0.parquet")).events.equals(told.events[:700])


def test_of_an_archive_the_events_are_read(tmp_path: Path) -> None:
    for shard, log in logs_of(EVENTS).items():
        archive = ShardArchive(tmp_path, shard)
        archive.write(RawEntries.of(log.entries), None)
        archive.close()
    told = read(str(tmp_path))
    (tmp_path / "events.jsonl").write_bytes(LINES)
    lines = read(str(tmp_path / "events.jsonl")).events
    assert told.bad == []
    assert told.events.sort("id").drop("received_ms").equals(lines.sort("id").drop("received_ms"))


def test_only_the_last_days_are_shown(tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(LINES)
    newest = max(map(at, EVENTS))
    assert read(str(lines), last_days=1).events["received_ms"].min() >= newest - 86_400_000  # type: ignore[operator]


def test_a_line_that_is_no_event_is_counted_and_the_rest_read(tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(b'{"id": 1}\n' + LINES)
    told = read(str(lines))
    assert [bad.row for bad in told.bad] == [0]
    assert set(told.events["id"]) == IDS


@pytest.mark.parametrize(
    ("name", "holds", "said"),
    [
        ("none.jsonl", None, "No such file"),
        ("empty.jsonl", b"\n", "no events"),
        ("text.txt", b"nothing\n", "no events in .*the first row"),
        ("cut.parquet", b"PAR1 and no more", "cut.parquet: "),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, holds: bytes | None, said: str) -> None:
    path = tmp_path / name
    if holds is not None:
        path.write_bytes(holds)
    with pytest.raises(InputError, match=said):
        read(str(path))


def test_a_directory_without_parquet_and_parquet_without_events_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Parquet files there"):
        read(str(tmp_path))
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="no column 'platform'"):
        read(str(tmp_path / "other.parquet"))
