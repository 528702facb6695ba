"""The recovery directory: private, made once, bound to its rows, and used by one flow at a time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from connectors.postgres import Progress, connect
from flows.recovery import Start, open_store
from models.records.errors import ConfigError, Unavailable

_PROGRESS = {3: Progress("5-1", 7, 5000, "digest")}
_NEW = multiprocessing.get_context("spawn")


def _open(directory: Path, url: str, process: int, said: multiprocessing.SimpleQueue[str], done: object) -> None:
    with connect(url) as connection:
        try:
            said.put(open_store(directory, connection, {}, process=process, anew=False).store_id)
        except Unavailable as error:
            said.put(f"refused: {error}")
    done.wait(30)  # type: ignore[attr-defined]  # an Event


def _opened_by(numbers: list[int], directory: Path, url: str) -> list[str]:
    """What processes of these numbers say that open the directory at once and hold it together."""
    said, done = _NEW.SimpleQueue(), _NEW.Event()
    running = [_NEW.Process(target=_open, args=(directory, url, n, said, done)) for n in numbers]
    for process in running:
        process.start()
    words = [said.get() for _ in running]
    done.set()
    for process in running:
        process.join(30)
    return words


def test_processes_of_a_cluster_that_start_at_once_share_one_store(tmp_path: Path, database: str) -> None:
    words = _opened_by([0, 1, 2], tmp_path / "recovery", database)
    assert len(set(words)) == 1
    assert not words[0].startswith("refused")


def test_a_second_flow_on_the_same_directory_is_refused(tmp_path: Path, database: str) -> None:
    words = sorted(_opened_by([0, 0], tmp_path / "recovery", database), key=len)
    assert not words[0].startswith("refused")
    assert "in use by another flow" in words[1]


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, database: str) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with connect(database) as connection, pytest.raises(ConfigError, match="0700"):
        open_store(tmp_path / "open", connection, {}, process=0, anew=False)


def test_a_lost_store_is_refused_unless_told_to_go_on(tmp_path: Path, database: str) -> None:
    with connect(database) as connection:
        first = open_store(tmp_path / "a", connection, _PROGRESS, process=0, anew=False)
        assert first.start(3) == Start()
        with pytest.raises(ConfigError, match="--from-progress"):
            open_store(tmp_path / "b", connection, _PROGRESS, process=1, anew=False)
        second = open_store(tmp_path / "b", connection, _PROGRESS, process=2, anew=True)
        assert second.start(3) == Start("5-1", 7, 5000, "digest")
        assert open_store(tmp_path / "b", connection, {}, process=3, anew=False).start(3) == Start(
            "5-1", 7, 5000, "digest"
        )
