"""What docs/backtest.md shows works as it stands there."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from models.records.tables import RECORDS
from tests.analytics.past import events_of, table_of

PAGE = (Path(__file__).parents[2] / "docs" / "backtest.md").read_text("utf-8")


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    pl.DataFrame(table_of(events_of(rng))).write_parquet(tmp_path / "events.parquet")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/backtest.md", "exec"), names)
    assert isinstance(names["findings"], pl.DataFrame)
    assert len(names["told"].tables["decisions"]) > 0


def test_every_table_is_named() -> None:
    assert {name for name in RECORDS if f"`{name}.parquet`" in PAGE} == set(RECORDS)
