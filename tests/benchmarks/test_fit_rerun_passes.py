from __future__ import annotations

import pytest

from benchmarks.fit_rerun_passes import History, Labelled, encode, fit, judge
from models.scorers.rerun_passes import RerunPasses, shipped

SMALL = History(seed=11, repositories=200, hours=40.0)
SMALLER = History(seed=12, repositories=60, hours=4.0)


def test_on_repositories_never_seen_it_ranks_and_beats_the_bare_rate() -> None:
    fitted = fit(SMALL)["fitted"]
    assert fitted["held_out"] > 100
    assert fitted["auc"] > 0.7
    assert fitted["brier"] < fitted["base_brier"]


def test_the_same_seed_fits_the_same_bytes() -> None:
    assert encode(fit(SMALLER)) == encode(fit(SMALLER))


def test_the_shipped_artefact_loads_is_small_and_says_what_it_reaches() -> None:
    artefact = shipped()
    scorer = RerunPasses.from_artefact(artefact)
    assert len(encode(artefact)) < 200_000
    assert scorer.version == artefact["version"]
    assert artefact["fitted"]["auc"] > 0.7
    assert artefact["fitted"]["brier"] < artefact["fitted"]["base_brier"]
    assert scorer.score([{"signature": "lint_step"}, {"signature": "registry_unavailable"}])[1].value is not None


def test_the_shipped_model_knows_what_a_rerun_heals_from_what_it_does_not() -> None:
    scorer = RerunPasses.from_artefact(shipped())
    common: dict[str, float | str] = {"platform": "github", "outcome": "failed", "reason": "failure", "attempt": 1.0}
    lint, setup = scorer.score(
        [
            common | {"signature": "lint_step", "category": "build", "step": "lint"},
            common | {"signature": "github_set_up_job", "category": "infrastructure", "step": "set up job"},
        ]
    )
    assert lint.value is not None
    assert setup.value is not None
    assert lint.value < 0.2
    assert setup.value > 0.6


def test_what_is_unknown_is_counted_and_not_judged() -> None:
    scorer = RerunPasses(intercept=0.0, weights={"signature=a": 2.0, "signature=b": -2.0})
    cases = [
        Labelled("one", {"signature": "a"}, passed=True),
        Labelled("one", {"signature": "b"}, passed=False),
        Labelled("two", {"signature": "never seen"}, passed=True),
    ]
    judged = judge(scorer, cases)
    assert (judged["held_out"], judged["unknown"], judged["auc"]) == (3, 1, 1.0)
    assert judged["passed"] == 0.5
    assert judged["brier"] == pytest.approx(0.0142, abs=1e-4)
    assert [bin_["cases"] for bin_ in judged["calibration"]] == [1, 1]
