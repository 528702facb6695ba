"""The healing benchmark in a short scene: the same seed is the same world, and comes to the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from analytics.rulebook import compose
from benchmarks.healing import Scene, played, rulebooks
from benchmarks.healing_score import Score, differences, interval, pairs
from models.records.errors import ConfigError

SCENE = Scene(3, hours=0.25, repositories=20, pushes_per_hour=90.0)
ACT = compose(policy={"mode": "act", "await_log_seconds": 10, "most_attempts": 2}).body


@pytest.fixture(scope="module")
def healed() -> Score:
    """What comes of the scene where what ships heals."""
    return played(SCENE, "guard", ACT)


def test_the_same_seed_comes_to_the_same(healed: Score) -> None:
    assert played(SCENE, "guard", ACT) == healed
    assert played(SCENE, "twice", None) == played(SCENE, "twice", None)


def test_another_seed_is_another_world() -> None:
    others = [played(Scene(seed, SCENE.hours, 20, 90.0), "once", None) for seed in range(5)]
    assert len(set(map(repr, others))) > 1


def test_never_never_twice_more_than_once_and_what_ships_spends_less_than_both(healed: Score) -> None:
    never, once, twice = (played(SCENE, name, None) for name in ("never", "once", "twice"))
    assert (never.reruns, never.minutes) == (0, 0)
    assert 0 < once.reruns <= twice.reruns
    assert 0 < healed.reruns <= twice.reruns
    assert healed.harmed <= once.harmed


def test_a_rulebook_that_only_observes_runs_nothing_again() -> None:
    assert played(SCENE, "rulebook", compose(policy={"mode": "observe"}).body).reruns == 0


def test_differences_are_those_of_each_seed() -> None:
    def score(reruns: int) -> Score:
        return Score(reruns, 0, 0, 0, 0, 10.0 * reruns, 0, None)

    scores = {"once": [score(n) for n in range(5)], "rulebook": [score(n + 2) for n in range(5)]}
    (row,) = differences(scores).splitlines()[2:]
    assert row.startswith("| rulebook less once | 2.0 ± 0.0 | ")
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.0 ± 2.0"
    assert list(pairs(["once", "rulebook", "compared"])) == [
        ("compared", "rulebook"),
        ("rulebook", "once"),
        ("compared", "once"),
    ]


def test_rulebooks_are_named_as_for_a_backtest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[rulebook.policy]\nmode = "act"\n')
    assert list(rulebooks(None, None)) == ["guard"]
    named = rulebooks(str(path), "shipped")
    assert (list(named), named["rulebook"]["policy"]["mode"]) == (["rulebook", "compared"], "act")
    assert named["compared"] == compose().body
    with pytest.raises(ConfigError):
        rulebooks(str(tmp_path / "nothing.toml"), None)
