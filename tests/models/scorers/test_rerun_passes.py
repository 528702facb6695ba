from __future__ import annotations

import random

import pytest

from models.scorers.rerun_passes import RerunPasses, features, fit
from models.scorers.scorer import Features


def _case(**known: object) -> dict[str, float | str]:
    return features(**{"platform": "github", "outcome": "failed", "attempt": 1, "failed_jobs": 1} | known)  # type: ignore[arg-type]  # a test's shorthand


def _history(seed: int, count: int = 2000) -> tuple[list[Features], list[bool]]:
    rng = random.Random(seed)
    cases: list[Features] = []
    labels = []
    for _ in range(count):
        step = rng.choice(("Set up job", "Run tests"))
        attempt = rng.randint(1, 4)
        cases.append(_case(step=step, attempt=attempt, duration_ms=rng.randint(0, 900_000)))
        labels.append(rng.random() < (0.9 if step == "Set up job" else 0.3) / attempt**0.5)
    return cases, labels


def test_scores_equal_what_scikit_learn_predicts() -> None:
    cases, labels = _history(1)
    vectoriser, regression = fit(cases, labels)
    scorer = RerunPasses.learn(cases, labels)
    columns = [
        {
            f"{name}={value}" if isinstance(value, str) else name: 1.0 if isinstance(value, str) else value
            for name, value in case.items()
        }
        for case in cases
    ]
    predicted = regression.predict_proba(vectoriser.transform(columns))[:, 1]
    scored = [score.value for score in scorer.score(cases)]
    assert scored == pytest.approx(predicted.tolist(), abs=1e-6)


def test_the_contributions_say_what_moved_the_score() -> None:
    scorer = RerunPasses.learn(*_history(2))
    setup, tests = scorer.score([_case(step="Set up job"), _case(step="Run tests")])
    assert setup.value is not None
    assert tests.value is not None
    assert setup.value > tests.value
    assert dict(setup.top)["step=set up job"] > 0 > dict(tests.top)["step=run tests"]
    sizes = [abs(part) for _, part in setup.top]
    assert sizes == sorted(sizes, reverse=True)


def test_a_word_seen_too_rarely_is_not_learnt() -> None:
    cases, labels = _history(3)
    rare = [_case(step="Once in a while")] * 19
    scorer = RerunPasses.learn([*cases, *rare], [*labels, *[True] * 19])
    assert scorer.score(rare[:1])[0].value is None


def test_digits_do_not_tell_steps_apart() -> None:
    assert _case(step="Run actions/checkout@v4")["step"] == _case(step="Run actions/checkout@v12")["step"]
    assert _case(step="Shard 3 of 16")["step"] == "shard # of #"


def test_text_is_cut_and_lower_case() -> None:
    step = _case(step="X" * 1_000_000)["step"]
    assert step == "x" * 60


def test_what_is_not_known_is_said_to_be_so() -> None:
    case = _case()
    assert {case[name] for name in ("signature", "category", "reason", "step", "trigger", "exit_code")} == {"none"}
    assert case["default_branch"] == "unknown"
    assert "log_duration" not in case
    assert _case(is_default_branch=True)["default_branch"] == "yes"
    assert _case(is_default_branch=False)["default_branch"] == "no"
    assert _case(exit_code=137)["exit_code"] == "137"
    assert _case(duration_ms=-5)["log_duration"] == 0
