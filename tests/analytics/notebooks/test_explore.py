"""The notebook runs without a browser or a server, and what its slider moves moves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from analytics.notebooks import trying
from analytics.notebooks.explore import app
from analytics.notebooks.trying import Moved

ROOT = Path(__file__).parents[3]
NAMES = trying.parameters()


def _run(**defs: Any) -> Mapping[str, Any]:
    return app.run(defs=defs)[1]


def _moved(name: str, value: float) -> Moved:
    moved: Moved = _run(parameter=NAMES[name], value=value)["moved"]
    return moved


def _raised(moved: Moved, detector: str) -> tuple[int, int]:
    (row,) = moved.counts.filter(detector=detector).select("before", "after").rows()
    return row


@pytest.fixture(scope="module")
def lower() -> Moved:
    return _moved("RepeatedFailure.threshold", 2)


@pytest.fixture(scope="module")
def higher() -> Moved:
    return _moved("RepeatedFailure.threshold", 6)


def test_as_it_opens_it_shows_the_sample_and_nothing_moves() -> None:
    defs = _run()
    assert defs["parameter"] == NAMES["RepeatedFailure.threshold"]
    assert defs["value"] == 3
    assert len(defs["events"]) > 10_000
    assert set(defs["findings"]["detector"]) >= {"RepeatedFailure", "BrokenMain", "FlakyTest", "StuckJob"}
    assert defs["incidents"]["symptom"].to_list() == ["registry_unavailable"]
    assert (len(defs["moved"].findings), defs["moved"].decisions["changed"]) == (0, 0)


def test_a_lower_threshold_finds_more_and_decides_otherwise(lower: Moved) -> None:
    before, after = _raised(lower, "RepeatedFailure")
    assert after > before > 0
    assert set(lower.findings["detector"]) == {"RepeatedFailure"}
    changes = lower.findings["change"].to_list()
    assert changes.count("new") - changes.count("gone") == after - before
    assert lower.decisions["changed"] > 0
    assert {group["after"] for group in lower.decisions["groups"]} == {"skip: repeated_failure"}


def test_a_higher_threshold_finds_less(lower: Moved, higher: Moved) -> None:
    before, after = _raised(higher, "RepeatedFailure")
    assert after < before == _raised(lower, "RepeatedFailure")[0]
    assert higher.findings["change"].to_list().count("gone") > 0
    assert {group["before"] for group in higher.decisions["groups"]} <= {"skip: repeated_failure"}


def test_a_rule_of_the_fleet_moves_incidents_and_no_findings() -> None:
    moved = _moved("fleet.least_repositories", 12)
    assert moved.incidents["change"].to_list() == ["gone"]
    assert len(moved.findings) == 0


def test_a_value_that_cannot_be_is_refused_in_words_and_the_rest_stands() -> None:
    outputs, defs = app.run(defs={"parameter": NAMES["fleet.least_repositories"], "value": 1})
    assert "moved" not in defs
    assert any("least_repositories" in getattr(output, "text", "") for output in outputs)
    assert len(defs["findings"]) > 0


def test_what_cannot_be_read_is_said_in_words(tmp_path: Path) -> None:
    outputs, defs = app.run(defs={"path": str(tmp_path / "nowhere.jsonl"), "last_days": 7})
    assert "findings" not in defs
    assert any("No such file" in getattr(output, "text", "") for output in outputs)


def test_it_can_be_exported_as_a_page_of_its_own(tmp_path: Path) -> None:
    notebook = shutil.copy(ROOT / "analytics/notebooks/explore.py", tmp_path)
    page = tmp_path / "explore.html"
    marimo = [sys.executable, "-m", "marimo", "-q", "export", "html", notebook, "-o", str(page)]
    done = subprocess.run(marimo, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registry_unavailable" in page.read_text("utf-8")
