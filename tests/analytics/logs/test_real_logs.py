"""The excerpt on real failed logs whose failing chunk was marked by hand (../shared/data, or GUARD_DATA).

Heuristics were made on the half of the repositories with an even digest. Of the other half the misses of some
repositories were read later, so neither figure is one of logs never seen; docs say what was reached before that.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from models.records.evidence import EXCERPT_BYTES
from tests.analytics.logs.cases import found_in

DATA = Path(os.environ.get("GUARD_DATA", Path(__file__).parents[4] / "shared" / "data"))
LOGS = DATA / "ci_logs.parquet"
WINDOWS = sorted((DATA / "log_fixtures").glob("*.txt"))
# The marked chunks lost `<`, `&` and the ESC of colours on their way through XML; blanks do not count.
_COLOUR = re.compile(r"\x1b?\[(?:[0-9;?]+[A-Za-z]|[mK])|\x1b.?")
_QUOTES = dict.fromkeys((0x2039, 0x203A))  # round what a rule of theirs captures
_OTHER = re.compile(r"[^A-Za-z0-9_./:]+")

needs_logs = pytest.mark.skipif(not LOGS.is_file(), reason=f"{LOGS} is absent: set GUARD_DATA")
needs_windows = pytest.mark.skipif(not WINDOWS, reason=f"{DATA}/log_fixtures is absent: set GUARD_DATA")


class Kept(NamedTuple):
    """Of one log: which half its repository is in, whether the whole chunk was kept, and how much of the log."""

    half: int
    whole: bool
    kept_bytes: int
    log_bytes: int


def _letters(text: str) -> str:
    return _OTHER.sub("", _COLOUR.sub("", text))


@pytest.fixture(scope="module")
def kept() -> list[Kept]:
    logs = pl.read_parquet(LOGS, columns=["repository", "failing_chunk", "log"])
    found = []
    for repository, chunk, log in logs.iter_rows():
        raw = log.encode()
        excerpt = "\n".join(line.text for line in found_in(raw)["lines"])
        half = hashlib.sha256(repository.encode()).digest()[0] & 1
        whole = _letters(chunk) in _letters(excerpt)
        found.append(Kept(half, whole, len(excerpt.encode()) + 1, len(raw)))
    return found


@needs_logs
@pytest.mark.parametrize("half", [0, 1])
def test_the_excerpt_holds_the_whole_failing_chunk(kept: list[Kept], half: int) -> None:
    mine = [log for log in kept if log.half == half]
    assert sum(log.whole for log in mine) / len(mine) >= 0.84


@needs_logs
def test_it_is_a_tenth_of_the_log_at_most(kept: list[Kept]) -> None:
    assert all(log.kept_bytes <= EXCERPT_BYTES for log in kept)
    assert sum(log.kept_bytes for log in kept) / sum(log.log_bytes for log in kept) <= 0.06
    assert sum(log.kept_bytes / log.log_bytes for log in kept) / len(kept) <= 0.1


@needs_windows
def test_of_noisy_windows_the_marked_line_is_kept() -> None:
    kept = 0
    for path in WINDOWS:
        text = path.read_text("utf-8").partition("\n")[2]
        marked = [_letters(line) for line in text.split("\n") if "#=MATCH=#" in line]
        raw = text.replace("#=MATCH=# ", "").translate(_QUOTES)
        lines = {_letters(line.text) for line in found_in(raw.encode())["lines"]} - {""}
        kept += any(any(marked_line.endswith(line) for line in lines) for marked_line in marked)
    assert kept >= len(WINDOWS) - 3
