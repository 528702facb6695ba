"""The benchmark of the log reader: a line of each subject, and that no input makes a stage super-linear."""

from __future__ import annotations

from pathlib import Path

import pytest

from analytics.logs.normalise import normalise
from benchmarks.log_speed import Patterns, hard_inputs, linear, logs, speeds


def test_every_subject_reads_the_same_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_DATA", str(tmp_path))
    found = logs(0.5, seed=3)
    assert found.origin == "synthetic"
    assert found.raw == logs(0.5, seed=3).raw != logs(0.5, seed=4).raw
    lines = list(speeds(found, rounds=1))
    assert {"normalise", "normalise_and_match", "match_re2_set", "match_python_re", "redact"} <= {
        line["subject"] for line in lines
    }
    assert all(line["megabytes_per_second"] > 0 for line in lines)


def test_all_matchers_find_the_same_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_DATA", str(tmp_path))
    patterns = Patterns(["error: .+", r"\bexit code [1-9]"])
    text = normalise(logs(0.2, seed=5).raw[0])
    assert patterns.which(text) == [0, 1]
    assert len(patterns.find(text)) == patterns.re2_lines(text) == patterns.python_lines(text) > 0


def test_each_stage_is_timed_on_each_hard_input() -> None:
    lines = list(linear(seed=1, megabytes=[1]))
    assert len(lines) == 4 * len(hard_inputs(1))
    assert all(len(line["seconds"]) == 1 for line in lines)
