"""`guard backtest` of the archive says what `guard flow` wrote, row by row: through kills and a change of rules."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from connectors.parquet_writer import ShardArchive
from connectors.postgres import connect
from models.records.raw import RawEntries
from models.records.tables import SCHEMAS
from tests.contracts import oracle
from tests.faults.harness import Flow, Ground, changed, pace, story

pytestmark = [pytest.mark.fault, pytest.mark.timeout(240)]

_COMMAND = "import sys; from flows.cli import main; sys.exit(main())"
_DOCUMENTS = ("subject", "calls", "explanation", "captures", "lines", "most_affected", "ends")


@pytest.mark.parametrize(("processes", "kills"), [(1, 2), (3, 2)])
def test_a_backtest_of_the_archive_gives_the_rows_of_the_live_flow(
    ground: Ground, rng: random.Random, processes: int, kills: int
) -> None:
    entries = story(rng.randrange(1 << 30))
    early = len(entries) // 50  # the fleet learns anew under other rules, and an hour later there is an outage
    ground.publish(entries[:early])
    with Flow(ground, processes=processes) as flow:
        ground.drain(flow)
        ground.variables |= changed(
            RepeatedFailure={"threshold": 2}, StuckJob={"patience": "20m", "patience_unknown": "20m"}
        )
        flow.kill(rng)
        with pace(ground, entries[early:], seconds=4.0 * kills):
            for _ in range(kills):
                flow.first_output()
                flow.kill(rng)
        ground.drain(flow)
    archive(ground, ground.directory / "archive")
    command = [sys.executable, "-c", _COMMAND, "backtest", str(ground.directory / "archive")]
    to = ground.directory / "backtest"
    subprocess.run([*command, "--to", str(to)], env=ground.environment(), check=True, capture_output=True)
    report = json.loads((to / "report.json").read_text())
    assert report["input"]["missing"] == []
    for name in SCHEMAS:
        live, offline = written(ground, name), told(to / f"{name}.parquet")
        assert offline == live, f"{name}: {len(offline)} rows offline, {len(live)} live"
        assert live or name == "detector_faults", f"the story has no {name}"
    assert len({row["rulebook"] for row in told(to / "decisions.parquet")}) > 1, "no rulebook changed"


def archive(ground: Ground, directory: Path) -> None:
    """Keep all that the flow read, as `guard archive` does."""
    reached = ground.reached()
    for shard, log in oracle.read_log(ground.client).items():
        kept = ShardArchive(directory, shard)
        kept.write(RawEntries.of(log[: reached.get(shard, 0)]), None)
        kept.close()


def written(ground: Ground, name: str) -> list[dict[str, Any]]:
    """What PostgreSQL has of a table."""
    columns = sql.SQL(", ").join(map(sql.Identifier, SCHEMAS[name].names))
    query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier("guard", name))
    with connect(ground.postgres_url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return _sorted(cursor.execute(query).fetchall())


def told(path: Path) -> list[dict[str, Any]]:
    """What a backtest wrote of a table, its documents as PostgreSQL gives them."""
    rows = pq.read_table(path).to_pylist()
    return _sorted([{k: json.loads(v) if k in _DOCUMENTS and v else v for k, v in row.items()} for row in rows])


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return sorted(plain, key=lambda row: json.dumps(row, default=str, sort_keys=True))


def _plain(value: Any) -> Any:
    match value:
        case UUID():
            return str(value)
        case list():
            return [_plain(one) for one in value]
        case memoryview():
            return bytes(value)
    return value
