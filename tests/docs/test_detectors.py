"""docs/detectors.md: what it tells a newcomer to do works, step by step, and its table is what the code says."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from analytics.notebooks import sample
from connectors.parquet_writer import ShardArchive
from flows.detector_page import with_table
from models.records.raw import RawEntries
from tests.analytics.past import logs_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/detectors.md").read_text("utf-8")
TREE = ("analytics", "connectors", "flows", "models", "tests")
AS_SHOWN = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block: its language, what the fence says of a file, and its text."""

    language: str
    file: str
    text: str


def blocks() -> Iterator[Block]:
    for language, file, text in re.findall(r"^```(\w+)(?: \w+=(\S+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield Block(language, file, text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a newcomer has: the code, and events of their own."""
    for name in TREE:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for shard, log in logs_of(sample.events()[:300]).items():
        archive = ShardArchive(tmp_path / "archive", shard)
        archive.write(RawEntries.of(log.entries), None)
        archive.close()
    shutil.copy(ROOT / "tests/fixtures/webhooks/github/workflow_job.failed.json", tmp_path / "delivery.json")
    return tmp_path


def changed(text: str, diff: str) -> str:
    """`text` with the lines of `diff`, which has no line numbers, exchanged: they must stand there once."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(old) == 1, old
    return text.replace(old, new)


def run(console: str, where: Path) -> None:
    """Run each command, and hold what it says to what is shown of it, if anything is."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(where), "COLUMNS": "200"}
    for step in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, shown = step.partition("\n")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=where,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        as_shown = not shown.strip() or doctest.OutputChecker().check_output(shown, done.stdout, AS_SHOWN)
        assert as_shown, f"$ {command}\n{done.stdout}\nshown is:\n{shown}"
        assert (done.returncode == 0) is not shown.startswith("guard: "), done.stdout


@pytest.mark.timeout(300)
def test_a_detector_is_written_in_ten_minutes(checkout: Path) -> None:
    steps = list(blocks())
    assert PAGE.count("```") == 2 * len(steps), "a fenced block is not run"
    for block in steps:
        file = checkout / block.file
        if block.language == "python":
            file.write_text(block.text)
        elif block.language == "diff":
            file.write_text(changed(file.read_text(), block.text))
        else:
            run(block.text, checkout)


def test_the_table_of_detectors_is_what_the_code_says() -> None:
    assert with_table(PAGE) == PAGE, "write it with: .venv/bin/python -m flows.detector_page docs/detectors.md"
