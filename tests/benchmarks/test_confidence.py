"""Whether the confidence that is told is kept: how that is measured."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from analytics.account import LAST_RESORT_PRIORITY
from benchmarks import confidence, quality
from benchmarks.confidence import Told, measured


def test_shares_are_given_by_log_and_by_repository() -> None:
    told = [
        Told("a", 0.9, True),
        Told("a", 0.9, True),
        Told("a", 0.9, False),
        Told("b", 0.9, False),
        Told("b", 0.2, True),
    ]
    low, high = measured(told)
    assert low == (0.2, 1, 1.0, 1, 1.0)
    assert high[:4] == (0.9, 4, 0.5, 2)
    assert high[4] == pytest.approx((2 / 3 + 0) / 2)


def test_the_last_resort_is_the_same_wherever_it_is_spoken_of() -> None:
    assert LAST_RESORT_PRIORITY == quality.LAST_RESORT


def test_a_file_of_ones_own_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "logs.parquet"
    logs = ["curl: (6) Could not resolve host: deb.example.org\n", "all is well\n"]
    pl.DataFrame({"log": logs, "repository": ["a", "b"], "cause": ["infrastructure", "other"]}).write_parquet(path)
    monkeypatch.setattr("sys.argv", ["confidence", "--logs", str(path)])
    confidence.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 of 2 labelled logs explained"
    assert lines[2].split()[1:] == ["1", "1.000", "1", "1.000"]


def test_a_file_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["confidence", "--logs", str(tmp_path / "none.parquet")])
    with pytest.raises(SystemExit, match="GUARD_DATA says where"):
        confidence.main()
