"""The bounds hold, and what is learned is what was seen."""

from __future__ import annotations

from math import exp, lgamma, log

import pytest

from analytics.surprise import Expected, Sighting, Usual, needed, out_of_proportion, surprise

DAY = 1440


def tail(count: int, mean: float, shape: float) -> float:
    """The chance of `count` or more of a negative binomial distribution, term by term."""
    below = sum(
        exp(
            lgamma(k + shape) - lgamma(shape) - lgamma(k + 1)
            + shape * log(shape / (shape + mean)) + k * log(mean / (shape + mean))
        )
        for k in range(count)
    )  # fmt: skip
    return max(1 - below, 0.0)


@pytest.mark.parametrize("mean", [0.1, 1.0, 7.0, 60.0])
@pytest.mark.parametrize("shape", [0.5, 4.0, 300.0])
def test_the_surprise_bounds_the_chance(mean: float, shape: float) -> None:
    for count in range(1, 200):
        assert tail(count, mean, shape) <= exp(-surprise(count, Expected(mean, 1.0, shape))) + 1e-12


def test_surprise_grows_with_the_count_and_is_nothing_up_to_the_mean() -> None:
    found = [surprise(count, Expected(5.0, 1.2, 10.0)) for count in range(40)]
    assert found[:6] == [0.0] * 6
    assert found[6:] == sorted(set(found[6:]))


@pytest.mark.parametrize(("usual", "count"), [(0.05, 8), (0.3, 20), (0.5, 12)])
def test_what_is_out_of_proportion_is_bounded_by_chance(usual: float, count: int) -> None:
    def chance(least: int) -> float:
        terms = (
            exp(lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1)) * usual**k * (1 - usual) ** (count - k)
            for k in range(least, count + 1)
        )
        return sum(terms)

    for k in range(count + 1):
        assert chance(k) <= exp(-out_of_proportion(k / count, usual, count)) + 1e-12


def test_more_symptoms_need_more_surprise() -> None:
    assert needed(0.1, 1000) - needed(0.1, 1) == pytest.approx(log(1000))
    assert needed(1e9, 1) == 0.0
    assert needed(0.1, 0) == needed(0.1, 1)


def taught(minutes: int, sightings: dict[str, float], half_life: int = DAY) -> Usual:
    usual = Usual()
    for minute in range(1, minutes + 1):
        usual.learn(minute, {name: Sighting(seen, seen) for name, seen in sightings.items()}, half_life)
    return usual


def test_the_mean_is_what_was_seen() -> None:
    usual = taught(3 * DAY, {"a": 12.0, "b": 3.0})
    known = usual.expect("a", 0, least=0.1, window=5)
    assert known.mean == pytest.approx(12.0)
    assert known.scatter == pytest.approx(1.0)
    assert usual.expect("never seen", 0, least=0.1, window=5).mean == 0.1


def test_when_everything_fails_more_often_so_may_each() -> None:
    usual = taught(3 * DAY, {"a": 12.0, "b": 3.0, "c": 3.0})
    assert usual.expect("b", 15, least=0.1, window=5).mean == pytest.approx(3.0, rel=0.1)
    assert usual.expect("b", 75, least=0.1, window=5).mean == pytest.approx(14.0, rel=0.1)
    assert usual.expect("b", 1, least=0.1, window=5).mean == pytest.approx(3.0)


def test_memory_fades_by_half_in_its_half_life() -> None:
    usual = taught(10 * DAY, {"a": 8.0})
    before = usual.expect("a", 0, least=0.001, window=5).mean
    usual.pass_to(11 * DAY, DAY)
    assert usual.expect("a", 0, least=0.001, window=5).mean == pytest.approx(before / 2, rel=0.01)


def test_passing_over_minutes_at_once_is_passing_them_one_by_one() -> None:
    one, other = taught(50, {"a": 2.0}), taught(50, {"a": 2.0})
    for minute in range(51, 400):
        one.pass_to(minute, DAY)
    other.pass_to(399, DAY)
    known = [usual.expect("a", 9, least=0.001, window=5).mean for usual in (one, other)]
    assert known[0] == pytest.approx(known[1])


def test_wild_counts_make_one_patient() -> None:
    usual = Usual()
    for minute in range(1, 2 * DAY):
        seen = 40.0 if minute % 60 < 5 else 4.0
        usual.learn(minute, {"a": Sighting(seen, (seen - 7) ** 2)}, DAY)
    known = usual.expect("a", 0, least=0.1, window=5)
    assert known.scatter > 10
    assert surprise(40, known) < needed(0.1, 1)


def test_what_is_long_ago_is_forgotten_and_the_rarest_of_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = taught(10, {"a": 1.0, "b": 5.0, "c": 5.0})
    monkeypatch.setattr("analytics.surprise._MOST", 2)
    usual.forget()
    assert (usual.symptoms, usual.first_seen("a"), usual.first_seen("b")) == (2, None, 1)
    usual.pass_to(30 * DAY, DAY)
    usual.forget()
    assert usual.symptoms == 0


def test_what_is_accepted_is_usual() -> None:
    usual = taught(200, {"a": 1.0})
    usual.accept("a", 30)
    assert usual.expect("a", 0, least=0.1, window=5).mean == pytest.approx(30.0)
