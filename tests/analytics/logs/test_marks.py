"""Each entry of marks.toml on its own lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analytics.logs.marks import MARKS, Role, load_entries, scan
from analytics.logs.pages import starts_of

ENTRIES = load_entries()


def _found(line: str) -> set[str]:
    text = f"before\n{line}\nafter\n".encode()
    hits = scan(text, starts_of(text))
    assert set(hits.lines.tolist()) <= {1}, "a mark left its line"
    return {MARKS[mark].pattern for mark in hits.marks}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['role']}-{entry['patterns'][0][:20]}")
def test_each_entry_finds_its_lines_and_leaves_its_confusers(entry: dict[str, Any]) -> None:
    patterns = set(entry["patterns"])
    assert entry["matches"]
    assert entry["confusers"]
    for line in entry["matches"]:
        assert _found(line) & patterns, line
    for line in entry["confusers"]:
        assert not _found(line) & patterns, line


def test_only_errors_sections_and_verdicts_have_a_weight() -> None:
    heavy = {Role.ERROR, Role.SECTION, Role.VERDICT, Role.FOUND, Role.NEW}
    assert all((mark.weight > 0) == (mark.role in heavy) for mark in MARKS)


def test_a_mark_counts_once_a_line_and_lines_ascend() -> None:
    text = b"error: error: error:\nfine\nerror: x\n"
    hits = scan(text, starts_of(text))
    pairs = list(zip(hits.lines.tolist(), hits.marks.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert set(hits.lines.tolist()) == {0, 2}


def test_a_text_without_marks_has_no_hits() -> None:
    assert not len(scan(b"", np.zeros(1, np.int64)).lines)
    assert not len(scan(b"fine\n", starts_of(b"fine\n")).lines)
