"""A rulebook is named by what it says, and what it cannot mean is refused by key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.fleet_rules import FleetRules
from analytics.rulebook import Rulebook
from analytics.signatures.catalogue import from_mapping, shipped
from models.records.errors import ConfigError
from models.scorers.rerun_passes import shipped as shipped_artefact
from tests.analytics.log import SCORER

SIGNATURE = {"category": "network", "cause": "c", "fix": "f", "text": ["x"], "matches": ["x"], "confusers": ["y"]}


def _detector(rulebook: Rulebook, name: str) -> Any:
    return next(d for d in rulebook.detectors if type(d).__name__ == name)


def test_what_is_shipped_composes() -> None:
    rulebook = rulebooks.compose()
    assert {s.name for s in rulebook.catalogue.signatures} == {s.name for s in shipped()}
    assert rulebook.scorer.version == shipped_artefact()["version"]
    assert rulebook.policy.mode == "observe"


def test_the_digest_is_that_of_the_content_in_any_order() -> None:
    rulebook = rulebooks.compose(policy={"mode": "act", "least_score": 0.7})
    assert rulebooks.compose(policy={"least_score": 0.7, "mode": "act"}).digest == rulebook.digest
    assert Rulebook(dict(reversed(rulebook.body.items()))).digest == rulebook.digest
    assert Rulebook(msgspec.json.decode(msgspec.json.encode(rulebook.body))).digest == rulebook.digest
    assert len(rulebook.digest) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"policy": {"least_score": 0.7}},
        {"detectors": {"RepeatedFailure": {"threshold": 4}}},
        {"scorer": SCORER},
        {"signatures": (from_mapping("t", "own", SIGNATURE),)},
        {"fleet": {"least_repositories": 5}},
    ],
)
def test_any_change_has_a_digest_of_its_own(change: dict[str, Any]) -> None:
    assert rulebooks.compose(**change).digest != rulebooks.compose().digest


def test_an_operator_changes_what_is_shipped() -> None:
    own = from_mapping("t", "test_step", SIGNATURE)
    rulebook = rulebooks.compose(
        detectors={"StuckJob": {"patience": "1h30m", "factor": 2}}, policy={"mode": "suggest"}, signatures=(own,)
    )
    assert _detector(rulebook, "StuckJob").patience == timedelta(minutes=90)
    assert _detector(rulebook, "StuckJob").within == timedelta(hours=24)
    assert rulebook.policy.mode == "suggest"
    assert [s for s in rulebook.catalogue.signatures if s.name == "test_step"] == [own]
    assert len(rulebook.catalogue.signatures) == len(shipped())


BODY = rulebooks.compose().body
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"moon": {}}, "rulebook: no such key 'moon'"),
    "another version": ({"version": 2}, r"rulebook\.version: 2 is not read here, 1 is"),
    "detectors as a list": ({"detectors": []}, r"rulebook\.detectors: expected a table"),
    "signatures as a number": ({"signatures": 5}, r"rulebook\.signatures: expected a table"),
    "policy as text": ({"policy": "act"}, r"rulebook\.policy: expected a table"),
    "an unknown detector": ({"detectors": {"Moon": {}}}, r"detectors\.Moon: no such detector; there are .*FlakyTest, "),
    "a detector as a number": ({"detectors": {"StuckJob": 5}}, r"detectors\.StuckJob: expected a table"),
    "an unknown parameter": (
        {"detectors": {"StuckJob": {"mood": 1}}},
        r"detectors\.StuckJob\.mood: no such parameter; there are within, enabled, patience, patience_unknown, factor",
    ),
    "a span that is none": ({"detectors": {"StuckJob": {"patience": "soon"}}}, r"detectors\.StuckJob\.patience: "),
    "text for a number": (
        {"detectors": {"RepeatedFailure": {"threshold": "3"}}},
        r"detectors\.RepeatedFailure\.threshold: expected int, got '3'",
    ),
    "a flag for a number": ({"detectors": {"RepeatedFailure": {"threshold": True}}}, r"threshold: expected int"),
    "an unknown policy": ({"policy": {"mood": 1}}, r"rulebook\.policy: .*`mood`"),
    "an unknown mode": ({"policy": {"mode": "dream"}}, r"rulebook\.policy: .*`\$\.mode`"),
    "a bad signature": ({"signatures": {"a": {"category": "x"}}}, r"rulebook\.signatures\.a: "),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_rulebook_cannot_mean_is_refused_by_key(case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        Rulebook({**BODY, **change})


def test_what_does_not_compile_is_refused_when_it_is_composed() -> None:
    with pytest.raises(ConfigError, match="t: pattern"):
        rulebooks.compose(signatures=(from_mapping("t", "own", {**SIGNATURE, "text": ["("]}),))
    with pytest.raises(ConfigError, match="an artefact of model 'x'"):
        rulebooks.compose(scorer={"model": "x"})


def test_a_rulebook_does_not_change_with_what_it_was_made_of() -> None:
    policy = {"least_score": 0.7}
    rulebook = rulebooks.compose(policy=policy)
    policy["least_score"] = 0.1
    assert rulebook.body["policy"] == {"least_score": 0.7}
    assert Rulebook(rulebook.body).digest == rulebook.digest


def test_what_the_fleet_is_told_has_defaults_and_bounds() -> None:
    assert rulebooks.compose().fleet == FleetRules()
    assert rulebooks.compose(fleet={"least_repositories": 5}).fleet == FleetRules(least_repositories=5)
    for wrong in ({"least": 5}, {"least_repositories": 1}, {"explaining_share": 1.5}, {"window_minutes": "5"}):
        with pytest.raises(ConfigError, match=r"rulebook\.fleet"):
            rulebooks.compose(fleet=wrong)
