"""What is learnt of reruns, how it weighs and how it fades."""

from __future__ import annotations

import msgspec
import pytest

from analytics import posteriors
from analytics.posteriors import MOST_COUNTED, PRIOR_WEIGHT, TOGETHER_MS, WEEK_MS, Counts, Posteriors

KEY = ("disk_full", "rerun_failed", 1)


def test_where_nothing_is_known_the_score_is_the_same_bits() -> None:
    known = Posteriors()
    assert not known
    assert known.of(*KEY, 0).mean(0.1234567890123) == 0.1234567890123
    known.count(*KEY, passed=True, at_ms=0)
    others = [("oom", "rerun_failed", 1), ("disk_full", "rerun", 1), ("disk_full", "rerun_failed", 2)]
    for signature, action, attempt in [*others, (None, "rerun_failed", 1)]:
        assert known.of(signature, action, attempt, 0) == Counts(0.0, 0.0)


def test_the_scorer_weighs_as_much_as_four_outcomes() -> None:
    assert PRIOR_WEIGHT == 4
    assert Counts(0, 4).mean(0.9) == 0.45
    assert Counts(4, 0).mean(0.9) == 0.95
    assert Counts(1, 2).mean(0.5) == round(3 / 7, 6)


def seen(known: Posteriors, *outcomes: bool, at_ms: int = 0, apart_ms: int = TOGETHER_MS) -> int:
    """Count outcomes, far enough apart unless said otherwise; when the last one came."""
    for i, passed in enumerate(outcomes):
        known.count(*KEY, passed=passed, at_ms=at_ms + i * apart_ms)
    return at_ms + (len(outcomes) - 1) * apart_ms


def test_each_week_halves_it_until_nothing_is_left() -> None:
    known = Posteriors()
    last = seen(known, *[False] * 4)
    assert known.of(*KEY, last) == (0, 4)
    assert known.of(*KEY, WEEK_MS) == (0, 2)
    assert known.of(*KEY, 3 * WEEK_MS) == (0, 0.5)
    assert known.of(*KEY, 99 * WEEK_MS) == (0, 0)
    known.count(*KEY, passed=True, at_ms=2 * WEEK_MS)
    assert known.of(*KEY, 2 * WEEK_MS) == (1, 1)


def test_what_comes_together_is_one_outcome() -> None:
    known = Posteriors()
    seen(known, *[False] * 50, apart_ms=1000)
    assert known.of(*KEY, 60_000) == (0, 1), "an outage is one cause"
    seen(known, True, False, True, True, at_ms=TOGETHER_MS, apart_ms=1000)
    assert known.of(*KEY, TOGETHER_MS) == (0.75, 1.25)
    seen(known, True, at_ms=2 * TOGETHER_MS)
    assert known.of(*KEY, 2 * TOGETHER_MS) == (1.75, 1.25)


def test_what_is_taken_back_is_what_has_not_faded_of_it() -> None:
    known = Posteriors()
    one = known.count(*KEY, passed=True, at_ms=0)
    half = known.count(*KEY, passed=False, at_ms=1000)
    assert (one, half) == (1, 0.5)
    known.take_back(*KEY, passed=True, at_ms=2000, since_ms=0, weight=one)
    assert known.of(*KEY, 2000) == (0, 1)
    known.count(*KEY, passed=True, at_ms=WEEK_MS)
    assert known.of(*KEY, WEEK_MS) == (1, 0.5)
    known.take_back(*KEY, passed=False, at_ms=WEEK_MS, since_ms=1000, weight=1.0)
    assert known.of(*KEY, WEEK_MS) == (1, 0)
    known.take_back(*KEY, passed=True, at_ms=WEEK_MS, since_ms=WEEK_MS, weight=1.0)
    assert not known
    known.take_back(*KEY, passed=True, at_ms=WEEK_MS, since_ms=WEEK_MS, weight=1.0)


def test_the_newest_count_most() -> None:
    known = Posteriors()
    last = seen(known, *[True] * 600)
    assert MOST_COUNTED / 2 <= known.of(*KEY, last).passes <= MOST_COUNTED + 1
    last = seen(known, *[False] * 100, at_ms=last + TOGETHER_MS)
    assert known.of(*KEY, last).mean(0.9) < 0.3


def test_the_key_longest_without_news_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posteriors, "MOST_KEYS", 2)
    known = Posteriors()
    for at, name in enumerate(("a", "b", "a", "c")):
        known.count(name, "rerun", 1, passed=True, at_ms=at * TOGETHER_MS)
    assert [known.of(name, "rerun", 1, 0).passes for name in "abc"] == [2, 0, 1]


def test_its_state_is_plain_and_comes_back() -> None:
    known, again = Posteriors(), Posteriors()
    seen(known, True, False, at_ms=WEEK_MS, apart_ms=1)
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(known.state())))
    assert again.of(*KEY, WEEK_MS) == (0.5, 0.5)
    assert again.state() == known.state()
