"""A policy that cannot be meant is refused where it is wrong, and what was readable once stays so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics import rulebook as rulebooks
from analytics.policy.reading import ImpossiblePolicy, Key
from analytics.policy.rules import Policy
from analytics.rulebook import Rulebook

OK: dict[str, Any] = {"when": {"repository": "acme/*"}, "mode": "act"}
BAD: dict[str, tuple[dict[str, Any], Key, str]] = {
    "an unknown key": ({"mood": 1}, ("mood",), "unknown field `mood`"),
    "an unknown mode": ({"mode": "dream"}, ("mode",), "'dream'"),
    "a share above one": ({"least_score": 1.5}, ("least_score",), "expected 0 to 1, got 1.5"),
    "no number at all": ({"least_score": float("nan")}, ("least_score",), "expected 0 to 1"),
    "a number below nothing": ({"most_attempts": -1}, ("most_attempts",), "expected 0 to 50, got -1"),
    "an endless wait": ({"backoff_seconds": 10**9}, ("backoff_seconds",), "expected 0 to 604800"),
    "rules that are none": ({"rule": 5}, ("rule",), "Expected `array`"),
    "a rule that is none": ({"rule": [OK, "x"]}, ("rule", 1), "Expected `object`"),
    "an empty environment": ({"protected_environments": [""]}, ("protected_environments",), "is empty"),
    "a rule for nothing": ({"rule": [OK, {"mode": "act"}]}, ("rule", 1), "missing required field `when`"),
    "a rule for all": ({"rule": [{"when": {}, "mode": "act"}]}, ("rule", 0, "when"), "names nothing"),
    "a rule of no effect": ({"rule": [{"when": {"job": "x"}}]}, ("rule", 0), "changes nothing"),
    "a pardon": ({"rule": [{"when": {"job": "x"}, "never": False}]}, ("rule", 0), "changes nothing"),
    "more than never": ({"rule": [{**OK, "never": True}]}, ("rule", 0, "never"), "nothing else"),
    "an unknown word of a rule": ({"rule": [{**OK, "moon": 1}]}, ("rule", 0, "moon"), "`moon`"),
    "an unknown condition": ({"rule": [{"when": {"moon": "x"}, "mode": "act"}]}, ("rule", 0, "when", "moon"), "moon"),
    "a mode that is none": ({"rule": [OK, {**OK, "mode": "go"}]}, ("rule", 1, "mode"), "'go'"),
    "a share of a rule": ({"rule": [{**OK, "least_score": 2}]}, ("rule", 0, "least_score"), "expected 0 to 1"),
    "an empty pattern": ({"rule": [{"when": {"job": ""}, "mode": "act"}]}, ("rule", 0, "when", "job"), "is empty"),
    "a blank": ({"rule": [{"when": {"job": ["x", " y"]}, "mode": "act"}]}, ("rule", 0, "when", "job"), "blanks"),
    "no pattern": ({"rule": [{"when": {"job": []}, "mode": "act"}]}, ("rule", 0, "when", "job"), "no pattern"),
    "a signature misspelt": (
        {"rule": [{"when": {"signature": ["dns_failure", "regstry_*"]}, "never": True}]},
        ("rule", 0, "when", "signature"),
        "there is no signature that 'regstry_*' means",
    ),
    "a category misspelt": (
        {"rule": [{"when": {"category": "netwrok"}, "never": True}]},
        ("rule", 0, "when", "category"),
        "there is no category",
    ),
    "no such platform": (
        {"rule": [{"when": {"platform": "travis"}, "never": True}]},
        ("rule", 0, "when", "platform"),
        "there is no platform",
    ),
    "no such action": (
        {"rule": [{"when": {"action": "pray"}, "mode": "act"}]},
        ("rule", 0, "when", "action"),
        "there is no action",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_policy_cannot_mean_is_refused_by_key(case: str) -> None:
    policy, key, what = BAD[case]
    with pytest.raises(ImpossiblePolicy) as refused:
        rulebooks.compose(policy=policy)
    assert refused.value.key == key
    assert what in refused.value.what


def test_rules_may_be_asked_for_by_pattern_and_in_any_case() -> None:
    asked = {"signature": "REGISTRY_*", "category": ["Network", "timeout"], "platform": "git*", "action": "rerun_*"}
    policy = rulebooks.compose(policy={"rule": [{"when": asked, "mode": "act"}]}).policy
    assert policy.rules[0].when.category == ("Network", "timeout")


def test_a_policy_is_part_of_what_the_digest_names() -> None:
    one = rulebooks.compose(policy={"rule": [OK, {**OK, "mode": "observe"}]})
    other = rulebooks.compose(policy={"rule": [{**OK, "mode": "observe"}, OK]})
    assert one.digest != other.digest
    assert Rulebook(msgspec.json.decode(msgspec.json.encode(one.body))).policy == one.policy


@pytest.mark.parametrize(
    "old",
    [{}, {"mode": "act", "await_log_seconds": 10, "most_attempts": 3, "most_failed_jobs": 9, "least_score": 1.5}],
)
def test_a_policy_of_an_earlier_release_is_read_and_means_the_same(old: dict[str, Any]) -> None:
    rulebook = Rulebook({**rulebooks.compose().body, "policy": old})
    assert rulebook.policy == Policy(**old)
    assert (rulebook.policy.rules, rulebook.policy.forks, rulebook.policy.most_native_retries) == ((), "never", 0)
