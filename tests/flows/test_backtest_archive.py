"""guard backtest of an archive: what the shards said when they read the same entries."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from analytics.backtest import final
from analytics.fleet import Fleet
from analytics.rulebook import Rulebook, compose
from analytics.shard import Shard
from connectors.parquet_writer import ShardArchive
from models.records.columns import decode
from models.records.errors import ConfigError
from models.records.event import SHARDS
from models.records.outputs import ShardOutput
from models.records.raw import RawEntries
from models.records.tables import RECORDS, table
from tests.analytics.log import RULEBOOK, Log
from tests.analytics.past import events_of, lines_of, logs_of
from tests.analytics.workload import full_log
from tests.flows.conftest import Guard

SHIPPED = compose()


def _archive(folder: Path, logs: dict[int, Log]) -> Path:
    for shard, log in logs.items():
        archive = ShardArchive(folder, shard)
        archive.write(RawEntries.of(log.entries), None)
        archive.close()
    return folder


def _resolve(*known: Rulebook) -> Any:
    by_digest = {one.digest: one for one in known}

    def resolve(digest: str) -> Rulebook:
        if digest not in by_digest:
            raise ConfigError(f"rulebook {digest}: not in PostgreSQL")
        return by_digest[digest]

    return resolve


def _expected(logs: dict[int, Log], *known: Rulebook) -> dict[str, list[dict[str, Any]]]:
    outputs: list[ShardOutput] = []
    for shard, log in logs.items():
        judge = Shard(shard, SHIPPED, _resolve(SHIPPED, *known), most_bad=1000)
        outputs += [judge.process(decode([entry])) for entry in log.entries]
    fleet = Fleet()
    incidents = [row for output in outputs for message in output.closed for row in fleet.process(message)]
    rows = {name: [row for output in outputs for row in getattr(output, name)] for name in RECORDS}
    tables = {name: table(name, some) for name, some in (rows | {"incidents": incidents}).items()}
    return {name: some.filter(final(name, some)).to_pylist() for name, some in tables.items()}


def _rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


def test_a_rulebook_that_only_postgresql_could_know_is_asked_for(
    guard: Guard, tmp_path: Path, rng: random.Random
) -> None:
    said = guard("backtest", _archive(tmp_path / "archive", {3: full_log(rng)}), "--to", tmp_path / "out")
    assert said.status == 2
    assert "which PostgreSQL keeps" in said.err
    assert "--rulebook" in said.err


def test_the_rows_are_those_of_the_shards(guard: Guard, tmp_path: Path, rng: random.Random) -> None:
    logs = logs_of(events_of(rng))
    for log in logs.values():
        log.control(log.entries[-1].entry_ms, SHIPPED)
    archive = _archive(tmp_path / "archive", logs)
    said = guard("backtest", archive, "--to", tmp_path / "out", "--json")
    assert said.status == 0
    assert _rows(tmp_path / "out") == _expected(logs)
    assert said.json()["said"][0]["named"] == "as it was"
    assert sorted(logs) == list(range(SHARDS))


def test_an_archive_and_its_events_say_the_same(guard: Guard, tmp_path: Path, rng: random.Random) -> None:
    events = events_of(rng)
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines_of(events)))
    archive = _archive(tmp_path / "archive", logs_of(events))
    guard("backtest", archive, "--to", tmp_path / "one")
    guard("backtest", tmp_path / "events.jsonl", "--to", tmp_path / "other", "--rulebook", "shipped")
    assert _rows(tmp_path / "one") == _rows(tmp_path / "other")


def test_of_an_archive_and_of_its_events_the_same_would_have_been_done(
    guard: Guard, tmp_path: Path, rng: random.Random
) -> None:
    events = events_of(rng)
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines_of(events)))
    (tmp_path / "act.toml").write_text('[rulebook.policy]\nmode = "act"\n')
    past = (_archive(tmp_path / "archive", logs_of(events)), tmp_path / "events.jsonl")
    told = [
        guard("backtest", path, "--to", tmp_path / "out", "--rulebook", tmp_path / "act.toml", "--acts", "--json")
        for path in past
    ]
    assert told[0].json()["acts"] == told[1].json()["acts"]


def test_rules_that_are_named_are_in_force_from_the_first_entry_on(
    guard: Guard, tmp_path: Path, rng: random.Random
) -> None:
    archive = _archive(tmp_path / "archive", {3: full_log(rng)})
    (tmp_path / "mine.toml").write_text("[rulebook.policy]\nleast_score = 0.75\n")
    said = guard("backtest", archive, "--to", tmp_path / "out", "--rulebook", tmp_path / "mine.toml", "--json").json()
    digests = set(pl.read_parquet(tmp_path / "out" / "decisions.parquet")["rulebook"])
    assert digests == {said["said"][0]["rulebook"]}
    assert digests != {RULEBOOK.digest}
    assert said["said"][0]["dead_letters"]["malformed_payload"] > 0


def test_what_an_archive_lacks_is_told(guard: Guard, tmp_path: Path, rng: random.Random) -> None:
    logs = logs_of(events_of(rng))
    shard, log = next((s, log) for s, log in logs.items() if len(log.entries) > 100)
    logs[shard].entries = log.entries[5:]
    said = guard("backtest", _archive(tmp_path / "archive", logs), "--to", tmp_path / "out", "--json")
    assert said.json()["input"]["missing"] == [f"shard {shard}: positions 1 to 5"]


def test_an_archive_is_judged_alone(guard: Guard, tmp_path: Path, rng: random.Random) -> None:
    archive = _archive(tmp_path / "archive", {3: full_log(rng)})
    said = guard("backtest", archive, archive, "--to", tmp_path / "out")
    assert said.status == 2
    assert "is judged alone" in said.err


@pytest.mark.parametrize("name", ["entries", "nothing"])
def test_an_archive_without_events_is_an_error(guard: Guard, tmp_path: Path, name: str) -> None:
    (tmp_path / "archive" / name).mkdir(parents=True)
    said = guard("backtest", tmp_path / "archive", "--to", tmp_path / "out")
    assert said.status == 2
    assert str(tmp_path / "archive") in said.err
