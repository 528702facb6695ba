"""Passes are remembered for a while, taken once, and come back from a snapshot as they were."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from analytics.passes import Passed, Passes


def _passed(at_ms: int, commit: str | None = None) -> Passed:
    return at_ms, f"event-{at_ms}", f"run-{at_ms}", commit


def _restored(passes: Passes, most: int, most_of_one: int) -> Passes:
    other = Passes(most, most_of_one)
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(passes.state())))
    return other


def _all(passes: Passes) -> list[Any]:
    return [half.by_name for half in (passes._old, passes._young)]


def test_a_pass_stays_for_one_turn_and_goes_with_the_second() -> None:
    passes = Passes(10, 10)
    passes.add("a", _passed(1))
    passes.turn()
    passes.add("a", _passed(2))
    assert list(passes.of("a")) == [_passed(2), _passed(1)]
    passes.turn()
    assert list(passes.of("a")) == [_passed(2)]
    passes.turn()
    assert list(passes.of("a")) == []


def test_what_is_taken_out_of_either_generation_stays_out() -> None:
    passes = Passes(10, 10)
    passes.add("a", _passed(1))
    passes.add("b", _passed(2, "commit"))
    passes.state()
    passes.turn()
    passes.add("a", _passed(3))
    assert passes.take("a") == [_passed(3), _passed(1)]
    assert passes.take("a") == []
    assert _all(_restored(passes, 10, 10)) == [{"b": [_passed(2, "commit")]}, {}]


def test_a_flood_of_names_makes_them_turn_early() -> None:
    passes = Passes(3, 10)
    for i in range(100):
        passes.add(str(i), _passed(i))
        assert sum(map(len, _all(passes))) <= 6
    assert [list(passes.of(str(i))) for i in (99, 98, 97)] == [[_passed(i)] for i in (99, 98, 97)]


def test_of_one_name_the_newest_are_kept_and_its_journal_stays_short() -> None:
    passes = Passes(10, 3)
    sizes = []
    for at in range(5000):
        passes.add("a", _passed(at))
        if at % 50 == 0:
            sizes.append(sum(map(len, passes.state()[1])))
    assert list(passes.of("a")) == [_passed(at) for at in (4997, 4998, 4999)]
    assert max(sizes[50:]) <= 1.1 * max(sizes[:50])
    assert _all(_restored(passes, 10, 3)) == _all(passes)


def test_what_is_written_down_does_not_wait_any_more_though_nothing_is_left_of_it() -> None:
    passes = Passes(10, 3)
    sizes = []
    for at in range(5000):
        passes.add("a", _passed(at))
        passes.take("a")
        passes.settle()
        sizes.append(len(passes._young.fresh))
    assert max(sizes) == 0
    assert _all(_restored(passes, 10, 3)) == [{}, {}]


def test_passes_come_back_whenever_their_state_was_taken(rng: random.Random) -> None:
    passes = Passes(1000, 4)
    for step in range(5000):
        match rng.randrange(20):
            case 0:
                passes.take(str(rng.randrange(50)))
            case 1 if step % 7 == 0:
                passes.turn()
            case 2:
                other = _restored(passes, 1000, 4)
                assert _all(other) == _all(passes)
                assert other.state() == passes.state()
                passes = rng.choice([passes, other])
            case 3:
                passes.settle()
            case _:
                passes.add(str(rng.randrange(50)), _passed(step, rng.choice([None, "commit"])))
