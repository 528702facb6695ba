"""What every scorer keeps: it scores what it is given, alone or in any company alike, and never learns by scoring.

A scorer is a function of its artefact: plain data, named by a digest of what scores. The rulebook carries the artefact,
every score carries the digest, so a decision can be made again bit for bit.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import msgspec

Features = Mapping[str, float | str]
"""What is known of a case, flat: text is compared, numbers are weighed. Missing and new names are survived."""

MAX_TOP = 5  # contributions that a score names


class Score(NamedTuple):
    """How likely, from 0 to 1, or None where too little is known; `top` is what moved it most, in log-odds."""

    value: float | None
    model: str
    version: str
    top: tuple[tuple[str, float], ...] = ()

    @classmethod
    def unknown(cls, model: str, version: str) -> Self:
        """Too little evidence. Unknown is never acted on."""
        return cls(None, model, version)


class Scorer(ABC):
    """One question about a case, answered by a model that was fitted beforehand."""

    model: ClassVar[str]
    """The question's name; the file and the artefact are called so too."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Digest of all that scores, as 12 hexadecimal digits."""

    @abstractmethod
    def score(self, features: Sequence[Features]) -> list[Score]:
        """One score for each of `features`, each the same as if it were asked for alone, bit for bit."""

    @classmethod
    @abstractmethod
    def learn(cls, features: Sequence[Features], labels: Sequence[bool]) -> Self:
        """A new scorer, fitted to what came of earlier cases. The same input gives the same version."""

    @classmethod
    @abstractmethod
    def from_artefact(cls, artefact: Mapping[str, Any]) -> Self:
        """The scorer that `artefact` describes; keys that do not score are passed over.

        Raises:
            ConfigError: not an artefact of this model, or altered since its version was written.
        """

    @abstractmethod
    def to_artefact(self) -> dict[str, Any]:
        """The scorer as plain data that JSON can carry; its version is among it."""


def digest(parameters: Mapping[str, Any]) -> str:
    """The version that names `parameters`, whatever the order of their keys."""
    return hashlib.sha256(msgspec.json.encode(parameters, order="deterministic")).hexdigest()[:12]
