"""The shipped signatures on the shared data (../shared/data, or GUARD_DATA); the judge is benchmarks/quality.py."""

from __future__ import annotations

import bisect
import itertools
import os
from pathlib import Path

import polars as pl
import pytest
import re2

from analytics.logs.normalise import normalise
from analytics.signatures.catalogue import Catalogue, shipped
from analytics.signatures.dialect import compiled
from analytics.signatures.patterns import Patterns
from benchmarks import quality

DATA = Path(os.environ.get("GUARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
LOGS, WINDOWS, DOCKER = DATA / "ci_logs.parquet", DATA / "log_fixtures", DATA / "docker_build_failures.parquet"
CATALOGUE = Catalogue(shipped())

pytestmark = pytest.mark.skipif(not LOGS.is_file(), reason=f"{LOGS} is absent: set GUARD_DATA")


def _set(patterns: list[str]) -> re2.Set:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 256 << 20
    all_at_once = re2.Set.SearchSet(options)
    for pattern in patterns:
        all_at_once.Add(compiled(pattern).single.pattern)
    all_at_once.Compile()
    return all_at_once


def test_both_engines_find_the_same_in_real_logs() -> None:
    patterns = [pattern for s in CATALOGUE.signatures for pattern in (*s.text, *s.near, *s.unless)]
    passes, lines_of = Patterns(patterns), _set(patterns)
    for log in pl.read_parquet(LOGS, columns=["log"])["log"][::20]:
        text = normalise(log.encode())[-100_000:]
        lines = text.split(b"\n")
        starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
        passed = {(bisect.bisect_right(starts, end - 1) - 1, number) for end, number in passes.ends(text)}
        assert passed == {(i, number) for i, line in enumerate(lines) for number in lines_of.Match(line) or ()}


def test_the_marked_line_of_noisy_windows_wins() -> None:
    said = quality.fixtures(WINDOWS, CATALOGUE)
    assert len(said) == 26
    assert sum(right for _, _, right in said) >= 24


def test_few_builds_that_stay_broken_are_called_worth_a_rerun() -> None:
    found = quality.docker(DOCKER, CATALOGUE)
    worth = [index for index, match in found["docker"].items() if match.signature.transient]
    assert len(worth) / found["docker_rows"] < 0.03


def test_on_failed_logs_it_is_precise_and_covers_more_than_half() -> None:
    rows = pl.read_parquet(LOGS).to_dicts()[::4]
    logs = [quality.judged(row, CATALOGUE) for row in rows]
    named = [log for log in logs if log.named and log.silver]
    assert sum(log.named is not None for log in logs) / len(logs) >= 0.6
    assert sum(log.ours == log.silver for log in named) / len(named) >= 0.85


def test_a_verdict_is_one_of_four_and_quotes_no_more_than_a_few_words() -> None:
    read = [*quality.verdicts("ci_logs").values(), *quality.verdicts("docker_build_failures").values()]
    assert len(quality.verdicts("ci_logs")) >= 150
    assert len(quality.verdicts("docker_build_failures")) >= 200
    assert {verdict.verdict for verdict in read} <= {"ours", "silver", "both", "neither", "right", "wrong", "unknown"}
    assert max(len(verdict.reason) for verdict in read) < 120
