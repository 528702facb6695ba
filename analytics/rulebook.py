"""The rulebook: all that decides, in one content-addressed document.

Detector parameters, signatures, policy and the scorer's artefact together. Its digest stands in every row; it comes
into force at the control entry that names the digest, so that a change has an exact position in the stream and a
replay decides what was decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec

from analytics.detectors.detector import Rule, configured
from analytics.fleet_rules import FleetRules
from analytics.policy import reading
from analytics.policy.rules import Policy
from analytics.signatures.catalogue import Catalogue, Signature, from_mapping, shipped
from models.records.errors import ConfigError
from models.scorers.rerun_passes import RerunPasses
from models.scorers.rerun_passes import shipped as shipped_artefact

VERSION: Final = 1


class Rulebook:
    """One immutable set of rules, compiled on first use."""

    def __init__(self, body: Mapping[str, Any], *, also: Sequence[type[Rule]] = ()) -> None:
        """Read and check `body`, the document as JSON values; `also` are the detectors that its key "also" names.

        Raises:
            ConfigError: naming the key that is wrong, or a detector that is wanted.
        """
        unknown = sorted(set(body) - {"version", "detectors", "signatures", "policy", "scorer", "fleet", "also"})
        if unknown:
            raise ConfigError(f"rulebook: no such key {unknown[0]!r}")
        if body.get("version") != VERSION:
            raise ConfigError(f"rulebook.version: {body.get('version')!r} is not read here, {VERSION} is")
        missing = sorted(set(body.get("also", {})) - {cls.__name__ for cls in also})
        if missing:
            raise ConfigError(f"rulebook.also.{missing[0]}: this detector is not here")
        for name in ("detectors", "signatures", "policy", "scorer", "fleet", "also"):
            if not isinstance(body.get(name, {}), Mapping):
                raise ConfigError(f"rulebook.{name}: expected a table")
        self.body: Final[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(body))
        self.digest: Final = hashlib.sha256(msgspec.json.encode(self.body, order="sorted")).hexdigest()
        self.detectors: Final[tuple[Rule, ...]] = configured(body.get("detectors", {}), also=also)
        self.policy: Final[Policy] = reading.read(body.get("policy", {}))
        self.fleet: Final = FleetRules.of(body.get("fleet", {}))
        self._signatures: Final = tuple(
            from_mapping(f"rulebook.signatures.{name}", name, entry)
            for name, entry in sorted(body.get("signatures", {}).items())
        )

    @cached_property
    def catalogue(self) -> Catalogue:
        """The signatures, compiled; rulebooks that have the same share them, for it takes a second."""
        return _compiled(self._signatures)

    @cached_property
    def scorer(self) -> RerunPasses:
        """The scorer, from its artefact."""
        return RerunPasses.from_artefact(self.body["scorer"])


@lru_cache(2)
def _compiled(signatures: tuple[Signature, ...]) -> Catalogue:
    return Catalogue(signatures)


def compose(
    *,
    detectors: Mapping[str, Mapping[str, Any]] | None = None,
    policy: Mapping[str, Any] | None = None,
    signatures: tuple[Signature, ...] = (),
    scorer: Mapping[str, Any] | None = None,
    fleet: Mapping[str, Any] | None = None,
    also: Mapping[type[Rule], str] | None = None,
) -> Rulebook:
    """The shipped rulebook with the operator's changes; a signature of a shipped name replaces it.

    `also` are detectors beside the shipped ones, each with the digest of its source.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    chosen = {s.name: s for s in (*shipped(), *signatures)}
    body: dict[str, Any] = {
        "version": VERSION,
        "detectors": dict(detectors or {}),
        "policy": dict(policy or {}),
        "signatures": {name: _entry(signature) for name, signature in sorted(chosen.items())},
        "scorer": dict(scorer) if scorer is not None else shipped_artefact(),
        **({"fleet": dict(fleet)} if fleet else {}),
    }
    if also:
        body["also"] = {cls.__name__: digest for cls, digest in also.items()}
    rulebook = Rulebook(body, also=tuple(also or ()))
    reading.check(rulebook.policy, signatures=chosen)
    Catalogue(signatures).check()  # a pattern that does not compile is to be found now; the shipped ones do
    rulebook.catalogue  # noqa: B018 - and a name that stands there twice
    rulebook.scorer  # noqa: B018 - and weights that cannot be read
    return rulebook


def _entry(signature: Signature) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.to_builtins(signature)
    entry.pop("name")
    return entry
