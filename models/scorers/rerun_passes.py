"""The chance that a rerun of a failed run attempt passes on the same commit.

A logistic regression that scikit-learn fits over what webhooks carry. Its score is a sum of at most a dozen weights, so
it is taken here, row by row and exactly rounded: no order of features and no neighbour in the batch moves a bit, and
nothing that scores needs scikit-learn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from models.records.errors import ConfigError
from models.scorers.scorer import MAX_TOP, Features, Score, Scorer, digest

if TYPE_CHECKING:
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

NONE: Final = "none"
"""A text feature that is not known of this case."""

_MAX_TEXT: Final = 60
_MOST_READ: Final = 8192  # texts, and combinations of them, that are remembered as they were read
_MASK: Final = str.maketrans(dict.fromkeys("0123456789", "#"))
_LIMITS: Final[dict[str, float]] = {"attempt": 10.0, "failed_jobs": 10.0, "log_duration": 12.0}
"""The features that are numbers, and where each stops growing: a linear model must not follow an absurd value."""
_EVIDENCE: Final = ("signature", "reason", "step")
"""What speaks of a cause. The rest only says where and when, and supports no score by itself."""
_SAYS_NOTHING: Final = frozenset({NONE, "failure", "failed", "script_failure", "unknown_failure"})
"""Nor do these: that it failed, or that some command did, is true of every failure."""

_LEAST_SEEN: Final = 20
"""What fewer training cases had is no feature: it would be learnt by heart. Nor is what all of them had alike."""
_DECIMALS: Final = 6


def features(
    *,
    platform: str,
    outcome: str,
    attempt: int,
    failed_jobs: int,
    signature: str | None = None,
    category: str | None = None,
    reason: str | None = None,
    step: str | None = None,
    trigger: str | None = None,
    is_default_branch: bool | None = None,
    duration_ms: int | None = None,
    exit_code: int | None = None,
) -> dict[str, float | str]:
    """What is known of a case when its first failed job is to be scored; the one place where it is put in this form.

    `failed_jobs` is how many jobs of the run attempt have failed, `duration_ms` how long the failed job ran.
    """
    known: dict[str, float | str] = {
        "signature": signature or NONE,
        "category": category or NONE,
        "platform": platform,
        "outcome": outcome,
        "reason": _masked(reason),
        "step": _masked(step),
        "trigger": _masked(trigger),
        "default_branch": "unknown" if is_default_branch is None else "yes" if is_default_branch else "no",
        "exit_code": NONE if exit_code is None else str(exit_code),
        "attempt": float(attempt),
        "failed_jobs": float(failed_jobs),
    }
    if duration_ms is not None:
        known["log_duration"] = math.log1p(max(duration_ms, 0) / 1000)
    return known


@lru_cache(_MOST_READ)
def _masked(text: str | None) -> str:
    """`text` in lower case, cut, each run of digits as one mark: versions and shard numbers are not causes."""
    if not text:
        return NONE
    masked = text[: 2 * _MAX_TEXT].lower().translate(_MASK)
    while "##" in masked:
        masked = masked.replace("##", "#")
    return masked[:_MAX_TEXT]


class RerunPasses(Scorer):
    """How likely a rerun passes; unknown where nothing that speaks of the cause was seen in training."""

    model = "rerun_passes"

    def __init__(self, *, intercept: float, weights: Mapping[str, float]) -> None:
        self._intercept = intercept
        self._weights = dict(weights)
        self._version = digest(self._parameters())
        self._read: Final = lru_cache(_MOST_READ)(self._words)

    @property
    def version(self) -> str:
        """Digest of intercept and weights."""
        return self._version

    def score(self, features: Sequence[Features]) -> list[Score]:
        """The chance for each of `features`, with the contributions in log-odds that moved it most."""
        return [self._score(each) for each in features]

    def _score(self, features: Features) -> Score:
        words = self._read(tuple([told for told in features.items() if isinstance(told[1], str)]))
        if words is None:
            return Score.unknown(self.model, self._version)
        weights = self._weights
        parts = [*words, *((cell, weights[cell] * x) for cell, x in _numbers(features) if cell in weights)]
        odds = math.fsum([self._intercept, *(part for _, part in parts)])
        parts.sort(key=lambda part: (-abs(part[1]), part[0]))
        top = tuple((cell, round(part, _DECIMALS)) for cell, part in parts[:MAX_TOP])
        return Score(round(_logistic(odds), _DECIMALS), self.model, self._version, top)

    def _words(self, told: tuple[tuple[str, str], ...]) -> tuple[tuple[str, float], ...] | None:
        """What each text of a case adds to the log-odds; None where none of them speaks of a cause."""
        weights = self._weights
        cells = {name: f"{name}={value}" for name, value in told}
        if not any(cells.get(n) in weights for n in _EVIDENCE if dict(told).get(n) not in _SAYS_NOTHING):
            return None
        return tuple((cell, weights[cell]) for cell in cells.values() if cell in weights)

    @classmethod
    def learn(cls, features: Sequence[Features], labels: Sequence[bool]) -> Self:
        """A scorer fitted to cases whose rerun passed (true) or failed (false). Both must occur."""
        vectoriser, regression = fit(features, labels)
        names = vectoriser.get_feature_names_out()
        weights = {str(n): round(float(w), 10) for n, w in zip(names, regression.coef_[0], strict=True)}
        return cls(intercept=round(float(regression.intercept_[0]), 10), weights=weights)

    @classmethod
    def from_artefact(cls, artefact: Mapping[str, Any]) -> Self:
        """The scorer of an artefact that `to_artefact` wrote.

        Raises:
            ConfigError: another model, weights that are no finite numbers, or a version that does not match them.
        """
        if artefact.get("model") != cls.model:
            raise ConfigError(f"an artefact of model {artefact.get('model')!r}; {cls.model!r} was expected")
        try:
            read = msgspec.convert(artefact, _Artefact)
        except msgspec.ValidationError as error:
            raise ConfigError(f"model {cls.model}: {error}") from None
        if not all(map(math.isfinite, (read.intercept, *read.weights.values()))):
            raise ConfigError(f"model {cls.model}: a weight is not finite")
        scorer = cls(intercept=read.intercept, weights=read.weights)
        if read.version != scorer.version:
            raise ConfigError(f"model {cls.model}: its weights are version {scorer.version}, not {read.version}")
        return scorer

    def to_artefact(self) -> dict[str, Any]:
        """Model, version, intercept and weights as plain data."""
        return {"model": self.model, "version": self._version, **self._parameters()}

    def _parameters(self) -> dict[str, Any]:
        return {"intercept": self._intercept, "weights": dict(sorted(self._weights.items()))}


class _Artefact(msgspec.Struct):
    version: str
    intercept: float
    weights: dict[str, float]


def shipped() -> dict[str, Any]:
    """The artefact that comes with this release, fitted on the simulated world's history; its metrics are among it."""
    artefact: dict[str, Any] = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes())
    return artefact


def _cells(features: Features) -> list[tuple[str, float]]:
    """What the model weighs: `name=value` as 1 for text, `name` as its bounded value for a number."""
    texts = [(f"{name}={value}", 1.0) for name, value in features.items() if isinstance(value, str)]
    return [*texts, *_numbers(features)]


def _numbers(features: Features) -> Iterator[tuple[str, float]]:
    for name, most in _LIMITS.items():
        value = features.get(name)
        if isinstance(value, (float, int)) and math.isfinite(value):
            yield name, min(max(float(value), 0.0), most)


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def fit(features: Sequence[Features], labels: Sequence[bool]) -> tuple[DictVectorizer, LogisticRegression]:
    """What scikit-learn makes of the cases: how their features become columns, and the weights of those."""
    from sklearn.feature_extraction import DictVectorizer  # noqa: PLC0415 - what only scores starts without it
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - as above

    rows = [dict(_cells(each)) for each in features]
    seen = Counter(cell for row in rows for cell in row)
    values = {cell: x for row in rows for cell, x in row.items()}
    same = {c for c, n in seen.items() if n == len(rows) and all(row[c] == values[c] for row in rows)}
    kept = [{c: x for c, x in row.items() if seen[c] >= _LEAST_SEEN and c not in same} for row in rows]
    vectoriser = DictVectorizer(sparse=True, sort=True)
    regression = LogisticRegression(C=1.0, max_iter=2000, tol=1e-9)
    regression.fit(vectoriser.fit_transform(kept), [bool(label) for label in labels])
    return vectoriser, regression
