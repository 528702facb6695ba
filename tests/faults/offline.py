"""The past judged again: what stands in the streams is archived, backtested and compared with what the flow wrote."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
from psycopg.rows import dict_row

from connectors.parquet_files import files
from connectors.postgres import connect
from connectors.postgres_rows import TABLES
from models.records.event import SHARDS
from tests.faults.harness import Ground, free_ports, spawn
from tests.helpers import wait_until

COMPARED: Final = ("failures", "diagnoses", "findings", "incidents", "decisions")
GUARD: Final = Path(sys.executable).with_name("guard")

Rows = dict[str, list[dict[str, Any]]]


def archived(ground: Ground, directory: Path) -> dict[int, int]:
    """Archive all that stands in the streams; how far each shard then goes."""
    given = {"archive__directory": directory, "archive__flush": 0.05, "archive__metrics_port": free_ports(1)[0]}
    target = ground.lengths()
    with (ground.directory / "archive.log").open("wb") as log:
        process = spawn([str(GUARD), "archive"], ground.environment(**given), log)
        try:
            wait_until(
                lambda: all(ends(directory)[shard] >= count for shard, count in target.items()),
                within=60,
                what="the archive",
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    return ends(directory)


def ends(directory: Path) -> dict[int, int]:
    """The last position of each shard in an archive."""
    return {shard: max((file.last for file in files(directory, shard)), default=0) for shard in range(SHARDS)}


def backtested(ground: Ground, archive: Path, to: Path) -> Rows:
    """What `guard backtest` says of an archive."""
    command = [str(GUARD), "backtest", str(archive), "--to", str(to)]
    done = subprocess.run(command, env=ground.environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {table: pl.read_parquet(to / f"{table}.parquet").to_dicts() for table in COMPARED}


def live(ground: Ground) -> Rows:
    """What the flow wrote."""
    found: Rows = {}
    with connect(ground.postgres_url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        for table in COMPARED:
            names = ", ".join(column.name for column in TABLES[table])
            found[table] = cursor.execute(f"SELECT {names} FROM guard.{table}".encode()).fetchall()
    return found


def plain(table: str, rows: list[dict[str, Any]], until: dict[int, int]) -> list[str]:
    """The rows up to the positions `until` in one form, sorted."""
    documents = {column.name for column in TABLES[table] if column.type == "jsonb"}
    told = []
    for row in rows:
        if "shard" in row and row["position"] > until[row["shard"]]:
            continue
        values = {}
        for name, value in sorted(row.items()):
            if name in documents and isinstance(value, str):
                value = msgspec.json.decode(value)  # noqa: PLW2901 - the same in another form
            if isinstance(value, datetime):
                value = round(value.astimezone(UTC).timestamp() * 1000)  # noqa: PLW2901 - likewise
            values[name] = value
        told.append(msgspec.json.encode(values, order="sorted").decode())
    return sorted(told)


def differences(ground: Ground, directory: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Table by table, the rows that only the flow, and that only the backtest has."""
    far = archived(ground, directory / "archive")
    past, now = backtested(ground, directory / "archive", directory / "backtest"), live(ground)
    reached = {shard: min(end, ground.reached().get(shard, 0)) for shard, end in far.items()}
    found = {}
    for table in COMPARED:
        was, would = (plain(table, rows[table], reached) for rows in (now, past))
        assert was, f"the story says nothing of {table}"
        if was != would:
            found[table] = (sorted(set(was) - set(would))[:3], sorted(set(would) - set(was))[:3])
    return found
