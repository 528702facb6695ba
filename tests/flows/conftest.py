"""guard as its tests run it: in this process, on servers of the tests' own, with nothing set but what a test sets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.postgres import Progress
from connectors.postgres_writer import Writer
from flows.cli import main
from models.records.outputs import ShardOutput

KEY = "k" * 32


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it answered, line by line."""
        return self.out.splitlines()

    @property
    def complaints(self) -> list[str]:
        """What it complained about, line by line."""
        return self.err.splitlines()

    def json(self) -> Any:
        """What it answered, as the JSON it is."""
        return json.loads(self.out)


Guard = Callable[..., Said]


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Said]:
    """Runs one command and hands back what it said. No server is where the settings look for one."""
    for name in [name for name in os.environ if name.startswith("GUARD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GUARD_REDIS__URL", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("GUARD_POSTGRES__URL", f"postgresql://postgres@/nothing?host={tmp_path}")

    def run(*arguments: str | Path) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(status, captured.out, captured.err)

    return run


@pytest.fixture
def servers(guard: Guard, monkeypatch: pytest.MonkeyPatch, redis_url: str, database: str) -> None:
    """An empty Valkey and an empty, migrated PostgreSQL, where `guard` looks for them; and a key for pseudonyms."""
    monkeypatch.setenv("GUARD_REDIS__URL", redis_url)
    monkeypatch.setenv("GUARD_POSTGRES__URL", database)
    monkeypatch.setenv("GUARD_REDACTION__KEY", KEY)


def write(database: str, outputs: Sequence[tuple[int, ShardOutput, Progress]]) -> None:
    """Put what shards said into PostgreSQL, by the flow's own writer."""
    writer = Writer(database, clock=lambda: 0.0, monotonic=lambda: 0.0)
    try:
        ticket = 0
        for shard, output, progress in outputs:
            ticket = writer.submit(shard, output, progress)
        writer.wait(ticket)
    finally:
        writer.close()


@pytest.fixture
def chromium() -> str:
    """A browser; on CI it must be there."""
    found = shutil.which("chromium")
    if found is None:
        message = "chromium is not installed; it is in the Debian package chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found
