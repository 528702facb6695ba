"""Every scorer keeps the contract of models/scorers/scorer.py; a new file there is tested without being named here."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import models.scorers
from models.records.errors import ConfigError
from models.scorers.scorer import MAX_TOP, Features, Scorer

MAX_ARTEFACT_BYTES = 200_000


def _scorers() -> Iterator[type[Scorer]]:
    for module in pkgutil.iter_modules(models.scorers.__path__):
        found = importlib.import_module(f"models.scorers.{module.name}")
        for _, cls in inspect.getmembers(found, inspect.isclass):
            if issubclass(cls, Scorer) and cls is not Scorer and cls.__module__ == found.__name__:
                yield cls


SCORERS = list(_scorers())
WORDS = ("none", "registry_unavailable", "test_failed", "runner_lost", "disk_full")


def _cases(seed: int, count: int = 400) -> tuple[list[Features], list[bool]]:
    """Cases of the documented features whose label hangs on the signature and a little on the attempt."""
    rng = random.Random(seed)
    features: list[Features] = []
    labels = []
    for _ in range(count):
        word, attempt = rng.choice(WORDS), rng.randint(1, 3)
        features.append(
            {
                "signature": word,
                "category": "infrastructure",
                "platform": rng.choice(("github", "gitlab", "jenkins", "circleci")),
                "outcome": "failed",
                "reason": rng.choice(("none", "script_failure")),
                "step": rng.choice(("none", "run tests")),
                "trigger": "push",
                "default_branch": rng.choice(("yes", "no", "unknown")),
                "exit_code": "none",
                "attempt": float(attempt),
                "failed_jobs": float(rng.randint(1, 5)),
                "log_duration": rng.random() * 8,
            }
        )
        labels.append(rng.random() < (0.2 if word == "test_failed" else 0.8) / attempt)
    return features, labels


@pytest.fixture(params=SCORERS, ids=lambda cls: cls.model, scope="module")
def scorer(request: pytest.FixtureRequest) -> Scorer:
    cls: type[Scorer] = request.param
    return cls.learn(*_cases(7))


def test_there_is_a_scorer() -> None:
    assert SCORERS
    assert len({cls.model for cls in SCORERS}) == len(SCORERS)


def test_scores_lie_between_0_and_1_and_name_model_and_version(scorer: Scorer) -> None:
    features, _ = _cases(8)
    for score in scorer.score(features):
        assert score.model == scorer.model
        assert score.version == scorer.version
        assert len(score.top) <= MAX_TOP
        if score.value is not None:
            assert 0 <= score.value <= 1
            assert score.value == round(score.value, 6)


def test_a_score_is_the_same_alone_and_in_any_batch(scorer: Scorer) -> None:
    features, _ = _cases(9)
    alone = [scorer.score([each])[0] for each in features]
    for size in (2, 3, 7, 64, 399, 400):
        batched = [s for i in range(0, len(features), size) for s in scorer.score(features[i : i + size])]
        assert batched == alone


def test_a_score_does_not_depend_on_the_order_of_features(scorer: Scorer) -> None:
    features, _ = _cases(10)
    turned = [dict(reversed(list(each.items()))) for each in features]
    assert scorer.score(turned) == scorer.score(features)


def test_scoring_neither_learns_nor_touches_its_input(scorer: Scorer) -> None:
    features, _ = _cases(11)
    before, version, first = [dict(each) for each in features], scorer.version, scorer.score(features)
    assert scorer.score(features) == first
    assert features == before
    assert scorer.version == version


def test_the_same_history_gives_the_same_version(scorer: Scorer) -> None:
    assert type(scorer).learn(*_cases(7)).to_artefact() == scorer.to_artefact()
    assert type(scorer).learn(*_cases(12)).version != scorer.version


def test_an_artefact_survives_json_and_scores_the_same(scorer: Scorer) -> None:
    features, _ = _cases(13)
    written = msgspec.json.encode(scorer.to_artefact())
    read = type(scorer).from_artefact(msgspec.json.decode(written))
    assert len(written) < MAX_ARTEFACT_BYTES
    assert read.version == scorer.version
    assert read.score(features) == scorer.score(features)


def test_missing_features_are_survived(scorer: Scorer) -> None:
    features, _ = _cases(14, 20)
    for each in features:
        for name in each:
            scorer.score([{k: v for k, v in each.items() if k != name}])
    assert scorer.score([{}])[0].value is None


def test_new_features_and_new_words_change_nothing(scorer: Scorer) -> None:
    features, _ = _cases(15, 50)
    new = [{**each, "moon": "full", "tide": 3.5} for each in features]
    assert scorer.score(new) == scorer.score(features)
    assert scorer.score([{**features[0], "trigger": "x" * 10_000}])[0].version == scorer.version


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -math.inf, 1e308, -1e308])
def test_absurd_numbers_are_survived(scorer: Scorer, absurd: float) -> None:
    features, _ = _cases(16, 5)
    for each in features:
        numbers = [name for name, value in each.items() if not isinstance(value, str)]
        value = scorer.score([{**each, **dict.fromkeys(numbers, absurd)}])[0].value
        assert value is None or 0 <= value <= 1


def test_no_evidence_gives_unknown(scorer: Scorer) -> None:
    features, _ = _cases(17, 1)
    bare = {**features[0], "signature": "none", "category": "none", "reason": "none", "step": "none"}
    assert scorer.score([bare])[0] == type(scorer.score([bare])[0]).unknown(scorer.model, scorer.version)
    assert scorer.score([{**bare, "signature": "never_seen_in_training"}])[0].value is None


def test_nothing_to_score_gives_nothing(scorer: Scorer) -> None:
    assert scorer.score([]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"model": "another"},
        {"version": "000000000000"},
        {"intercept": "high"},
        {"intercept": math.inf},
        {"weights": None},
        {"weights": {"attempt": math.nan}},
    ],
)
def test_a_wrong_or_altered_artefact_is_refused(scorer: Scorer, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        type(scorer).from_artefact(scorer.to_artefact() | change)
